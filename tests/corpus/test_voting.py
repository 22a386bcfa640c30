"""Votes of several annotators: majorities, ties and agreement, against published values."""

import pytest

from stance.corpus import labels, voting

A, B, C = "ann", "bob", "cat"


def make_row(number, votes, text=None, **more):
    text = f"Sentence {number}." if text is None else text
    votes = {name: (label, label.title()) for name, label in votes.items()}
    row = {"topic": "T.", "text": text, "label": None, "stance": "", "row": number}
    return {**row, "source_id": f"c.csv:{number}", "votes": votes, **more}


def test_the_majority_decides_and_ties_are_left_out():
    rows = [
        make_row(2, {A: "pro", B: "pro", C: "con"}),
        make_row(3, {A: "pro", B: "con"}),
        make_row(4, {A: "neu"}),
        make_row(5, {A: "pro", B: "con", C: "neu"}),
    ]
    decided = voting.count_votes(rows)
    assert [(row["row"], row["label"], row["agreement"]) for row in decided.rows] == [
        (2, "pro", 0.667),
        (4, "neu", 1.0),
    ]
    assert [tie["votes"][0]["row"] for tie in decided.votes.ties] == [3, 5]
    assert decided.rows[0]["stance"] == "Pro" and "votes" not in decided.rows[0]


def test_rows_of_one_sentence_are_one_item():
    rows = [
        make_row(2, {A: "pro"}, "Same."),
        make_row(3, {B: "con"}, "same"),
        make_row(4, {C: "con"}, "SAME!"),
    ]
    [row] = voting.count_votes(rows).rows
    assert (row["text"], row["label"], row["row"]) == ("Same.", "con", 2)
    assert row["source_id"] == ["c.csv:2", "c.csv:3", "c.csv:4"]


def test_an_annotator_who_contradicts_themself_has_no_vote():
    rows = [
        make_row(2, {A: "pro"}, "S."),
        make_row(3, {A: "con"}, "S."),
        make_row(4, {B: "con"}, "S."),
    ]
    decided = voting.count_votes(rows)
    assert [row["label"] for row in decided.rows] == ["con"]
    assert decided.votes.contradicting == [{"row": 2, "annotator": A}]
    again = [
        make_row(2, {A: "pro"}, "S."),
        make_row(3, {A: "pro"}, "S."),
        make_row(4, {B: "con"}, "S."),
    ]
    assert len(voting.count_votes(again).votes.ties) == 1  # a repetition is no second vote


def test_a_majority_for_dropping_leaves_a_sentence_out():
    decided = voting.count_votes([make_row(2, {A: labels.DROP, B: labels.DROP, C: "pro"})])
    assert decided.rows == [] and decided.votes.dropped == [2] and decided.votes.ties == []


def test_alpha_is_that_of_its_paper():
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example C: 0.743."""
    coders = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[value for value in unit if value] for unit in zip(*coders, strict=True)]
    assert voting.compute_alpha([unit for unit in units if len(unit) > 1]) == 0.743


def test_kappa_is_that_of_its_paper():
    """Fleiss 1971 as worked out on Wikipedia: 10 subjects, 14 raters, 5 categories: 0.210."""
    counts = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    units = [[label for label, n in enumerate(row) for _ in range(n)] for row in counts]
    assert voting.compute_fleiss(units) == 0.21


def test_agreement_by_topic_and_pair():
    units = [
        ("x", {A: "pro", B: "pro"}),
        ("x", {A: "con", B: "pro"}),
        ("y", {A: "con", B: "con", C: "con"}),
        ("y", {A: "neu"}),
    ]
    found = voting.measure_agreement(units)
    assert (found["sentences"], found["with_several_votes"], found["annotators"]) == (4, 3, 3)
    assert found["full_agreement_by_topic"] == {"x": 0.5, "y": 1.0}
    assert found["full_agreement"] == 0.667
    pair = found["pairwise_kappa"][0]
    assert pair["annotators"] == [A, B] and pair["sentences"] == 3
    assert pair["kappa"] == pytest.approx(0.4, abs=0.001)  # (2/3 - 4/9) / (1 - 4/9)


def test_votes_that_are_all_one_have_no_kappa():
    found = voting.measure_agreement([("x", {A: "pro", B: "pro"})])
    assert found["krippendorff_alpha"] is None and found["fleiss_kappa"] is None
    assert found["pairwise_kappa"][0]["kappa"] is None and found["full_agreement"] == 1.0
