"""The annotated corpus: files to rows, rows to splits, splits back from disk. No torch.

A row is a dict(topic, text, label, stance, row): cleaned texts, one of prompts.LABELS, the stance as the annotator
spelled it, and the row number that Excel shows. A user's mistake in a file ends in one line through records.stop.
"""

import csv
import hashlib
import io
import itertools
import json
import re
import unicodedata
import warnings
from pathlib import Path

import openpyxl

import prompts
import records

# ---------------------------------------------------------------- settings
COLUMN_NAMES = {  # headers accepted for each column; compared after strip and casefold
    "topic": ("topic", "claim", "hypothesis", "target"),
    "text": ("text", "sentence", "comment"),
    "stance": ("stance", "label", "gold"),
}
SPLITS = ("train", "val", "test")
HELD_OUT_SHARES = {"val": 0.1, "test": 0.1}  # of the rows; train gets the rest
SPLIT_KEYS = ("id", "topic", "text", "stance", "prompt", "label")  # of a line in a split file, in this order
SHOWN = 10  # rows or spellings that a message lists before it only counts them
# --------------------------------------------------------------------------

EXCEL_ERRORS = {"#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NUM!", "#NULL!"}
OLD_EXCEL = bytes.fromhex("d0cf11e0")  # first bytes of .xls files and of password-protected .xlsx files
REMEDY = "run prepare_data.py again"

CLEANING = {  # for str.translate; the joiners U+200C and U+200D stay: Persian and emoji need them
    **dict.fromkeys([*range(32), *range(0x7F, 0xA0), *range(0xD800, 0xE000)]),  # controls, halves of characters
    **dict.fromkeys(map(ord, "\u00ad\u180e\u200b\u200e\u200f\u2060\ufeff")),  # soft hyphen, zero width, BOM
    **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)]),  # marks of writing direction
    **dict.fromkeys([9, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " "),
    **dict.fromkeys(map(ord, "\n\v\f\x85\u2028\u2029"), "\n"),
    ord("\r"): "\r",
}
LINE_END = re.compile(r"(?:_x000D_|\r)\n?")  # Excel writes a carriage return as _x000D_
INVISIBLE = dict.fromkeys(map(ord, "\u200c\u200d\ufe0e\ufe0f"))  # joiners and emoji style, no part of a key
# Signs that carry meaning beside digits stay in a key: 5 %, -5, 3.2, 3:2. NFKC maps wide punctuation into this range.
PUNCTUATION = {chr(code) for code in range(0x3100) if unicodedata.category(chr(code))[0] == "P"} - set("%‰-.,:/")
GAP = re.compile(rf"(?:\s|[{re.escape(''.join(sorted(PUNCTUATION)))}]|[-.,:/](?!\d))+")


def read_corpus(path):
    """Read an annotated .xlsx, .csv or .tsv file into a list of rows; stop with all its defects in one line.

    Texts are cleaned; rows without topic, text and stance are skipped; other columns are ignored.
    """
    place, lines = open_table(path, tuple(COLUMN_NAMES))
    rows, faults, unknown, converted = [], [], {}, []
    for number, cells in lines:
        topic, text, stance = values = [read_cell(cell) for cell in cells]
        if not any(values):
            continue
        label = prompts.parse_stance(stance)
        bad = [f"{name} {value or 'empty'}" for name, value in zip(COLUMN_NAMES, values) if value in {"", *EXCEL_ERRORS}]
        if bad:
            faults.append(f"row {number} ({', '.join(bad)})")
        elif label is None:
            unknown.setdefault(stance, []).append(number)
        else:
            rows.append({"topic": topic, "text": text, "label": label, "stance": stance, "row": number})
        if not all(isinstance(cell, str) for cell in cells):
            converted.append(number)
    check_rows(place, rows, faults, unknown)
    if converted:
        print(f"note: {place}: numbers, dates or truth values read as text in {count_rows(converted)}")
    return rows


def open_table(path, needed):
    """Return (place, lines): where the table is, and an iterator over (row number, raw cells in the order of needed).

    The table is the first sheet whose first row that is not empty has a header for every needed column.
    """
    seen = []
    for place, lines in open_xlsx(path) if Path(path).suffix.lower() == ".xlsx" else open_csv(path):
        number, header = next(((number, cells) for number, cells in lines if any(map(read_cell, cells))), (1, ()))
        names = [read_cell(cell) for cell in header]
        found = [[i for i, name in enumerate(names) if name.casefold() in COLUMN_NAMES[column]] for column in needed]
        for column, places in zip(needed, found):
            if all(found) and len(places) > 1:
                fitting = " and ".join(quote(names[i]) for i in places)
                stop_at = f"{place}, row {number}: headers {fitting} both fit the {column} column"
                records.stop(f"{stop_at}: rename or delete those that are not the {column}")
        if all(found):
            columns = [places[0] for places in found]
            return place, ((n, [cells[i] if i < len(cells) else None for i in columns]) for n, cells in lines)
        seen.append(f"{place} has {', '.join(quote(name) for name in names if name) or 'nothing'}")
    accepted = ", ".join(f"{column} ({'|'.join(COLUMN_NAMES[column])})" for column in needed)
    records.stop(f"no table with the headers {accepted}: {'; '.join(seen)}: rename the headers in the first row")


def open_xlsx(path):
    """Yield (place, lines) for each sheet of a workbook; stop if it cannot be read."""
    content = read_file(path)
    if content.startswith(OLD_EXCEL):
        records.stop(f"{path} is an old .xls file or has a password: save it in Excel as .xlsx without a password")
    if not content.startswith(b"PK"):
        records.stop(f"{path} is not an Excel workbook, whatever its name says: save it in Excel as .xlsx")
    warnings.filterwarnings("ignore", category=UserWarning, module="openpyxl")  # about styles and menus, not about data
    try:
        for sheet in openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True).worksheets:
            sheet.reset_dimensions()  # the size stored in the file is a guess of the program that wrote it
            yield f"{path}, sheet {quote(sheet.title)}", guard_sheet(path, sheet)
    except Exception as problem:
        stop_damaged(path, problem)


def guard_sheet(path, sheet):
    """Yield (row number, cells) of a sheet; stop if the file is damaged further down."""
    try:
        yield from enumerate(sheet.iter_rows(values_only=True), start=1)
    except Exception as problem:  # openpyxl has no error class of its own for damaged parts
        stop_damaged(path, problem)


def stop_damaged(path, problem):
    """Stop on a workbook that openpyxl cannot read."""
    records.stop(f"{path} is damaged or incomplete ({quote(str(problem))}): open it in Excel and save it again as .xlsx")


def open_csv(path):
    """Yield the one (place, lines) of a .csv or .tsv file; stop if it cannot be read."""
    if Path(path).suffix.lower() not in (".csv", ".tsv"):
        records.stop(f"{path} is no .xlsx, .csv or .tsv file: save it in Excel as .xlsx")
    try:
        content = read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        records.stop(f"{path} is not UTF-8: save it in Excel as .xlsx or as 'CSV UTF-8'")
    first = next(filter(str.strip, io.StringIO(content)), "")
    delimiter = max(",;\t", key=first.count)  # many European versions of Excel write semicolons
    yield path, guard_csv(path, csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True))


def guard_csv(path, reader):
    """Yield (row number, cells): a row is a record, as in Excel, also when a text has line breaks."""
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            yield number, cells
    except csv.Error as problem:
        records.stop(f"{path}, row {number + 1}: {problem}: check its quotation marks, or save the file as .xlsx")


def read_file(path):
    """Return the bytes of a file: in memory, so that Excel on Windows may keep the file open."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        records.stop(f"{path} not found: check the path of the corpus file")
    except OSError as problem:
        records.stop(f"{path} cannot be opened ({problem.strerror}): close it in other programs and check the path")


def read_cell(cell):
    """Return a cell as cleaned text; None (an empty cell, or a formula without a stored value) as ''."""
    return "" if cell is None else clean_text(str(cell))


def clean_text(value):
    """Return the text without what Excel and web pages smuggle in; ordinary text stays as it is, to the byte.

    NFC; odd spaces to a space; odd line ends to a line feed; invisible and control characters dropped; ends stripped.
    """
    return unicodedata.normalize("NFC", LINE_END.sub("\n", value.translate(CLEANING))).strip()


def check_rows(place, rows, faults, unknown):
    """Stop if a file has empty or broken cells, unknown stance spellings, or no rows."""
    parts = []
    if faults:
        parts.append(f"{len(faults)} rows with empty or broken cells: {list_first(faults)}: fill the cells or delete the "
                     "rows (a formula is empty until Excel has saved its value, a merged cell below its first row)")
    if unknown:
        spellings = [f"{quote(stance)} in {count_rows(numbers)}" for stance, numbers in unknown.items()]
        known = ", ".join(prompts.LABEL_OF_SPELLING)
        parts.append(f"unknown stance {list_first(spellings)}: write one of {known}, or add a spelling in prompts.py")
    if not rows and not parts:
        parts.append("no rows below the header: fill in the table")
    if parts:
        records.stop(f"{place}: {'; '.join(parts)}")
