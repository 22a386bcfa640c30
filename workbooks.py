"""Excel workbooks: their sheets read as lines of cells, and tables written so that text stays text. No torch."""

import io
import warnings

import openpyxl
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

import records

OLD_EXCEL = bytes.fromhex("d0cf11e0")  # first bytes of .xls files and of password-protected .xlsx files


def open_xlsx(path):
    """Yield (place, lines) for each sheet of a workbook; stop if it cannot be read."""
    content = records.read_file(path)
    if not content.startswith(b"PK"):  # every .xlsx is a zip archive
        kind = "an old .xls file or has a password" if content.startswith(OLD_EXCEL) else "no workbook despite its name"
        records.stop(f"{path} is {kind}: save it in Excel as .xlsx without a password")
    warnings.filterwarnings("ignore", category=UserWarning, module="openpyxl")  # about styles and menus, not about data
    for sheet in records.guard(load_sheets(content), path):
        yield f"{path}, sheet {records.quote(sheet.title)}", records.guard(enumerate(sheet.iter_rows(values_only=True), start=1), path)


def load_sheets(content):
    """Yield the sheets of a workbook's bytes, with the stored values of formulas."""
    for sheet in openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True).worksheets:
        sheet.reset_dimensions()  # the size stored in a file is only the claim of the program that wrote it
        yield sheet


def write_xlsx(path, header, rows):
    """Write a workbook of one sheet; text stays text, also where it begins with '=', and control characters go."""
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("predictions")
    sheet.freeze_panes = "A2"
    for row in [header, *rows]:
        cells = []
        for value in row:
            text = isinstance(value, str)
            cell = openpyxl.cell.WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("", value) if text else value)
            cell.data_type = "s" if text else cell.data_type  # openpyxl takes '=...' for a formula
            cells.append(cell)
        sheet.append(cells)
    book.save(path)
