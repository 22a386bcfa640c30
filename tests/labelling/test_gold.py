"""stance/labelling/gold.py: predictions are compared with the right gold stances, and no leak looks like a test."""

import re

import pytest
from sklearn import metrics
from stopping import stop_message

import predict
from stance.common import files
from stance.corpus import labels
from stance.labelling import gold
from stance.model import fingerprints, loading

TOPIC = "Vegans are right."
GOLD = ("--gold-column", "gold")
PREDICTED = ("pro", "pro", "con", "con", "neu", "neu", "neu", "pro")
TRUTHS = ("pro", "con", "con", "con", "neu", "pro", "neu", "neu")


def make_rows(truths=TRUTHS, topics=(TOPIC,)):
    """Rows of topic, text and gold stance; the model answers PREDICTED."""
    return [
        [topics[number % len(topics)], f"{PREDICTED[number]} {number}", truth]
        for number, truth in enumerate(truths)
    ]


def read_lines(printed):
    """What is printed below the line that names the column of gold stances."""
    return printed[printed.index("compared with the gold stances") :].splitlines()


def test_the_scores_are_those_of_scikit_learn(label_rows, capsys):
    label_rows(["topic", "text", "gold"], make_rows(), *GOLD)
    lines = read_lines(capsys.readouterr().out)
    assert lines[0] == 'compared with the gold stances in the column "gold"'
    assert lines[1].split() == ["Model", "Accuracy", "Micro-F1", "Macro-F1", "n", "invalid"]
    truths, predicted = TRUTHS, PREDICTED
    accuracy = f"{metrics.accuracy_score(truths, predicted):.3f}"
    micro = f"{metrics.f1_score(truths, predicted, average='micro'):.3f}"
    macro = f"{metrics.f1_score(truths, predicted, average='macro'):.3f}"
    assert lines[3].split() == ["fine-tuned", accuracy, micro, macro, "8", "0"]
    both = metrics.f1_score(truths, predicted, labels=["pro", "con"], average="macro")
    weighted = metrics.f1_score(truths, predicted, average="weighted")
    others = [both, weighted, metrics.matthews_corrcoef(truths, predicted)]
    place = next(number for number, line in enumerate(lines) if "SemEval" in line)
    assert lines[place + 2].split()[1:] == [f"{value:.3f}" for value in others]
    place = lines.index("fine-tuned, by label")
    table = metrics.classification_report(truths, predicted, output_dict=True)
    for line, label in zip(lines[place + 3 : place + 6], ("pro", "con", "neu"), strict=True):
        values = [f"{table[label][key]:.3f}" for key in ("precision", "recall", "f1-score")]
        assert line.split() == [label, *values, f"{table[label]['support']:.0f}"]
    assert "fine-tuned, by topic" not in lines  # there is one


def test_scores_by_topic(label_rows, capsys):
    label_rows(["topic", "text", "gold"], make_rows(topics=("a", "b")), *GOLD)
    lines = read_lines(capsys.readouterr().out)
    place = lines.index("fine-tuned, by topic")
    for line, first in zip(lines[place + 3 : place + 5], (0, 1), strict=True):
        truths, predicted = TRUTHS[first::2], PREDICTED[first::2]
        accuracy = f"{metrics.accuracy_score(truths, predicted):.3f}"
        present = sorted(set(truths))
        macro = metrics.f1_score(
            truths, predicted, labels=present, average="macro", zero_division=0
        )
        assert line.split()[:4] == ["ab"[first], accuracy, f"{macro:.3f}", "4"]


def test_a_gold_column_called_stance_stays(label_rows, capsys):
    rows = make_rows(("For", "anti", "CONTRA", "con", "neutral", "pro", "none", " neu"))
    header, labelled = label_rows(["topic", "text", "stance"], rows, "--gold-column", " Stance")
    assert header[:4] == ["topic", "text", "stance", "predicted_stance"]
    assert [row[2] for row in labelled] == [row[2] for row in rows]
    assert [row[3] for row in labelled] == list(PREDICTED)
    assert read_lines(capsys.readouterr().out)[3].split()[1] == "0.625"


def test_stances_by_the_words_of_labels(label_rows, capsys):
    """Empty and dropped rows are labelled, but not scored."""
    truths = ("1", "-1", "-1.0", "-1", "0", "", "NA", " ")
    words = ("--labels", "pro=1", "con=-1", "neu=0", "drop=na")
    _, labelled = label_rows(["topic", "text", "gold"], make_rows(truths), *GOLD, *words)
    assert len(labelled) == 8
    printed = capsys.readouterr().out
    note = (
        "rows that are labelled, but not scored: 2 without a gold stance, 1 that --labels drops\n"
    )
    assert printed.count(note) == 1
    assert read_lines(printed)[3].split()[1:] == ["0.800", "0.800", "0.822", "5", "0"]


def test_one_topic_for_all_rows(label_rows, capsys):
    rows = [row[1:] for row in make_rows()]
    label_rows(["text", "gold"], rows, *GOLD, "--topic", TOPIC)
    assert read_lines(capsys.readouterr().out)[3].split()[1] == "0.625"


def test_words_of_sentiment_are_stances_with_a_note(label_rows, capsys):
    rows = make_rows(("positive", "positive", "Negative", "neu"))
    label_rows(["topic", "text", "gold"], rows, *GOLD)
    printed = capsys.readouterr().out
    assert 'words of sentiment are read, "positive" as pro, "Negative" as con: a sent' in printed
    assert read_lines(printed)[3].split()[1] == "0.750"
    words = ("--labels", "pro=positive", "con=negative")
    label_rows(["topic", "text", "gold"], rows, *GOLD, *words)
    assert "words of sentiment" not in capsys.readouterr().out
    header = ["topic", "text", "Sentiment"]
    message = stop_message(capsys, label_rows, header, rows, "--gold-column", "sentiment")
    assert "--labels pro=positive con=Negative" in message


def test_labels_that_are_gold_nowhere_are_said(label_rows, capsys):
    label_rows(["topic", "text", "gold"], make_rows(("pro", "pro", "con", "con", "con")), *GOLD)
    printed = capsys.readouterr().out
    note = "note: Macro-F1 is the mean over pro and con: no row has the gold label neu. "
    assert f"{note}Answers outside of these count as wrong: 1 of fine-tuned." in printed
    assert read_lines(printed)[3].split()[3] == "0.900"  # pro 1, con 4/5


# ---------------------------------------------------------------- leaks


@pytest.fixture
def learnt(monkeypatch):
    """A function that makes the adapter one that was trained on some sentences; None: not known which."""

    def learn(texts):
        hashes = None if texts is None else {fingerprints.hash_text(text) for text in texts}
        monkeypatch.setattr(fingerprints, "read_hashes", lambda folder: hashes)

    return learn


def test_what_the_adapter_was_trained_on_is_counted(label_rows, learnt, capsys):
    """Three of eight, one of them in another spelling; all right: without them, the score is lower."""
    learnt(["pro 0", "Con 2!", "con 3", "neu 99"])
    label_rows(["topic", "text", "gold"], make_rows(), *GOLD)
    lines = read_lines(capsys.readouterr().out)
    assert re.split(r"\s{2,}", lines[3])[:2] == ["fine-tuned", "0.625"]
    name, *values = re.split(r"\s{2,}", lines[4])
    assert name == "fine-tuned, without the rows trained on"
    truths = [truth for number, truth in enumerate(TRUTHS) if number not in (0, 2, 3)]
    predicted = [label for number, label in enumerate(PREDICTED) if number not in (0, 2, 3)]
    micro = f"{metrics.f1_score(truths, predicted, average='micro'):.3f}"
    macro = f"{metrics.f1_score(truths, predicted, average='macro'):.3f}"
    assert values == [f"{2 / 5:.3f}", micro, macro, "5", "0"]
    assert lines[5] == (
        "note: the adapter was trained on the sentences of 3 of the 8 scored rows: their scores are no test"
    )


def test_sentences_that_are_all_trained_on(label_rows, learnt, capsys):
    learnt([row[1] for row in make_rows()])
    label_rows(["topic", "text", "gold"], make_rows(), *GOLD)
    lines = read_lines(capsys.readouterr().out)
    assert "8 of the 8 scored rows" in lines[4]


@pytest.mark.parametrize("texts, expected", [
    (None, "it cannot be told whether the adapter was trained on some"),
    (["something else"], "the adapter was trained on none of the scored sentences"),
])  # fmt: skip
def test_what_is_known_of_the_training(label_rows, learnt, capsys, texts, expected):
    learnt(texts)
    label_rows(["topic", "text", "gold"], make_rows(), *GOLD)
    assert read_lines(capsys.readouterr().out)[4].startswith(f"note: {expected}")


def test_hashes_of_texts_that_were_cleaned_otherwise_prove_nothing(
    label_rows, learnt, capsys, monkeypatch
):
    monkeypatch.setattr(predict, "CLEAN_C1", False)
    learnt(["something else"])
    label_rows(["topic", "text", "gold"], make_rows(), *GOLD)
    assert read_lines(capsys.readouterr().out)[4].startswith("note: it cannot be told")
    learnt(["pro 0"])
    label_rows(["topic", "text", "gold"], make_rows(), *GOLD)
    assert "the sentences of at least 1 of the 8" in read_lines(capsys.readouterr().out)[5]


def test_the_hashes_are_those_of_the_training(trained_run, data_dir):
    """Of the splits of a real run: all of train, none of test."""
    column = gold.GoldColumn("gold", labels.BUILT_IN, fingerprints.read_hashes(trained_run), True)
    for name, expected in (("train", True), ("test", False)):
        rows = files.read_jsonl(f"{data_dir}/{name}.jsonl", ("text",), "fix the test")
        assert rows and {column.has_seen(row["text"]) for row in rows} == {expected}


# ---------------------------------------------------------------- mistakes


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model would fail: mistakes must be found before."""
    monkeypatch.setattr(loading, "load_base", None)


@pytest.mark.parametrize(
    "truths, flags, expected",
    [
        (["pro", "1", "-1", "1"], [], ['unknown stances "1" in 2 rows (3, 5), "-1" in row 4', "--labels pro=1 con=-1"]),
        (["pro", "2", "-1"], ["--labels", "con=-1"], ['unknown stances "2" in row 3: name their labels: --labels pro=2']),
        (["pro", "#N/A"], [], ["an error or a formula without a value in row 3"]),
        (["", " "], [], ["no row has a stance to compare with"]),
        (["x", "x"], ["--labels", "drop=x"], ["no row has a stance to compare with"]),
        (["pro"], ["--labels", "positive=1"], ["names no label"]),
    ],
)  # fmt: skip
def test_gold_stances_that_cannot_be_compared(
    label_rows, no_model, first_words, tmp_path, capsys, truths, flags, expected
):
    rows = make_rows(truths)
    message = stop_message(capsys, label_rows, ["topic", "text", "gold"], rows, *GOLD, *flags)
    assert all(part in message for part in expected), message
    assert first_words == [] and [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_the_proposed_words_are_accepted(label_rows, capsys):
    rows = make_rows(("1", "-1", "0", "1"))
    message = stop_message(capsys, label_rows, ["topic", "text", "gold"], rows, *GOLD)
    words = message.partition("--labels ")[2].split()
    label_rows(["topic", "text", "gold"], rows, *GOLD, "--labels", *words)
    assert read_lines(capsys.readouterr().out)[3].split()[4] == "4"


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--gold-column", "verdict"], ["gold (verdict)", "--gold-column"]),
        (["--gold-column", "TEXT"], ['"text" is the column text: name another as gold']),
        (["--gold-column", " "], ["--gold-column must not be empty"]),
        (["--labels", "pro=1"], ["--labels goes with --gold-column"]),
        ([*GOLD, "--topics-file", "topics.txt"], ["--gold-column goes without --topics-file"]),
    ],
)
def test_flags_of_gold_stances_that_do_not_fit(label_rows, first_words, capsys, flags, expected):
    message = stop_message(capsys, label_rows, ["topic", "text", "gold"], make_rows(), *flags)
    assert all(part in message for part in expected), message
    assert first_words == []


@pytest.mark.parametrize("table_flags", [[], ["--input", "-", "--output", "out.csv"]])
def test_gold_stances_need_a_table(trained_run, capsys, table_flags):
    words = ["--adapter", str(trained_run), "--topic", TOPIC, *GOLD, *table_flags]
    message = stop_message(capsys, predict.main, words)
    assert "--gold-column goes with --input" in message
