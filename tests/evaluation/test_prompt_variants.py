"""stance/evaluation/prompt_variants.py: what is asked otherwise, and that the one prompt stays where it is."""

import difflib

import pytest

import prompts
from stance.evaluation import prompt_variants
from stance.model import chat

ROWS = [
    {
        "id": "a1",
        "topic": "Vegans are right.",
        "text": "It's all about finding a system that WORKS for you.",
    },
    {"id": "b2", "topic": "The US should {act}.", "text": "Ok."},
]


@pytest.fixture(scope="module")
def variants():
    return prompt_variants.build_variants(ROWS)


def build(variant):
    return [prompts.build_prompt(*pair, variant.template) for pair in variant.pairs]


def test_every_variant_asks_every_row_in_another_way(variants):
    usual = [prompts.build_prompt(row["topic"], row["text"]) for row in ROWS]
    assert list(variants) == [
        "paraphrased prompt",
        "con before pro",
        "lower case",
        "typing errors",
        "negated topic",
    ]
    for name, variant in variants.items():
        assert len(variant.pairs) == 2 and build(variant)[0] != usual[0], name
    assert [name for name, variant in variants.items() if variant.swaps] == ["negated topic"]


def test_other_templates_hold_both_texts_once_and_name_the_labels(variants):
    for name in ("paraphrased prompt", "con before pro"):
        template = variants[name].template
        assert template != prompts.PROMPT_TEMPLATE
        assert template.count("{topic}") == template.count("{sentence}") == 1
        assert all(f'"{label}"' in template for label in prompts.LABELS)
    for name in ("lower case", "typing errors", "negated topic"):
        assert variants[name].template == prompts.PROMPT_TEMPLATE


def test_con_before_pro_has_the_words_of_the_prompt(variants):
    template = variants["con before pro"].template
    assert sorted(template.split()) != template.split()
    letters = sorted(template.replace(",", "").split())
    assert letters == sorted(prompts.PROMPT_TEMPLATE.replace(",", "").split())
    assert (
        template.index("contra argument") < template.index("pro argument")
        and "one of con, pro or neu" in template
    )


def test_a_reworded_prompt_is_noticed():
    with pytest.raises(ValueError, match="REORDERED"):
        prompt_variants.reorder_labels(prompts.PROMPT_TEMPLATE.replace("exactly", "just"))


def test_lower_case_and_negation(variants):
    assert variants["lower case"].pairs[0] == ("vegans are right.", ROWS[0]["text"].lower())
    assert variants["negated topic"].pairs == [
        ("It is wrong to claim: Vegans are right.", ROWS[0]["text"]),
        ("It is wrong to claim: The US should {act}.", "Ok."),
    ]


def test_typing_errors_are_seeded_by_row(variants):
    again = prompt_variants.build_variants(ROWS[::-1])["typing errors"].pairs
    assert again == variants["typing errors"].pairs[::-1]
    topic, text = variants["typing errors"].pairs[0]
    assert topic == ROWS[0]["topic"] and text != ROWS[0]["text"]
    assert variants["typing errors"].pairs[1][1] == "Ok."  # no word is long enough
    twins = [{**ROWS[0], "id": f"id {i}"} for i in range(10)]
    assert len(set(prompt_variants.build_variants(twins)["typing errors"].pairs)) > 2


def test_a_typing_error_swaps_two_neighbouring_inner_letters():
    text = " ".join(f"word{chr(97 + i)}ing" for i in range(20))
    typed = prompt_variants.add_typos(text, "seed")
    changed = [
        (old, new) for old, new in zip(text.split(), typed.split(), strict=True) if old != new
    ]
    assert len(changed) == 3  # 15 % of 20
    for old, new in changed:
        assert sorted(old) == sorted(new) and (old[0], old[-1]) == (new[0], new[-1])
        places = [i for i in range(len(old)) if old[i] != new[i]]
        assert len(places) == 2 and places[1] == places[0] + 1
    assert prompt_variants.add_typos(text, "other") != typed
    assert difflib.SequenceMatcher(None, text, typed).ratio() > 0.9


def test_spaces_and_odd_words_survive():
    for text in ("", " ", "a  b", "1234 -- ....", "aaaa oooo", "\n\nabcd\n"):
        typed = prompt_variants.add_typos(text, "seed")
        assert sorted(typed) == sorted(text) and typed.count(" ") == text.count(" ")


def test_other_templates_do_not_change_the_prompt_of_models():
    assert prompts.build_prompt("t", "s") == prompts.PROMPT_TEMPLATE.format(topic="t", sentence="s")


@pytest.mark.slow
def test_variants_are_encoded_with_their_template(gemma_tokenizer, variants):
    variant = variants["paraphrased prompt"]
    encoded = chat.encode_examples(gemma_tokenizer, variant.pairs, template=variant.template)
    assert [variant.template.split("{")[0] in gemma_tokenizer.decode(ids) for ids in encoded] == [
        True,
        True,
    ]
    usual = chat.encode_examples(gemma_tokenizer, variant.pairs)
    assert (
        usual == [chat.encode_example(gemma_tokenizer, *pair) for pair in variant.pairs] != encoded
    )
