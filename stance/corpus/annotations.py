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
from stance.corpus import (
    cleaning,
    corpus_flags,
    dates,
    error_values,
    labels,
    published_splits,
    tables,
    workbook_reader,
)

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
VOTE_OF = "stance of "  # before the name of an annotator: the column of an annotator's stances
NAME_SENTIMENT = "a sentiment is no stance; if these are stances, say so with --labels"
FILL = "fill it or delete the row"
NO_ACTION = "nothing need be done"
ROUNDED_ID = "id is a number of more than 15 digits, which Excel rounds"
CHECK_TYPE = "check it and type it into a cell of the format Text"


class Finding(NamedTuple):
    """Something wrong or doubtful in a cell."""

    row: int  # as Excel shows it
    column: str  # one of those of list_needed
    what: str
    hint: str
    serious: bool = True  # the row cannot be used as it is


class Scan(NamedTuple):
    """What an annotated file holds."""

    path: str | Path
    table: tables.Table  # where it was read from; its rows are used up
    rows: list[AnnotatedRow]  # the usable ones, in the order of the file
    findings: list[Finding]  # about all rows
    repairs: Counter  # cells in which characters or entities were repaired, by the kind of repair
    bad_rows: dict[int, list[str]]  # cleaned topic, text and stance of those that cannot be used
    dropped: Counter  # rows that --labels drops, by their stance
    unknown: list[str]  # stances that mean nothing, in the order of the file


def read_corpus(
    path: str | Path, options: corpus_flags.CorpusOptions = corpus_flags.CorpusOptions()
) -> list[AnnotatedRow]:
    """Read an annotated file; fail with all its defects in one line.

    Texts are cleaned; rows without topic, text and stance are skipped; other columns are ignored.
    """
    scan = scan_corpus(path, options)
    check_rows(scan.table.location, scan.rows, scan.findings)
    note_repairs(scan.table.location, scan.repairs)
    tables.note_unused(scan.table)
    return scan.rows


def scan_files(
    paths: Sequence[str | Path], options: corpus_flags.CorpusOptions = corpus_flags.CorpusOptions()
) -> list[Scan]:
    """Return the Scan of each file of a corpus; rows of several files are numbered "file:row"."""
    names = name_files(paths)
    scans = [scan_table(path, name, options) for path, name in zip(paths, names, strict=True)]
    unknown = dict.fromkeys(stance for scan in scans for stance in scan.unknown)
    if unknown:
        words = labels.propose_words(unknown, options.stances)
        hint = f"write {', '.join(prompts.LABELS)}, or name them: {words}"
        scans = [scan._replace(findings=give_hint(scan.findings, hint)) for scan in scans]
    if len(scans) > 1:
        for scan, name in zip(scans, names, strict=True):
            for row in scan.rows:
                row["row"] = f"{name}:{row['row']}"
    return scans


def name_files(paths: Sequence[str | Path]) -> list[str]:
    """Return the names of files; their whole paths, if two have one name."""
    names = [Path(path).name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def scan_corpus(
    path: str | Path, options: corpus_flags.CorpusOptions = corpus_flags.CorpusOptions()
) -> Scan:
    """Read an annotated file with everything that is wrong or doubtful in it."""
    [scan] = scan_files([path], options)
    return scan


def give_hint(findings: list[Finding], hint: str) -> list[Finding]:
    """Return findings with the hint that proposes --labels words for unknown stances."""
    return [
        finding._replace(hint=hint) if finding.hint == UNKNOWN_STANCE else finding
        for finding in findings
    ]


def scan_table(path: str | Path, name: str, options: corpus_flags.CorpusOptions) -> Scan:
    """Read one file; name: by which its rows are named.

    The hint on its unknown stances is still UNKNOWN_STANCE.
    """
    needed = list_needed(options)
    how = options.how._replace(collects_long=True)
    table = tables.open_table(path, needed, how, "name one with --sheet", RENAME)
    scanner = Scanner(path, name, table, options)
    for number, line in table.rows:
        scanner.add_row(number, line)
    return scanner.finish()


def list_needed(options: corpus_flags.CorpusOptions) -> dict[str, tuple[str, ...]]:
    """Return {column: headers accepted for it} of all columns that are read of a corpus."""
    named = corpus_flags.list_named(options)
    if options.columns:
        accepted = [(header,) for header in options.columns]
        needed = dict(zip(named, accepted, strict=True))
    else:
        needed = {name: COLUMN_NAMES[name] for name in named}
    for header in options.annotator_columns:
        needed[VOTE_OF + header] = (header,)
    others = {
        "annotator": options.annotator_column,
        "id": options.id_column,
        "group": options.group_column,
        "date": options.date_column,
        "split": options.split_column,
    }
    for name, header in others.items():
        if header is not None:
            needed[name] = (header,)
    return needed


class Scanner:
    """Reads the rows of an annotated table, one by one."""

    def __init__(
        self,
        path: str | Path,
        name: str,
        table: tables.Table,
        options: corpus_flags.CorpusOptions,
    ) -> None:
        """path: of the file; name: by which its rows are named; table: with the columns of
        list_needed."""
        self.path = path
        self.name = name
        self.table = table
        self.options = options
        self.stances = choose_stances(table, options.stances)
        self.columns = table.columns
        self.verdicts = find_verdicts(path, table)
        self.votes = [name for name in table.columns if name.startswith(VOTE_OF)]
        named = [name for name in COLUMN_NAMES if name in table.columns]
        self.telling = [table.columns[name] for name in (*named, *self.votes)]
        self.has_extras = len(table.columns) > len(corpus_flags.list_named(options))
        self.rows: list[AnnotatedRow] = []
        self.findings: list[Finding] = []
        self.repaired: Counter = Counter()
        self.bad_rows: dict[int, list[str]] = {}
        self.dropped: Counter = Counter()
        self.unknown: dict[str, None] = {}  # stances, in the order of the file
        # For add_plain_row: topics that are plain, and labels of plain stances.
        self.has_plain_columns = list(table.columns) == list(COLUMN_NAMES) and not self.verdicts
        self.plain_topics: set[str] = set()
        self.plain_stances: dict[str, str] = {}
        # (label, whether it is a word of sentiment) of the stances read so far
        self.meanings: dict[str, tuple[str | None, bool]] = {}
        # Numbers may be named as stances.
        self.doubted = [name for name in named if name != "stance" or not options.stances.named]

    def add_row(self, number: int, line: list) -> None:
        """Take in a row of the table; number: as Excel shows it, line: its cells."""
        if self.has_plain_columns and self.add_plain_row(number, line):
            return
        if self.verdicts is not None and self.verdicts.leaves_out(number, line):
            return
        options = self.options
        cells = self.name_cells(line)
        topic = cleaning.clean_text(cells["topic"], options.repairs)
        text = cleaning.clean_text(cells["text"], options.repairs)
        stance = cleaning.clean_text(cells.get("stance"))
        label, is_sentiment = self.look_up(stance)
        if label == labels.DROP and not options.annotator_column:
            what = f"left out, as --labels drops {formatting.quote(stance)}"
            self.findings.append(Finding(number, "stance", what, NO_ACTION, serious=False))
            self.dropped[stance] += 1
            return
        row = {"topic": topic, "text": text, "label": label, "stance": stance, "row": number}
        row["source_id"] = f"{self.name}:{number}"
        findings = self.read_extras(number, cells, row) if self.has_extras else []
        is_read = label is not None or "votes" in row
        if not (is_read and holds_text(topic, cells["topic"]) and holds_text(text, cells["text"])):
            if not any(is_filled(line[index]) for index in self.telling):
                return  # an empty row, whatever other columns hold
            findings += find_faults(number, cells, self.stances)
            if stance and label is None:
                self.unknown[stance] = None
        findings += find_doubts(number, cells, self.doubted, options.strict)
        if "\n" in text and "stance" in self.columns:
            findings += find_glued_rows(number, line, self.table, self.stances)
        self.count_repairs(cells)
        if label and is_sentiment:
            what = f"{formatting.quote(stance)} is a word of sentiment, read as {label}"
            findings.append(Finding(number, "stance", what, NAME_SENTIMENT, serious=False))
        if findings:
            self.findings += findings
            if any(finding.serious for finding in findings):
                votes = [cleaning.clean_text(cells[name]) for name in self.votes]
                self.bad_rows[number] = [topic, text, ", ".join(filter(None, [stance, *votes]))]
                return
        self.rows.append(row)

    def add_plain_row(self, number: int, line: list) -> bool:
        """Take in a row in whose cells there is nothing to clean, to doubt or to read in another
        way, as in most rows; return whether it is one.

        Only a short cut: add_row would make the same row of it.
        """
        topic, text, stance = (line[index] for index in self.telling)
        label = self.plain_stances.get(stance) if type(stance) is str else None
        if label is None or type(topic) is not str or not is_plain(text):
            return False
        if topic not in self.plain_topics:
            if not is_plain(topic):
                return False
            self.plain_topics.add(topic)
        row = {"topic": topic, "text": text, "label": label, "stance": stance, "row": number}
        row["source_id"] = f"{self.name}:{number}"
        self.rows.append(row)
        return True

    def look_up(self, stance: str) -> tuple[str | None, bool]:
        """Return (label or labels.DROP or None, whether it is a word of sentiment) of a stance."""
        if stance not in self.meanings:
            is_sentiment = self.stances.find_sentiment(stance) is not None
            label = self.stances.find_label(stance)
            self.meanings[stance] = label, is_sentiment
            if label in prompts.LABELS and not is_sentiment and is_plain(stance):
                self.plain_stances[stance] = label
        return self.meanings[stance]

    def count_repairs(self, cells: dict[str, object]) -> None:
        """Count what cleaning repairs in the topic and the text of a row."""
        for name in ("topic", "text"):
            if repairs := cleaning.list_repairs(cells[name], self.options.repairs):
                self.repaired.update(repairs)

    def name_cells(self, line: list) -> dict[str, object]:
        """Return {column: cell} of a row; line: its cells."""
        cells = {name: line[index] for name, index in self.columns.items()}
        if self.options.topic is not None:
            cells["topic"] = self.options.topic
        if "stance" in cells:
            cells["stance"] = unwrap_single(cells["stance"])
        return cells

    def read_extras(self, number: int, cells: dict[str, object], row: AnnotatedRow) -> list:
        """Put into a row what its columns beyond topic, text and stance hold.

        Returns Findings about those that cannot be used.
        """
        findings = []
        if "id" in cells:
            row["source_id"] = name_id(cells["id"]) or row["source_id"]
            if is_rounded(cells["id"]):
                findings.append(Finding(number, "id", ROUNDED_ID, CHECK_TYPE, serious=False))
        if "group" in cells:
            group = cleaning.clean_text(cells["group"])
            row["groups"] = [group] if group else []
        if "date" in cells:
            date = dates.read_date(cells["date"])
            if date is None:
                value = formatting.quote(cleaning.clean_text(cells["date"]))
                findings.append(Finding(number, "date", f"no date: {value}", dates.DATE_HINT))
            row["date"] = date
        if "split" in cells:
            value = cleaning.clean_text(cells["split"])
            row["split"] = published_splits.find_split(value)
            if row["split"] is None:
                what = f"unknown split {formatting.quote(value)}"
                findings.append(Finding(number, "split", what, published_splits.SPLIT_HINT))
        if "annotator" in cells:
            findings += self.read_vote(number, cells, row)
        elif self.votes:
            findings += self.read_votes(number, cells, row)
        return findings

    def read_vote(self, number: int, cells: dict[str, object], row: AnnotatedRow) -> list[Finding]:
        """Put the stance of the annotator whom a row names into it; return Findings."""
        annotator = cleaning.clean_text(cells["annotator"])
        if row["label"] is not None:
            row["votes"] = {annotator: (row["label"], row["stance"])}
        elif not is_filled(cells["stance"]):
            row["votes"] = {}  # no vote, as an empty cell side by side is none
        return [] if annotator else [Finding(number, "annotator", "annotator is empty", FILL)]

    def read_votes(self, number: int, cells: dict[str, object], row: AnnotatedRow) -> list[Finding]:
        """Put the stances of several annotators, side by side, into a row; return Findings."""
        findings = []
        row["votes"] = {}
        for name in self.votes:
            stance = cleaning.clean_text(cells[name])
            label = self.stances.find_label(stance)
            if label is not None:
                row["votes"][name.removeprefix(VOTE_OF)] = (label, stance)
            elif stance:
                annotator = name.removeprefix(VOTE_OF)
                what = f"unknown stance {formatting.quote(stance)} of {annotator}"
                findings.append(Finding(number, name, what, UNKNOWN_STANCE))
                self.unknown[stance] = None
        if not row["votes"] and not findings:
            findings.append(Finding(number, self.votes[0], "no annotator gave a stance", FILL))
        return findings

    def finish(self) -> Scan:
        """Return what all rows hold."""
        findings = self.findings
        for number, hint in self.table.too_long.items():
            findings.append(Finding(number, "text", "more cells than headers", hint))
        if self.verdicts is not None:
            findings += self.verdicts.list_findings()
        for finding in findings:
            if finding.serious:
                self.bad_rows.setdefault(finding.row, ["", "", ""])
        rows = [row for row in self.rows if row["row"] not in self.bad_rows]
        return Scan(
            self.path,
            self.table,
            rows,
            findings,
            self.repaired,
            self.bad_rows,
            self.dropped,
            list(self.unknown),
        )


def choose_stances(table: tables.Table, stances: labels.Stances) -> labels.Stances:
    """Return what stances mean in a table: words of sentiment nothing, if they are sentiments."""
    for column, index in table.columns.items():
        is_stance = column == "stance" or column.startswith(VOTE_OF)
        if is_stance and labels.is_sentiment_header(table.header[index]):
            return stances._replace(takes_sentiment=False)
    return stances


def name_id(cell: object) -> str:
    """Return the id that a cell holds; of a whole number, its digits."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return cleaning.clean_text(cell)


def is_rounded(cell: object) -> bool:
    """Return whether a cell holds a number of more digits than Excel keeps."""
    is_number = isinstance(cell, (int, float)) and not isinstance(cell, bool)
    return is_number and abs(cell) >= 1e15


def is_plain(cell: object) -> bool:
    """Return whether a cell is a text in which nothing is cleaned, and no error value."""
    return (
        type(cell) is str
        and cell.isascii()
        and cell.isprintable()
        and "&" not in cell
        and "_x" not in cell
        and 0 < len(cell) < workbook_reader.MAX_TEXT // 2
        and cell == cell.strip()
        and not error_values.is_error(cell)
    )


def is_filled(cell: object) -> bool:
    """Return whether a cell holds something, be it a formula whose value is not stored."""
    return cell is workbook_reader.UNSTORED or bool(cleaning.clean_text(cell))


def unwrap_single(cell: object) -> object:
    """Return the one item of a list, as doccano writes a label; None for a list without any."""
    if isinstance(cell, list) and len(cell) < 2:
        return cell[0] if cell else None
    return cell


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


def find_faults(number: int, cells: dict[str, object], stances: labels.Stances) -> list[Finding]:
    """Return Findings about those of topic, text and stance of a row that cannot be used.

    number: of the row; cells: raw, by column; stances: what stances mean.
    """
    findings = []
    for name in COLUMN_NAMES:
        if name not in cells:
            continue
        cell = cells[name]
        value = cleaning.clean_text(cell)
        if cell is workbook_reader.UNSTORED:
            what = f"{name} is a formula without a stored value"
            hint = "open the file in Excel and save it"
        elif not value:
            what = f"{name} is empty"
            hint = FILL
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


def find_doubts(
    number: int, cells: dict[str, object], names: Iterable[str], strict: bool
) -> list[Finding]:
    """Return Findings about those cells of a row that are perhaps not what was meant.

    number: of the row; cells: raw, by column; names: of the columns that are looked at. strict:
    whether doubts are serious.
    """
    findings = []
    for name in names:
        cell = cells[name]
        if cell is None or isinstance(cell, (dict, list)):
            continue  # find_faults names those
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
    problems = describe_problems(rows, findings)
    if problems:
        errors.fail(f"{location}: {problems}")
    note_doubts(location, findings)


def share_findings(scans: list[Scan], clashes: list[Finding]) -> list[tuple[Scan, list[Finding]]]:
    """Return each Scan with its findings and those of the clashes that are about its rows.

    clashes: from marked_copy.find_clashes; of several files, with rows named "file:row".
    """
    names = name_files([scan.path for scan in scans])
    shared = {name: [*scan.findings] for name, scan in zip(names, scans, strict=True)}
    for clash in clashes:
        if len(scans) == 1:
            shared[names[0]].append(clash)
        else:
            name, _, number = clash.row.rpartition(":")
            shared[name].append(clash._replace(row=int(number)))
    return list(zip(scans, shared.values(), strict=True))


def count_rows_of_files(scans: list[Scan], rows: list[AnnotatedRow]) -> list[int]:
    """Return how many of some rows each file has; of several files, rows are named "file:row"."""
    if len(scans) == 1:
        return [len(rows)]
    counts = Counter(str(row["row"]).rpartition(":")[0] for row in rows)
    return [counts[name] for name in name_files([scan.path for scan in scans])]


def check_scans(scans: list[Scan], skip_bad: bool = False) -> None:
    """Fail in one line if files of a corpus have cells that cannot be used, or no rows; note
    doubtful cells.

    skip_bad: rows with such cells are left out.
    """
    problems = []
    for scan in scans:
        if skip_bad and scan.rows:
            continue
        if text := describe_problems(scan.rows, scan.findings):
            problems.append((scan.table.location, text))
    if problems:
        errors.fail("; ".join(join_locations(problems)))
    for scan in scans:
        note_doubts(scan.table.location, scan.findings)


def join_locations(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return a text for all (location, what is found there), equal findings together."""
    locations_of = {}
    for location, what in found:
        locations_of.setdefault(what, []).append(location)
    return [
        f"{formatting.list_first(locations)}: {what}" for what, locations in locations_of.items()
    ]


def describe_problems(rows: list[AnnotatedRow], findings: list[Finding]) -> str:
    """Return in a line what makes a file unusable; "" if nothing does."""
    problems = _describe_findings([finding for finding in findings if finding.serious])
    if not rows and not problems:
        problems = ["no rows below the header: fill in the table"]
    return "; ".join(problems)


def note_doubts(location: str, findings: list[Finding]) -> None:
    """Print a note on doubtful cells, if there are any."""
    notes = _describe_findings([finding for finding in findings if not finding.serious])
    if notes:
        print(f"note: {location}: {'; '.join(notes)}")


def _describe_findings(findings: list[Finding]) -> list[str]:
    """Return a text for each hint: what is found, in which rows, and the hint."""
    texts = []
    for hint, rows_of_what in group_findings(findings).items():
        found = [f"{what} in {formatting.count_rows(rows)}" for what, rows in rows_of_what.items()]
        texts.append(f"{formatting.list_first(found)}: {hint}")
    return texts
