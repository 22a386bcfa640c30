"""Tables of users: .xlsx, .csv, .tsv and .jsonl files, read and written row by row. No torch.

They are written whole or not at all. A user's mistake in a file ends in one line through
errors.fail that names file, sheet, row and hint.
"""

import csv
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from stance.common import errors, files, formatting
from stance.corpus import cleaning, delimited, reading, workbook_reader, workbook_writer

SUFFIXES = (".xlsx", ".csv", ".tsv", ".jsonl")  # of the tables that are written
JSON_SUFFIXES = (".jsonl", ".json")
READ_SUFFIXES = (*SUFFIXES, ".json")  # of the tables that are read


class Table(NamedTuple):
    """An open table of a file."""

    location: str  # file and sheet, for messages
    header: list[str]  # the headers as they stand in the file, cleaned
    columns: dict[str, int]  # needed column: its index in header
    rows: workbook_reader.Lines  # below the header; of raw cells, one for each header
    header_row: int = 1  # row number of the headers; 0 in a .jsonl file, where they have no line


class Candidate(NamedTuple):
    """A sheet that may be the table that is looked for."""

    location: str
    header: list[str]
    matches: dict[str, list[int]]  # needed column: the indices of all headers that fit it
    lines: workbook_reader.Lines  # below the header, as long as they are
    header_row: int


def open_table(
    path: str | Path,
    needed: Mapping[str, Sequence[str]],
    how: reading.Reading = reading.Reading(),
    choose: str = "keep only one of them in the file",
    rename: str | None = None,
) -> Table:
    """Open the sheet whose first row that is not empty has a header for every needed column.

    needed: {column: headers accepted for it}; headers are compared after strip and casefold.
    how: what the user says about the file. choose: what the user is told to do if several
    sheets fit; rename: what else than to change the headers if none does. Fails if there is not
    exactly one sheet and one header for each column.
    """
    sheet = how.sheet
    check_readable(path, sheet)
    is_xlsx = Path(path).suffix.lower() == ".xlsx"
    fitting = []
    others = []
    for location, lines in open_sheets(path):
        candidate = match_headers(location, lines, needed, is_xlsx)
        named = sheet is None or location == workbook_reader.name_location(path, sheet)
        if named and all(candidate.matches.values()):
            fitting.append(candidate)
        else:
            others.append(candidate)
    if not fitting:
        seen = "; ".join(describe_headers(other, needed) for other in others)
        headers = ", ".join(f"{column} ({'|'.join(names)})" for column, names in needed.items())
        missing = "no table" if sheet is None else f"no sheet {formatting.quote(sheet)}"
        hint = "put these headers in the first row"
        if rename:
            hint += f", or {rename}"
        errors.fail(f"{missing} with the headers {headers}: {seen}: {hint}")
    if len(fitting) > 1:
        locations = " and ".join(candidate.location for candidate in fitting)
        errors.fail(f"{locations} have the same headers: {choose}")
    [chosen] = fitting
    columns = choose_columns(chosen)
    if others:
        titles = [other.location.removeprefix(f"{path}, ") for other in others]
        print(f"note: {chosen.location} is read, not {formatting.list_first(titles)}")
    # In Excel notes beside a table are common, in a .csv file not.
    strict_location = None if is_xlsx else chosen.location
    rows = fit_rows(chosen.lines, len(chosen.header), strict_location)
    return Table(chosen.location, chosen.header, columns, rows, chosen.header_row)


def check_readable(path: str | Path, sheet: str | None) -> None:
    """Fail if a table cannot be read because of its ending, or has no sheets but one is named."""
    suffix = Path(path).suffix.lower()
    if suffix not in READ_SUFFIXES:
        errors.fail(f"{path} is no {', '.join(READ_SUFFIXES)} file: save it in Excel as .xlsx")
    if suffix != ".xlsx" and workbook_reader.is_workbook(path):
        errors.fail(f"{path} is an Excel workbook despite its name: rename it to .xlsx")
    if suffix != ".xlsx" and sheet is not None:
        errors.fail(f"{path} has no sheets: leave out --sheet or SHEET")


def open_sheets(path: str | Path) -> Iterator[tuple[str, workbook_reader.Lines]]:
    """Return an iterator over (location, lines) of the sheets of a file: of one, if no workbook."""
    suffix = Path(path).suffix.lower()
    if suffix == ".xlsx":
        return workbook_reader.open_xlsx(path)
    if suffix in JSON_SUFFIXES:
        return open_json(path)
    return delimited.open_delimited(path)


def match_headers(
    location: str,
    lines: workbook_reader.Lines,
    needed: Mapping[str, Sequence[str]],
    is_workbook_sheet: bool,
) -> Candidate:
    """Read lines up to the header, the first that is not empty; find the needed columns in it."""
    header_row = 1
    header = []
    for number, cells in lines:
        names = [cleaning.clean_text(cell) for cell in cells]
        if any(names):
            # Cells beyond the table that were only coloured would be columns without a name.
            while is_workbook_sheet and not names[-1]:
                names.pop()
            header_row = number
            header = names
            break
    matches = {}
    for column, names in needed.items():
        accepted = [fold_header(name) for name in names]
        matches[column] = [i for i, name in enumerate(header) if fold_header(name) in accepted]
    return Candidate(location, header, matches, lines, header_row)


def fold_header(name: str) -> str:
    """Return a header as headers are compared: case, line breaks and double blanks aside."""
    return " ".join(name.split()).casefold()


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
    found = quote_all([header for header in table.header if header]) or "nothing"
    text = f"{table.location} has {found}"
    lacking = [column for column, indices in table.matches.items() if not indices]
    if lacking:
        text += f" and lacks {quote_all(['|'.join(needed[column]) for column in lacking])}"
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
    lines: workbook_reader.Lines, width: int, location: str | None
) -> workbook_reader.Lines:
    """Yield (row number, cells) with exactly width cells.

    location: of a table in which a row that holds text beyond them is an error; None: text there
    is dropped.
    """
    for number, cells in lines:
        if location and any(map(cleaning.clean_text, cells[width:])):
            hint = "put texts with commas in quotation marks"
            errors.fail(f"{location}, row {number} has more cells than headers: {hint}")
        yield number, [*cells[:width], *[None] * (width - len(cells))]


def open_json(path: str | Path) -> Iterator[tuple[str, workbook_reader.Lines]]:
    """Yield the one (location, lines) of a JSON file: all keys as header, then the objects.

    It holds an object a line (JSON Lines; blank lines don't count), or one array of objects. The
    header has the row number 0; an object that of its line, or of its place in the array.
    """
    keys = {}  # in the order in which they occur first
    for _, row in iterate_objects(path):
        keys.update(dict.fromkeys(row))
    header = list(keys)
    rows = ((number, [row.get(key) for key in header]) for number, row in iterate_objects(path))
    yield str(path), itertools.chain([(0, header)], rows)


def iterate_objects(path: str | Path) -> Iterator[tuple[int, dict]]:
    """Yield (number, object) of a JSON file; fail with the line or the object that is wrong."""
    with files.open_file(path) as file:
        start = file.read(1000).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start.startswith(b"["):
        yield from files.iterate_numbered_jsonl(path, (), "give a file with one JSON object a line")
        return
    hint = "give a JSON array of objects, or a file with one JSON object a line"
    objects = files.read_json(path, hint)
    if not objects:
        errors.fail(f"{path} is a JSON array without objects: {hint}")
    for number, row in enumerate(objects, start=1):
        if not isinstance(row, dict):
            errors.fail(f"{path} is a JSON array, and its item {number} is no object: {hint}")
        yield number, row


def keep_stdin() -> BinaryIO:
    """Return a temporary file with all that stdin holds: lines can then be read twice."""
    file = tempfile.TemporaryFile()
    shutil.copyfileobj(sys.stdin.buffer, file)
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
    shades: dict[str, dict[str, str]] | None = None,
) -> None:
    """Write a table as .xlsx, .csv, .tsv or .jsonl, by the ending of path, whole or not at all.

    rows: of cells, one for each header; written as they come, so memory does not grow with them.
    shades: {column: {value: RRGGBB}}, the colours of cells in .xlsx. Fails if the disk is full or
    the file is open in Excel.
    """
    try:
        _write_table(Path(path), header, rows, shades or {})
    except OSError as problem:
        hint = "make room or close it elsewhere, then start again"
        errors.fail(f"cannot write {path} ({problem.strerror}): {hint}")


def _write_table(path, header, rows, shades):
    """Write a table to a temporary file, which takes the place of path once it is whole."""
    suffix = path.suffix.lower()
    temporary = files.name_temporary(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Half a character, as a text cut inside an emoji holds, has no bytes in UTF-8.
    clean_rows = (
        [cleaning.HALF_CHARACTER.sub("", cell) if isinstance(cell, str) else cell for cell in row]
        for row in rows
    )
    try:
        if suffix == ".jsonl":
            objects = (dict(zip(header, row, strict=True)) for row in clean_rows)
            files.write_jsonl(temporary, objects)
        else:
            lines = itertools.chain([header], (map(dump_nested, row) for row in clean_rows))
            if suffix == ".xlsx":
                workbook_writer.write_xlsx(temporary, lines, shades)
            else:
                _write_csv(temporary, lines, "\t" if suffix == ".tsv" else ",")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # still there if the disk is full or a signal came


def _write_csv(path, lines, delimiter):
    """Write lines of cells to a .csv or .tsv file."""
    # The byte order mark of utf-8-sig makes Excel read UTF-8.
    with open(path, "x", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(lines)


def dump_nested(cell: object) -> object:
    """Return a cell as other formats than .jsonl hold it: lists and objects as JSON text."""
    return json.dumps(cell) if isinstance(cell, (dict, list)) else cell
