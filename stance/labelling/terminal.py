"""What the terminal shows: a prediction with bar and words, a dialogue, a summary by topic."""

import dataclasses
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TextIO

import prompts
from stance.common import errors, formatting, streams
from stance.corpus import cleaning
from stance.labelling import labeller
from stance.model import scoring

# ---------------------------------------------------------------- settings
BAR_WIDTH = 30  # characters
BAR_SIGNS = {"pro": "+", "con": "-", "neu": "."}  # tell the labels apart without colours too
BAR_COLORS = {"pro": "34", "con": "33", "neu": "90"}  # ANSI: blue, yellow, grey; colour-blind safe
FOR_COLOR = "1;34"  # ANSI of words that speak for the prediction: bold blue
AGAINST_COLOR = "1;33"  # ANSI of words that speak against it: bold yellow
# --------------------------------------------------------------------------


def use_colors(stream: TextIO) -> bool:
    """Return whether to colour what goes to a stream: to a terminal that NO_COLOR does not forbid.

    Source: https://no-color.org.
    """
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, color: str, colors: bool) -> str:
    """Return text in an ANSI color, or as it is without colors."""
    return f"\033[{color}m{text}\033[0m" if colors and text else text


def format_prediction(probabilities: Sequence[float]) -> str:
    """Return the line of a prediction: its label, and the probabilities in prompts.LABELS order."""
    parts = [scoring.pick_label(probabilities)]
    for label, value in zip(prompts.LABELS, probabilities, strict=True):
        parts.append(f"p_{label} {value:.3f}")
    return "  ".join(parts)


def format_bar(probabilities: Sequence[float], colors: bool) -> str:
    """Return a bar of BAR_WIDTH signs, divided as the probabilities in prompts.LABELS order are."""
    parts = []
    start = 0
    for position, label in enumerate(prompts.LABELS):
        end = round(BAR_WIDTH * sum(probabilities[: position + 1]))
        parts.append(paint(BAR_SIGNS[label] * (end - start), BAR_COLORS[label], colors))
        start = end
    return f"[{''.join(parts)}]"


def leave_words_out(text: str) -> tuple[list[tuple[int, int]], list[str]]:
    """Return (words, texts): each word as its (start, end) in the text, and the text without it."""
    words = []
    texts = []
    for found in re.finditer(r"\S+", text):
        start, end = found.span()
        words.append((start, end))
        texts.append((text[:start].rstrip() + " " + text[end:].lstrip()).strip())
    return words, texts


def measure_words(
    probabilities: Sequence[float], without: Sequence[Sequence[float]]
) -> list[float]:
    """Return how much the probability of the predicted label falls without each word.

    Above 0, a word speaks for the prediction. probabilities: of the whole text, in prompts.LABELS
    order; without: those of the text without each word. Source: https://arxiv.org/abs/1612.08220.
    """
    predicted = prompts.LABELS.index(scoring.pick_label(probabilities))
    return [probabilities[predicted] - row[predicted] for row in without]


def format_words(
    text: str,
    words: list[tuple[int, int]],
    weights: list[float],
    count: int,
    label: str,
    colors: bool,
) -> str:
    """Return the words of most weight as a table, and above it, with colors, the painted sentence.

    words: (start, end) of each in the text; weights: measure_words'; count: how many are shown;
    label: the predicted one.
    """
    top = sorted(range(len(words)), key=lambda index: -abs(weights[index]))[:count]
    rows = []
    for index in top:
        start, end = words[index]
        rows.append([text[start:end], str(index + 1), f"{weights[index]:+.3f}"])
    table = formatting.format_table(["Word", "position", f"weight for {label}"], rows)
    if not colors:
        return table
    parts = []
    done = 0  # characters of the text that are in parts
    for index in sorted(top):
        start, end = words[index]
        color = FOR_COLOR if weights[index] > 0 else AGAINST_COLOR
        parts.append(formatting.escape_controls(text[done:start]))
        parts.append(paint(formatting.escape_controls(text[start:end]), color, colors))
        done = end
    parts.append(formatting.escape_controls(text[done:]))
    return f"{''.join(parts)}\n{formatting.escape_controls(table)}"


def print_prediction(
    score: labeller.Scorer, topic: str, text: str, explain: int, bar: bool
) -> None:
    """Print the prediction for one pair of cleaned texts, with a bar if it is wanted.

    explain: how many of the words that the prediction hangs on most are shown; 0: none.
    """
    words = []
    texts_without = []
    if explain:
        words, texts_without = leave_words_out(text)
    scores = score([(topic, part) for part in (text, *texts_without)])
    probabilities, *without = scores.probabilities.tolist()
    colors = use_colors(sys.stdout)
    line = format_prediction(probabilities)
    if bar:
        line = f"{line}  {format_bar(probabilities, colors)}"
    streams.print_painted(line)
    if explain:
        weights = measure_words(probabilities, without)
        label = scoring.pick_label(probabilities)
        shown = format_words(text, words, weights, explain, label, colors)
        if colors:
            streams.print_painted(shown)
        else:
            print(shown)


def predict_lines(load_scorer: Callable[[], labeller.Scorer], topic: str, explain: int) -> None:
    """Load a model, ask for a topic if it is empty, then answer each line until Ctrl-D or Ctrl-C.

    explain: see print_prediction.
    """
    try:
        score = load_scorer()
        print("one sentence a line; /topic changes the topic, Ctrl-D leaves")
        while True:
            if not topic:
                topic = cleaning.clean_text(input("topic: "))
                continue
            text = cleaning.clean_text(input("sentence: "))
            if not text:
                continue
            first_word = text.split(maxsplit=1)[0]
            if first_word == "/topic":
                topic = text.removeprefix("/topic").strip()
            else:
                print_prediction(score, topic, text, explain, bar=True)
    except UnicodeDecodeError as problem:
        print()
        what = f"what was typed is no text in {problem.encoding}"
        errors.fail(f"{what}: set PYTHONIOENCODING=utf-8, or what your terminal sends")
    except (EOFError, KeyboardInterrupt):
        print()


@dataclasses.dataclass
class TopicCounts:
    """How many rows of topics got which label, and how many of them a person should look at."""

    labels: Counter[str] = dataclasses.field(default_factory=Counter)
    review: int = 0
    # Of the rows with a gold label: (gold, predicted, whether the adapter was trained on it).
    scored: Counter[tuple[str, str, bool]] = dataclasses.field(default_factory=Counter)

    @property
    def rows(self) -> int:
        return self.labels.total()

    def add(self, other: "TopicCounts") -> None:
        """Add the rows of other topics."""
        # Not +=, which looks at all that is there each time.
        self.labels.update(other.labels)
        self.review += other.review
        self.scored.update(other.scored)


def shorten_counts(counts: dict[str, TopicCounts], shown: int) -> dict[str, TopicCounts]:
    """Return counts with the topics of most rows first, and those after the first shown as one."""
    topics = sorted(counts, key=lambda topic: (-counts[topic].rows, topic))
    summary = {topic: counts[topic] for topic in topics[:shown]}
    rest = topics[shown:]
    if rest:
        others = TopicCounts()
        for topic in rest:
            others.add(counts[topic])
        summary[formatting.name_others(len(rest))] = others
    return summary


def format_topic_counts(summary: dict[str, TopicCounts]) -> str:
    """Return the table of stances by topic: rows, shares of the labels, and rows to be reviewed."""
    lines = []
    for topic, count in summary.items():
        shares = [f"{count.labels[label] / count.rows:.1%}" for label in prompts.LABELS]
        lines.append([formatting.cut(topic), f"{count.rows:,}", *shares, f"{count.review:,}"])
    return formatting.format_table(["Topic", "rows", *prompts.LABELS, "review"], lines)
