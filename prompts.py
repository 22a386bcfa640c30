"""The stance prompt, its labels, their spellings in annotated files, and how a reply is read.

Every script builds its prompts here, so training and prediction cannot drift apart. The wording of
PROMPT_TEMPLATE is the published one, to the byte. Standard library only.
"""

import functools
import hashlib
import re

# ---------------------------------------------------------------- settings
LABELS = ("pro", "con", "neu")  # the answers, in the order of every table and probability vector

PROMPT_TEMPLATE = """\
The first text is a hypothesis/claim, the second text is a sentence. Determine whether the sentence is a pro argument \
("pro"), a contra argument ("con") or doesnt take position at all/is neutral ("neu") towards the hypothesis.
For your answer, just write exactly one of pro, con or neu, not a full text.

Sentence to predict:
hypothesis: ```{topic}```
sentence: ```{sentence}```
stance:"""

STANCE_SPELLINGS = {  # spellings found in annotated files; compared after strip and casefold
    "pro": (
        *("pro", "for", "favor", "favour", "in favor", "in favour", "in_favor", "in_favour"),
        *("support", "supports", "supportive", "agree", "agrees"),
    ),
    "con": (
        *("con", "contra", "against", "anti", "oppose", "opposes", "opposed", "critical"),
        *("disagree", "disagrees"),
    ),
    "neu": ("neu", "neutral", "none", "neither", "no stance", "no position", "discuss"),
}
# --------------------------------------------------------------------------

FLIPPED_LABELS = {"pro": "con", "con": "pro", "neu": "neu"}  # what is right for a negated topic
# Stored with every adapter.
PROMPT_VERSION = hashlib.sha256(PROMPT_TEMPLATE.encode()).hexdigest()[:12]
LABEL_OF_SPELLING = {
    spelling: label for label, spellings in STANCE_SPELLINGS.items() for spelling in spellings
}
REPLY_WORDS = {"pro": "pro", "con": "con", "contra": "con", "neu": "neu", "neutral": "neu"}


def build_prompt(topic: str, sentence: str, template: str = PROMPT_TEMPLATE) -> str:
    """Return the user turn for one example; the expected reply is one of LABELS.

    template: holds {topic} and {sentence}, once each and in this order. Another one is for
    stance/evaluation/prompt_variants.py alone, which asks how much predictions hang on the wording.
    """
    before, between, after = split_template(template)
    return before + topic + between + sentence + after  # not str.format: texts may hold braces


@functools.cache  # a million rows have one template
def split_template(template: str) -> list[str]:
    """Return what stands before, between and after {topic} and {sentence}."""
    return re.split(r"\{topic\}|\{sentence\}", template)


def build_messages(topic: str, sentence: str, label: str | None = None) -> list[dict[str, str]]:
    """Return chat messages: the user turn, plus the model turn when a label is given."""
    messages = [{"role": "user", "content": build_prompt(topic, sentence)}]
    if label is not None:
        messages.append({"role": "assistant", "content": label})
    return messages


def parse_stance(value: object) -> str | None:
    """Map an annotator's spelling (Pro, Contra, Neutral, against, ...) to a label.

    None if it is unknown. The value is that of a cell: a text, or whatever else Excel holds.
    """
    if value is None:
        return None
    spelling = " ".join(str(value).split()).casefold()
    return LABEL_OF_SPELLING.get(spelling)


def parse_label(reply: str) -> str | None:
    """Map a generated reply to a label.

    None for anything but one label word (quotes and full stops aside).
    """
    word = reply.strip().strip("`'\"*.!:;,()[]").strip().casefold()
    return REPLY_WORDS.get(word)
