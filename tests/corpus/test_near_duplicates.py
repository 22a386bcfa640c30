"""stance/corpus/near_duplicates.py: sentences of two splits that differ in a word are found, others are not."""

import itertools
import os
import random

import pytest

from stance.corpus import near_duplicates

TOPIC = "Vegans are right."
SENTENCE = "It is all about finding a system that works for you."


def make_splits(**texts):
    """Splits, {split: rows}, and corpus rows of {split: {row number: text}}."""
    splits = {
        name: [{"topic": TOPIC, "text": text, "row": row} for row, text in part.items()]
        for name, part in texts.items()
    }
    rows = sorted(itertools.chain(*splits.values()), key=lambda row: row["row"])  # as in their file
    return splits, rows


def is_near(one, other):
    splits, rows = make_splits(train={2: other}, test={3: one})
    return bool(near_duplicates.find_near_duplicates(splits, rows))


@pytest.mark.parametrize(
    "other",
    [
        "It is all about finding a diet that works for you.",
        "It is all about finding a system that works for you too!",
        "it is all about finding a system that works, you",
        "A system that works for you: it is all about finding.",
        "It is not all about finding a system that works for you.",
        "Is all about finding a system that works for you?",
    ],
)
def test_one_word_is_near(other):
    assert is_near(SENTENCE, other) and is_near(other, SENTENCE)


@pytest.mark.parametrize(
    "other",
    [
        "It is all about finding a diet that works for me.",
        "It is all about a system that works.",
        "Something else.",
        "It is all about finding a system that works for you and for me.",
        "",
    ],
)
def test_two_words_are_not(other):
    assert not is_near(SENTENCE, other) and not is_near(other, SENTENCE)


def test_of_short_sentences_a_word_is_most():
    assert not is_near("Guns are very bad indeed", "Guns are very good indeed")
    assert is_near("Guns are very bad indeed, too", "Guns are very good indeed, too")


def test_rows_and_splits_are_named():
    train = {
        20: f"{SENTENCE} Yes",
        7: f"{SENTENCE} No",
        8: "Another sentence that is like none of them.",
    }
    val, test = {50: f"{SENTENCE} Oh", 51: "One more of these."}, {9: f"{SENTENCE} Ah"}
    splits, rows = make_splits(train=train, val=val, test=test)
    assert near_duplicates.find_near_duplicates(splits, rows) == [
        {"row": 9, "split": "test", "like": 7, "like_split": "train"},
        {"row": 50, "split": "val", "like": 7, "like_split": "train"},
        {"row": 50, "split": "val", "like": 9, "like_split": "test"},
    ]


def test_found_are_those_that_a_comparison_of_all_pairs_finds():
    """On random sentences of few words, so that many are near; words counted, not hashed."""
    rng = random.Random(0)
    texts = list(
        dict.fromkeys(" ".join(rng.choices("abc", k=rng.randint(4, 9))) for _ in range(130))
    )[:120]

    def compare(one, other):
        one, other = sorted(one.split()), sorted(other.split())
        if min(len(one), len(other)) < near_duplicates.MIN_WORDS:
            return False
        less = [
            [sorted(words[:i] + words[i + 1 :]) for i in range(len(words))] + [words]
            for words in (one, other)
        ]
        return any(part in less[1] for part in less[0])

    for one, other in itertools.product(texts[:60], texts[60:]):
        assert is_near(one, other) == compare(one, other), (one, other)
    splits, rows = make_splits(
        train=dict(enumerate(texts[60:], 60)), test=dict(enumerate(texts[:60]))
    )
    found = [
        (near["row"], near["like"]) for near in near_duplicates.find_near_duplicates(splits, rows)
    ]
    expected = [
        (i, near[0])
        for i, one in enumerate(texts[:60])
        if (near := [k for k, other in enumerate(texts[60:], 60) if compare(one, other)])
    ]
    assert found == expected and 10 < len(found) < 60


@pytest.mark.parametrize("is_ended", [False, True])
def test_a_second_process_finds_the_same(monkeypatch, is_ended):
    """Also if it is ended before it has found anything."""
    monkeypatch.setattr(near_duplicates, "BESIDE_ROWS", 1)
    if is_ended:
        monkeypatch.setattr(near_duplicates, "_send_found", lambda *words: os._exit(9))
    splits, rows = make_splits(train={2: f"{SENTENCE} No"}, test={3: f"{SENTENCE} Yes"})
    found = near_duplicates.start_search(splits, rows)()
    assert found == near_duplicates.find_near_duplicates(splits, rows) and len(found) == 1
