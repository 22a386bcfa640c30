"""Numbers of an evaluation as tables: (header, rows) of texts."""

from stance.common import formatting
from stance.evaluation import uncertainty

LEVEL_TEXT = f"{100 * uncertainty.LEVEL:g} %"  # of intervals, as texts have it
NAMES = {"accuracy": "Accuracy", "macro_f1": "Macro-F1", "kappa": "Cohen's kappa"}
MODE_TEXTS = {
    "score": "The answer is the most probable of the three labels.",
    "generate": "The answer is read from generated text.",
}


def format_value(value, signed=False):
    """Return a number with three decimals, or a dash for None."""
    return "-" if value is None else f"{value:{'+' if signed else ''}.3f}"


def format_interval(ends, signed=False):
    """Return [low, high] as text, or a dash for None."""
    return (
        "-"
        if ends is None
        else f"[{format_value(ends[0], signed)}, {format_value(ends[1], signed)}]"
    )


def count_topics(table):
    """Return the number of topics of records as text."""
    topics = len({row["topic"] for row in table})
    return f"{topics} topic{'s' if topics > 1 else ''}"


def format_p(p):
    """Return a p-value as papers print it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def tabulate_results(intervals, over="rows", first="Model"):
    """Return (header, rows) of a table of results, each number with its interval over rows or topics."""
    rows = [
        [
            name,
            *(
                f"{format_value(part[key]['value'])} {format_interval(part[key].get(over))}"
                for key in NAMES
            ),
        ]
        for name, part in intervals.items()
    ]
    return [first, *NAMES.values()], rows


def tabulate_comparison(comparison):
    """Return (header, rows) of the differences between two models."""
    rows = [
        [
            NAMES[key],
            format_value(comparison[key]["difference"], signed=True),
            *(
                format_interval(comparison[key].get(over), signed=True)
                for over in ("rows", "topics")
            ),
        ]
        for key in NAMES
    ]
    return ["Difference", "value", f"{LEVEL_TEXT} over rows", f"{LEVEL_TEXT} over topics"], rows


def tabulate_calibration(calibration):
    """Return (header, rows) of calibration errors, as they are and with the fitted temperature."""
    rows = [
        [
            name,
            *(format_value(part["test"][key]) for key in ("ece", "nll")),
            format_value(part.get("temperature")),
            *(format_value(part.get("scaled", {}).get(key)) for key in ("ece", "nll")),
        ]
        for name, part in calibration.items()
    ]
    return ["Model", "ECE", "NLL", "temperature", "ECE scaled", "NLL scaled"], rows


def tabulate_coverage(coverage):
    """Return (header, rows) of the accuracy on the most confident rows."""
    rows = [
        [
            name,
            format_value(point["coverage"]),
            str(point["n"]),
            f"{format_value(point['accuracy'])} {format_interval(point['interval'])}",
            format_value(point["threshold"]),
        ]
        for name, points in coverage.items()
        for point in points
    ]
    return ["Model", "answered", "n", "accuracy", "confidence at least"], rows


def tabulate_robustness(robustness):
    """Return (header, rows) of how answers change with the prompt or spelling."""
    rows = [
        [
            variant,
            name,
            *(format_value(part[key]) for key in ("changed", "flipped")),
            f"{format_value(part['expected'])} {format_interval(part['interval'])}",
            *(format_value(part[key]) for key in ("accuracy_before", "accuracy")),
            str(part["n"]),
        ]
        for variant, models in robustness.items()
        for name, part in models.items()
    ]
    return [
        "Variant",
        "Model",
        "changed",
        "flipped",
        "as expected",
        "accuracy before",
        "accuracy",
        "n",
    ], rows


def tabulate_runs(comparison):
    """Return (header, rows) of analysis.compare_runs: the runs; of several, their mean and standard deviation."""
    keys = ("accuracy", "micro_f1", "macro_f1")
    rows = [
        [
            run,
            name,
            *(format_value(numbers[key]) for key in keys),
            str(numbers["n"]),
            str(numbers["invalid"]),
        ]
        for run, models in comparison["runs"].items()
        for name, numbers in models.items()
    ]
    last = list(next(iter(comparison["runs"].values())))[-1]
    for name in ("mean", "sd") if len(comparison["runs"]) > 1 else ():
        rows.append([name, last, *(format_value(comparison[name][key]) for key in keys), "", ""])
    return ["Run", "Model", "Accuracy", "Micro-F1", "Macro-F1", "n", "invalid"], rows


def describe_runs(comparison):
    """Return the sentence below the table of runs."""
    if len(comparison["runs"]) == 1:
        return "One run, so without mean and standard deviation."
    return "Runs on the same test split; sd: standard deviation between runs, with n - 1."


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
    return formatting.format_table(
        ["Model", "Accuracy", "Micro-F1", "Macro-F1", "n", "invalid"], rows
    )


def format_labels(metrics):
    """Return the table of precision, recall and F1 per label."""
    return formatting.format_table(*tabulate_labels(metrics))


def tabulate_labels(metrics):
    """Return (header, rows) of precision, recall and F1 per label."""
    rows = [
        [label, *(f"{m[key]:.3f}" for key in ("precision", "recall", "f1")), str(m["support"])]
        for label, m in metrics["labels"].items()
    ]
    return ["Label", "Precision", "Recall", "F1", "n"], rows


def format_topics(metrics_of_topic):
    """Return the table of accuracy and macro-F1 per topic."""
    return formatting.format_table(*tabulate_topics(metrics_of_topic))


def tabulate_topics(metrics_of_topic):
    """Return (header, rows) of accuracy and macro-F1 per topic."""
    rows = [
        [topic, f"{m['accuracy']:.3f}", f"{m['macro_f1']:.3f}", str(m["n"])]
        for topic, m in metrics_of_topic.items()
    ]
    return ["Topic", "Accuracy", "Macro-F1", "n"], rows
