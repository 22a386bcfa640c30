"""Excel workbooks read: sheets come as lines of cells. No torch.

What is no workbook, or was made to do harm, is refused.
"""

import bisect
import io
import math
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree.ElementTree import Element

from openpyxl.cell.text import Text
from openpyxl.reader import excel
from openpyxl.styles.stylesheet import apply_stylesheet
from openpyxl.utils import column_index_from_string, range_boundaries
from openpyxl.worksheet import _reader
from openpyxl.xml.constants import SHARED_STRINGS, SHEET_MAIN_NS
from openpyxl.xml.functions import iterparse

from stance.common import errors, files, formatting
from stance.corpus import error_values

# ---------------------------------------------------------------- settings
# Bytes a workbook may unpack to; Excel's 1,048,576 rows of a comment each take 0.4 GB.
MAX_UNPACKED = 4 << 30
# Unpacked to packed size above which a large workbook is taken for a zip bomb; texts reach 10.
MAX_RATIO = 200
SMALL = 100 << 20  # bytes up to which a workbook may unpack at any ratio
# --------------------------------------------------------------------------

# What Excel can hold; it cuts what is beyond.
MAX_ROWS = 1_048_576  # of a sheet
MAX_COLUMNS = 16_384
MAX_TEXT = 32_767  # UTF-16 units of a cell

# First bytes of .xls files and of password-protected .xlsx files, and a part of the latter alone.
OLD_EXCEL = bytes.fromhex("d0cf11e0")
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
# How web pages begin, and the tables that web sites offer as .xls.
WEB_PAGES = (b"<html", b"<!doctype", b"<table", b"<?xml", b"<meta")
# A rare dialect that openpyxl reads as empty sheets.
STRICT = b"http://purl.oclc.org/ooxml/spreadsheetml"
DOCTYPES = (b"<!DOCTYPE", "<!DOCTYPE".encode("utf-16-le"), "<!DOCTYPE".encode("utf-16-be"))
MERGED = re.compile(rb"""<(?:\w+:)?mergeCell\s[^>]*?ref=["']([A-Z]+\d+:[A-Z]+\d+)""")

CHUNK = 1 << 20  # bytes scanned at a time
OVERLAP = 200  # of them scanned again with the next ones
STRING_TAG = f"{{{SHEET_MAIN_NS}}}si"
TEXT_TAG = f"{{{SHEET_MAIN_NS}}}t"

Lines = Iterator[tuple[int, list]]  # of a table: row number as Excel shows it, raw cells


class Unstored(str):
    """The value of a formula that was stored without one: text that is empty, but no empty cell."""


UNSTORED = Unstored()


def name_location(path: str | Path, title: str) -> str:
    """Return how messages name a sheet."""
    return f"{path}, sheet {formatting.quote(title)}"


def count_units(value: object) -> int:
    """Return the length of a cell's text as Excel counts it: in UTF-16, where an emoji counts 2.

    0 for cells that hold no text.
    """
    if not isinstance(value, str):
        return 0
    return len(value.encode("utf-16-le", errors="surrogatepass")) // 2


def is_full(text: str) -> bool:
    """Return whether a text is as long as a cell can hold."""
    # A character has at most 2 units: of most texts, none need be counted.
    return 2 * len(text) >= MAX_TEXT and count_units(text) == MAX_TEXT


def is_workbook(path: str | Path) -> bool:
    """Return whether a file is a zip archive or an old Excel file, whatever its name."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in (b"PK\3\4", OLD_EXCEL)
    except OSError:  # whoever reads it says what is wrong
        return False


def open_xlsx(path: str | Path) -> Iterator[tuple[str, Lines]]:
    """Yield (location, lines) for each sheet of a workbook; fail if it cannot be read.

    Lines are (row number, list of cells); rows without any cell are left out.
    """
    content = files.read_file(path)
    check_kind(path, content)
    # These are about styles and menus, not about data.
    warnings.filterwarnings("ignore", category=UserWarning, module="openpyxl")
    for location, lines in files.guard(load_sheets(path, content), path):
        yield location, files.guard(lines, path)


def check_kind(path: str | Path, content: bytes) -> None:
    """Fail if a file's bytes are no zip archive, as every .xlsx is."""
    if content.startswith(OLD_EXCEL):
        if ENCRYPTED in content:
            errors.fail(f"{path} has a password: save it in Excel as .xlsx without a password")
        errors.fail(f"{path} is an old .xls file despite its name: rename it to .xls")
    check_zip(path, content)


def check_zip(path: str | Path, content: bytes) -> None:
    """Fail if a file's bytes are no zip archive, as newer workbooks are; say what they are."""
    if not content:
        errors.fail(f"{path} is empty: save it in Excel once more")
    start = content[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(WEB_PAGES):
        errors.fail(f"{path} is a web page despite its name: open it in Excel and save it as .xlsx")
    if not content.startswith(b"PK"):
        hint = "if it holds plain text, rename it to .csv"
        errors.fail(f"{path} is no workbook despite its name: {hint}")


def load_sheets(path: str | Path, content: bytes) -> Iterator[tuple[str, Lines]]:
    """Yield (location, lines) for each sheet of a workbook's bytes."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        merged = scan_parts(path, archive, len(content))
    reader = SheetReader(io.BytesIO(content), read_only=True, data_only=True)
    reader.read()
    if not reader.has_styles:
        print(f"note: {path}: its styles are damaged: dates are read as numbers")
    for title, part in reader.sheets:
        location = name_location(path, title)
        lines = read_lines(reader, part)
        if merged[part]:
            lines = fill_merged(location, lines, merged[part])
        yield location, lines


def scan_parts(path: str | Path, archive: zipfile.ZipFile, packed: int) -> dict[str, set[str]]:
    """Return {part: merged ranges, such as A2:A5} of a workbook whose file has packed bytes.

    Fails if it is another kind of file, or made to do harm.
    """
    names = archive.namelist()
    if not any(name.startswith("xl/") for name in names) or "xl/workbook.bin" in names:
        problem = "is no .xlsx workbook (but perhaps .xlsb, .ods or .docx)"
        errors.fail(f"{path} {problem}: save it in Excel as .xlsx")
    check_unpacked(path, archive, packed)
    merged = {}
    for name in names:
        found = set()
        with archive.open(name) as source:
            for chunk in read_chunks(source):
                check_chunk(path, name, chunk)
                if b"mergeCell" in chunk:
                    found.update(MERGED.findall(chunk))
        merged[name] = {text.decode() for text in found}
    return merged


def check_unpacked(path: str | Path, archive: zipfile.ZipFile, packed: int) -> None:
    """Fail if a workbook whose file has packed bytes would unpack to an absurd size."""
    # Reading stops at the sizes that are claimed, whatever the parts really hold.
    size = sum(part.file_size for part in archive.infolist())
    if size > MAX_UNPACKED or size > max(MAX_RATIO * packed, SMALL):
        sizes = f"{size / 1e6:,.0f} MB from {packed / 1e6:,.1f} MB"
        errors.fail(f"{path} unpacks to {sizes}: copy its table into a new workbook")


def read_chunks(source: BinaryIO) -> Iterator[bytes]:
    """Yield all bytes, CHUNK at a time, each with the last OVERLAP bytes of what came before it."""
    chunk = b""
    while block := source.read(CHUNK):
        chunk = chunk[-OVERLAP:] + block
        yield chunk


def check_chunk(path: str | Path, name: str, chunk: bytes) -> None:
    """Fail if bytes of the part name show that it was not written by Excel as an .xlsx file."""
    # XML of Excel declares no types; declared entities can multiply a small file to any size.
    if name.endswith((".xml", ".rels", ".vml")) and any(doctype in chunk for doctype in DOCTYPES):
        problem = f"part {name}, declares XML entities, as Excel never does"
        errors.fail(f"{path}, {problem}: distrust the file")
    if name == "xl/workbook.xml" and STRICT in chunk:
        hint = "save it in Excel as 'Excel Workbook'"
        errors.fail(f"{path} is a 'Strict Open XML' workbook: {hint}")


class SheetReader(excel.ExcelReader):
    """openpyxl's reader of workbooks without what takes time and is not needed here.

    That is the sizes of sheets, rich text, properties, themes and names; damage to any of these
    then does no harm.
    """

    def read(self) -> None:
        """Read everything that the cells of all sheets need."""
        self.read_manifest()
        self.read_strings()
        self.read_workbook()
        self.has_styles = True
        try:
            apply_stylesheet(self.archive, self.wb)
        except Exception:  # openpyxl has no error of its own, and any kind of damage is the same
            self.has_styles = False
        self.read_worksheets()

    def read_strings(self) -> None:
        """Set shared_strings, the list of the texts that cells refer to."""
        part = self.package.find(SHARED_STRINGS)
        if part is None:
            return
        with self.archive.open(part.PartName[1:]) as source:
            nodes = (node for _, node in iterparse(source) if node.tag == STRING_TAG)
            # Without x005F_, as openpyxl does.
            self.shared_strings = [read_text(node).replace("x005F_", "") for node in nodes]

    def read_worksheets(self) -> None:
        """Set sheets, the list of (title, part) of all sheets of cells."""
        self.sheets = []
        for sheet, relation in self.parser.find_sheets():
            if "chartsheet" not in relation.Type and relation.target in self.valid_files:
                self.sheets.append((sheet.name, relation.target))


def read_text(node: Element) -> str:
    """Return the text of a string node, its formatted runs joined; free the node's memory."""
    if len(node) == 1 and node[0].tag == TEXT_TAG:
        text = node[0].text or ""
    else:
        text = Text.from_tree(node).content
    node.clear()
    return text


class CellParser(_reader.WorkSheetParser):
    """openpyxl's parser of sheets, with a short way for text and an eye for formulas.

    Nearly all cells hold text.
    """

    def parse_cell(self, element: Element) -> tuple[int, object]:
        """Return (column, value): text, number, truth value, date, None, or UNSTORED.

        Columns count from 1.
        """
        kind = element.get("t")
        reference = element.get("r")
        if reference and len(element) == 1 and (kind == "s" or kind == "inlineStr"):
            child = element[0]
            if child.tag in (_reader.VALUE_TAG, _reader.INLINE_STRING):
                self.col_counter = column_index_from_string(reference.rstrip("0123456789"))
                if kind == "s":
                    index = int(child.text)
                    if index < 0:
                        raise IndexError(f"text number {index}")
                    return self.col_counter, self.shared_strings[index]
                return self.col_counter, read_text(child)
        cell = super().parse_cell(element)
        value = cell["value"]
        # A formula whose result is empty text has the type "str" and no value either.
        if value is None and kind != "str" and element.find(_reader.FORMULA_TAG) is not None:
            value = UNSTORED
        elif kind == "e" and isinstance(value, str):
            value = error_values.ErrorValue(value)
        return cell["column"], value


def read_lines(reader: SheetReader, part: str) -> Lines:
    """Yield (row number, list of cells) of a sheet, with the stored values of formulas.

    Not openpyxl's own iter_rows, which believes the size that a file claims and fills every gap: a
    blank typed into the last row of a sheet would cost a million rows.
    """
    book = reader.wb
    formats = {"date_formats": book._date_formats, "timedelta_formats": book._timedelta_formats}
    with reader.archive.open(part) as source:
        parser = CellParser(
            source, reader.shared_strings, data_only=True, epoch=book.epoch, **formats
        )
        for number, found in parser.parse():
            width = max((column for column, _ in found), default=0)
            cells = [None] * width
            for column, value in found:
                cells[column - 1] = value
            yield number, cells


def fill_merged(location: str, lines: Lines, ranges: Iterable[str]) -> Lines:
    """Yield the lines, with the value of a merged cell in each of its rows that holds more than it.

    ranges: of the merged cells, such as A2:A5; their first columns are filled. Prints a note with
    the rows, once all are read.
    """
    spans = {}  # index of a column: (first row, last row) of its merged cells, in their order
    for column, first, _, last in sorted(map(range_boundaries, ranges)):
        spans.setdefault(column - 1, []).append((first, last))
    values = {}  # index of a column: value of the merged cell that began last
    filled = []
    for number, cells in lines:
        holds_more = any(cell is not None and str(cell).strip() for cell in cells)
        for column, column_spans in spans.items():
            begun = bisect.bisect(column_spans, (number, math.inf))
            first, last = column_spans[max(begun - 1, 0)]
            cells += [None] * (column + 1 - len(cells))
            if number == first:
                values[column] = cells[column]
            elif first < number <= last and holds_more:
                cells[column] = values.get(column)
                filled.append(number)
        yield number, cells
    note_filled(location, filled)


def note_filled(location: str, numbers: list[int]) -> None:
    """Print a note with the numbers of the rows that got the value of a merged cell, if any."""
    if numbers:
        rows = formatting.count_rows(sorted(set(numbers)))
        print(f"note: {location}: merged cells read as if their value stood in each row, {rows}")
