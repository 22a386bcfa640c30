"""Excel workbooks written so that text stays text. No torch."""

import datetime
import itertools
import math
import re
from collections.abc import Iterable
from pathlib import Path

import xlsxwriter
import xlsxwriter.exceptions
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from stance.common import errors

# ---------------------------------------------------------------- settings
MIN_WIDTH = 10  # characters of a column
MAX_WIDTH = 60  # characters of a column; longer texts run into the next one or are hidden
WIDTH_ROWS = 100  # the first rows, whose longest cell sets the width of a column
# --------------------------------------------------------------------------

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
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # what XML does not hold


def write_xlsx(
    path: str | Path, lines: Iterable[Iterable], shades: dict[str, dict[str, str]]
) -> None:
    """Write a workbook of one sheet from lines of cells, the first of them the header.

    shades: {header: {value: RRGGBB}} colours the cells of columns by their value. The header stays
    in view and filters the rows. Rows go to disk as they come. Raises OSError where the file cannot
    be written.
    """
    options = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
        "use_zip64": True,
    }
    book = xlsxwriter.Workbook(str(path), options)
    try:
        book.set_properties({"created": CREATED})
        formats = {
            kind: book.add_format({"num_format": text}) for kind, text in TIME_FORMATS.items()
        }
        sheet = book.add_worksheet("predictions")
        count, header = fill_sheet(sheet, lines, formats)
        sheet.freeze_panes(1, 0)
        sheet.autofilter(0, 0, max(count - 1, 0), len(header) - 1)
        add_shades(book, sheet, shades, header, count)
    except BaseException:
        discard(book)
        raise
    try:
        book.close()
    except xlsxwriter.exceptions.FileCreateError as problem:
        raise problem.args[0] from None  # the OSError behind it


def fill_sheet(
    sheet: Worksheet, lines: Iterable[Iterable], formats: dict[type, Format]
) -> tuple[int, list]:
    """Set the widths of the columns and write all rows; return (count of rows, cells of the first).

    formats: the format of each type in TIME_FORMATS.
    """
    rows = map(list, lines)
    # Widths have to be known before the first row is written.
    first_rows = list(itertools.islice(rows, WIDTH_ROWS))
    for column, cells in enumerate(zip(*first_rows, strict=True)):
        width = max(len(str(cell)) for cell in cells if cell is not None) + ARROW_WIDTH
        sheet.set_column(column, column, min(max(width, MIN_WIDTH), MAX_WIDTH))
    count = 0
    for row in itertools.chain(first_rows, rows):
        for column, value in enumerate(row):
            write_cell(sheet, count, column, value, formats)
        count += 1
    return count, first_rows[0]


def write_cell(
    sheet: Worksheet, row: int, column: int, value: object, formats: dict[type, Format]
) -> None:
    """Write a value: text stays text, also where it begins with '='; None leaves a gap.

    Characters that XML does not hold are dropped. row, column: from 0.
    """
    if value is None:
        return
    code = 0
    if isinstance(value, bool):
        code = sheet.write_boolean(row, column, value)
    elif isinstance(value, (int, float)) and is_exact(value):
        code = sheet.write_number(row, column, value)
    elif type(value) in formats:
        code = sheet.write_datetime(row, column, value, formats[type(value)])
    else:
        text = FORBIDDEN.sub("", str(value))
        if text:
            code = sheet.write_string(row, column, text)
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
    shades: dict[str, dict[str, str]],
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
    """Close and delete the temporary files of a workbook that is not to be written."""
    for sheet in book.worksheets():
        sheet.row_data_fh.close()
        Path(sheet.row_data_filename).unlink(missing_ok=True)
    book.fileclosed = True  # or it would be written when it is collected as garbage
