"""Prompts as token ids: the chat turns of a base's own template, with users' texts kept plain.

The same ids in training, evaluation and prediction.
"""

import datetime
import functools
import json
import re
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import prompts
from stance.common import errors, formatting, limits
from stance.model import untrusted

if TYPE_CHECKING:
    import transformers

# ---------------------------------------------------------------- settings
# What chat templates ask for beside the messages; Gemma's asks for nothing.
TEMPLATE_OPTIONS = {
    "enable_thinking": False,  # Qwen3: answer at once
    "date_string": "26 Jul 2024",  # Llama 3.2; see TEMPLATE_DATE
}
# Today's date, as Mistral Small 3 has it too, would be another prompt each day.
TEMPLATE_DATE = datetime.date(2024, 7, 26)

# Of a prompt with its template; a sentence beyond that is shortened. Far more than a sentence, and
# a quarter of the base's sliding window; one long row makes its whole batch need memory.
MAX_PROMPT_TOKENS = 1024
MIN_SENTENCE_TOKENS = 128  # that a topic must leave to the sentence
# What rendering a chat template may take; honest ones take milliseconds and some hundred characters
# around the messages.
TEMPLATE_SECONDS = 5
TEMPLATE_BYTES = 1 << 30
TEMPLATE_CHARACTERS = 20_000
# --------------------------------------------------------------------------

MOST_KEPT = 100_000  # characters of a sentence that is kept to know at once how it is shortened
NEXT_WORD = re.compile(r"\s+\S{1,100}(?!\S)")
FIRST_CHARACTERS = MAX_PROMPT_TOKENS  # of a long text, encoded to see whether they fit
# Private-use characters: no chat template contains them.
USER_SLOT = "\ue000"
ANSWER_SLOT = "\ue001"


class ChatFrame(NamedTuple):
    """A rendered chat template in pieces: each is one control token or the text between two."""

    head: tuple[str, ...]  # from the start; its last piece holds the user slot
    tail: tuple[str, ...]  # from there to the answer
    ending: tuple[str, ...]  # after the answer, up to the control token that ends its turn


def encode_example(
    tokenizer: "transformers.PreTrainedTokenizerBase",
    topic: str,
    sentence: str,
    label: str | None = None,
) -> list[int]:
    """Return the token ids of one example; see encode_examples."""
    labels = None if label is None else [label]
    return encode_examples(tokenizer, [(topic, sentence)], labels)[0]


def encode_examples(
    tokenizer: "transformers.PreTrainedTokenizerBase",
    pairs: Iterable[tuple[str, str]],
    labels: Iterable[str] | None = None,
    template: str = prompts.PROMPT_TEMPLATE,
) -> list[list[int]]:
    """Return the token ids of (topic, sentence) pairs as chat turns: always one list for each pair.

    With labels, one for each pair, the answer and the end of its turn are appended: ids with a
    label start with exactly the ids without it.

    The ids equal the tokenizer's own chat template on ordinary text. The text between two control
    tokens of the template is encoded with split_special_tokens=True, so control tokens typed into
    a sentence stay plain text. Sentences that are too long are shortened first; see report_long.
    """
    fitting = [(topic, fit_sentence(tokenizer, topic, text)) for topic, text in pairs]
    encoded = _encode_prompts(tokenizer, fitting, template)
    if labels is None:
        return encoded
    ending = _encode_pieces(tokenizer, chat_frame(tokenizer).ending)
    turns = {}
    for label, ids in zip(prompts.LABELS, encode_labels(tokenizer), strict=True):
        turns[label] = ids + ending
    return [ids + turns[label] for ids, label in zip(encoded, labels, strict=True)]


def report_long(
    tokenizer: "transformers.PreTrainedTokenizerBase", pairs: Iterable[tuple[str, str]]
) -> int:
    """Return how many (topic, sentence) pairs encode_examples shortens; print a note if any."""
    total = 0
    shortened = 0
    for topic, sentence in pairs:
        total += 1
        if fit_sentence(tokenizer, topic, sentence) != sentence:
            shortened += 1
    if shortened:
        print(
            f"note: {shortened} of {total} sentences shortened: a prompt has {MAX_PROMPT_TOKENS} tokens at most"
        )
    return shortened


def fit_sentence(
    tokenizer: "transformers.PreTrainedTokenizerBase", topic: str, sentence: str
) -> str:
    """Return the sentence, without its end if its prompt would exceed MAX_PROMPT_TOKENS.

    Ends the script if the topic leaves no room for a sentence.
    """
    text = (topic + sentence).encode("utf-8", "surrogatepass")
    most = _count_tokens(tokenizer, "", "") + len(text)  # a token has a byte at least
    if most <= MAX_PROMPT_TOKENS:
        return sentence
    # Not kept in memory if it is very long.
    shorten = _shorten if len(sentence) <= MOST_KEPT else _shorten.__wrapped__
    return shorten(tokenizer, topic, sentence, MAX_PROMPT_TOKENS)


@functools.lru_cache(maxsize=4096)  # training encodes a row twice
def _shorten(tokenizer, topic, sentence, limit):
    """Return as many first words of a sentence as fit; of one endless word, as many characters."""

    def fits_topic(length):
        return _count_tokens(tokenizer, topic[:length], "") <= limit - MIN_SENTENCE_TOKENS

    def fits(length):
        return _count_tokens(tokenizer, topic, sentence[:length]) <= limit

    if _find_bounds(fits_topic, len(topic))[0] < len(topic):
        errors.fail(
            f"the topic {formatting.quote(topic)} is too long for a prompt of {limit} tokens: shorten it"
        )
    low, high = _find_bounds(fits, len(sentence))
    if low == len(sentence):
        return sentence
    # Bisection: the first `low` characters fit, the first `high` ones do not.
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    while low and unicodedata.category(sentence[low])[0] == "M":  # an accent stays with its letter
        low -= 1
    text = sentence[:low]
    words = re.match(r".*\S(?=\s)", sentence[: low + 1], re.DOTALL)
    if words and 2 * len(words[0]) > low:  # else as in Chinese, which has no blanks between words
        text = words[0]
        # The end of a text can take a token more than its middle: the next word may fit all the same.
        while (word := NEXT_WORD.match(sentence, len(text))) and fits(word.end()):
            text = sentence[: word.end()]
    while _count_tokens(tokenizer, topic, text) > limit:
        text = text[:-1]
    return text


def _find_bounds(fits, length):
    """Return (characters that fit, characters that do not) of a text; (length, length) if all fit.

    fits: tells whether so many first ones do. They are doubled until they do not, so that a text of
    megabytes is never encoded as a whole. length: of the text.
    """
    low = 0
    high = min(FIRST_CHARACTERS, length)
    while fits(high):
        if high == length:
            return length, length
        low = high
        high = min(2 * high, length)
    return low, high


@functools.lru_cache(maxsize=16)  # of the empty prompt
def _count_tokens(tokenizer, topic, sentence):
    """Return the number of tokens of a prompt, however long."""
    return len(_encode_prompts(tokenizer, [(topic, sentence)])[0])


def _encode_prompts(tokenizer, pairs, template=prompts.PROMPT_TEMPLATE):
    """Return the token ids of the prompts of a list of (topic, sentence) pairs, however long."""
    if not pairs:
        return []
    frame = chat_frame(tokenizer)
    prefix = _encode_pieces(tokenizer, frame.head[:-1])
    suffix = _encode_pieces(tokenizer, frame.tail)
    before, after = frame.head[-1].split(USER_SLOT)
    texts = []
    for topic, sentence in pairs:
        texts.append(before + prompts.build_prompt(topic, sentence, template) + after)
    bodies = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [prefix + body + suffix for body in bodies]


def encode_labels(tokenizer: "transformers.PreTrainedTokenizerBase") -> list[list[int]]:
    """Return the token ids of each label in prompts.LABELS order, as they follow a prompt."""
    _, lead, _ = _render_turns(tokenizer)
    return [_encode_pieces(tokenizer, [lead + label]) for label in prompts.LABELS]


def label_token_ids(tokenizer: "transformers.PreTrainedTokenizerBase") -> list[int]:
    """Return the single token id of each label in prompts.LABELS order.

    ValueError if a label takes several tokens.
    """
    ids = encode_labels(tokenizer)
    if any(len(pieces) != 1 for pieces in ids):
        raise ValueError(
            f"labels {prompts.LABELS} must be one token each for this tokenizer, got {ids}"
        )
    return [pieces[0] for pieces in ids]


def end_of_turn_id(tokenizer: "transformers.PreTrainedTokenizerBase") -> int:
    """Return the id of the control token that ends an answer."""
    return _encode_pieces(tokenizer, chat_frame(tokenizer).ending)[-1]


def fix_template(tokenizer: "transformers.PreTrainedTokenizerBase") -> str:
    """Return the tokenizer's chat template with TEMPLATE_OPTIONS and TEMPLATE_DATE written into it.

    It renders the same prompt without any options, in any program and on any day. ValueError if the
    tokenizer has no template, or if it reads the date in a way that cannot be replaced.
    """
    template = re.sub(
        r"""strftime_now\s*\(\s*(["'])(.*?)\1\s*\)""",
        lambda call: json.dumps(TEMPLATE_DATE.strftime(call[2])),
        tokenizer.get_chat_template(),
    )
    if re.search(r"strftime_now\s*\(", template):
        raise ValueError("its chat template puts today's date into the prompt")
    settings = ""
    for name, value in TEMPLATE_OPTIONS.items():
        if re.search(rf"\b{name}\b", template):
            settings += f"{{% set {name} = {json.dumps(value)} %}}"
    return settings + template


def render_chat(
    tokenizer: "transformers.PreTrainedTokenizerBase",
    messages: list[dict[str, str]],
    add_generation_prompt: bool = False,
) -> str:
    """Return the text of a conversation by the tokenizer's chat template, its options fixed.

    Strangers wrote the template: ValueError if it fails, or takes more than TEMPLATE_SECONDS,
    TEMPLATE_BYTES of memory or TEMPLATE_CHARACTERS beyond the messages.
    """
    template = fix_template(tokenizer)
    bounds = (TEMPLATE_SECONDS, TEMPLATE_BYTES)
    try:
        if not limits.can_limit():  # Windows
            given = [template, messages, add_generation_prompt, tokenizer.special_tokens_map]
            limits.try_out(untrusted.render_template, given, *bounds)
        with limits.limit_work(*bounds):
            text = tokenizer.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
    except Exception as problem:  # a template can raise what Python can
        reason = formatting.quote(str(problem) or type(problem).__name__)
        raise ValueError(f"its chat template fails: {reason}") from None
    given = sum(len(message["content"]) for message in messages)
    if not isinstance(text, str) or len(text) > given + TEMPLATE_CHARACTERS:
        raise ValueError("its chat template makes more than a prompt of the messages")
    return text


def check_chat(tokenizer: "transformers.PreTrainedTokenizerBase") -> None:
    """Raise ValueError unless examples get the ids of the text of the tokenizer's chat template.

    Also if the template fails, or takes more time, memory or text than any honest one.
    """
    for label in prompts.LABELS:
        messages = prompts.build_messages("A topic.", "A sentence, plain.", label)
        text = render_chat(tokenizer, messages)
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = encode_example(tokenizer, "A topic.", "A sentence, plain.", label)
        if expected[: len(ids)] != ids:
            raise ValueError("its tokenizer joins text across the parts of its chat template")


@functools.lru_cache(maxsize=8)
def _render_turns(tokenizer):
    """Return the chat template's text before an answer, the blanks between both, the text after it.

    ValueError if it renders an answered turn differently from a prompt.
    """
    user = {"role": "user", "content": USER_SLOT}
    assistant = {"role": "assistant", "content": ANSWER_SLOT}
    asked = render_chat(tokenizer, [user], add_generation_prompt=True)
    answered = render_chat(tokenizer, [user, assistant])
    lead, slot, rest = answered[len(asked) :].partition(ANSWER_SLOT)
    if not answered.startswith(asked) or not slot or lead.strip():
        raise ValueError(
            "this chat template renders an answered turn differently from a prompt; cannot train on it"
        )
    return asked, lead, rest


@functools.lru_cache(maxsize=8)  # rendering the template costs more than encoding a row
def chat_frame(tokenizer: "transformers.PreTrainedTokenizerBase") -> ChatFrame:
    """Return the rendered chat template, cut into pieces at its control tokens.

    ValueError if it renders an answered turn differently from a prompt.
    """
    asked, _, rest = _render_turns(tokenizer)
    control = control_tokens(tokenizer)
    if not control:
        raise ValueError("its tokenizer has no control tokens")
    longest_first = sorted(control, key=len, reverse=True)
    splitter = re.compile("(" + "|".join(re.escape(token) for token in longest_first) + ")")
    pieces = [piece for piece in splitter.split(asked) if piece]
    if asked.count(USER_SLOT) != 1:
        raise ValueError("its chat template does not say the user's message once")
    slot = next(i for i, piece in enumerate(pieces) if USER_SLOT in piece)
    ending = [piece for piece in splitter.split(rest) if piece]
    stop = next((i for i, piece in enumerate(ending) if piece in control), None)
    if stop is None:
        raise ValueError("its chat template ends an answer with no control token")
    return ChatFrame(
        head=tuple(pieces[: slot + 1]),
        tail=tuple(pieces[slot + 1 :]),
        ending=tuple(ending[: stop + 1]),
    )


def control_tokens(tokenizer: "transformers.PreTrainedTokenizerBase") -> dict[str, int]:
    """Return {text: id} of the tokenizer's control tokens.

    Turn markers are among them, unlike among its all_special_tokens.
    """
    return {str(token): id for id, token in tokenizer.added_tokens_decoder.items() if token.special}


def _encode_pieces(tokenizer, pieces):
    """Encode template pieces: a control token to its id, other text without special tokens."""
    control = control_tokens(tokenizer)
    ids = []
    for piece in pieces:
        if piece in control:
            ids.append(control[piece])
        else:
            encoded = tokenizer(piece, add_special_tokens=False, split_special_tokens=True)
            ids += encoded["input_ids"]
    return ids
