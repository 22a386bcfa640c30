"""From the records of an evaluation to all numbers of its report: records in, dicts for JSON out.

A record is a line of evaluation.jsonl: id, topic, text, label, models {name: {prediction,
probabilities}} and, if the train split was at hand, baselines {name: label}. Without probabilities
(--mode generate) there is no calibration. Leaked rows, whose sentence also stands in the train
or validation split, count as all others do; "leaks" has the numbers without them. No torch, no files.
"""

import statistics
from collections.abc import Iterable, Sequence

import numpy as np

import prompts
from stance.common.types import EvaluationRecord, Example, Prediction
from stance.evaluation import metrics, uncertainty

INVALID = len(prompts.LABELS)  # index of a prediction that is no label
FEW_VALUES = 5  # so many different shares of agreement are shown each
RUN_SCORES = ("accuracy", "micro_f1", "macro_f1", "semeval_f1", "weighted_f1", "mcc")


def analyse(
    table: list[EvaluationRecord],
    validation: Sequence[EvaluationRecord] = (),
    variants: Sequence[EvaluationRecord] = (),
) -> dict[str, dict | list]:
    """Return all numbers beyond metrics.compute_metrics.

    table: records of the test split; validation: of the validation split; variants: records with
    "variant" and "swaps" of the prompt variants.
    Keys: intervals, scores, topics, other_topics, comparisons, calibration, coverage, robustness, leaks,
    agreement; empty without data. Compared is the last model with each other model and with the
    better baseline, TF-IDF. The temperature is fitted without leaked validation records.
    scores: {baseline or model: metrics.compute_metrics without its parts by label}.
    """
    models = list(table[0]["models"])
    last = models[-1]
    predicted = list_predictions(table)
    gold = index_labels(row["label"] for row in table)
    topics = [row["topic"] for row in table]

    comparisons = []
    for first in predicted:
        if first in ("majority", last):
            continue
        compared = uncertainty.compare_predictions(gold, predicted[first], predicted[last], topics)
        comparisons.append({"first": first, "second": last, **compared})
    calibration = {}
    if is_scored(table):
        fitted = drop_leaked(validation)
        calibration = {name: calibrate(name, table, fitted) for name in models}
    curves = trace_models(table)

    return {
        "intervals": describe_intervals(table),
        "scores": compute_scores(table),
        "topics": {
            name: uncertainty.describe_topics(gold, predicted[name], topics) for name in models
        },
        "other_topics": {
            name: describe_other_topics(gold, predicted[name], topics) for name in models
        },
        "comparisons": comparisons,
        "calibration": calibration,
        "coverage": {name: uncertainty.pick_coverages(curve) for name, curve in curves.items()},
        "robustness": compare_variants(table, variants),
        "leaks": describe_without_leaks(table),
        "agreement": compare_agreement(table),
    }


def drop_leaked(table: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    """Return the records that are not marked as leaked."""
    return [row for row in table if not row.get("leaked")]


def count_leaked(table: Sequence[EvaluationRecord | Example]) -> int:
    """Return how many records, or lines of a split, are marked as leaked."""
    return sum(bool(row.get("leaked")) for row in table)


def describe_without_leaks(table: list[EvaluationRecord]) -> dict[str, dict | int]:
    """Return {"leaked", "rows", "n", "intervals", "scores"}: the numbers without leaked rows; {}
    without any.

    leaked: how many of all rows; n: rows that are left; intervals, scores: as in analyse, {} if no
    row is left.
    """
    leaked = count_leaked(table)
    if not leaked:
        return {}
    kept = drop_leaked(table)
    result = {"leaked": leaked, "rows": len(table), "n": len(kept), "intervals": {}, "scores": {}}
    if kept:
        result["intervals"] = describe_intervals(kept)
        result["scores"] = compute_scores(kept)
    return result


def describe_intervals(table: list[EvaluationRecord]) -> dict[str, dict]:
    """Return {name: uncertainty.describe_predictions} of baselines and models, baselines first."""
    gold = index_labels(row["label"] for row in table)
    topics = [row["topic"] for row in table]
    return {
        name: uncertainty.describe_predictions(gold, labels, topics)
        for name, labels in list_predictions(table).items()
    }


def compare_agreement(table: list[EvaluationRecord]) -> dict[str, dict | int]:
    """Return how good the predictions are where annotators agreed and where they did not.

    {"unknown": rows without agreement, "groups": {"full agreement" and "not full": {"n",
    "scores"}}, "values": the same by share of the votes}; {} if no row has an agreement. scores:
    compute_scores of the rows. values is empty if there are more than FEW_VALUES.
    """
    rows = [row for row in table if "agreement" in row]
    if not rows:
        return {}
    groups = {"full agreement": [], "not full": []}
    rows_of_value = {}
    for row in sorted(rows, key=lambda row: -row["agreement"]):
        value = f"{row['agreement']:.3f}"  # 2/3 may have been rounded
        groups["full agreement" if value == "1.000" else "not full"].append(row)
        rows_of_value.setdefault(value, []).append(row)
    if len(rows_of_value) > FEW_VALUES:
        rows_of_value = {}
    return {
        "unknown": len(table) - len(rows),
        "groups": {name: score_group(group) for name, group in groups.items() if group},
        "values": {value: score_group(group) for value, group in rows_of_value.items()},
    }


def score_group(rows: list[EvaluationRecord]) -> dict[str, dict | int]:
    """Return {"n", "scores": compute_scores} of some records."""
    return {"n": len(rows), "scores": compute_scores(rows)}


def list_predictions(table: list[EvaluationRecord]) -> dict[str, np.ndarray]:
    """Return {name: index_labels of its predictions} of baselines and models, baselines first."""
    predicted = {}
    for name in table[0].get("baselines", ()):
        predicted[name] = index_labels(row["baselines"][name] for row in table)
    for name in table[0]["models"]:
        predicted[name] = index_labels(row["models"][name]["prediction"] for row in table)
    return predicted


def compute_scores(table: list[EvaluationRecord]) -> dict[str, dict]:
    """Return {name: metrics.compute_metrics} of baselines and models, baselines first.

    Without "labels" and "confusion": those of the models are among compute_model_metrics.
    """
    gold = [row["label"] for row in table]
    answers = {}
    for name in table[0].get("baselines", ()):
        answers[name] = [row["baselines"][name] for row in table]
    for name in table[0]["models"]:
        answers[name] = [row["models"][name]["prediction"] for row in table]
    scores = {}
    for name, predicted in answers.items():
        numbers = metrics.compute_metrics(gold, predicted)
        del numbers["labels"], numbers["confusion"]
        scores[name] = numbers
    return scores


def index_labels(labels: Iterable[str | None]) -> np.ndarray:
    """Return n labels as indices of prompts.LABELS, int [n], and INVALID for None."""
    indices = [INVALID if label is None else prompts.LABELS.index(label) for label in labels]
    return np.array(indices, int)


def describe_other_topics(
    gold: np.ndarray, predicted: np.ndarray, topics: Sequence[str]
) -> dict[str, dict | int] | None:
    """Return {"n", uncertainty.describe_predictions} of the rows of all topics but those that
    tables name; None without any.

    gold, predicted: labels as index_labels returns them; topics: one a row.
    """
    rows = metrics.find_other_rows(topics)
    if not rows:
        return None
    others = [topics[row] for row in rows]
    return {
        "n": len(rows),
        **uncertainty.describe_predictions(gold[rows], predicted[rows], others),
    }


def is_scored(table: list[EvaluationRecord]) -> bool:
    """Whether all predictions of records have probabilities."""
    return all(
        "probabilities" in prediction for row in table for prediction in row["models"].values()
    )


def read_probabilities(name: str, table: Sequence[EvaluationRecord]) -> np.ndarray:
    """Return the probabilities [n, 3] that a model gives the labels, in prompts.LABELS order."""
    rows = []
    for row in table:
        probabilities = row["models"][name]["probabilities"]
        rows.append([probabilities[label] for label in prompts.LABELS])
    return np.array(rows)


def calibrate(
    name: str,
    table: list[EvaluationRecord],
    validation: Sequence[EvaluationRecord],
) -> dict[str, dict | float | int]:
    """Return how well a model's probabilities for the records of table are calibrated.

    {"test": calibration, "temperature", "scaled": calibration, "validation_rows"}, calibrations as
    uncertainty.measure_calibration returns them. The temperature is fitted on the validation
    records; without any, only "test" is there.
    """
    gold = index_labels(row["label"] for row in table)
    probabilities = read_probabilities(name, table)
    result = {"test": uncertainty.measure_calibration(probabilities, gold)}
    if validation:
        temperature = uncertainty.fit_temperature(
            read_probabilities(name, validation), index_labels(row["label"] for row in validation)
        )
        scaled = uncertainty.scale_probabilities(probabilities, temperature)
        result["temperature"] = temperature
        result["scaled"] = uncertainty.measure_calibration(scaled, gold)
        result["validation_rows"] = len(validation)
    return result


def trace_models(table: list[EvaluationRecord]) -> dict[str, list[dict[str, float]]]:
    """Return {model: uncertainty.trace_coverage of its predictions}; empty without probabilities.

    Its points are accuracy against the share of rows that it answers, most confident first.
    """
    if not is_scored(table):
        return {}
    curves = {}
    for name in table[0]["models"]:
        confidence = read_probabilities(name, table).max(1)
        right = [row["models"][name]["prediction"] == row["label"] for row in table]
        curves[name] = uncertainty.trace_coverage(confidence, right)
    return curves


def compare_variants(
    table: list[EvaluationRecord], variants: Sequence[EvaluationRecord]
) -> dict[str, dict[str, dict]]:
    """Return {variant: {model: numbers}}, the numbers as compare_variant returns them.

    table: records of the test split; variants: records of its rows, or some of them, by variant.
    """
    usual_of_id = {row["id"]: row for row in table}
    rows_of_variant = {}
    for row in variants:
        rows_of_variant.setdefault(row["variant"], []).append(row)
    result = {}
    for variant, rows in rows_of_variant.items():
        usual = [usual_of_id[row["id"]] for row in rows]
        result[variant] = {name: compare_variant(name, usual, rows) for name in rows[0]["models"]}
    return result


def compare_variant(
    name: str, usual: list[EvaluationRecord], asked: list[EvaluationRecord]
) -> dict[str, int | float | list[float] | None]:
    """Return how a model's predictions for n rows change from the usual prompt to a variant.

    usual, asked: records of the same rows with the usual prompt and with the variant, in one order.

    {"n", "changed", "expected", "interval", "accuracy", "accuracy_before", "flipped"}.
    changed: share of predictions unlike those to the usual prompt. expected: share of predictions
    that are as they should be if the model understands: the same, or for a negated topic pro and
    con flipped; interval: Wilson's, of expected. flipped (for a negated topic): share of the
    predictions pro and con that became the other; None without any. accuracy: with gold labels
    flipped likewise.
    """
    negated = asked[0]["swaps"]
    if negated:
        expected_label = prompts.FLIPPED_LABELS
    else:
        expected_label = {label: label for label in prompts.LABELS}
    gold = [row["label"] for row in usual]
    before = [row["models"][name]["prediction"] for row in usual]
    after = [row["models"][name]["prediction"] for row in asked]
    changed = [old != new for old, new in zip(before, after)]
    expected = [expected_label[old] == new for old, new in zip(before, after)]
    flipped = [hit for hit, old in zip(expected, before) if old != "neu"]
    return {
        "n": len(asked),
        "changed": share(changed),
        "expected": share(expected),
        "interval": uncertainty.find_wilson(sum(expected), len(asked)),
        "accuracy": share(expected_label[label] == new for label, new in zip(gold, after)),
        "accuracy_before": share(label == old for label, old in zip(gold, before)),
        "flipped": share(flipped) if negated else None,
    }


def share(flags: Iterable[bool]) -> float | None:
    """Return the share of true flags, or None of none."""
    flags = list(flags)
    return sum(flags) / len(flags) if flags else None


def list_errors(table: list[EvaluationRecord]) -> tuple[list[str], list[list]]:
    """Return (header, rows) of the records that some model has wrong, most confident first.

    source_id is among the columns if some record has one; several are joined. change: what
    fine-tuning did to the row. confidence: that of the last model that is wrong; None
    without probabilities. Probabilities are rounded to 4 decimals.
    """
    has_source = any("source_id" in row for row in table)
    header = ["change", "confidence", "topic", "text", "gold"]
    if has_source:
        header.append("source_id")
    for name in table[0]["models"]:
        header.append(f"{name} answer")
        header += [f"{name} p_{label}" for label in prompts.LABELS]
    rows = []
    for row in table:
        predictions = [row["models"][name] for name in table[0]["models"]]
        right = [prediction["prediction"] == row["label"] for prediction in predictions]
        if all(right):
            continue
        wrong = [prediction for prediction, hit in zip(predictions, right) if not hit]
        cells = [
            _name_change(right),
            _find_confidence(wrong[-1]),
            row["topic"],
            row["text"],
            row["label"],
        ]
        if has_source:
            cells.append(join_source(row.get("source_id", "")))
        for prediction in predictions:
            cells.append(prediction["prediction"] or "invalid")
            probabilities = prediction.get("probabilities", {})
            cells += [probabilities.get(label) for label in prompts.LABELS]
        rows.append([round(cell, 4) if isinstance(cell, float) else cell for cell in cells])
    rows.sort(key=lambda cells: -(cells[1] or 0))
    return header, rows


def join_source(source: str | list[str]) -> str:
    """Return the source_id of a record as one text; of rows that were merged, all of theirs."""
    return source if isinstance(source, str) else "; ".join(source)


def _name_change(right: list[bool]) -> str:
    """Return what fine-tuning did to a row; right: whether base and fine-tuned model are right."""
    if right == [False, True]:
        return "fixed"
    if right == [True, False]:
        return "broken"
    return "wrong"


def _find_confidence(prediction: Prediction) -> float | None:
    """Return the highest probability of a prediction; None without probabilities."""
    if "probabilities" not in prediction:
        return None
    return max(prediction["probabilities"].values())


def compare_runs(tables: dict[str, list[EvaluationRecord]]) -> dict[str, dict]:
    """Return summarise_runs of {run: records}; of records with leaked rows also without these.

    Then with "leaked", how many there are, and "without_leaks": summarise_runs of the others, None
    if none are left.
    """
    result = summarise_runs(tables)
    first_table = next(iter(tables.values()))
    leaked = count_leaked(first_table)
    if leaked:
        kept = {run: drop_leaked(table) for run, table in tables.items()}
        result["leaked"] = leaked
        result["without_leaks"] = summarise_runs(kept) if leaked < len(first_table) else None
    return result


def summarise_runs(tables: dict[str, list[EvaluationRecord]]) -> dict[str, dict]:
    """Return {"runs": {run: {model: metrics}}, "mean", "sd"} of {run: records}.

    mean, sd: {each of RUN_SCORES} of the runs' last models; sd with n - 1, the spread between runs,
    None for one run. Both are None for a score that the gold labels do not allow.
    """
    runs = {run: compute_model_metrics(table) for run, table in tables.items()}
    last = [numbers[list(numbers)[-1]] for numbers in runs.values()]
    result = {"runs": runs, "mean": {}, "sd": {}}
    for key in RUN_SCORES:
        values = [numbers[key] for numbers in last if numbers[key] is not None]
        result["mean"][key] = statistics.fmean(values) if values else None
        result["sd"][key] = statistics.stdev(values) if len(values) > 1 else None
    return result


def compute_model_metrics(table: list[EvaluationRecord]) -> dict[str, dict]:
    """Return {model: metrics.compute_metrics of its predictions, "topics" and "other_topics"}.

    topics: metrics.compute_topic_metrics; other_topics: metrics.compute_other_topics.
    """
    topics = [row["topic"] for row in table]
    gold = [row["label"] for row in table]
    result = {}
    for name in table[0]["models"]:
        predicted = [row["models"][name]["prediction"] for row in table]
        result[name] = metrics.compute_metrics(gold, predicted)
        result[name]["topics"] = metrics.compute_topic_metrics(topics, gold, predicted)
        result[name]["other_topics"] = metrics.compute_other_topics(topics, gold, predicted)
    return result
