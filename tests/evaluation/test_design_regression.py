"""Corrected regressions: those of the textbook where all is known, and intervals that hold known coefficients."""

import numpy as np
import pytest
import scipy.special
import sklearn.linear_model

from stance.evaluation import design_regression

TRUE = {"linear": np.array([0.4, 0.1, -0.15]), "logistic": np.array([-0.5, 0.8, -0.4])}


def make_rows(family, size, drawn, seed, unequal=False):
    """Rows of known coefficients TRUE; the model errs more often where the second covariate is 1."""
    rng = np.random.default_rng(seed)
    design = np.column_stack(
        [np.ones(size), rng.uniform(-1, 1, size), rng.random(size) < 0.4]
    ).astype(float)
    mean = design_regression.predict_mean(design, TRUE[family], family)
    gold = (rng.random(size) < mean).astype(float)
    right = rng.random(size) < np.where(design[:, 2] == 1, 0.75, 0.92)
    predicted = np.where(right, gold, 1 - gold)
    scores = np.where(predicted == 1, 0.85, 0.1) + rng.uniform(-0.08, 0.08, size)
    doubt = np.where(abs(scores - 0.5) < 0.38, 2.0, 0.7) if unequal else np.ones(size)
    probability = np.minimum(doubt / doubt.mean() * drawn / size, 1)
    is_drawn = rng.random(size) < probability
    return design_regression.Rows(
        design,
        np.arange(size),
        predicted,
        scores,
        np.where(is_drawn, gold, 0),
        np.where(is_drawn, 1 / probability, 0),
    )


def test_with_power_1_it_is_ordinary_least_squares_on_the_pseudo_outcomes():
    rows = make_rows("linear", 800, 200, 0)
    outcomes = rows.scores + rows.weights * (rows.gold - rows.scores)
    expected = np.linalg.lstsq(rows.design, outcomes, rcond=None)[0]
    found = design_regression.fit_powered(rows, "linear", 1.0)
    assert found.coefficients == pytest.approx(expected)


def test_with_all_rows_annotated_it_is_the_usual_regression_with_robust_errors():
    """HC1 written out: White 1980, with n / (n - k)."""
    rows = make_rows("linear", 300, 300, 1)
    assert (rows.weights == 1).all()
    found = design_regression.fit_powered(rows, "linear", 0.6)
    design = rows.design
    bread = np.linalg.inv(design.T @ design)
    expected = bread @ design.T @ rows.gold
    residuals = rows.gold - design @ expected
    meat = sum(residuals[i] ** 2 * np.outer(design[i], design[i]) for i in range(300))
    errors = np.sqrt(np.diag(bread @ meat @ bread) * 300 / 297)
    assert found.coefficients == pytest.approx(expected)
    assert found.errors == pytest.approx(errors)


def test_logistic_coefficients_are_those_of_scikit_learn():
    rows = make_rows("logistic", 1000, 300, 2, unequal=True)
    drawn = rows.weights > 0
    model = sklearn.linear_model.LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10)
    model.fit(rows.design[drawn], rows.gold[drawn], rows.weights[drawn])
    found = design_regression.fit_powered(rows, "logistic", 0.0)
    assert found.coefficients == pytest.approx(model.coef_[0], abs=1e-4)
    naive = design_regression.fit_naive(rows, "logistic")
    model.fit(rows.design, rows.predicted)
    assert naive.coefficients == pytest.approx(model.coef_[0], abs=1e-4)


@pytest.mark.parametrize("family", design_regression.FAMILIES)
def test_the_rows_of_a_repeated_sentence_are_no_new_information(family):
    rows = make_rows(family, 600, 200, 3)
    thrice = design_regression.Rows(*(np.repeat(part, 3, axis=0) for part in rows))
    one = design_regression.fit_powered(rows, family, 0.5)
    three = design_regression.fit_powered(thrice, family, 0.5)
    assert three.coefficients == pytest.approx(one.coefficients)
    assert three.errors == pytest.approx(one.errors)
    assert three.ends == pytest.approx(one.ends)


def test_labels_that_a_covariate_separates_have_no_coefficients():
    rows = make_rows("logistic", 200, 200, 4)
    separated = rows._replace(gold=(rows.design[:, 1] > 0).astype(float))
    assert design_regression.fit_powered(separated, "logistic", 0.0) is None
    twice = rows._replace(design=np.column_stack([rows.design, rows.design[:, 1]]))
    for family in design_regression.FAMILIES:
        assert design_regression.fit_powered(twice, family, 0.5) is None


@pytest.mark.slow
@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("family", design_regression.FAMILIES)
def test_intervals_hold_known_coefficients_where_naive_ones_do_not(family, unequal):
    held = {"naive": [], "gold": [], "design_based": []}
    widths = {name: [] for name in held}
    for seed in range(1000):
        rows = make_rows(family, 2000, 250, seed, unequal)
        for name, fit in design_regression.fit_regressions(rows, family).items():
            low, high = fit.ends
            held[name].append((low <= TRUE[family]) & (TRUE[family] <= high))
            widths[name].append(high - low)
    coverage = {name: np.mean(values, 0) for name, values in held.items()}
    assert coverage["naive"].min() < 0.2
    assert (coverage["design_based"] > 0.93).all() and (coverage["design_based"] < 0.97).all()
    narrower = np.mean(widths["design_based"], 0) / np.mean(widths["gold"], 0)
    assert (narrower < 0.95).all()


def test_means_of_logistic_rows_are_probabilities():
    design = np.array([[1.0, 2.0]])
    found = design_regression.predict_mean(design, np.array([0.5, -1.0]), "logistic")
    assert found == pytest.approx(scipy.special.expit(-1.5))
