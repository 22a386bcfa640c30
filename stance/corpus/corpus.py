"""The annotated corpus: files to rows, rows to splits, splits back from disk. No torch.

A row is a dict(topic, text, label, stance, row): cleaned texts, one of prompts.LABELS, the stance as the annotator
spelled it, and the row number that Excel shows. A user's mistake in a file ends in one line through records.stop.
"""

import functools
import hashlib
import re
import unicodedata
from typing import NamedTuple

import prompts
from stance.common import errors, files, formatting
from stance.corpus import tables, workbook_reader

# ---------------------------------------------------------------- settings
SPLIT_SEED = 0  # another seed draws other splits
COLUMN_NAMES = {  # headers accepted for each column; compared after strip and casefold
    "topic": ("topic", "claim", "hypothesis", "target"),
    "text": ("text", "sentence", "comment"),
    "stance": ("stance", "label", "gold"),
}
SPLITS = ("train", "val", "test")  # names of the split files
HELD_OUT_SHARES = {"val": 0.1, "test": 0.1}  # of the rows; train gets the rest
SPLIT_KEYS = (
    "id",
    "topic",
    "text",
    "stance",
    "prompt",
    "label",
)  # of a line in a split file, in this order
# --------------------------------------------------------------------------

BROKEN = {
    "",
    "#N/A",
    "#REF!",
    "#VALUE!",
    "#DIV/0!",
    "#NAME?",
    "#NUM!",
    "#NULL!",
}  # empty, and Excel's error values
HINT = "run prepare_data.py again"
RENAME = "name those of the file: --columns of prepare_data.py, or COLUMN_NAMES in stance/corpus/corpus.py"
CHECK_TYPE = "check it and type it into a cell of the format Text"

KEYING = {
    **tables.CLEANING,
    **dict.fromkeys(map(ord, "\u200c\u200d\ufe0e\ufe0f")),
}  # keys drop joiners, emoji style
# Signs that carry meaning beside digits stay in a key: 5 %, -5, 3.2, 3:2. NFKC maps wide punctuation into this range.
SIGNS = "%‰-.,:/"
PUNCTUATION = {
    code: " "
    for code in range(0x3100)
    if unicodedata.category(chr(code))[0] == "P" and chr(code) not in SIGNS
}
IDLE_SIGN = re.compile(r"[-.,:/](?!\d)")
ASCII_KEYING = {  # KEYING, casefold and PUNCTUATION in one table
    code: PUNCTUATION.get(ord(kept.lower()), kept.lower())
    if (kept := KEYING.get(code, chr(code)))
    else None
    for code in range(128)
}


class Finding(NamedTuple):
    """Something wrong or doubtful in a cell."""

    row: int  # as Excel shows it
    column: str  # topic, text or stance
    what: str
    hint: str
    serious: bool = True  # the row cannot be used as it is


def read_corpus(path, sheet=None, headers=None, strict=False):
    """Read an annotated .xlsx, .csv, .tsv or .jsonl file into a list of rows; stop with all its defects in one line.

    Texts are cleaned; rows without topic, text and stance are skipped; other columns are ignored. See scan_corpus.
    """
    table, rows, findings = scan_corpus(path, sheet, headers, strict)
    check_rows(table.location, rows, findings)
    tables.note_unused(table)
    return rows


def scan_corpus(path, sheet=None, headers=None, strict=False):
    """Read an annotated file; return (its table, the usable rows, a list of Findings about the others and these).

    headers: those of topic, text and stance (None: any of COLUMN_NAMES). strict: doubtful cells cannot be used either.
    """
    given = zip(COLUMN_NAMES, headers, strict=True) if headers else ()
    needed = {name: (tables.clean_text(header),) for name, header in given} or COLUMN_NAMES
    table = tables.open_table(path, needed, sheet, "name one with --sheet", RENAME)
    rows, findings = [], []
    for number, cells in table.rows:
        cells = [cells[index] for index in table.columns.values()]
        topic, text, stance = values = [tables.clean_text(cell) for cell in cells]
        label = prompts.parse_stance(stance)
        if label and topic not in BROKEN and text not in BROKEN:
            rows.append(
                {"topic": topic, "text": text, "label": label, "stance": stance, "row": number}
            )
        elif any(values) or any(cell is workbook_reader.UNSTORED for cell in cells):
            findings += [
                Finding(number, *fault)
                for fault in map(find_fault, COLUMN_NAMES, cells, values)
                if fault
            ]
        for name, cell in zip(COLUMN_NAMES, cells):
            if not isinstance(cell, str) and cell is not None:
                what = f"{name} is a number, date or truth value, read as text"
                findings.append(Finding(number, name, what, CHECK_TYPE, strict))
            elif cell is not None and workbook_reader.is_full(cell):
                what = f"{name} has {len(cell):,} characters, all that an Excel cell holds, and is probably cut"
                findings.append(Finding(number, name, what, "compare it with its source", strict))
    unusable = {finding.row for finding in findings if finding.serious}
    rows = [row for row in rows if row["row"] not in unusable]
    return table, rows, findings


def find_fault(name, cell, value):
    """Return (column, what, hint) if a cell cannot be used, else None. value: its cleaned text."""
    if cell is workbook_reader.UNSTORED:
        return (
            name,
            f"{name} is a formula without a stored value",
            "open the file in Excel and save it",
        )
    if not value:
        return name, f"{name} is empty", "fill it or delete the row"
    if value in BROKEN:
        return name, f"{name} is {value}", "mend its formula or write the value"
    if name == "stance" and prompts.parse_stance(value) is None:
        hint = f"write {', '.join(prompts.LABELS)}, or add the spelling to STANCE_SPELLINGS in prompts.py"
        return name, f"unknown stance {formatting.quote(value)}", hint
    return None


def group_findings(findings):
    """Return {hint: {what: row numbers}}."""
    groups = {}
    for finding in findings:
        groups.setdefault(finding.hint, {}).setdefault(finding.what, []).append(finding.row)
    return groups


def check_rows(location, rows, findings):
    """Stop in one line if a file has cells that cannot be used, or no rows; print a note on doubtful ones."""
    parts, notes = [], []
    for serious, lines in ((True, parts), (False, notes)):
        for hint, whats in group_findings(
            finding for finding in findings if finding.serious == serious
        ).items():
            found = [
                f"{what} in {formatting.count_rows(numbers)}" for what, numbers in whats.items()
            ]
            lines.append(f"{formatting.list_first(found)}: {hint}")
    if not rows and not parts:
        parts.append("no rows below the header: fill in the table")
    if parts:
        errors.fail(f"{location}: {'; '.join(parts)}")
    if notes:
        print(f"note: {location}: {'; '.join(notes)}")


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
        if len(group) == 1:
            kept.append(first)
        elif len({row["label"] for row in group}) > 1:
            spellings = [{"row": row["row"], "stance": row["stance"]} for row in group]
            conflicts.append({"topic": first["topic"], "text": first["text"], "rows": spellings})
        else:
            kept.append(first)
            duplicates.append({"kept": first["row"], "merged": [row["row"] for row in group[1:]]})
    return kept, duplicates, conflicts


@functools.cache  # each key is needed four times, for duplicates, splits, ids and the last check
def normalise_key(text):
    """Return the key under which texts count as the same: case, spacing and punctuation aside; never empty for a text.

    Keeps what can change a meaning: accents, symbols, emoji, percent signs, and signs before a digit (-5, 3.2).
    """
    if text.isascii():
        plain = text.translate(ASCII_KEYING)
    else:
        plain = unicodedata.normalize(
            "NFKC", unicodedata.normalize("NFKC", text.translate(KEYING)).casefold()
        )
        plain = plain.translate(PUNCTUATION)
    words = IDLE_SIGN.sub(" ", plain).split()
    return " ".join(words) or text.casefold()


def split_rows(rows, seed, shares=None):
    """Return {split: rows}, the held-out shares drawn systematically; the same splits for any order of the rows.

    A group is all rows with one normalised sentence, whatever their topics, so that no sentence is in two splits.
    Groups are lined up by size, stratum (topic and label; of several, the smallest) and a hash of seed and sentence,
    which shuffles a stratum. A walk along the line counts rows, and a held-out split takes a group as soon as its
    share of the rows so far has room for all of it. Of single-row groups, each block of 10 so gives one to val and,
    half a block away, one to test: the totals are exact and each stratum is within one row of its share. Larger
    groups come last, each size in proportion: drawn by rows, a sentence of five topics would be held out too often.
    shares: those of the held-out splits, if not HELD_OUT_SHARES.
    """
    shares = HELD_OUT_SHARES if shares is None else shares
    groups, strata, splits, walked = {}, {}, {name: [] for name in SPLITS}, 0
    for row in rows:
        groups.setdefault(normalise_key(row["text"]), []).append(row)
    for key, group in groups.items():
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        strata.setdefault(rank_stratum(group), []).append((digest, key))
    for size, key in (
        (stratum[0], key) for stratum in sorted(strata) for _, key in sorted(strata[stratum])
    ):
        walked += size
        home = "train"
        for i, (name, share) in enumerate(
            shares.items()
        ):  # of two due at once, val waits for the next group
            room = walked * share + i / len(shares) - len(splits[name])
            if room > size - 1e-6:  # the margin absorbs rounding: 0.1 is not exact in binary
                home = name
        splits[home] += groups[key]
    return splits


def rank_stratum(group):
    """Return the sort key of a group's stratum: (size of the group, (topic, label))."""
    return len(group), min((normalise_key(row["topic"]), row["label"]) for row in group)


def hold_out_topic(rows, topic, seed):
    """Return ({split: rows}, rows left out): test is one topic, train and val are the other topics.

    Left out are rows of other topics whose sentence also occurs under the held-out one. None if no row has the topic.
    """
    test = [row for row in rows if normalise_key(row["topic"]) == normalise_key(topic)]
    rest = [row for row in rows if normalise_key(row["topic"]) != normalise_key(topic)]
    if not test:
        return None
    seen = {normalise_key(row["text"]) for row in test}
    kept = [row for row in rest if normalise_key(row["text"]) not in seen]
    left_out = [row for row in rest if normalise_key(row["text"]) in seen]
    return {**split_rows(kept, seed, {"val": HELD_OUT_SHARES["val"]}), "test": test}, left_out


def make_id(topic, text):
    """Return 16 hex digits that name a pair of topic and sentence by its keys, in any file and any order."""
    return hashlib.sha256(f"{normalise_key(topic)}\n{normalise_key(text)}".encode()).hexdigest()[
        :16
    ]


def load_split(path):
    """Read a split file back; stop if it is missing, damaged, or made with another prompt or other labels."""
    rows = files.read_jsonl(path, SPLIT_KEYS, "run prepare_data.py first")
    for number, row in enumerate(rows, start=1):
        if row["label"] not in prompts.LABELS:
            errors.fail(
                f"{path}, line {number}: label {row['label']!r} is not in {prompts.LABELS}: {HINT}"
            )
        if row["prompt"] != prompts.build_prompt(str(row["topic"]), str(row["text"])):
            errors.fail(
                f"{path}, line {number}: not the prompt of prompts.py, the file is stale or edited: {HINT}"
            )
    return rows


def check_splits_disjoint(splits):
    """Stop if a normalised sentence is in two of the splits, a dict of split to rows."""
    homes, leaks = {}, []
    for name, rows in splits.items():
        for row in rows:
            home = homes.setdefault(normalise_key(row["text"]), name)
            if home != name:
                leaks.append(f"{formatting.quote(row['text'])} in {home} and {name}")
    if leaks:
        errors.fail(
            f"{len(leaks)} rows have their sentence in two splits: {formatting.list_first(leaks)}: {HINT}"
        )
