"""Other ways to ask the same question, for the robustness table: other prompts, other spellings of texts. No torch.

The prompt that models are trained with, and that answers come from, is prompts.py's; nothing else may use these.
"""

import random
from typing import NamedTuple

import prompts

# ---------------------------------------------------------------- settings
PARAPHRASED_TEMPLATE = """\
You read a claim and a sentence from a discussion. Decide which stance the sentence takes on the claim: "pro" if it \
supports the claim, "con" if it opposes the claim, "neu" if it does neither.
Reply with a single word: pro, con or neu.

Claim: ```{topic}```
Sentence: ```{sentence}```
Stance:"""
NEGATION = (
    "It is wrong to claim: {topic}"  # whoever is pro the topic is con this, and the other way round
)
TYPO_SHARE = 0.15  # of the words with four or more letters; at least one a sentence
TYPO_SEED = 0
# --------------------------------------------------------------------------

SWAPPED_LABELS = {"pro": "con", "con": "pro", "neu": "neu"}
REORDERED = (  # (wording of PROMPT_TEMPLATE, the same with con before pro)
    (
        'a pro argument ("pro"), a contra argument ("con")',
        'a contra argument ("con"), a pro argument ("pro")',
    ),
    ("exactly one of pro, con or neu", "exactly one of con, pro or neu"),
)


class Variant(NamedTuple):
    """One way to ask: the template, and the pairs (topic, text) that go into it."""

    template: str
    pairs: list
    swaps: bool = False  # whether pro and con should change places


def build_variants(rows):
    """Return {name: Variant} for rows with id, topic and text."""
    pairs = [(row["topic"], row["text"]) for row in rows]
    usual = prompts.PROMPT_TEMPLATE
    typed = [(row["topic"], add_typos(row["text"], f"{TYPO_SEED}:{row['id']}")) for row in rows]
    return {
        "paraphrased prompt": Variant(PARAPHRASED_TEMPLATE, pairs),
        "con before pro": Variant(reorder_labels(usual), pairs),
        "lower case": Variant(usual, [(topic.lower(), text.lower()) for topic, text in pairs]),
        "typing errors": Variant(usual, typed),
        "negated topic": Variant(
            usual, [(NEGATION.replace("{topic}", topic), text) for topic, text in pairs], True
        ),
    }


def reorder_labels(template):
    """Return the template with con named before pro; ValueError if its wording has changed."""
    for usual, other in REORDERED:
        if template.count(usual) != 1:
            raise ValueError(
                f"REORDERED does not fit the prompt any more: {usual!r} must be in it once"
            )
        template = template.replace(usual, other)
    return template


def add_typos(text, seed):
    """Return a text with two neighbouring inner letters swapped in some words, the same for the same seed."""
    words, rng = text.split(" "), random.Random(seed)
    positions = [(i, j) for i, word in enumerate(words) if (j := find_swap(word, rng)) is not None]
    for i, j in rng.sample(
        positions, min(len(positions), max(1, round(TYPO_SHARE * len(positions))))
    ):
        words[i] = words[i][:j] + words[i][j + 1] + words[i][j] + words[i][j + 2 :]
    return " ".join(words)


def find_swap(word, rng):
    """Return an index in a word of four or more characters where two different inner letters are neighbours, or None."""
    inner = range(1, len(word) - 2)
    positions = [j for j in inner if word[j : j + 2].isalpha() and word[j] != word[j + 1]]
    return rng.choice(positions) if positions else None
