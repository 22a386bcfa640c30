"""stance/evaluation/baselines.py: baselines that learn from the train split alone."""

import pytest

from stance.evaluation import baselines


def make_rows(*pairs):
    return [{"topic": "Zoos are good.", "text": text, "label": label} for text, label in pairs]


TRAIN = make_rows(
    ("I love them", "pro"), ("so much love", "pro"), ("I hate them", "con"), ("so much hate", "con"),
    ("what time is it", "neu"), ("time will tell", "neu"), ("love it", "pro"),
)  # fmt: skip
TEST = make_rows(
    ("hate hate hate", "con"), ("love", "pro"), ("what a time", "neu"), ("love love", "con")
)


def test_majority_is_the_most_frequent_label_of_the_train_rows():
    assert baselines.predict_majority(TRAIN, TEST) == ["pro"] * 4


def test_of_equally_frequent_labels_the_first_in_order():
    assert baselines.predict_majority(make_rows(("a", "neu"), ("b", "con")), TEST) == ["con"] * 4


def test_tfidf_learns_words():
    predicted = baselines.predict_baselines(TRAIN, TRAIN, TEST)
    assert list(predicted) == ["majority", "tf-idf"] and predicted["tf-idf"] == [
        "con",
        "pro",
        "neu",
        "pro",
    ]


def test_tfidf_does_not_look_at_test_labels():
    other = [{**row, "label": "neu"} for row in TEST]
    assert baselines.predict_tfidf(TRAIN, TRAIN, TEST) == baselines.predict_tfidf(
        TRAIN, TRAIN, other
    )


def test_the_validation_split_chooses_the_regularisation(monkeypatch):
    """Strongly regularised, every answer is the majority; validation rows that want it must choose that."""
    monkeypatch.setattr(baselines, "PENALTIES", (1e-6, 100.0))
    wish_pro = make_rows(("hate", "pro"), ("time", "pro"))
    assert baselines.predict_tfidf(TRAIN, wish_pro, TEST) == ["pro"] * 4
    assert baselines.predict_tfidf(TRAIN, TRAIN, TEST) == ["con", "pro", "neu", "pro"]


@pytest.mark.filterwarnings("error")
def test_train_rows_of_one_label():
    assert baselines.predict_baselines(TRAIN[:2], TRAIN, TEST)["tf-idf"] == ["pro"] * 4
