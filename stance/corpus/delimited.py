"""Delimited text files (.csv, .tsv, .txt): their encoding, delimiter and quoting, and their rows of cells.

No torch.
"""

import codecs
import csv
import functools
import io
import itertools
import re
import string
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from stance.common import errors, files, formatting
from stance.corpus import exports, reading

# ---------------------------------------------------------------- settings
SAMPLE_CHARACTERS = 50_000  # of a file's start, from which its delimiter is guessed
SAMPLE_RECORDS = 200  # of them, at most
DELIMITERS = ",;\t|"  # where the decimal sign is a comma, Excel separates by semicolons
# Bytes beyond ASCII, as a share of all letters, up to which a file that is not UTF-8 may be cp1252:
# in texts of other code pages, most letters are such bytes.
FOREIGN_SHARE = 0.05
UTF16_SHARE = 0.6  # of every second byte that is zero, above which a file without a mark is UTF-16
# Of a .txt file, which may hold sentences: the share of rows that have as many cells as the first,
# and the rows beside it, from which on another delimiter than the tab is believed.
CERTAIN_SHARE = 0.9
CERTAIN_ROWS = 2
# --------------------------------------------------------------------------

LONGEST_FIELD = (1 << 31) - 1  # characters; Python's own limit of 131,072 calls long texts damaged
SEPARATOR_LINE = re.compile(
    r"sep=([^\w\r\n\"])[\r\n]"
)  # by which some programs tell Excel the delimiter
QUOTED_CELL = r'"(?:[^"]|"")*"'
NEEDS_QUOTING = re.compile(r'[\t\r\n]|""')
TAB_CELL = re.compile(rf"({QUOTED_CELL}|[^\"\t\r\n]*)(?:\t|\r\n|\r|\n|$)")
TAB_RECORD = re.compile(
    rf"(?:{QUOTED_CELL}|[^\"\t\r\n]*)(?:\t(?:{QUOTED_CELL}|[^\"\t\r\n]*))*(?:\r\n|\r|\n)?"
)


UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UNDEFINED = bytes([0x81, 0x8D, 0x8F, 0x90, 0x9D])  # in cp1252
BEYOND_ASCII = bytes(range(0x80, 0x100))
LETTERS = string.ascii_letters.encode()
BLOCK = 1 << 16  # bytes looked at at a time
WEBANNO = "#FORMAT=WebAnno TSV"  # how such files of INCEpTION begin


class Dialect(NamedTuple):
    """How the cells of a delimited file are told apart."""

    delimiter: str
    encoding: str = "utf-8-sig"
    quoted: bool = True  # whether quotation marks enclose cells; False: they are text
    skipped: int = 0  # lines above the table: 1 where a line "sep=;" names the delimiter


def open_delimited(
    path: str | Path, how: reading.Reading = reading.Reading()
) -> Iterator[tuple[str, Iterator[tuple[int, list[str]]]]]:
    """Yield the one (location, lines) of a .csv, .tsv or .txt file; fail if it cannot be read.

    how: what the user says about it. Lines are (row number as Excel shows it, cells): a record with
    line breaks in its cells is one.
    """
    csv.field_size_limit(LONGEST_FIELD)
    dialect = find_dialect(path, how)
    file = open_text(path, dialect.encoding)
    for _ in range(dialect.skipped):
        next(file)
    reader = csv.reader(
        file,
        delimiter=dialect.delimiter,
        quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
        strict=True,
    )
    lines = files.guard(enumerate(reader, start=1), path)
    yield str(path), note_glued(lines, path, dialect.delimiter)


def open_sentences(path: str | Path, how: reading.Reading) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, [line]) of a text file; how: what the user says about it."""
    with open_text(path, find_encoding(path, how.encoding)) as file:
        for number, line in enumerate(file, start=1):
            yield number, [line.rstrip("\r\n")]


def note_glued(
    lines: Iterator[tuple[int, list[str]]], path: str | Path, delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield lines; at their end, note those whose cells hold line breaks as if rows were glued.

    A quotation mark that is text, but opens a cell, makes one cell of all up to the next one.
    """
    width = 0  # of the header
    glued = []
    for number, cells in lines:
        width = width or len(cells)
        if any("\n" in cell for cell in cells) and looks_glued(cells, width, delimiter):
            glued.append(number)
        yield number, cells
    if glued:
        rows = formatting.count_rows(glued)
        note_once(
            path, f"lines within a cell look like rows, {rows}: is a quotation mark left open?"
        )


def looks_glued(cells: list[str], width: int, delimiter: str) -> bool:
    """Return whether each physical line of a record has as many cells as the header."""
    index = next(i for i, cell in enumerate(cells) if "\n" in cell)
    counts = [line.count(delimiter) + 1 for line in cells[index].splitlines()]
    counts[0] += index
    counts[-1] += len(cells) - index - 1
    return len(counts) > 1 and width > 1 and all(count == width for count in counts)


def open_text(path: str | Path, encoding: str) -> io.TextIOWrapper:
    """Open a text file so that its lines keep their ends, be they LF, CR LF or CR."""
    return io.TextIOWrapper(files.open_file(path), encoding=encoding, newline="")


def find_dialect(path: str | Path, how: reading.Reading = reading.Reading()) -> Dialect:
    """Return the Dialect of a file; fail if its encoding cannot be told.

    how: what the user says about it. Prints a note on an encoding other than UTF-8, and on how
    quotation marks of a tab file are read.
    """
    encoding = find_encoding(path, how.encoding)
    if how.encoding is None and encoding != "utf-8-sig":
        note_once(path, f"is read as {encoding}, not as UTF-8")
    with open_text(path, encoding) as file:
        sample = file.read(SAMPLE_CHARACTERS)
    if sample.startswith(WEBANNO):
        problem = "is WebAnno TSV, as INCEpTION exports it, with a token a line"
        errors.fail(f"{path} {problem}: {exports.INCEPTION_HINT}")
    named = SEPARATOR_LINE.match(sample)
    skipped = 1 if named else 0
    if how.delimiter:
        delimiter = how.delimiter
    elif named:
        delimiter = named[1]
    else:
        delimiter = guess_delimiter(sample, Path(path).suffix.lower())
    if delimiter != "\t":
        return Dialect(delimiter, encoding, skipped=skipped)
    with open_text(path, encoding) as file:
        quoted = find_quoting(itertools.islice(file, skipped, None))
    if quoted is None:
        return Dialect(delimiter, encoding, quoted=False, skipped=skipped)
    reading = "enclose cells" if quoted else "are part of the text"
    note_once(path, f"its quotation marks {reading}")
    return Dialect(delimiter, encoding, quoted, skipped)


def find_encoding(path: str | Path, named: str | None = None) -> str:
    """Return the encoding of a text file, by its bytes; fail if they do not tell.

    UTF-8, or UTF-16 with a mark at its start. Else cp1252 (Windows, western Europe), but only if
    all its bytes mean something there and few letters lie beyond ASCII: other code pages decode
    too, into other words. named: the one that the user names, returned if the file can be read so.
    """
    if named is not None:
        check_decodes(path, named, "give its true --encoding, or leave it out")
        return named
    with files.open_file(path) as file:
        start = file.read(BLOCK)
        utf16 = "utf-16" if start[:2] in UTF16_MARKS else find_unmarked_utf16(start)
        if utf16:
            check_decodes(path, utf16, "save it as .xlsx or as 'CSV UTF-8'")
            return utf16
        file.seek(0)
        try:
            for _ in codecs.iterdecode(iter(lambda: file.read(BLOCK), b""), "utf-8-sig"):
                pass
            return "utf-8-sig"
        except UnicodeDecodeError:
            pass
        file.seek(0)
        letters, foreign, undefined = count_letters(file)
    if undefined or foreign > FOREIGN_SHARE * letters:
        hint = "name it, as --encoding cp1251 does, or save it as .xlsx or as 'CSV UTF-8'"
        errors.fail(f"{path} is not UTF-8, and its encoding cannot be told: {hint}")
    return "cp1252"


def check_decodes(path: str | Path, encoding: str, hint: str) -> None:
    """Fail, with the line and the hint, if a file holds bytes that are no text in an encoding."""
    line = 1
    with files.open_file(path) as file:
        try:
            for text in codecs.iterdecode(iter(lambda: file.read(BLOCK), b""), encoding):
                line += text.count("\n")
        except UnicodeError:  # its subclass of decoding, or a UTF-16 file without its mark
            errors.fail(f"{path} is no text in {encoding} from about line {line} on: {hint}")


def find_unmarked_utf16(start: bytes) -> str | None:
    """Return the encoding of a file of UTF-16 without a mark, by its first bytes; None if it is
    none.

    Of most letters of western languages, one of two bytes is zero, which text has nowhere else.
    """
    pairs = len(start) // 2
    if not pairs:
        return None
    high_zeros = start[0 : 2 * pairs : 2].count(0) / pairs
    low_zeros = start[1 : 2 * pairs : 2].count(0) / pairs
    if low_zeros > UTF16_SHARE and high_zeros < 1 - UTF16_SHARE:
        return "utf-16-le"
    if high_zeros > UTF16_SHARE and low_zeros < 1 - UTF16_SHARE:
        return "utf-16-be"
    return None


def count_letters(file: BinaryIO) -> tuple[int, int, int]:
    """Return (letters, those of them beyond ASCII, bytes that cp1252 does not define) of a file.

    All bytes beyond ASCII count as letters.
    """
    letters, foreign, undefined = 0, 0, 0
    while chunk := file.read(BLOCK):
        letters += len(chunk) - len(chunk.translate(None, LETTERS + BEYOND_ASCII))
        foreign += len(chunk) - len(chunk.translate(None, BEYOND_ASCII))
        undefined += len(chunk) - len(chunk.translate(None, UNDEFINED))
    return letters, foreign, undefined


@functools.cache  # a file may be read twice
def note_once(path: str | Path, finding: str) -> None:
    """Print how a file is read."""
    print(f"note: {path}: {finding}")


def guess_delimiter(sample: str, suffix: str) -> str:
    """Return the delimiter by which most records of a sample have as many cells as its header.

    A header may hold any of the candidates in its texts, so that to count them there does not do.
    Without any delimiter in the header, as in a file of one column, it is the comma. suffix: of the
    file. With .tsv and .txt it is the tab if half of the records agree with it, or if there is no
    delimiter; and in a .txt file, which may hold sentences, any other needs more evidence.
    """
    prefer_tab = suffix in (".tsv", ".txt")
    best, best_score = "\t" if prefer_tab else ",", (0.0, 0)
    for delimiter in DELIMITERS:
        score = score_delimiter(sample, delimiter)
        if delimiter == "\t" and prefer_tab and score[0] >= 0.5:
            return delimiter
        if suffix == ".txt" and delimiter != "\t" and not is_certain(sample, score):
            continue
        if score > best_score:
            best, best_score = delimiter, score
    return best


def is_certain(sample: str, score: tuple[float, int]) -> bool:
    """Return whether a delimiter with that score cannot well be a part of sentences."""
    rows = sum(bool(line.strip()) for line in sample.splitlines()) - 1
    return score[0] >= CERTAIN_SHARE and rows >= CERTAIN_ROWS


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
        try:
            records = list(itertools.islice(filter(any, reader), SAMPLE_RECORDS + 1))
        except csv.Error:  # whoever reads the rows says what is wrong
            continue
        if not records:
            continue
        width = len(records[0])
        others = records[1:-1] or records[1:] or records  # the last may be cut off
        share = sum(len(cells) == width for cells in others) / len(others)
        if width > 1:
            scores.append((share, width))
    return max(scores)


def find_quoting(lines: Iterable[str]) -> bool | None:
    """Return whether the quotation marks of a tab-separated file enclose cells; None without any.

    They do if all of them obey quoting and a quoted cell needs it: it holds a tab, a line break or
    a doubled mark, or a comma while no other cell holds one, as Excel writes such files; or if the
    headers are quoted. They do not if physical lines that are rows by themselves would become one.
    """
    evidence = None
    for record in group_lines(lines):
        text = "".join(record)
        if evidence is not None and '"' not in text:  # most records by far
            evidence.add_plain(text)
            continue
        if not TAB_RECORD.fullmatch(text):
            return False
        cells = [cell for cell in TAB_CELL.findall(text) if cell]
        if evidence is None:
            if cells:
                evidence = QuotingEvidence(text, cells)
        else:
            evidence.add_quoted(record, cells)
    return evidence.decide() if evidence is not None else None


class QuotingEvidence:
    """What speaks for and against quotation marks that enclose the cells of a tab-separated
    file."""

    def __init__(self, header: str, cells: list[str]) -> None:
        """header: the record of the headers; cells: those that are not empty."""
        self.header_tabs = header.count("\t") - sum(cell.count("\t") for cell in cells)
        self.is_header_quoted = all(cell.startswith('"') for cell in cells)
        self.has_marks = any(cell.startswith('"') for cell in cells)
        self.is_needed = False
        self.has_quoted_comma = False
        self.has_plain_comma = False
        self.fewest_tabs = self.header_tabs  # of rows without marks: rows may be shorter
        self.joined: set[tuple[int, int]] = set()  # (fewest, most) tabs of lines that are joined

    def add_plain(self, text: str) -> None:
        """Take in a record without quotation marks."""
        self.has_plain_comma = self.has_plain_comma or "," in text
        if text.strip():
            self.fewest_tabs = min(self.fewest_tabs, text.count("\t"))

    def add_quoted(self, record: list[str], cells: list[str]) -> None:
        """Take in a record with marks; record: its physical lines, cells: those not empty."""
        self.has_marks = True
        tabs = [line.count("\t") for line in record if line.strip()]
        if len(tabs) > 1:
            self.joined.add((min(tabs), max(tabs)))
        for cell in cells:
            if not cell.startswith('"'):
                self.has_plain_comma = self.has_plain_comma or "," in cell
                continue
            self.is_needed = self.is_needed or NEEDS_QUOTING.search(cell[1:-1]) is not None
            self.has_quoted_comma = self.has_quoted_comma or "," in cell

    def decide(self) -> bool | None:
        """Return whether marks enclose cells; None if there are none."""
        if not self.has_marks:
            return None
        if self.is_header_quoted:
            return True
        for fewest, most in self.joined:  # lines that are as long as rows are
            if self.fewest_tabs <= fewest and most <= self.header_tabs:
                return False
        return self.is_needed or (self.has_quoted_comma and not self.has_plain_comma)


def group_lines(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield physical lines, those of one record together: until the quotation marks in them are
    even."""
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
