"""Published splits: their names, and sentences that stand in two of them."""

import pytest

from stance.corpus import published_splits, splitting


def make_row(number, split, text, topic="T."):
    return {"row": number, "split": split, "text": text, "topic": topic, "label": "pro"}


ROWS = [
    make_row(2, "train", "In all three."),
    make_row(3, "val", "in all three", "Other topic."),
    make_row(4, "test", "In all three!"),
    make_row(5, "train", "RT @a: In val too."),
    make_row(6, "val", "In val too."),
    make_row(7, "train", "Of train alone."),
    make_row(8, "train", "of train alone", "Other topic."),
    make_row(9, "test", "Of test alone."),
]


@pytest.mark.parametrize(
    "value, split",
    [
        ("Train", "train"),
        ("TRAINING", "train"),
        ("dev", "val"),
        ("Validation", "val"),
        ("TEST", "test"),
    ],
)
def test_names_of_splits(value, split):
    assert published_splits.find_split(value) == split


@pytest.mark.parametrize("value", ["", "fold 1", "tests", "0"])
def test_what_names_no_split(value):
    assert published_splits.find_split(value) is None


def test_test_wins_over_val_and_val_over_train():
    rows, leaks = published_splits.separate_splits(ROWS, keep_leaks=False)
    assert [row["row"] for row in rows] == [4, 6, 7, 8, 9]
    assert leaks == [
        {"row": 2, "split": "train", "like": 4, "like_split": "test"},
        {"row": 3, "split": "val", "like": 4, "like_split": "test"},
        {"row": 5, "split": "train", "like": 6, "like_split": "val"},
    ]
    assert not any("leaked" in row for row in rows)


def test_kept_leaks_are_marked_where_scores_would_count_them():
    rows, leaks = published_splits.separate_splits(ROWS, keep_leaks=True)
    assert [row["row"] for row in rows] == [row["row"] for row in ROWS]
    assert [row["row"] for row in rows if row.get("leaked")] == [3, 4, 6]
    assert [leak["row"] for leak in leaks] == [2, 3, 5]
    assert not any("leaked" in row for row in ROWS)


def test_val_is_drawn_from_train_if_there_is_none():
    rows = [make_row(n, "train", f"Sentence {n}.") for n in range(100)]
    rows += [make_row(n, "test", f"Sentence {n}.") for n in range(100, 150)]
    splits = splitting.take_published(rows, 0)
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 90,
        "val": 10,
        "test": 50,
    }
    assert all(row["split"] == "train" for row in splits["val"])
