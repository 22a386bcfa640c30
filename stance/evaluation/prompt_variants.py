"""Other ways to ask the same question, for the robustness table: other prompts, other spellings.

The prompt that models are trained with, and that predictions come from, is that of prompts.py;
nothing else may use these. No torch.
"""

import random
from typing import NamedTuple

import prompts
from stance.common.types import Example

# ---------------------------------------------------------------- settings
PARAPHRASED_TEMPLATE = """\
You read a claim and a sentence from a discussion. Decide which stance the sentence takes on the claim: "pro" if it \
supports the claim, "con" if it opposes the claim, "neu" if it does neither.
Reply with a single word: pro, con or neu.

Claim: ```{topic}```
Sentence: ```{sentence}```
Stance:"""
NEGATION = "It is wrong to claim: {topic}"  # pro the topic is con this, and the other way round
TYPO_SHARE = 0.15  # of the words with four or more letters; at least one a sentence
TYPO_SEED = 0
# --------------------------------------------------------------------------

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
    pairs: list[tuple[str, str]]
    swaps: bool = False  # whether pro and con should be flipped


def build_variants(rows: list[Example]) -> dict[str, Variant]:
    """Return {name: Variant}: the other ways to ask the rows, each with a pair for every row."""
    usual = prompts.PROMPT_TEMPLATE
    pairs = [(row["topic"], row["text"]) for row in rows]
    lower = [(topic.lower(), text.lower()) for topic, text in pairs]
    typed = [(row["topic"], add_typos(row["text"], f"{TYPO_SEED}:{row['id']}")) for row in rows]
    negated = [(NEGATION.replace("{topic}", topic), text) for topic, text in pairs]
    return {
        "paraphrased prompt": Variant(PARAPHRASED_TEMPLATE, pairs),
        "con before pro": Variant(reorder_labels(usual), pairs),
        "lower case": Variant(usual, lower),
        "typing errors": Variant(usual, typed),
        "negated topic": Variant(usual, negated, swaps=True),
    }


def reorder_labels(template: str) -> str:
    """Return the template with con named before pro; ValueError if its wording has changed."""
    for usual, other in REORDERED:
        if template.count(usual) != 1:
            raise ValueError(
                f"REORDERED does not fit the prompt any more: {usual!r} must be in it once"
            )
        template = template.replace(usual, other)
    return template


def add_typos(text: str, seed: str) -> str:
    """Return a text with two neighbouring inner letters swapped in TYPO_SHARE of its long words.

    The same seed gives the same text. A text without a word of four or more letters stays.
    """
    words = text.split(" ")
    rng = random.Random(seed)
    swaps = []  # (index of a word, position in it of the first of two letters)
    for index, word in enumerate(words):
        position = find_swap(word, rng)
        if position is not None:
            swaps.append((index, position))
    count = max(1, round(TYPO_SHARE * len(swaps)))
    for index, position in rng.sample(swaps, min(len(swaps), count)):
        word = words[index]
        swapped = word[position + 1] + word[position]
        words[index] = word[:position] + swapped + word[position + 2 :]
    return " ".join(words)


def find_swap(word: str, rng: random.Random) -> int | None:
    """Return a position, drawn by rng, where two different inner letters of a word are neighbours.

    None without any: a word of fewer than four characters has no two inner letters.
    """
    inner = range(1, len(word) - 2)
    positions = [j for j in inner if word[j : j + 2].isalpha() and word[j] != word[j + 1]]
    return rng.choice(positions) if positions else None
