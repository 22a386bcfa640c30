"""Metrics against tables worked out by hand, and the text of the tables to the character."""

import math
import random

import pytest
import sklearn.metrics

import prompts
from stance.common import formatting
from stance.evaluation import metrics, result_tables

# Ten rows, five right, two answers that are no label.
#             predicted
#   gold      pro  con  neu  invalid   all
#   pro        2    1    0      1       4
#   con        0    2    1      0       3
#   neu        1    0    1      1       3
#   all        3    3    2      2      10
GOLD = ["pro"] * 4 + ["con"] * 3 + ["neu"] * 3
PREDICTED = ["pro", "pro", "con", None] + ["con", "con", "neu"] + ["neu", "pro", None]


def test_invalid_answers_count_as_wrong():
    m = metrics.compute_metrics(GOLD, PREDICTED)
    assert (m["n"], m["invalid"]) == (10, 2)
    assert m["accuracy"] == pytest.approx(5 / 10)


def test_labels_of_the_table():
    labels = metrics.compute_metrics(GOLD, PREDICTED)["labels"]
    assert list(labels) == ["pro", "con", "neu"]
    # precision: right of all predicted so; recall: right of all in gold; F1 = 2 right / (predicted + gold)
    assert labels["pro"] == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 4, "f1": 4 / 7, "support": 4}
    )
    assert labels["con"] == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 4 / 6, "support": 3}
    )
    assert labels["neu"] == pytest.approx(
        {"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "support": 3}
    )


def test_micro_f1_differs_from_accuracy_with_invalid_answers():
    # Over the three labels: 5 right, 8 predicted, 10 in gold: 2 * 5 / (8 + 10)
    assert metrics.compute_metrics(GOLD, PREDICTED)["micro_f1"] == pytest.approx(10 / 18)


def test_macro_f1_is_the_mean_of_three_labels():
    # (4/7 + 2/3 + 2/5) / 3 = (60 + 70 + 42) / 105 / 3; "invalid" as a fourth label would give 172 / 420
    assert metrics.compute_metrics(GOLD, PREDICTED)["macro_f1"] == pytest.approx(172 / 315)


def test_confusion_has_gold_in_rows_and_invalid_last():
    assert metrics.compute_metrics(GOLD, PREDICTED)["confusion"] == [
        [2, 1, 0, 1],
        [0, 2, 1, 0],
        [1, 0, 1, 1],
    ]


def test_micro_f1_equals_accuracy_without_invalid_answers():
    # gold pro con neu con pro, three right
    m = metrics.compute_metrics(
        ["pro", "con", "neu", "con", "pro"], ["pro", "con", "con", "con", "neu"]
    )
    assert (m["n"], m["invalid"]) == (5, 0)
    assert m["accuracy"] == pytest.approx(3 / 5)
    assert m["micro_f1"] == pytest.approx(3 / 5)
    # F1: pro 2*1/(1+2), con 2*2/(3+2), neu 0/(1+1)
    assert m["macro_f1"] == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    assert m["confusion"] == [[1, 0, 1, 0], [0, 2, 0, 0], [0, 1, 0, 0]]


@pytest.mark.filterwarnings(
    "error"
)  # sklearn warns of a division by zero unless told what it means
def test_a_label_absent_from_gold_does_not_count_in_macro_f1():
    m = metrics.compute_metrics(["pro", "pro", "con", "con"], ["pro", "con", "con", "con"])
    assert m["labels"]["neu"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    # pro 2*1/(1+2) = 2/3, con 2*2/(3+2) = 4/5
    assert m["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert (m["gold_labels"], m["outside"]) == (["pro", "con"], 0)
    assert m["micro_f1"] == pytest.approx(3 / 4)
    assert m["confusion"] == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0]]


@pytest.mark.filterwarnings("error")
def test_a_label_absent_from_gold_but_predicted():
    m = metrics.compute_metrics(["pro", "pro"], ["neu", "pro"])
    assert m["labels"]["neu"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert m["labels"]["pro"] == pytest.approx(
        {"precision": 1.0, "recall": 1 / 2, "f1": 2 / 3, "support": 2}
    )
    assert (m["gold_labels"], m["outside"], m["accuracy"]) == (["pro"], 1, 1 / 2)
    assert m["macro_f1"] == pytest.approx(2 / 3)
    assert m["confusion"] == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.filterwarnings("error")
def test_only_invalid_answers():
    m = metrics.compute_metrics(["pro", "con"], [None, None])
    assert (m["n"], m["invalid"], m["accuracy"], m["micro_f1"], m["macro_f1"]) == (
        2,
        2,
        0.0,
        0.0,
        0.0,
    )
    assert m["confusion"] == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]


@pytest.mark.filterwarnings("error")
def test_a_perfect_single_row():
    m = metrics.compute_metrics(["con"], ["con"])
    assert (m["accuracy"], m["micro_f1"], m["macro_f1"]) == (1.0, 1.0, 1.0)
    assert (m["weighted_f1"], m["semeval_f1"]) == (1.0, 1.0)
    assert m["mcc"] == 0  # 0 / 0, as kappa is then


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [("pro", "con"), ("pro", "neu"), ("con", "neu"), prompts.LABELS])
def test_a_perfect_model_has_1_whatever_labels_are_gold(labels):
    gold = [*labels] * 5 + [labels[0]]
    m = metrics.compute_metrics(gold, gold)
    keys = ("accuracy", "micro_f1", "macro_f1", "weighted_f1", "semeval_f1", "mcc")
    assert [m[key] for key in keys] == [1] * len(keys)
    assert (m["gold_labels"], m["outside"]) == ([*labels], 0)


def test_semeval_f1_without_pro_and_con_is_none():
    m = metrics.compute_metrics(["neu", "neu"], ["neu", "pro"])
    assert m["semeval_f1"] is None and m["macro_f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_sklearn(seed):
    """Of gold labels of which some may be missing, invalid answers among the predictions."""
    rng = random.Random(seed)
    known = rng.sample(prompts.LABELS, rng.choice([2, 3]))
    gold = known + rng.choices(known, k=40)
    predicted = [rng.choice([truth, *prompts.LABELS, None]) for truth in gold]
    named = [label or "invalid" for label in predicted]
    m = metrics.compute_metrics(gold, predicted)

    def f1(labels, average="macro"):
        options = {"labels": labels, "average": average, "zero_division": 0}
        return pytest.approx(sklearn.metrics.f1_score(gold, named, **options))

    assert m["macro_f1"] == f1(known)
    assert m["weighted_f1"] == f1(known, "weighted")
    assert m["semeval_f1"] == f1([label for label in ("pro", "con") if label in known])
    assert m["mcc"] == pytest.approx(sklearn.metrics.matthews_corrcoef(gold, named))
    assert m["outside"] == sum(label in prompts.LABELS and label not in known for label in named)


def test_numbers_are_plain_python():
    m = metrics.compute_metrics(GOLD, PREDICTED)  # json cannot write numpy's
    numbers = [m["n"], m["invalid"], m["accuracy"], m["micro_f1"], m["macro_f1"]]
    numbers += [value for label in m["labels"].values() for value in label.values()]
    numbers += [count for row in m["confusion"] for count in row]
    assert {type(number) for number in numbers} == {int, float}
    assert all(math.isfinite(number) for number in numbers)


def test_lengths_must_agree():
    with pytest.raises(ValueError):
        metrics.compute_metrics(["pro", "con"], ["pro"])
    with pytest.raises(ValueError):
        metrics.compute_topic_metrics(["a"], ["pro", "con"], ["pro", "con"])


def test_topics_are_separate_and_alphabetical():
    topics = ["zoos", "atoms", "zoos", "atoms", "atoms"]
    gold = ["pro", "con", "neu", "con", "pro"]
    predicted = ["pro", "con", None, "neu", "pro"]
    by_topic = metrics.compute_topic_metrics(topics, gold, predicted)
    assert list(by_topic) == ["atoms", "zoos"]
    assert (by_topic["atoms"]["n"], by_topic["atoms"]["invalid"]) == (3, 0)
    assert by_topic["atoms"]["accuracy"] == pytest.approx(2 / 3)
    assert by_topic["atoms"]["confusion"] == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    # pro 2*1/(1+1), con 2*1/(1+2); neu is not in its gold, so that the answer neu is outside
    assert by_topic["atoms"]["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert (by_topic["atoms"]["gold_labels"], by_topic["atoms"]["outside"]) == (["pro", "con"], 1)
    assert (by_topic["zoos"]["n"], by_topic["zoos"]["invalid"]) == (2, 1)
    assert by_topic["zoos"]["accuracy"] == pytest.approx(1 / 2)
    assert by_topic["zoos"]["confusion"] == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_summary_table():
    table = result_tables.format_summary(
        {
            "base": metrics.compute_metrics(GOLD, PREDICTED),
            "fine-tuned": metrics.compute_metrics(GOLD, GOLD),
        }
    )
    assert table.split("\n") == [
        "Model       Accuracy  Micro-F1  Macro-F1   n  invalid",
        "-----------------------------------------------------",
        "base           0.500     0.556     0.546  10        2",
        "fine-tuned     1.000     1.000     1.000  10        0",
    ]


def test_label_table():
    assert result_tables.format_labels(metrics.compute_metrics(GOLD, PREDICTED)).split("\n") == [
        "Label  Precision  Recall     F1  n",
        "----------------------------------",
        "pro        0.667   0.500  0.571  4",
        "con        0.667   0.667  0.667  3",
        "neu        0.500   0.333  0.400  3",
    ]


def test_topic_table():
    by_topic = metrics.compute_topic_metrics(["Zoos"] * 4 + ["Nuclear power"] * 6, GOLD, PREDICTED)
    # Nuclear power: con con neu, then neu pro invalid: accuracy 3/6
    #   con 2*2/(2+3), neu 2*1/(2+3); gold is never pro: macro-F1 (4/5 + 2/5) / 2
    # Zoos, all pro: pro pro con invalid: accuracy 2/4; pro 2*2/(2+4): macro-F1 2/3
    assert result_tables.format_topics(by_topic).split("\n") == [
        "Topic          Accuracy  Macro-F1  n  gold labels  outside",
        "----------------------------------------------------------",
        "Nuclear power     0.500     0.600  6  con, neu           1",
        "Zoos              0.500     0.667  4  pro                1",
    ]


def test_topics_with_all_labels_have_no_further_columns():
    by_topic = metrics.compute_topic_metrics(["Zoos"] * 10, GOLD, PREDICTED)
    assert result_tables.format_topics(by_topic).split("\n") == [
        "Topic  Accuracy  Macro-F1   n",
        "-----------------------------",
        "Zoos      0.500     0.546  10",
    ]


def test_a_label_that_is_gold_nowhere_has_dashes():
    m = metrics.compute_metrics(["pro", "con"], ["pro", "con"])
    assert result_tables.tabulate_labels(m)[1][-1] == ["neu", "-", "-", "-", "0"]


def test_table_aligns_the_first_column_left_and_the_others_right():
    assert formatting.format_table(["a", "long", "b"], [["xyz", "1", "22"], ["x", "12345", "3"]]) == (
        "a     long   b\n"
        "--------------\n"
        "xyz      1  22\n"
        "x    12345   3"
    )  # fmt: skip


def test_table_without_rows():
    assert formatting.format_table(["a", "bc"], []) == "a  bc\n-----"


# ---------------------------------------------------------------- many topics


def test_other_topics_are_all_rows_but_those_of_the_twenty_largest():
    topics = [f"t{number:02}" for number in range(22) for _ in range(2)] + ["t21", "t21"]
    gold = ["pro", "con"] * 23
    # The largest: t21 with four rows, then by name t00 to t18. Others: t19, t20, rows 38 to 41.
    predicted = ["neu"] * 38 + ["pro", "pro", "pro", "con"] + ["neu"] * 4
    others = metrics.compute_other_topics(topics, gold, predicted)
    assert others == metrics.compute_metrics(gold[38:42], predicted[38:42])
    assert (others["n"], others["accuracy"]) == (4, 3 / 4)
    assert metrics.compute_other_topics(topics[:40], gold[:40], predicted[:40]) is None
