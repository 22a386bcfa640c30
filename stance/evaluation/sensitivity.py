"""How far conclusions hang on who labelled: shares and differences between groups over several
specifications (prompts, seeds, bases) that labelled the same rows.

A conclusion is what a paper would say: which label is the largest in a group, and whether its share
is higher in one group than in another. No torch, no files.

Labels are indices of prompts.LABELS, int [specifications, rows]. All intervals take rows as drawn
independently of each other.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

import prompts
from stance.evaluation import uncertainty

HIGHER, LOWER, UNCLEAR = "higher", "lower", "no difference"  # of the first of two groups


def compare_specifications(
    labels: np.ndarray, groups: Sequence[str], gold: np.ndarray | None = None
) -> dict:
    """Return all numbers of specifications that labelled the same rows.

    labels: [m, n], m two or more; groups: one a row; gold: [n], the labels of people.
    {"specifications", "rows", "shares": describe_group_shares, "differences": describe_differences,
    "summary": summarise_flips}.
    """
    names = sorted(set(groups))
    counts = count_by_group(labels, groups, names)
    of_gold = None if gold is None else count_by_group(gold[None], groups, names)[0]
    differences = describe_differences(counts, names, of_gold)
    shares = describe_group_shares(counts, names, of_gold)
    return {
        "specifications": len(labels),
        "rows": labels.shape[1],
        "shares": shares,
        "differences": differences,
        "summary": summarise_flips(shares, differences),
    }


def count_by_group(labels: np.ndarray, groups: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return how often each specification gives each label in each group: int [m, groups, 3]."""
    group_of_row = np.array([names.index(group) for group in groups])
    counts = np.zeros((len(labels), len(names), len(prompts.LABELS)), int)
    for index, row in enumerate(labels):
        np.add.at(counts[index], (group_of_row, row), 1)
    return counts


class Estimate(NamedTuple):
    """A share, or a difference of two, of one specification."""

    value: float
    centre: float  # of the same with a few more rows, half of them hits: never sure of 0 or 1
    variance: float  # of that
    interval: list[float]


def find_share(hits: int, rows: int) -> Estimate:
    """Return the share of hits among rows.

    Centre and variance with two more hits and two more misses (Agresti and Coull 1998); the
    interval is Wilson's.
    """
    centre = (hits + 2) / (rows + 4)
    variance = centre * (1 - centre) / (rows + 4)
    return Estimate(hits / rows, centre, variance, uncertainty.find_wilson(hits, rows))


def find_difference(hits: tuple[int, int], rows: tuple[int, int]) -> Estimate:
    """Return the difference of the shares of two groups, first minus second.

    Centre, variance and interval with one more hit and one more miss in each group (Agresti and
    Caffo 2000).
    """
    padded = [(hit + 1) / (count + 2) for hit, count in zip(hits, rows, strict=True)]
    variance = sum(p * (1 - p) / (count + 2) for p, count in zip(padded, rows, strict=True))
    half = float(scipy.stats.norm.ppf((1 + uncertainty.LEVEL) / 2)) * variance**0.5
    centre = padded[0] - padded[1]
    interval = [max(centre - half, -1.0), min(centre + half, 1.0)]
    return Estimate(hits[0] / rows[0] - hits[1] / rows[1], centre, variance, interval)


def pool_estimates(estimates: Sequence[Estimate], lowest: float) -> dict:
    """Return {"mean", "between_sd", "interval"} of m estimates of one number, m two or more.

    mean, between_sd: of their values. The variance behind the interval is the mean of theirs plus (1
    + 1/m) times that between their centres; it is of Student's t with the degrees of freedom that go
    with it (Rubin 1987, rules for multiple imputation), and cut at lowest and 1. Specifications at
    hand are no random draw, so that it is a guide to how wide an honest interval is at least.
    """
    count = len(estimates)
    values = [estimate.value for estimate in estimates]
    centres = [estimate.centre for estimate in estimates]
    within = float(np.mean([estimate.variance for estimate in estimates]))
    extra = (1 + 1 / count) * float(np.var(centres, ddof=1))
    degrees = (count - 1) * (1 + within / extra) ** 2 if extra > 0 else np.inf
    quantile = float(scipy.stats.t.ppf((1 + uncertainty.LEVEL) / 2, degrees))
    half = quantile * (within + extra) ** 0.5
    centre = float(np.mean(centres))
    return {
        "mean": float(np.mean(values)),
        "between_sd": float(np.std(values, ddof=1)),
        "interval": [max(centre - half, lowest), min(centre + half, 1.0)],
    }


def join_intervals(intervals: Sequence[Sequence[float]]) -> list[float]:
    """Return the smallest interval that holds all of them."""
    lows, highs = zip(*intervals, strict=True)
    return [min(lows), max(highs)]


def conclude(interval: Sequence[float]) -> str:
    """Return what a paper would say of a difference with this interval."""
    low, high = interval
    if low > 0:
        return HIGHER
    return LOWER if high < 0 else UNCLEAR


def describe_group_shares(
    counts: np.ndarray, names: Sequence[str], gold: np.ndarray | None
) -> list:
    """Return what the specifications say of each group; counts: count_by_group.

    [{"group", "rows", "largest": {label: specifications}, "largest_of_first", "largest_by_gold",
    "labels": {label: {"values": a share each, "first_interval", "union", "mean", "between_sd",
    "interval", "gold"}}}]. Where labels are equally frequent, the largest is the first of them.
    """
    described = []
    for position, name in enumerate(names):
        of_group = counts[:, position]
        rows = int(of_group[0].sum())
        largest = [prompts.LABELS[index] for index in of_group.argmax(1)]
        labels = {}
        for index, label in enumerate(prompts.LABELS):
            found = [find_share(int(hits), rows) for hits in of_group[:, index]]
            labels[label] = {
                "values": [estimate.value for estimate in found],
                "first_interval": found[0].interval,
                "union": join_intervals([estimate.interval for estimate in found]),
                **pool_estimates(found, lowest=0.0),
                "gold": None if gold is None else float(gold[position, index] / rows),
            }
        described.append(
            {
                "group": name,
                "rows": rows,
                "largest": dict(Counter(largest)),
                "largest_of_first": largest[0],
                "largest_by_gold": (
                    None if gold is None else prompts.LABELS[int(gold[position].argmax())]
                ),
                "labels": labels,
            }
        )
    return described


def describe_differences(counts: np.ndarray, names: Sequence[str], gold: np.ndarray | None) -> list:
    """Return what the specifications say of each label in each two groups; counts: count_by_group.

    [{"label", "groups": [first, second], "values": a difference each, "conclusions": one each,
    "counts": {conclusion: specifications}, "first": the first one's, "first_interval", "union",
    "mean", "between_sd", "interval", "pooled": the conclusion of that interval, "gold": that of
    people's labels}].
    """
    described = []
    pairs = itertools.combinations(range(len(names)), 2)
    for (one, other), index in itertools.product(pairs, range(len(prompts.LABELS))):
        rows = (int(counts[0, one].sum()), int(counts[0, other].sum()))
        found = []
        for specification in counts:
            hits = (int(specification[one, index]), int(specification[other, index]))
            found.append(find_difference(hits, rows))
        conclusions = [conclude(estimate.interval) for estimate in found]
        pooled = pool_estimates(found, lowest=-1.0)
        by_gold = None
        if gold is not None:
            hits = (int(gold[one, index]), int(gold[other, index]))
            by_gold = conclude(find_difference(hits, rows).interval)
        described.append(
            {
                "label": prompts.LABELS[index],
                "groups": [names[one], names[other]],
                "values": [estimate.value for estimate in found],
                "conclusions": conclusions,
                "counts": dict(Counter(conclusions)),
                "first": conclusions[0],
                "first_interval": found[0].interval,
                "union": join_intervals([estimate.interval for estimate in found]),
                **pooled,
                "pooled": conclude(pooled["interval"]),
                "gold": by_gold,
            }
        )
    return described


def summarise_flips(shares: list[dict], differences: list[dict]) -> dict:
    """Return how often conclusions flip, over groups and over differences.

    {"groups", "largest_flips": groups whose largest label is not the same for all,
    "differences", "flips": those whose conclusion is not the same for all, "opposite": those that are
    higher for some and lower for others, "disagreement": mean share of pairs of specifications
    that disagree on a difference, "lost": differences that the first specification finds and the
    wider intervals don't, "errors": count_errors of all conclusions, None without gold}. Shares of no
    difference are None.
    """
    conclusions = [difference["conclusions"] for difference in differences]
    disagreements = []
    for found in conclusions:
        pairs = list(itertools.combinations(found, 2))
        disagreements.append(sum(one != other for one, other in pairs) / len(pairs))
    with_gold = [difference for difference in differences if difference["gold"] is not None]
    return {
        "groups": len(shares),
        "largest_flips": sum(len(share["largest"]) > 1 for share in shares),
        "differences": len(differences),
        "flips": sum(len(set(found)) > 1 for found in conclusions),
        "opposite": sum({HIGHER, LOWER} <= set(found) for found in conclusions),
        "disagreement": float(np.mean(disagreements)) if disagreements else None,
        "lost": sum(
            difference["first"] != UNCLEAR and difference["pooled"] == UNCLEAR
            for difference in differences
        ),
        "errors": count_errors(with_gold) if with_gold else None,
    }


def count_errors(differences: list[dict]) -> dict[str, int]:
    """Return how many conclusions of single specifications are not those of people's labels.

    {"conclusions", "false_positive": a difference where people's labels show none (type I),
    "missed": none where they show one (type II), "opposite": the other way round (type S)}. As in
    "LLM hacking", arXiv 2509.08825. People's labels are a sample too: no difference may mean that
    there are too few.
    """
    errors = {"conclusions": 0, "false_positive": 0, "missed": 0, "opposite": 0}
    for difference in differences:
        truth = difference["gold"]
        for found in difference["conclusions"]:
            errors["conclusions"] += 1
            if found == truth:
                continue
            if truth == UNCLEAR:
                errors["false_positive"] += 1
            elif found == UNCLEAR:
                errors["missed"] += 1
            else:
                errors["opposite"] += 1
    return errors
