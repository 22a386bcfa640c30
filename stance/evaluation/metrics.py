"""Numbers from labels: accuracy, precision, recall, F1. Labels in, numbers out; no torch."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

import prompts
from stance.common import formatting

SEMEVAL_LABELS = ("pro", "con")  # whose F1 SemEval-2016 averages, there called favor and against


def list_gold_labels(gold: Iterable[str]) -> list[str]:
    """Return the labels that occur among gold labels, in prompts.LABELS order.

    Macro-F1 is the mean over them: of a label that is gold nowhere even a perfect model has no F1.
    """
    found = set(gold)
    return [label for label in prompts.LABELS if label in found]


def compute_metrics(gold: Sequence[str], predicted: Sequence[str | None]) -> dict:
    """Return the metrics of n predicted labels against n gold labels; None is an invalid reply.

    {"n", "invalid", "outside", "gold_labels", "accuracy", "micro_f1", "macro_f1", "weighted_f1",
    "semeval_f1", "mcc", "labels": {label: {"precision", "recall", "f1", "support"}}, "confusion"}:
    counts are int, mcc float from -1 to 1, all others float from 0 to 1.

    gold_labels: list_gold_labels. outside: predicted labels that are none of them, which are wrong.
    macro_f1 is the mean over gold_labels, weighted_f1 the same weighted by their rows, semeval_f1
    the mean over those of SEMEVAL_LABELS among them, None without any. micro_f1 is over the three
    labels of prompts.LABELS. An invalid reply lowers recall but is no false positive of any label,
    so micro_f1 equals accuracy exactly when none is invalid.
    mcc: compute_mcc of the confusion matrix.
    confusion: 3 rows of 4 counts; rows are gold labels, columns predicted labels, then invalid.
    """
    confusion = count_confusion(gold, predicted)
    labels = {label: score_label(confusion, label) for label in prompts.LABELS}
    gold_labels = [label for label, scores in labels.items() if scores["support"]]
    n = len(gold)
    invalid = sum(row[-1] for row in confusion)
    right = sum(confusion[i][i] for i in range(len(confusion)))
    outside = sum(
        row[i]
        for row in confusion
        for i, label in enumerate(prompts.LABELS)
        if label not in gold_labels
    )
    semeval_labels = [label for label in SEMEVAL_LABELS if label in gold_labels]
    return {
        "n": n,
        "invalid": invalid,
        "outside": outside,
        "gold_labels": gold_labels,
        "accuracy": right / n,
        "micro_f1": 2 * right / (n + n - invalid),
        "macro_f1": statistics.fmean(labels[label]["f1"] for label in gold_labels),
        "weighted_f1": sum(scores["f1"] * scores["support"] for scores in labels.values()) / n,
        "semeval_f1": (
            statistics.fmean(labels[label]["f1"] for label in semeval_labels)
            if semeval_labels
            else None
        ),
        "mcc": compute_mcc(confusion),
        "labels": labels,
        "confusion": confusion,
    }


def count_confusion(gold: Sequence[str], predicted: Sequence[str | None]) -> list[list[int]]:
    """Return the confusion matrix of n gold and n predicted labels, as compute_metrics has it."""
    column_of_label = {label: i for i, label in enumerate((*prompts.LABELS, None))}
    confusion = [[0] * len(column_of_label) for _ in prompts.LABELS]
    for truth, label in zip(gold, predicted, strict=True):
        confusion[column_of_label[truth]][column_of_label[label]] += 1
    return confusion


def score_label(confusion: Sequence[Sequence[int]], label: str) -> dict[str, float | int]:
    """Return {"precision", "recall", "f1", "support"} of a label; 0 where 0 would be divided by 0.

    confusion: as in compute_metrics. support: its rows in gold.
    """
    i = prompts.LABELS.index(label)
    right = confusion[i][i]
    support = sum(confusion[i])
    predicted = sum(row[i] for row in confusion)
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / support if support else 0.0,
        "f1": 2 * right / (support + predicted) if support + predicted else 0.0,
        "support": support,
    }


def compute_mcc(confusion: Sequence[Sequence[int]]) -> float:
    """Return Matthews' correlation coefficient of all labels, invalid being one more.

    confusion: as in compute_metrics. 0 where all gold labels or all predictions are one label, so
    that 0 would be divided by 0. Source: Gorodkin 2004, there R_K.
    """
    gold = [sum(row) for row in confusion]
    predicted = [sum(column) for column in zip(*confusion, strict=True)]
    n = sum(gold)
    right = sum(confusion[i][i] for i in range(len(confusion)))
    # Of whole numbers, so that a perfect model has exactly 1.
    by_chance = sum(truth * label for truth, label in zip(gold, predicted))
    gold_spread = n**2 - sum(count**2 for count in gold)
    predicted_spread = n**2 - sum(count**2 for count in predicted)
    if not gold_spread or not predicted_spread:
        return 0.0
    return (n * right - by_chance) / math.sqrt(gold_spread * predicted_spread)


def compute_topic_metrics(
    topics: Sequence[str], gold: Sequence[str], predicted: Sequence[str | None]
) -> dict[str, dict]:
    """Return {topic: compute_metrics of its rows}, alphabetically; topics: one a row."""
    gold_by_topic = {}
    predicted_by_topic = {}
    for topic, truth, label in zip(topics, gold, predicted, strict=True):
        gold_by_topic.setdefault(topic, []).append(truth)
        predicted_by_topic.setdefault(topic, []).append(label)
    return {
        topic: compute_metrics(gold_by_topic[topic], predicted_by_topic[topic])
        for topic in sorted(gold_by_topic)
    }


def compute_other_topics(
    topics: Sequence[str], gold: Sequence[str], predicted: Sequence[str | None]
) -> dict | None:
    """Return compute_metrics of the rows of all topics but those that tables name; None without
    any.

    topics: one a row.
    """
    rows = find_other_rows(topics)
    if not rows:
        return None
    return compute_metrics([gold[row] for row in rows], [predicted[row] for row in rows])


def find_other_rows(topics: Sequence[str]) -> list[int]:
    """Return the rows whose topic is none of those that tables name; topics: one a row."""
    _, others = formatting.choose_largest(Counter(topics))
    others = set(others)
    return [row for row, topic in enumerate(topics) if topic in others]
