"""From the records of an evaluation to all numbers of its report: records in, dicts for JSON out. No torch, no files.

A record is a line of evaluation.jsonl: id, topic, text, label, models {name: {prediction, probabilities}} and, if the
train split was at hand, baselines {name: label}. Without probabilities (--mode generate) there is no calibration.
"""

import statistics

import numpy as np

import prompts
from stance.evaluation import metrics, prompt_variants, uncertainty

INVALID = len(prompts.LABELS)  # index of an answer that is no label


def analyse(table, validation=(), variants=()):
    """Return all numbers beyond metrics.compute_metrics.

    table: records of the test split; validation: of the validation split; variants: records with "variant" and "swaps"
    of the prompt variants. Keys: intervals, topics, comparisons, calibration, coverage, robustness; empty without data.
    """
    answers, models = list_answers(table), list(table[0]["models"])
    gold, topics = index_labels(row["label"] for row in table), [row["topic"] for row in table]
    pairs = [(first, models[-1]) for first in answers if first not in ("majority", models[-1])]
    return {
        "intervals": {
            name: uncertainty.describe_answers(gold, column, topics)
            for name, column in answers.items()
        },
        "topics": {name: describe_topics(gold, answers[name], topics) for name in models},
        "comparisons": [
            {
                "first": first,
                "second": last,
                **uncertainty.compare_answers(gold, answers[first], answers[last], topics),
            }
            for first, last in pairs
        ],
        "calibration": {name: calibrate(name, table, validation) for name in models}
        if is_scored(table)
        else {},
        "coverage": {
            name: uncertainty.pick_coverages(c) for name, c in trace_models(table).items()
        },
        "robustness": compare_variants(table, variants),
    }


def list_answers(table):
    """Return {name: answers as indices} of the baselines and models of records, baselines first."""
    baselines = {
        name: index_labels(row["baselines"][name] for row in table)
        for name in table[0].get("baselines", ())
    }
    models = {
        name: index_labels(row["models"][name]["prediction"] for row in table)
        for name in table[0]["models"]
    }
    return {**baselines, **models}


def index_labels(labels):
    """Return labels as indices of prompts.LABELS, and INVALID for None."""
    return np.array([INVALID if label is None else prompts.LABELS.index(label) for label in labels])


def describe_topics(gold, answers, topics):
    """Return {topic: {"n", statistics with intervals over its rows}}, alphabetically."""
    parts = {
        topic: [i for i, other in enumerate(topics) if other == topic]
        for topic in sorted(set(topics))
    }
    return {
        topic: {
            "n": len(rows),
            **uncertainty.describe_answers(gold[rows], answers[rows], [topic] * len(rows)),
        }
        for topic, rows in parts.items()
    }


def is_scored(table):
    """Whether all answers of records have probabilities."""
    return all("probabilities" in answer for row in table for answer in row["models"].values())


def read_probabilities(name, table):
    """Return the probabilities [n, 3] of a model."""
    return np.array(
        [[row["models"][name]["probabilities"][label] for label in prompts.LABELS] for row in table]
    )


def calibrate(name, table, validation):
    """Return {"test": calibration, "temperature", "scaled": calibration, "validation_rows"} of a model.

    The temperature is fitted on the validation records; without any, only "test" is there.
    """
    gold, probabilities = (
        index_labels(row["label"] for row in table),
        read_probabilities(name, table),
    )
    result = {"test": uncertainty.measure_calibration(probabilities, gold)}
    if validation:
        labels = index_labels(row["label"] for row in validation)
        result["temperature"] = uncertainty.fit_temperature(
            read_probabilities(name, validation), labels
        )
        scaled = uncertainty.scale_probabilities(probabilities, result["temperature"])
        result["scaled"] = uncertainty.measure_calibration(scaled, gold)
        result["validation_rows"] = len(validation)
    return result


def trace_models(table):
    """Return {model: its accuracy against the share of rows that it answers, most confident first}."""
    right = {
        name: [row["models"][name]["prediction"] == row["label"] for row in table]
        for name in table[0]["models"]
    }
    return {
        name: uncertainty.trace_coverage(read_probabilities(name, table).max(1), hits)
        for name, hits in right.items()
        if is_scored(table)
    }


def compare_variants(table, variants):
    """Return {variant: {model: {"n", "changed", "expected", "interval", "accuracy", "accuracy_before", "flipped"}}}.

    changed: share of answers unlike those to the usual prompt. expected: share of answers that are as they should be if
    the model understands: the same, or for a negated topic pro and con flipped; interval: Wilson's, of expected.
    flipped (for a negated topic): share of the answers pro and con that became the other; None without any. accuracy:
    with gold labels flipped likewise.
    """
    usual, result = {row["id"]: row for row in table}, {}
    for variant in dict.fromkeys(row["variant"] for row in variants):
        rows = [row for row in variants if row["variant"] == variant]
        swaps = rows[0]["swaps"]
        turn = (
            prompt_variants.SWAPPED_LABELS if swaps else {label: label for label in prompts.LABELS}
        )
        result[variant] = {}
        for name in rows[0]["models"]:
            before = [usual[row["id"]]["models"][name]["prediction"] for row in rows]
            after = [row["models"][name]["prediction"] for row in rows]
            gold = [usual[row["id"]]["label"] for row in rows]
            firm = [turn[b] == a for b, a in zip(before, after) if b != "neu"]
            result[variant][name] = {
                "n": len(rows),
                "changed": share(b != a for b, a in zip(before, after)),
                "expected": share(turn[b] == a for b, a in zip(before, after)),
                "interval": uncertainty.find_wilson(
                    sum(turn[b] == a for b, a in zip(before, after)), len(rows)
                ),
                "accuracy": share(turn[g] == a for g, a in zip(gold, after)),
                "accuracy_before": share(g == b for g, b in zip(gold, before)),
                "flipped": share(firm) if swaps else None,
            }
    return result


def share(flags):
    """Return the share of true flags, or None of none."""
    flags = list(flags)
    return sum(flags) / len(flags) if flags else None


def list_errors(table):
    """Return (header, rows) of the records that some model has wrong, sorted by confidence in the wrong answer.

    change: what fine-tuning did to the row. confidence: of the last model that is wrong; None without probabilities.
    """
    models = list(table[0]["models"])
    header = ["change", "confidence", "topic", "text", "gold"]
    header += [
        f"{name} {part}"
        for name in models
        for part in ("answer", *(f"p_{label}" for label in prompts.LABELS))
    ]
    rows = []
    for row in table:
        answers = [row["models"][name] for name in models]
        right = [answer["prediction"] == row["label"] for answer in answers]
        if all(right):
            continue
        change = {(False, True): "fixed", (True, False): "broken"}.get(tuple(right), "wrong")
        wrong = [answer for answer, hit in zip(answers, right) if not hit][-1]
        cells = [
            change,
            max(wrong.get("probabilities", {"": None}).values()),
            row["topic"],
            row["text"],
            row["label"],
        ]
        for answer in answers:
            probabilities = answer.get("probabilities", {})
            cells += [
                answer["prediction"] or "invalid",
                *(probabilities.get(label) for label in prompts.LABELS),
            ]
        rows.append([round(cell, 4) if isinstance(cell, float) else cell for cell in cells])
    return header, sorted(rows, key=lambda cells: -(cells[1] or 0))


def compare_runs(tables):
    """Return {"runs": {run: {model: metrics}}, "mean", "sd"} of {run: records}.

    mean, sd: of the runs' last models; sd with n - 1, the spread between runs, None for one run.
    """
    runs = {run: compute_model_metrics(table) for run, table in tables.items()}
    last = [numbers[list(numbers)[-1]] for numbers in runs.values()]
    result = {"runs": runs, "mean": {}, "sd": {}}
    for key in ("accuracy", "micro_f1", "macro_f1"):
        values = [numbers[key] for numbers in last]
        result["mean"][key] = statistics.fmean(values)
        result["sd"][key] = statistics.stdev(values) if len(values) > 1 else None
    return result


def compute_model_metrics(table):
    """Return {model: metrics with "topics"} of records."""
    topics, gold = [row["topic"] for row in table], [row["label"] for row in table]
    result = {}
    for name in table[0]["models"]:
        predicted = [row["models"][name]["prediction"] for row in table]
        result[name] = metrics.compute_metrics(gold, predicted)
        result[name]["topics"] = metrics.compute_topic_metrics(topics, gold, predicted)
    return result
