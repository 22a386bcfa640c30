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
    numbers = {corpus.make_id(row["topic"], row["text"]): row["row"] for row in rows}
    texts = {name: sorted((numbers[line["id"]], line["text"]) for line in lines) for name, lines in splits.items()}
    found = []
    for name, other in (("test", "train"), ("val", "train"), ("val", "test")):
        for row, like in pair_texts(texts[name], texts[other]):
            found.append({"row": row, "split": name, "like": like, "like_split": other})
    return sorted(found, key=lambda entry: (entry["row"], entry["like"]))


def pair_texts(texts, others):
    """Return (number, number of the first of the others that is nearly the same) of all texts that have one.

    Both are lists of (number, text), sorted.
    """
    wanted = {mark for _, text in texts for mark in mark_sentence(text)}
    homes = {}
    for number, text in others:
        for mark in wanted.intersection(mark_sentence(text)):
            homes.setdefault(mark, number)
    likes = ((number, [homes[mark] for mark in mark_sentence(text) if mark in homes]) for number, text in texts)
    return [(number, min(found)) for number, found in likes if found]


def mark_sentence(text):
    """Return numbers of which two sentences share one if they have the same words but for one, in any order.

    The sum of the words' hashes, and that sum without each of the words: one word changed, added or left out.
    """
    hashes = [hash(word) for word in corpus.normalise_key(text).split()]
    total = sum(hashes)
    return {total, *(total - value for value in hashes)} if len(hashes) >= MIN_WORDS else set()
