"""The annotated corpus: files to rows, what is wrong in them, duplicates. No torch.

A row is a dict(topic, text, label, stance, row): cleaned texts, one of prompts.LABELS, the stance as the annotator
spelled it, and the row number that Excel shows. A user's mistake in a file ends in one line through errors.fail.
"""

from typing import NamedTuple

import prompts
from stance.common import errors, formatting
from stance.corpus import cleaning, tables, workbook_reader

# ---------------------------------------------------------------- settings
COLUMN_NAMES = {  # headers accepted for each column; compared after strip and casefold
    "topic": ("topic", "claim", "hypothesis", "target"),
    "text": ("text", "sentence", "comment"),
    "stance": ("stance", "label", "gold"),
}
# --------------------------------------------------------------------------

BROKEN = {
    "",
    "#N/A",
    "#REF!",
    "#VALUE!",
    "#DIV/0!",
    "#NAME?",
    "#NUM!",
    "#NULL!",
}  # empty, and Excel's error values
RENAME = "name those of the file: --columns of prepare_data.py, or COLUMN_NAMES in stance/corpus/annotations.py"
CHECK_TYPE = "check it and type it into a cell of the format Text"


class Finding(NamedTuple):
    """Something wrong or doubtful in a cell."""

    row: int  # as Excel shows it
    column: str  # topic, text or stance
    what: str
    hint: str
    serious: bool = True  # the row cannot be used as it is


def read_corpus(path, sheet=None, headers=None, strict=False):
    """Read an annotated .xlsx, .csv, .tsv or .jsonl file into a list of rows; stop with all its defects in one line.

    Texts are cleaned; rows without topic, text and stance are skipped; other columns are ignored. See scan_corpus.
    """
    table, rows, findings = scan_corpus(path, sheet, headers, strict)
    check_rows(table.location, rows, findings)
    tables.note_unused(table)
    return rows


def scan_corpus(path, sheet=None, headers=None, strict=False):
    """Read an annotated file; return (its table, the usable rows, a list of Findings about the others and these).

    headers: those of topic, text and stance (None: any of COLUMN_NAMES). strict: doubtful cells cannot be used either.
    """
    given = zip(COLUMN_NAMES, headers, strict=True) if headers else ()
    needed = {name: (cleaning.clean_text(header),) for name, header in given} or COLUMN_NAMES
    table = tables.open_table(path, needed, sheet, "name one with --sheet", RENAME)
    rows, findings = [], []
    for number, cells in table.rows:
        cells = [cells[index] for index in table.columns.values()]
        topic, text, stance = values = [cleaning.clean_text(cell) for cell in cells]
        label = prompts.parse_stance(stance)
        if label and topic not in BROKEN and text not in BROKEN:
            rows.append(
                {"topic": topic, "text": text, "label": label, "stance": stance, "row": number}
            )
        elif any(values) or any(cell is workbook_reader.UNSTORED for cell in cells):
            findings += [
                Finding(number, *fault)
                for fault in map(find_fault, COLUMN_NAMES, cells, values)
                if fault
            ]
        for name, cell in zip(COLUMN_NAMES, cells):
            if not isinstance(cell, str) and cell is not None:
                what = f"{name} is a number, date or truth value, read as text"
                findings.append(Finding(number, name, what, CHECK_TYPE, strict))
            elif cell is not None and workbook_reader.is_full(cell):
                what = f"{name} has {len(cell):,} characters, all that an Excel cell holds, and is probably cut"
                findings.append(Finding(number, name, what, "compare it with its source", strict))
    unusable = {finding.row for finding in findings if finding.serious}
    rows = [row for row in rows if row["row"] not in unusable]
    return table, rows, findings


def find_fault(name, cell, value):
    """Return (column, what, hint) if a cell cannot be used, else None. value: its cleaned text."""
    if cell is workbook_reader.UNSTORED:
        return (
            name,
            f"{name} is a formula without a stored value",
            "open the file in Excel and save it",
        )
    if not value:
        return name, f"{name} is empty", "fill it or delete the row"
    if value in BROKEN:
        return name, f"{name} is {value}", "mend its formula or write the value"
    if name == "stance" and prompts.parse_stance(value) is None:
        hint = f"write {', '.join(prompts.LABELS)}, or add the spelling to STANCE_SPELLINGS in prompts.py"
        return name, f"unknown stance {formatting.quote(value)}", hint
    return None


def group_findings(findings):
    """Return {hint: {what: row numbers}}."""
    groups = {}
    for finding in findings:
        groups.setdefault(finding.hint, {}).setdefault(finding.what, []).append(finding.row)
    return groups


def check_rows(location, rows, findings):
    """Stop in one line if a file has cells that cannot be used, or no rows; print a note on doubtful ones."""
    parts, notes = [], []
    for serious, lines in ((True, parts), (False, notes)):
        for hint, whats in group_findings(
            finding for finding in findings if finding.serious == serious
        ).items():
            found = [
                f"{what} in {formatting.count_rows(numbers)}" for what, numbers in whats.items()
            ]
            lines.append(f"{formatting.list_first(found)}: {hint}")
    if not rows and not parts:
        parts.append("no rows below the header: fill in the table")
    if parts:
        errors.fail(f"{location}: {'; '.join(parts)}")
    if notes:
        print(f"note: {location}: {'; '.join(notes)}")


def merge_duplicates(rows):
    """Return (rows, duplicates, conflicts), where rows hold each pair of topic and sentence once.

    Equal pairs with one label shrink to the first in the file: duplicates, a list of {kept, merged} row numbers.
    Equal pairs with several labels are left out: conflicts, a list of {topic, text, rows: [{row, stance}]}.
    """
    groups, kept, duplicates, conflicts = {}, [], [], []
    for row in sorted(rows, key=lambda row: row["row"]):
        groups.setdefault(
            (cleaning.normalise_key(row["topic"]), cleaning.normalise_key(row["text"])), []
        ).append(row)
    for group in groups.values():
        first = group[0]
        if len(group) == 1:
            kept.append(first)
        elif len({row["label"] for row in group}) > 1:
            spellings = [{"row": row["row"], "stance": row["stance"]} for row in group]
            conflicts.append({"topic": first["topic"], "text": first["text"], "rows": spellings})
        else:
            kept.append(first)
            duplicates.append({"kept": first["row"], "merged": [row["row"] for row in group[1:]]})
    return kept, duplicates, conflicts
