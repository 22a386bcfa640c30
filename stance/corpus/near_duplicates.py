"""Sentences of two splits that are the same but for a word: who learnt one finds the other easy.

Equal sentences never get into two splits (splitting.draw_splits). Whether one word more or less
changes what is said, only a person can tell, so these are reported and stay where they are.

They are found by deletion-neighbourhood hashing, exactly and in linear time: each sentence has the
hash of all its words and the hashes of what is left without one of them.
"""

import functools
import itertools
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from stance.common.types import AnnotatedRow
from stance.corpus import cleaning

# ---------------------------------------------------------------- settings
MIN_WORDS = 6  # of the sentences compared; of shorter ones, a word is most of what is said
# Rows from which on they are looked for in a second process, beside other work, where the system
# can fork; it needs about half as much memory again.
BESIDE_ROWS = 100_000
# --------------------------------------------------------------------------

# With which splits' sentences those of a split are compared.
AGAINST = {"train": (), "test": ("train",), "val": ("train", "test")}


def start_search(
    drawn: dict[str, list[AnnotatedRow]], rows: Sequence[AnnotatedRow]
) -> Callable[[], list[dict]]:
    """Begin find_near_duplicates, of many rows in a second process; return a function that waits
    for what it finds, and then keeps it."""
    can_fork = sys.platform == "linux" and (os.cpu_count() or 1) > 1
    if len(rows) < BESIDE_ROWS or not can_fork:
        return functools.cache(lambda: find_near_duplicates(drawn, rows))
    sys.stdout.flush()  # else the process would print what waits there once more
    context = multiprocessing.get_context("fork")  # which takes the rows along as they are
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_found, args=(sender, drawn, rows), daemon=True)
    process.start()
    sender.close()

    @functools.cache
    def wait() -> list[dict]:
        try:
            return receiver.recv()
        except EOFError:  # it was ended, as for want of memory
            return find_near_duplicates(drawn, rows)
        finally:
            process.join()

    return wait


def _send_found(sender, drawn, rows):
    """Send what find_near_duplicates returns through a pipe; of a second process."""
    sender.send(find_near_duplicates(drawn, rows))


def find_near_duplicates(
    drawn: dict[str, list[AnnotatedRow]], rows: Iterable[AnnotatedRow]
) -> list[dict]:
    """Return a {row, split, like, like_split} for each sentence that is nearly another split's.

    drawn: {split: its rows}; rows: of the corpus, in their order. row and like are row numbers. A
    row of val or test is listed once for train, one of val once for test; of several sentences that
    it is like, the first in the corpus is named. Rows that are marked as leaked are left aside.
    """
    split_of = {id(row): split for split, part in drawn.items() for row in part}
    compared = [row for row in rows if id(row) in split_of and not row.get("leaked")]
    split_at = [split_of[id(row)] for row in compared]
    marks, positions = find_shared(*mark_sentences(row["text"] for row in compared))

    firsts = {}  # (mark, split): position of the first row of the split that has the mark
    for mark, position in zip(marks, positions, strict=True):
        key = mark, split_at[position]
        firsts[key] = min(position, firsts.get(key, position))

    likes = {}  # (position of a row, other split): of the first row of that split that is like it
    for mark, position in zip(marks, positions, strict=True):
        for split in AGAINST[split_at[position]]:
            like = firsts.get((mark, split))
            if like is not None:
                key = position, split
                likes[key] = min(like, likes.get(key, like))

    found = []
    for position, like in sorted((position, like) for (position, _), like in likes.items()):
        found.append(
            {
                "row": compared[position]["row"],
                "split": split_at[position],
                "like": compared[like]["row"],
                "like_split": split_at[like],
            }
        )
    return found


def mark_sentences(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers that mark sentences, and for each the position of its sentence in texts.

    Two sentences share a mark if they have the same words but for one, in any order: marks are the
    sum of the words' hashes, and that sum without each of the words (one word changed, added or
    left out). Sentences of fewer than MIN_WORDS words have none. Both arrays are of int64 and of
    shape [marks]: first one a sentence, then one a word.
    """
    words_of = {}  # by position of the sentence
    for position, key in enumerate(map(cleaning.normalise_key, texts)):
        words = key.split()
        if len(words) >= MIN_WORDS:
            words_of[position] = words
    positions = np.fromiter(words_of, np.int64, len(words_of))
    sizes = np.array([len(words) for words in words_of.values()], np.int64)
    all_words = itertools.chain.from_iterable(words_of.values())
    hashes = np.fromiter(map(hash, all_words), np.int64, sizes.sum())
    if words_of:
        first_words = np.cumsum(sizes) - sizes
        totals = np.add.reduceat(hashes, first_words)
    else:
        totals = hashes  # reduceat takes no empty arrays
    marks_without_a_word = np.repeat(totals, sizes) - hashes
    marks = np.concatenate([totals, marks_without_a_word])
    return marks, np.concatenate([positions, np.repeat(positions, sizes)])


def find_shared(marks: np.ndarray, positions: np.ndarray) -> tuple[list[int], list[int]]:
    """Return (marks, positions) of those marks that occur more than once."""
    if not len(marks):
        return [], []
    order = np.argsort(marks)
    marks = marks[order]
    positions = positions[order]
    as_next = marks[1:] == marks[:-1]
    shared = np.append(as_next, False) | np.append(False, as_next)
    return marks[shared].tolist(), positions[shared].tolist()
