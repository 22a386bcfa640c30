"""Excel workbooks read: what is no workbook or made to do harm is refused, sheets come as lines of cells. No torch."""

import bisect
import io
import math
import re
import warnings
import zipfile

from openpyxl.cell.text import Text
from openpyxl.reader import excel
from openpyxl.utils import column_index_from_string, range_boundaries
from openpyxl.worksheet import _reader
from openpyxl.xml.constants import SHARED_STRINGS, SHEET_MAIN_NS
from openpyxl.xml.functions import iterparse

from stance.common import errors, files, formatting

# ---------------------------------------------------------------- settings
MAX_UNPACKED = (
    4 << 30
)  # bytes a workbook may unpack to; Excel's 1,048,576 rows of a comment each take 0.4 GB
MAX_RATIO = 200  # unpacked to packed size above which a large workbook is taken for a zip bomb; texts reach about 10
# --------------------------------------------------------------------------

MAX_ROWS, MAX_TEXT = (
    1_048_576,
    32_767,
)  # rows of a sheet, UTF-16 units of a cell; Excel cuts what is beyond
OLD_EXCEL = bytes.fromhex(
    "d0cf11e0"
)  # first bytes of .xls files and of password-protected .xlsx files
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")  # a part of the latter alone
STRICT = b"http://purl.oclc.org/ooxml/spreadsheetml"  # a rare dialect that openpyxl reads as empty sheets
DOCTYPES = (b"<!DOCTYPE", "<!DOCTYPE".encode("utf-16-le"), "<!DOCTYPE".encode("utf-16-be"))
MERGED = re.compile(rb"""<(?:\w+:)?mergeCell\s[^>]*?ref=["']([A-Z]+\d+:[A-Z]+\d+)""")
CHUNK, OVERLAP = 1 << 20, 200  # bytes scanned at a time, and again with the next ones
STRING_TAG, TEXT_TAG = f"{{{SHEET_MAIN_NS}}}si", f"{{{SHEET_MAIN_NS}}}t"


class Unstored(str):
    """The value of a formula that was written without one: empty text that can be told from an empty cell."""


UNSTORED = Unstored()


def name_location(path, title):
    """Return how messages name a sheet."""
    return f"{path}, sheet {formatting.quote(title)}"


def count_units(value):
    """Return the length of a cell's text as Excel counts it: in UTF-16, where an emoji counts 2; 0 for other cells."""
    return (
        len(value.encode("utf-16-le", errors="surrogatepass")) // 2 if isinstance(value, str) else 0
    )


def is_full(text):
    """Return whether a text is as long as a cell can hold."""
    return 2 * len(text) >= MAX_TEXT and count_units(text) == MAX_TEXT


def is_workbook(path):
    """Return whether a file is a zip archive or an old Excel file, whatever its name."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in (b"PK\3\4", OLD_EXCEL)
    except OSError:  # whoever reads it says what is wrong
        return False


def open_xlsx(path):
    """Yield (location, lines) for each sheet of a workbook; stop if it cannot be read.

    Lines are (row number, list of cells); rows without any cell are left out.
    """
    content = files.read_file(path)
    check_kind(path, content)
    warnings.filterwarnings(
        "ignore", category=UserWarning, module="openpyxl"
    )  # about styles and menus, not about data
    for location, lines in files.guard(load_sheets(path, content), path):
        yield location, files.guard(lines, path)


def check_kind(path, content):
    """Stop if a file's bytes are no zip archive, as every .xlsx is."""
    start = content[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if content.startswith(OLD_EXCEL):
        if ENCRYPTED in content:
            errors.fail(f"{path} has a password: save it in Excel as .xlsx without a password")
        errors.fail(f"{path} is an old .xls file: save it in Excel as .xlsx")
    if not content:
        errors.fail(f"{path} is empty: save it in Excel once more")
    if start.startswith((b"<html", b"<!doctype", b"<table", b"<?xml", b"<meta")):
        errors.fail(f"{path} is a web page despite its name: open it in Excel and save it as .xlsx")
    if not content.startswith(b"PK"):
        errors.fail(
            f"{path} is no workbook despite its name: if it holds plain text, rename it to .csv"
        )


def load_sheets(path, content):
    """Yield (location, lines) for each sheet of a workbook's bytes."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        merged = scan_parts(path, archive, len(content))
    reader = SheetReader(io.BytesIO(content), read_only=True, data_only=True)
    reader.read()
    for title, part in reader.sheets:
        location = name_location(path, title)
        lines = read_lines(reader, part)
        yield location, fill_merged(location, lines, merged[part]) if merged[part] else lines


def scan_parts(path, archive, packed):
    """Return {part: merged ranges, as text} of a workbook; stop if it is another kind of file, or made to do harm."""
    names = archive.namelist()
    if not any(name.startswith("xl/") for name in names) or "xl/workbook.bin" in names:
        errors.fail(
            f"{path} is no .xlsx workbook (but perhaps .xlsb, .ods or .docx): save it in Excel as .xlsx"
        )
    size = sum(
        part.file_size for part in archive.infolist()
    )  # reading stops there, whatever the part really holds
    if size > MAX_UNPACKED or size > max(MAX_RATIO * packed, 100 << 20):
        sizes = f"{size / 1e6:,.0f} MB from {packed / 1e6:,.1f} MB"
        errors.fail(f"{path} unpacks to {sizes}: copy its table into a new workbook")
    merged = {}
    for name in names:
        found, chunk = [], b""
        with archive.open(name) as source:
            while block := source.read(CHUNK):
                chunk = chunk[-OVERLAP:] + block
                # XML of Excel declares no types; declared entities can multiply a small file to any size.
                if name.endswith((".xml", ".rels", ".vml")) and any(
                    doctype in chunk for doctype in DOCTYPES
                ):
                    errors.fail(
                        f"{path}, part {name}, declares XML entities, as Excel never does: distrust the file"
                    )
                if name == "xl/workbook.xml" and STRICT in chunk:
                    errors.fail(
                        f"{path} is a 'Strict Open XML' workbook: save it in Excel as 'Excel Workbook'"
                    )
                if b"mergeCell" in chunk:
                    found += MERGED.findall(chunk)
        merged[name] = {text.decode() for text in found}
    return merged


class SheetReader(excel.ExcelReader):
    """openpyxl's reader of workbooks without what takes time and is not needed here: sizes of sheets, rich text."""

    def read_strings(self):
        part = self.package.find(SHARED_STRINGS)
        if part is not None:
            with self.archive.open(part.PartName[1:]) as source:
                nodes = (node for _, node in iterparse(source) if node.tag == STRING_TAG)
                self.shared_strings = [
                    read_text(node).replace("x005F_", "") for node in nodes
                ]  # as openpyxl does

    def read_worksheets(self):
        found = [
            (sheet.name, rel)
            for sheet, rel in self.parser.find_sheets()
            if "chartsheet" not in rel.Type
        ]
        self.sheets = [(name, rel.target) for name, rel in found if rel.target in self.valid_files]


def read_text(node):
    """Return the text of a string node, with its formatted runs joined, and free the node's memory."""
    plain = len(node) == 1 and node[0].tag == TEXT_TAG
    text = (node[0].text or "") if plain else Text.from_tree(node).content
    node.clear()
    return text


class CellParser(_reader.WorkSheetParser):
    """openpyxl's parser of sheets with a short way for text, which nearly all cells hold, and an eye for formulas."""

    def parse_cell(self, element):
        """Return (column, value): text, number, truth value, date, None, or UNSTORED."""
        kind, reference = element.get("t"), element.get("r")
        if reference and len(element) == 1 and (kind == "s" or kind == "inlineStr"):
            child = element[0]
            if child.tag in (_reader.VALUE_TAG, _reader.INLINE_STRING):
                self.col_counter = column_index_from_string(reference.rstrip("0123456789"))
                return self.col_counter, self.shared_strings[
                    int(child.text)
                ] if kind == "s" else read_text(child)
        cell = super().parse_cell(element)
        # A formula whose result is empty text has the type "str" and no value either.
        unstored = (
            cell["value"] is None
            and kind != "str"
            and element.find(_reader.FORMULA_TAG) is not None
        )
        return cell["column"], UNSTORED if unstored else cell["value"]


def read_lines(reader, part):
    """Yield (row number, list of cells) of a sheet, with the stored values of formulas.

    Not openpyxl's own iter_rows, which believes the size that a file claims and fills every gap: a blank typed into the
    last row of a sheet would cost a million rows.
    """
    book = reader.wb
    formats = {"date_formats": book._date_formats, "timedelta_formats": book._timedelta_formats}
    with reader.archive.open(part) as source:
        parser = CellParser(
            source, reader.shared_strings, data_only=True, epoch=book.epoch, **formats
        )
        for number, found in parser.parse():
            cells = [None] * max((column for column, _ in found), default=0)
            for column, value in found:
                cells[column - 1] = value
            yield number, cells


def fill_merged(location, lines, ranges):
    """Yield the lines, with the value of a merged cell in each of its rows that holds something else; note the rows."""
    spans, values, filled = {}, {}, []
    for column, first, _, last in sorted(map(range_boundaries, ranges)):
        spans.setdefault(column - 1, []).append((first, last))
    for number, cells in lines:
        holds_more = any(cell is not None and str(cell).strip() for cell in cells)
        for column, parts in spans.items():
            first, last = parts[max(bisect.bisect(parts, (number, math.inf)) - 1, 0)]
            cells += [None] * (column + 1 - len(cells))
            if number == first:
                values[column] = cells[column]
            elif first < number <= last and holds_more:
                cells[column] = values.get(column)
                filled.append(number)
        yield number, cells
    if filled:
        rows = formatting.count_rows(sorted(set(filled)))
        print(f"note: {location}: merged cells read as if their value stood in each row, {rows}")
