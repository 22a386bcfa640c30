"""Numbers from labels: accuracy, precision, recall, F1. Labels in, numbers out; no torch."""

from collections.abc import Sequence

from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

import prompts


def compute_metrics(gold: Sequence[str], predicted: Sequence[str | None]) -> dict:
    """Return the metrics of n predicted labels against n gold labels; None is an invalid reply.

    {"n", "invalid", "accuracy", "micro_f1", "macro_f1", "labels": {label: {"precision", "recall",
    "f1", "support"}}, "confusion"}: counts are int, all others float from 0 to 1.

    micro_f1 and macro_f1 are over the three labels of prompts.LABELS. An invalid reply lowers
    recall but is no false positive of any label, so micro_f1 equals accuracy exactly when none is
    invalid.
    confusion: 3 rows of 4 counts; rows are gold labels, columns predicted labels, then invalid.
    """
    named = [label or "invalid" for label in predicted]
    labels = list(prompts.LABELS)
    options = {"labels": labels, "zero_division": 0}
    precision, recall, f1, support = precision_recall_fscore_support(gold, named, **options)
    micro_f1 = precision_recall_fscore_support(gold, named, average="micro", **options)[2]
    right = sum(truth == label for truth, label in zip(gold, named, strict=True))
    confusion = confusion_matrix(gold, named, labels=[*labels, "invalid"])
    return {
        "n": len(gold),
        "invalid": named.count("invalid"),
        "accuracy": right / len(gold),
        "micro_f1": float(micro_f1),
        "macro_f1": float(f1.mean()),
        "labels": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion": confusion[: len(labels)].tolist(),  # no gold label is invalid
    }


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
