"""Old Excel workbooks (.xls) read: sheets come as lines of cells. No torch.

By xlrd and not by python-calamine, which tells no error values from empty cells, and ends the
process itself where a damaged file of a few KB makes it ask for 29 GB.
"""

import datetime
import io
from collections.abc import Iterator
from pathlib import Path

import xlrd
from openpyxl.utils import get_column_letter
from xlrd.book import Book
from xlrd.sheet import Cell, Sheet

from stance.common import errors, files
from stance.corpus import error_values, workbook_reader

EMPTY_KINDS = (xlrd.XL_CELL_EMPTY, xlrd.XL_CELL_BLANK)
# What xlrd says of a workbook that has a password; it has no error of its own for it.
ENCRYPTED_TEXT = "encrypted"


def open_xls(path: str | Path) -> Iterator[tuple[str, workbook_reader.Lines]]:
    """Yield (location, lines) for each sheet of an old workbook; fail if it cannot be read.

    Lines are (row number, list of cells); rows without any cell are left out.
    """
    content = files.read_file(path)
    if content.startswith(b"PK"):
        hint = "rename it to .xlsx, or to .ods"
        errors.fail(f"{path} is a newer workbook despite its name: {hint}")
    if not content.startswith(workbook_reader.OLD_EXCEL):
        workbook_reader.check_zip(path, content)
    if workbook_reader.ENCRYPTED in content:
        errors.fail(f"{path} has a password: save it in Excel as .xlsx without a password")
    for sheet, merged in files.guard(load_xls_sheets(path, content), path):
        location = workbook_reader.name_location(path, sheet.name)
        lines = files.guard(read_xls_lines(sheet), path)
        if merged:
            lines = workbook_reader.fill_merged(location, lines, merged)
        yield location, lines


def load_xls_sheets(path: str | Path, content: bytes) -> Iterator[tuple[Sheet, list[str]]]:
    """Yield (sheet, merged ranges, such as A2:A5) of all sheets of an old workbook's bytes."""
    try:
        # Merged cells are told with the formats alone. Rows are as long as they are filled: else a
        # stray cell in the last row and column would cost millions.
        book = xlrd.open_workbook(
            file_contents=content, formatting_info=True, ragged_rows=True, logfile=io.StringIO()
        )
    except xlrd.XLRDError as problem:
        if ENCRYPTED_TEXT not in str(problem):
            raise
        errors.fail(f"{path} has a password: save it in Excel as .xlsx without a password")
    except UnicodeDecodeError as problem:  # of a text file, it would mean something else
        raise ValueError(str(problem)) from None
    for sheet in book.sheets():
        yield sheet, [name_range(*corners) for corners in sheet.merged_cells]


def read_xls_lines(sheet: Sheet) -> workbook_reader.Lines:
    """Yield (row number, list of cells) of a sheet."""
    for index in range(sheet.nrows):
        cells = [convert_cell(sheet.book, cell) for cell in sheet.row(index)]
        while cells and cells[-1] is None:
            cells.pop()
        if cells:
            yield index + 1, cells


def convert_cell(book: Book, cell: Cell) -> object:
    """Return what a cell holds: text, number, truth value, date, time, error value or None."""
    if cell.ctype in EMPTY_KINDS:
        return None
    if cell.ctype == xlrd.XL_CELL_ERROR:
        return error_values.ErrorValue(xlrd.error_text_from_code.get(cell.value, "#ERROR!"))
    if cell.ctype == xlrd.XL_CELL_BOOLEAN:
        return bool(cell.value)
    if cell.ctype == xlrd.XL_CELL_DATE:
        return read_serial_date(cell.value, book.datemode)
    if cell.ctype == xlrd.XL_CELL_NUMBER and cell.value.is_integer():
        return int(cell.value)
    return cell.value


def read_serial_date(days: float, datemode: int) -> datetime.datetime | datetime.time | float:
    """Return the date or time that a number of days means; the number if it means none.

    datemode: of the workbook, which day is the first.
    """
    if days < 0:
        return days
    try:
        date = xlrd.xldate.xldate_as_datetime(days, datemode)
    except OverflowError:  # beyond the year 9999
        return days
    return date.time() if days < 1 else date


def name_range(first_row: int, end_row: int, first_column: int, end_column: int) -> str:
    """Return a range of cells as Excel writes it, A2:A5. Indices from 0, the ends beyond it."""
    start = f"{get_column_letter(first_column + 1)}{first_row + 1}"
    return f"{start}:{get_column_letter(end_column)}{end_row}"
