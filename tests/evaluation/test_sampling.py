"""Draws of sentences to annotate: of known probability for shares, uncertain and unlike each other for training."""

from collections import Counter

import numpy as np
import pytest

from stance.evaluation import sampling


def test_allocation_keeps_its_total_and_its_bounds():
    rng = np.random.default_rng(0)
    for _ in range(300):
        count = rng.integers(1, 12)
        sizes = rng.integers(1, 200, count)
        need = sizes * rng.uniform(0.05, 1, count)
        least = np.full(count, 2)
        low = np.minimum(least, sizes).sum()
        total = int(rng.integers(low, sizes.sum() + 1))
        found = sampling.allocate_draws(sizes, need, least, total)
        assert found.sum() == total
        assert (found >= np.minimum(least, sizes)).all() and (found <= sizes).all()


def test_allocation_is_in_proportion_to_the_need():
    found = sampling.allocate_draws(
        np.array([1000, 1000, 2000]), np.array([100.0, 300.0, 200.0]), np.full(3, 2), 60
    )
    assert found.tolist() == [10, 30, 20]


def test_inclusion_probabilities_are_what_they_say():
    strata = ["a"] * 30 + ["b"] * 70
    spreads = np.array([1.0] * 30 + [0.2] * 70)
    times = Counter()
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        drawn = sampling.draw_stratified(strata, spreads, 20, {"b": 5}, rng)
        assert len(set(drawn.positions)) == 20
        times.update(drawn.positions.tolist())
    stated = dict(zip(drawn.positions.tolist(), drawn.probabilities))
    for position, probability in stated.items():
        # Four standard errors of 2,000 draws.
        assert times[position] / 2000 == pytest.approx(probability, abs=0.05)
    assert set(zip(drawn.strata, drawn.sizes.tolist())) == {("a", 30), ("b", 70)}


def test_a_draw_is_in_random_order_and_repeats_with_its_seed():
    strata = ["a"] * 50 + ["b"] * 50
    first, again = (
        sampling.draw_stratified(strata, np.ones(100), 40, {}, np.random.default_rng(3))
        for _ in range(2)
    )
    assert first.positions.tolist() == again.positions.tolist()
    assert len(set(first.strata[:10])) == 2


def test_confidences_fall_into_bands():
    names = [sampling.name_band(value) for value in (1 / 3, 0.7, 0.95, 1.0)]
    assert names == [f"confidence from {start}" for start in ("0", "0.7", "0.9", "0.99")]


def test_chosen_sentences_are_uncertain_and_unlike_each_other():
    words = ["taxes", "school", "guns", "energy", "clones"]
    texts = [f"{word} {word} number {i}" for word in words for i in range(40)]
    doubt = np.array([0.34, 0.33, 0.33])
    sure = np.array([0.98, 0.01, 0.01])
    is_doubtful = np.arange(200) % 40 < 20
    probabilities = np.where(is_doubtful[:, None], doubt, sure)
    chosen = sampling.choose_informative(texts, probabilities, 5, 0)
    assert len(set(chosen.tolist())) == 5
    assert is_doubtful[chosen].all()
    probabilities[:40] = [0.36, 0.33, 0.31]  # the first topic is a little less doubtful than others
    many = sampling.choose_informative(texts, probabilities, 20, 0)
    assert len({texts[position].split()[0] for position in many}) >= 4


def test_equal_texts_still_give_as_many_sentences_as_asked():
    texts = ["the same sentence"] * 30
    chosen = sampling.choose_informative(texts, np.full((30, 3), 1 / 3), 10, 0)
    assert len(set(chosen.tolist())) == 10
    assert sampling.choose_informative(texts, np.full((30, 3), 1 / 3), 30, 0).tolist() == list(
        range(30)
    )


def test_entropy_is_that_of_the_textbook():
    found = sampling.measure_entropy(np.array([[1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3]))
    assert found == pytest.approx([0, np.log(2), np.log(3)])
