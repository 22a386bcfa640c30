"""stance/labelling/table.py: a table keeps the columns it has, and its answers are those of the exact probabilities."""

import csv
import time
from collections import Counter
from pathlib import Path

import matplotlib.image
import openpyxl
import pytest
import torch
from stopping import stop_message

import predict
import prompts
from stance.corpus import tables
from stance.labelling import labeller, table, terminal
from stance.model import scoring

TOPIC = "Vegans are right."
CASES = Path(__file__).resolve().parents[1] / "corpus" / "cases"
ADDED = ["stance", "p_pro", "p_con", "p_neu", "confidence", "review"]
PREDICTED = [f"predicted_{name}" for name in ADDED]


def name_columns(header, read=("topic", "text")):
    """The headers that are added to a table of some headers."""
    columns = {name: header.index(name) for name in read}
    return list(table.name_added(tables.Table("in.csv", header, columns, iter(()))).values())


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "own, added",
    [
        ([], ADDED),
        (["confidence"], [*ADDED[:4], "predicted_confidence", "review"]),
        ([" STANCE ", "P_Con"], ["predicted_stance", "p_pro", "predicted_p_con", *ADDED[3:]]),
        (ADDED, PREDICTED),
        ([*ADDED, *PREDICTED], [f"{name}_2" for name in PREDICTED]),
        # One number for all that are renamed: it is seen which belong together.
        (["stance", "review", "predicted_review"], [
            "predicted_stance_2", "p_pro", "p_con", "p_neu", "confidence", "predicted_review_2",
        ]),
        (["predicted_stance"], ADDED),
        ([*ADDED, *PREDICTED, "predicted_stance_2", "predicted_p_pro_3"], [f"{name}_4" for name in PREDICTED]),
    ],
)  # fmt: skip
def test_an_added_column_takes_a_name_that_is_free(own, added):
    assert name_columns(["topic", "text", *own]) == added


@pytest.mark.parametrize(
    "own, topic",
    [([], "topic"), (["Topic"], "given_topic"), (["topic", "Given_Topic"], "given_topic_2")],
)
def test_a_given_topic_takes_a_name_that_is_free(own, topic):
    assert name_columns(["text", *own], read=("text",)) == [topic, *ADDED]


def test_columns_of_the_table_stay_as_they_are(label_rows, capsys):
    header = ["Stance", "topic", "text", "review"]
    rows = [["con", TOPIC, "pro one", "by Ann"], ["", TOPIC, "neu two", ""]]
    names, labelled = label_rows(header, rows)
    assert names == [*header, "predicted_stance", *ADDED[1:5], "predicted_review"]
    assert [row[:4] for row in labelled] == rows
    assert [row[4:] for row in labelled] == [
        ["pro", "0.7", "0.15", "0.15", "0.7", "no"],
        ["neu", "0.15", "0.15", "0.7", "0.7", "no"],
    ]
    note = "has columns called stance, review, which stay as they are: those of this model are"
    assert f"{note} called predicted_stance, predicted_review" in capsys.readouterr().out


def test_a_labelled_table_is_labelled_again_and_again(label_rows):
    first = label_rows(["topic", "text"], [[TOPIC, "pro one"], [TOPIC, "con two"]])
    second = label_rows(*first)
    third = label_rows(*second)
    header, rows = label_rows(*third)
    twice = [f"{name}_2" for name in PREDICTED]
    thrice = [f"{name}_3" for name in PREDICTED]
    assert header == ["topic", "text", *ADDED, *PREDICTED, *twice, *thrice]
    for row in rows:
        assert row[2:8] == row[8:14] == row[14:20] == row[20:]
    assert [row[2] for row in rows] == ["pro", "con"]


def test_a_table_with_a_column_called_confidence_is_labelled(trained_run, tmp_path, monkeypatch):
    def score(pairs, batch_size=None, bar=None):
        return scoring.Scores(torch.tensor([[0.2, 0.3, 0.5]] * len(pairs)), None, None, 128)

    monkeypatch.setattr(predict, "load_scorer", lambda *words: score)
    flags = ["--input", str(CASES / "conf.csv"), "--output", str(tmp_path / "out.csv")]
    predict.main(["--adapter", str(trained_run), *flags])
    with open(CASES / "conf.csv", encoding="utf-8", newline="") as file:
        given = list(csv.DictReader(file))
    with open(tmp_path / "out.csv", encoding="utf-8-sig", newline="") as file:
        labelled = list(csv.DictReader(file))
    assert len(labelled) == len(given) > 0
    for before, after in zip(given, labelled, strict=True):
        assert before.items() <= after.items()
        assert (after["stance"], after["predicted_confidence"]) == ("neu", "0.5")


def test_colours_are_those_of_the_predicted_stances(trained_run, first_words, tmp_path):
    book = openpyxl.Workbook()
    for row in (["stance", "topic", "text"], ["con", TOPIC, "pro one"]):
        book.active.append(row)
    book.save(tmp_path / "in.xlsx")
    paths = ["--input", str(tmp_path / "in.xlsx"), "--output", str(tmp_path / "out.xlsx")]
    predict.main(["--adapter", str(trained_run), *paths])
    sheet = openpyxl.load_workbook(tmp_path / "out.xlsx").active
    assert [cell.value for cell in sheet[1]][:4] == ["stance", "topic", "text", "predicted_stance"]
    shaded = [str(part.sqref) for part in sheet.conditional_formatting]
    assert shaded == ["D2"]


def test_a_run_goes_on_with_other_names(label_rows, first_words, tmp_path, monkeypatch):
    """What is scored hangs on topics and sentences alone."""
    monkeypatch.setattr(labeller, "BLOCK_SIZE", 2)
    rows = [["con", TOPIC, f"pro {number}"] for number in range(5)]
    expected = label_rows(["stance", "topic", "text"], rows)
    first_words.clear()
    append_line, written = labeller.append_line, []

    def append(file, entry):
        append_line(file, entry)
        written.append(entry)
        if len(written) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(labeller, "append_line", append)
        label_rows(["stance", "topic", "text"], rows)
    assert len(first_words) == 2
    assert label_rows(["stance", "topic", "text"], rows) == expected and len(first_words) == 5


# ---------------------------------------------------------------- answers


# In float32: of each, the third decimal place or the sixth would say otherwise.
CLOSE = [
    ([0.30000001, 0.34999998, 0.35000002], "neu"),
    ([0.34999996, 0.35000004, 0.3], "con"),
    ([0.35, 0.35, 0.3], "pro"),
    ([0.3, 0.35, 0.35], "con"),
    ([0.49995, 0.49996, 0.00009], "con"),
    ([0.33333331, 0.33333334, 0.33333334], "con"),
]


@pytest.mark.parametrize("resumed", [False, True])
def test_the_answer_is_the_largest_of_the_exact_probabilities(
    trained_run, tmp_path, monkeypatch, resumed
):
    """And so no other has a larger one in the table; also where the answers were kept in a part file."""
    exact = {f"sentence {number}": row for number, (row, _) in enumerate(CLOSE)}

    def score(pairs, batch_size=None, bar=None):
        rows = [exact[text] for _, text in pairs]
        return scoring.Scores(torch.tensor(rows), None, None, 128)

    monkeypatch.setattr(predict, "load_scorer", lambda *words: score)
    (tmp_path / "in.csv").write_text("text\n" + "".join(f"{text}\n" for text in exact))
    flags = ["--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv")]
    words = ["--adapter", str(trained_run), "--topic", TOPIC, *flags]
    if resumed:
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(table, "write_labelled", lambda *words: 1 / 0)
            predict.main(words)
        monkeypatch.setattr(predict, "load_scorer", None)  # all is in the part file
    predict.main(words)
    with open(tmp_path / "out.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["stance"] for row in rows] == [label for _, label in CLOSE]
    for row in rows:
        written = {label: float(row[f"p_{label}"]) for label in prompts.LABELS}
        assert written[row["stance"]] == max(written.values()) == float(row["confidence"])


def test_rounded_probabilities_of_before_are_not_mixed_in(label_rows, tmp_path, capsys):
    rows = [[TOPIC, "pro one"]]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(table, "write_labelled", lambda *words: 1 / 0)
        label_rows(["topic", "text"], rows)
    part = tmp_path / "out.csv.part-0.jsonl"
    part.write_text(part.read_text().replace(', "digits of probabilities": "all"', ""))
    message = stop_message(capsys, label_rows, ["topic", "text"], rows)
    assert f"{part} is of a run that differs in digits of probabilities" in message


def test_repeated_rows_are_counted_plainly(label_rows, capsys):
    label_rows(["topic", "text"], [[TOPIC, "pro one"], [TOPIC, "con two"]])
    assert "\nlabelled 2 rows: wrote " in capsys.readouterr().out
    label_rows(["topic", "text"], [[TOPIC, "pro one"], [TOPIC, "con two"], [TOPIC, "pro one"]])
    line = "\nlabelled 3 rows (1 with the topic and sentence of an earlier row): wrote "
    assert line in capsys.readouterr().out


def test_the_summary_says_that_its_shares_are_uncorrected(label_rows, capsys):
    label_rows(["topic", "text"], [[TOPIC, "pro one"], [TOPIC, "con two"]])
    [line] = [line for line in capsys.readouterr().out.splitlines() if "tools.shares" in line]
    assert line.startswith(
        "shares are not corrected for the model's errors: python -m tools.shares "
    )
    assert "--labelled" in line and "out.csv" in line


# ---------------------------------------------------------------- many topics


def test_of_many_topics_the_largest_are_shown(label_rows, tmp_path, capsys):
    rows = [[f"topic {number}", f"pro {number}"] for number in range(30)]
    rows += [["topic 29", "con again"], ["topic 7", "neu again"]]
    label_rows(["topic", "text"], rows)
    lines = capsys.readouterr().out.split("-\n")[1].splitlines()
    shown = lines[: lines.index("")]
    assert len(shown) == 21
    assert shown[0].startswith("topic 29") and shown[1].startswith("topic 7 ")
    assert shown[-1].split() == ["10", "other", "topics", "10", "100.0%", "0.0%", "0.0%", "0"]


def test_one_topic_more_than_is_shown():
    counts = {name: terminal.TopicCounts(Counter(pro=1)) for name in "abc"}
    assert list(terminal.shorten_counts(counts, 2)) == ["a", "b", "1 other topic"]


@pytest.mark.slow
def test_fifty_thousand_topics_are_summed_up_in_seconds(label_rows, tmp_path, capsys):
    """Without its summary, a table of one topic takes as long."""
    seconds = {}
    for topics in (1, 50_000):
        rows = [
            [f"topic {number % topics}", f"pro {number}", prompts.LABELS[number % 3]]
            for number in range(50_000)
        ]
        started = time.monotonic()
        label_rows(["topic", "text", "gold"], rows, "--gold-column", "gold")
        seconds[topics] = time.monotonic() - started
    printed = capsys.readouterr().out
    assert printed.count("49,980 other topics") == 2  # in the summary, and in that of the scores
    assert len(printed.splitlines()) < 120
    height, width, _ = matplotlib.image.imread(tmp_path / "out.stances.png").shape
    assert height < 2 * width
    assert seconds[50_000] < 3 * seconds[1] + 5
