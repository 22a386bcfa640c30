"""tools.sample, tools.shares and tools.regression: from a labelled table by a sample to numbers, and what they refuse."""

import json

import numpy as np
import openpyxl
import pytest
from stopping import stop_message

import prompts
from stance.common import files
from stance.corpus import gold_sample, labelled, tables
from stance.evaluation import prediction_powered
from stance.model import fingerprints
from tools import regression, sample, shares

TOPICS = ["Cars must go.", "Meat is murder."]
SENTENCES = 1200


@pytest.fixture(scope="module")
def truth():
    """Gold labels of the sentences, int [SENTENCES]."""
    return np.random.default_rng(0).choice(3, SENTENCES, p=[0.2, 0.3, 0.5])


@pytest.fixture
def table(tmp_path, truth):
    """Path of a labelled table: a model that takes a third of con for neu."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(SENTENCES):
        label = truth[number]
        predicted = 2 if label == 1 and rng.random() < 0.35 else label
        probabilities = np.full(3, 0.1)
        probabilities[predicted] = 0.8
        probabilities = (probabilities + rng.uniform(0, 0.04, 3)).round(4)
        probabilities = probabilities / probabilities.sum()
        year = 2020 + number % 3
        topic = TOPICS[number % 2]
        cells = [topic, f"Sentence {number} of all.", year, "left" if number % 5 else "right"]
        rows.append([*cells, prompts.LABELS[predicted], *probabilities.tolist()])
    path = tmp_path / "labelled.xlsx"
    header = ["topic", "text", "year", "party", "stance", "p_pro", "p_con", "p_neu"]
    tables.write_table(path, header, rows)
    return path


def annotate(path, truth, leave=0):
    """Fill in the stances of a sample, as a person would; leave: rows that get none."""
    book = openpyxl.load_workbook(path)
    for row in list(book.active.iter_rows(min_row=2))[leave:]:
        number = int(row[1].value.split()[1])
        row[2].value = sample.STANCES[truth[number]]
    book.save(path)


def draw(table, *words):
    """Path of a sample of the table."""
    output = table.with_name("gold.xlsx")
    output.unlink(missing_ok=True)
    sample.main(["--labelled", str(table), "--output", str(output), *words])
    return output


def read_result(table):
    return json.loads(table.with_name("labelled.shares.json").read_text())


@pytest.mark.slow
def test_shares_are_corrected_by_a_sample(table, truth, capsys):
    gold = draw(table, "--size", "300", "--by", "topic")
    annotate(gold, truth)
    shares.main(["--labelled", str(table), "--gold", str(gold), "--by", "topic", "year"])
    result = read_result(table)
    true = np.bincount(truth) / SENTENCES
    found = result["table"]["shares"]
    low, high = found["naive"]["con"]["interval"]
    assert not low <= true[1] <= high
    for method in ("gold", "prediction_powered", "adjusted"):
        low, high = found[method]["con"]["interval"]
        assert low <= true[1] <= high
    assert sum(cell["value"] for cell in found["prediction_powered"].values()) == pytest.approx(1)
    assert list(result["groups"]["year"]) == ["2020", "2021", "2022"]
    assert [(one["first"], one["second"]) for one in result["differences"]["year"]] == [
        ("2021", "2020"),
        ("2022", "2021"),
        ("2022", "2020"),
    ]
    text = capsys.readouterr().out
    assert "prediction-powered" in text and "differences in percentage points" in text
    for name in ("shares.png", "shares-1.png", "shares-2.png"):
        assert table.with_name(f"labelled.{name}").read_bytes().startswith(b"\x89PNG")


def test_the_screen_and_the_file_have_the_same_numbers(table, truth, capsys):
    gold = draw(table, "--size", "200")
    annotate(gold, truth)
    capsys.readouterr()
    shares.main(["--labelled", str(table), "--gold", str(gold)])
    cell = read_result(table)["table"]["shares"]["prediction_powered"]["pro"]
    low, high = (100 * end for end in cell["interval"])
    assert f"{100 * cell['value']:.1f} [{low:.1f}, {high:.1f}]" in capsys.readouterr().out


def test_tables_of_groups_fit_100_columns_whatever_these_are_called(table, truth, capsys):
    pages = list(openpyxl.load_workbook(table).active.iter_rows(values_only=True))
    long = {"left": "The party of the left and of all others", "right": "The right and the centre"}
    rows = [[*row[:3], long[row[3]], *row[4:]] for row in pages[1:]]
    tables.write_table(table, list(pages[0]), rows)
    gold = draw(table, "--size", "200", "--by", "party")
    annotate(gold, truth)
    capsys.readouterr()
    shares.main(["--labelled", str(table), "--gold", str(gold), "--by", "party", "year"])
    text = capsys.readouterr().out.split("note: intervals are about")[0]
    assert max(map(len, text.splitlines())) <= 100
    assert "The party of the left and... - The right and the centre\n" in text
    assert "\n2021    2020  " in text


def test_without_a_sample_shares_are_marked_as_uncorrected(table, capsys):
    shares.main(["--labelled", str(table), "--by", "topic"])
    text = capsys.readouterr().out
    assert "shares in %, uncorrected" in text
    assert f"python -m tools.sample --labelled {table} --by topic" in text
    result = read_result(table)
    assert list(result["table"]["shares"]) == ["naive"] and result["power"] is None


def test_a_group_with_too_little_gold_has_no_interval_and_a_line_says_so(table, truth, capsys):
    gold = draw(table, "--size", "100")
    annotate(gold, truth)
    shares.main(["--labelled", str(table), "--gold", str(gold), "--by", "party"])
    groups = read_result(table)["groups"]["party"]
    assert groups["right"]["gold"] < prediction_powered.MIN_GOLD
    assert groups["right"]["shares"]["prediction_powered"] is None
    assert groups["left"]["shares"]["prediction_powered"] is not None
    text = capsys.readouterr().out
    least = prediction_powered.MIN_GOLD
    assert f'no interval holds with fewer than {least} gold sentences: "right"' in text
    assert 'draw a larger sample with tools.sample --by "party"' in text


def test_a_table_with_too_little_gold_has_no_interval_and_a_line_says_so(table, truth, capsys):
    gold = draw(table, "--size", "20")
    annotate(gold, truth)
    shares.main(["--labelled", str(table), "--gold", str(gold)])
    assert read_result(table)["table"]["shares"]["prediction_powered"] is None
    assert "fewer than 30 gold sentences, here are 20: annotate more" in capsys.readouterr().out


def test_a_sample_shows_no_answer_and_keeps_how_it_was_drawn(table):
    gold = draw(table, "--size", "90", "--by", "topic", "--draw", "confidence")
    sheet = openpyxl.load_workbook(gold).active
    rows = list(sheet.iter_rows(values_only=True))
    assert rows[0] == ("topic", "text", "stance", *gold_sample.DESIGN_COLUMNS)
    assert len(rows) == 91 and {row[2] for row in rows[1:]} == {None}
    assert sum(size for _, size in {(row[4], row[5]) for row in rows[1:]}) == SENTENCES
    [rule] = sheet.data_validations.dataValidation
    assert str(rule.sqref) == "C2:C91" and rule.formula1 == '"Pro,Contra,Neutral"'
    assert sheet.column_dimensions["D"].hidden and not sheet.column_dimensions["C"].hidden
    shown = openpyxl.load_workbook(draw(table, "--size", "90", "--show-answer")).active
    assert shown["D1"].value == sample.ANSWER and shown["D2"].value in prompts.LABELS


def test_annotations_are_not_replaced(table, truth, capsys):
    gold = draw(table, "--size", "20")
    annotate(gold, truth)
    before = gold.read_bytes()
    words = ["--labelled", str(table), "--output", str(gold)]
    assert "perhaps with annotations" in stop_message(capsys, sample.main, words)
    assert gold.read_bytes() == before


def test_each_group_gets_enough_for_an_interval(table):
    gold = draw(table, "--size", "80", "--by", "party")
    sheet = openpyxl.load_workbook(gold).active
    strata = [row[4] for row in sheet.iter_rows(min_row=2, values_only=True)]
    assert strata.count("party right") == prediction_powered.MIN_GOLD


def test_draws_by_confidence_take_doubtful_sentences_more_often(tmp_path):
    rows = [
        ["T.", f"Sentence {i}.", "pro", *p]
        for i, p in enumerate([[0.98, 0.01, 0.01]] * 900 + [[0.5, 0.3, 0.2]] * 100)
    ]
    path = tmp_path / "labelled.csv"
    tables.write_table(path, ["topic", "text", "stance", "p_pro", "p_con", "p_neu"], rows)
    gold = draw(path, "--size", "100", "--draw", "confidence")
    probabilities = {
        row[4]: row[3]
        for row in openpyxl.load_workbook(gold).active.iter_rows(min_row=2, values_only=True)
    }
    assert probabilities["confidence from 0"] > 3 * probabilities["confidence from 0.9"]


def test_a_sample_for_training_leaves_out_what_is_annotated(table, tmp_path):
    done = tmp_path / "done.csv"
    tables.write_table(
        done, ["topic", "text"], [[TOPICS[i % 2], f"Sentence {i} of all."] for i in range(1000)]
    )
    gold = draw(table, "--size", "150", "--for", "training", "--without", str(done))
    rows = list(openpyxl.load_workbook(gold).active.iter_rows(min_row=2, values_only=True))
    numbers = {int(row[1].split()[1]) for row in rows}
    assert len(numbers) == 150 and min(numbers) >= 1000


def test_a_sample_for_training_is_refused_as_a_gold_sample(table, truth, capsys):
    gold = draw(table, "--size", "60", "--for", "training")
    annotate(gold, truth)
    message = stop_message(capsys, shares.main, ["--labelled", str(table), "--gold", str(gold)])
    assert "was drawn --for training" in message
    assert not table.with_name("labelled.shares.json").exists()


def test_groups_of_which_too_few_are_drawn_are_named_before_anyone_annotates(table, capsys):
    draw(table, "--size", "50", "--by", "topic")
    text = capsys.readouterr().out
    assert '"Cars must go." (25), "Meat is murder." (25): a larger --size' in text
    draw(table, "--size", "20")
    assert "gives no interval with fewer than 30 sentences" in capsys.readouterr().out
    draw(table, "--size", "60", "--by", "topic")
    assert "gives no interval" not in capsys.readouterr().out


def test_rows_left_empty_can_be_left_out(table, truth, capsys):
    gold = draw(table, "--size", "120")
    annotate(gold, truth, leave=20)
    message = stop_message(capsys, shares.main, ["--labelled", str(table), "--gold", str(gold)])
    assert "stance is empty in 20 rows" in message
    shares.main(["--labelled", str(table), "--gold", str(gold), "--skip-bad"])
    assert "20 of 120 drawn sentences have no stance" in capsys.readouterr().out
    assert read_result(table)["table"]["gold"] == 100


def test_gold_sentences_that_the_adapter_learnt_from_are_refused(
    table, truth, tmp_path, capsys, monkeypatch
):
    gold = draw(table, "--size", "60")
    annotate(gold, truth)
    pair = labelled.read_labelled(gold_to_labelled(gold, tmp_path)).pairs[4]
    monkeypatch.setattr(
        fingerprints, "read_hashes", lambda folder: {fingerprints.hash_text(pair[1])}
    )
    words = ["--labelled", str(table), "--gold", str(gold), "--adapter", "outputs/mine"]
    assert "outputs/mine was trained on sentences in row 6" in stop_message(
        capsys, shares.main, words
    )


def gold_to_labelled(gold, folder):
    """A sample as a table that can be read as a labelled one, for its pairs in the order of the file."""
    path = folder / "again.csv"
    rows = [
        row[:3]
        for row in openpyxl.load_workbook(gold).active.iter_rows(min_row=2, values_only=True)
    ]
    tables.write_table(path, ["topic", "text", "stance"], rows)
    return path


@pytest.mark.parametrize("family", ["logistic", "linear"])
def test_a_regression_is_corrected(table, truth, capsys, family):
    gold = draw(table, "--size", "400", "--by", "party")
    annotate(gold, truth)
    words = ["--labelled", str(table), "--gold", str(gold), "--outcome", "con", "--family", family]
    regression.main([*words, "--on", "party", "year"])
    record = files.read_json(table.with_name("labelled.regression.json"), "")
    assert list(record["terms"]) == ["(intercept)", "party: right", "year"]
    share = (truth == 1).mean()
    expected = np.log(share / (1 - share)) if family == "logistic" else share
    intercept = record["terms"]["(intercept)"]
    low, high = intercept["design_based"]["interval"]
    assert low < expected < high
    assert not intercept["naive"]["interval"][0] < expected < intercept["naive"]["interval"][1]
    text = capsys.readouterr().out
    assert "design-based" in text
    assert "note: party: compared with left; year: centred at its mean, 2021" in text
    assert record["references"] == {"party": "left", "year": 2021.0}


@pytest.mark.slow
def test_a_regression_without_a_naive_solution_says_why(tmp_path, truth, capsys):
    path = tmp_path / "labelled.xlsx"
    rows = []
    for number in range(SENTENCES):
        party = "left" if number % 2 else "right"
        label = "con" if party == "left" and number % 3 else "neu"
        rows.append([TOPICS[0], f"Sentence {number} of all.", party, label])
    tables.write_table(path, ["topic", "text", "party", "stance"], rows)
    gold = draw(path, "--size", "200")
    annotate(gold, truth)
    words = ["--labelled", str(path), "--gold", str(gold), "--outcome", "con", "--on", "party"]
    regression.main(words)
    text = capsys.readouterr().out
    assert "note: naive, uncorrected: no solution, as the model's labels" in text


def test_a_value_with_little_gold_is_named_with_its_count(table, truth, capsys):
    gold = draw(table, "--size", "36")
    annotate(gold, truth, leave=30)
    words = ["--labelled", str(table), "--gold", str(gold), "--skip-bad", "--outcome", "con"]
    message = stop_message(capsys, regression.main, [*words, "--on", "party"])
    assert "each value needs 5 gold sentences at least, there are" in message
    assert ' of "right": draw' in message


@pytest.mark.parametrize(
    ("tool", "words", "message"),
    [
        (sample, ["--size", "1"], "--size 1 is too small"),
        (sample, ["--size", "5000"], "--size 5000 is more than the 1,200 sentences"),
        (sample, ["--size", "40", "--by", "text"], "too small for 1,200 groups"),
        (sample, ["--for", "training", "--by", "topic"], "leave out --by and --draw"),
        (sample, ["--without", "done.csv"], "--without goes with --for training"),
        (sample, ["--output", "gold.csv"], "its name must end in .xlsx"),
        (sample, ["--by", "author"], 'has no column "author"'),
        (shares, ["--skip-bad"], "go with --gold"),
        (shares, ["--by", "topic", "Topic"], "give different headers"),
        (shares, ["--gold", "nothing.xlsx"], "nothing.xlsx not found"),
        (regression, ["--outcome", "con", "--on", "party"], "give --gold, from python -m tools.sample"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_line(table, capsys, monkeypatch, tool, words, message):
    monkeypatch.chdir(table.parent)
    assert message in stop_message(capsys, tool.main, ["--labelled", str(table), *words])
    assert not table.with_name("labelled.shares.json").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["text"], "different values that are no numbers: join them to 20 at most"),
        (
            ["party", "year", "topic"],
            "are too few for 4 coefficients: give 40 or more, of which 20 are con and 20 are not",
        ),
        (["author"], 'has no column "author"'),
    ],
)
def test_a_regression_that_a_sample_cannot_carry_is_refused(table, truth, capsys, columns, message):
    gold = draw(table, "--size", "36", "--by", "party")
    annotate(gold, truth)
    words = ["--labelled", str(table), "--gold", str(gold), "--outcome", "con", "--on", *columns]
    assert message in stop_message(capsys, regression.main, words)
