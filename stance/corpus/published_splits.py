"""Splits that a corpus was published with: their names, and sentences that stand in two of them.

No torch.
"""

from collections.abc import Sequence
from typing import NamedTuple

from stance.common.types import AnnotatedRow
from stance.corpus import grouping

# ---------------------------------------------------------------- settings
SPLIT_NAMES = {  # spellings of the splits; compared without case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing"),
}
# --------------------------------------------------------------------------

SPLIT_HINT = "write train, val or test"
SPLIT_OF_NAME = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# A sentence of several splits counts for the first of these, whose scores are reported.
PRECEDENCE = ("test", "val", "train")


class Separated(NamedTuple):
    """Rows of published splits, and those of them whose sentence stands in two."""

    rows: list[AnnotatedRow]
    # {row, split, like, like_split}: a row that is taken out of its split, or stays as kept leak,
    # and the first row of the split that its sentence belongs to
    leaks: list[dict]


def find_split(value: str) -> str | None:
    """Return the split that a cleaned cell names; None if it names none."""
    return SPLIT_OF_NAME.get(value.casefold())


def separate_splits(rows: Sequence[AnnotatedRow], keep_leaks: bool) -> Separated:
    """Take sentences that stand in several splits out of all but one, whatever their topics.

    rows: with their published split. Test wins over val and val over train, so that no score is of
    sentences that were learnt. Sentences are equal as in grouping.gather_groups. keep_leaks: nothing
    is taken out, but those rows are marked as leaked that stand in another split's way: of test, if
    their sentence is also in val or train, and of val, if it is also in train.
    """
    leaks = []
    marked = {}  # what becomes of a row that is no plain one, by its id(): None, or a row
    for group in grouping.gather_groups(rows).values():
        found = {row["split"] for row in group}
        if len(found) < 2:
            continue
        home = next(split for split in PRECEDENCE if split in found)
        first = next(row for row in group if row["split"] == home)
        last = next(split for split in reversed(PRECEDENCE) if split in found)
        for row in group:
            if row["split"] != home:
                leaks.append(
                    {
                        "row": row["row"],
                        "split": row["split"],
                        "like": first["row"],
                        "like_split": home,
                    }
                )
                if not keep_leaks:
                    marked[id(row)] = None
            if keep_leaks and row["split"] != last:
                marked[id(row)] = {**row, "leaked": True}
    kept = [marked.get(id(row), row) for row in rows]
    return Separated([row for row in kept if row is not None], leaks)
