"""Tables of users: read row by row from files of many kinds, written as .xlsx, .csv, .tsv or .jsonl.

No torch. They are written whole or not at all. A user's mistake in a file ends in one line through
errors.fail that names file, sheet, row and hint.
"""

import csv
import itertools
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from stance.common import errors, files, formatting
from stance.corpus import (
    cleaning,
    delimited,
    exports,
    json_reader,
    ods_reader,
    parquet_reader,
    reading,
    workbook_reader,
    workbook_writer,
    xls_reader,
)

SUFFIXES = (".xlsx", ".csv", ".tsv", ".jsonl")  # of the tables that are written
WORKBOOK_READERS = {
    ".xlsx": workbook_reader.open_xlsx,
    ".xls": xls_reader.open_xls,
    ".ods": ods_reader.open_ods,
}
TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
JSON_SUFFIXES = (".jsonl", ".json")
PARQUET_SUFFIX = ".parquet"
NAMED_SUFFIXES = (*JSON_SUFFIXES, PARQUET_SUFFIX)  # whose columns have names without a header row
READ_SUFFIXES = (*WORKBOOK_READERS, *TEXT_SUFFIXES, *NAMED_SUFFIXES)  # of the tables that are read
PARQUET_START = b"PAR1"


class Table(NamedTuple):
    """An open table of a file."""

    location: str  # file and sheet, for messages
    header: list[str]  # the headers as they stand in the file, cleaned
    columns: dict[str, int]  # needed column: its index in header
    rows: workbook_reader.Lines  # below the header; of raw cells, one for each header
    header_row: int = 1  # row number of the headers; 0 where they have no row of their own
    how: reading.Reading = reading.Reading()  # what the user said about the file
    # {row number: hint} of rows left out for cells beyond the headers; known once all are read.
    too_long: Mapping[int, str] = {}


class Candidate(NamedTuple):
    """A sheet that may be the table that is looked for."""

    location: str
    header: list[str]
    matches: dict[str, list[int]]  # needed column: the indices of all headers that fit it
    lines: workbook_reader.Lines  # below the header, as long as they are
    header_row: int
    is_headerless: bool = False  # its columns are those of the positions that were asked for
    question_rows: Sequence[int] = ()  # numbers of rows below the header that are left out


def open_table(
    path: str | Path,
    needed: Mapping[str, Sequence[str]],
    how: reading.Reading = reading.Reading(),
    choose: str = "keep only one of them in the file",
    rename: str | None = None,
    flags: Mapping[str, str] = exports.COLUMN_FLAGS,
    lines_column: str | None = None,
) -> Table:
    """Open the sheet whose first row that is not empty has a header for every needed column.

    needed: {column: headers accepted for it}; headers are compared after strip and casefold. If
    each is one whole number, they are positions, from 1, in a table without a header row.
    how: what the user says about the file. choose: what the user is told to do if several
    sheets fit; rename: what else than to change the headers if none does; flags: {column: the flag
    that names its header}, for a proposal. lines_column: the column that a .txt file without cells
    fills, a row a line. Fails if there is not exactly one sheet and one header for each column.
    """
    check_readable(path, how)
    is_workbook = Path(path).suffix.lower() in WORKBOOK_READERS
    fitting = []
    others = []
    for location, lines in open_sheets(path, how):
        candidate = match_headers(location, lines, needed, Path(path).suffix.lower())
        is_named = how.sheet is None or location == workbook_reader.name_location(path, how.sheet)
        if is_named and all(candidate.matches.values()):
            fitting.append(candidate)
        else:
            others.append(candidate)
    if not fitting:
        if holds_lines(path, how, others, needed, lines_column):
            return open_text_lines(path, how, lines_column)
        fail_unmatched(path, how, others, needed, rename, flags)
    if len(fitting) > 1:
        locations = " and ".join(candidate.location for candidate in fitting)
        alike = "the columns" if fitting[0].is_headerless else "the same headers"
        errors.fail(f"{locations} have {alike}: {choose}")
    [chosen] = fitting
    columns = choose_columns(chosen)
    if others:
        titles = [other.location.removeprefix(f"{path}, ") for other in others]
        print(f"note: {chosen.location} is read, not {formatting.list_first(titles)}")
    note_rows(chosen)
    width = len(chosen.header)
    fewer, hint = "headers", "put texts with commas in quotation marks"
    if chosen.is_headerless:
        fewer, hint = "the first row", "write a row of headers above the first, or fill that"
    too_long = {}
    lines = chosen.lines
    strict_location = chosen.location
    if is_workbook and not chosen.is_headerless:
        strict_location = None  # in Excel notes beside a table are common, in a .csv file not
    elif how.collects_long:
        lines = skip_long(lines, width, too_long, hint)
    rows = fit_rows(lines, width, strict_location, fewer, hint)
    return Table(chosen.location, chosen.header, columns, rows, chosen.header_row, how, too_long)


def check_readable(path: str | Path, how: reading.Reading) -> None:
    """Fail if a table cannot be read because of its ending, or has not what how tells of it."""
    suffix = Path(path).suffix.lower()
    if suffix not in READ_SUFFIXES:
        errors.fail(f"{path} is no {', '.join(READ_SUFFIXES)} file: save it in Excel as .xlsx")
    files.check_plain(path)
    if suffix not in WORKBOOK_READERS and workbook_reader.is_workbook(path):
        errors.fail(f"{path} is an Excel workbook despite its name: rename it to .xlsx")
    if suffix in TEXT_SUFFIXES and starts_with(path, PARQUET_START):
        errors.fail(f"{path} is a Parquet file despite its name: rename it to {PARQUET_SUFFIX}")
    check_reading(path, how, suffix in WORKBOOK_READERS, suffix in TEXT_SUFFIXES)


def check_reading(name: str | Path, how: reading.Reading, has_sheets: bool, is_text: bool) -> None:
    """Fail if a file has not what the user says about it; name: of the file."""
    if how.sheet is not None and not has_sheets:
        errors.fail(f"{name} has no sheets: leave out --sheet or SHEET")
    if how.delimiter is not None and not is_text:
        errors.fail(f"{name} has no delimiter: leave out --delimiter")
    if how.encoding is not None and not is_text:
        errors.fail(f"{name} is read by its own encoding: leave out --encoding")


def starts_with(path: str | Path, start: bytes) -> bool:
    """Return whether a file begins with these bytes."""
    with files.open_file(path) as file:
        return file.read(len(start)) == start


def open_sheets(
    path: str | Path, how: reading.Reading = reading.Reading()
) -> Iterator[tuple[str, workbook_reader.Lines]]:
    """Return an iterator over (location, lines) of the sheets of a file: of one, if no workbook.

    how: what the user says about it.
    """
    suffix = Path(path).suffix.lower()
    if suffix in WORKBOOK_READERS:
        return WORKBOOK_READERS[suffix](path)
    if suffix in JSON_SUFFIXES:
        return json_reader.open_json(path)
    if suffix == PARQUET_SUFFIX:
        return parquet_reader.open_parquet(path)
    return delimited.open_delimited(path, how)


def match_headers(
    location: str, lines: workbook_reader.Lines, needed: Mapping[str, Sequence[str]], suffix: str
) -> Candidate:
    """Read lines up to the header, the first that is not empty; find the needed columns in it.

    suffix: of the file.
    """
    header_row = 1
    header = []
    first_cells = []
    for number, cells in lines:
        names = [cleaning.clean_text(cell) for cell in cells]
        if any(names):
            # Cells beyond the table that were only coloured would be columns without a name.
            while suffix in WORKBOOK_READERS and not names[-1]:
                names.pop()
            header_row = number
            header = names
            first_cells = cells
            break
    positions = list_positions(needed)
    folded = [fold_header(name) for name in header]
    if positions and suffix not in NAMED_SUFFIXES and not set(folded) & set(map(str, positions)):
        names = [f"column {position}" for position in range(1, len(header) + 1)]
        matches = {
            column: [position - 1] if position <= len(header) else []
            for column, position in zip(needed, positions, strict=True)
        }
        lines = itertools.chain([(header_row, first_cells)], lines)
        return Candidate(location, names, matches, lines, header_row=0, is_headerless=True)
    matches = {}
    for column, names in needed.items():
        accepted = [fold_header(name) for name in names]
        matches[column] = [i for i, name in enumerate(folded) if name in accepted]
    if exports.is_maxqda(folded):
        matches = exports.drop_comments(matches, folded, needed)
    question_rows, lines = exports.split_question_rows(lines)
    return Candidate(location, header, matches, lines, header_row, question_rows=question_rows)


def list_positions(needed: Mapping[str, Sequence[str]]) -> list[int]:
    """Return the position, from 1, that each needed column is named by; none if not all are."""
    positions = []
    for names in needed.values():
        if len(names) != 1 or not is_position(names[0]):
            return []
        positions.append(int(names[0]))
    return positions


def is_position(name: str) -> bool:
    """Return whether a header that a user gives may be the position of a column."""
    return name.isascii() and name.isdecimal() and not name.startswith("0") and len(name) < 6


def fold_header(name: str) -> str:
    """Return a header as headers are compared: case, line breaks and double blanks aside."""
    return " ".join(name.split()).casefold()


def fail_unmatched(
    path: str | Path,
    how: reading.Reading,
    candidates: list[Candidate],
    needed: Mapping[str, Sequence[str]],
    rename: str | None,
    flags: Mapping[str, str],
) -> NoReturn:
    """Fail because no sheet has all needed columns; the parameters are those of open_table."""
    if how.sheet is not None:
        wanted = workbook_reader.name_location(path, how.sheet)
        named = [candidate for candidate in candidates if candidate.location == wanted]
        if not named:
            start = f"{path}, sheet "
            titles = [candidate.location.removeprefix(start) for candidate in candidates]
            sheets = formatting.list_first(titles)
            problem = f"{path} has no sheet {formatting.quote(how.sheet)}"
            errors.fail(f"{problem}: name one of its sheets {sheets} with --sheet")
        candidates = named
    if any(candidate.is_headerless for candidate in candidates):
        widths = [
            f"{candidate.location} has {len(candidate.header)} columns" for candidate in candidates
        ]
        highest = max(list_positions(needed))
        hint = f"{formatting.list_first(widths)} in its first row"
        errors.fail(f"no table with a column {highest}: {hint}: count them from 1")
    seen = "; ".join(describe_headers(candidate, needed) for candidate in candidates)
    headers = ", ".join(f"{column} ({'|'.join(names)})" for column, names in needed.items())
    hint = "put these headers in the first row"
    proposals = [propose_flags(candidate, flags) for candidate in candidates]
    for proposal in filter(None, proposals):
        hint += f", or try {proposal}"
        break
    else:
        if rename:
            hint += f", or {rename}"
    if any(is_position(name) for names in needed.values() for name in names):
        hint = (
            "numbers count columns only if all are numbers and the first row holds none of them; "
            "else write a row of headers above it"
        )
    errors.fail(f"no table with the headers {headers}: {seen}: {hint}")


def propose_flags(table: Candidate, flags: Mapping[str, str]) -> str | None:
    """Return the flags that probably read a table; None if there is no idea."""
    return exports.propose_columns(table.header, table.matches, flags, fold_header)


def note_rows(table: Candidate) -> None:
    """Print notes on rows of a table that are none, or more than its header seems to say."""
    if table.is_headerless:
        what = "its columns are named by numbers, so its first row is no header but data"
        print(f"note: {table.location}: {what}")
    if table.question_rows:
        numbers = " and ".join(map(str, table.question_rows))
        what = f"rows {numbers}, question texts and ids of Qualtrics, are left out"
        print(f"note: {table.location}: {what}")


def holds_lines(
    path: str | Path,
    how: reading.Reading,
    candidates: list[Candidate],
    needed: Mapping[str, Sequence[str]],
    lines_column: str | None,
) -> bool:
    """Return whether a file is no table but text whose lines are the cells of lines_column."""
    if Path(path).suffix.lower() != ".txt" or how.delimiter is not None:
        return False
    return list(needed) == [lines_column] and len(candidates[0].header) == 1


def open_text_lines(path: str | Path, how: reading.Reading, column: str) -> Table:
    """Return the Table of a text file whose lines are the cells of one column."""
    print(f"note: {path}: is read as text, a row a line, without a header")
    rows = delimited.open_sentences(path, how)
    return Table(str(path), [column], {column: 0}, rows, header_row=0, how=how)


def choose_columns(table: Candidate) -> dict[str, int]:
    """Return {needed column: index of its header}; fail if several headers fit a column."""
    for column, indices in table.matches.items():
        if len(indices) > 1:  # which one is meant is not ours to guess
            headers = " and ".join(formatting.quote(table.header[i]) for i in indices)
            location = f"{table.location}, row {table.header_row}"
            errors.fail(f"{location}: headers {headers} all fit the column {column}: keep only one")
    return {column: indices[0] for column, indices in table.matches.items()}


def describe_headers(table: Candidate, needed: Mapping[str, Sequence[str]]) -> str:
    """Return in words which headers a table has, and which of the needed ones it lacks."""
    shown = [" ".join(header.split()) for header in table.header if header]
    found = quote_all(shown) or "nothing"
    text = f"{table.location} has {found}"
    lacking = [column for column, indices in table.matches.items() if not indices]
    if lacking:
        text += f" and lacks {quote_all(['|'.join(needed[column]) for column in lacking])}"
    if exports.is_maxqda([fold_header(header) for header in table.header]):
        text += " (coded segments of MAXQDA)"
    return text


def list_unused(table: Table) -> list[str]:
    """Return the headers of the columns of a table that nothing reads."""
    used = table.columns.values()
    return [name for index, name in enumerate(table.header) if name and index not in used]


def note_unused(table: Table) -> None:
    """Print a note that names the columns of a table that nothing reads."""
    if unused := list_unused(table):
        print(f"note: {table.location}: columns that are not used: {quote_all(unused)}")


def quote_all(texts: Iterable[str]) -> str:
    """Return the first of some texts in quotation marks, and how many more there are."""
    return formatting.list_first([formatting.quote(text) for text in texts])


def fit_rows(
    lines: workbook_reader.Lines,
    width: int,
    location: str | None,
    fewer: str,
    hint: str,
) -> workbook_reader.Lines:
    """Yield (row number, cells) with exactly width cells.

    location: of a table in which a row that holds text beyond them is an error, said with what has
    fewer cells and the hint; None: text there is dropped.
    """
    for number, cells in lines:
        if len(cells) == width:  # most by far
            yield number, cells
            continue
        if location and is_long(cells, width):
            errors.fail(f"{location}, row {number} has more cells than {fewer}: {hint}")
        yield number, [*cells[:width], *[None] * (width - len(cells))]


def skip_long(
    lines: workbook_reader.Lines, width: int, too_long: dict[int, str], hint: str
) -> workbook_reader.Lines:
    """Yield the (row number, cells) without text beyond width; note the others in too_long."""
    for number, cells in lines:
        if len(cells) > width and is_long(cells, width):
            too_long[number] = hint
        else:
            yield number, cells


def is_long(cells: Sequence, width: int) -> bool:
    """Return whether a row holds text beyond the width of its table."""
    return any(map(cleaning.clean_text, cells[width:]))


def keep_stdin() -> BinaryIO:
    """Return a temporary file with all that stdin holds: lines can then be read twice."""
    hint = f"{errors.MAKE_ROOM}, or let TMPDIR name a folder on another disk"
    with errors.explain_full_disk("a temporary file of the sentences on stdin", hint):
        file = tempfile.TemporaryFile()
        try:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
        except OSError:
            file.truncate(0)
            raise
    return file


def open_lines(file: BinaryIO) -> Table:
    """Return the Table of what keep_stdin kept: one sentence a line, in the column text."""
    file.seek(0)
    rows = ((number, [line]) for number, line in decode_lines(file, "stdin"))
    return Table("stdin", header=["text"], columns={"text": 0}, rows=rows)


def decode_lines(file: BinaryIO, location: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line without its end) of a file of bytes; fail where it is not UTF-8."""
    for number, line in enumerate(file, start=1):
        encoding = "utf-8-sig" if number == 1 else "utf-8"
        try:
            yield number, line.decode(encoding).rstrip("\r\n")
        except UnicodeDecodeError:
            hint = "save or convert the text as UTF-8"
            errors.fail(f"{location}, line {number} is not UTF-8: {hint}")


def read_topics(path: str | Path) -> list[str]:
    """Return the cleaned topics of a text file, one a line; fail if it has none or one twice."""
    with files.open_file(path) as file:
        lines = [cleaning.clean_text(line) for _, line in decode_lines(file, path)]
    topics = [line for line in lines if line]
    hint = "write each topic once, one a line"
    if not topics:
        errors.fail(f"{path} is empty: {hint}")
    for topic, count in Counter(topics).items():
        if count > 1:
            errors.fail(f"{path} holds {formatting.quote(topic)} twice: {hint}")
    return topics


def check_suffix(path: str | Path) -> None:
    """Fail if a table cannot be written to path because of its ending."""
    if Path(path).suffix.lower() not in SUFFIXES:
        errors.fail(f"{path}: its name must end in one of {', '.join(SUFFIXES)}")


def check_output(path: str | Path, header: list[str]) -> None:
    """Fail, before any work is done, if a table with these headers cannot be written to path."""
    check_suffix(path)
    path = Path(path)
    files.make_folder(path.parent)
    if path.is_dir():
        errors.fail(f"{path} is a folder: choose another name")
    if path.exists() and not path.is_file():
        errors.fail(f"{path} is a pipe or a device, which a table cannot replace: name a file")
    twice = [name for name in header if header.count(name) > 1]
    if path.suffix.lower() == ".jsonl" and twice:
        problem = f"two columns are called {formatting.quote(twice[0])}, which .jsonl cannot hold"
        errors.fail(f"{path}: {problem}: write .xlsx or .csv")


def check_fit(
    path: str | Path, location: str, number: int, header: Sequence[str], cells: Sequence
) -> None:
    """Fail if a row cannot be written to path as it is: Excel would cut a long text.

    location, number: the table and row that it was read from.
    """
    if Path(path).suffix.lower() != ".xlsx":
        return
    for name, cell in zip(header, cells, strict=True):
        if workbook_reader.count_units(dump_nested(cell)) > workbook_reader.MAX_TEXT:
            limit = f"longer than the {workbook_reader.MAX_TEXT:,} characters of an Excel cell"
            problem = f"{formatting.quote(name)} is {limit}"
            errors.fail(f"{location}, row {number}: {problem}: write .csv, .tsv or .jsonl")


def check_length(path: str | Path, rows: int) -> None:
    """Fail if path cannot hold so many rows below its header."""
    if Path(path).suffix.lower() == ".xlsx" and rows >= workbook_reader.MAX_ROWS:
        limit = f"{rows:,} rows and a header are more than Excel's {workbook_reader.MAX_ROWS:,}"
        errors.fail(f"{path}: {limit}: write .csv, .tsv or .jsonl")


def write_table(
    path: str | Path,
    header: Sequence[str],
    rows: Iterable[Iterable],
    look: workbook_writer.Look = workbook_writer.Look(),
) -> None:
    """Write a table as .xlsx, .csv, .tsv or .jsonl, by the ending of path, whole or not at all.

    rows: of cells, one for each header; written as they come, so memory does not grow with them.
    look: how .xlsx shows it. Fails if the disk is full or the file is open in Excel.
    """
    try:
        with errors.explain_full_disk(Path(path)):
            _write_table(Path(path), header, rows, look)
    except OSError as problem:
        hint = "close it elsewhere, then start again"
        errors.fail(f"cannot write {path} ({problem.strerror}): {hint}")


def _write_table(path, header, rows, look):
    """Write a table to a temporary file, which takes the place of path once it is whole."""
    suffix = path.suffix.lower()
    # Half a character, as a text cut inside an emoji holds, has no bytes in UTF-8.
    clean_rows = (
        [cleaning.HALF_CHARACTER.sub("", cell) if isinstance(cell, str) else cell for cell in row]
        for row in rows
    )
    if suffix == ".jsonl":
        files.write_jsonl(path, (dict(zip(header, row, strict=True)) for row in clean_rows))
        return
    lines = itertools.chain([header], (map(dump_nested, row) for row in clean_rows))
    with files.replace_whole(path) as temporary:
        if suffix == ".xlsx":
            workbook_writer.write_xlsx(temporary, lines, look)
        else:
            _write_csv(temporary, lines, "\t" if suffix == ".tsv" else ",")


def _write_csv(path, lines, delimiter):
    """Write lines of cells to a .csv or .tsv file."""
    # The byte order mark of utf-8-sig makes Excel read UTF-8.
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(lines)


def dump_nested(cell: object) -> object:
    """Return a cell as other formats than .jsonl hold it: lists and objects as JSON text."""
    return json.dumps(cell) if isinstance(cell, (dict, list)) else cell
