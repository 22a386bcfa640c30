"""Prompts as token ids: the chat turns of a base's own template, with the texts of users kept plain.

The same ids in training, evaluation and prediction.
"""

import functools
import re
import unicodedata

import prompts
from stance.common import errors, formatting

# ---------------------------------------------------------------- settings
# What chat templates ask for beside the messages; Gemma's asks for nothing.
TEMPLATE_OPTIONS = {
    "enable_thinking": False,  # Qwen3: answer at once
    "date_string": "26 Jul 2024",  # Llama 3.2 would put today's date into the prompt: another prompt each day
}

# Far more than a sentence, and a quarter of the base's sliding window; one long row makes its whole batch need memory.
MAX_PROMPT_TOKENS = 1024  # of a prompt with its template; a sentence beyond that is shortened
MIN_SENTENCE_TOKENS = 128  # that a topic must leave to the sentence
# --------------------------------------------------------------------------

USER_SLOT, ANSWER_SLOT = (
    "\ue000",
    "\ue001",
)  # private-use characters: no chat template contains them


def encode_example(tokenizer, topic, sentence, label=None):
    """Return the token ids (list of int) of one example; see encode_examples."""
    return encode_examples(tokenizer, [(topic, sentence)], None if label is None else [label])[0]


def encode_examples(tokenizer, pairs, labels=None, template=prompts.PROMPT_TEMPLATE):
    """Encode (topic, sentence) pairs as chat turns; with labels, append the answer and the end of its turn.

    The ids equal the tokenizer's own chat template on ordinary text. The text between two control tokens of the
    template is encoded with split_special_tokens=True, so control tokens typed into a sentence stay plain text.
    Ids with a label start with exactly the ids without it. Sentences that are too long are shortened first; see
    report_long. One list of ids for each pair, always.
    """
    fitting = [(topic, fit_sentence(tokenizer, topic, text)) for topic, text in pairs]
    encoded = _encode_prompts(tokenizer, fitting, template)
    if labels is None:
        return encoded
    ending = _encode_pieces(tokenizer, chat_frame(tokenizer)[2])
    answers = {
        label: ids + ending
        for label, ids in zip(prompts.LABELS, encode_labels(tokenizer), strict=True)
    }
    return [ids + answers[label] for ids, label in zip(encoded, labels, strict=True)]


def report_long(tokenizer, pairs):
    """Return how many of the (topic, sentence) pairs encode_examples shortens; print a note if there are any."""
    total = count = 0
    for topic, sentence in pairs:
        total += 1
        count += fit_sentence(tokenizer, topic, sentence) != sentence
    if count:
        print(
            f"note: {count} of {total} sentences shortened: a prompt has {MAX_PROMPT_TOKENS} tokens at most"
        )
    return count


def fit_sentence(tokenizer, topic, sentence):
    """Return the sentence, without its end if its prompt would have more than MAX_PROMPT_TOKENS tokens."""
    text = (topic + sentence).encode("utf-8", "surrogatepass")
    if (
        _count_tokens(tokenizer, "", "") + len(text) <= MAX_PROMPT_TOKENS
    ):  # a token has a byte at least
        return sentence
    return _shorten(tokenizer, topic, sentence, MAX_PROMPT_TOKENS)


@functools.lru_cache(maxsize=4096)  # training encodes a row twice
def _shorten(tokenizer, topic, sentence, limit):
    """Return as many of the first words of a sentence as fit; of one endless word, as many characters."""
    if _count_tokens(tokenizer, topic, sentence) <= limit:
        return sentence
    if _count_tokens(tokenizer, topic, "") > limit - MIN_SENTENCE_TOKENS:
        errors.fail(
            f"the topic {formatting.quote(topic)} is too long for a prompt of {limit} tokens: shorten it"
        )
    low, high = 0, len(sentence)  # the first low characters fit, the first high ones do not
    while high - low > 1:
        middle = (low + high) // 2
        fits = _count_tokens(tokenizer, topic, sentence[:middle]) <= limit
        low, high = (middle, high) if fits else (low, middle)
    while low and unicodedata.category(sentence[low])[0] == "M":  # an accent stays with its letter
        low -= 1
    words = re.match(r".*\S(?=\s)", sentence[: low + 1], re.DOTALL)
    text = (
        words[0] if words and 2 * len(words[0]) > low else sentence[:low]
    )  # Chinese has no blanks between words
    while (
        _count_tokens(tokenizer, topic, text) > limit
    ):  # the end of a text can take a token more than its middle
        text = text[:-1]
    return text


@functools.lru_cache(maxsize=16)  # of the empty prompt
def _count_tokens(tokenizer, topic, sentence):
    return len(_encode_prompts(tokenizer, [(topic, sentence)])[0])


def _encode_prompts(tokenizer, pairs, template=prompts.PROMPT_TEMPLATE):
    """Return the token ids of the prompts of (topic, sentence) pairs, however long."""
    head, tail, _ = chat_frame(tokenizer)
    (before, after) = head[-1].split(USER_SLOT)
    prefix, suffix = _encode_pieces(tokenizer, head[:-1]), _encode_pieces(tokenizer, tail)
    texts = [
        before + prompts.build_prompt(topic, sentence, template) + after
        for topic, sentence in pairs
    ]
    bodies = (
        tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if texts
        else []
    )
    return [prefix + body + suffix for body in bodies]


def encode_labels(tokenizer):
    """Return the token ids (a list) of each label in prompts.LABELS order, as they follow a prompt."""
    lead = _render_chat(tokenizer)[1]
    return [_encode_pieces(tokenizer, [lead + label]) for label in prompts.LABELS]


def label_token_ids(tokenizer):
    """Return the single token id of each label in prompts.LABELS order; ValueError if a label takes several tokens."""
    ids = encode_labels(tokenizer)
    if any(len(pieces) != 1 for pieces in ids):
        raise ValueError(
            f"labels {prompts.LABELS} must be one token each for this tokenizer, got {ids}"
        )
    return [pieces[0] for pieces in ids]


def end_of_turn_id(tokenizer):
    """Return the id of the control token that ends an answer."""
    return _encode_pieces(tokenizer, chat_frame(tokenizer)[2])[-1]


def check_chat(tokenizer):
    """Raise ValueError unless examples get the ids that the tokenizer gives to its own chat template's text."""
    for label in prompts.LABELS:
        messages = prompts.build_messages("A topic.", "A sentence, plain.", label)
        text = tokenizer.apply_chat_template(messages, tokenize=False, **TEMPLATE_OPTIONS)
        ids = encode_example(tokenizer, "A topic.", "A sentence, plain.", label)
        if tokenizer(text, add_special_tokens=False)["input_ids"][: len(ids)] != ids:
            raise ValueError("its tokenizer joins text across the parts of its chat template")


@functools.lru_cache(maxsize=8)
def _render_chat(tokenizer):
    """Return the chat template's text before an answer, blanks that it puts between both, and the text after it."""
    user = [{"role": "user", "content": USER_SLOT}]
    chat = user + [{"role": "assistant", "content": ANSWER_SLOT}]
    asked = tokenizer.apply_chat_template(
        user, tokenize=False, add_generation_prompt=True, **TEMPLATE_OPTIONS
    )
    answered = tokenizer.apply_chat_template(chat, tokenize=False, **TEMPLATE_OPTIONS)
    lead, slot, rest = answered[len(asked) :].partition(ANSWER_SLOT)
    if not answered.startswith(asked) or not slot or lead.strip():
        raise ValueError(
            "this chat template renders an answered turn differently from a prompt; cannot train on it"
        )
    return asked, lead, rest


@functools.lru_cache(maxsize=8)  # rendering the template costs more than encoding a row
def chat_frame(tokenizer):
    """Cut the rendered chat template into pieces: (up to and with the user slot, up to the answer, end of answer).

    A piece is either one control token or the text between two of them.
    """
    asked, _, rest = _render_chat(tokenizer)
    control = control_tokens(tokenizer)
    splitter = re.compile(
        "(" + "|".join(re.escape(token) for token in sorted(control, key=len, reverse=True)) + ")"
    )
    pieces = [piece for piece in splitter.split(asked) if piece]
    slot = next(i for i, piece in enumerate(pieces) if USER_SLOT in piece)
    ending = [piece for piece in splitter.split(rest) if piece]
    stop = next(i for i, piece in enumerate(ending) if piece in control)
    return tuple(pieces[: slot + 1]), tuple(pieces[slot + 1 :]), tuple(ending[: stop + 1])


def control_tokens(tokenizer):
    """Return {text: id} of the tokenizer's control tokens (turn markers are not among its all_special_tokens)."""
    return {str(token): id for id, token in tokenizer.added_tokens_decoder.items() if token.special}


def _encode_pieces(tokenizer, pieces):
    """Encode template pieces: a control token to its id, other text without special tokens."""
    control, ids = control_tokens(tokenizer), []
    for piece in pieces:
        if piece in control:
            ids.append(control[piece])
        else:
            ids += tokenizer(piece, add_special_tokens=False, split_special_tokens=True)[
                "input_ids"
            ]
    return ids
