"""Delimited text files (.csv, .tsv): what separates cells, whether quotation marks quote, rows of cells. No torch."""

import csv
import functools
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from stance.common import files

# ---------------------------------------------------------------- settings
SAMPLE_CHARACTERS = 50_000  # of a file's start, from which its delimiter is guessed
SAMPLE_RECORDS = 200  # of them, at most
WHOLE_ROWS = (
    100  # physical lines in one quoted cell, each a whole row: enough to say that nothing is quoted
)
DELIMITERS = ",;\t|"  # where the decimal sign is a comma, Excel separates by semicolons
# --------------------------------------------------------------------------

LONGEST_FIELD = (1 << 31) - 1  # characters; Python's own limit of 131,072 calls long texts damaged
SEPARATOR_LINE = re.compile(r"sep=(.)[\r\n]")  # by which some programs tell Excel the delimiter
QUOTED_CELL = r'"(?:[^"]|"")*"'
NEEDS_QUOTING = re.compile(r'[\t\r\n]|""')
TAB_CELL = re.compile(rf"({QUOTED_CELL}|[^\"\t\r\n]*)(?:\t|\r\n|\r|\n|$)")
TAB_RECORD = re.compile(
    rf"(?:{QUOTED_CELL}|[^\"\t\r\n]*)(?:\t(?:{QUOTED_CELL}|[^\"\t\r\n]*))*(?:\r\n|\r|\n)?"
)


class Dialect(NamedTuple):
    """How the cells of a delimited file are told apart."""

    delimiter: str
    quoted: bool = True  # whether quotation marks enclose cells; False: they are text
    skipped: int = 0  # lines above the table: 1 where a line "sep=;" names the delimiter


def open_delimited(path: str | Path) -> Iterator[tuple[str, Iterator[tuple[int, list[str]]]]]:
    """Yield the one (location, lines) of a .csv or .tsv file; stop if it cannot be read.

    Lines are (row number as Excel shows it, cells): a record with line breaks in its cells is one.
    """
    csv.field_size_limit(LONGEST_FIELD)
    dialect = find_dialect(path)
    file = open_text(path)
    for _ in range(dialect.skipped):
        next(file)
    reader = csv.reader(
        file,
        delimiter=dialect.delimiter,
        quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
        strict=True,
    )
    yield str(path), files.guard(enumerate(reader, start=1), path)


def open_text(path: str | Path) -> io.TextIOWrapper:
    """Open a text file so that its lines keep their ends, be they LF, CR LF or CR."""
    return io.TextIOWrapper(files.open_file(path), encoding="utf-8-sig", newline="")


def find_dialect(path: str | Path) -> Dialect:
    """Return the Dialect of a file; print a note that says how the quotation marks of a tab file are read."""
    with open_text(path) as file:
        try:
            sample = file.read(SAMPLE_CHARACTERS)
        except UnicodeDecodeError:  # whoever reads the rows says what is wrong
            return Dialect(",")
    named = SEPARATOR_LINE.match(sample)
    if named:
        return Dialect(named[1], skipped=1)
    delimiter = guess_delimiter(sample, Path(path).suffix.lower() == ".tsv")
    if delimiter != "\t":
        return Dialect(delimiter)
    with open_text(path) as file:
        try:
            quoted = find_quoting(file)
        except UnicodeDecodeError:
            return Dialect(delimiter)
    if quoted is None:
        return Dialect(delimiter, quoted=False)
    note_quoting(path, quoted)
    return Dialect(delimiter, quoted)


@functools.cache  # a file may be read twice
def note_quoting(path: str | Path, quoted: bool) -> None:
    """Print which reading of a file's quotation marks was taken."""
    reading = "enclose cells" if quoted else "are part of the text"
    print(f"note: {path}: its quotation marks {reading}")


def guess_delimiter(sample: str, prefer_tab: bool) -> str:
    """Return the delimiter by which most records of a sample have as many cells as its header.

    A header may hold any of the candidates in its texts, so that to count them there does not do. Without any
    delimiter in the header, as in a file of one column, it is the comma. prefer_tab: take the tab if half of the
    records agree with it.
    """
    best, best_score = ",", (0.0, 0)
    for delimiter in DELIMITERS:
        score = score_delimiter(sample, delimiter)
        if delimiter == "\t" and prefer_tab and score[0] >= 0.5:
            return delimiter
        if score > best_score:
            best, best_score = delimiter, score
    return best


def score_delimiter(sample: str, delimiter: str) -> tuple[float, int]:
    """Return (share of the records that have as many cells as the header, cells of the header).

    (0, 0) if the header has one cell.
    """
    readings = [csv.QUOTE_MINIMAL]
    if delimiter == "\t":  # whose quotation marks are mostly text
        readings.append(csv.QUOTE_NONE)
    scores = [(0.0, 0)]
    for quoting in readings:
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, quoting=quoting)
        records = list(itertools.islice(filter(any, reader), SAMPLE_RECORDS + 1))
        if not records:
            continue
        width = len(records[0])
        others = records[1:-1] or records[1:] or records  # the last may be cut off
        share = sum(len(cells) == width for cells in others) / len(others)
        if width > 1:
            scores.append((share, width))
    return max(scores)


def find_quoting(lines: Iterable[str]) -> bool | None:
    """Return whether the quotation marks of a tab-separated file enclose cells; None if it has none.

    They do if all of them obey quoting and a quoted cell needs it: it holds a tab, a line break or a doubled mark, or
    a comma while no other cell holds one, as Excel writes such files; or if the headers are quoted. They do not if
    physical lines that are whole rows by themselves would become one row.
    """
    header_tabs: int | None = None
    any_marks, is_needed, quoted_comma, plain_comma = False, False, False, False
    for record in group_lines(lines):
        text = "".join(record)
        if header_tabs is not None and '"' not in text:  # most records by far
            plain_comma = plain_comma or "," in text
            continue
        if not TAB_RECORD.fullmatch(text):
            return False
        cells = [cell for cell in TAB_CELL.findall(text) if cell]
        quoted_cells = [cell for cell in cells if cell.startswith('"')]
        any_marks = any_marks or bool(quoted_cells)
        if header_tabs is None and cells:
            header_tabs = text.count("\t") - sum(cell.count("\t") for cell in cells)
            is_needed = len(quoted_cells) == len(cells)
        elif len(record) > 1 and all(line.count("\t") == header_tabs for line in record):
            return False
        is_needed = is_needed or any(NEEDS_QUOTING.search(cell[1:-1]) for cell in quoted_cells)
        quoted_comma = quoted_comma or any("," in cell for cell in quoted_cells)
        plain_comma = plain_comma or any("," in cell for cell in cells if cell[0] != '"')
    if not any_marks:
        return None
    return is_needed or (quoted_comma and not plain_comma)


def group_lines(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield physical lines, those of one record together: until the quotation marks in them are even."""
    record = []
    is_open = False
    for line in lines:
        record.append(line)
        is_open ^= line.count('"') % 2 == 1
        if not is_open:
            yield record
            record = []
    if record:
        yield record
