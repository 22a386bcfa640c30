"""Excel workbooks written so that text stays text. No torch."""

import datetime
import itertools
import math
import re
from pathlib import Path

import xlsxwriter
import xlsxwriter.exceptions

from stance.common import errors

# ---------------------------------------------------------------- settings
MIN_WIDTH, MAX_WIDTH = 10, 60  # characters of a column
WIDTH_ROWS = 100  # the first rows, whose longest cell sets the width of a column
# --------------------------------------------------------------------------

EXACT_NUMBERS = 10**15  # Excel keeps 15 digits
CREATED = datetime.datetime(
    1980, 1, 1
)  # of every workbook: the same table gives the same bytes each time
TIME_FORMATS = {
    datetime.datetime: "yyyy-mm-dd h:mm:ss",
    datetime.date: "yyyy-mm-dd",
    datetime.time: "h:mm:ss",
    datetime.timedelta: "[h]:mm:ss",
}
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]"
)  # characters that XML does not hold


def write_xlsx(path, lines, shades):
    """Write a workbook of one sheet from lines of cells, the first of them the header; see tables.write_table.

    The header stays in view and filters the rows; shades colour the cells of a column by value. Raises OSError where the
    file cannot be written. Rows go to disk as they come.
    """
    options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    book = xlsxwriter.Workbook(
        str(path), {**options, "strings_to_numbers": False, "use_zip64": True}
    )
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


def fill_sheet(sheet, lines, formats):
    """Set the widths of the columns and write all rows; return (number of rows, cells of the first).

    formats: the format of each type in TIME_FORMATS.
    """
    lines = map(list, lines)
    first = list(
        itertools.islice(lines, WIDTH_ROWS)
    )  # widths have to be known before the first row is written
    header = first[0]
    for column, cells in enumerate(zip(*first, strict=True)):
        width = (
            max(len(str(cell)) for cell in cells if cell is not None) + 3
        )  # room for the filter's arrow
        sheet.set_column(column, column, min(max(width, MIN_WIDTH), MAX_WIDTH))
    count = 0
    for row in itertools.chain(first, lines):
        for column, value in enumerate(row):
            write_cell(sheet, count, column, value, formats)
        count += 1
    return count, header


def write_cell(sheet, row, column, value, formats):
    """Write a value: text stays text, also where it begins with '='; control characters go; None leaves a gap."""
    if value is None:
        return
    if isinstance(value, bool):
        code = sheet.write_boolean(row, column, value)
    elif isinstance(value, (int, float)) and is_exact(value):
        code = sheet.write_number(row, column, value)
    elif type(value) in formats:
        code = sheet.write_datetime(row, column, value, formats[type(value)])
    else:
        text = FORBIDDEN.sub("", str(value))
        code = sheet.write_string(row, column, text) if text else 0
    if (
        code != 0
    ):  # -1: outside of what a sheet holds; -2: longer than a cell. Both were looked for before.
        errors.fail(
            f"row {row + 1}, column {column + 1} does not fit into a workbook: write .csv instead"
        )


def is_exact(number):
    """Return whether Excel keeps a number: an id of 19 digits would be rounded, and there is no infinity."""
    return abs(number) < EXACT_NUMBERS if isinstance(number, int) else math.isfinite(number)


def add_shades(book, sheet, shades, header, count):
    """Colour the cells of columns by their value; the colours follow labels that are mended by hand."""
    for name, shade_of_value in shades.items():
        column = header.index(name)
        for value, shade in shade_of_value.items():
            fill = book.add_format({"bg_color": f"#{shade}"})
            rule = {"type": "cell", "criteria": "==", "value": f'"{value}"', "format": fill}
            sheet.conditional_format(1, column, max(count, 2) - 1, column, rule)


def discard(book):
    """Close and delete the temporary files of a workbook that is not to be written."""
    for sheet in book.worksheets():
        sheet.row_data_fh.close()
        Path(sheet.row_data_filename).unlink(missing_ok=True)
    book.fileclosed = True  # or it would be written when it is collected as garbage
