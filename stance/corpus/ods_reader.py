"""OpenDocument spreadsheets (.ods) read: sheets come as lines of cells. No torch.

By hand and not by python-calamine, which drops tabs and line breaks within a text, and does not
tell error values from empty cells.
"""

import datetime
import io
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, iterparse

from stance.common import errors, files
from stance.corpus import error_values, workbook_reader

CONTENT = "content.xml"  # the part that holds all cells
MANIFEST = "META-INF/manifest.xml"  # the list of the parts
OFFICE_SPACE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
TABLE_SPACE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
TEXT_SPACE = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
CALC_SPACE = "{urn:org:documentfoundation:names:experimental:calc:xmlns:calcext:1.0}"

SPACES = re.compile(r"[ \t\r\n]+")  # which count as one space, as in HTML
CLOCK_TIME = re.compile(r"PT(\d+)H(\d+)M(\d+)(?:[.,]\d+)?S")
LINKED_SHEET = "'file:"  # how the copies of other files' sheets are called, which nobody sees
# Cells that rows may come to by repetition in a sheet: it is how a small file is made to fill
# any memory. Excel's rows of 50 columns each.
MAX_REPEATED = 50 * workbook_reader.MAX_ROWS


class Cell(NamedTuple):
    """A cell of a row, as it stands in the file."""

    value: object  # text, number, truth value, date, time, error value, None, or UNSTORED
    rows: int  # that it spans


def open_ods(path: str | Path) -> Iterator[tuple[str, workbook_reader.Lines]]:
    """Yield (location, lines) for each sheet of a spreadsheet; fail if it cannot be read.

    Lines are (row number, list of cells); rows without any cell are left out.
    """
    content = files.read_file(path)
    if content.startswith(workbook_reader.OLD_EXCEL):
        errors.fail(f"{path} is no .ods file despite its name: rename it to .xls")
    workbook_reader.check_zip(path, content)
    for title, index in files.guard(list_titles(path, content), path):
        location = workbook_reader.name_location(path, title)
        yield location, files.guard(read_ods_lines(path, location, content, index), path)


def list_titles(path: str | Path, content: bytes) -> Iterator[tuple[str, int]]:
    """Yield (title, index among all) of the sheets; fail if the file was made to do harm."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        if CONTENT not in names:
            hint = "rename it to .xlsx, or save it as .ods"
            errors.fail(f"{path} is no .ods spreadsheet (but perhaps .xlsx): {hint}")
        workbook_reader.check_unpacked(path, archive, len(content))
        if MANIFEST in names and b"encryption-data" in archive.read(MANIFEST):
            errors.fail(f"{path} has a password: save it without one")
        with archive.open(CONTENT) as source:
            for chunk in workbook_reader.read_chunks(source):
                workbook_reader.check_chunk(path, CONTENT, chunk)
    for index, title, row in walk_sheets(content):
        if row is None and not title.startswith(LINKED_SHEET):
            yield title, index


def walk_sheets(content: bytes) -> Iterator[tuple[int, str, Element | None]]:
    """Yield (index, title, None) where a sheet begins, then (index, title, element) for its rows.

    Each element is emptied after its turn.
    """
    open_tables = []  # a cell may hold a table of its own
    index = -1
    with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(CONTENT) as source:
        for event, element in iterparse(source, events=("start", "end")):
            if event == "start" and element.tag == TABLE_SPACE + "table":
                open_tables.append(element)
                if len(open_tables) == 1:
                    index += 1
                    title = element.get(TABLE_SPACE + "name", "")
                    yield index, title, None
            elif event == "end" and element.tag == TABLE_SPACE + "table":
                open_tables.pop().clear()
            elif (
                event == "end"
                and element.tag == TABLE_SPACE + "table-row"
                and len(open_tables) == 1
            ):
                yield index, title, element
                element.clear()
                open_tables[0].clear()


def read_ods_lines(
    path: str | Path, location: str, content: bytes, index: int
) -> workbook_reader.Lines:
    """Yield (row number, cells) of a sheet, with the value of a merged cell in each of its rows
    that holds more than it.

    index: of the sheet in the file. Prints a note with the rows that were filled, once all are read.
    """
    merged = {}  # index of a column: (last row, value) of its merged cell that began last
    filled = []
    for number, row_cells in repeat_rows(path, content, index):
        cells = [cell.value for cell in row_cells]
        holds_more = any(value is not None and str(value).strip() for value in cells)
        for column, (last, value) in merged.items():
            if number <= last and holds_more:
                cells += [None] * (column + 1 - len(cells))
                cells[column] = value
                filled.append(number)
        for column, cell in enumerate(row_cells):
            if cell.rows > 1:
                merged[column] = (number + cell.rows - 1, cell.value)
        yield number, cells
    workbook_reader.note_filled(location, filled)


def repeat_rows(path: str | Path, content: bytes, index: int) -> Iterator[tuple[int, list[Cell]]]:
    """Yield (row number, cells) of a sheet, each as often as it is repeated, but not empty ones."""
    number = 0
    repeated = 0  # cells
    for element in iterate_rows(content, index):
        times = int(element.get(TABLE_SPACE + "number-rows-repeated", "1"))
        if has_value(element):
            cells = read_row(element)
            repeated += times * len(cells)
            if number + times > workbook_reader.MAX_ROWS or repeated > MAX_REPEATED:
                problem = f"repeats a row {times:,} times after row {number}"
                errors.fail(f"{path} {problem}: copy its table into a new workbook")
            for offset in range(times):
                yield number + offset + 1, cells
        number += times


def iterate_rows(content: bytes, wanted: int) -> Iterator[Element]:
    """Yield the row elements of the sheet of the index wanted; each is emptied after its turn."""
    for index, _, row in walk_sheets(content):
        if index > wanted:
            return
        if index == wanted and row is not None:
            yield row


def has_value(row: Element) -> bool:
    """Return whether a row holds anything: most rows of a file are there for their style alone."""
    kinds = (OFFICE_SPACE + "value-type", TABLE_SPACE + "formula")
    return any(len(cell) or any(cell.get(kind) for kind in kinds) for cell in row)


def read_row(row: Element) -> list[Cell]:
    """Return the cells of a row up to the last that holds something, repeated ones each time."""
    cells = []
    for element in row:
        if element.tag not in (TABLE_SPACE + "table-cell", TABLE_SPACE + "covered-table-cell"):
            continue
        times = int(element.get(TABLE_SPACE + "number-columns-repeated", "1"))
        cell = Cell(read_cell(element), int(element.get(TABLE_SPACE + "number-rows-spanned", "1")))
        if cell.value is None:  # a row of 16,384 empty cells is the usual end of one
            times = min(times, workbook_reader.MAX_COLUMNS)
        elif len(cells) + times > workbook_reader.MAX_COLUMNS:
            raise ValueError(f"a cell is repeated {times:,} times")
        cells += [cell] * times
    while cells and cells[-1].value is None and cells[-1].rows == 1:
        cells.pop()
    return cells


def read_cell(element: Element) -> object:
    """Return the value of a cell element, as Cell has it."""
    kind = element.get(OFFICE_SPACE + "value-type")
    text = "\n".join(join_runs(part) for part in element if part.tag == TEXT_SPACE + "p")
    if element.get(CALC_SPACE + "value-type") == "error":
        return error_values.ErrorValue(text or "#ERROR!")
    if kind in ("float", "percentage", "currency"):
        return read_number(element.get(OFFICE_SPACE + "value", ""))
    if kind == "boolean":
        return element.get(OFFICE_SPACE + "boolean-value") == "true"
    if kind == "date":
        return read_iso_date(element.get(OFFICE_SPACE + "date-value", "")) or text
    if kind == "time":
        return read_clock_time(element.get(OFFICE_SPACE + "time-value", "")) or text
    text = text or element.get(OFFICE_SPACE + "string-value", "")
    if kind is None and not text and element.get(TABLE_SPACE + "formula"):
        return workbook_reader.UNSTORED
    return text or None


def join_runs(paragraph: Element) -> str:
    """Return the text of a paragraph: spaces, tabs and line breaks are elements of their own, and
    comments are none of it."""
    parts = []
    collect_runs(paragraph, parts)
    text = ""
    for part, is_plain in parts:
        if is_plain:
            part = SPACES.sub(" ", part)
            if not text or text.endswith(" "):
                part = part.removeprefix(" ")
        text += part
    if parts and parts[-1][1]:
        text = text.removesuffix(" ")
    return text


def collect_runs(element: Element, parts: list[tuple[str, bool]]) -> None:
    """Add (text, whether spaces in it may count as one) of all that an element holds to parts."""
    if element.text:
        parts.append((element.text, True))
    for child in element:
        if child.tag == TEXT_SPACE + "s":
            parts.append((" " * int(child.get(TEXT_SPACE + "c", "1")), False))
        elif child.tag == TEXT_SPACE + "tab":
            parts.append(("\t", False))
        elif child.tag == TEXT_SPACE + "line-break":
            parts.append(("\n", False))
        elif child.tag != OFFICE_SPACE + "annotation":
            collect_runs(child, parts)
        if child.tail:
            parts.append((child.tail, True))


def read_number(text: str) -> int | float | None:
    """Return a number as Excel has it: without a point if it is whole."""
    number = float(text)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def read_iso_date(text: str) -> datetime.date | None:
    """Return the date or date and time of ISO 8601; None if it is none that Python knows."""
    try:
        if "T" in text:
            return datetime.datetime.fromisoformat(text[:19])  # seconds may have any digits
        return datetime.date.fromisoformat(text)
    except ValueError:  # the year 0, or beyond 9999
        return None


def read_clock_time(text: str) -> datetime.time | None:
    """Return the time of PT13H30M00S; None if it is a duration of more than a day."""
    found = CLOCK_TIME.fullmatch(text)
    if not found or int(found[1]) > 23:
        return None
    return datetime.time(int(found[1]), int(found[2]), int(found[3]))
