"""Regression of a label on covariates in a labelled table, corrected by a gold sample: numbers in, numbers out.

Coefficients of a regression on a model's labels are off wherever its errors go with a covariate. The
estimate here solves the moment equation of the regression (linear or logistic) with three parts:

    sum over gold sentences of w s(y)  +  power * (sum over all of s(f)  -  sum over gold of w s(f))  =  0

with s the score x (outcome - mean), y the gold label, f the model's probability of it, and w the
inverse inclusion probability. With power 1 this is design-based supervised learning (Egami et al.
2023, arXiv 2306.04746): the regression on its pseudo-outcomes f + w (y - f). With power 0 it is the
weighted regression on the gold sample alone. The power is tuned as in PPI++ (Angelopoulos, Duchi and
Zrnic 2023, arXiv 2311.01453, section 6), for the least sum of the variances, each relative to that
with power 0. The standard errors are the sandwich ones over different sentences, as which the rows
of one sentence are clusters; quantiles are Student's t.

The target is what such rows have in common beyond this table (a superpopulation), as regressions are
usually read. tests/evaluation/test_design_regression.py checks coefficients and coverage by a
simulation whose coefficients are known.
"""

from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats

from stance.evaluation import prediction_powered, uncertainty

# ---------------------------------------------------------------- settings
MIN_GOLD_OF_TERM = 10  # gold sentences for each coefficient
MAX_STEPS = 100  # of Newton's method; a handful suffices unless a covariate separates the labels
# --------------------------------------------------------------------------

FAMILIES = ("linear", "logistic")
CONVERGED = 1e-8  # step of the coefficients, in units of the covariates' scale
LARGEST = 30.0  # coefficient of a covariate of scale 1, in logits: beyond, labels are separated


class Rows(NamedTuple):
    """The rows of a table, each with its covariates and what is known of its sentence."""

    design: np.ndarray  # float [rows, terms], with a column of ones
    sentence: np.ndarray  # int [rows], from 0
    predicted: np.ndarray  # float [rows], 1 where the model says the outcome
    scores: np.ndarray  # float [rows], its probability
    gold: np.ndarray  # float [rows], 1 where people do; 0 for rows without gold
    weights: np.ndarray  # float [rows], inverse inclusion probability; 0 for rows without gold


class Fit(NamedTuple):
    """Coefficients of a regression."""

    coefficients: np.ndarray  # float [terms]
    errors: np.ndarray  # float [terms], standard errors
    ends: np.ndarray  # float [2, terms], of the 95 % intervals
    power: float | None  # of the model's probabilities; None where there is none


def spread_sample(
    sample: prediction_powered.GoldSample, sentences: int, outcome: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (gold, weights), float [sentences], of a sample; outcome: index of a label."""
    gold = np.zeros(sentences)
    weights = np.zeros(sentences)
    gold[sample.positions] = sample.gold == outcome
    weights[sample.positions] = sample.weights
    return gold, weights


def predict_mean(design: np.ndarray, coefficients: np.ndarray, family: str) -> np.ndarray:
    """Return the expected outcome of each row."""
    linear = design @ coefficients
    return linear if family == "linear" else scipy.special.expit(linear)


def solve(
    design: np.ndarray, outcome: np.ndarray, weights: np.ndarray, family: str
) -> np.ndarray | None:
    """Return the coefficients at which the sum of design * (outcome - weights * mean) is 0.

    outcome: a row's, with its weight in it. None where there are none: covariates depend on each
    other, or tell the labels apart without error.
    """
    scale = np.maximum(np.sqrt((design**2).mean(0)), 1e-300)
    scaled = design / scale
    coefficients = np.zeros(design.shape[1])
    for _ in range(MAX_STEPS):
        mean = predict_mean(scaled, coefficients, family)
        slope = weights if family == "linear" else weights * mean * (1 - mean)
        bread = scaled.T @ (slope[:, None] * scaled)
        if not np.isfinite(bread).all() or np.linalg.cond(bread) > 1e12:
            return None
        step = np.linalg.solve(bread, scaled.T @ (outcome - weights * mean))
        length = np.abs(step).max()
        coefficients = coefficients + step / max(length, 1.0) if family == "logistic" else step
        if family == "linear" or length < CONVERGED:
            return coefficients / scale
        if np.abs(coefficients).max() > LARGEST:
            return None
    return None


def fit_powered(rows: Rows, family: str, power: float) -> Fit | None:
    """Return the corrected regression with a power; None where there is none."""
    weights = rows.weights + power * (1 - rows.weights)
    outcome = rows.weights * rows.gold + power * (1 - rows.weights) * rows.scores
    coefficients = solve(rows.design, outcome, weights, family)
    if coefficients is None:
        return None
    of_gold, of_model = split_scores(rows, coefficients, family)
    bread = invert_bread(rows.design, weights, coefficients, family)
    terms = rows.design.shape[1]
    count = count_gold(rows)
    influence = (of_gold + power * of_model) @ bread
    # As HC1: residuals are those of a regression that has seen them.
    errors = np.sqrt((influence**2).sum(0) * count / (count - terms))
    return make_fit(coefficients, errors, count - terms, power)


def make_fit(
    coefficients: np.ndarray, errors: np.ndarray, freedom: int, power: float | None
) -> Fit:
    """Return a Fit with the intervals of its standard errors."""
    width = scipy.stats.t.ppf((1 + uncertainty.LEVEL) / 2, freedom) * errors
    return Fit(coefficients, errors, np.array([coefficients - width, coefficients + width]), power)


def split_scores(
    rows: Rows, coefficients: np.ndarray, family: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return what each sentence adds to the moment equation, float [sentences, terms] twice: by its
    gold label, and by the model's probability (with the power 1)."""
    mean = predict_mean(rows.design, coefficients, family)
    gold = (rows.weights * (rows.gold - mean))[:, None] * rows.design
    model = ((1 - rows.weights) * (rows.scores - mean))[:, None] * rows.design
    return add_rows(gold, rows.sentence), add_rows(model, rows.sentence)


def add_rows(values: np.ndarray, sentence: np.ndarray) -> np.ndarray:
    """Return the sums over the rows of each sentence, float [sentences, terms]."""
    sums = [np.bincount(sentence, column) for column in values.T]
    return np.stack(sums, axis=1)


def invert_bread(
    design: np.ndarray, weights: np.ndarray, coefficients: np.ndarray, family: str
) -> np.ndarray:
    """Return the inverse of the slope of the moment equation, float [terms, terms]."""
    mean = predict_mean(design, coefficients, family)
    slope = weights if family == "linear" else weights * mean * (1 - mean)
    return np.linalg.inv(design.T @ (slope[:, None] * design))


def tune_regression(rows: Rows, family: str) -> float:
    """Return the power with the least sum of the variances, each relative to that with power 0.

    0 where the gold sample alone has no regression.
    """
    start = solve(rows.design, rows.weights * rows.gold, rows.weights, family)
    if start is None:
        return 1.0
    of_gold, of_model = split_scores(rows, start, family)
    bread = invert_bread(rows.design, rows.weights, start, family)
    gold = of_gold @ bread
    model = of_model @ bread
    variances = (gold**2).sum(0)
    spread = ((model**2).sum(0) / variances).sum()
    if spread <= 0:
        return 0.0
    return float(np.clip(-((gold * model).sum(0) / variances).sum() / spread, 0, 1))


def fit_naive(rows: Rows, family: str) -> Fit | None:
    """Return the regression on the model's labels, as if they were true."""
    ones = np.ones(len(rows.predicted))
    taken = rows._replace(gold=rows.predicted, weights=ones)
    found = fit_powered(taken, family, 0.0)
    return None if found is None else found._replace(power=None)


def count_gold(rows: Rows) -> int:
    """Return the number of sentences with a gold label."""
    return len(np.unique(rows.sentence[rows.weights > 0]))


def fit_regressions(rows: Rows, family: str) -> dict[str, Fit | None]:
    """Return {"naive", "gold", "design_based": Fit}; None where a method has none."""
    gold = fit_powered(rows, family, 0.0)
    return {
        "naive": fit_naive(rows, family),
        "gold": None if gold is None else gold._replace(power=None),
        "design_based": fit_powered(rows, family, tune_regression(rows, family)),
    }
