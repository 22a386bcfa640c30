"""Which sentences of a labelled table to annotate: for shares at random, for training those that teach most.

Numbers and texts in, positions out; no torch. A draw for shares is a stratified random sample, so
that stance/evaluation/prediction_powered.py knows the probability of each sentence to be in it.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
import sklearn.cluster
import sklearn.decomposition
import sklearn.exceptions
import sklearn.feature_extraction.text

# ---------------------------------------------------------------- settings
# Confidences at which strata of --draw confidence begin: doubtful rows are drawn more often.
CONFIDENCE_BANDS = (0.0, 0.7, 0.9, 0.99)
# Of the error of a stratum: a model that is sure and wrong is looked at too.
LEAST_SPREAD = 0.1
LEAST_OF_STRATUM = 2  # sentences drawn from a stratum, which a variance takes
CANDIDATES = 5  # for training: so many times as many sentences, the most uncertain, are looked at
COMPONENTS = 100  # of the texts' TF-IDF weights, in which distances are measured
# --------------------------------------------------------------------------


class Draw(NamedTuple):
    """Sentences that were drawn, in random order, with the design of each."""

    positions: np.ndarray  # int [n]
    strata: list[str]  # name of the stratum of each
    sizes: np.ndarray  # int [n], sentences of that stratum
    probabilities: np.ndarray  # float [n], of inclusion


def draw_stratified(
    strata: Sequence[str],
    spreads: np.ndarray,
    size: int,
    least: dict[str, int],
    rng: np.random.Generator,
) -> Draw:
    """Return a random draw of size sentences, without replacement in each stratum.

    strata [N]: name of the stratum of each sentence. spreads [N]: how uncertain its label is, by
    which a stratum gets more; equal for an allocation by size alone. least: {stratum: sentences
    that it gets at least, as far as it has them}.
    """
    names, stratum_of = np.unique(np.asarray(strata, object).astype(str), return_inverse=True)
    sizes = np.bincount(stratum_of)
    need = np.bincount(stratum_of, spreads)
    at_least = np.array([least.get(name, LEAST_OF_STRATUM) for name in names])
    counts = allocate_draws(sizes, need, at_least, size)
    drawn = []
    for number, count in enumerate(counts):
        members = np.flatnonzero(stratum_of == number)
        drawn.append(rng.choice(members, count, replace=False))
    positions = rng.permutation(np.concatenate(drawn))
    of_drawn = stratum_of[positions]
    probabilities = (counts / sizes)[of_drawn]
    return Draw(positions, [names[number] for number in of_drawn], sizes[of_drawn], probabilities)


def allocate_draws(
    sizes: np.ndarray, need: np.ndarray, least: np.ndarray, total: int
) -> np.ndarray:
    """Return how many sentences each stratum gives, int; they add up to the total.

    In proportion to the need (size times standard deviation: Neyman 1934), but at least the least
    and at most the size. The least of all must not be more than the total, nor that than all sizes.
    """
    low = np.minimum(least, sizes)
    counts = low.astype(float)
    open_strata = np.ones(len(sizes), bool)
    left = float(total)
    while open_strata.any():
        share = left * need[open_strata] / need[open_strata].sum()
        inside = np.clip(share, low[open_strata], sizes[open_strata])
        surplus = inside.sum() - left
        counts[open_strata] = inside
        if abs(surplus) < 1e-9:
            break
        # Bounds that are met on the side that the sum is off, are met for good.
        met = (inside > share) if surplus > 0 else (inside < share)
        fixed = np.flatnonzero(open_strata)[met]
        left -= counts[fixed].sum()
        open_strata[fixed] = False
    whole = np.floor(counts + 1e-9).astype(int)
    rest = np.argsort(whole - counts, kind="stable")
    rest = [number for number in rest if whole[number] < sizes[number]]
    whole[rest[: total - whole.sum()]] += 1
    return whole


def name_band(confidence: float) -> str:
    """Return the stratum of a confidence, the highest of three probabilities."""
    lowest = max(start for start in CONFIDENCE_BANDS if confidence >= start)
    return f"confidence from {lowest:g}"


def measure_spread(probabilities: np.ndarray) -> np.ndarray:
    """Return how uncertain labels are, float [N]: the standard deviation of one-hot labels, summed
    over the labels; not below LEAST_SPREAD. probabilities [N, 3]."""
    variance = (probabilities * (1 - probabilities)).sum(1)
    return np.maximum(np.sqrt(variance), LEAST_SPREAD)


# ---------------------------------------------------------------- for training


def measure_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy [N] in nats of probabilities [N, 3]."""
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(1)


def choose_informative(
    texts: Sequence[str], probabilities: np.ndarray, size: int, seed: int
) -> np.ndarray:
    """Return positions, int [size], of the sentences that a model probably learns most from.

    The CANDIDATES * size of highest entropy are put into size clusters by their words, weighted by
    entropy, and of each cluster the most uncertain is taken: doubtful, and unlike each other (as in
    Zhdanov 2019, arXiv 1901.05954). texts: topic and sentence of each; probabilities [N, 3].
    """
    entropy = measure_entropy(probabilities)
    if size >= len(entropy):
        return np.arange(len(entropy))
    candidates = np.argsort(-entropy, kind="stable")[: CANDIDATES * size]
    features = embed_texts([texts[position] for position in candidates], seed)
    weights = np.maximum(entropy[candidates], 1e-6)
    clusters = sklearn.cluster.KMeans(size, n_init=1, random_state=seed)
    with warnings.catch_warnings():  # that equal texts leave clusters empty: seen to below
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        cluster_of = clusters.fit_predict(features, sample_weight=weights)
    chosen = []
    taken = set()
    for place, cluster in enumerate(cluster_of):  # by entropy, the highest first
        if cluster not in taken:
            taken.add(cluster)
            chosen.append(place)
    others = [place for place in range(len(candidates)) if place not in set(chosen)]
    chosen += others[: size - len(chosen)]  # where equal texts left clusters empty
    return candidates[chosen]


def embed_texts(texts: Sequence[str], seed: int) -> np.ndarray:
    """Return the TF-IDF weights of texts in COMPONENTS dimensions at most, each of length 1."""
    vectorizer = sklearn.feature_extraction.text.TfidfVectorizer(
        sublinear_tf=True, token_pattern=r"\w+"
    )
    weights: scipy.sparse.csr_matrix = vectorizer.fit_transform(texts)
    if min(weights.shape) <= COMPONENTS + 1:
        return weights.toarray()
    reduced = sklearn.decomposition.TruncatedSVD(COMPONENTS, random_state=seed)
    features = reduced.fit_transform(weights)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
