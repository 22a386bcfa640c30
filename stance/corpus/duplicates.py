"""Rows that repeat a topic and sentence: merged, or left out where their stances differ. No torch."""

from collections.abc import Iterable
from typing import NamedTuple

from stance.common.types import AnnotatedRow
from stance.corpus import cleaning


class Votes(NamedTuple):
    """What several annotators' votes come to, beside the rows that have a majority."""

    # {topic, text, votes: [{row, annotator, stance}]}: pairs without a majority, left out
    ties: list[dict]
    dropped: list[int | str]  # rows whose majority --labels drops
    contradicting: list[dict]  # {row, annotator}: votes of one annotator for several labels
    agreement: dict  # what voting.measure_agreement returns


class Decided(NamedTuple):
    """Rows that hold each pair of topic and sentence once, and which others there were."""

    rows: list[AnnotatedRow]
    duplicates: list[dict]  # {kept, merged}: a row number, and those of its repetitions
    conflicts: list[dict]  # {topic, text, rows: [{row, stance}]}: pairs of several labels
    votes: Votes | None = None  # where several annotators decided; there are no conflicts then


def merge_duplicates(rows: Iterable[AnnotatedRow]) -> Decided:
    """Merge rows whose topic and sentence are the same but for what cleaning.normalise_key drops.

    Equal pairs with one label shrink to the first in the file: duplicates. Equal pairs with several
    labels are left out: conflicts. Rows of different published splits are not merged.
    """
    kept = []
    duplicates = []
    conflicts = []
    for group in gather_pairs(rows):
        first = group[0]
        if len(group) == 1:
            kept.append(first)
        elif len({row["label"] for row in group}) > 1:
            spellings = [{"row": row["row"], "stance": row["stance"]} for row in group]
            conflicts.append({"topic": first["topic"], "text": first["text"], "rows": spellings})
        else:
            kept.append(join_rows(group))
            duplicates.append({"kept": first["row"], "merged": [row["row"] for row in group[1:]]})
    return Decided(kept, duplicates, conflicts)


def gather_pairs(rows: Iterable[AnnotatedRow]) -> Iterable[list[AnnotatedRow]]:
    """Return the rows of each pair of topic and sentence, as normalise_key compares them, and of
    each published split, together, in the order of their first rows."""
    pairs = {}  # rows by split and the keys of topic and sentence
    for row in rows:
        pair = cleaning.normalise_key(row["topic"]), cleaning.normalise_key(row["text"])
        pairs.setdefault((row.get("split"), *pair), []).append(row)
    return pairs.values()


def join_rows(group: list[AnnotatedRow]) -> AnnotatedRow:
    """Return the first of equal rows, with the ids and groups of all, and their newest date."""
    joined = dict(group[0])
    ids = list(dict.fromkeys(row["source_id"] for row in group))
    if len(ids) > 1:
        joined["source_id"] = ids
    if "groups" in joined:
        joined["groups"] = list(dict.fromkeys(name for row in group for name in row["groups"]))
    if "date" in joined:
        joined["date"] = max(row["date"] for row in group)
    return joined
