"""Gold samples: read as corpora are, matched to the labelled table, with how they were drawn; defects in one line."""

import math

import pytest
from stopping import stop_message

from stance.corpus import corpus_flags, gold_sample, labelled, labels, tables

TOPIC = "Vegans are right."
TEXTS = [f"Sentence number {number}." for number in range(10)]
DESIGN = list(gold_sample.DESIGN_COLUMNS)


@pytest.fixture
def table(tmp_path):
    """A labelled table of ten sentences, two rows each."""
    path = tmp_path / "labelled.csv"
    rows = [[TOPIC, text, "pro"] for text in TEXTS for _ in range(2)]
    tables.write_table(path, ["topic", "text", "stance"], rows)
    return labelled.read_labelled(path)


def read(tmp_path, table, rows, header=("topic", "text", "stance"), skip_bad=False, **options):
    path = tmp_path / "gold.xlsx"
    tables.write_table(path, list(header), rows)
    return gold_sample.read_gold_rows(path, corpus_flags.CorpusOptions(**options), table, skip_bad)


def make_rows(stances, *design):
    return [[TOPIC, text, stance, *design] for text, stance in zip(TEXTS, stances)]


def test_stances_are_spelt_as_in_corpora(tmp_path, table):
    gold = read(
        tmp_path,
        table,
        make_rows(["Pro", "against", "Neutral", "0"]),
        stances=labels.read_stances(["neu=0"]),
    )
    assert [row.label for row in gold] == [0, 1, 2, 2]
    assert [row.position for row in gold] == [0, 1, 2, 3]


def test_headers_and_texts_match_as_in_corpora(tmp_path, table):
    rows = [[" vegans are RIGHT ", "sentence   number 3", "con"]]
    [found] = read(tmp_path, table, rows, header=("Claim", "Sentence", "Label"))
    assert (found.position, found.label) == (3, 1)


def test_without_a_design_all_sentences_are_one_stratum_and_a_note_says_so(tmp_path, table, capsys):
    gold = read(tmp_path, table, make_rows(["Pro", "Contra"]))
    assert {(row.probability, row.size, row.stratum) for row in gold} == {(0.2, 10, "")}
    assert "count as drawn at random from all 10, or no estimate holds" in capsys.readouterr().out


def test_a_design_is_read_with_its_rows(tmp_path, table):
    rows = make_rows(["Pro", "Contra"], 0.5, "a", 4) + [[TOPIC, TEXTS[8], "Neutral", 0.25, "b", 6]]
    gold = read(tmp_path, table, rows, ["topic", "text", "stance", *DESIGN])
    assert [row[2:] for row in gold] == [
        (0.5, "a", 4.0, 2),
        (0.5, "a", 4.0, 3),
        (0.25, "b", 6.0, 4),
    ]
    alone = read(tmp_path, table, [row[:4] for row in rows], ["topic", "text", "stance", DESIGN[0]])
    assert [row.probability for row in alone] == [0.5, 0.5, 0.25]
    assert all(math.isnan(row.size) for row in alone)


def test_drawn_sentences_without_a_stance_are_counted(tmp_path, table, capsys):
    rows = make_rows(["Pro", "Contra", None, "Neutral"], 0.4, "a", 10)
    header = ["topic", "text", "stance", *DESIGN]
    message = stop_message(capsys, read, tmp_path, table, rows, header)
    assert "stance is empty in row 4: fill it, or leave such rows out" in message
    gold = read(tmp_path, table, rows, header, skip_bad=True)
    assert len(gold) == 3
    assert "1 of 4 drawn sentences have no stance" in capsys.readouterr().out


def test_several_annotators_vote(tmp_path, table):
    rows = [[TOPIC, TEXTS[0], "Pro", "Pro", "Contra"], [TOPIC, TEXTS[1], "Contra", "Contra", None]]
    header = ["topic", "text", "ann", "ben", "cat"]
    gold = read(tmp_path, table, rows, header, annotator_columns=("ann", "ben", "cat"))
    assert [row.label for row in gold] == [0, 1]
    long = [
        [TOPIC, TEXTS[0], stance, name]
        for stance, name in (("Pro", "a"), ("Pro", "b"), ("Contra", "c"))
    ]
    gold = read(tmp_path, table, long, ["topic", "text", "stance", "who"], annotator_column="who")
    assert [row.label for row in gold] == [0]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[TOPIC, "Not there.", "Pro"]], 'row 2: sentence "Not there." is not in'),
        ([["Other topic.", TEXTS[0], "Pro"]], "row 2: topic of the sentence"),
        (
            [[TOPIC, TEXTS[0], "Pro"], [TOPIC, TEXTS[0], "Contra"]],
            "annotated several times with different stances in 2 rows (2, 3)",
        ),
        ([[TOPIC, TEXTS[0], "maybe"]], 'unknown stance "maybe" in row 2'),
        (
            [[TOPIC, TEXTS[0], None]],
            "stance is empty in row 2: fill it, or leave such rows out with --skip-bad",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, table, capsys, rows, words):
    message = stop_message(capsys, read, tmp_path, table, rows)
    assert words in message and "gold.xlsx" in message


MODEL_COLUMNS = ["p_pro", "p_con", "p_neu"]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (["topic", "text", "stance", *MODEL_COLUMNS], "its stances are the model's"),
        (
            ["topic", "text", "stance", *MODEL_COLUMNS, "predicted_stance", "predicted_p_pro"],
            "its stances are the model's",
        ),
        (["topic", "text", "stance", gold_sample.TRAINING_COLUMN], "was drawn --for training"),
        (["topic", "text", "my code"], "name the stances of annotators with --annotator-columns"),
    ],
)
def test_a_file_that_holds_no_gold_sample_is_refused(tmp_path, table, capsys, header, words):
    rows = [row + [0.5, 0.3, 0.2, "con", 0.2][: len(header) - 3] for row in make_rows(["Pro"] * 10)]
    message = stop_message(capsys, read, tmp_path, table, rows, header)
    assert words in message and "--columns of" not in message


def test_stances_of_people_in_a_labelled_table_are_a_gold_sample(tmp_path, table):
    rows = make_rows(["Pro", "Contra"], "con", 0.2, 0.5, 0.3)
    gold = read(
        tmp_path, table, rows, ["topic", "text", "stance", "predicted_stance", *MODEL_COLUMNS]
    )
    assert [row.label for row in gold] == [0, 1]


def test_a_sentence_without_a_majority_is_named(tmp_path, table, capsys):
    rows = [[TOPIC, TEXTS[0], "Pro", "Contra"], [TOPIC, TEXTS[1], "Pro", "Pro"]]
    header = ["topic", "text", "ann", "ben"]
    message = stop_message(
        capsys, read, tmp_path, table, rows, header, annotator_columns=("ann", "ben")
    )
    assert "without a majority of the annotators in row 2: decide them" in message


def test_a_sentence_annotated_twice_alike_counts_once(tmp_path, table):
    rows = [[TOPIC, TEXTS[0], "Pro"], [TOPIC, TEXTS[0], "pro"], [TOPIC, TEXTS[1], "Contra"]]
    assert [row.position for row in read(tmp_path, table, rows)] == [0, 1]


@pytest.mark.parametrize(
    ("design", "words"),
    [
        ((0, "a", 10), "row 2: inclusion_probability is no number above 0"),
        (("often", "a", 10), "row 2: inclusion_probability is no number above 0"),
        ((0.2, "a", 30), "was drawn from 30 sentences, the labelled table has 10"),
        ((0.5, "a", 4), "its rows stand for 4 of the 10 sentences of the table"),
    ],
)
def test_a_design_of_another_table_is_named(tmp_path, table, capsys, design, words):
    rows = make_rows(["Pro", "Contra"], *design)
    header = ["topic", "text", "stance", *DESIGN]
    assert words in stop_message(capsys, read, tmp_path, table, rows, header)


def test_a_stratum_of_two_sizes_is_named(tmp_path, table, capsys):
    rows = [[TOPIC, TEXTS[0], "Pro", 0.2, "a", 10], [TOPIC, TEXTS[1], "Pro", 0.2, "a", 9]]
    header = ["topic", "text", "stance", *DESIGN]
    message = stop_message(capsys, read, tmp_path, table, rows, header)
    assert "one stratum has several stratum_sentences" in message
