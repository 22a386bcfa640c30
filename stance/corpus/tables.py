"""Tables of users: .xlsx, .csv, .tsv and .jsonl files, read and written row by row, whole or not at all. No torch.

A user's mistake in a file ends in one line through errors.fail that names file, sheet, row and hint.
"""

import csv
import io
import itertools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from stance.common import errors, files, formatting
from stance.corpus import cleaning, workbook_reader, workbook_writer

SUFFIXES = (".xlsx", ".csv", ".tsv", ".jsonl")  # of the tables that are read and written


class Table(NamedTuple):
    """An open table of a file."""

    location: str  # file and sheet, for messages
    header: list  # the headers as they stand in the file
    columns: dict  # needed column: its index in header
    rows: object  # iterator over (row number as Excel shows it, raw cells, one for each header)
    header_row: int = 1  # row number of the headers; 0 in a .jsonl file, where they have no line


def open_table(path, needed, sheet=None, choose="keep only one of them in the file", rename=None):
    """Open the one sheet, or the named sheet, whose first row that is not empty has a header for every needed column.

    needed: {column: headers accepted for it}; headers are compared after strip and casefold. choose: what the user is
    told to do if several sheets fit; rename: what else than to change the headers if none does.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        errors.fail(f"{path} is no {', '.join(SUFFIXES)} file: save it in Excel as .xlsx")
    if suffix != ".xlsx" and workbook_reader.is_workbook(path):
        errors.fail(f"{path} is an Excel workbook despite its name: rename it to .xlsx")
    if suffix != ".xlsx" and sheet is not None:
        errors.fail(f"{path} has no sheets: leave out --sheet or SHEET")
    known = {column: [name.casefold() for name in names] for column, names in needed.items()}
    fitting, others = [], []
    for location, lines in {".xlsx": workbook_reader.open_xlsx, ".jsonl": open_jsonl}.get(
        suffix, open_csv
    )(path):
        number, header = next(
            ((number, cells) for number, cells in lines if any(map(cleaning.clean_text, cells))),
            (1, ()),
        )
        names = [cleaning.clean_text(cell) for cell in header]
        found = {
            column: [i for i, name in enumerate(names) if name.casefold() in known[column]]
            for column in needed
        }
        rows = fit_rows(lines, len(names), None if suffix == ".xlsx" else location)
        fits = all(found.values()) and (
            sheet is None or location == workbook_reader.name_location(path, sheet)
        )
        (fitting if fits else others).append(Table(location, names, found, rows, number))
    if not fitting:
        seen = "; ".join(describe_headers(table, needed) for table in others)
        headers = ", ".join(f"{column} ({'|'.join(names)})" for column, names in needed.items())
        missing = "no table" if sheet is None else f"no sheet {formatting.quote(sheet)}"
        hint = "put these headers in the first row" + (f", or {rename}" if rename else "")
        errors.fail(f"{missing} with the headers {headers}: {seen}: {hint}")
    if len(fitting) > 1:
        errors.fail(
            f"{' and '.join(table.location for table in fitting)} have the same headers: {choose}"
        )
    [table] = fitting
    for column, indices in table.columns.items():
        if len(indices) > 1:  # which one is meant is not ours to guess
            headers = " and ".join(formatting.quote(table.header[i]) for i in indices)
            location = f"{table.location}, row {table.header_row}"
            errors.fail(f"{location}: headers {headers} all fit the column {column}: keep only one")
    if others:
        unread = formatting.list_first(
            [other.location.removeprefix(f"{path}, ") for other in others]
        )
        print(f"note: {table.location} is read, not {unread}")
    return table._replace(columns={column: index for column, [index] in table.columns.items()})


def describe_headers(table, needed):
    """Return in words which headers a table has, and which of the needed ones it lacks."""
    lacking = [
        formatting.quote("|".join(needed[column]))
        for column, indices in table.columns.items()
        if not indices
    ]
    found = quote_all([header for header in table.header if header]) or "nothing"
    return f"{table.location} has {found}" + (
        f" and lacks {formatting.list_first(lacking)}" if lacking else ""
    )


def note_unused(table):
    """Print a note that names the columns of a table that nothing reads."""
    unused = [
        name
        for index, name in enumerate(table.header)
        if name and index not in table.columns.values()
    ]
    if unused:
        print(f"note: {table.location}: columns that are not used: {quote_all(unused)}")


def quote_all(texts):
    """Return the first of some texts in quotation marks."""
    return formatting.list_first([formatting.quote(text) for text in texts])


def fit_rows(lines, width, location):
    """Yield (row number, cells) with exactly width cells; with a location, stop at a row that holds text beyond them."""
    for number, cells in lines:
        if location and any(
            map(cleaning.clean_text, cells[width:])
        ):  # in Excel notes beside a table are common, in a .csv not
            errors.fail(
                f"{location}, row {number} has more cells than headers: put texts with commas in quotation marks"
            )
        yield number, [*cells[:width], *[None] * (width - len(cells))]


def open_csv(path):
    """Yield the one (location, lines) of a .csv or .tsv file; stop if it cannot be read."""
    with files.open_file(path) as file:
        first = next(filter(bytes.strip, file), b"").decode(errors="replace")
    delimiter = max(
        ",;\t", key=first.count
    )  # where the decimal sign is a comma, Excel separates by semicolons
    file = io.TextIOWrapper(files.open_file(path), encoding="utf-8-sig", newline="")
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    yield (
        path,
        files.guard(enumerate(reader, start=1), path),
    )  # a record is an Excel row, with all its line breaks


def open_jsonl(path):
    """Yield the one (location, lines) of a .jsonl file: the keys of its objects as header, then a row an object."""
    hint = "give a file with one JSON object a line"
    header = list(dict.fromkeys(key for row in files.iterate_jsonl(path, (), hint) for key in row))
    rows = ([row.get(key) for key in header] for row in files.iterate_jsonl(path, (), hint))
    yield path, enumerate(itertools.chain([header], rows))  # so line 1 is the first object


def keep_stdin():
    """Return a temporary file with all that stdin holds: lines can then be read twice."""
    file = tempfile.TemporaryFile()
    shutil.copyfileobj(sys.stdin.buffer, file)
    return file


def open_lines(file):
    """Return the Table of what keep_stdin kept: one sentence a line, in the column text."""
    file.seek(0)
    return Table(
        "stdin",
        ["text"],
        {"text": 0},
        ((number, [line]) for number, line in decode_lines(file, "stdin")),
    )


def decode_lines(file, location):
    """Yield (line number, line without its end) of a file of bytes; stop where it is not UTF-8."""
    for number, line in enumerate(file, start=1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            errors.fail(
                f"{location}, line {number} is not UTF-8: save or convert the text as UTF-8"
            )


def read_topics(path):
    """Return the cleaned topics of a text file, one a line."""
    with files.open_file(path) as file:
        topics = [
            topic for _, line in decode_lines(file, path) if (topic := cleaning.clean_text(line))
        ]
    twice = [topic for topic in topics if topics.count(topic) > 1]
    if twice or not topics:
        problem = f"holds {formatting.quote(twice[0])} twice" if twice else "is empty"
        errors.fail(f"{path} {problem}: write each topic once, one a line")
    return topics


def check_suffix(path):
    """Stop if a table cannot be written to path because of its ending."""
    if Path(path).suffix.lower() not in SUFFIXES:
        errors.fail(f"{path}: its name must end in one of {', '.join(SUFFIXES)}")


def check_output(path, header):
    """Stop, before any work is done, if a table with these headers cannot be written to path."""
    check_suffix(path)
    path = Path(path)
    files.make_folder(path.parent)
    if path.is_dir():
        errors.fail(f"{path} is a folder: choose another name")
    twice = [name for name in header if header.count(name) > 1]
    if path.suffix.lower() == ".jsonl" and twice:
        name = formatting.quote(twice[0])
        errors.fail(
            f"{path}: two columns are called {name}, which .jsonl cannot hold: write .xlsx or .csv"
        )


def check_fit(path, location, number, header, cells):
    """Stop if a row, read at location, number, cannot be written to path as it is: Excel would cut a long text."""
    if Path(path).suffix.lower() == ".xlsx":
        for name, cell in zip(header, cells, strict=True):
            if workbook_reader.count_units(dump_nested(cell)) > workbook_reader.MAX_TEXT:
                limit = f"longer than the {workbook_reader.MAX_TEXT:,} characters of an Excel cell"
                errors.fail(
                    f"{location}, row {number}: {formatting.quote(name)} is {limit}: write .csv, .tsv or .jsonl"
                )


def check_length(path, rows):
    """Stop if path cannot hold so many rows below its header."""
    if Path(path).suffix.lower() == ".xlsx" and rows >= workbook_reader.MAX_ROWS:
        limit = f"{rows:,} rows and a header are more than Excel's {workbook_reader.MAX_ROWS:,}"
        errors.fail(f"{path}: {limit}: write .csv, .tsv or .jsonl")


def write_table(path, header, rows, shades=None):
    """Write a table as .xlsx, .csv, .tsv or .jsonl, by the ending of path, whole or not at all.

    rows: any iterable; it is written as it comes, so memory does not grow with it. shades: {column: {value: RRGGBB}},
    the colours of cells in .xlsx.
    """
    try:
        _write_table(Path(path), header, rows, shades or {})
    except OSError as problem:
        errors.fail(
            f"cannot write {path} ({problem.strerror}): make room or close it elsewhere, then start again"
        )


def _write_table(path, header, rows, shades):
    """Write a table to a temporary file, which takes the place of path once it is whole."""
    temporary, suffix = path.with_name(path.name + ".tmp"), path.suffix.lower()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Half a character, as a text cut inside an emoji holds, has no bytes in UTF-8.
    rows = (
        [cleaning.HALF_CHARACTER.sub("", cell) if isinstance(cell, str) else cell for cell in row]
        for row in rows
    )
    lines = itertools.chain([header], (map(dump_nested, row) for row in rows))
    try:
        if suffix == ".jsonl":
            files.write_jsonl(temporary, (dict(zip(header, row, strict=True)) for row in rows))
        elif suffix == ".xlsx":
            workbook_writer.write_xlsx(temporary, lines, shades)
        else:
            with open(
                temporary, "w", encoding="utf-8-sig", newline=""
            ) as file:  # the mark makes Excel read UTF-8
                csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",").writerows(lines)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # still there if the disk is full or a signal came


def dump_nested(cell):
    """Return a cell as other formats than .jsonl hold it: lists and objects as JSON text."""
    return json.dumps(cell) if isinstance(cell, (dict, list)) else cell
