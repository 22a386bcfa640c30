"""stance/evaluation/label_quality.py: what cleanlab counts is what the paper says, by a calculation of its own."""

import math

import numpy as np
import pytest

from stance.evaluation import label_quality


def draw_noisy(seed, rows=400, share=0.1):
    """(probabilities [n, 3], noisy labels, which labels are wrong) of a model that is often right."""
    rng = np.random.default_rng(seed)
    clean = rng.integers(0, 3, rows)
    logits = rng.normal(size=(rows, 3))
    logits[np.arange(rows), clean] += 2.5
    weights = np.exp(logits)
    wrong = rng.random(rows) < share
    labels = np.where(wrong, (clean + rng.integers(1, 3, rows)) % 3, clean)
    return weights / weights.sum(1, keepdims=True), labels, wrong


def count_by_hand(probabilities, labels):
    """The counts of confident labels [3, 3], section 3.1 of the paper, row by row."""
    thresholds = []
    for label in range(3):
        own = [row[label] for row, given in zip(probabilities, labels) if given == label]
        thresholds.append(sum(own) / len(own))
    counts = [[0] * 3 for _ in range(3)]
    for row, given in zip(probabilities, labels):
        sure = [label for label in range(3) if row[label] >= thresholds[label]]
        if sure:
            counts[given][max(sure, key=lambda label: row[label])] += 1
    return counts


def choose_by_hand(probabilities, labels, joint):
    """The rows that are pruned by noise rate: of each pair of labels, as many as joint says, with the largest
    margins."""
    suspects = set()
    for given in range(3):
        own = [index for index, label in enumerate(labels) if label == given]
        for other in range(3):
            if other == given:
                continue
            margins = {
                index: probabilities[index][other] - probabilities[index][given] for index in own
            }
            largest = sorted(own, key=lambda index: -margins[index])[: joint[given][other]]
            suspects.update(
                index
                for index in largest
                if max(probabilities[index]) > probabilities[index][given]
            )
    return suspects


@pytest.mark.parametrize("seed", range(5))
def test_doubts_are_those_of_the_paper(seed):
    probabilities, labels, _ = draw_noisy(seed)
    doubts = label_quality.find_label_doubts(probabilities, labels)
    counts = count_by_hand(probabilities.tolist(), labels.tolist())
    assert doubts.joint.sum() == len(labels)
    for given in range(3):
        rows = int((labels == given).sum())
        assert doubts.joint[given].sum() == rows  # calibrated to the rows of each label
        for other in range(3):
            calibrated = counts[given][other] / sum(counts[given]) * rows
            assert abs(doubts.joint[given, other] - calibrated) < 1
    chosen = choose_by_hand(probabilities.tolist(), labels.tolist(), doubts.joint)
    assert set(np.flatnonzero(doubts.suspect)) == chosen and chosen
    for row, given, margin in zip(probabilities.tolist(), labels, doubts.margin):
        others = [value for label, value in enumerate(row) if label != given]
        assert margin == pytest.approx((row[given] - max(others) + 1) / 2)


def test_suspects_come_first_and_the_least_probable_label_before_all():
    probabilities, labels, wrong = draw_noisy(0)
    doubts = label_quality.find_label_doubts(probabilities, labels)
    order = label_quality.order_by_doubt(doubts)
    assert sorted(order) == list(range(len(labels)))
    count = int(doubts.suspect.sum())
    assert doubts.suspect[order[:count]].all() and not doubts.suspect[order[count:]].any()
    for part in (order[:count], order[count:]):
        assert (np.diff(doubts.confidence[part]) >= 0).all()
    assert wrong[order[: wrong.sum()]].mean() > 5 * wrong.mean()


def test_a_label_that_nobody_gave_is_no_reason_to_stop():
    probabilities, labels, _ = draw_noisy(1)
    kept = labels != 2
    doubts = label_quality.find_label_doubts(probabilities[kept], labels[kept])
    assert doubts.suspect.shape == doubts.margin.shape == (kept.sum(),)
    assert np.isfinite(doubts.margin).all()


def test_losses_are_those_of_the_labels_and_finite():
    losses = label_quality.measure_losses(np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]), [1, 0])
    assert losses[0] == pytest.approx(math.log(4)) and 20 < losses[1] < math.inf


def test_an_order_is_scored_at_the_number_of_wrong_rows():
    wrong = np.array([False, True, False, True])
    assert label_quality.score_order([1, 0, 3, 2], wrong) == {
        "wrong": 2,
        "found": 1,
        "precision": 0.5,
        "recall": 0.5,
        "average_precision": pytest.approx((1 + 2 / 3) / 2),
    }
    assert label_quality.score_order([3, 1, 0, 2], wrong)["average_precision"] == 1


def test_suspects_are_scored_as_a_set():
    wrong = np.array([True, True, False, False])
    scores = label_quality.score_suspects(np.array([True, False, True, True]), wrong)
    assert scores == {"suspects": 3, "found": 1, "precision": pytest.approx(1 / 3), "recall": 0.5}
    assert label_quality.score_suspects(np.zeros(4, bool), wrong)["precision"] is None
