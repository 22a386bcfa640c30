"""stance/labelling/terminal.py: bars, words and summaries are those of the numbers; colours only where they can be shown."""

import io
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from stance.labelling import terminal
from stance.model import scoring

ROOT = Path(__file__).resolve().parents[2]
TOPIC = "Vegans are right."
ANSI = re.compile(r"\033\[[0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def score_words(pairs, **options):
    """Scores of a model that looks for two words: yes is pro, no is con."""
    rows = [
        [0.5 + 0.3 * ("yes" in text.split()) - 0.2 * ("no" in text.split()), 0.2, 0.1]
        for _, text in pairs
    ]
    return scoring.Scores(torch.tensor(rows), None, None, 128)


# ---------------------------------------------------------------- bar


@pytest.mark.parametrize("probabilities, bar", [
    ([1.0, 0.0, 0.0], "+" * 30), ([0.5, 0.3, 0.2], "+" * 15 + "-" * 9 + "." * 6), ([0.0, 0.02, 0.98], "-" + "." * 29),
    ([0.01, 0.01, 0.98], "-" + "." * 29), ([1 / 3] * 3, "+" * 10 + "-" * 10 + "." * 10),
])  # fmt: skip
def test_a_bar_is_divided_as_the_probabilities_are(probabilities, bar):
    assert terminal.format_bar(probabilities, colors=False) == f"[{bar}]"
    painted = terminal.format_bar(probabilities, colors=True)
    assert painted != f"[{bar}]" and ANSI.sub("", painted) == f"[{bar}]"


def test_an_answer_is_one_line():
    assert (
        terminal.format_prediction([0.1, 0.2345, 0.6655])
        == "neu  p_pro 0.100  p_con 0.234  p_neu 0.665"
    )


@pytest.mark.parametrize("stream, settings, colors", [
    (io.StringIO(), {}, False), (Terminal(), {}, True), (Terminal(), {"NO_COLOR": "1"}, False),
    (Terminal(), {"NO_COLOR": ""}, True), (Terminal(), {"TERM": "dumb"}, False),
])  # fmt: skip
def test_colours_are_for_terminals(monkeypatch, stream, settings, colors):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert bool(terminal.use_colors(stream)) is colors


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    "text, words, without",
    [
        ("one two  three", ["one", "two", "three"], ["two  three", "one three", "one two"]),
        ("one", ["one"], [""]),
        ("Don't, don't!", ["Don't,", "don't!"], ["don't!", "Don't,"]),
        ("a\nb", ["a", "b"], ["b", "a"]),
    ],
)
def test_each_word_is_left_out_once(text, words, without):
    spans, texts = terminal.leave_words_out(text)
    assert [text[slice(*span)] for span in spans] == words and texts == without


def test_a_word_weighs_what_the_answer_loses_without_it():
    weights = terminal.measure_words([0.2, 0.7, 0.1], [[0.5, 0.4, 0.1], [0.1, 0.8, 0.1]])
    assert weights == pytest.approx([0.3, -0.1])


def test_the_heaviest_words_are_shown(capsys):
    terminal.print_prediction(score_words, TOPIC, "well no but yes and yes", 2, bar=False)
    assert capsys.readouterr().out.splitlines() == [
        "pro  p_pro 0.600  p_con 0.200  p_neu 0.100",
        "Word  position  weight for pro",
        "------------------------------",
        "no           2          -0.200",
        "well         1          +0.000",  # either yes makes up for the other
    ]


def test_words_are_coloured_in_the_sentence_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    terminal.print_prediction(score_words, TOPIC, "well no, yes  no", 2, bar=True)
    _, sentence, *table = sys.stdout.getvalue().splitlines()
    assert sentence == "well no, \033[1;34myes\033[0m  \033[1;33mno\033[0m"
    assert not any("\033" in line for line in table)


def test_more_words_than_there_are(capsys):
    terminal.print_prediction(score_words, TOPIC, "yes", 10, bar=False)
    assert capsys.readouterr().out.splitlines()[3:] == ["yes          1          +0.300"]


# ---------------------------------------------------------------- summary


def test_topics_with_most_rows_come_first_and_the_rest_is_one():
    counts = {
        "c": terminal.TopicCounts(Counter(pro=1)),
        "a": terminal.TopicCounts(Counter(con=2), review=2),
        "b": terminal.TopicCounts(Counter(neu=1, pro=4), review=1),
        "d": terminal.TopicCounts(Counter(neu=1)),
    }
    assert terminal.shorten_counts(counts, 2) == {
        "b": counts["b"],
        "a": counts["a"],
        "2 other topics": terminal.TopicCounts(Counter(pro=1, neu=1)),
    }
    assert list(terminal.shorten_counts(counts, 4)) == ["b", "a", "c", "d"]
    lines = terminal.format_topic_counts(terminal.shorten_counts(counts, 1)).splitlines()
    assert [line.split()[-5:] for line in lines[2:]] == [
        ["5", "80.0%", "0.0%", "20.0%", "1"], ["4", "25.0%", "50.0%", "25.0%", "2"],
    ]  # fmt: skip


def test_a_long_topic_is_cut_in_the_summary():
    assert (
        terminal.format_topic_counts({"x" * 80: terminal.TopicCounts(Counter(pro=1))})
        .splitlines()[2]
        .startswith("x" * 57 + "...  ")
    )


# ---------------------------------------------------------------- a terminal


@pytest.mark.slow
def test_a_user_at_a_terminal(trained_run):
    """The script itself, on a terminal of its own: asks, answers in colour, and ends with Ctrl-D."""
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "predict.py"), "--adapter", str(trained_run)]
    settings = {**os.environ, "TERM": "xterm", "CUDA_VISIBLE_DEVICES": ""}
    settings.pop("NO_COLOR", None)
    os.write(ours, f"{TOPIC}\nyes good right\n\x04".encode())
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=settings)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # Linux says so when the other side has gone
        pass
    os.close(ours)
    text = shown.decode()
    assert process.wait(60) == 0 and "Traceback" not in text, text
    assert "topic: " in text and "sentence: " in text and "\033[34m+" in text
    assert re.search(r"(pro|con|neu)  p_pro 0\.\d{3}  p_con 0\.\d{3}  p_neu 0\.\d{3}  \[", text)
