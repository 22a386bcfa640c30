"""How sure numbers are: intervals, tests, kappa, calibration, selective prediction.

Numbers in, numbers out. gold holds n labels as indices 0, 1, 2 of prompts.LABELS; predicted holds
the same and 3 for an invalid reply. All statistics of predictions are functions of counts
[..., 3, 4]: rows gold labels, columns predicted.

What an interval speaks about. "rows": other sentences on the same topics. "topics": other topics,
and so it resamples whole topics. Where accuracy differs between topics, the interval over rows is
far too narrow for a claim about new topics, whatever the number of rows: of 95 % intervals for 100
rows on each of 5 topics with accuracies from 0.6 to 0.9, 61 % held the true mean. But the interval
over topics needs many of them: with 5 there are only 126 different resamples, it can come out
narrower than the one over rows, and 82 to 86 % held the true mean; with 40 topics, 95 %
(tests/evaluation/test_uncertainty.py repeats these simulations). With few topics quote the wider of
both, and hold topics out (tools/study.py).
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import scipy  # its parts load when they are used: scipy.stats takes half a second

# ---------------------------------------------------------------- settings
# Of a bootstrap. With so many, the ends of an interval move by about 0.001 from seed to seed.
RESAMPLES = 10_000
BOOTSTRAP_SEED = 0
LEVEL = 0.95  # of every interval
BINS = 10  # of equal width, for the calibration error
# Searched. A fit at an end means that the validation split is too small or too easy.
TEMPERATURES = (0.05, 20.0)
# Numbers of a block of resampled topics, 8 bytes each: thousands of topics would not fit at once.
BLOCK_NUMBERS = 10_000_000
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # shares of rows, in the table of selective prediction
# --------------------------------------------------------------------------

ANSWERS = 4  # three labels and invalid
TINY = 1e-12  # probability that stands for one that was rounded to 0

Labels = Sequence[int] | np.ndarray  # gold or predicted, one index a row
Statistic = Callable[[np.ndarray], np.ndarray]  # of counts [..., 3, 4]


# ---------------------------------------------------------------- statistics of counts


def count_predictions(gold: Labels, *predicted: Labels) -> np.ndarray:
    """Return how often each combination of a gold label and the predictions of m models occurs.

    int [3, 4, ...], with an axis of 4 for each model.
    """
    counts = np.zeros((3, *[ANSWERS] * len(predicted)), int)
    cells = tuple(np.asarray(column) for column in (gold, *predicted))
    np.add.at(counts, cells, 1)
    return counts


def count_by_topic(topics: Sequence[str], gold: Labels, *predicted: Labels) -> np.ndarray:
    """Return count_predictions of each topic, alphabetically: int [topics, 3, 4, ...]."""
    index_of_topic = {topic: index for index, topic in enumerate(sorted(set(topics)))}
    topic_of_row = np.array([index_of_topic[topic] for topic in topics], int)
    counts = np.zeros((len(index_of_topic), 3, *[ANSWERS] * len(predicted)), int)
    cells = tuple(np.asarray(column) for column in (topic_of_row, gold, *predicted))
    np.add.at(counts, cells, 1)
    return counts


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Return the share of right predictions [...]; counts [..., 3, 4]."""
    return np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1))


def find_gold_labels(counts: np.ndarray) -> list[int]:
    """Return the labels that occur in the gold of the rows behind counts [3, 4, ...]."""
    rows_of_label = counts.reshape(len(counts), -1).sum(1)
    return np.flatnonzero(rows_of_label).tolist()


def macro_f1(counts: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Return the mean F1 of some labels [...]; counts [..., 3, 4].

    The F1 of a label that is neither gold nor predicted is 0. labels: find_gold_labels of all rows;
    for samples of them too, though a sample may lack one, so that all are the mean of the same.
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    gold = counts.sum(-1)
    predicted = counts.sum(-2)[..., :3]
    total = gold + predicted  # 2 right + missed + wrongly predicted
    f1 = 2 * right / np.maximum(total, 1)
    return f1[..., labels].mean(-1)


def kappa(counts: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa with the gold labels [...]; counts [..., 3, 4].

    0 where all gold labels and predictions are one label, so that 0 would be divided by 0.
    """
    n = counts.sum((-2, -1))
    by_chance = (counts.sum(-1) * counts.sum(-2)[..., :3]).sum(-1) / n**2
    defined = by_chance < 1
    divisor = np.where(defined, 1 - by_chance, 1)
    return np.where(defined, (accuracy(counts) - by_chance) / divisor, 0.0)


def list_statistics(labels: Sequence[int]) -> dict[str, Statistic]:
    """Return {name: statistic}; labels: those that macro-F1 is the mean of, as it takes them."""
    return {
        "accuracy": accuracy,
        "macro_f1": functools.partial(macro_f1, labels=labels),
        "kappa": kappa,
    }


# ---------------------------------------------------------------- bootstrap


def resample_rows(counts: np.ndarray) -> np.ndarray:
    """Return counts [RESAMPLES, ...] of bootstrap samples of the rows behind counts [...].

    Rows in one cell are alike, so drawing n rows with replacement is a multinomial draw over cells.
    """
    flat = counts.ravel()
    filled = np.flatnonzero(flat)
    samples = np.zeros((RESAMPLES, flat.size), int)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    samples[:, filled] = rng.multinomial(flat.sum(), flat[filled] / flat.sum(), RESAMPLES)
    return samples.reshape(RESAMPLES, *counts.shape)


def resample_topics(counts: np.ndarray) -> np.ndarray:
    """Return counts [RESAMPLES, ...] of bootstrap samples of whole topics; counts [topics, ...].

    Topics with equal counts are alike, so how often any of them is drawn is one number of the
    multinomial draw: of thousands of topics with a row or two, few are different.
    """
    different, sizes = merge_equal(counts.reshape(len(counts), -1))
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    shares = sizes / sizes.sum()
    block = max(BLOCK_NUMBERS // len(sizes), 1)
    samples = []
    for start in range(0, RESAMPLES, block):
        draws = min(block, RESAMPLES - start)
        times_drawn = rng.multinomial(sizes.sum(), shares, draws)
        # In floating point, where numpy multiplies fast; whole numbers stay exact up to 2 ** 53.
        samples.append(times_drawn.astype(float) @ different.astype(float))
    return np.concatenate(samples).astype(int).reshape(RESAMPLES, *counts.shape[1:])


def merge_equal(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (the different rows of counts [n, cells] in the order of their first, their sizes)."""
    _, firsts, sizes = np.unique(counts, axis=0, return_index=True, return_counts=True)
    order = np.argsort(firsts)
    return counts[firsts[order]], sizes[order]


def find_interval(values: np.ndarray) -> list[float]:
    """Return [low, high], the percentile interval of bootstrap values [RESAMPLES]."""
    tail = (1 - LEVEL) / 2
    return [float(end) for end in np.quantile(values, [tail, 1 - tail])]


def draw_samples(
    gold: Labels, topics: Sequence[str], *predicted: Labels
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return (counts [3, 4, ...], {"rows": samples, "topics": samples}); one topic a row.

    Samples are counts [RESAMPLES, 3, 4, ...]. There are no "topics" if there is only one.
    """
    counts = count_predictions(gold, *predicted)
    samples = {"rows": resample_rows(counts)}
    of_topics = count_by_topic(topics, gold, *predicted)
    if len(of_topics) > 1:
        samples["topics"] = resample_topics(of_topics)
    return counts, samples


def describe_predictions(gold: Labels, predicted: Labels, topics: Sequence[str]) -> dict[str, dict]:
    """Return {statistic: {"value", "rows": [low, high], "topics": [low, high]}} of n predictions.

    No "topics" if there is only one. macro_f1 is the mean over the labels in gold, in all samples.
    accuracy also has "wilson": the bootstrap finds no width where all predictions are right,
    Wilson's score interval does.
    """
    return describe_counts(*draw_samples(gold, topics, predicted))


def describe_topics(
    gold: Labels, predicted: Labels, topics: Sequence[str]
) -> dict[str, dict[str, dict | int]]:
    """Return {topic: {"n", statistics with intervals over its rows}}, alphabetically.

    The statistics are those of describe_predictions. topics: one a row.
    """
    described = {}
    known = {}  # statistics by counts: of thousands of topics with a row or two, most are alike
    names = sorted(set(topics))
    for name, counts in zip(names, count_by_topic(topics, gold, predicted), strict=True):
        key = counts.tobytes()
        if key not in known:
            known[key] = describe_counts(counts, {"rows": resample_rows(counts)})
        described[name] = {"n": int(counts.sum()), **known[key]}
    return described


def describe_counts(counts: np.ndarray, samples: dict[str, np.ndarray]) -> dict[str, dict]:
    """Return describe_predictions of the predictions behind counts and samples of draw_samples."""
    result = {}
    for name, statistic in list_statistics(find_gold_labels(counts)).items():
        result[name] = {"value": float(statistic(counts))}
        for over, part in samples.items():
            result[name][over] = find_interval(statistic(part))
    result["accuracy"]["wilson"] = find_wilson(int(np.trace(counts)), int(counts.sum()))
    return result


def compare_predictions(
    gold: Labels, first: Labels, second: Labels, topics: Sequence[str]
) -> dict[str, dict]:
    """Return the paired comparison of two models on the same n rows: second minus first.

    {statistic: {"difference", "rows", "topics"}} as in describe_predictions, and run_mcnemar as
    "mcnemar".
    """
    counts, samples = draw_samples(gold, topics, first, second)
    result = {}
    for name, statistic in list_statistics(find_gold_labels(counts)).items():
        result[name] = {"difference": float(_subtract_models(statistic, counts))}
        for over, part in samples.items():
            result[name][over] = find_interval(_subtract_models(statistic, part))
    first_right = np.asarray(first) == np.asarray(gold)
    second_right = np.asarray(second) == np.asarray(gold)
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    result["mcnemar"] = run_mcnemar(only_first, only_second)
    return result


def _subtract_models(statistic: Statistic, counts: np.ndarray) -> np.ndarray:
    """Return a statistic of the second model minus that of the first [...]; counts [..., 3, 4, 4].

    Counts hold both models, so that each bootstrap sample takes the same rows of both.
    """
    of_first = counts.sum(-1)
    of_second = counts.sum(-2)
    return statistic(of_second) - statistic(of_first)


def run_mcnemar(only_first: int, only_second: int) -> dict[str, int | float]:
    """Return McNemar's exact test of rows that only one of two models has right.

    {"only_first", "only_second", "p"}: p is two-sided, of a sign test with probability 1/2; 1 of no
    rows.
    """
    n = only_first + only_second
    p = scipy.stats.binomtest(only_first, n, 0.5).pvalue if n else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": float(p)}


def find_wilson(hits: int, n: int) -> list[float]:
    """Return [low, high], Wilson's score interval of the share hits / n.

    It has width also for 0 and for all of n.
    """
    interval = scipy.stats.binomtest(hits, n).proportion_ci(LEVEL, method="wilson")
    return [float(interval.low), float(interval.high)]


# ---------------------------------------------------------------- calibration


def scale_probabilities(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities [n, 3] with their logits divided by a temperature.

    Above 1 they become less sure.
    """
    logits = np.log(np.maximum(probabilities, TINY)) / temperature
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, gold: Labels) -> float:
    """Return the temperature with the smallest negative log-likelihood of the gold labels.

    probabilities: [n, 3]. It lies in TEMPERATURES. The choice belongs to rows that are reported on
    nowhere else. Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599.
    """

    def loss(log_t: float) -> float:
        return mean_nll(scale_probabilities(probabilities, np.exp(log_t)), gold)

    low, high = np.log(TEMPERATURES)
    # The bounded search never quite reaches an end, so both ends are tried too.
    inside = scipy.optimize.minimize_scalar(loss, bounds=(low, high), method="bounded").x
    best = min((low, high, inside), key=loss)
    return float(np.exp(best))


def mean_nll(probabilities: np.ndarray, gold: Labels) -> float:
    """Return the mean negative log-likelihood of the gold labels, in nats; probabilities [n, 3]."""
    of_gold = probabilities[np.arange(len(gold)), gold]
    return float(-np.log(np.maximum(of_gold, TINY)).mean())


def measure_calibration(probabilities: np.ndarray, gold: Labels) -> dict[str, float | list[dict]]:
    """Return {"ece", "nll", "bins"} of probabilities [n, 3]: how far confidence is from accuracy.

    Confidence is the highest probability. bins: {"n", "confidence", "accuracy"} of each of BINS
    equal intervals that holds rows. ece: their mean distance, weighted by rows; of few rows it is
    above 0 also for a perfect model. nll: mean_nll.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == np.asarray(gold)
    inner_edges = np.linspace(0, 1, BINS + 1)[1:-1]
    bin_of_row = np.searchsorted(inner_edges, confidence)
    bins = []
    for number in np.unique(bin_of_row):
        inside = bin_of_row == number
        bins.append(
            {
                "n": int(inside.sum()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
            }
        )
    ece = sum(part["n"] * abs(part["accuracy"] - part["confidence"]) for part in bins) / len(right)
    return {"ece": float(ece), "nll": mean_nll(probabilities, gold), "bins": bins}


# ---------------------------------------------------------------- selective prediction


def trace_coverage(
    confidence: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray
) -> list[dict[str, float]]:
    """Return the accuracy of the rows that are answered if those of less confidence are not.

    [{"threshold", "n", "coverage", "accuracy"}], a point for each different confidence, from the
    highest down: equally sure rows are answered together or not. coverage: n as a share of all
    rows. confidence, right: one value a row.
    """
    confidence = np.asarray(confidence)
    order = np.argsort(-confidence, kind="stable")
    descending = confidence[order]
    hits = np.cumsum(np.asarray(right)[order])
    # The last row of each confidence: the next one has a lower confidence.
    last = np.flatnonzero(np.diff(descending, append=-1.0))
    points = []
    for index in last.tolist():
        n = index + 1
        points.append(
            {
                "threshold": float(descending[index]),
                "n": n,
                "coverage": n / len(order),
                "accuracy": float(hits[index] / n),
            }
        )
    return points


def pick_coverages(curve: list[dict[str, float]]) -> list[dict[str, float | list[float]]]:
    """Return the points of trace_coverage that answer at least the shares COVERAGES of the rows.

    And no more rows than needed; each point once, with "interval": Wilson's, of its accuracy.
    """
    points = {}  # by rows answered: several shares may have the same point
    for share in COVERAGES:
        point = next(point for point in curve if point["coverage"] >= share - 1e-9)
        points[point["n"]] = point
    picked = []
    for n, point in points.items():
        hits = round(point["accuracy"] * n)
        picked.append({**point, "interval": find_wilson(hits, n)})
    return picked
