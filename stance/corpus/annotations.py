"""The annotated corpus: files to rows, what is wrong in them, duplicates. No torch.

A row is an AnnotatedRow of stance/common/types.py. A user's mistake in a file ends in one line
through errors.fail.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import prompts
from stance.common import errors, formatting
from stance.common.types import AnnotatedRow
from stance.corpus import cleaning, error_values, labels, reading, tables, workbook_reader

# ---------------------------------------------------------------- settings
COLUMN_NAMES = {  # headers accepted for each column; compared after strip and casefold
    "topic": ("topic", "claim", "hypothesis", "target"),
    "text": ("text", "sentence", "comment"),
    "stance": ("stance", "label", "gold"),
}
# --------------------------------------------------------------------------

# Verdicts that Prodigy writes beside each example, in the column "answer".
PRODIGY_COLUMN = "answer"
PRODIGY_VERDICTS = {"accept": True, "reject": False, "ignore": False}  # verdict: is it used
RENAME = (
    "name those of the file: --columns of prepare_data.py, "
    "or COLUMN_NAMES in stance/corpus/annotations.py"
)
# Stands for the hint that proposes --labels words, which need all unknown stances of a file.
UNKNOWN_STANCE = "name it with --labels"
NO_ACTION = "nothing need be done"
CHECK_TYPE = "check it and type it into a cell of the format Text"


class Finding(NamedTuple):
    """Something wrong or doubtful in a cell."""

    row: int  # as Excel shows it
    column: str  # topic, text or stance
    what: str
    hint: str
    serious: bool = True  # the row cannot be used as it is


class Scan(NamedTuple):
    """What an annotated file holds."""

    table: tables.Table  # where it was read from; its rows are used up
    rows: list[AnnotatedRow]  # the usable ones, in the order of the file
    findings: list[Finding]  # about all rows
    repairs: Counter  # cells in which characters or entities were repaired, by the kind of repair


class MergedRows(NamedTuple):
    """Rows that hold each pair of topic and sentence once, and which others there were."""

    rows: list[AnnotatedRow]
    duplicates: list[dict]  # {kept, merged}: a row number, and those of its repetitions
    conflicts: list[dict]  # {topic, text, rows: [{row, stance}]}: pairs of several labels


def read_corpus(
    path: str | Path,
    how: reading.Reading = reading.Reading(),
    headers: Sequence[str] | None = None,
    strict: bool = False,
) -> list[AnnotatedRow]:
    """Read an annotated .xlsx, .csv, .tsv or .jsonl file; fail with all its defects in one line.

    Texts are cleaned; rows without topic, text and stance are skipped; other columns are ignored.
    The parameters are those of scan_corpus.
    """
    scan = scan_corpus(path, how, headers, strict)
    check_rows(scan.table.location, scan.rows, scan.findings)
    note_repairs(scan.table.location, scan.repairs)
    tables.note_unused(scan.table)
    return scan.rows


def scan_corpus(
    path: str | Path,
    how: reading.Reading = reading.Reading(),
    headers: Sequence[str] | None = None,
    strict: bool = False,
    repairs: cleaning.Cleaning = cleaning.ALL_REPAIRS,
    stances: labels.Stances = labels.BUILT_IN,
) -> Scan:
    """Read an annotated file with everything that is wrong or doubtful in it.

    how: what the user says about the file. headers: those of topic, text and stance (None: any of
    COLUMN_NAMES). strict: rows with doubtful cells cannot be used either.
    repairs: what is repaired in topics and texts. stances: what stances mean.
    """
    needed = COLUMN_NAMES
    if headers:
        accepted = [(cleaning.clean_text(header),) for header in headers]
        needed = dict(zip(COLUMN_NAMES, accepted, strict=True))
    table = tables.open_table(path, needed, how, "name one with --sheet", RENAME)
    indices = [table.columns[name] for name in COLUMN_NAMES]
    verdicts = find_verdicts(path, table)
    rows = []
    findings = []
    repaired = Counter()
    unknown = {}  # stances, in the order of the file
    for number, line in table.rows:
        cells = [line[index] for index in indices]
        if verdicts is not None and verdicts.leaves_out(number, line):
            continue
        topic = cleaning.clean_text(cells[0], repairs)
        text = cleaning.clean_text(cells[1], repairs)
        stance = cleaning.clean_text(cells[2])
        label = stances.find_label(stance)
        if label == labels.DROP:
            what = f"left out, as --labels drops {formatting.quote(stance)}"
            findings.append(Finding(number, "stance", what, NO_ACTION, serious=False))
            continue
        if label and holds_text(topic, cells[0]) and holds_text(text, cells[1]):
            rows.append(
                {"topic": topic, "text": text, "label": label, "stance": stance, "row": number}
            )
        elif topic or text or stance or any(cell is workbook_reader.UNSTORED for cell in cells):
            findings += find_faults(number, cells, stances)
            if stance and label is None:
                unknown[stance] = None
        doubted = cells[:2] if stances.named else cells  # numbers may be named as stances
        findings += find_doubts(number, doubted, strict)
        if "\n" in text:
            findings += find_glued_rows(number, line, table, stances)
        for cell in cells[:2]:
            repaired.update(cleaning.list_repairs(cell, repairs))
    if verdicts is not None:
        findings += verdicts.list_findings()
    if unknown:
        hint = f"write {', '.join(prompts.LABELS)}, or name them: {labels.propose_words(unknown)}"
        findings = [
            finding._replace(hint=hint) if finding.hint == UNKNOWN_STANCE else finding
            for finding in findings
        ]
    unusable = {finding.row for finding in findings if finding.serious}
    rows = [row for row in rows if row["row"] not in unusable]
    return Scan(table, rows, findings, repaired)


def holds_text(text: str, cell: object) -> bool:
    """Return whether a cell holds a text: it is neither empty nor an error value.

    text: the cleaned cell.
    """
    return bool(text) and not isinstance(cell, (dict, list)) and find_error(text, cell) is None


def find_error(text: str, cell: object) -> str | None:
    """Return the error value that a cell holds instead of a text; None if it holds none.

    text: the cleaned cell.
    """
    if isinstance(cell, error_values.ErrorValue) or error_values.is_error(text):
        return text
    return None


class Verdicts:
    """The verdicts of Prodigy in a .jsonl file: rows that were rejected or ignored are no examples.

    A column of that name with other values is something else, and leaves no row out.
    """

    def __init__(self, index: int) -> None:
        """index: of the column."""
        self.index = index
        self.left_out: dict[int, str] = {}  # verdict by row number
        self.other: object = None  # a value that is no verdict

    def leaves_out(self, number: int, line: list) -> bool:
        """Return whether a row is left out; number: of the row, line: its cells."""
        verdict = str(line[self.index]).strip().casefold()
        if line[self.index] is None or PRODIGY_VERDICTS.get(verdict) is True:
            return False
        if verdict not in PRODIGY_VERDICTS:
            self.other = verdict
            return False
        self.left_out[number] = verdict
        return True

    def list_findings(self) -> list[Finding]:
        """Return a Finding for each row that is left out; serious ones if it may be something
        else."""
        if self.left_out and self.other is not None:
            what = (
                f'the column "{PRODIGY_COLUMN}" holds verdicts of Prodigy and others, as '
                f"{formatting.quote(str(self.other))}"
            )
            hint = "rename the column if it is none of Prodigy, else mend its values"
            return [Finding(number, "text", what, hint) for number in self.left_out]
        return [
            Finding(number, "text", f"left out, Prodigy's answer is {verdict}", NO_ACTION, False)
            for number, verdict in self.left_out.items()
        ]


def find_verdicts(path: str | Path, table: tables.Table) -> Verdicts | None:
    """Return the Verdicts of a table; None if it has no column for them."""
    if Path(path).suffix.lower() not in tables.JSON_SUFFIXES:
        return None
    header = [tables.fold_header(name) for name in table.header]
    if PRODIGY_COLUMN not in header:
        return None
    index = header.index(PRODIGY_COLUMN)
    return None if index in table.columns.values() else Verdicts(index)


def find_glued_rows(
    number: int, line: list, table: tables.Table, stances: labels.Stances
) -> list[Finding]:
    """Return a Finding if the text of a row holds lines that look like rows of the table itself.

    A quotation mark that opens a cell and closes in a later row makes one text of all between.
    number, line: of the row, with all its cells.
    """
    text_lines = str(line[table.columns["text"]]).splitlines()
    for delimiter in ",;\t|":
        if holds_rows([part.split(delimiter) for part in text_lines], line, table, stances):
            what = "text holds a whole row of the table"
            hint = "close the quotation mark that opens it, or double marks that are text"
            return [Finding(number, "text", what, hint)]
    return []


def holds_rows(
    parts: list[list[str]], line: list, table: tables.Table, stances: labels.Stances
) -> bool:
    """Return whether the lines of a text, split into cells, look like rows of its table.

    parts: cells of each line of the text. line: the cells of the row that the text is in.
    """
    if len(parts) < 2:
        return False
    width = len(line)
    text_index = table.columns["text"]
    stance_index = table.columns["stance"]
    if any(is_row(cells, stance_index, width, stances) for cells in parts[1:-1]):
        return True
    if stance_index < text_index:  # it stands on the last line too
        return is_row(parts[-1], stance_index, width, stances)
    # The first line begins with the cells before the text, the last ends with those after it.
    first = [*line[:text_index], *parts[0]]
    last_width = len(parts[-1]) + width - text_index - 1
    return is_row(first, stance_index, width, stances) and last_width == width


def is_row(cells: list, stance_index: int, width: int, stances: labels.Stances) -> bool:
    """Return whether cells look like a row: a stance where it must stand, and not too many
    cells."""
    if not stance_index < len(cells) <= width:
        return False
    stance = cleaning.clean_text(cells[stance_index]).strip('"')
    return stances.find_label(stance) is not None


def find_faults(number: int, cells: list, stances: labels.Stances) -> list[Finding]:
    """Return Findings about those cells of a row that cannot be used.

    number: of the row; cells: raw, in the order of COLUMN_NAMES; stances: what stances mean.
    """
    findings = []
    for name, cell in zip(COLUMN_NAMES, cells):
        value = cleaning.clean_text(cell)
        if cell is workbook_reader.UNSTORED:
            what = f"{name} is a formula without a stored value"
            hint = "open the file in Excel and save it"
        elif not value:
            what = f"{name} is empty"
            hint = "fill it or delete the row"
        elif isinstance(cell, (dict, list)):
            what = f"{name} is a list or an object"
            hint = "write one text"
        elif find_error(value, cell):
            what = f"{name} is {value}"
            hint = "mend its formula or write the value"
        elif name == "stance" and stances.find_label(value) is None:
            what = f"unknown stance {formatting.quote(value)}"
            hint = UNKNOWN_STANCE
        else:
            continue
        findings.append(Finding(number, name, what, hint))
    return findings


def note_repairs(location: str, repairs: Counter) -> None:
    """Print how many cells of a table were repaired; repairs: cells by the kind of repair."""
    for what, cells in repairs.items():
        print(f"note: {location}: {what}, in {cells:,} cells")


def find_doubts(number: int, cells: list, strict: bool) -> list[Finding]:
    """Return Findings about those cells of a row that are perhaps not what was meant.

    number: of the row; cells: raw, in the order of COLUMN_NAMES. strict: whether these are serious.
    """
    findings = []
    for name, cell in zip(COLUMN_NAMES, cells):
        if cell is None:
            continue
        if not isinstance(cell, str):
            what = f"{name} is a number, date or truth value, read as text"
            findings.append(Finding(number, name, what, CHECK_TYPE, strict))
        elif workbook_reader.is_full(cell):
            what = (
                f"{name} has {len(cell):,} characters, all that an Excel cell holds, "
                "and is probably cut"
            )
            findings.append(Finding(number, name, what, "compare it with its source", strict))
    return findings


def group_findings(findings: Iterable[Finding]) -> dict[str, dict[str, list[int]]]:
    """Return {hint: {what: row numbers}}."""
    groups = {}
    for finding in findings:
        groups.setdefault(finding.hint, {}).setdefault(finding.what, []).append(finding.row)
    return groups


def check_rows(location: str, rows: list[AnnotatedRow], findings: list[Finding]) -> None:
    """Fail in one line if a file has cells that cannot be used, or no rows; note doubtful cells."""
    problems = _describe_findings([finding for finding in findings if finding.serious])
    notes = _describe_findings([finding for finding in findings if not finding.serious])
    if not rows and not problems:
        problems = ["no rows below the header: fill in the table"]
    if problems:
        errors.fail(f"{location}: {'; '.join(problems)}")
    if notes:
        print(f"note: {location}: {'; '.join(notes)}")


def _describe_findings(findings: list[Finding]) -> list[str]:
    """Return a text for each hint: what is found, in which rows, and the hint."""
    texts = []
    for hint, rows_of_what in group_findings(findings).items():
        found = [f"{what} in {formatting.count_rows(rows)}" for what, rows in rows_of_what.items()]
        texts.append(f"{formatting.list_first(found)}: {hint}")
    return texts


def merge_duplicates(rows: Iterable[AnnotatedRow]) -> MergedRows:
    """Merge rows whose topic and sentence are the same but for what cleaning.normalise_key drops.

    Equal pairs with one label shrink to the first in the file: duplicates. Equal pairs with several
    labels are left out: conflicts.
    """
    groups = {}  # rows by the keys of topic and sentence
    for row in sorted(rows, key=lambda row: row["row"]):
        pair = cleaning.normalise_key(row["topic"]), cleaning.normalise_key(row["text"])
        groups.setdefault(pair, []).append(row)
    kept = []
    duplicates = []
    conflicts = []
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
    return MergedRows(kept, duplicates, conflicts)
