"""Corrected shares: equal to textbook formulas, right on average, and 95 % intervals hold the truth 95 % of the time."""

import numpy as np
import pytest

from stance.evaluation import prediction_powered

SHARES = (0.2, 0.3, 0.5)  # true ones of the simulated tables
CONFUSION = np.array(
    [[0.8, 0.05, 0.15], [0.05, 0.7, 0.25], [0.02, 0.03, 0.95]]
)  # a gold label a row


def make_table(size, seed, shares=SHARES):
    """(gold labels of all sentences, what a model that errs as CONFUSION says, over-confident)."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(3, size, p=shares)
    edges = CONFUSION[gold].cumsum(1)
    predicted = (rng.random(size)[:, None] > edges).sum(1).clip(0, 2)
    scores = 0.3 * rng.dirichlet([0.5, 0.5, 0.5], size)
    scores[np.arange(size), predicted] += 0.7
    return gold, prediction_powered.Labelled(predicted, scores)


def draw_random(gold, count, rng):
    """A sample without replacement, of one stratum."""
    positions = rng.choice(len(gold), count, replace=False)
    share = np.full(count, count / len(gold))
    sizes = np.full(count, len(gold))
    return prediction_powered.make_sample(
        positions, gold[positions], share, np.zeros(count, int), sizes
    )


def measure_coverage(gold, labelled, draw, draws, rows=None):
    """{method: share of draws [3] whose interval holds the true shares}, and mean widths [3]."""
    rows = np.ones(len(gold)) if rows is None else rows
    true = np.bincount(gold, rows, 3) / rows.sum()
    held, widths = {}, {}
    for _ in range(draws):
        sample = draw()
        power = prediction_powered.tune_power(labelled, sample, np.ones(len(gold)))
        found = prediction_powered.estimate_shares(labelled, sample, rows, power)
        for method, estimate in found.items():
            low, high = prediction_powered.find_ends(estimate)
            held.setdefault(method, []).append((low <= true) & (true <= high))
            widths.setdefault(method, []).append(high - low)
    means = [{name: np.mean(values, 0) for name, values in part.items()} for part in (held, widths)]
    return *means, true


def test_the_gold_sample_alone_has_the_mean_and_nearly_the_error_of_the_textbook():
    gold, labelled = make_table(2000, 0)
    rows = np.ones(2000)
    sample = draw_random(gold, 400, np.random.default_rng(1))
    estimate = prediction_powered.estimate_powered(labelled, sample, rows, 0.0)
    share = np.bincount(sample.gold, minlength=3) / 400
    assert estimate.shares == pytest.approx(share)
    textbook = share * (1 - share) / 399 * (1 - 400 / 2000)  # Cochran 1977, formula 3.8
    raw = prediction_powered.sum_products(estimate.influence, estimate.influence, sample)
    assert raw == pytest.approx(textbook)
    added = 0.8 / 402**2  # the two imagined sentences
    assert estimate.variances == pytest.approx(textbook * (400 / 402) ** 2 + added)


@pytest.mark.parametrize("power", [0.0, 0.4, 1.0])
def test_the_estimate_is_that_of_ppi_plus_plus(power):
    """Formula (3) of arXiv 2311.01453, by loops; there the rows without gold label are a sample of their own."""
    gold, labelled = make_table(500, 3)
    sample = draw_random(gold, 100, np.random.default_rng(4))
    found = prediction_powered.estimate_powered(labelled, sample, np.ones(500), power)
    for label in range(3):
        of_all = sum(labelled.scores[i, label] for i in range(500)) / 500
        of_gold = sum(
            (sample.gold[i] == label) - power * labelled.scores[position, label]
            for i, position in enumerate(sample.positions)
        )
        assert found.shares[label] == pytest.approx(power * of_all + of_gold / 100)
    assert found.shares.sum() == pytest.approx(1)


def test_the_tuned_power_has_the_least_variance():
    gold, labelled = make_table(3000, 5)
    rows = np.ones(3000)
    sample = draw_random(gold, 300, np.random.default_rng(6))

    def add_variances(model, power):
        found = prediction_powered.estimate_powered(model, sample, rows, power).influence
        return prediction_powered.sum_products(found, found, sample).sum()

    noise = np.random.default_rng(7).dirichlet([1, 1, 1], 3000)
    noisy = labelled._replace(scores=0.5 * labelled.scores + 0.5 * noise)
    for model in (labelled, noisy):
        power = prediction_powered.tune_power(model, sample, rows)
        best = add_variances(model, power)
        others = [add_variances(model, other) for other in np.linspace(0, 1, 51)]
        assert best <= min(others) + 1e-12


def test_a_model_that_says_nothing_gets_no_power():
    gold, labelled = make_table(1000, 0)
    sample = draw_random(gold, 200, np.random.default_rng(1))
    flat = labelled._replace(scores=np.full((1000, 3), 1 / 3))
    assert prediction_powered.tune_power(flat, sample, np.ones(1000)) == 0


def test_a_sample_of_all_sentences_gives_the_true_shares_without_width():
    gold, labelled = make_table(400, 8)
    sample = draw_random(gold, 400, np.random.default_rng(9))
    found = prediction_powered.estimate_powered(labelled, sample, np.ones(400), 0.7)
    low, high = prediction_powered.find_ends(found)
    assert found.shares == pytest.approx(np.bincount(gold) / 400)
    assert (high - low).max() == pytest.approx(0, abs=1e-6)


def test_strata_are_weighted_and_their_variances_added():
    """Against Cochran 1977, section 5.5, written out."""
    gold, labelled = make_table(1000, 10)
    strata = np.arange(1000) < 250
    rng = np.random.default_rng(11)
    first = rng.choice(np.flatnonzero(strata), 60, replace=False)
    other = rng.choice(np.flatnonzero(~strata), 40, replace=False)
    positions = np.concatenate([first, other])
    numbers = np.repeat([7, 3], [60, 40])
    sizes = np.repeat([250, 750], [60, 40])
    sample = prediction_powered.make_sample(
        positions, gold[positions], np.repeat([60 / 250, 40 / 750], [60, 40]), numbers, sizes
    )
    found = prediction_powered.estimate_powered(labelled, sample, np.ones(1000), 0.0)
    one, two = (np.eye(3)[gold[part]] for part in (first, other))
    assert found.shares == pytest.approx(0.25 * one.mean(0) + 0.75 * two.mean(0))
    variance = 0.25**2 * one.var(0, ddof=1) / 60 * (1 - 60 / 250)
    variance += 0.75**2 * two.var(0, ddof=1) / 40 * (1 - 40 / 750)
    raw = prediction_powered.sum_products(found.influence, found.influence, sample)
    # Means are taken over all, not in the stratum: the centring in it makes that no difference.
    assert raw == pytest.approx(variance)


def test_sentences_without_a_gold_label_after_all_are_counted_for_by_their_stratum():
    kept = prediction_powered.make_sample(
        np.arange(6), np.zeros(6, int), np.full(6, 0.1), np.zeros(6, int), np.full(6, 100)
    )
    assert kept.weights == pytest.approx(np.full(6, 100 / 6))
    assert kept.fractions == pytest.approx([0.06])


def test_a_stratum_of_one_gold_sentence_is_joined_with_others():
    """Else its share of the variance would be missing, and the interval too narrow."""
    numbers = np.array([0, 0, 0, 1, 2])
    sample = prediction_powered.make_sample(
        np.arange(5), np.array([0, 1, 2, 0, 1]), np.full(5, 0.1), numbers, np.full(5, np.nan)
    )
    assert len(set(sample.strata[3:])) == 1 and len(set(sample.strata)) == 2
    alone = prediction_powered.make_sample(
        np.arange(4), np.array([0, 1, 2, 0]), np.full(4, 0.1), numbers[:4], np.full(4, np.nan)
    )
    assert len(set(alone.strata)) == 1


def test_adjusted_counts_invert_the_confusion_matrix():
    gold, labelled = make_table(5000, 12)
    everything = draw_random(gold, 5000, np.random.default_rng(13))
    rows = np.ones(5000)
    found = prediction_powered.estimate_adjusted(labelled, everything, rows)
    assert found.shares == pytest.approx(np.bincount(gold) / 5000)
    sample = draw_random(gold, 800, np.random.default_rng(14))
    matrix = np.zeros((3, 3))
    for position, truth in zip(sample.positions, sample.gold):
        matrix[labelled.predicted[position], truth] += 1
    matrix /= matrix.sum(0)
    shares = np.linalg.solve(matrix, np.bincount(labelled.predicted) / 5000)
    estimate = prediction_powered.estimate_adjusted(labelled, sample, rows)
    assert estimate.shares == pytest.approx(shares)


def test_counts_are_not_adjusted_by_a_model_that_tells_labels_not_apart():
    gold, labelled = make_table(1000, 15)
    sample = draw_random(gold, 900, np.random.default_rng(16))
    blind = labelled._replace(predicted=np.random.default_rng(17).integers(0, 3, 1000))
    assert prediction_powered.estimate_adjusted(blind, sample, np.ones(1000)) is None
    few = draw_random(gold, 12, np.random.default_rng(18))
    assert prediction_powered.estimate_adjusted(labelled, few, np.ones(1000)) is None


def test_there_is_no_interval_of_a_group_with_too_little_gold():
    gold, labelled = make_table(1000, 19)
    sample = draw_random(gold, 200, np.random.default_rng(20))
    inside = sample.positions[: prediction_powered.MIN_GOLD]
    rows = np.zeros(1000)
    rows[inside] = 1
    enough = prediction_powered.estimate_powered(labelled, sample, rows, 0.5)
    assert prediction_powered.find_ends(enough) is not None
    rows[inside[0]] = 0
    short = prediction_powered.estimate_powered(labelled, sample, rows, 0.5)
    assert prediction_powered.find_ends(short) is None
    outside = np.zeros(1000)
    outside[np.setdiff1d(np.arange(1000), sample.positions)] = 1
    nothing = prediction_powered.estimate_shares(labelled, sample, outside, 0.5)
    assert set(nothing.values()) == {None}


def test_a_rare_label_that_the_sample_missed_still_has_an_interval_with_width():
    gold = np.zeros(5000, int)
    gold[:40] = 1
    labelled = prediction_powered.Labelled(np.zeros(5000, int), np.eye(3)[np.zeros(5000, int)])
    positions = np.arange(1000, 1100)
    sample = prediction_powered.make_sample(
        positions, gold[positions], np.full(100, 0.02), np.zeros(100, int), np.full(100, 5000)
    )
    found = prediction_powered.estimate_powered(labelled, sample, np.ones(5000), 1.0)
    low, high = prediction_powered.find_ends(found)
    assert low[1] == 0 and 0.008 < high[1] < 0.05


def test_the_difference_of_a_group_and_itself_is_nothing():
    gold, labelled = make_table(1000, 21)
    sample = draw_random(gold, 300, np.random.default_rng(22))
    rows = (np.arange(1000) % 2).astype(float)
    one = prediction_powered.estimate_powered(labelled, sample, rows, 0.5)
    both = prediction_powered.subtract_shares(one, one, sample)
    assert both.shares == pytest.approx(0)
    raw = prediction_powered.sum_products(both.influence, both.influence, sample)
    assert raw == pytest.approx(0)


# ---------------------------------------------------------------- simulations of 1,000 draws


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, 300])
def test_intervals_hold_the_true_shares_where_naive_ones_do_not(count):
    gold, labelled = make_table(20_000, 23)
    rng = np.random.default_rng(24)
    held, widths, true = measure_coverage(
        gold, labelled, lambda: draw_random(gold, count, rng), 1000
    )
    low, high = prediction_powered.find_naive_ends(labelled, np.ones(20_000))
    assert not ((low <= true) & (true <= high)).any()
    assert (held["prediction_powered"] > 0.93).all() and (held["prediction_powered"] < 0.975).all()
    # A normal interval of a plain share covers 92 to 96 % at n = 100, whatever is done to it.
    assert (held["gold"] > 0.915).all()
    assert (widths["prediction_powered"] < 0.9 * widths["gold"]).all()


@pytest.mark.slow
def test_intervals_hold_for_draws_of_unequal_probability_and_for_groups():
    """Strata by confidence, of which the doubtful ones are drawn more often; a group across strata."""
    gold, labelled = make_table(6000, 25)
    rng = np.random.default_rng(26)
    strata = (labelled.scores.max(1) < 0.85).astype(int)
    sizes = np.bincount(strata)
    counts = np.array([100, 200])
    group = (np.random.default_rng(27).random(6000) < 0.35) * rng.integers(1, 4, 6000)

    def draw():
        parts = [
            rng.choice(np.flatnonzero(strata == number), counts[number], replace=False)
            for number in range(2)
        ]
        positions = np.concatenate(parts)
        numbers = strata[positions]
        share = (counts / sizes)[numbers]
        return prediction_powered.make_sample(
            positions, gold[positions], share, numbers, sizes[numbers]
        )

    for rows in (None, group.astype(float)):
        held, _, _ = measure_coverage(gold, labelled, draw, 1000, rows)
        assert (held["prediction_powered"] > 0.93).all(), held
        # Of the rarest label in a small group it is a little more: the two imagined sentences.
        assert held["prediction_powered"].mean() < 0.97, held


@pytest.mark.slow
def test_intervals_of_differences_between_groups_hold_the_true_difference():
    gold, labelled = make_table(10_000, 28)
    rng = np.random.default_rng(29)
    first = (rng.random(10_000) < 0.4).astype(float)
    second = 1 - first
    true = np.bincount(gold, first, 3) / first.sum() - np.bincount(gold, second, 3) / second.sum()
    held = []
    for _ in range(1000):
        sample = draw_random(gold, 300, rng)
        power = prediction_powered.tune_power(labelled, sample, np.ones(10_000))
        parts = [
            prediction_powered.estimate_powered(labelled, sample, rows, power)
            for rows in (first, second)
        ]
        found = prediction_powered.subtract_shares(*parts, sample)
        low, high = prediction_powered.find_ends(found, lowest=-1)
        held.append((low <= true) & (true <= high))
    assert (np.mean(held, 0) > 0.93).all() and (np.mean(held, 0) < 0.975).all(), np.mean(held, 0)
