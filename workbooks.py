"""Excel workbooks written so that text stays text. No torch."""

import openpyxl
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE


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
