"""Rows and weights that a training has beside those of the corpus."""

import collections
import random

import prompts
from stance.common.types import Example

# ---------------------------------------------------------------- settings
# Ways to deny a topic in training. None of them is prompt_variants.NEGATION, in which evaluate.py
# asks whether pro and con are flipped.
NEGATIONS = (
    "Against: {topic}",
    "Not: {topic}",
    "It is false that: {topic}",
    "No to this: {topic}",
    "The opposite is right: {topic}",
    "I disagree with this: {topic}",
)
# --------------------------------------------------------------------------


def add_negated_rows(rows: list[Example], share: float, seed: int) -> list[Example]:
    """Return rows and, of a share of them, copies with a denied topic, pro and con flipped."""
    rng = random.Random(seed)
    copies = []
    for row in rng.sample(rows, round(share * len(rows))):
        topic = rng.choice(NEGATIONS).replace("{topic}", row["topic"])
        copies.append({**row, "topic": topic, "label": prompts.FLIPPED_LABELS[row["label"]]})
    return [*rows, *copies]


def weigh_classes(rows: list[Example]) -> list[float]:
    """Return the weight of each row in the loss, with which labels count alike; its mean is 1."""
    counts = collections.Counter(row["label"] for row in rows)
    return [len(rows) / (len(counts) * counts[row["label"]]) for row in rows]
