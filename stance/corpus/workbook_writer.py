"""Excel workbooks written so that text stays text. No torch."""

import contextlib
import datetime
import itertools
import math
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import xlsxwriter
import xlsxwriter.exceptions
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from stance.common import errors, text_width

# ---------------------------------------------------------------- settings
MIN_WIDTH = 10  # characters of a column
MAX_WIDTH = 60  # characters of a column; longer texts go on in further lines of their cell
WIDTH_ROWS = 100  # the first rows, whose longest cell sets the width of a column
GUIDE_SHEET = "read me"  # name of the sheet that says how to use a table
GUIDE_WIDTH = 100  # characters of its one column
# --------------------------------------------------------------------------

LINE_HEIGHT = 15  # points of a line in a cell
LINE_FILL = 0.95  # share of the width of a cell that a line of words fills
MAX_HEIGHT = 408  # points of a row: Excel's limit
ARROW_WIDTH = 3  # characters that the arrow of a filter takes
EXACT_NUMBERS = 10**15  # Excel keeps 15 digits
# Of every workbook: the same table gives the same bytes each time.
CREATED = datetime.datetime(1980, 1, 1)
TIME_FORMATS = {
    datetime.datetime: "yyyy-mm-dd h:mm:ss",
    datetime.date: "yyyy-mm-dd",
    datetime.time: "h:mm:ss",
    datetime.timedelta: "[h]:mm:ss",
}
SHARE_FORMAT = "0.00"  # of probabilities: what a cell shows, it holds more decimals
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # what XML does not hold


class Look(NamedTuple):
    """How a workbook shows a table."""

    sheet: str = "table"  # name of its one sheet
    shades: Mapping[str, Mapping[str, str]] = {}  # {header: {value: RRGGBB}}: colours of cells
    shares: Collection[str] = ()  # headers of columns of probabilities
    choices: Mapping[str, Collection[str]] = {}  # {header: values}: a list to choose from
    hidden: Collection[str] = ()  # headers of columns that are there, but not shown
    guide: Sequence[str] = ()  # paragraphs on a sheet of its own before the table: how to use it


class CellFormats(NamedTuple):
    """The formats of the cells of one workbook."""

    header: Format
    text: Format  # wrapped
    number: Format
    share: Format
    times: dict[type, Format]  # by the types in TIME_FORMATS


def write_xlsx(path: str | Path, lines: Iterable[Iterable], look: Look) -> None:
    """Write a workbook of one sheet from lines of cells, the first of them the header.

    The header stays in view and on every printed page, and filters the rows; columns of look.shades
    are coloured by their values. Rows go to disk as they come. Raises OSError where the file cannot
    be written.
    """
    options = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
        "use_zip64": True,
    }
    with tempfile.TemporaryDirectory(prefix="xlsx-") as folder:  # gone also if there is no room
        _write_book(path, lines, look, {**options, "tmpdir": folder})


def _write_book(path, lines, look, options):
    """Write the workbook with these options of xlsxwriter."""
    book = xlsxwriter.Workbook(str(path), options)
    try:
        book.set_properties({"created": CREATED})
        if look.guide:
            add_guide(book, look.guide)
        sheet = book.add_worksheet(look.sheet)
        count, header = fill_sheet(sheet, lines, make_formats(book), look.shares)
        last_row = max(count - 1, 0)
        sheet.freeze_panes(1, 0)
        sheet.autofilter(0, 0, last_row, len(header) - 1)
        set_print(sheet, last_row, len(header) - 1)
        add_shades(book, sheet, look.shades, header, count)
        for name, values in look.choices.items():
            column = header.index(name)
            rule = {"validate": "list", "source": list(values)}
            sheet.data_validation(1, column, max(last_row, 1), column, rule)
        for name in look.hidden:
            column = header.index(name)
            sheet.set_column(column, column, None, None, {"hidden": True})
    except BaseException:
        discard(book)
        raise
    try:
        book.close()
    except xlsxwriter.exceptions.FileCreateError as problem:
        discard(book)
        raise problem.args[0] from None  # the OSError behind it


def add_guide(book: xlsxwriter.Workbook, paragraphs: Sequence[str]) -> None:
    """Add the sheet "read me" with paragraphs, which a program shows when it opens the book."""
    sheet = book.add_worksheet(GUIDE_SHEET)
    wrapped = book.add_format({"text_wrap": True, "valign": "top"})
    sheet.set_column(0, 0, GUIDE_WIDTH)
    for row, paragraph in enumerate(paragraphs):
        sheet.set_row(row, measure_height(paragraph, GUIDE_WIDTH))
        sheet.write_string(row, 0, paragraph, wrapped)


def make_formats(book: xlsxwriter.Workbook) -> CellFormats:
    """Return the formats of the cells; all stand at the top, beside the first line of long texts."""
    times = {}
    for kind, text in TIME_FORMATS.items():
        times[kind] = book.add_format({"num_format": text, "valign": "top"})
    return CellFormats(
        header=book.add_format({"bold": True, "text_wrap": True, "valign": "top", "bottom": 1}),
        text=book.add_format({"text_wrap": True, "valign": "top"}),
        number=book.add_format({"valign": "top"}),
        share=book.add_format({"num_format": SHARE_FORMAT, "valign": "top", "align": "center"}),
        times=times,
    )


def set_print(sheet: Worksheet, last_row: int, last_column: int) -> None:
    """Print the table alone, across as wide as a page, with its header on every page."""
    sheet.print_area(0, 0, last_row, last_column)
    sheet.repeat_rows(0)
    sheet.set_landscape()
    sheet.set_paper(9)  # A4
    sheet.fit_to_pages(1, 0)  # as many pages down as it takes
    sheet.set_footer("&L&F, &A&R&P / &N")


def fill_sheet(
    sheet: Worksheet, lines: Iterable[Iterable], formats: CellFormats, shares: Collection[str]
) -> tuple[int, list]:
    """Set the widths of the columns and write all rows; return (count of rows, cells of the first).

    shares: headers of columns of probabilities.
    """
    rows = map(list, lines)
    # Widths have to be known before the first row is written.
    first_rows = list(itertools.islice(rows, WIDTH_ROWS))
    header = first_rows[0]
    widths = []
    for column, cells in enumerate(zip(*first_rows, strict=True)):
        widths.append(choose_width(cells, header[column] in shares))
        sheet.set_column(column, column, widths[column])
    share_formats = formats._replace(number=formats.share)
    formats_of_column = [share_formats if name in shares else formats for name in header]
    for column, name in enumerate(header):
        write_cell(sheet, 0, column, name, formats._replace(text=formats.header))
    count = 1
    for row in itertools.chain(first_rows[1:], rows):
        height = max(map(measure_height, row, widths), default=LINE_HEIGHT)
        if height > LINE_HEIGHT:  # before its cells: what is on disk cannot change
            sheet.set_row(count, height)
        for column, value in enumerate(row):
            write_cell(sheet, count, column, value, formats_of_column[column])
        count += 1
    return count, header


def choose_width(cells: Iterable, is_share: bool) -> int:
    """Return the width in characters of a column: that of its widest line, within limits.

    cells: the header and values; is_share: whether two decimals are shown of the values.
    """
    name, *values = cells
    widest = text_width.measure_width(str(name)) + ARROW_WIDTH
    for value in [] if is_share else values:
        for line in str("" if value is None else value).split("\n"):
            widest = max(widest, text_width.measure_width(line) + 1)
    return min(max(widest, MIN_WIDTH), MAX_WIDTH)


def measure_height(value: object, width: int) -> int:
    """Return the height in points that a value needs in a column so many characters wide.

    Not every program looks for itself how high rows with wrapped texts are.
    """
    if not isinstance(value, str):
        return LINE_HEIGHT
    lines = 0
    for line in value.split("\n"):
        columns = text_width.measure_width(line)
        lines += 1 if columns <= width else math.ceil(columns / (LINE_FILL * width))
    return min(lines * LINE_HEIGHT, MAX_HEIGHT)


def write_cell(
    sheet: Worksheet, row: int, column: int, value: object, formats: CellFormats
) -> None:
    """Write a value: text stays text, also where it begins with '='; None leaves a gap.

    Characters that XML does not hold are dropped. row, column: from 0.
    """
    if value is None:
        return
    code = 0
    if isinstance(value, bool):
        code = sheet.write_boolean(row, column, value, formats.number)
    elif isinstance(value, (int, float)) and is_exact(value):
        code = sheet.write_number(row, column, value, formats.number)
    elif type(value) in formats.times:
        code = sheet.write_datetime(row, column, value, formats.times[type(value)])
    else:
        text = FORBIDDEN.sub("", str(value))
        if text:
            code = sheet.write_string(row, column, text, formats.text)
    # -1: outside of what a sheet holds; -2: longer than a cell. Both were looked for before.
    if code != 0:
        location = f"row {row + 1}, column {column + 1}"
        errors.fail(f"{location} does not fit into a workbook: write .csv instead")


def is_exact(number: int | float) -> bool:
    """Return whether Excel keeps a number.

    An integer of more than 15 digits, such as an id of 19, would be rounded, and there is no
    infinity.
    """
    if isinstance(number, int):
        return abs(number) < EXACT_NUMBERS
    return math.isfinite(number)


def add_shades(
    book: xlsxwriter.Workbook,
    sheet: Worksheet,
    shades: Mapping[str, Mapping[str, str]],
    header: list,
    count: int,
) -> None:
    """Colour the cells of columns by their value; the colours follow labels mended by hand.

    shades: {header: {value: RRGGBB}}; count: rows of the sheet, with its header.
    """
    last_row = max(count, 2) - 1
    for name, shade_of_value in shades.items():
        column = header.index(name)
        for value, shade in shade_of_value.items():
            fill = book.add_format({"bg_color": f"#{shade}"})
            rule = {"type": "cell", "criteria": "==", "value": f'"{value}"', "format": fill}
            sheet.conditional_format(1, column, last_row, column, rule)


def discard(book: xlsxwriter.Workbook) -> None:
    """Close the temporary files of a workbook that is not to be written."""
    for sheet in book.worksheets():
        with contextlib.suppress(OSError):  # the disk is full
            sheet.row_data_fh.close()
    book.fileclosed = True  # or it would be written when it is collected as garbage
