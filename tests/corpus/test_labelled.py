"""Labelled tables read back: the columns of the last labelling, equal sentences once, defects in one line."""

import pytest
from stopping import stop_message

from stance.corpus import labelled, tables
from stance.labelling import table as labelling_table

HEADER = ["topic", "text", "stance", "p_pro", "p_con", "p_neu", "confidence", "review"]
ROWS = [
    ["Vegans are right.", "Meat is cruel.", "pro", 0.8, 0.1, 0.1, 0.8, "no"],
    ["Vegans are right.", "I like steak.", "con", 0.1, 0.7, 0.2, 0.7, "no"],
    ["Vegans are right.", "meat is cruel", "pro", 0.8, 0.1, 0.1, 0.8, "no"],
]


def write(folder, header, rows, name="labelled.xlsx"):
    path = folder / name
    tables.write_table(path, header, rows)
    return path


def test_sentences_that_are_equal_are_one_with_all_their_rows(tmp_path):
    found = labelled.read_labelled(write(tmp_path, HEADER, ROWS))
    assert found.pairs == [
        ("Vegans are right.", "Meat is cruel."),
        ("Vegans are right.", "I like steak."),
    ]
    assert list(found.pair_of_row) == [0, 1, 0]
    assert found.predicted == [0, 1]
    assert found.probabilities[1] == pytest.approx((0.1, 0.7, 0.2))


@pytest.mark.parametrize("name", ["labelled.csv", "labelled.jsonl", "labelled.tsv"])
def test_every_kind_of_output_is_read(tmp_path, name):
    found = labelled.read_labelled(write(tmp_path, HEADER, ROWS, name), by=["review"])
    assert found.predicted == [0, 1] and found.groups == {"review": ["no"] * 3}


def test_the_columns_of_the_last_labelling_count(tmp_path):
    """As stance/labelling/table.py names them, once, twice and three times."""
    header = ["topic", "text", "stance"]
    cells = ["Vegans are right.", "Meat is cruel.", "neu"]
    for label, probabilities in (("con", [0.1, 0.8, 0.1]), ("pro", [0.6, 0.2, 0.2])):
        opened = tables.Table("", header, {"topic": 0, "text": 1}, iter(()))
        header = [*header, *labelling_table.name_added(opened).values()]
        cells = [*cells, label, *probabilities, max(probabilities), "no"]
    assert "predicted_stance" in header and "predicted_stance_2" in header
    found = labelled.read_labelled(write(tmp_path, header, [cells]))
    assert found.predicted == [0] and found.probabilities[0][0] == pytest.approx(0.6)


def test_topics_that_flags_gave_are_those_of_the_stances(tmp_path):
    opened = tables.Table("", ["topic", "text"], {"text": 1}, iter(()))
    header = ["topic", "text", *labelling_table.name_added(opened).values()]
    assert labelled.GIVEN_TOPIC in header
    cells = ["food", "Meat is cruel.", "Vegans are right.", "pro", 0.8, 0.1, 0.1, 0.8, "no"]
    found = labelled.read_labelled(write(tmp_path, header, [cells]), by=["topic"])
    assert found.pairs == [("Vegans are right.", "Meat is cruel.")]
    assert found.groups["topic"] == ["Vegans are right."]


def test_groups_are_texts_numbers_and_years_of_dates(tmp_path):
    days = ["2024-03-01", "2023-12-31T10:00:00", None]
    rows = [[*row, 2021.0 + i, days[i]] for i, row in enumerate(ROWS)]
    path = write(tmp_path, [*HEADER, "Year", "day"], rows, "labelled.jsonl")
    found = labelled.read_labelled(path, by=["year", "day"])
    assert found.groups["year"] == ["2021", "2022", "2023"]
    assert found.groups["day"] == ["2024", "2023", labelled.EMPTY_GROUP]


def test_labels_without_probabilities_are_taken_as_certain(tmp_path, capsys):
    rows = [row[:3] for row in ROWS]
    found = labelled.read_labelled(write(tmp_path, HEADER[:3], rows))
    assert found.probabilities is None
    assert "its labels count as certain" in capsys.readouterr().out


def test_rows_that_differ_from_an_equal_sentence_are_counted(tmp_path, capsys):
    rows = [*ROWS[:2], [*ROWS[2][:2], "con", 0.1, 0.8, 0.1, 0.8, "no"]]
    labelled.read_labelled(write(tmp_path, HEADER, rows))
    assert "1 rows are equal to an earlier row but for case" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({2: "perhaps"}, 'row 3: "perhaps" is no label of predict.py'),
        ({3: "high"}, "row 3: p_pro is no number"),
        ({3: 0.9}, "row 3: p_pro, p_con, p_neu are no probabilities that add up to 1"),
        ({1: ""}, "row 3 has no text"),
        ({0: ""}, "row 3 has no topic"),
    ],
)
def test_a_row_that_predict_did_not_write_is_named(tmp_path, capsys, change, words):
    broken = [change.get(index, cell) for index, cell in enumerate(ROWS[1])]
    path = write(tmp_path, HEADER, [ROWS[0], broken])
    message = stop_message(capsys, labelled.read_labelled, path)
    assert words in message and str(path) in message


def test_a_table_that_is_not_labelled_is_named(tmp_path, capsys):
    path = write(tmp_path, HEADER[:2], [row[:2] for row in ROWS])
    assert "has no column stance" in stop_message(capsys, labelled.read_labelled, path)
    path = write(tmp_path, HEADER, ROWS)
    message = stop_message(capsys, labelled.read_labelled, path, ["author"])
    assert 'has no column "author": name one of "topic", "text"' in message
