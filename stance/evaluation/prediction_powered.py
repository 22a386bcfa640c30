"""Shares of labels in a labelled table, corrected by a gold sample of it: numbers in, numbers out.

A model's labels that are 90 % right give shares that are off, and intervals over a million rows
that are far too narrow to say so. A few hundred sentences that people labelled mend both:

- naive: the shares of the predicted labels, with the binomial interval that takes them for true.
- gold: the gold sample alone, each sentence by the inverse of its inclusion probability.
- prediction_powered: PPI++ (Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453): the mean of the
  model's probabilities times a power, plus the weighted mean in the sample of what gold labels and
  that differ by. The power, from 0 (the gold sample alone) to 1, is the one with the least variance
  summed over the labels; as it is one for all, the shares add up to 1. With unequal inclusion
  probabilities this is the estimator of design-based supervised learning (Egami et al. 2023, arXiv
  2306.04746) for a mean, which survey statistics know as the difference estimator.
- adjusted: counts adjusted by the inverse of the confusion matrix, which the gold sample gives
  (Forman 2008, doi 10.1007/s10618-008-0097-y).

The target is the labelled table itself, a finite population: the shares that the same annotators
would find had they labelled every row. So what is uncertain is which sentences the sample drew: a
sample of all of them has an interval without width (but for a last safeguard, below). Intervals are
Taylor linearisations of the stratified design (Sarndal, Swensson and Wretman 1992, section 5.5),
with quantiles of Student's t. The sentences of a topic, an author or a year are a domain: rows
hold how many rows of it a sentence has, 0 for those outside.

A normal interval for a rare label rests on a handful of errors of the model, and is too narrow or
has no width at all. As Bonett and Price (2012, doi 10.3102/1076998611411915) do for paired shares,
the variance takes in two imagined sentences of the domain, one with the label that the model missed
and one without it that the model saw there. In the simulations that
tests/evaluation/test_prediction_powered.py repeats, 93 to 97 % of the intervals hold the true share;
more, up to 99 %, where a sample of MIN_GOLD sentences meets a model that hardly errs.
"""

from typing import NamedTuple

import numpy as np
import scipy.stats

import prompts
from stance.evaluation import uncertainty

# ---------------------------------------------------------------- settings
MIN_GOLD = 30  # gold sentences of a group, below which there is no interval for it
MIN_GOLD_OF_LABEL = 5  # gold sentences of each label, below which counts are not adjusted
# Of the confusion matrix: above it, its inverse makes noise of the counts.
MAX_CONDITION = 10.0
# --------------------------------------------------------------------------

METHODS = ("naive", "gold", "prediction_powered", "adjusted")
CLASSES = len(prompts.LABELS)


class Labelled(NamedTuple):
    """What a model says of the N different sentences of a table."""

    predicted: np.ndarray  # int [N], indices of prompts.LABELS
    scores: np.ndarray  # float [N, 3], probabilities; without them one-hot


class GoldSample(NamedTuple):
    """The n of them that people labelled, and how they were drawn; from make_sample."""

    positions: np.ndarray  # int [n], of the sentences among the N
    gold: np.ndarray  # int [n], indices of prompts.LABELS
    weights: np.ndarray  # float [n], inverse inclusion probabilities
    strata: np.ndarray  # int [n], from 0
    fractions: np.ndarray  # float [strata], of a stratum's sentences that are in the sample


class Estimate(NamedTuple):
    """Shares of the labels in a domain by one method."""

    shares: np.ndarray  # float [3]
    # float [n, 3]: what each gold sentence adds to the error of the shares, linearised.
    influence: np.ndarray
    variances: np.ndarray  # float [3]
    gold: int  # gold sentences in the domain


def make_sample(
    positions: np.ndarray,
    gold: np.ndarray,
    probabilities: np.ndarray,
    strata: np.ndarray,
    sizes: np.ndarray,
) -> GoldSample:
    """Return the GoldSample of n sentences.

    probabilities [n]: of inclusion. strata int [n]: any numbers. sizes [n]: sentences of the
    stratum of each in the table; NaN where they are not known. In a stratum of known size whose
    sentences all had one probability, those that have no gold label after all count as missing at
    random: the weight is the size over those that have one. A stratum with one gold sentence of
    several says nothing of its variance, so all of these are one.
    """
    weights = 1 / np.asarray(probabilities, float)
    sizes = np.asarray(sizes, float)
    _, strata = np.unique(strata, return_inverse=True)
    counts = np.bincount(strata)
    first = np.array([np.flatnonzero(strata == number)[0] for number in range(len(counts))])
    equal = np.array([np.ptp(weights[strata == number]) < 1e-9 for number in range(len(counts))])
    known = equal & np.isfinite(sizes[first])
    fractions = np.where(known, counts / np.where(known, sizes[first], 1), 0.0)
    weights = np.where(known[strata], 1 / np.maximum(fractions, 1e-300)[strata], weights)
    lonely = np.flatnonzero((counts == 1) & (fractions < 1))
    if len(lonely):
        joined = lonely[0]
        if len(lonely) == 1 and len(counts) > 1:  # it joins the largest
            others = np.where(np.arange(len(counts)) == joined, 0, counts)
            lonely = np.array([joined, np.argmax(others)])
            fractions[joined] = fractions[lonely].min()
        strata = np.where(np.isin(strata, lonely), joined, strata)
    return GoldSample(np.asarray(positions), np.asarray(gold), weights, strata, fractions)


# ---------------------------------------------------------------- variance of a design


def sum_products(first: np.ndarray, second: np.ndarray, sample: GoldSample) -> np.ndarray:
    """Return the covariances [k] of the totals of two influences [n, k] under the design."""
    total = np.zeros(first.shape[1])
    for number in np.unique(sample.strata):
        members = sample.strata == number
        count = members.sum()
        if count < 2:
            continue
        one = first[members] - first[members].mean(0)
        other = second[members] - second[members].mean(0)
        left = 1 - sample.fractions[number]
        total += left * count / (count - 1) * (one * other).sum(0)
    return total


def spread_mean(values: np.ndarray, sample: GoldSample, rows: np.ndarray) -> np.ndarray:
    """Return the influence [n, k] of each gold sentence on the weighted mean of values [n, k]."""
    shares = share_weights(sample, rows)
    return shares[:, None] * (values - shares @ values)


def share_weights(sample: GoldSample, rows: np.ndarray) -> np.ndarray:
    """Return the weights [n] of the gold sentences in a domain; they add up to 1."""
    weights = sample.weights * rows[sample.positions]
    return weights / weights.sum()


def imagine_errors(sample: GoldSample, rows: np.ndarray, power: float) -> tuple[float, float]:
    """Return (factor, term): a variance times the factor plus the term is that with the two
    imagined sentences of Bonett and Price.

    In a sample of unequal weights, the number of sentences is the effective one.
    """
    shares = share_weights(sample, rows)
    effective = 1 / (shares**2).sum()
    drawn = np.count_nonzero(rows[sample.positions])
    left = 1 - drawn / np.count_nonzero(rows) if sample.fractions.any() else 1.0
    return (effective / (effective + 2)) ** 2, left * (1 + power**2) / (effective + 2) ** 2


# ---------------------------------------------------------------- shares


def encode_one_hot(labels: np.ndarray) -> np.ndarray:
    """Return labels [n] as indices one-hot, float [n, 3]."""
    return np.eye(CLASSES)[labels]


def tune_power(labelled: Labelled, sample: GoldSample, rows: np.ndarray) -> float:
    """Return the power of the model's probabilities with the least variance over all labels."""
    gold = spread_mean(encode_one_hot(sample.gold), sample, rows)
    scores = spread_mean(labelled.scores[sample.positions], sample, rows)
    spread = sum_products(scores, scores, sample).sum()
    if spread <= 0:
        return 0.0
    return float(np.clip(sum_products(gold, scores, sample).sum() / spread, 0, 1))


def estimate_powered(
    labelled: Labelled, sample: GoldSample, rows: np.ndarray, power: float
) -> Estimate:
    """Return the prediction-powered shares of a domain; with power 0 those of the gold alone.

    rows [N]: of the domain that each sentence has. One gold sentence of it at least.
    """
    differences = encode_one_hot(sample.gold) - power * labelled.scores[sample.positions]
    mean_score = rows @ labelled.scores / rows.sum()
    shares = power * mean_score + share_weights(sample, rows) @ differences
    influence = spread_mean(differences, sample, rows)
    factor, term = imagine_errors(sample, rows, power)
    variances = factor * sum_products(influence, influence, sample) + term
    return Estimate(shares, influence, variances, np.count_nonzero(rows[sample.positions]))


def count_confusion_shares(
    labelled: Labelled, sample: GoldSample, rows: np.ndarray
) -> np.ndarray | None:
    """Return the shares of the predicted labels in each gold label, float [predicted, gold].

    None where a label has too few gold sentences, or the matrix cannot be inverted with profit.
    """
    inside = rows[sample.positions] > 0
    counts = np.bincount(sample.gold[inside], minlength=CLASSES)
    if counts.min() < MIN_GOLD_OF_LABEL:
        return None
    confusion = np.zeros((CLASSES, CLASSES))
    cells = labelled.predicted[sample.positions], sample.gold
    np.add.at(confusion, cells, share_weights(sample, rows))
    confusion /= confusion.sum(0)
    return confusion if np.linalg.cond(confusion) < MAX_CONDITION else None


def estimate_adjusted(labelled: Labelled, sample: GoldSample, rows: np.ndarray) -> Estimate | None:
    """Return the shares of a domain as adjusted counts; None where there are none to trust."""
    confusion = count_confusion_shares(labelled, sample, rows)
    if confusion is None:
        return None
    inverse = np.linalg.inv(confusion)
    shares = inverse @ count_naive(labelled, rows)
    weights = share_weights(sample, rows)
    of_gold = np.bincount(sample.gold, weights, CLASSES)  # weight of each gold label
    seen = encode_one_hot(labelled.predicted[sample.positions])
    surprise = seen - confusion.T[sample.gold]
    factors = -weights * shares[sample.gold] / of_gold[sample.gold]
    influence = factors[:, None] * (surprise @ inverse.T)
    factor, term = imagine_errors(sample, rows, 1.0)
    variances = factor * sum_products(influence, influence, sample) + term
    return Estimate(shares, influence, variances, np.count_nonzero(rows[sample.positions]))


def count_naive(labelled: Labelled, rows: np.ndarray) -> np.ndarray:
    """Return the shares [3] of the predicted labels in the rows of a domain."""
    return np.bincount(labelled.predicted, rows, CLASSES) / rows.sum()


def estimate_shares(
    labelled: Labelled, sample: GoldSample, rows: np.ndarray, power: float
) -> dict[str, Estimate | None]:
    """Return {method: Estimate} of a domain, of the methods that use gold labels.

    None where a method has none: no gold sentence of the domain, or too few.
    """
    if not rows[sample.positions].any():
        return {"gold": None, "prediction_powered": None, "adjusted": None}
    return {
        "gold": estimate_powered(labelled, sample, rows, 0.0),
        "prediction_powered": estimate_powered(labelled, sample, rows, power),
        "adjusted": estimate_adjusted(labelled, sample, rows),
    }


def subtract_shares(first: Estimate, second: Estimate, sample: GoldSample) -> Estimate:
    """Return the difference of the shares of two domains, which may have sentences in common."""
    influence = first.influence - second.influence
    # What the imagined sentences added to each domain alone.
    added = [
        one.variances - sum_products(one.influence, one.influence, sample)
        for one in (first, second)
    ]
    variances = sum_products(influence, influence, sample) + np.maximum(sum(added), 0)
    shares = first.shares - second.shares
    return Estimate(shares, influence, variances, min(first.gold, second.gold))


def find_ends(estimate: Estimate, lowest: float = 0.0) -> np.ndarray | None:
    """Return the ends of the 95 % intervals, float [2, 3]; None with less gold than MIN_GOLD.

    lowest: of what is estimated: 0 of a share, -1 of a difference of shares.
    """
    if estimate.gold < MIN_GOLD:
        return None
    quantile = scipy.stats.t.ppf((1 + uncertainty.LEVEL) / 2, estimate.gold - 1)
    width = quantile * np.sqrt(estimate.variances)
    return np.clip([estimate.shares - width, estimate.shares + width], lowest, 1)


def find_naive_ends(labelled: Labelled, rows: np.ndarray) -> np.ndarray:
    """Return the ends, float [2, 3], of the intervals that take predicted labels for true ones."""
    count = int(rows.sum())
    hits = np.bincount(labelled.predicted, rows, CLASSES)
    return np.array([uncertainty.find_wilson(int(hit), count) for hit in hits]).T
