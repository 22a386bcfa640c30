"""Sentences of two splits that are the same but for a word: a model that learnt one has an easy time with the other.

Equal sentences never get into two splits (corpus.split_rows). Whether one word more or less changes what is said, only
a person can tell, so these are reported and stay where they are.
"""

import corpus

# ---------------------------------------------------------------- settings
MIN_WORDS = 6  # of the sentences compared; of shorter ones, a word is most of what is said
# --------------------------------------------------------------------------


def find_near_duplicates(splits, rows):
    """Return a list of {row, split, like, like_split}: row numbers of sentences that are nearly those of another split.

    splits: {split: lines of its file}; rows: of the corpus, with their numbers. A line of val or test is listed once
    for train, one of val once for test; of several sentences that it is like, the first in the corpus is named.
    """
    numbers = {make_key(row): row["row"] for row in rows}
    texts = {name: sorted((numbers[make_key(line)], line["text"]) for line in lines) for name, lines in splits.items()}
    homes = {number: name for name, part in texts.items() for number, _ in part}
    pairs = pair_texts(texts["test"] + texts["val"], texts["train"]) + pair_texts(texts["val"], texts["test"])
    keys = ("row", "split", "like", "like_split")
    return [dict(zip(keys, (row, homes[row], like, homes[like]), strict=True)) for row, like in sorted(pairs)]


def make_key(row):
    """Return what tells the pairs of topic and sentence of a corpus apart, as corpus.make_id does, but quicker."""
    return corpus.normalise_key(row["topic"]), corpus.normalise_key(row["text"])


def pair_texts(texts, others):
    """Return (number, number of the first of the others that is nearly the same) of all texts that have one.

    Both are lists of (number, text), the others sorted.
    """
    wanted, first = {mark for _, text in texts for mark in mark_sentence(text)}, {}
    for number, text in others:
        marks = mark_sentence(text)
        if not wanted.isdisjoint(marks):
            first.update({mark: first.get(mark, number) for mark in marks})
    found = ((number, [first[mark] for mark in mark_sentence(text) if mark in first]) for number, text in texts)
    return [(number, min(likes)) for number, likes in found if likes]


def mark_sentence(text):
    """Return numbers of which two sentences share one if they have the same words but for one, in any order.

    The sum of the words' hashes, and that sum without each of the words: one word changed, added or left out.
    """
    hashes = [hash(word) for word in corpus.normalise_key(text).split()]
    total = sum(hashes)
    return [total, *[total - value for value in hashes]] if len(hashes) >= MIN_WORDS else []
