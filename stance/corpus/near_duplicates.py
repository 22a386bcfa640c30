"""Sentences of two splits that are the same but for a word: a model that learnt one has an easy time with the other.

Equal sentences never get into two splits (splitting.draw_splits). Whether one word more or less changes what is said, only
a person can tell, so these are reported and stay where they are.
"""

import numpy as np

from stance.corpus import cleaning, splitting

# ---------------------------------------------------------------- settings
MIN_WORDS = 6  # of the sentences compared; of shorter ones, a word is most of what is said
# --------------------------------------------------------------------------

AGAINST = {
    "train": (),
    "test": ("train",),
    "val": ("train", "test"),
}  # with which splits' sentences a split's compare


def find_near_duplicates(splits, rows):
    """Return a list of {row, split, like, like_split}: row numbers of sentences that are nearly those of another split.

    splits: {split: lines of its file}; rows: of the corpus, with their numbers. A line of val or test is listed once
    for train, one of val once for test; of several sentences that it is like, the first in the corpus is named.
    """
    numbers = {splitting.make_id(row["topic"], row["text"]): row["row"] for row in rows}
    lines = sorted(
        (numbers[line["id"]], name, line["text"]) for name, part in splits.items() for line in part
    )
    firsts = {}  # (mark, split): the first line of the split that has the mark
    shared = list(zip(*find_shared(*mark_sentences(text for _, _, text in lines)), strict=True))
    for mark, position in shared:
        firsts[mark, lines[position][1]] = min(
            position, firsts.get((mark, lines[position][1]), position)
        )
    likes = {}
    for mark, position in shared:
        for name in AGAINST[lines[position][1]]:
            if (like := firsts.get((mark, name))) is not None:
                likes[position, name] = min(like, likes.get((position, name), like))
    pairs = sorted((position, like) for (position, _), like in likes.items())
    keys = ("row", "split", "like", "like_split")
    return [
        dict(zip(keys, (*lines[position][:2], *lines[like][:2]), strict=True))
        for position, like in pairs
    ]


def mark_sentences(texts):
    """Return two int64 arrays: numbers that mark sentences, and for each the position of its sentence in texts.

    Two sentences share a mark if they have the same words but for one, in any order: marks are the sum of the words'
    hashes, and that sum without each of the words (one word changed, added or left out).
    """
    keys = {
        position: key
        for position, key in enumerate(map(cleaning.normalise_key, texts))
        if key.count(" ") + 1 >= MIN_WORDS
    }
    sizes = np.array([key.count(" ") + 1 for key in keys.values()], np.int64)
    hashes = np.fromiter(
        (hash(word) for key in keys.values() for word in key.split()), np.int64, sizes.sum()
    )
    totals = np.add.reduceat(hashes, np.cumsum(sizes) - sizes) if len(sizes) else hashes
    positions = np.fromiter(keys, np.int64, len(keys))
    marks = np.concatenate([totals, np.repeat(totals, sizes) - hashes])
    return marks, np.concatenate([positions, np.repeat(positions, sizes)])


def find_shared(marks, positions):
    """Return (marks, positions) of those marks that occur more than once, as lists."""
    order = np.argsort(marks)
    marks, positions = marks[order], positions[order]
    again = marks[1:] == marks[:-1]
    shared = np.append(again, False) | np.append(False, again) if len(marks) else np.zeros(0, bool)
    return marks[shared].tolist(), positions[shared].tolist()
