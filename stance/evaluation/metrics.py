"""Numbers from labels: accuracy, precision, recall, F1. Labels in, numbers out; no torch."""

from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

import prompts


def compute_metrics(gold, predicted):
    """Return the metrics of n predictions against n gold labels as a dict; a prediction of None is an invalid answer.

    accuracy, micro_f1 and macro_f1 are over the three labels of prompts.LABELS. An invalid answer lowers recall but is
    no false positive of any label, so micro_f1 equals accuracy exactly when no answer is invalid.
    confusion: rows are gold labels, columns predicted labels, then invalid.
    """
    answers = [label or "invalid" for label in predicted]
    labels = list(prompts.LABELS)
    options = {"labels": labels, "zero_division": 0}
    precision, recall, f1, support = precision_recall_fscore_support(gold, answers, **options)
    micro_f1 = precision_recall_fscore_support(gold, answers, average="micro", **options)[2]
    return {
        "n": len(gold),
        "invalid": answers.count("invalid"),
        "accuracy": sum(g == a for g, a in zip(gold, answers, strict=True)) / len(gold),
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
        "confusion": confusion_matrix(gold, answers, labels=[*labels, "invalid"])[:3].tolist(),
    }


def compute_topic_metrics(topics, gold, predicted):
    """Return {topic: metrics} in alphabetical order of topics."""
    by_topic = {}
    for topic, label, answer in zip(topics, gold, predicted, strict=True):
        by_topic.setdefault(topic, ([], []))
        by_topic[topic][0].append(label)
        by_topic[topic][1].append(answer)
    return {topic: compute_metrics(*by_topic[topic]) for topic in sorted(by_topic)}
