"""stance/evaluation/sensitivity.py: intervals cover what they say, conclusions and flips are counted as they stand."""

import itertools
import math
import statistics

import numpy as np
import pytest
import scipy.stats

from stance.evaluation import sensitivity


def draw_labels(rng, rows, shares):
    return rng.choice(3, rows, p=shares)


def test_counts_are_those_of_each_specification_group_and_label():
    labels = np.array([[0, 0, 1, 2], [1, 0, 1, 1]])
    counts = sensitivity.count_by_group(labels, ["b", "a", "b", "a"], ["a", "b"])
    assert counts.tolist() == [[[1, 0, 1], [1, 1, 0]], [[1, 1, 0], [0, 2, 0]]]


def test_a_difference_has_the_interval_of_agresti_and_caffo():
    difference, centre, variance, (low, high) = sensitivity.find_difference((12, 5), (40, 50))
    assert centre == pytest.approx(13 / 42 - 6 / 52)
    one, other = 13 / 42, 6 / 52
    expected = math.sqrt(one * (1 - one) / 42 + other * (1 - other) / 52)
    assert difference == pytest.approx(12 / 40 - 5 / 50) and variance == pytest.approx(expected**2)
    assert low == pytest.approx(one - other - 1.959964 * expected, abs=1e-6)
    assert high == pytest.approx(one - other + 1.959964 * expected, abs=1e-6)
    assert sensitivity.find_difference((0, 0), (20, 20)).variance > 0  # never sure of nothing


def test_intervals_of_differences_hold_the_true_one_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        hits = int(rng.binomial(60, 0.2)), int(rng.binomial(90, 0.35))
        low, high = sensitivity.find_difference(hits, (60, 90)).interval
        held += low <= 0.2 - 0.35 <= high
    assert 0.93 <= held / 2000 <= 0.97


def make_estimates(values, variances):
    return [
        sensitivity.Estimate(value, value, variance, [0, 0])
        for value, variance in zip(values, variances, strict=True)
    ]


def test_pooled_estimates_follow_rubins_rules():
    values = [0.1, 0.2, 0.4]
    pooled = sensitivity.pool_estimates(make_estimates(values, [0.01, 0.02, 0.03]), -1.0)
    between = statistics.variance(values)
    total = 0.02 + (1 + 1 / 3) * between
    degrees = 2 * (1 + 0.02 / ((1 + 1 / 3) * between)) ** 2
    half = scipy.stats.t.ppf(0.975, degrees) * math.sqrt(total)
    mean = sum(values) / 3
    assert pooled["mean"] == pytest.approx(mean)
    assert pooled["between_sd"] == pytest.approx(math.sqrt(between))
    assert pooled["interval"] == pytest.approx([mean - half, mean + half])
    alike = sensitivity.pool_estimates(make_estimates([0.1, 0.1], [0.01, 0.01]), -1.0)
    assert alike["interval"] == pytest.approx([0.1 - 0.1959964, 0.1 + 0.1959964])
    cut = sensitivity.pool_estimates(make_estimates([0.1, 0.1], [0.01, 0.01]), 0.0)
    assert cut["interval"][0] == 0


@pytest.mark.parametrize("hits", [0, 1, 10, 19, 20])
def test_a_pooled_interval_is_about_as_wide_as_that_of_specifications_that_agree(hits):
    one = sensitivity.find_share(hits, 20)
    low, high = sensitivity.pool_estimates([one, one], 0.0)["interval"]
    assert high - low >= one.interval[1] - one.interval[0] - 0.01


def test_the_pooled_interval_covers_where_that_of_one_specification_does_not():
    """Each specification has a bias of its own, drawn around 0: rows alone do not show it."""
    rng = np.random.default_rng(1)
    held = {"one": 0, "pooled": 0}
    for _ in range(500):
        values = (rng.normal(0, 0.06, 5) + rng.normal(0, 0.03, 5)).tolist()
        held["one"] += abs(values[0]) <= 1.96 * 0.03
        estimates = make_estimates(values, [0.03**2] * 5)
        low, high = sensitivity.pool_estimates(estimates, -1.0)["interval"]
        held["pooled"] += low <= 0 <= high
    assert held["one"] / 500 < 0.75 and held["pooled"] / 500 > 0.93


def test_conclusions_that_flip_are_counted():
    groups = ["a"] * 100 + ["b"] * 100
    few, many = [0] * 20 + [1] * 80, [0] * 60 + [1] * 40
    labels = np.array([few + many, few + many, many + few, many + many])
    result = sensitivity.compare_specifications(labels, groups)
    [pro] = [one for one in result["differences"] if one["label"] == "pro"]
    assert pro["groups"] == ["a", "b"]
    assert pro["conclusions"] == ["lower", "lower", "higher", "no difference"]
    assert (
        pro["counts"] == {"lower": 2, "higher": 1, "no difference": 1} and pro["first"] == "lower"
    )
    low, high = pro["union"]
    assert low < -0.4 < 0.4 < high and pro["pooled"] == "no difference" and pro["gold"] is None
    [a, b] = result["shares"]
    assert (a["group"], a["largest"], a["largest_of_first"]) == ("a", {"con": 2, "pro": 2}, "con")
    assert b["largest"] == {"pro": 3, "con": 1}
    summary = result["summary"]
    assert (summary["groups"], summary["largest_flips"]) == (2, 2)
    assert (summary["differences"], summary["flips"], summary["opposite"]) == (3, 2, 2)
    pairs = list(itertools.combinations(pro["conclusions"], 2))
    of_pro = sum(one != other for one, other in pairs) / len(pairs)
    assert summary["disagreement"] == pytest.approx(2 * of_pro / 3)  # as con does, and neu never
    assert summary["lost"] == 2 and summary["errors"] is None


def test_specifications_that_agree_flip_nothing_and_union_is_the_interval_of_one():
    rng = np.random.default_rng(2)
    row = draw_labels(rng, 300, (0.5, 0.3, 0.2))
    result = sensitivity.compare_specifications(np.array([row, row]), ["a", "b", "c"] * 100)
    assert result["summary"]["flips"] == result["summary"]["largest_flips"] == 0
    for difference in result["differences"]:
        assert difference["union"] == difference["first_interval"]
        assert difference["interval"] == pytest.approx(difference["union"])


def test_errors_against_people_are_told_apart():
    groups = ["a"] * 200 + ["b"] * 200
    low, high = [0] * 40 + [1] * 160, [0] * 120 + [1] * 80
    gold = np.array(low + high)
    labels = np.array([low + high, high + low, low + low])
    result = sensitivity.compare_specifications(labels, groups, gold)
    [pro] = [one for one in result["differences"] if one["label"] == "pro"]
    assert pro["gold"] == "lower" and pro["conclusions"] == ["lower", "higher", "no difference"]
    errors = result["summary"]["errors"]
    assert errors == {"conclusions": 9, "false_positive": 0, "missed": 2, "opposite": 2}
    swapped = sensitivity.compare_specifications(labels[:2], groups, np.array(low + low))
    assert swapped["summary"]["errors"]["false_positive"] == 4
    assert [part["largest_by_gold"] for part in swapped["shares"]] == ["con", "con"]


def test_one_group_has_shares_and_no_differences():
    result = sensitivity.compare_specifications(np.array([[0, 1, 1], [0, 0, 1]]), ["a"] * 3)
    assert result["differences"] == [] and result["summary"]["disagreement"] is None
    assert result["shares"][0]["labels"]["neu"]["interval"][0] == 0
