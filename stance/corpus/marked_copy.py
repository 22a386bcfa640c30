"""What prepare_data.py --check shows: all findings in a corpus, and a copy with them marked."""

import contextlib
import copy
import io
import os
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import openpyxl
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE, Cell
from openpyxl.styles import Alignment, Font, PatternFill
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.dimensions import ColumnDimension
from openpyxl.worksheet.properties import PageSetupProperties
from openpyxl.worksheet.worksheet import Worksheet
from openpyxl.writer.excel import ExcelWriter

from stance.common import errors, files, formatting, text_width
from stance.corpus import (
    annotations,
    cleaning,
    duplicates,
    tables,
    workbook_reader,
    workbook_writer,
)

# ---------------------------------------------------------------- settings
SERIOUS_COLOUR = "FF9999"  # RGB of cells that cannot be used
DOUBTFUL_COLOUR = "FFF2B3"  # RGB of cells that a person should look at
HINT_HEADER = "hint"  # of the column that the copy has more
HINT_WIDTH = 80  # characters
MAX_TEXT_WIDTH = 60  # characters of other columns; longer texts go on in further lines
SHEET_NAME = "checked corpus"  # of a copy of a file that is no workbook
# --------------------------------------------------------------------------

TOP = Alignment(vertical="top")  # beside the first line of long texts
CHECKED = re.compile(r"\.checked(-\d+)?$")  # of the name of a copy that is itself checked


def find_clashes(decided: duplicates.Decided, serious: bool) -> list[annotations.Finding]:
    """Return Findings about sentences that occur twice, and about ties of annotators.

    serious: whether conflicts are, whose rows are left out else.
    """
    findings = []
    for entry in decided.duplicates:
        what = f"topic and text repeat those of row {entry['kept']}, with the same stance"
        hint = "nothing need be done, they count once"
        for row in entry["merged"]:
            findings.append(annotations.Finding(row, "text", what, hint, serious=False))
    for entry in decided.conflicts:
        stances = [f"row {row['row']} {formatting.quote(row['stance'])}" for row in entry["rows"]]
        what = f"stances of one topic and text differ ({', '.join(stances)})"
        hint = "decide on one stance, as all of them are left out"
        for row in entry["rows"]:
            findings.append(annotations.Finding(row["row"], "stance", what, hint, serious))
    for tie in decided.votes.ties if decided.votes is not None else ():
        stances = ", ".join(formatting.quote(vote["stance"]) for vote in tie["votes"])
        what = f"annotators give a text no majority ({stances})"
        hint = "nothing need be done, it is left out; or have one more person annotate it"
        for row in dict.fromkeys(vote["row"] for vote in tie["votes"]):
            findings.append(annotations.Finding(row, "text", what, hint, serious=False))
    return findings


def format_findings(findings: list[annotations.Finding]) -> str:
    """Return the lines that name all findings with all their rows, the serious ones first."""
    lines = []
    for serious, kind in ((True, "problem"), (False, "note")):
        chosen = [finding for finding in findings if finding.serious == serious]
        for hint, rows_of_what in annotations.group_findings(chosen).items():
            for what, rows in rows_of_what.items():
                lines.append(f"{kind}: {what} in {format_rows(rows)}: {hint}")
    return "\n".join(lines)


def format_rows(numbers: list[int]) -> str:
    """Return all row numbers as text, neighbours as a range: rows 3, 6-9."""
    spans = []  # [first row, last row]
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in spans]
    noun = "rows" if len(numbers) > 1 else "row"
    return f"{noun} {', '.join(parts)}"


def write_checked(
    path: str | Path, table: tables.Table, findings: list[annotations.Finding]
) -> Path:
    """Write a copy (name_copy) of the corpus, its bad cells coloured and their hints added.

    path, table: of the corpus, as annotations.scan_corpus read it. Returns the path of the copy.
    """
    target = name_copy(Path(path))
    offset = 0  # rows by which the table lies lower in the copy
    book = load_whole_workbook(path) if Path(path).suffix.lower() == ".xlsx" else None
    is_workbook = book is not None
    if is_workbook:
        sheets = {
            workbook_reader.name_location(path, sheet.title): sheet for sheet in book.worksheets
        }
        sheet = sheets[table.location]
    else:
        book = openpyxl.Workbook()
        sheet = book.active
        sheet.title = SHEET_NAME
        if table.header_row == 0:  # its first row or object is row 1
            offset = 1
            for column, name in enumerate(table.header, start=1):
                sheet.cell(1, column, name).data_type = "s"
        copy_sheet(sheet, path, table, offset)
    fit_columns(sheet, [index + 1 for index in table.columns.values()])
    mark_cells(sheet, table, findings, offset)
    if not is_workbook:
        format_header(sheet, max(table.header_row, 1))
    try:
        with errors.explain_full_disk(target):
            content = io.BytesIO()
            # As book.save does, which leaves the archive open where a temporary file has no room.
            with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
                ExcelWriter(book, archive).save()
            files.write_bytes(target, [content.getvalue()])
    except OSError as problem:
        hint = "close it in Excel, or copy the corpus elsewhere"
        errors.fail(f"cannot write {target} ({problem.strerror}): {hint}")
    return target


def name_copy(path: Path) -> Path:
    """Return where the marked copy of a corpus goes: <name>.checked.xlsx beside it.

    A copy that is there stays, as somebody may have worked in it: the next is .checked-2.xlsx.
    """
    stem = CHECKED.sub("", path.stem)
    copy = path.with_name(f"{stem}.checked.xlsx")
    number = 1
    while os.path.lexists(copy):
        number += 1
        copy = path.with_name(f"{stem}.checked-{number}.xlsx")
    return copy


def load_whole_workbook(path: str | Path) -> openpyxl.Workbook | None:
    """Return a workbook with all that it holds beside the cells; None, with a note, if it is
    damaged."""
    try:
        return openpyxl.load_workbook(path, rich_text=True)
    except Exception:  # openpyxl has no error of its own, and any kind of damage is the same
        parts = "drawings, comments, tables or styles"
        print(f"note: {path}: some {parts} are damaged: the marked copy has the texts alone")
        return None


def copy_sheet(sheet: Worksheet, path: str | Path, table: tables.Table, offset: int) -> None:
    """Write the cells of one table of a file into a sheet, offset rows lower, as text."""
    with contextlib.redirect_stdout(None):  # notes on the file were printed when it was read first
        lines = dict(tables.open_sheets(path, table.how))[table.location]
    for number, cells in lines:
        for column, value in enumerate(cells, start=1):
            if value is not None:
                text = ILLEGAL_CHARACTERS_RE.sub("", cleaning.HALF_CHARACTER.sub("", str(value)))
                cell = sheet.cell(number + offset, column, text)
                cell.data_type = "s"  # openpyxl takes '=...' for a formula
                cell.alignment = TOP


def format_header(sheet: Worksheet, row: int) -> None:
    """Make a header bold, keep it in view and on every printed page, and filter the rows by it."""
    for cell in sheet[row]:
        cell.font = Font(bold=True)
    sheet.freeze_panes = sheet.cell(row + 1, 1)
    sheet.auto_filter.ref = f"A{row}:{get_column_letter(sheet.max_column)}{sheet.max_row}"
    sheet.print_title_rows = f"{row}:{row}"
    sheet.page_setup.orientation = "landscape"
    sheet.page_setup.fitToHeight = 0  # as many pages down as it takes
    sheet.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)


def fit_columns(sheet: Worksheet, columns: Iterable[int]) -> None:
    """Make columns, from 1, wide enough for their texts, or wrap these; wider ones stay."""
    widths = dict.fromkeys(columns, 0)
    for (_, column), cell in sheet._cells.items():
        if column not in widths or cell.value is None:
            continue
        alignment = copy.copy(cell.alignment)
        alignment.vertical = alignment.vertical or "top"
        lines = str(cell.value).split("\n")
        width = max(map(text_width.measure_width, lines)) + 2
        widths[column] = max(widths[column], width)
        if width > MAX_TEXT_WIDTH or len(lines) > 1:
            alignment.wrap_text = True
            fit_row(sheet, cell, MAX_TEXT_WIDTH)
        cell.alignment = alignment
    for column, width in widths.items():
        widen_column(sheet, column, min(width, MAX_TEXT_WIDTH))


def fit_row(sheet: Worksheet, cell: Cell, width: int) -> None:
    """Make the row of a wrapped cell, in a column so many characters wide, high enough for it."""
    dimension = sheet.row_dimensions[cell.row]
    height = workbook_writer.measure_height(str(cell.value), width)
    dimension.height = max(dimension.height or 0, height)


def widen_column(sheet: Worksheet, column: int, width: int) -> None:
    """Make one column, from 1, at least so many characters wide.

    openpyxl keeps neighbours of one look as one entry, with the first one's letter. Such a run is
    split, as Excel repairs a workbook that describes a column twice.
    """
    for run in list(sheet.column_dimensions.values()):
        run.reindex()
        if run.min == run.max or not run.min <= column <= run.max:
            continue
        del sheet.column_dimensions[run.index]
        pieces = ((run.min, column - 1), (column, column), (column + 1, run.max))
        for first, last in pieces:
            if first <= last:
                letter = get_column_letter(first)
                piece = ColumnDimension(
                    sheet, letter, run.width, hidden=run.hidden, min=first, max=last
                )
                piece._style = copy.copy(run._style)
                sheet.column_dimensions[letter] = piece
    dimension = sheet.column_dimensions[get_column_letter(column)]
    dimension.width = max(dimension.width, width)


def mark_cells(
    sheet: Worksheet, table: tables.Table, findings: Iterable[annotations.Finding], offset: int
) -> None:
    """Colour the cells of the findings and write each row's hints into the first free column.

    offset: rows by which the table lies lower in the sheet than in its file.
    """
    # Columns of openpyxl count from 1, those of a table from 0. Not max_column + 1: a stray or a
    # coloured cell in the last column would leave no room.
    taken = {column for (_, column), cell in sheet._cells.items() if cell.value is not None}
    free = max(table.columns.values()) + 2
    while free in taken:
        free += 1
    sheet.cell(max(table.header_row, 1), free, HINT_HEADER).font = Font(bold=True)
    widen_column(sheet, free, HINT_WIDTH)
    hints = {}  # of each row; the doubtful ones first
    # Of several findings in a cell, the colour of a serious one comes last and stays.
    for finding in sorted(findings, key=lambda finding: finding.serious):
        colour = SERIOUS_COLOUR if finding.serious else DOUBTFUL_COLOUR
        cell = sheet.cell(finding.row + offset, table.columns[finding.column] + 1)
        cell.fill = PatternFill("solid", start_color=colour)
        hints.setdefault(finding.row, []).append(f"{finding.what}: {finding.hint}")
    for row, row_hints in hints.items():
        different = dict.fromkeys(reversed(row_hints))
        cell = sheet.cell(row + offset, free, "; ".join(different))
        cell.alignment = Alignment(wrap_text=True, vertical="top")
        fit_row(sheet, cell, HINT_WIDTH)
