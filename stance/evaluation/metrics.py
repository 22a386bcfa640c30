"""Numbers from labels: accuracy, F1, per-label and per-topic tables. Labels in, numbers and text out; no torch."""

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


def format_summary(metrics_of_model):
    """Return the table Model | Accuracy | Micro-F1 | Macro-F1 | n | invalid for {model name: metrics}."""
    rows = [
        [
            name,
            *(f"{m[key]:.3f}" for key in ("accuracy", "micro_f1", "macro_f1")),
            str(m["n"]),
            str(m["invalid"]),
        ]
        for name, m in metrics_of_model.items()
    ]
    return format_table(["Model", "Accuracy", "Micro-F1", "Macro-F1", "n", "invalid"], rows)


def format_labels(metrics):
    """Return the table of precision, recall and F1 per label."""
    return format_table(*tabulate_labels(metrics))


def tabulate_labels(metrics):
    """Return (header, rows) of precision, recall and F1 per label."""
    rows = [
        [label, *(f"{m[key]:.3f}" for key in ("precision", "recall", "f1")), str(m["support"])]
        for label, m in metrics["labels"].items()
    ]
    return ["Label", "Precision", "Recall", "F1", "n"], rows


def format_topics(metrics_of_topic):
    """Return the table of accuracy and macro-F1 per topic."""
    return format_table(*tabulate_topics(metrics_of_topic))


def tabulate_topics(metrics_of_topic):
    """Return (header, rows) of accuracy and macro-F1 per topic."""
    rows = [
        [topic, f"{m['accuracy']:.3f}", f"{m['macro_f1']:.3f}", str(m["n"])]
        for topic, m in metrics_of_topic.items()
    ]
    return ["Topic", "Accuracy", "Macro-F1", "n"], rows


def align_columns(rows):
    """Return "l" or "r" for each column of a table: numbers, but in the first column, go to the right."""
    columns = list(zip(*rows, strict=True))
    return [
        "r" if i and all(cell[:1] in "+-[0123456789" for cell in cells) else "l"
        for i, cells in enumerate(columns)
    ]


def format_table(header, rows):
    """Return a fixed-width table, aligned as align_columns says."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    sides = align_columns(rows or [header])

    def align(row):
        cells = zip(row, widths, sides, strict=True)
        return "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width) for cell, width, side in cells
        )

    return "\n".join([align(header), "-" * (sum(widths) + 2 * len(widths) - 2), *map(align, rows)])
