"""What prepare_data.py --check shows: all findings in a corpus, and a copy of it with the cells and hints marked."""

from pathlib import Path

import openpyxl
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Alignment, PatternFill

from stance.common import errors, formatting
from stance.corpus import annotations, cleaning, tables, workbook_reader

# ---------------------------------------------------------------- settings
SERIOUS_COLOUR, DOUBTFUL_COLOUR = "FF9999", "FFF2B3"  # RGB of marked cells
HINT_HEADER = "hint"  # of the column that the copy has more
HINT_WIDTH = 80  # characters
# --------------------------------------------------------------------------


def find_clashes(duplicates, conflicts):
    """Return Findings about sentences that occur twice, from what annotations.merge_duplicates returns."""
    findings = []
    for entry in duplicates:
        for row in entry["merged"]:
            what = f"topic and text repeat those of row {entry['kept']}, with the same stance"
            findings.append(
                annotations.Finding(
                    row, "text", what, "nothing need be done, they count once", False
                )
            )
    for entry in conflicts:
        stances = ", ".join(
            f"row {row['row']} {formatting.quote(row['stance'])}" for row in entry["rows"]
        )
        what = f"stances of one topic and text differ ({stances})"
        hint = "decide on one stance, as all of them are left out"
        findings += [annotations.Finding(row["row"], "stance", what, hint) for row in entry["rows"]]
    return findings


def format_findings(findings):
    """Return the lines that name all findings with all their rows, the serious ones first."""
    lines = []
    for serious, kind in ((True, "problem"), (False, "note")):
        chosen = [finding for finding in findings if finding.serious == serious]
        for hint, whats in annotations.group_findings(chosen).items():
            lines += [
                f"{kind}: {what} in {format_rows(numbers)}: {hint}"
                for what, numbers in whats.items()
            ]
    return "\n".join(lines)


def format_rows(numbers):
    """Return all row numbers as text, neighbours as a range: rows 3, 6-9."""
    spans = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"{'rows' if len(numbers) > 1 else 'row'} {text}"


def write_checked(path, table, findings):
    """Write <name>.checked.xlsx beside the corpus, with its bad cells coloured and their hints; return its path."""
    copy = Path(path).with_name(Path(path).stem + ".checked.xlsx")
    if Path(path).suffix.lower() == ".xlsx":
        book = openpyxl.load_workbook(path, rich_text=True)
        [sheet] = [
            sheet
            for sheet in book.worksheets
            if workbook_reader.name_location(path, sheet.title) == table.location
        ]
        offset = 0
    else:
        book = openpyxl.Workbook()
        sheet = book.active
        offset = 1 - min(
            table.header_row, 1
        )  # the header of a .jsonl file has row number 0, its first object 1
        copy_sheet(sheet, path, offset)
    mark_cells(sheet, table, findings, offset)
    try:
        book.save(copy)
    except OSError as problem:
        errors.fail(
            f"cannot write {copy} ({problem.strerror}): close it in Excel, or copy the corpus elsewhere"
        )
    return copy


def copy_sheet(sheet, path, offset):
    """Write the table of a .csv, .tsv or .jsonl file into a sheet, all of it as text."""
    table = tables.open_table(path, {})
    for number, cells in [(table.header_row, table.header), *table.rows]:
        for column, value in enumerate(cells, start=1):
            if value is not None:
                text = ILLEGAL_CHARACTERS_RE.sub("", cleaning.HALF_CHARACTER.sub("", str(value)))
                cell = sheet.cell(number + offset, column, text)
                cell.data_type = "s"  # openpyxl takes '=...' for a formula


def mark_cells(sheet, table, findings, offset):
    """Colour the cells of the findings and write the hints of each row into the first column that is free."""
    # Not max_column + 1: a stray cell in the last column would leave no room.
    taken, width = {column for _, column in sheet._cells}, max(table.columns.values()) + 1
    free = next(
        column for column in range(width + 1, width + len(taken) + 2) if column not in taken
    )
    sheet.cell(max(table.header_row, 1), free, HINT_HEADER)
    sheet.column_dimensions[openpyxl.utils.get_column_letter(free)].width = HINT_WIDTH
    hints = {}
    for finding in sorted(
        findings, key=lambda finding: finding.serious
    ):  # the serious colour comes last and stays
        colour = SERIOUS_COLOUR if finding.serious else DOUBTFUL_COLOUR
        cell = sheet.cell(finding.row + offset, table.columns[finding.column] + 1)
        cell.fill = PatternFill("solid", start_color=colour)
        hints.setdefault(finding.row, []).append(f"{finding.what}: {finding.hint}")
    for row, parts in hints.items():
        cell = sheet.cell(row + offset, free, "; ".join(dict.fromkeys(reversed(parts))))
        cell.alignment = Alignment(wrap_text=True, vertical="top")
