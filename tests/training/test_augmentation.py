"""stance/training/augmentation.py: negated copies and weights are right, and the corpus stays as it is."""

import collections

import pytest

from stance.evaluation import prompt_variants
from stance.training import augmentation


def make_rows(counts):
    """Rows of a topic: so many of each label."""
    rows = []
    for label, count in counts.items():
        for index in range(count):
            rows.append({"id": f"{label}{index}", "topic": "x", "text": "t", "label": label})
    return rows


def test_a_negated_copy_has_pro_and_con_flipped_and_its_topic_denied():
    rows = make_rows({"pro": 4, "con": 4, "neu": 4})
    found = augmentation.add_negated_rows(rows, 1.0, seed=0)
    assert found[:12] == rows
    flipped = {"pro": "con", "con": "pro", "neu": "neu"}
    by_id = {row["id"]: row for row in rows}
    for copy in found[12:]:
        original = by_id[copy["id"]]
        assert copy["label"] == flipped[original["label"]]
        assert copy["topic"] != "x" and copy["topic"].endswith("x")
        assert copy["text"] == original["text"]
    assert len({copy["id"] for copy in found[12:]}) == 12


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 3), (0.5, 6)])
def test_the_share_says_how_many_are_copied_and_the_seed_which(share, count):
    rows = make_rows({"pro": 6, "con": 6})
    found = augmentation.add_negated_rows(rows, share, seed=1)
    assert len(found) == 12 + count
    assert found == augmentation.add_negated_rows(rows, share, seed=1)


def test_evaluation_asks_in_a_negation_that_no_training_has_seen():
    assert prompt_variants.NEGATION not in augmentation.NEGATIONS


def test_with_class_weights_all_labels_count_alike():
    rows = make_rows({"pro": 1, "con": 3, "neu": 8})
    weights = augmentation.weigh_classes(rows)
    total = collections.Counter()
    for row, weight in zip(rows, weights, strict=True):
        total[row["label"]] += weight
    assert total == pytest.approx({"pro": 4, "con": 4, "neu": 4})
