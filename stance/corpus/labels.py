"""Which stance of a corpus means which label: built-in spellings, and those that a user names.

No torch.
"""

import csv
import decimal
import io
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import prompts
from stance.common import errors, formatting
from stance.corpus import cleaning

# ---------------------------------------------------------------- settings
# Words of sentiment, which some corpora of stances use: read with a note.
SENTIMENT_SPELLINGS = {"positive": "pro", "negative": "con"}
SENTIMENT_HEADERS = ("sentiment", "polarity")  # columns whose header holds one are no stances
# --------------------------------------------------------------------------

DROP = "drop"  # rows of a stance that is named so are left out
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
GAPS = {"n/a", "na", "nan", "null", "-", "?"}  # what stands for a gap in a column of stances
# Words in a stance from which its label is guessed, in this order: "no argument" before "argument".
GUESSES = (
    (DROP, {"unrelated", "na", "irrelevant", "skip", "offtopic"}),
    (
        "neu",
        {"no", "noargument", "none", "neutral", "neither", "other", "comment", "query", "unsure"},
    ),
    (
        "con",
        {"against", "con", "contra", "anti", "oppose", "disagree", "deny", "denies", "negative"},
    ),
    ("pro", {"for", "pro", "favor", "favour", "support", "agree", "positive", "endorse"}),
)


class Stances(NamedTuple):
    """What the stances of a corpus mean."""

    named: dict[str, str] = {}  # label or DROP by the stance as stances are compared
    takes_sentiment: bool = True  # whether SENTIMENT_SPELLINGS count as stances

    def find_label(self, stance: str) -> str | None:
        """Return the label of a cleaned cell, or DROP; None if the stance is unknown."""
        label = self.named.get(fold_stance(stance)) or prompts.parse_stance(stance)
        return label or self.find_sentiment(stance)

    def find_sentiment(self, stance: str) -> str | None:
        """Return the label of a cleaned cell that holds a word of sentiment; None if it does not.

        A word that is named is none.
        """
        folded = fold_stance(stance)
        if not self.takes_sentiment or folded in self.named:
            return None
        return SENTIMENT_SPELLINGS.get(folded)


def is_sentiment_header(header: str) -> bool:
    """Return whether a column's header says that it holds sentiments and not stances."""
    return any(word in header.casefold() for word in SENTIMENT_HEADERS)


BUILT_IN = Stances()


def fold_stance(stance: str) -> str:
    """Return a stance as stances are compared: case and spacing aside; numbers as numbers."""
    folded = " ".join(stance.split()).casefold()
    if NUMBER.fullmatch(folded):
        return f"{decimal.Decimal(folded).normalize() + 0:f}"  # exact, and -0 is 0
    return folded


def read_stances(words: Sequence[str]) -> Stances:
    """Return what words like pro=1 con=-1 neu=0,3 drop=unrelated say; fail if they say nothing.

    A stance with a comma stands in quotation marks, as in a .csv file: pro='"yes, really",for'.

    A label may be named several times; a stance that is named for two labels is refused.
    """
    named = {}
    for word in words:
        label, sign, values = word.partition("=")
        label = label.strip().casefold()
        choices = (*prompts.LABELS, DROP)
        if not sign or label not in choices:
            hint = f"write {', '.join(f'{choice}=...' for choice in choices)}"
            errors.fail(f"--labels {formatting.quote(word)} names no label: {hint}")
        for value in next(csv.reader([values], skipinitialspace=True)) or [""]:
            stance = fold_stance(cleaning.clean_text(value))
            if not stance:
                errors.fail(
                    f"--labels {formatting.quote(word)} names an empty stance: leave it out"
                )
            if named.setdefault(stance, label) != label:
                both = f"{named[stance]} and {label}"
                errors.fail(f"--labels: {formatting.quote(stance)} is named for {both}: choose one")
    return Stances(named)


def guess_label(stance: str) -> str | None:
    """Return what an unknown stance probably means, for a proposal alone; None: no idea."""
    folded = fold_stance(stance)
    if NUMBER.fullmatch(folded):
        number = float(folded)
        return "neu" if number == 0 else "pro" if number > 0 else "con"
    if folded in GAPS:
        return DROP
    words = set(re.findall(r"[a-z]+", folded.replace("_", " ")))
    for label, hints in GUESSES:
        if words & hints:
            return label
    return None


def join_values(stances: Iterable[str]) -> str:
    """Return stances as read_stances splits them: those with commas in quotation marks."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(stances)
    return line.getvalue()


def propose_words(stances: Iterable[str], known: Stances = BUILT_IN) -> str:
    """Return the --labels words for unknown stances, with what each probably means, and for those
    that are named already."""
    guesses = {}
    for stance, label in known.named.items():
        guesses.setdefault(label, []).append(stance)
    for stance in dict.fromkeys(stances):
        guesses.setdefault(guess_label(stance) or "?", []).append(stance)
    words = [
        shlex.quote(f"{label}={join_values(guesses[label])}")
        for label in (*prompts.LABELS, DROP)
        if label in guesses
    ]
    text = f"--labels {' '.join(words)}" if words else "--labels pro=... con=... neu=..."
    if "?" in guesses:
        unknown = formatting.list_first([formatting.quote(stance) for stance in guesses["?"]])
        text += f", and what {unknown} means: pro, con, neu or {DROP}"
    return text
