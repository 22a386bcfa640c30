"""Which annotations are doubtful: confident learning over probabilities of models that did not see them.

Source: Northcutt, Jiang and Chuang, Confident Learning, JAIR 70 (2021), arXiv 1911.00068, as the
package cleanlab (Apache 2.0 from version 2.8 on, AGPL before) computes it. A label counts as
confidently another one where the probability of the other is at least the mean that the other has
among the rows annotated with it; these counts, calibrated to the rows of each label, say how many
rows to doubt ("prune by noise rate"), and the margin says which. They are shown by the probability
of their label, the lowest first: benchmarks/label_errors.py found more flipped labels so than by the
margin. No torch.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stance.evaluation import uncertainty


class Doubts(NamedTuple):
    """What confident learning says about n annotated rows."""

    suspect: np.ndarray  # bool [n]: the label is probably an error
    confidence: np.ndarray  # [n], 0 to 1: p(label), the self-confidence
    margin: np.ndarray  # [n], 0 to 1: (p(label) - the highest of the others + 1) / 2
    joint: np.ndarray  # [3, 3] rows: annotated (rows of it) as this label, probably (columns) that


def find_label_doubts(probabilities: np.ndarray, gold: uncertainty.Labels) -> Doubts:
    """Return what is doubtful about the labels of n rows.

    probabilities: [n, 3], of models that were not trained on these rows. gold: their annotated
    labels, as indices of prompts.LABELS; two different ones at least.
    """
    # A second, which those who only import this module need not wait for.
    import cleanlab.count
    import cleanlab.filter
    import cleanlab.rank

    gold = np.asarray(gold)
    joint = cleanlab.count.compute_confident_joint(gold, probabilities)
    # One process: of three labels there is nothing to share out.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels that few rows or none have
        suspect = cleanlab.filter.find_label_issues(
            gold, probabilities, filter_by="prune_by_noise_rate", confident_joint=joint, n_jobs=1
        )
    margin = cleanlab.rank.get_label_quality_scores(gold, probabilities, method="normalized_margin")
    confidence = np.asarray(probabilities)[np.arange(len(gold)), gold]
    return Doubts(np.asarray(suspect, bool), confidence, np.asarray(margin), np.asarray(joint))


def order_by_doubt(doubts: Doubts) -> np.ndarray:
    """Return the rows from the most to the least doubtful: suspects first, then by p(label)."""
    return np.lexsort((doubts.confidence, ~doubts.suspect))


def measure_losses(probabilities: np.ndarray, gold: uncertainty.Labels) -> np.ndarray:
    """Return the negative log-likelihood of each of n labels, in nats; probabilities [n, 3].

    Its order is that of the self-confidence, the probability of the label, turned round.
    """
    of_gold = probabilities[np.arange(len(gold)), np.asarray(gold)]
    return -np.log(np.maximum(of_gold, uncertainty.TINY))


def score_order(order: Sequence[int] | np.ndarray, wrong: np.ndarray) -> dict[str, float | int]:
    """Return how well an order of n rows, the most doubtful first, finds the wrong ones.

    wrong: bool [n], one at least. {"wrong", "found", "precision", "recall", "average_precision"}:
    found: of the first rows, as many as there are wrong ones, those that are wrong; at that number
    precision and recall are the same. average_precision: the mean of the precisions at the rank of
    each wrong row.
    """
    hits = np.asarray(wrong, bool)[np.asarray(order)]
    count = int(hits.sum())
    found = int(hits[:count].sum())
    precisions = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return {
        "wrong": count,
        "found": found,
        "precision": found / count,
        "recall": found / count,
        "average_precision": float(precisions[hits].mean()),
    }


def score_suspects(suspect: np.ndarray, wrong: np.ndarray) -> dict[str, float | int | None]:
    """Return how well a set of suspects, bool [n], meets the wrong rows, bool [n], one at least.

    {"suspects", "found", "precision", "recall"}; precision is None without suspects.
    """
    count = int(suspect.sum())
    found = int((suspect & wrong).sum())
    return {
        "suspects": count,
        "found": found,
        "precision": found / count if count else None,
        "recall": found / int(wrong.sum()),
    }
