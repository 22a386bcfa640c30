"""What the stances of a corpus mean: built-in spellings, and those that --labels names."""

import json
import shlex
from pathlib import Path

import pytest

import prepare_data
from stance.corpus import annotations, corpus_flags, labels

CASES = Path(__file__).parent / "cases"


def fail_line(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        labels.read_stances(words)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "stance, label",
    [
        ("1", "pro"),
        ("1.0", "pro"),
        ("+1", "pro"),
        ("-1", "con"),
        ("0", "neu"),
        ("Support", "pro"),
        ("argument FOR", "pro"),
        ("off  topic", labels.DROP),
        ("against", "con"),  # built in
        ("2", None),
        ("10", None),
        ("1000001", "pro"),  # codes of a questionnaire, which differ in the last digit
        ("1000002", "con"),
        ("1000003", None),
        ("-0.0", "neu"),
    ],
)
def test_stances_are_found_as_they_are_named(stance, label):
    words = [
        "pro=1,support,1000001",
        "con=-1,1000002",
        "neu=0",
        "PRO=Argument for",
        "drop=off topic",
    ]
    assert labels.read_stances(words).find_label(stance) == label


def test_a_named_stance_counts_before_a_built_in_one():
    assert labels.read_stances(["con=for"]).find_label("For") == "con"


def test_the_first_sign_of_equality_separates():
    assert labels.read_stances(["pro=a=b"]).find_label("a=b") == "pro"


@pytest.mark.parametrize(
    "words, expected",
    [
        (["1=pro"], "names no label"),
        (["pro"], "names no label"),
        (["pro="], "an empty stance"),
        (["pro=1,,2"], "an empty stance"),
        (["pro=1", "con=1.0"], "is named for pro and con"),
    ],
)
def test_words_that_say_nothing_or_two_things(capsys, words, expected):
    assert expected in fail_line(capsys, *words)


@pytest.mark.parametrize("name", ["l_agrees.csv", "l_infavor.csv"])
def test_spellings_of_published_corpora_are_built_in(name):
    assert len(annotations.scan_corpus(CASES / name).rows) == 60


@pytest.mark.parametrize(
    "name",
    [
        "l_deny.csv",
        "l_proarg.csv",
        "l_str.csv",
        "l_ukp.csv",
        "l_na.csv",
        "num.csv",
        "num_int.xlsx",
    ],
)
def test_the_words_that_the_message_proposes_are_taken(tmp_path, capsys, name):
    words = ["--corpus", str(CASES / name), "--output-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        prepare_data.main(words)
    assert stopped.value.code == 2 and not list(tmp_path.iterdir())
    proposed = shlex.split(capsys.readouterr().err.partition("or name them: ")[2])
    assert proposed[0] == "--labels"
    prepare_data.main([*words, *proposed])
    report = json.loads((tmp_path / "prepare_data.report.json").read_text())
    dropped = 20 if any(word.startswith("drop=") for word in proposed) else 0
    assert report["corpus"][0]["rows"] == 60 - dropped and report["labels"]
    assert "read as text" not in capsys.readouterr().out


def test_dropped_rows_are_counted(tmp_path, capsys):
    words = ["--corpus", str(CASES / "l_proarg.csv"), "--output-dir", str(tmp_path)]
    prepare_data.main([*words, "--labels", "drop=unrelated"])
    assert 'left out, as --labels drops "unrelated" in 20 rows' in capsys.readouterr().out
    report = json.loads((tmp_path / "prepare_data.report.json").read_text())
    assert report["dropped"] == {"unrelated": 20} and report["labels"] == {"unrelated": "drop"}


def test_a_round_number_is_guessed_too():
    assert labels.propose_words(["100", "-100"]) == "--labels pro=100 con=-100"


def test_what_nobody_can_guess_is_asked():
    text = labels.propose_words(["1", "-1", "perhaps", "perhaps"])
    assert text == '--labels pro=1 con=-1, and what "perhaps" means: pro, con, neu or drop'


def write_stances(path, header, stances):
    lines = [
        f"topic,text,{header}",
        *(f"T.,Sentence {i}.,{stance}" for i, stance in enumerate(stances)),
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_words_of_sentiment_are_read_with_one_note(tmp_path, capsys):
    rows = annotations.read_corpus(CASES / "l_posneg.csv")
    assert len(rows) == 60 and {row["label"] for row in rows} == {"pro", "con", "neu"}
    output = capsys.readouterr().out
    assert (
        output.count("note: ") == 1 and '"positive" is a word of sentiment, read as pro' in output
    )
    path = write_stances(tmp_path / "c.csv", "stance", ["Positive", "negative", "neutral"])
    named = corpus_flags.CorpusOptions(
        stances=labels.read_stances(["con=positive", "pro=negative"])
    )
    assert [row["label"] for row in annotations.read_corpus(path, named)] == ["con", "pro", "neu"]
    assert "sentiment" not in capsys.readouterr().out


@pytest.mark.parametrize("header", ["Sentiment", "overall polarity"])
def test_a_column_of_sentiments_is_no_column_of_stances(tmp_path, capsys, header):
    path = write_stances(tmp_path / "c.csv", header, ["positive", "negative"])
    options = corpus_flags.CorpusOptions(columns=("topic", "text", header))
    findings = annotations.scan_corpus(path, options).findings
    assert len(findings) == 2 and all(finding.serious for finding in findings)
    assert "--labels pro=positive con=negative" in findings[0].hint


def test_a_stance_with_a_comma_is_proposed_so_that_it_is_taken():
    words = shlex.split(labels.propose_words(["For, strongly", "against"]))
    assert words[1:] == ['pro="For, strongly"', "con=against"]
    stances = labels.read_stances(words[1:])
    assert stances.find_label("for, STRONGLY") == "pro" and stances.find_label("against") == "con"


def test_words_that_are_named_already_are_proposed_again():
    known = labels.read_stances(["con=-1"])
    assert labels.propose_words(["1"], known) == "--labels pro=1 con=-1"
