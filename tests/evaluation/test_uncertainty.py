"""stance/evaluation/uncertainty.py against hand-worked numbers, sklearn, scipy, a brute-force bootstrap, and simulated coverage."""

import itertools
import math

import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics

from stance.evaluation import uncertainty

# Ten rows, five right, two answers that are no label (3); as in test_metrics.py.
GOLD = [0] * 4 + [1] * 3 + [2] * 3
FIRST = [0, 0, 1, 3] + [1, 1, 2] + [2, 0, 3]
SECOND = [0, 0, 0, 1] + [1, 2, 2] + [2, 2, 0]
ALL = [0, 1, 2]
TOPICS = ["a", "b", "a", "b", "a", "b", "a", "b", "a", "b"]


def draw(n, seed, invalid=True):
    """Random (gold, answers of two models, topics)."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    wrong = [rng.integers(0, 4 if invalid else 3, n) for _ in range(2)]
    first, second = (
        np.where(rng.random(n) < share, gold, other) for share, other in zip((0.4, 0.7), wrong)
    )
    return gold, first, second, rng.integers(0, 4, n)


# ---------------------------------------------------------------- statistics of counts


def test_counts_and_statistics_by_hand():
    counts = uncertainty.count_predictions(GOLD, FIRST)
    assert counts.tolist() == [[2, 1, 0, 1], [0, 2, 1, 0], [1, 0, 1, 1]]
    assert uncertainty.accuracy(counts) == pytest.approx(5 / 10)
    assert uncertainty.macro_f1(counts, ALL) == pytest.approx((4 / 7 + 2 / 3 + 2 / 5) / 3)
    assert uncertainty.macro_f1(counts, [0, 2]) == pytest.approx((4 / 7 + 2 / 5) / 2)
    # Chance: gold 4 3 3, answers 3 3 2 of 10: (12 + 9 + 6) / 100; kappa (0.5 - 0.27) / 0.73
    assert uncertainty.kappa(counts) == pytest.approx(0.23 / 0.73)


@pytest.mark.parametrize("seed", range(5))
def test_statistics_are_those_of_sklearn(seed):
    gold, answers, _, _ = draw(60, seed)
    counts = uncertainty.count_predictions(gold, answers)
    f1 = sklearn.metrics.f1_score(gold, answers, labels=[0, 1, 2], average="macro", zero_division=0)
    assert uncertainty.accuracy(counts) == pytest.approx(
        sklearn.metrics.accuracy_score(gold, answers)
    )
    assert uncertainty.macro_f1(counts, ALL) == pytest.approx(f1)
    assert uncertainty.kappa(counts) == pytest.approx(
        sklearn.metrics.cohen_kappa_score(gold, answers)
    )


@pytest.mark.filterwarnings("error")
def test_a_label_that_never_occurs_and_kappa_without_chance():
    counts = uncertainty.count_predictions([0, 0], [0, 0])
    assert uncertainty.find_gold_labels(counts) == [0]
    assert uncertainty.macro_f1(counts, [0]) == 1
    assert uncertainty.macro_f1(counts, ALL) == pytest.approx(1 / 3)
    assert uncertainty.kappa(counts) == 0  # 0 / 0


def test_statistics_of_many_samples_at_once():
    tables = np.random.default_rng(0).integers(0, 9, (5, 2, 3, 4))
    for value in uncertainty.list_statistics(ALL).values():
        single = [[float(value(tables[i, j])) for j in range(2)] for i in range(5)]
        assert value(tables) == pytest.approx(np.array(single))


# ---------------------------------------------------------------- bootstrap


def brute_force(gold, answers, topics, over, n=4000):
    """Bootstrap intervals {statistic: [low, high]} by drawing row numbers one sample at a time, with sklearn."""
    rng, gold, answers, topics = (
        np.random.default_rng(7),
        *map(np.asarray, (gold, answers, topics)),
    )
    parts = [np.flatnonzero(topics == name) for name in np.unique(topics)]
    drawn = {"accuracy": [], "macro_f1": []}
    for _ in range(n):
        if over == "rows":
            rows = rng.integers(0, len(gold), len(gold))
        else:
            rows = np.concatenate([parts[i] for i in rng.integers(0, len(parts), len(parts))])
        table = sklearn.metrics.confusion_matrix(gold[rows], answers[rows], labels=[0, 1, 2, 3])
        right = table.diagonal()[:3]
        drawn["accuracy"].append(right.sum() / len(rows))
        drawn["macro_f1"].append(
            np.mean(2 * right / np.maximum(table.sum(0)[:3] + table.sum(1)[:3], 1))
        )
    return {name: np.quantile(values, [0.025, 0.975]) for name, values in drawn.items()}


@pytest.mark.slow
@pytest.mark.parametrize("over", ["rows", "topics"])
def test_intervals_are_those_of_a_brute_force_bootstrap(over):
    gold, answers, _, topics = draw(150, 3)
    fast, slow = (
        uncertainty.describe_predictions(gold, answers, topics),
        brute_force(gold, answers, topics, over),
    )
    for name in slow:
        assert fast[name][over] == pytest.approx(slow[name], abs=0.008)
        assert fast[name][over][0] < fast[name]["value"] < fast[name][over][1]


def test_the_interval_over_topics_of_two_topics_by_hand(monkeypatch):
    """Topic a has 1 of 4 right, b 3 of 4: samples aa (1/4), ab and ba (1/2), bb (1/4) have accuracy 2, 4 and 6 of 8."""
    gold, answers, topics = [0] * 8, [0, 1, 1, 1, 0, 0, 0, 1], ["a"] * 4 + ["b"] * 4
    _, samples = uncertainty.draw_samples(gold, topics, answers)
    values, counts = np.unique(uncertainty.accuracy(samples["topics"]), return_counts=True)
    assert values == pytest.approx([0.25, 0.5, 0.75])
    assert counts / uncertainty.RESAMPLES == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    monkeypatch.setattr(uncertainty, "LEVEL", 0.4)  # tails of 0.3 lie in the middle value
    assert uncertainty.describe_predictions(gold, answers, topics)["accuracy"]["topics"] == [
        0.5,
        0.5,
    ]


def test_one_topic_has_no_interval_over_topics():
    described = uncertainty.describe_predictions(GOLD, FIRST, ["a"] * 10)
    assert "rows" in described["accuracy"] and "topics" not in described["accuracy"]


def test_resampled_rows_keep_their_number_and_stay_in_filled_cells():
    counts = uncertainty.count_predictions(GOLD, FIRST, SECOND)
    samples = uncertainty.resample_rows(counts)
    assert samples.shape == (uncertainty.RESAMPLES, 3, 4, 4)
    assert (samples.sum((1, 2, 3)) == 10).all() and (samples[:, counts == 0] == 0).all()
    assert samples.mean(0) == pytest.approx(counts, abs=0.1)


def test_the_same_seed_gives_the_same_intervals(monkeypatch):
    one, two = (uncertainty.describe_predictions(*draw(50, 1)[:2], [0] * 50) for _ in range(2))
    monkeypatch.setattr(uncertainty, "BOOTSTRAP_SEED", 1)
    other = uncertainty.describe_predictions(*draw(50, 1)[:2], [0] * 50)
    assert one == two != other


def test_all_right_has_no_bootstrap_width_but_a_wilson_interval():
    described = uncertainty.describe_predictions([0, 1, 2] * 10, [0, 1, 2] * 10, ["a", "b"] * 15)
    assert described["accuracy"]["rows"] == described["accuracy"]["topics"] == [1, 1]
    # Wilson's score interval of n of n reaches from n / (n + z^2) to 1
    assert described["accuracy"]["wilson"] == pytest.approx([30 / (30 + 1.959964**2), 1])


def test_macro_f1_of_samples_is_over_the_labels_in_the_gold_of_all_rows():
    """A perfect model has 1 in every sample; one that answers a label that is gold nowhere has it wrong."""
    gold, topics = [0, 1] * 20, ["a", "a", "b", "b"] * 10
    perfect = uncertainty.describe_predictions(gold, gold, topics)["macro_f1"]
    assert perfect == {"value": 1, "rows": [1, 1], "topics": [1, 1]}
    # Half of the rows of both labels neu: F1 of both 2 * 10 / (20 + 10)
    unsure = [0, 1, 2, 2] * 10
    described = uncertainty.describe_predictions(gold, unsure, topics)["macro_f1"]
    assert described["value"] == pytest.approx(2 / 3)
    assert described["topics"] == pytest.approx([0, 1])  # topic a alone is right, b alone wrong
    compared = uncertainty.compare_predictions(gold, unsure, gold, topics)["macro_f1"]
    assert compared["difference"] == pytest.approx(1 / 3)
    assert compared["topics"] == pytest.approx([0, 1])


@pytest.mark.slow
def test_intervals_of_two_labels_are_those_of_sklearn_with_fixed_labels():
    """Also in samples that lack a rare label: the labels stay those of all rows."""
    rng = np.random.default_rng(3)
    gold = np.array([0] * 37 + [2] * 3)
    predicted = np.where(rng.random(40) < 0.7, gold, rng.integers(0, 4, 40))
    drawn = []
    for _ in range(4000):
        rows = rng.integers(0, 40, 40)
        drawn.append(
            sklearn.metrics.f1_score(
                gold[rows], predicted[rows], labels=[0, 2], average="macro", zero_division=0
            )
        )
    found = uncertainty.describe_predictions(gold, predicted, [0] * 40)["macro_f1"]["rows"]
    assert found == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)


# ---------------------------------------------------------------- comparison of two models


def test_mcnemar_by_hand():
    # Rows that only one has right: 1 of first, 2 of second. Two-sided: P(at most 1 or at least 2 of 3) = 1
    compared = uncertainty.compare_predictions(GOLD, FIRST, SECOND, TOPICS)["mcnemar"]
    assert compared == {"only_first": 1, "only_second": 2, "p": pytest.approx(1)}
    # 1 of 9: P(0 or 1 of 9) twice = 2 * (1 + 9) / 2^9
    assert uncertainty.run_mcnemar(1, 8)["p"] == pytest.approx(20 / 512)
    assert uncertainty.run_mcnemar(8, 1)["p"] == pytest.approx(20 / 512)
    assert uncertainty.run_mcnemar(0, 0)["p"] == 1


def test_mcnemar_is_the_sum_of_binomial_chances():
    for b, c in itertools.product(range(0, 15), repeat=2):
        tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c)
        assert uncertainty.run_mcnemar(b, c)["p"] == pytest.approx(min(1, 2 * tail))


def test_differences_are_paired():
    """Two models with equal answers differ by 0 in every sample, however few the rows."""
    compared = uncertainty.compare_predictions(GOLD, FIRST, FIRST, TOPICS)
    for name in uncertainty.list_statistics(ALL):
        assert compared[name] == {"difference": 0, "rows": [0, 0], "topics": [0, 0]}


def test_differences_are_second_minus_first_with_brute_force_intervals():
    gold, first, second, topics = draw(120, 5)
    compared = uncertainty.compare_predictions(gold, first, second, topics)
    rng, drawn = np.random.default_rng(11), []
    for _ in range(4000):
        rows = rng.integers(0, 120, 120)
        drawn.append((second[rows] == gold[rows]).mean() - (first[rows] == gold[rows]).mean())
    assert compared["accuracy"]["difference"] == pytest.approx(
        (second == gold).mean() - (first == gold).mean()
    )
    assert compared["accuracy"]["rows"] == pytest.approx(
        np.quantile(drawn, [0.025, 0.975]), abs=0.012
    )
    one, two = (
        uncertainty.describe_predictions(gold, answers, topics) for answers in (first, second)
    )
    for name in uncertainty.list_statistics(ALL):
        assert compared[name]["difference"] == pytest.approx(
            two[name]["value"] - one[name]["value"]
        )


# ---------------------------------------------------------------- coverage of the intervals


def cover(topics, rows, spread, trials=300):
    """Shares of 95 % intervals for accuracy that hold the true mean over topics, 0.75 +- spread from topic to topic."""
    rng, names = np.random.default_rng(0), np.repeat(np.arange(topics), rows)
    held = {"rows": 0, "topics": 0}
    for _ in range(trials):
        level = (0.75 + spread * rng.uniform(-1, 1, topics))[names]
        gold = rng.integers(0, 3, len(names))
        answers = np.where(rng.random(len(names)) < level, gold, (gold + 1) % 3)
        described = uncertainty.describe_predictions(gold, answers, names)["accuracy"]
        for over in held:
            held[over] += described[over][0] <= 0.75 <= described[over][1]
    return {over: count / trials for over, count in held.items()}


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(uncertainty, "RESAMPLES", 1000)


def test_intervals_over_rows_cover_where_topics_are_alike(few_resamples):
    assert 0.92 <= cover(topics=5, rows=100, spread=0)["rows"] <= 0.98


def test_with_five_topics_neither_interval_covers_new_topics_in_95_percent(few_resamples):
    """What the docstring of stance/evaluation/uncertainty.py warns of; the interval over topics is the less wrong one."""
    covered = cover(topics=5, rows=100, spread=0.15)
    assert 0.5 <= covered["rows"] <= 0.7
    assert 0.78 <= covered["topics"] <= 0.90


@pytest.mark.slow
def test_with_forty_topics_the_interval_over_topics_covers(few_resamples):
    assert 0.92 <= cover(topics=40, rows=12, spread=0.15)["topics"] <= 0.98


# ---------------------------------------------------------------- calibration


def test_calibration_by_hand():
    probabilities = np.array(
        [[0.95, 0.03, 0.02], [0.92, 0.04, 0.04], [0.1, 0.65, 0.25], [0.2, 0.2, 0.6]]
    )
    measured = uncertainty.measure_calibration(probabilities, [0, 1, 1, 2])
    # Bin 0.9-1: two rows, confidence 0.935, one right. 0.6-0.7: 0.65, right. 0.5-0.6 (0.6 belongs below): 0.6, right.
    assert measured["bins"] == [
        {"n": 1, "confidence": pytest.approx(0.6), "accuracy": 1},
        {"n": 1, "confidence": pytest.approx(0.65), "accuracy": 1},
        {"n": 2, "confidence": pytest.approx(0.935), "accuracy": 0.5},
    ]
    assert measured["ece"] == pytest.approx((0.4 + 0.35 + 2 * 0.435) / 4)
    assert measured["nll"] == pytest.approx(-np.mean(np.log([0.95, 0.04, 0.65, 0.6])))


def test_bins_are_those_of_sklearn():
    rng = np.random.default_rng(0)
    probabilities, gold = rng.dirichlet([0.5] * 3, 300), rng.integers(0, 3, 300)
    measured = uncertainty.measure_calibration(probabilities, gold)
    right = probabilities.argmax(1) == gold
    shares, means = sklearn.calibration.calibration_curve(
        right, probabilities.max(1), n_bins=uncertainty.BINS
    )
    assert [part["accuracy"] for part in measured["bins"]] == pytest.approx(shares)
    assert [part["confidence"] for part in measured["bins"]] == pytest.approx(means)
    assert measured["nll"] == pytest.approx(
        sklearn.metrics.log_loss(gold, probabilities, labels=[0, 1, 2])
    )


def test_the_temperature_of_overconfident_probabilities_is_found():
    """Labels drawn from calibrated probabilities, which are then made surer by a known temperature."""
    rng = np.random.default_rng(0)
    honest = rng.dirichlet([1.0] * 3, 20_000)
    gold = (honest.cumsum(1) < rng.random((20_000, 1))).sum(1)
    sure = uncertainty.scale_probabilities(honest, 0.4)
    assert uncertainty.fit_temperature(sure, gold) == pytest.approx(1 / 0.4, rel=0.03)
    scaled = uncertainty.scale_probabilities(sure, 1 / 0.4)
    assert scaled == pytest.approx(honest, abs=1e-9)
    after, before = (uncertainty.measure_calibration(part, gold)["ece"] for part in (scaled, sure))
    assert after < 0.02 < 0.1 < before


def test_a_temperature_is_the_best_of_a_grid():
    rng = np.random.default_rng(1)
    probabilities, gold = rng.dirichlet([0.7] * 3, 200), rng.integers(0, 3, 200)
    grid = np.geomspace(*uncertainty.TEMPERATURES, 2000)
    losses = [
        uncertainty.mean_nll(uncertainty.scale_probabilities(probabilities, t), gold) for t in grid
    ]
    fitted = uncertainty.fit_temperature(probabilities, gold)
    assert (
        uncertainty.mean_nll(uncertainty.scale_probabilities(probabilities, fitted), gold)
        <= min(losses) + 1e-6
    )


def test_scaling_keeps_the_answer_and_survives_zeros():
    scaled = uncertainty.scale_probabilities(np.array([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3]]), 2.0)
    assert np.isfinite(scaled).all() and scaled.sum(1) == pytest.approx([1, 1])
    assert scaled.argmax(1).tolist() == [0, 1]
    # 0.2 0.5 0.3 at temperature 2: square roots, normalised
    assert scaled[1] == pytest.approx(np.sqrt([0.2, 0.5, 0.3]) / np.sqrt([0.2, 0.5, 0.3]).sum())


def test_perfect_validation_ends_at_the_lowest_temperature():
    probabilities = np.tile([0.8, 0.1, 0.1], (20, 1))
    assert uncertainty.fit_temperature(probabilities, [0] * 20) == pytest.approx(
        uncertainty.TEMPERATURES[0], rel=0.01
    )


# ---------------------------------------------------------------- selective prediction


def test_coverage_by_hand():
    curve = uncertainty.trace_coverage([0.9, 0.5, 0.9, 0.7], [True, False, False, True])
    # The two rows of 0.9 come together: one right. Then 0.7: two of three. Then all: two of four.
    assert curve == [
        {"threshold": 0.9, "n": 2, "coverage": 0.5, "accuracy": 0.5},
        {"threshold": 0.7, "n": 3, "coverage": 0.75, "accuracy": pytest.approx(2 / 3)},
        {"threshold": 0.5, "n": 4, "coverage": 1.0, "accuracy": 0.5},
    ]
    picked = uncertainty.pick_coverages(curve)
    assert uncertainty.COVERAGES == (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
    assert [point["coverage"] for point in picked] == [1.0, 0.75, 0.5]  # each once
    # Wilson's interval of 2 of 4: 0.5 and as much to both sides as 1.96 / 2 / sqrt(4 + 1.96^2)
    assert picked[0]["interval"] == pytest.approx([0.5 - 0.350, 0.5 + 0.350], abs=1e-3)


def test_every_threshold_of_a_curve_gives_its_point():
    rng = np.random.default_rng(0)
    confidence, right = rng.integers(34, 60, 100) / 100, rng.random(100) < 0.6
    curve = uncertainty.trace_coverage(confidence, right)
    assert len(curve) == len(set(confidence)) and curve[-1]["coverage"] == 1
    for point in curve:
        kept = confidence >= point["threshold"]
        assert (point["coverage"], point["accuracy"]) == pytest.approx(
            (kept.mean(), right[kept].mean())
        )


# ---------------------------------------------------------------- many topics


def test_topics_with_equal_counts_are_drawn_as_one():
    """Of 300 topics with a row each, 200 right: as drawing rows, of which so many are right."""
    gold, predicted = [0] * 300, [0] * 200 + [1] * 100
    counts = uncertainty.count_by_topic(range(300), gold, predicted)
    different, sizes = uncertainty.merge_equal(counts.reshape(300, -1))
    assert sizes.tolist() == [200, 100] and different.sum(1).tolist() == [1, 1]
    samples = uncertainty.resample_topics(counts)
    assert (samples.sum((1, 2)) == 300).all() and samples.dtype == int
    right = samples[:, 0, 0]
    assert right.mean() == pytest.approx(200, abs=0.5)
    assert right.std() == pytest.approx((300 * 2 / 3 / 3) ** 0.5, rel=0.05)


def test_topics_that_differ_are_drawn_as_by_one_draw_of_all():
    gold, first, _, topics = draw(60, 4)
    counts = uncertainty.count_by_topic(topics, gold, first)
    rng = np.random.default_rng(uncertainty.BOOTSTRAP_SEED)
    times = rng.multinomial(4, [1 / 4] * 4, uncertainty.RESAMPLES)
    assert (uncertainty.resample_topics(counts) == np.einsum("st,tij->sij", times, counts)).all()


def test_blocks_of_resamples_change_nothing(monkeypatch):
    gold, first, _, topics = draw(60, 4)
    counts = uncertainty.count_by_topic(topics, gold, first)
    whole = uncertainty.resample_topics(counts)
    monkeypatch.setattr(uncertainty, "BLOCK_NUMBERS", 13)
    assert (uncertainty.resample_topics(counts) == whole).all()


def test_topics_have_the_numbers_of_their_rows_alone():
    gold, first, _, topics = draw(60, 4)
    topics = topics.tolist() + ["x", "y"]  # the last two are alike
    gold, first = [*gold.tolist(), 1, 1], [*first.tolist(), 2, 2]
    topics = list(map(str, topics))
    described = uncertainty.describe_topics(gold, first, topics)
    assert list(described) == ["0", "1", "2", "3", "x", "y"]
    for topic, part in described.items():
        rows = [row for row, name in enumerate(topics) if name == topic]
        of_rows = [[labels[row] for row in rows] for labels in (gold, first)]
        assert part == {
            "n": len(rows),
            **uncertainty.describe_predictions(*of_rows, ["one"] * len(rows)),
        }
