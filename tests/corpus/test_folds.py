"""stance/corpus/folds.py: folds that share no sentence, and have the same shares of topics and labels."""

import random
from collections import Counter

import prompts
from stance.corpus import folds


def make_rows(count):
    return [
        {
            "id": f"{number:04}",
            "topic": f"topic {number % 4}",
            "text": f"Sentence {number}.",
            "label": prompts.LABELS[number % 3],
        }
        for number in range(count)
    ]


def test_each_fold_has_its_share_of_every_topic_and_label():
    rows = make_rows(600)
    dealt = folds.deal_folds(rows, 5, seed=0)
    counts = Counter((fold, row["topic"], row["label"]) for fold, row in zip(dealt, rows))
    assert set(dealt) == set(range(5)) and set(counts.values()) == {10}


def test_equal_sentences_stay_in_one_fold():
    rows = make_rows(90)
    for number, row in enumerate(rows):
        row["text"] = f"SENTENCE {number // 3}" if number % 2 else f"sentence {number // 3}"
    dealt = folds.deal_folds(rows, 4, seed=1)
    homes = {}
    for fold, row in zip(dealt, rows):
        homes.setdefault(row["text"].lower(), set()).add(fold)
    assert len(homes) == 30 and all(len(found) == 1 for found in homes.values())


def test_folds_are_the_same_for_any_order_of_the_rows_and_others_for_another_seed():
    rows = make_rows(120)
    dealt = folds.deal_folds(rows, 3, seed=0)
    of_id = dict(zip([row["id"] for row in rows], dealt))
    random.Random(0).shuffle(rows)
    assert folds.deal_folds(rows, 3, seed=0) == [of_id[row["id"]] for row in rows]
    assert folds.deal_folds(rows, 3, seed=1) != [of_id[row["id"]] for row in rows]
