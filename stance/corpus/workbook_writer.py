"""Excel workbooks written so that text stays text. No torch."""

import itertools
import math
import os
import re
import shutil
import zipfile
from pathlib import Path

import openpyxl
from openpyxl.cell import WriteOnlyCell
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.formatting.rule import CellIsRule
from openpyxl.styles import PatternFill
from openpyxl.utils import get_column_letter

# ---------------------------------------------------------------- settings
MIN_WIDTH, MAX_WIDTH = 10, 60  # characters of a column
WIDTH_ROWS = 100  # the first rows, whose longest cell sets the width of a column
# --------------------------------------------------------------------------

EXACT_NUMBERS = 10**15  # Excel keeps 15 digits
TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def write_xlsx(path, lines, shades):
    """Write a workbook of one sheet from lines of cells, the first of them the header; see tables.write_table.

    The header stays in view and filters the rows; shades colour the cells of a column by value.
    """
    book = openpyxl.Workbook(write_only=True)  # writes rows to disk as they come
    sheet = book.create_sheet("predictions")
    sheet.freeze_panes = "A2"
    lines, count = map(list, lines), 0
    try:
        first = list(itertools.islice(lines, WIDTH_ROWS))  # widths have to be known before the first row is written
        header = first[0]
        for place, cells in enumerate(zip(*first, strict=True), start=1):
            width = max(len(str(cell)) for cell in cells if cell is not None) + 3  # room for the filter's arrow
            sheet.column_dimensions[get_column_letter(place)].width = min(max(width, MIN_WIDTH), MAX_WIDTH)
        for count, row in enumerate(itertools.chain(first, lines), start=1):
            sheet.append([make_cell(sheet, value) for value in row])
    except BaseException:
        sheet.close()  # or openpyxl complains about its open file
        raise
    sheet.auto_filter.ref = f"A1:{get_column_letter(len(header))}{count}"
    for column, shade_of_value in shades.items():
        letter = get_column_letter(1 + header.index(column))
        for value, shade in shade_of_value.items():
            fill = PatternFill(fill_type="solid", bgColor=shade)
            rule = CellIsRule(operator="equal", formula=[f'"{value}"'], fill=fill)  # follows labels mended by hand
            sheet.conditional_formatting.add(f"{letter}2:{letter}{max(count, 2)}", rule)
    book.save(path)
    fix_dates(path)


def fix_dates(path):
    """Date a workbook and all its parts 1980, so that the same table gives the same bytes each time."""
    undated = Path(f"{path}.undated")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(undated, "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.infolist():
            fixed = zipfile.ZipInfo(part.filename)  # dated 1980, the first year that zip knows
            fixed.compress_type = zipfile.ZIP_DEFLATED
            with source.open(part) as old, target.open(fixed, "w", force_zip64=part.file_size >= 2**31) as new:
                if part.filename == "docProps/core.xml":
                    new.write(TIME.sub(b"1980-01-01T00:00:00Z", old.read()))
                else:
                    shutil.copyfileobj(old, new)
    os.replace(undated, path)


def make_cell(sheet, value):
    """Return what to append for a value: text stays text, also where it begins with '='; control characters go."""
    if isinstance(value, int) and abs(value) >= EXACT_NUMBERS or isinstance(value, float) and not math.isfinite(value):
        value = str(value)  # Excel would round an id of 19 digits, and knows no infinity
    if not isinstance(value, str):
        return value
    cell = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("", value))
    cell.data_type = "s"  # openpyxl takes '=...' for a formula, '#N/A' for an error
    return cell
