"""How answers are shown: a line with a bar, the words that an answer hangs on, a dialogue, a summary by topic."""

import dataclasses
import os
import re
import sys
from collections import Counter

import prompts
from stance.common import formatting
from stance.corpus import cleaning
from stance.model import scoring

# ---------------------------------------------------------------- settings
BAR_WIDTH = 30  # characters
BAR_SIGNS = {
    "pro": "+",
    "con": "-",
    "neu": ".",
}  # which also tell the labels apart where there are no colours
BAR_COLORS = {
    "pro": "34",
    "con": "33",
    "neu": "90",
}  # ANSI: blue, yellow, grey; safe for the colour-blind
FOR_COLOR, AGAINST_COLOR = (
    "1;34",
    "1;33",
)  # ANSI of words: bold blue speaks for the answer, bold yellow against it
# --------------------------------------------------------------------------


def use_colors(stream):
    """Whether to colour what goes to a stream: a terminal, and NO_COLOR (no-color.org) is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text, color, colors):
    """Return text in an ANSI color, or as it is without colors."""
    return f"\033[{color}m{text}\033[0m" if colors and text else text


def format_answer(probabilities):
    """Return the line of an answer: its label and all probabilities."""
    shares = "  ".join(
        f"p_{name} {value:.3f}" for name, value in zip(prompts.LABELS, probabilities, strict=True)
    )
    return f"{scoring.pick_label(probabilities)}  {shares}"


def format_bar(probabilities, colors):
    """Return a bar of BAR_WIDTH signs, divided as the probabilities are."""
    edges = [
        round(BAR_WIDTH * sum(probabilities[:count])) for count in range(len(probabilities) + 1)
    ]
    parts = []
    for name, start, end in zip(prompts.LABELS, edges, edges[1:]):
        parts.append(paint(BAR_SIGNS[name] * (end - start), BAR_COLORS[name], colors))
    return f"[{''.join(parts)}]"


def leave_words_out(text):
    """Return (words, texts): the words of a text as (start, end), and the text without each of them."""
    words = [found.span() for found in re.finditer(r"\S+", text)]
    return words, [
        (text[:start].rstrip() + " " + text[end:].lstrip()).strip() for start, end in words
    ]


def measure_words(probabilities, without):
    """Return how much the probability of the answer falls without each word: above 0, a word speaks for the answer.

    probabilities: of the whole text; without: of the text without each word. Source: https://arxiv.org/abs/1612.08220.
    """
    answer = prompts.LABELS.index(scoring.pick_label(probabilities))
    return [probabilities[answer] - row[answer] for row in without]


def format_words(text, words, weights, count, label, colors):
    """Return the count words of most weight as a table, and above it the sentence, if there are colors to show them."""
    top = sorted(range(len(words)), key=lambda index: -abs(weights[index]))[:count]
    rows = [[text[slice(*words[index])], str(index + 1), f"{weights[index]:+.3f}"] for index in top]
    table = formatting.format_table(["Word", "position", f"weight for {label}"], rows)
    if not colors:
        return table
    parts, done = [], 0
    for index in sorted(top):
        start, end = words[index]
        color = FOR_COLOR if weights[index] > 0 else AGAINST_COLOR
        parts += [text[done:start], paint(text[start:end], color, colors)]
        done = end
    return f"{''.join(parts)}{text[done:]}\n{table}"


def print_answer(score, topic, text, explain, bar):
    """Print the answer for one pair, with bar and words if they are wanted."""
    words, texts = leave_words_out(text) if explain else ([], [])
    probabilities, *without = score(
        [(topic, part) for part in (text, *texts)]
    ).probabilities.tolist()
    colors = use_colors(sys.stdout)
    line = format_answer(probabilities)
    print(f"{line}  {format_bar(probabilities, colors)}" if bar else line)
    if explain:
        weights = measure_words(probabilities, without)
        label = scoring.pick_label(probabilities)
        print(format_words(text, words, weights, explain, label, colors))


def answer_lines(load_scorer, topic, explain):
    """Load a model, ask for a topic, then answer each line until Ctrl-D or Ctrl-C."""
    try:
        score = load_scorer()
        print("one sentence a line; /topic changes the topic, Ctrl-D leaves")
        while True:
            if not topic:
                topic = cleaning.clean_text(input("topic: "))
                continue
            text = cleaning.clean_text(input("sentence: "))
            if text.split(maxsplit=1)[:1] == ["/topic"]:
                topic = text[len("/topic") :].strip()
            elif text:
                print_answer(score, topic, text, explain, bar=True)
    except (EOFError, KeyboardInterrupt):
        print()


@dataclasses.dataclass
class TopicCounts:
    """How many rows of a topic got which label, and how many of them a person should look at."""

    labels: Counter = dataclasses.field(default_factory=Counter)
    review: int = 0

    @property
    def rows(self):
        return self.labels.total()


def shorten_counts(counts, shown):
    """Return counts, {topic: TopicCounts}, those with most rows first; the topics after the first shown are one together."""
    topics = sorted(counts, key=lambda topic: (-counts[topic].rows, topic))
    summary = {topic: counts[topic] for topic in topics[:shown]}
    rest = topics[shown:]
    if rest:
        others = TopicCounts()
        for topic in rest:
            others.labels += counts[topic].labels
            others.review += counts[topic].review
        summary[f"{len(rest)} other topics"] = others
    return summary


def format_topic_counts(summary):
    """Return the table of stances by topic: rows, shares of the labels, and rows to be reviewed."""
    lines = []
    for topic, count in summary.items():
        shares = [f"{count.labels[name] / count.rows:.1%}" for name in prompts.LABELS]
        lines.append([formatting.cut(topic), f"{count.rows:,}", *shares, f"{count.review:,}"])
    return formatting.format_table(["Topic", "rows", *prompts.LABELS, "review"], lines)
