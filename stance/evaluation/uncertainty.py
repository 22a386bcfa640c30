"""How sure numbers are: bootstrap intervals, McNemar's test, kappa, calibration, selective prediction. Numbers in, numbers out.

gold holds n labels as indices 0, 1, 2 of prompts.LABELS; answers the same and 3 for an invalid answer. All statistics
of answers are functions of counts [..., 3, 4]: rows gold labels, columns answers.

What an interval speaks about. "rows": other sentences on the same topics. "topics": other topics, and so it resamples
whole topics. Where accuracy differs between topics, the interval over rows is far too narrow for a claim about new
topics, whatever the number of rows: of 95 % intervals for 100 rows on each of 5 topics with accuracies from 0.6 to 0.9,
61 % held the true mean. But the interval over topics needs many of them: with 5 there are only 126 different resamples,
it can come out narrower than the one over rows, and 82 to 86 % held the true mean; with 40 topics, 95 %
(tests/evaluation/test_uncertainty.py repeats these simulations). With few topics quote the wider of both, and hold topics out
(tools/study.py).
"""

import numpy as np
import scipy.optimize
import scipy.stats

# ---------------------------------------------------------------- settings
RESAMPLES = (
    10_000  # of a bootstrap; the ends of an interval then move by about 0.001 from seed to seed
)
BOOTSTRAP_SEED = 0
LEVEL = 0.95  # of every interval
BINS = 10  # of equal width, for the calibration error
TEMPERATURES = (
    0.05,
    20.0,
)  # searched; a fit at an end means that the validation split is too small or too easy
COVERAGES = (
    1.0,
    0.9,
    0.8,
    0.7,
    0.6,
    0.5,
)  # shares of rows answered, of the table of selective prediction
# --------------------------------------------------------------------------

ANSWERS = 4  # three labels and invalid
TINY = 1e-12  # probability that stands for one that was rounded to 0


# ---------------------------------------------------------------- statistics of counts


def count_answers(gold, *answers):
    """Return how often each combination of a gold label and answers of m models occurs: int [3, 4, ... (m times)]."""
    counts = np.zeros((3, *[ANSWERS] * len(answers)), int)
    np.add.at(counts, (np.asarray(gold), *map(np.asarray, answers)), 1)
    return counts


def accuracy(counts):
    """Return the share of right answers [...]; counts [..., 3, 4]."""
    return np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1))


def macro_f1(counts):
    """Return the mean F1 of the three labels [...]; that of a label which is neither gold nor answered is 0."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    total = (
        counts.sum(-1) + counts.sum(-2)[..., :3]
    )  # gold + answered = 2 right + missed + wrongly answered
    return (2 * right / np.maximum(total, 1)).mean(-1)


def kappa(counts):
    """Return Cohen's kappa with the gold labels [...]; 0 where all gold labels and answers are one label."""
    n = counts.sum((-2, -1))
    by_chance = (counts.sum(-1) * counts.sum(-2)[..., :3]).sum(-1) / n**2
    return np.where(
        by_chance < 1,
        (accuracy(counts) - by_chance) / np.where(by_chance < 1, 1 - by_chance, 1),
        0.0,
    )


STATISTICS = {"accuracy": accuracy, "macro_f1": macro_f1, "kappa": kappa}


# ---------------------------------------------------------------- bootstrap


def resample_rows(counts):
    """Return counts [RESAMPLES, ...] of bootstrap samples of the rows behind counts [...].

    Rows in one cell are alike, so drawing n rows with replacement is a multinomial draw over the cells.
    """
    flat = counts.ravel()
    filled = np.flatnonzero(flat)
    samples = np.zeros((RESAMPLES, flat.size), int)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    samples[:, filled] = rng.multinomial(flat.sum(), flat[filled] / flat.sum(), RESAMPLES)
    return samples.reshape(RESAMPLES, *counts.shape)


def resample_topics(counts):
    """Return counts [RESAMPLES, ...] of bootstrap samples of whole topics; counts [topics, ...]."""
    topics = len(counts)
    weights = np.random.default_rng(BOOTSTRAP_SEED).multinomial(
        topics, np.full(topics, 1 / topics), RESAMPLES
    )
    return (weights @ counts.reshape(topics, -1)).reshape(RESAMPLES, *counts.shape[1:])


def find_interval(values):
    """Return [low, high], the percentile interval of bootstrap values."""
    tail = (1 - LEVEL) / 2
    return [float(end) for end in np.quantile(values, [tail, 1 - tail])]


def draw_samples(gold, topics, *answers):
    """Return (counts [3, 4, ...], {"rows": samples, "topics": samples}); no "topics" if there is only one."""
    gold, topics, answers = (
        np.asarray(gold),
        np.asarray(topics),
        [np.asarray(column) for column in answers],
    )
    counts = count_answers(gold, *answers)
    samples = {"rows": resample_rows(counts)}
    names = np.unique(topics)
    if len(names) > 1:
        parts = [
            count_answers(gold[topics == name], *(column[topics == name] for column in answers))
            for name in names
        ]
        samples["topics"] = resample_topics(np.stack(parts))
    return counts, samples


def describe_answers(gold, answers, topics):
    """Return {statistic: {"value", "rows": [low, high], "topics": [low, high]}} of n answers.

    accuracy also has "wilson": the bootstrap finds no width where all answers are right, Wilson's score interval does.
    """
    counts, samples = draw_samples(gold, topics, answers)
    result = {
        name: {
            "value": float(value(counts)),
            **{over: find_interval(value(part)) for over, part in samples.items()},
        }
        for name, value in STATISTICS.items()
    }
    result["accuracy"]["wilson"] = find_wilson(int(np.trace(counts)), int(counts.sum()))
    return result


def compare_answers(gold, first, second, topics):
    """Return the paired comparison of two models on the same n rows: second minus first.

    {statistic: {"difference", "rows", "topics"}} as in describe_answers, and "mcnemar": {"only_first", "only_second",
    "p"}, rows that only one model has right and the two-sided p-value of the exact test.
    """
    counts, samples = draw_samples(gold, topics, first, second)

    def differ(
        value, part
    ):  # counts [..., 3, 4, 4] hold both models, so that each sample takes the same rows of both
        return value(part.sum(-2)) - value(part.sum(-1))

    result = {
        name: {
            "difference": float(differ(value, counts)),
            **{over: find_interval(differ(value, part)) for over, part in samples.items()},
        }
        for name, value in STATISTICS.items()
    }
    right, other = np.asarray(first) == np.asarray(gold), np.asarray(second) == np.asarray(gold)
    return {
        **result,
        "mcnemar": run_mcnemar(int((right & ~other).sum()), int((other & ~right).sum())),
    }


def run_mcnemar(only_first, only_second):
    """Return McNemar's exact test of rows that only one of two models has right: a sign test with chance 1/2."""
    n = only_first + only_second
    p = scipy.stats.binomtest(only_first, n, 0.5).pvalue if n else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": float(p)}


def find_wilson(hits, n):
    """Return [low, high], Wilson's score interval of a share; it has width also for 0 and for all of n."""
    interval = scipy.stats.binomtest(hits, n).proportion_ci(LEVEL, method="wilson")
    return [float(interval.low), float(interval.high)]


# ---------------------------------------------------------------- calibration and selective prediction


def scale_probabilities(probabilities, temperature):
    """Return probabilities [n, 3] with their logits divided by a temperature; above 1 they become less sure."""
    logits = np.log(np.maximum(probabilities, TINY)) / temperature
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def fit_temperature(probabilities, gold):
    """Return the temperature with the smallest negative log-likelihood of the gold labels (Guo et al. 2017).

    Source: https://arxiv.org/abs/1706.04599. The choice belongs to rows that are reported on nowhere else.
    """

    def loss(log_t):
        return mean_nll(scale_probabilities(probabilities, np.exp(log_t)), gold)

    low, high = np.log(TEMPERATURES)
    inside = scipy.optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded"
    ).x  # never quite reaches an end
    return float(np.exp(min((low, high, inside), key=loss)))


def mean_nll(probabilities, gold):
    """Return the mean negative log-likelihood of the gold labels, in nats."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(gold)), gold], TINY)).mean())


def measure_calibration(probabilities, gold):
    """Return {"ece", "nll", "bins"} of probabilities [n, 3]: how far confidence is from accuracy.

    Confidence is the highest probability. bins: {"n", "confidence", "accuracy"} of each of BINS equal intervals that
    holds rows. ece: their mean distance, weighted by rows; of few rows it is above 0 also for a perfect model.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == np.asarray(gold)
    index = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    bins = [
        {
            "n": int((index == i).sum()),
            "confidence": float(confidence[index == i].mean()),
            "accuracy": float(right[index == i].mean()),
        }
        for i in np.unique(index)
    ]
    ece = sum(part["n"] * abs(part["accuracy"] - part["confidence"]) for part in bins) / len(right)
    return {"ece": float(ece), "nll": mean_nll(probabilities, gold), "bins": bins}


def trace_coverage(confidence, right):
    """Return [{"threshold", "n", "coverage", "accuracy"}]: what is answered, what of it right, if other rows are not.

    One point for each different confidence, from the highest down: equally sure rows are answered together or not.
    """
    confidence, right = np.asarray(confidence), np.asarray(right)
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(right[order])
    last = np.flatnonzero(
        np.diff(confidence[order], append=-1.0)
    )  # where the next confidence is a lower one
    return [
        {
            "threshold": float(confidence[order[i]]),
            "n": i + 1,
            "coverage": (i + 1) / len(order),
            "accuracy": float(hits[i] / (i + 1)),
        }
        for i in last.tolist()
    ]


def pick_coverages(curve):
    """Return the points of a coverage curve that answer at least the shares COVERAGES, and no more than needed.

    Each once, with "interval": Wilson's, of its accuracy.
    """
    points = [
        next(point for point in curve if point["coverage"] >= share - 1e-9) for share in COVERAGES
    ]
    points = {point["n"]: point for point in points}.values()
    return [
        {**point, "interval": find_wilson(round(point["accuracy"] * point["n"]), point["n"])}
        for point in points
    ]
