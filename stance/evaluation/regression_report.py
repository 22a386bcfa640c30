"""A regression of the stances of a labelled table: its columns as covariates, its numbers as a dict and a table."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

import prompts
from stance.common import errors, formatting
from stance.corpus import gold_sample, labelled
from stance.evaluation import design_regression, result_tables, share_report

# ---------------------------------------------------------------- settings
MAX_CATEGORIES = 20  # values of a column that is no number
MIN_GOLD_OF_CATEGORY = 5  # gold sentences of each
# --------------------------------------------------------------------------

FIT_NAMES = {
    "naive": "naive, uncorrected",
    "gold": "gold sample alone",
    "design_based": "design-based",
}
REGRESSION_TARGET = "rows like those of the table, as annotators would label them"


def build_design(
    table: labelled.LabelledTable, gold: Sequence[gold_sample.GoldRow]
) -> tuple[list[str], np.ndarray, dict[str, float | str]]:
    """Return (names of the terms, design float [rows, terms], references) of the columns read.

    references: {column: the mean at which its numbers are centred, or the value with which the
    others are compared}. Fails on columns that a regression with this gold sample cannot take.
    """
    names = ["(intercept)"]
    terms = [np.ones(len(table.pair_of_row))]
    references = {}
    drawn = {row.position for row in gold}
    is_gold = np.array([position in drawn for position in table.pair_of_row])
    for column, values in table.groups.items():
        where = f"{table.location}, column {formatting.quote(column)}"
        if labelled.EMPTY_GROUP in values:
            number = values.count(labelled.EMPTY_GROUP)
            errors.fail(f"{where}: {number:,} cells are empty: fill them or delete the rows")
        numbers = read_numbers(values)
        if numbers is not None and len(set(values)) > 1:
            names.append(column)
            terms.append(numbers - numbers.mean())
            references[column] = float(numbers.mean())
            continue
        references[column], others = list_categories(where, values, is_gold)
        for name in others:
            names.append(f"{column}: {name}")
            terms.append(np.array([value == name for value in values], float))
    return names, np.stack(terms, axis=1), references


def read_numbers(values: Sequence[str]) -> np.ndarray | None:
    """Return the numbers of the cells of a column; None if one of them is none."""
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def list_categories(
    where: str, values: Sequence[str], is_gold: np.ndarray
) -> tuple[str, list[str]]:
    """Return the most frequent value of a column, and the others, which are compared with it.

    Fails if there is one value, too many, or one that has too few gold sentences.
    """
    counts = Counter(values)
    if len(counts) == 1:
        errors.fail(f"{where} has one value: leave it out of --on")
    if len(counts) > MAX_CATEGORIES:
        what = f"has {len(counts):,} different values that are no numbers"
        errors.fail(f"{where} {what}: join them to {MAX_CATEGORIES} at most")
    with_gold = Counter(value for value, has in zip(values, is_gold, strict=True) if has)
    small = [name for name in counts if with_gold[name] < MIN_GOLD_OF_CATEGORY]
    if small:
        found = [f"{with_gold[name]} of {formatting.quote(name)}" for name in sorted(small)]
        hint = "draw with tools.sample --by that column, or join values"
        least = f"each value needs {MIN_GOLD_OF_CATEGORY} gold sentences at least"
        errors.fail(f"{where}: {least}, there are {formatting.list_first(found)}: {hint}")
    reference = min(counts, key=lambda name: (-counts[name], name))
    return reference, sorted(name for name in counts if name != reference)


def describe_regression(
    table: labelled.LabelledTable,
    gold: Sequence[gold_sample.GoldRow],
    outcome: int,
    family: str,
) -> dict:
    """Return all numbers of a regression; outcome: index of the label that is regressed.

    Fails if there are too few gold sentences for it, or it has no solution.
    """
    names, design, references = build_design(table, gold)
    arrays = share_report.take_arrays(table)
    sample = share_report.take_sample(gold)
    truths, weights = design_regression.spread_sample(sample, len(table.pairs), outcome)
    sentence = np.asarray(table.pair_of_row)
    rows = design_regression.Rows(
        design,
        sentence,
        (arrays.predicted == outcome)[sentence].astype(float),
        arrays.scores[sentence, outcome],
        truths[sentence],
        weights[sentence],
    )
    needed = design_regression.MIN_GOLD_OF_TERM * len(names)
    label = prompts.LABELS[outcome]
    of_label = int(truths.sum())
    fewest = min(of_label, len(gold) - of_label)
    if len(gold) < needed or (family == "logistic" and fewest < needed / 2):
        what = f"{len(gold)} gold sentences, {of_label} of them {label}, are too few"
        kinds = (
            f", of which {math.ceil(needed / 2)} are {label} and {math.ceil(needed / 2)} are not"
        )
        hint = f"give {needed} or more{kinds if family == 'logistic' else ''}, or fewer columns"
        errors.fail(f"{what} for {len(names)} coefficients: {hint}")
    fits = design_regression.fit_regressions(rows, family)
    if fits["design_based"] is None:
        what = "columns of --on depend on each other, or tell the labels apart without error"
        errors.fail(f"the regression has no solution: {what}: leave one out")
    return {
        "target": REGRESSION_TARGET,
        "rows": len(sentence),
        "sentences": len(table.pairs),
        "gold": len(gold),
        "power": fits["design_based"].power,
        "references": references,
        "terms": {
            name: {
                method: None if fit is None else describe_term(fit, index)
                for method, fit in fits.items()
            }
            for index, name in enumerate(names)
        },
    }


def describe_term(fit: design_regression.Fit, index: int) -> dict:
    """Return {"value", "standard_error", "interval"} of a coefficient."""
    return {
        "value": float(fit.coefficients[index]),
        "standard_error": float(fit.errors[index]),
        "interval": fit.ends[:, index].tolist(),
    }


def format_regression(result: dict, outcome: str, family: str) -> str:
    """Return the coefficients as a table, a line a term, with a note on what they are about."""
    lines = []
    for name, fits in result["terms"].items():
        cells = []
        for fit in fits.values():
            if fit is None:
                cells.append("-")
                continue
            interval = result_tables.format_interval(fit["interval"], signed=True)
            cells.append(f"{result_tables.format_value(fit['value'], signed=True)} {interval}")
        lines.append([formatting.cut(name), *cells])
    unit = "log odds" if family == "logistic" else "share"
    title = f"{unit} of {outcome}, with {result_tables.LEVEL_TEXT} intervals"
    counts = f"{result['rows']:,} rows, {result['gold']:,} gold sentences"
    table = formatting.format_table(["Term", *FIT_NAMES.values()], lines)
    notes = [f"note: {describe_references(result['references'])}"]
    for method, name in FIT_NAMES.items():
        if result["terms"]["(intercept)"][method] is None:
            what = "the model's labels" if method == "naive" else "the labels of the gold sample"
            notes.append(f"note: {name}: no solution, as {what} are all alike for some values")
    notes.append(f"note: intervals are about {result['target']}")
    return "\n".join([f"{title}; {counts}", table, *notes])


def describe_references(references: dict[str, float | str]) -> str:
    """Return what the coefficients of each column compare."""
    parts = []
    for column, reference in references.items():
        if isinstance(reference, str):
            what = f"compared with {formatting.cut(reference)}"
        else:
            what = f"centred at its mean, {reference:.6g}"
        parts.append(f"{formatting.cut(column)}: {what}")
    return "; ".join(parts)
