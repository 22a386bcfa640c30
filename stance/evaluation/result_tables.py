"""Numbers of an evaluation as tables: (header, rows) of texts."""

from collections.abc import Iterable

import prompts
from stance.common import formatting, types
from stance.evaluation import uncertainty

TextTable = tuple[list[str], list[list[str]]]  # header and rows, as many cells in each

LEVEL_TEXT = f"{100 * uncertainty.LEVEL:g} %"  # of intervals, as texts have it
NAMES = {"accuracy": "Accuracy", "macro_f1": "Macro-F1", "kappa": "Cohen's kappa"}
OTHER_NAMES = {
    "semeval_f1": "SemEval-2016 F1",
    "weighted_f1": "Weighted F1",
    "mcc": "MCC",
}  # of metrics.compute_metrics: scores that other papers report
MODE_TEXTS = {
    "score": "The answer is the most probable of the three labels.",
    "generate": "The answer is read from generated text.",
}


def format_value(value: float | None, signed: bool = False) -> str:
    """Return a number with three decimals, or a dash for None."""
    if value is None:
        return "-"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def format_interval(ends: list[float] | None, signed: bool = False) -> str:
    """Return [low, high] as text, or a dash for None."""
    if ends is None:
        return "-"
    low, high = ends
    return f"[{format_value(low, signed)}, {format_value(high, signed)}]"


def count_topics(table: list[types.EvaluationRecord]) -> str:
    """Return the number of topics of records as text."""
    topics = len({row["topic"] for row in table})
    return f"{topics} topic{'s' if topics > 1 else ''}"


def join_words(words: Iterable[str]) -> str:
    """Return words as an enumeration: a, b and c."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def describe_gold_labels(scores: dict[str, dict]) -> str:
    """Return which labels macro-F1 is the mean of, if the gold labels are not all three; else "".

    scores: {name: metrics.compute_metrics} of systems on the same rows.
    """
    known = next(iter(scores.values()))["gold_labels"]
    absent = [label for label in prompts.LABELS if label not in known]
    if not absent:
        return ""
    outside = [f"{numbers['outside']} of {name}" for name, numbers in scores.items()]
    return (
        f"Macro-F1 is the mean over {join_words(known)}: no row has the gold label "
        f"{' or '.join(absent)}. Answers outside of these count as wrong: {join_words(outside)}."
    )


def name_leaks(leaked: int, rows: int) -> str:
    """Return in a sentence how many of some test rows are leaked."""
    return f"{leaked} of {rows} test rows are leaked: their sentences also stand in the train or validation split."


def describe_leaks(leaks: dict) -> str:
    """Return how many test rows are leaked and what the models reach without them; "" without any.

    leaks: analysis.describe_without_leaks.
    """
    if not leaks:
        return ""
    found = name_leaks(leaks["leaked"], leaks["rows"])
    if not leaks["n"]:
        return found
    reached = [
        f"{name} {format_value(numbers['accuracy'])} and {format_value(numbers['macro_f1'])}"
        for name, numbers in leaks["scores"].items()
    ]
    rest = f"Accuracy and macro-F1 on the other {leaks['n']} rows: {', '.join(reached)}."
    return " ".join([found, rest, describe_gold_labels(leaks["scores"])]).strip()


def tabulate_agreement(agreement: dict) -> TextTable:
    """Return accuracy and macro-F1 by agreement of the annotators as a table.

    agreement: analysis.compare_agreement. Shares of the votes have lines of their own unless the
    two groups say the same.
    """
    groups = dict(agreement["groups"])
    if len(agreement["values"]) > 2:
        groups |= agreement["values"]
    names = []
    scores = {}  # by line
    for group, part in groups.items():
        for name, numbers in part["scores"].items():
            names.append((group, name))
            scores[group, name] = numbers
    more_header, more_rows = tabulate_gold_labels(scores)
    rows = []
    for (group, name), more in zip(names, more_rows, strict=True):
        numbers = scores[group, name]
        values = [format_value(numbers[key]) for key in ("accuracy", "macro_f1")]
        rows.append([group, name, *values, str(numbers["n"]), *more])
    return ["Agreement", "Model", "Accuracy", "Macro-F1", "n", *more_header], rows


def tabulate_scores(scores: dict[str, dict]) -> TextTable:
    """Return the scores of OTHER_NAMES as a table; scores: {name: metrics.compute_metrics}."""
    rows = []
    for name, numbers in scores.items():
        rows.append([name, *(format_value(numbers[key]) for key in OTHER_NAMES)])
    return ["Model", *OTHER_NAMES.values()], rows


def format_p(p: float) -> str:
    """Return a p-value as papers print it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def tabulate_results(
    intervals: dict[str, dict], over: str = "rows", first: str = "Model"
) -> TextTable:
    """Return a table of results, each number with its interval.

    intervals: {name: uncertainty.describe_predictions} of models or topics; over: "rows" or
    "topics", what the intervals resample; first: header of the names.
    """
    rows = []
    for name, statistics in intervals.items():
        cells = [name]
        for key in NAMES:
            value = format_value(statistics[key]["value"])
            interval = format_interval(statistics[key].get(over))
            cells.append(f"{value} {interval}")
        rows.append(cells)
    return [first, *NAMES.values()], rows


def tabulate_comparison(comparison: dict) -> TextTable:
    """Return the differences between two models, of uncertainty.compare_predictions, as a table."""
    rows = []
    for key, title in NAMES.items():
        difference = comparison[key]
        rows.append(
            [
                title,
                format_value(difference["difference"], signed=True),
                format_interval(difference.get("rows"), signed=True),
                format_interval(difference.get("topics"), signed=True),
            ]
        )
    return ["Difference", "value", f"{LEVEL_TEXT} over rows", f"{LEVEL_TEXT} over topics"], rows


def tabulate_calibration(calibration: dict[str, dict]) -> TextTable:
    """Return calibration errors as they are and with the fitted temperature, as a table.

    calibration: {model: analysis.calibrate}.
    """
    rows = []
    for name, part in calibration.items():
        scaled = part.get("scaled", {})
        rows.append(
            [
                name,
                format_value(part["test"]["ece"]),
                format_value(part["test"]["nll"]),
                format_value(part.get("temperature")),
                format_value(scaled.get("ece")),
                format_value(scaled.get("nll")),
            ]
        )
    return ["Model", "ECE", "NLL", "temperature", "ECE scaled", "NLL scaled"], rows


def tabulate_coverage(coverage: dict[str, list[dict]]) -> TextTable:
    """Return the accuracy on the most confident rows as a table.

    coverage: {model: uncertainty.pick_coverages}.
    """
    rows = []
    for name, points in coverage.items():
        for point in points:
            accuracy = format_value(point["accuracy"])
            rows.append(
                [
                    name,
                    format_value(point["coverage"]),
                    str(point["n"]),
                    f"{accuracy} {format_interval(point['interval'])}",
                    format_value(point["threshold"]),
                ]
            )
    return ["Model", "answered", "n", "accuracy", "confidence at least"], rows


def tabulate_robustness(robustness: dict[str, dict[str, dict]]) -> TextTable:
    """Return how predictions change with the prompt or spelling, as a table.

    robustness: analysis.compare_variants.
    """
    rows = []
    for variant, models in robustness.items():
        for name, part in models.items():
            expected = format_value(part["expected"])
            rows.append(
                [
                    variant,
                    name,
                    format_value(part["changed"]),
                    format_value(part["flipped"]),
                    f"{expected} {format_interval(part['interval'])}",
                    format_value(part["accuracy_before"]),
                    format_value(part["accuracy"]),
                    str(part["n"]),
                ]
            )
    header = [
        "Variant",
        "Model",
        "changed",
        "flipped",
        "as expected",
        "accuracy before",
        "accuracy",
    ]
    return [*header, "n"], rows


def tabulate_runs(comparison: dict) -> TextTable:
    """Return a table of runs; of several, also of their mean and standard deviation.

    comparison: analysis.compare_runs.
    """
    keys = ("accuracy", "micro_f1", "macro_f1")
    runs = comparison["runs"]
    rows = []
    for run, models in runs.items():
        for name, numbers in models.items():
            values = [format_value(numbers[key]) for key in keys]
            rows.append([run, name, *values, str(numbers["n"]), str(numbers["invalid"])])
    if len(runs) > 1:
        first_run = next(iter(runs.values()))
        last_model = list(first_run)[-1]  # mean and standard deviation are of it alone
        for statistic in ("mean", "sd"):
            values = [format_value(comparison[statistic][key]) for key in keys]
            rows.append([statistic, last_model, *values, "", ""])
    return ["Run", "Model", "Accuracy", "Micro-F1", "Macro-F1", "n", "invalid"], rows


def describe_runs(comparison: dict) -> str:
    """Return the sentences below the table of runs."""
    runs = comparison["runs"]
    scores = {}
    for run, models in runs.items():
        for name, numbers in models.items():
            scores[f"{name} in {run}"] = numbers
    if len(runs) == 1:
        sentence = "One run, so without mean and standard deviation."
    else:
        sentence = "Runs on the same test split; sd: standard deviation between runs, with n - 1."
    leaked = ""
    if comparison.get("leaked"):
        any_numbers = next(iter(scores.values()))
        leaked = name_leaks(comparison["leaked"], any_numbers["n"])
    return " ".join(part for part in (sentence, leaked, describe_gold_labels(scores)) if part)


def format_summary(metrics_of_model: dict[str, dict]) -> str:
    """Return the table of {model name: metrics} for the screen, a row a model."""
    rows = []
    for name, metrics in metrics_of_model.items():
        values = [f"{metrics[key]:.3f}" for key in ("accuracy", "micro_f1", "macro_f1")]
        rows.append([name, *values, str(metrics["n"]), str(metrics["invalid"])])
    header = ["Model", "Accuracy", "Micro-F1", "Macro-F1", "n", "invalid"]
    return formatting.format_table(header, rows)


def format_labels(metrics: dict) -> str:
    """Return the table of precision, recall and F1 per label for the screen.

    metrics: metrics.compute_metrics, of one model.
    """
    return formatting.format_table(*tabulate_labels(metrics))


def tabulate_labels(metrics: dict) -> TextTable:
    """Return precision, recall and F1 per label as a table; metrics: metrics.compute_metrics.

    A label that is gold nowhere has dashes: nobody can find it.
    """
    rows = []
    for label, numbers in metrics["labels"].items():
        values = ["-"] * 3
        if numbers["support"]:
            values = [f"{numbers[key]:.3f}" for key in ("precision", "recall", "f1")]
        rows.append([label, *values, str(numbers["support"])])
    return ["Label", "Precision", "Recall", "F1", "n"], rows


def pick_topics(by_topic: dict[str, dict], others: dict | None) -> dict[str, dict]:
    """Return {topic: numbers} of the topics that a table or picture names, and of all others as
    one.

    by_topic: {topic: numbers with "n"}; others: the same numbers of all rows of the other topics;
    None if by_topic has no more topics than are named.
    """
    largest, rest = formatting.choose_largest(
        {topic: part["n"] for topic, part in by_topic.items()}
    )
    picked = {topic: by_topic[topic] for topic in largest}
    if rest:
        picked[formatting.name_others(len(rest))] = others
    return picked


def format_topics(metrics_of_topic: dict[str, dict]) -> str:
    """Return the table of accuracy and macro-F1 per topic for the screen."""
    return formatting.format_table(*tabulate_topics(metrics_of_topic))


def tabulate_topics(metrics_of_topic: dict[str, dict]) -> TextTable:
    """Return accuracy and macro-F1 per topic, of metrics.compute_topic_metrics, as a table.

    If a topic lacks a gold label, also with the columns of tabulate_gold_labels.
    """
    more_header, more_rows = tabulate_gold_labels(metrics_of_topic)
    rows = []
    for (topic, metrics), more in zip(metrics_of_topic.items(), more_rows, strict=True):
        accuracy = f"{metrics['accuracy']:.3f}"
        macro_f1 = f"{metrics['macro_f1']:.3f}"
        rows.append([topic, accuracy, macro_f1, str(metrics["n"]), *more])
    return ["Topic", "Accuracy", "Macro-F1", "n", *more_header], rows


def tabulate_gold_labels(metrics_of_topic: dict[str, dict]) -> TextTable:
    """Return the columns on the labels that the macro-F1 of each topic is the mean of.

    These are the labels in the gold of its rows; "outside" counts the answers that are none of
    them. Without columns if every topic has all three.
    """
    parts = metrics_of_topic.values()
    if all(len(metrics["gold_labels"]) == len(prompts.LABELS) for metrics in parts):
        return [], [[] for _ in parts]
    rows = [[", ".join(metrics["gold_labels"]), str(metrics["outside"])] for metrics in parts]
    return ["gold labels", "outside"], rows
