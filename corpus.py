"""The annotated corpus: files to rows, rows to splits, splits back from disk. No torch.

A row is a dict(topic, text, label, stance, row): cleaned texts, one of prompts.LABELS, the stance as the annotator
spelled it, and the row number that Excel shows. A user's mistake in a file ends in one line through records.stop.
"""

import csv
import functools
import hashlib
import io
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

BROKEN = {"", "#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NUM!", "#NULL!"}  # empty, and Excel's error values
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
KEYING = {**CLEANING, **dict.fromkeys(map(ord, "\u200c\u200d\ufe0e\ufe0f"))}  # a key is free of joiners and emoji style
# Signs that carry meaning beside digits stay in a key: 5 %, -5, 3.2, 3:2. NFKC maps wide punctuation into this range.
SIGNS = "%‰-.,:/"
PUNCTUATION = {
    code: " " for code in range(0x3100) if unicodedata.category(chr(code))[0] == "P" and chr(code) not in SIGNS
}
IDLE_SIGN = re.compile(r"[-.,:/](?!\d)")


def read_corpus(path):
    """Read an annotated .xlsx, .csv or .tsv file into a list of rows; stop with all its defects in one line.

    Texts are cleaned; rows without topic, text and stance are skipped; other columns are ignored.
    """
    place, lines = open_table(path, tuple(COLUMN_NAMES))
    rows, faults, unknown, converted = [], [], {}, []
    for number, cells in lines:
        topic, text, stance = values = [clean_text(cell) for cell in cells]
        if not any(values):
            continue
        label = prompts.parse_stance(stance)
        bad = [f"{name} {value or 'empty'}" for name, value in zip(COLUMN_NAMES, values) if value in BROKEN]
        if bad:
            faults.append(f"{number}: {' and '.join(bad)}")
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
        number, header = next(((number, cells) for number, cells in lines if any(map(clean_text, cells))), (1, ()))
        names = [clean_text(cell) for cell in header]
        found = [[i for i, name in enumerate(names) if name.casefold() in COLUMN_NAMES[column]] for column in needed]
        if all(found):
            for column, places in zip(needed, found):
                if len(places) > 1:  # which one is meant is not ours to guess
                    fitting = " and ".join(quote(names[i]) for i in places)
                    records.stop(f"{place}, row {number}: headers {fitting} all fit the column {column}: keep only one")
            columns = [places[0] for places in found]
            return place, ((n, [cells[i] if i < len(cells) else None for i in columns]) for n, cells in lines)
        seen.append(f"{place} has {list_first([quote(name) for name in names if name]) or 'nothing'}")
    accepted = ", ".join(f"{column} ({'|'.join(COLUMN_NAMES[column])})" for column in needed)
    records.stop(f"no table with the headers {accepted}: {'; '.join(seen)}: put these headers in the first row")


def open_xlsx(path):
    """Yield (place, lines) for each sheet of a workbook; stop if it cannot be read."""
    content = read_file(path)
    if not content.startswith(b"PK"):  # every .xlsx is a zip archive
        kind = "an old .xls file or has a password" if content.startswith(OLD_EXCEL) else "no workbook despite its name"
        records.stop(f"{path} is {kind}: save it in Excel as .xlsx without a password")
    warnings.filterwarnings("ignore", category=UserWarning, module="openpyxl")  # about styles and menus, not about data
    for sheet in guard(load_sheets(content), path):
        yield f"{path}, sheet {quote(sheet.title)}", guard(enumerate(sheet.iter_rows(values_only=True), start=1), path)


def load_sheets(content):
    """Yield the sheets of a workbook's bytes, with the stored values of formulas."""
    for sheet in openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True).worksheets:
        sheet.reset_dimensions()  # the size stored in a file is only the claim of the program that wrote it
        yield sheet


def open_csv(path):
    """Yield the one (place, lines) of a .csv or .tsv file; stop if it cannot be read."""
    if Path(path).suffix.lower() not in (".csv", ".tsv"):
        records.stop(f"{path} is no .xlsx, .csv or .tsv file: save it in Excel as .xlsx")
    content = read_file(path)
    first = next(filter(bytes.strip, io.BytesIO(content)), b"").decode(errors="replace")
    delimiter = max(",;\t", key=first.count)  # where the decimal sign is a comma, Excel separates by semicolons
    file = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    yield path, guard(enumerate(reader, start=1), path)  # a record is a row in Excel, whatever line breaks it holds


def guard(items, path):
    """Pass items on; stop if the library that yields them finds the file damaged (openpyxl has no error of its own)."""
    last = None
    try:
        for last in items:
            yield last
    except UnicodeDecodeError:
        records.stop(f"{path} is not UTF-8: save it in Excel as .xlsx or as 'CSV UTF-8'")
    except Exception as problem:
        where = f" after row {last[0]}" if isinstance(last, tuple) else ""
        remedy = "open it in Excel, check it from there on, save it as .xlsx"
        cause = quote(f"{type(problem).__name__}: {problem}")
        records.stop(f"{path} is damaged or incomplete{where} ({cause}): {remedy}")


def read_file(path):
    """Return the bytes of a file: in memory, so that Excel on Windows may keep the file open."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        records.stop(f"{path} not found: check the path of the corpus file")
    except OSError as problem:
        records.stop(f"{path} cannot be opened ({problem.strerror}): close it in other programs and check the path")


def clean_text(value):
    """Return a cell or text without what Excel and web pages smuggle in; ordinary text stays as it is, to the byte.

    NFC; odd spaces to a space; odd line ends to a line feed; invisible and control characters dropped; ends stripped.
    None (an empty cell, or a formula without a stored value) gives ''.
    """
    text = "" if value is None else str(value)
    return unicodedata.normalize("NFC", LINE_END.sub("\n", text.translate(CLEANING))).strip()


def check_rows(place, rows, faults, unknown):
    """Stop if a file has empty or broken cells, unknown stance spellings, or no rows."""
    parts = []
    if faults:
        remedy = "a formula is empty until Excel has saved its value, a merged cell is empty below its first row"
        parts.append(f"empty or broken cells in {count_rows(faults)}: fill them or delete the rows ({remedy})")
    if unknown:
        spellings = [f"{quote(stance)} in {count_rows(numbers)}" for stance, numbers in unknown.items()]
        known = ", ".join(prompts.LABEL_OF_SPELLING)
        parts.append(f"unknown stance {list_first(spellings)}: write one of {known}, or add a spelling in prompts.py")
    if not rows and not parts:
        parts.append("no rows below the header: fill in the table")
    if parts:
        records.stop(f"{place}: {'; '.join(parts)}")


def merge_duplicates(rows):
    """Return (rows, duplicates, conflicts), where rows hold each pair of topic and sentence once.

    Equal pairs with one label shrink to the first in the file: duplicates, a list of {kept, merged} row numbers.
    Equal pairs with several labels are left out: conflicts, a list of {topic, text, rows: [{row, stance}]}.
    """
    groups, kept, duplicates, conflicts = {}, [], [], []
    for row in sorted(rows, key=lambda row: row["row"]):
        groups.setdefault((normalise_key(row["topic"]), normalise_key(row["text"])), []).append(row)
    for group in groups.values():
        first = group[0]
        if len({row["label"] for row in group}) > 1:
            spellings = [{"row": row["row"], "stance": row["stance"]} for row in group]
            conflicts.append({"topic": first["topic"], "text": first["text"], "rows": spellings})
            continue
        kept.append(first)
        if len(group) > 1:
            duplicates.append({"kept": first["row"], "merged": [row["row"] for row in group[1:]]})
    return kept, duplicates, conflicts


@functools.lru_cache(maxsize=1024)  # topics repeat from row to row
def normalise_key(text):
    """Return the key under which texts count as the same: case, spacing and punctuation aside; never empty for a text.

    Keeps what can change a meaning: accents, symbols, emoji, percent signs, and signs before a digit (-5, 3.2).
    """
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.translate(KEYING)).casefold())
    words = IDLE_SIGN.sub(" ", plain.translate(PUNCTUATION)).split()
    return " ".join(words) or text.casefold()


def split_rows(rows, seed):
    """Return {split: rows}, the held-out shares drawn systematically; the same splits for any order of the rows.

    A group is all rows with one normalised sentence, whatever their topics, so that no sentence is in two splits.
    Groups are lined up by size, stratum (topic and label; of several, the smallest) and a hash of seed and sentence,
    which shuffles a stratum. A walk along the line counts rows, and a held-out split takes a group as soon as its
    share of the rows so far has room for all of it. Of single-row groups, each block of 10 so gives one to val and,
    half a block away, one to test: the totals are exact and each stratum is within one row of its share. Larger
    groups come last, each size in proportion: drawn by rows, a sentence of five topics would be held out too often.
    """
    groups, splits, walked = {}, {name: [] for name in SPLITS}, 0
    for row in rows:
        groups.setdefault(normalise_key(row["text"]), []).append(row)
    for size, _, _, key in sorted(rank_group(key, group, seed) for key, group in groups.items()):
        walked += size
        home = "train"
        for i, (name, share) in enumerate(HELD_OUT_SHARES.items()):  # of two due at once, val waits for the next group
            room = walked * share + i / len(HELD_OUT_SHARES) - len(splits[name])
            if room > size - 1e-6:  # the margin absorbs rounding: 0.1 is not exact in binary
                home = name
        splits[home] += groups[key]
    return splits


def rank_group(key, group, seed):
    """Return the sort key of a group: (size, stratum, hash, sentence key)."""
    stratum = min((normalise_key(row["topic"]), row["label"]) for row in group)
    return len(group), stratum, hashlib.sha256(f"{seed}:{key}".encode()).digest(), key


def make_id(topic, text):
    """Return 16 hex digits that name a pair of topic and sentence by its keys, in any file and any order."""
    return hashlib.sha256(f"{normalise_key(topic)}\n{normalise_key(text)}".encode()).hexdigest()[:16]


def load_split(path):
    """Read a split file back; stop if it is missing, damaged, or made with another prompt or other labels."""
    rows = records.read_jsonl(path, SPLIT_KEYS, "run prepare_data.py first")
    for number, row in enumerate(rows, start=1):
        if row["label"] not in prompts.LABELS:
            records.stop(f"{path}, line {number}: label {row['label']!r} is not in {prompts.LABELS}: {REMEDY}")
        if row["prompt"] != prompts.build_prompt(str(row["topic"]), str(row["text"])):
            records.stop(f"{path}, line {number}: not the prompt of prompts.py, the file is stale or edited: {REMEDY}")
    return rows


def check_splits_disjoint(splits):
    """Stop if a normalised sentence is in two of the splits, a dict of split to rows."""
    homes, leaks = {}, []
    for name, rows in splits.items():
        for row in rows:
            home = homes.setdefault(normalise_key(row["text"]), name)
            if home != name:
                leaks.append(f"{quote(row['text'])} in {home} and {name}")
    if leaks:
        records.stop(f"{len(leaks)} rows have their sentence in two splits: {list_first(leaks)}: {REMEDY}")


def list_first(items):
    """Return the first SHOWN items as text, and how many more there are."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(map(str, items[:SHOWN])) + more


def count_rows(numbers):
    """Return row numbers as text: their count and the first of them."""
    return f"{len(numbers)} rows ({list_first(numbers)})" if len(numbers) > 1 else f"row {numbers[0]}"


def quote(text):
    """Return a text in quotation marks, cut and on one line, for a message."""
    return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=False)
