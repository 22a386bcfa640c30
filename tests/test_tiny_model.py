"""tiny_model.py: a folder in the form of gemma-2-9b-it, built the same way each time, without held-out text."""

import random
from pathlib import Path

import pytest
import tiny_model
import torch
import transformers

import prepare_data
import prompts
from stance.corpus import annotations, cleaning, duplicates, splitting
from stance.model import chat, loading
from stance.tree import prefix_tree

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "chat_template.jinja", "config.json", "demo_model.json", "generation_config.json", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip
CONTROL_IDS = {
    "<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<mask>": 4, "<start_of_turn>": 106, "<end_of_turn>": 107
}  # fmt: skip
ORDINARY = [
    ("Vegans are right.", "It's all about finding a system that works for you."),
    ("two\nlines", "a line\nanother line\n\nand one after a gap"),
    ("a tab", "left\tright"),
    ("code", "a ```fence``` and ```` four, {topic} and {sentence}, 3.14 % of 1,000,000"),
    ("Kernenergie", "Die Straße ist größer geworden – für 5 €, „vielleicht“."),
    ("核能", "核能是清洁的能源。 Это опасно. إنها خطيرة 👍🏽 👨‍👩‍👧 e\u0301"),
    ("spaces", "   before, inside   and after   "),
    ("empty", ""),
]
NASTY = [
    " ",
    "  leading, double  and trailing  ",
    "\n\n\ttabs and\r\nline feeds\n",
    "<0x41> <unused7> <unk> </s> ``` \ufffd",
    "\x00\x1f\x7f\x85\u2028\u200b\ufeff",
    "e\u0301 é ﬁ ½ Ⅷ ＡＢ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 👩‍👩‍👧 🇩🇪 \U0010ffff",
    "שלום עליכם العربية فارسی\u200cها ไทย 한국어",
    "a , b . c ! it 's n't",
]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A function that builds a model, with too few steps to learn anything, and returns its folder."""

    def run(folder=None, **settings):
        folder = folder or tmp_path_factory.mktemp("tiny") / "model"
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {"STEPS": 2, **settings}.items():
                patch.setattr(tiny_model, name, value)
            tiny_model.build(folder)
        return folder

    return run


@pytest.fixture(scope="module")
def folder(build):
    return build()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def splits():
    rows = duplicates.merge_duplicates(annotations.read_corpus(ROOT / prepare_data.CORPUS)).rows
    return splitting.draw_splits(rows, prepare_data.parse_args([]).seed)


@pytest.mark.slow
def test_folder_holds_a_small_bfloat16_gemma_2(folder, model):
    assert {path.name for path in folder.iterdir()} == FILES
    assert loading.read_demo_note(folder) == tiny_model.NOTE
    assert type(model).__name__ == "Gemma2ForCausalLM" and model.dtype == torch.bfloat16
    assert 1_000_000 < model.num_parameters() < 5_000_000
    assert model.num_parameters() == loading.count_weights(model.config)
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_architecture_is_that_of_gemma_2(model, tokenizer, splits):
    config = model.config
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)
    assert config.layer_types == ["sliding_attention", "full_attention"]
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.tie_word_embeddings
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert config.vocab_size == len(tokenizer)
    pairs = [(row["topic"], row["text"]) for rows in splits.values() for row in rows]
    assert max(map(len, chat.encode_examples(tokenizer, pairs))) < config.sliding_window


def test_4_bit_blocks_fit_every_linear_layer(model):
    layers = [layer for layer in model.model.modules() if isinstance(layer, torch.nn.Linear)]
    assert len(layers) == 7 * model.config.num_hidden_layers
    assert all(size % 64 == 0 for layer in layers for size in layer.weight.shape)


def test_generation_stops_at_the_end_of_a_turn(model):
    settings = model.generation_config
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (2, [1, 107], 0)


def test_control_tokens_have_the_ids_of_gemma_2(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(CONTROL_IDS)) == list(CONTROL_IDS.values())
    assert chat.control_tokens(tokenizer).items() >= CONTROL_IDS.items() - {("<mask>", 4)}
    named = (
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        tokenizer.bos_token_id,
        tokenizer.unk_token_id,
    )
    assert named == (0, 1, 2, 3)
    assert tokenizer("one").input_ids[0] == 2 and tokenizer("one").input_ids.count(2) == 1


def test_labels_are_one_token_each_after_the_prompt(tokenizer):
    ids = chat.label_token_ids(tokenizer)
    assert len(set(ids)) == 3 and tokenizer.convert_ids_to_tokens(ids) == list(prompts.LABELS)
    line_feed = tokenizer.convert_tokens_to_ids("\n")
    for label, label_id in zip(prompts.LABELS, ids):
        assert tokenizer(f"model\n{label}", add_special_tokens=False).input_ids[-2:] == [
            line_feed,
            label_id,
        ]


def test_chat_template_renders_turns_as_gemma_2_does(tokenizer):
    messages = prompts.build_messages("topic", "sentence", "pro")
    messages[0]["content"] = "  question \n"
    turns = "<bos><start_of_turn>user\nquestion<end_of_turn>\n<start_of_turn>model\n"
    assert (
        tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        == turns
    )
    assert tokenizer.apply_chat_template(messages, tokenize=False) == turns + "pro<end_of_turn>\n"


def test_chat_template_renders_as_that_of_the_real_tokenizer(tokenizer, gemma_tokenizer):
    for topic, sentence in ORDINARY:
        for label in (None, "con"):
            messages = prompts.build_messages(topic, sentence, label)
            options = {"tokenize": False, "add_generation_prompt": label is None}
            expected = gemma_tokenizer.apply_chat_template(messages, **options)
            assert tokenizer.apply_chat_template(messages, **options) == expected
    assert gemma_tokenizer.convert_tokens_to_ids(list(CONTROL_IDS)) == list(CONTROL_IDS.values())


@pytest.mark.parametrize("roles", [("system", "user"), ("assistant",), ("user", "user")])
def test_chat_template_refuses_other_orders_of_roles(tokenizer, roles):
    with pytest.raises(Exception, match="system role is not supported"):
        tokenizer.apply_chat_template(
            [{"role": role, "content": "x"} for role in roles], tokenize=False
        )


@pytest.mark.parametrize(("topic", "sentence"), ORDINARY)
@pytest.mark.parametrize("label", [None, "neu"])
def test_encoded_example_equals_the_chat_template(tokenizer, topic, sentence, label):
    messages = prompts.build_messages(topic, sentence, label)
    expected = tokenizer.apply_chat_template(
        messages, add_generation_prompt=label is None, return_dict=False
    )
    ids = chat.encode_example(tokenizer, topic, sentence, label)
    assert ids == expected[: len(ids)]
    assert tokenizer.decode(expected[len(ids) :]) == (
        "" if label is None else "\n"
    )  # the template's last line feed


@pytest.mark.parametrize(
    "token", [*CONTROL_IDS, "<end_of_turn>\n<start_of_turn>model\npro<end_of_turn>"]
)
def test_control_tokens_in_a_sentence_stay_plain_text(tokenizer, token):
    control = set(CONTROL_IDS.values())
    plain = [id for id in chat.encode_example(tokenizer, "topic", "sentence") if id in control]
    ids = chat.encode_example(tokenizer, "topic", f"before {token} after")
    assert [id for id in ids if id in control] == plain
    assert f"before {token} after" in tokenizer.decode(ids)


@pytest.mark.parametrize("text", NASTY)
def test_any_text_survives_encoding(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert tokenizer.unk_token_id not in ids


@pytest.mark.slow
def test_same_seed_builds_the_same_folder(folder, build):
    again, other = build(), build(PRETRAIN_SEED=1)
    for name in FILES - {"demo_model.json"}:  # which names the commit
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name
    assert (folder / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
    assert (folder / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()


def test_only_train_sentences_without_their_stance_are_read(splits):
    assert tiny_model.CORPUS == ROOT / prepare_data.CORPUS
    pairs = tiny_model.read_train_pairs(tiny_model.CORPUS)
    assert pairs == [(row["topic"], row["text"]) for row in splits["train"]]
    held_out = {
        cleaning.normalise_key(row["text"]) for name in ("val", "test") for row in splits[name]
    }
    assert len(held_out) > 100
    assert held_out.isdisjoint(cleaning.normalise_key(text) for _, text in pairs)


def test_batch_asks_for_random_labels_and_sentence_tokens(tokenizer):
    pairs = [
        ("Vegans are right.", "No."),
        ("Vegans are right.", "I eat what I like, and so should you."),
    ]
    asked = chat.encode_examples(tokenizer, pairs)
    assert len(asked[0]) + 2 < len(asked[1])  # so the last nodes belong to the second pair alone
    bags = [tokenizer(text, add_special_tokens=False).input_ids for _, text in pairs]
    closing, rng, answers = 9, random.Random(0), []
    for _ in range(20):
        inputs, nodes, tokens = tiny_model.make_batch(tokenizer, pairs, bags, closing, rng)
        wanted = {}  # depth -> the tokens that nodes at this depth are to predict
        for node, token in zip(nodes.tolist(), tokens.tolist()):
            wanted.setdefault(inputs["position_ids"][0, node].item(), set()).add(token)
        assert wanted[0] == {asked[0][1]}
        for depth in range(max(len(asked[0]) + 2, len(asked[1]) - closing), len(asked[1]) - 1):
            assert wanted[depth] <= set(bags[1])
        answers.append(wanted[len(asked[1]) - 1])
    assert all(len(answer) == 1 for answer in answers)
    assert set.union(*answers) == set(
        chat.label_token_ids(tokenizer)
    )  # drawn anew for one and the same sentence


@pytest.mark.slow
def test_pretraining_teaches_to_answer_with_a_label(tokenizer):
    pairs = [("Vegans are right.", f"{word} is fine.") for word in ("It", "This", "Meat", "Wage")]
    bags = [tokenizer(text, add_special_tokens=False).input_ids for _, text in pairs]
    torch.manual_seed(0)
    trained = tiny_model.build_model(tokenizer)
    ids = torch.tensor([chat.encode_example(tokenizer, *pairs[0])])
    mass = []
    for steps in (0, 40):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiny_model, "STEPS", steps)
            tiny_model.pretrain(trained, tokenizer, pairs, bags)
        trained.set_attn_implementation("eager")
        with torch.no_grad():
            mass.append(
                trained(ids).logits[0, -1].softmax(0)[chat.label_token_ids(tokenizer)].sum().item()
            )
        trained.set_attn_implementation(prefix_tree.ATTENTION)
    assert mass[0] < 0.01 and mass[1] > 0.5
    assert not torch.are_deterministic_algorithms_enabled()


def test_tokens_of_the_same_sentences_are_related(monkeypatch):
    monkeypatch.setattr(tiny_model, "RELATED_DIMS", 2)
    bags = [
        [0, 1, 4],
        [0, 1, 5],
        [2, 3, 4],
        [2, 3, 5],
    ]  # 0 and 1 keep company, 2 and 3, each with 4 or 5
    vectors = tiny_model.relate_tokens(bags, size=8)
    assert vectors.shape == (8, 2)
    assert vectors.square().sum(1).mean().item() == pytest.approx(1, abs=1e-5)
    alike = torch.nn.functional.cosine_similarity(vectors[:1], vectors[1:4])
    assert alike[0] > 0.9 and alike[0] > alike[1] + 0.5 and alike[0] > alike[2] + 0.5
    assert vectors[6:].abs().max() < 1e-5  # tokens that never occur
