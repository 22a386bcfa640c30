"""Numbers from labels: accuracy, precision, recall, F1. Labels in, numbers out; no torch."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

import prompts

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
    named = [label or "invalid" for label in predicted]
    labels = list(prompts.LABELS)
    options = {"labels": labels, "zero_division": 0}
    precision, recall, f1, support = precision_recall_fscore_support(gold, named, **options)
    micro_f1 = precision_recall_fscore_support(gold, named, average="micro", **options)[2]
    right = sum(truth == label for truth, label in zip(gold, named, strict=True))
    confusion = confusion_matrix(gold, named, labels=[*labels, "invalid"])
    confusion = confusion[: len(labels)]  # no gold label is invalid
    gold_labels = list_gold_labels(gold)
    semeval_labels = [label for label in SEMEVAL_LABELS if label in gold_labels]
    f1_of_label = dict(zip(labels, f1, strict=True))
    semeval_f1 = None
    if semeval_labels:
        semeval_f1 = float(np.mean([f1_of_label[label] for label in semeval_labels]))
    return {
        "n": len(gold),
        "invalid": named.count("invalid"),
        "outside": sum(label not in (*gold_labels, "invalid") for label in named),
        "gold_labels": gold_labels,
        "accuracy": right / len(gold),
        "micro_f1": float(micro_f1),
        "macro_f1": float(np.mean([f1_of_label[label] for label in gold_labels])),
        "weighted_f1": float(np.average(f1, weights=support)),
        "semeval_f1": semeval_f1,
        "mcc": compute_mcc(confusion.tolist()),
        "labels": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion": confusion.tolist(),
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
