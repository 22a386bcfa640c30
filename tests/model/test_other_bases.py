"""Other bases than Gemma-2-9b: the tree, the chat template, and labels of one or several tokens, from start to end."""

import json
import re
import types

import datasets
import pytest
import tokenizers
import torch
import transformers

import evaluate
import prompts
from stance.common import distributed, run_files
from stance.model import chat, cuda_graphs, loading, merging, scoring
from stance.training import tree_trainer
from stance.tree import attention, prefix_tree

LLAMA_TEMPLATE = """\
{{- bos_token -}}
{%- if not date_string is defined -%}{%- set date_string = strftime_now("%d %b %Y") -%}{%- endif -%}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " ~ date_string ~ "\\n\\n<|eot_id|>" -}}
{%- for message in messages -%}
{{- "<|start_header_id|>" ~ message.role ~ "<|end_header_id|>\\n\\n" ~ message.content | trim ~ "<|eot_id|>" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" -}}{%- endif -%}
"""
QWEN2_TEMPLATE = """\
{{- "<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n" -}}
{%- for message in messages -%}
{{- "<|im_start|>" ~ message.role ~ "\\n" ~ message.content ~ "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|>assistant\\n" -}}{%- endif -%}
"""
QWEN3_TEMPLATE = """\
{%- for message in messages -%}
{{- "<|im_start|>" ~ message.role ~ "\\n" -}}
{%- if message.role == "assistant" and loop.last -%}{{- "<think>\\n\\n</think>\\n\\n" -}}{%- endif -%}
{{- message.content ~ "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- "<|im_start|>assistant\\n" -}}
{%- if enable_thinking is defined and enable_thinking is false -%}{{- "<think>\\n\\n</think>\\n\\n" -}}{%- endif -%}
{%- endif -%}
"""
MISTRAL_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == "user" -%}{{- "[INST] " ~ message.content ~ "[/INST]" -}}
{%- else -%}{{- " " ~ message.content ~ eos_token -}}{%- endif -%}
{%- endfor -%}
"""
GEMMA_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- "<start_of_turn>" ~ ("model" if message.role == "assistant" else "user") ~ "\\n" -}}
{{- message.content | trim ~ "<end_of_turn>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<start_of_turn>model\\n" -}}{%- endif -%}
"""
# As Mistral Small 3 reads the date, which Llama 3.2 does by way of an option.
DATED_TEMPLATE = """\
{%- set today = strftime_now("%Y-%m-%d") -%}{{- bos_token -}}
{{- "The current date is " + today + ", " + strftime_now( '%d "%B" %Y' ) + "." -}}
""" + MISTRAL_TEMPLATE.removeprefix("{{- bos_token -}}\n")
# How Llama-3 and Qwen cut a text before merging: line feeds stay apart from the word behind them.
PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# model type: (template, control tokens of which the first begins or pads a text, end of a turn, differences)
FAMILIES = {
    "llama": (
        LLAMA_TEMPLATE,
        [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ],
        "<|eot_id|>",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
    ),
    "qwen2": (QWEN2_TEMPLATE, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>", {}),
    "qwen3": (
        QWEN3_TEMPLATE,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "<|im_end|>",
        {"head_dim": 32},
    ),
    "mistral": (
        MISTRAL_TEMPLATE,
        ["<s>", "</s>", "[INST]", "[/INST]"],
        "</s>",
        {"sliding_window": None},
    ),
    "gemma2": (  # as in gemma-2-27b-it, scores are not scaled by the width of a head
        GEMMA_TEMPLATE,
        ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
        "<end_of_turn>",
        {"head_dim": 32, "query_pre_attn_scalar": 48, "sliding_window": 4096},
    ),
}
WINDOWS = {  # the same families with windows shorter than a prompt
    "mistral": {"sliding_window": 40},
    "qwen2": {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1},
}
PAIRS = [
    (f"Topic {n % 3}.", " ".join(["word", "other", "third"][: n % 3 + 1] * (n % 5 + 1)))
    for n in range(9)
]


def train_tokenizer(family, whole_labels, **changes):
    """Return a byte-level tokenizer with a family's template; labels are one token each, or several.

    As published, it puts a BOS before every text, but Qwen's has none. changes: other tokens, or another template.
    """
    template, control, end, _ = FAMILIES[family]
    trainee = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PIECES), "isolated")
    trainee.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    trainee.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=control,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = prompts.PROMPT_TEMPLATE + "\npro\ncon\nneu pro con neu Topic 1."
    if not whole_labels:
        text = re.sub("pro|con|neu", "", text)
    trainee.train_from_iterator([text], trainer)
    tokens = {"bos_token": control[0], "eos_token": control[1], "pad_token": None}
    if family.startswith("qwen"):
        tokens = {"bos_token": None, "eos_token": end, "pad_token": control[0]}
    else:
        trainee.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{control[0]} $A", special_tokens=[(control[0], 0)]
        )
    tokens.update(changes)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=trainee, **{"chat_template": template, **tokens}
    )


def build_model(family, size, **changes):
    """Return a small random float32 model of a family, whose sharp attention makes every visible token count."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        family,
        **{
            "vocab_size": size, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1,
            "pad_token_id": None, "tie_word_embeddings": False, **FAMILIES[family][3], **changes,
        },
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "bias" in name:  # zero at the start
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
        elif weight.ndim == 2:
            weight.data *= 8 if "q_proj" in name or "k_proj" in name else 2
    return model.eval()


@pytest.fixture(
    scope="module",
    params=[(family, whole) for family in FAMILIES for whole in (True, False)],
    ids=str,
)
def base(request, tmp_path_factory):
    """(family, whether labels are one token, folder of a tiny model)."""
    family, whole_labels = request.param
    folder = tmp_path_factory.mktemp(family)
    tokenizer = train_tokenizer(family, whole_labels)
    tokenizer.save_pretrained(folder)
    build_model(family, len(tokenizer)).to(torch.bfloat16).save_pretrained(folder)
    return family, whole_labels, str(folder)


def flat_losses(model, asked, answers):
    """Return the summed negative log-likelihood [n, answers] of each answer (token ids) after each prompt, singly."""
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")
    rows = []
    for ids in asked:
        rows.append([])
        for answer in answers:
            logits = (
                model(input_ids=torch.tensor([[*ids, *answer]])).logits[0].float().log_softmax(1)
            )
            rows[-1].append(
                -sum(logits[len(ids) - 1 + place, token] for place, token in enumerate(answer))
            )
    model.set_attn_implementation(attention)
    return torch.stack([torch.stack(row) for row in rows])


# ---------------------------------------------------------------- the chat template


def test_ids_are_those_of_the_chat_template(base):
    family, whole_labels, folder = base
    tokenizer = loading.load_tokenizer(folder)
    assert [len(ids) == 1 for ids in chat.encode_labels(tokenizer)] == [whole_labels] * 3
    options = {"tokenize": False, **chat.TEMPLATE_OPTIONS}
    for topic, sentence in PAIRS:
        asked = tokenizer.apply_chat_template(
            prompts.build_messages(topic, sentence), add_generation_prompt=True, **options
        )
        ids = chat.encode_example(tokenizer, topic, sentence)
        assert tokenizer.decode(ids) == asked
        assert tokenizer(asked, add_special_tokens=False)["input_ids"] == ids
        answered = chat.encode_example(tokenizer, topic, sentence, "con")
        text = tokenizer.apply_chat_template(
            prompts.build_messages(topic, sentence, "con"), **options
        )
        assert answered[: len(ids)] == ids and text.startswith(tokenizer.decode(answered))
        assert tokenizer.decode(answered).endswith("con" + FAMILIES[family][2])
        assert tokenizer(text, add_special_tokens=False)["input_ids"][: len(answered)] == answered


def test_typed_control_tokens_stay_text(base):
    family, _, folder = base
    tokenizer = loading.load_tokenizer(folder)
    control = set(chat.control_tokens(tokenizer).values())
    plain, typed = (
        [id for id in chat.encode_example(tokenizer, "a topic", text) if id in control]
        for text in ("plain", "typed " + " ".join(FAMILIES[family][1]))
    )
    assert plain == typed and len(plain) >= 3


@pytest.mark.parametrize(
    "family, template, date",
    [
        ("llama", LLAMA_TEMPLATE, "Today Date: 26 Jul 2024\n"),
        ("mistral", DATED_TEMPLATE, 'date is 2024-07-26, 26 "July" 2024.'),
    ],
)
def test_a_prompt_does_not_change_with_the_day(family, template, date):
    tokenizer = train_tokenizer(family, True, chat_template=template)
    assert date in tokenizer.decode(chat.encode_example(tokenizer, "a", "b"))


def test_a_base_without_chat_template_is_refused(tmp_path, capsys):
    tokenizer = train_tokenizer("llama", True)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        loading.load_tokenizer(str(tmp_path))
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and message.count("\n") == 1
    assert "chat template" in message and "instruction-tuned" in message


def test_a_tokenizer_that_joins_the_parts_of_its_template_is_refused(monkeypatch):
    """A label that merges with the blank before it would be trained on other tokens than the model would write."""
    tokenizer = train_tokenizer("mistral", True)
    chat.check_chat(tokenizer)
    apart = [tokenizer(label)["input_ids"] for label in prompts.LABELS]
    monkeypatch.setattr(chat, "encode_labels", lambda tokenizer: apart)
    with pytest.raises(ValueError, match="joins text"):
        chat.check_chat(tokenizer)


# ---------------------------------------------------------------- what an export says of it


@pytest.mark.parametrize(
    "family, tokens",
    [
        *[(family, {}) for family in FAMILIES],
        ("qwen2", {"bos_token": "<|endoftext|>"}),  # as its GGUF files name one
        ("qwen2", {"bos_token": "<|im_start|>"}),  # as SmolLM2 has it, which begins each turn
    ],
    ids=str,
)
def test_modelfile_gives_the_trained_prompt(family, tokens):
    """llama.cpp puts first what the tokenizer does, whatever is called BOS."""
    tokenizer = train_tokenizer(family, True, **tokens)
    modelfile = merging.format_modelfile(tokenizer)
    turn = modelfile.partition('TEMPLATE """')[2].partition('"""')[0]
    for topic, sentence in PAIRS:
        text = turn.replace("{{ .Prompt }}", prompts.build_prompt(topic, sentence))
        assert tokenizer(text)["input_ids"] == chat.encode_example(tokenizer, topic, sentence)
    assert f'PARAMETER stop "{FAMILIES[family][2]}"' in modelfile


@pytest.fixture
def write_export(tmp_path):
    """A function that writes an export of a tokenizer with a tiny model and returns its folder."""

    def write(family, tokenizer):
        model = build_model(family, len(tokenizer)).to(torch.bfloat16)
        merging.write_model(
            tmp_path / "merged", model, tokenizer, str(tmp_path), {"demo": False}, [], {}
        )
        return tmp_path / "merged"

    return write


@pytest.mark.parametrize(
    "family, template", [*[(family, None) for family in FAMILIES], ("mistral", DATED_TEMPLATE)]
)
def test_exported_chat_template_gives_the_trained_prompt_without_options(
    family, template, write_export
):
    """To the byte, and on any day, whatever a server says of thinking."""
    changes = {"chat_template": template} if template else {}
    tokenizer = train_tokenizer(family, True, **changes)
    exported = transformers.AutoTokenizer.from_pretrained(write_export(family, tokenizer))
    options = {"tokenize": False, "add_generation_prompt": True}
    for topic, sentence in PAIRS:
        messages = prompts.build_messages(topic, sentence)
        trained = tokenizer.decode(chat.encode_example(tokenizer, topic, sentence))
        assert exported.apply_chat_template(messages, **options) == trained
        others = {"enable_thinking": True, "date_string": "1 Jan 2030"}
        assert exported.apply_chat_template(messages, **options, **others) == trained
    without = tokenizer.apply_chat_template(messages, **options)
    assert (without == trained) == (family in ("qwen2", "mistral", "gemma2") and not template)
    assert (exported.chat_template == tokenizer.chat_template) == (without == trained)


def test_a_chat_template_whose_date_cannot_be_fixed_is_refused():
    dated = '{%- set form = "%Y" -%}{{- strftime_now(form) -}}' + MISTRAL_TEMPLATE
    tokenizer = train_tokenizer("mistral", True, chat_template=dated)
    with pytest.raises(ValueError, match="today's date"):
        chat.check_chat(tokenizer)


# ---------------------------------------------------------------- the tree


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, window", [(name, {}) for name in FAMILIES] + list(WINDOWS.items()), ids=str
)
def test_logits_and_gradients_equal_the_flat_batch(family, window):
    tokenizer = train_tokenizer(family, True)
    model = build_model(family, len(tokenizer), **window)
    rows = [
        {"topic": topic, "text": text, "label": prompts.LABELS[n % 3]}
        for n, (topic, text) in enumerate(PAIRS)
    ]
    columns = tree_trainer.encode_rows(tokenizer, rows)
    flat, tokens = 0, 0
    for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True):
        logits = model(input_ids=torch.tensor([ids])).logits[0].float()
        flat += torch.nn.functional.cross_entropy(
            logits[:-1], torch.tensor(labels[1:]), reduction="sum"
        )
        tokens += sum(label != tree_trainer.IGNORED for label in labels)
    flat = flat / tokens
    flat.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    model.set_attn_implementation(prefix_tree.ATTENTION)
    inputs = tree_trainer.TreeCollator(0)(
        [{"input_ids": a, "labels": b} for a, b in zip(*columns.values(), strict=True)]
    )
    loss = (
        tree_trainer.target_losses(model, model.config, inputs).sum()
        / inputs["target_weights"].sum()
    )
    loss.backward()
    assert abs(loss.item() - flat.item()) <= 1e-5
    for name, weight in model.named_parameters():
        assert (weight.grad - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-6, name


def test_large_scores_do_not_overflow_without_a_soft_cap():
    """exp(1000) is infinite; the highest score is subtracted over prefix and row together."""
    tokenizer = train_tokenizer("llama", True)
    model = build_model("llama", len(tokenizer))
    for name, weight in model.named_parameters():
        if "q_proj" in name:
            weight.data *= 1000
    asked = chat.encode_examples(tokenizer, PAIRS)
    expected = flat_losses(model, asked, chat.encode_labels(tokenizer))
    model.set_attn_implementation(prefix_tree.ATTENTION)
    tokenizer.pad_token = tokenizer.eos_token
    found = scoring.score_prompts(model, tokenizer, asked).nll
    assert (found - expected).abs().max() <= 1e-2 * expected.abs().max()


@pytest.mark.slow
def test_a_base_whose_tree_differs_is_refused(base, capsys):
    folder = base[2]
    right = attention.attend

    def sharper(*tensors, scaling, **options):
        return right(*tensors, scaling=2 * scaling, **options)

    transformers.AttentionInterface.register(prefix_tree.ATTENTION, sharper)
    try:
        with pytest.raises(SystemExit) as stopped:
            loading.load_base(folder)
    finally:
        transformers.AttentionInterface.register(prefix_tree.ATTENTION, right)
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and f"error: {folder}: prefix trees give logits" in message
    assert loading.load_base(folder).config._attn_implementation == prefix_tree.ATTENTION


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "answers", [[[9], [8], [7]], [[9, 8], [7], [9, 6, 5]], [[9, 8], [9, 7], [6, 5]]]
)
def test_labels_are_scored_by_all_their_tokens(answers, monkeypatch):
    tokenizer = train_tokenizer("llama", True)
    tokenizer.pad_token = tokenizer.eos_token
    model = build_model("llama", len(tokenizer))
    asked = chat.encode_examples(tokenizer, PAIRS)
    expected = flat_losses(model, asked, answers)
    model.set_attn_implementation(prefix_tree.ATTENTION)
    monkeypatch.setattr(chat, "encode_labels", lambda tokenizer: answers)
    for size in (2, 128):
        scores = scoring.score_prompts(model, tokenizer, asked, size)
        assert (scores.nll - expected).abs().max() <= 1e-4
        assert (scores.probabilities - (-expected).softmax(1)).abs().max() <= 1e-5
        assert (scores.label_mass - (-expected).exp().sum(1)).abs().max() <= 1e-5


@pytest.mark.parametrize("answers", [[[9], [8], [7]], [[9], [8], [7, 6]], [[9, 8], [7], [9, 6, 5]]])
def test_single_prompts_have_the_shapes_that_are_recorded(answers, monkeypatch):
    """The recording itself needs a GPU; here the plain function stands in for it."""
    monkeypatch.setattr(prefix_tree, "FEW_SHAPES", True)
    monkeypatch.setattr(chat, "encode_labels", lambda tokenizer: answers)
    tokenizer = train_tokenizer("llama", True)
    tokenizer.pad_token = tokenizer.eos_token
    model = build_model("llama", len(tokenizer))
    asked = chat.encode_examples(tokenizer, PAIRS[:3])
    expected = flat_losses(model, asked, answers)
    model.set_attn_implementation(prefix_tree.ATTENTION)
    recorded = []

    def record(model, branches, count):
        inputs = cuda_graphs.prediction_inputs(branches, count)
        recorded.append(sorted(cuda_graphs.list_shapes(inputs)))
        model.prediction_graph = answer

    def answer(inputs, logits_to_keep):
        found = {**inputs, "logits_to_keep": logits_to_keep}
        recorded.append(sorted(cuda_graphs.list_shapes(found)))
        return prefix_tree.forward_tree(model, model.config, inputs, logits_to_keep)

    monkeypatch.setattr(cuda_graphs, "record_predictions", record)
    scoring.record_single_answers(model, tokenizer)
    found = torch.cat([scoring.score_prompts(model, tokenizer, [ids]).nll for ids in asked])
    assert len(recorded) == 4 and all(shapes == recorded[0] for shapes in recorded)
    assert (found - expected).abs().max() <= 1e-4


SEVERAL_TOKENS = [
    [[9, 8], [9, 7], [6, 5]],
    [[9, 8], [7], [9, 6, 5]],
    [[9], [8], [7, 6]],
    [[9], [9, 8], [7]],
]


def make_validation(model, tokenizer, answers, monkeypatch):
    """Return (stand-in for a trainer, its rows' labels [n], flat losses [n, 4]): the end of the turn comes last.

    Of nine rows, five have the label that is picked.
    """
    asked = chat.encode_examples(tokenizer, PAIRS)
    picked = flat_losses(model, asked, answers).argmin(1).tolist()
    model.set_attn_implementation(prefix_tree.ATTENTION)
    monkeypatch.setattr(chat, "encode_labels", lambda tokenizer: answers)
    given = [place if row < 5 else place - 1 for row, place in enumerate(picked)]
    turns = [[*answers[place], 1] for place in given]
    columns = {
        "input_ids": [ids + turn for ids, turn in zip(asked, turns, strict=True)],
        "labels": [
            [tree_trainer.IGNORED] * len(ids) + turn for ids, turn in zip(asked, turns, strict=True)
        ],
    }
    trainer = types.SimpleNamespace(
        eval_dataset=datasets.Dataset.from_dict(columns), model=model, processing_class=tokenizer,
        args=types.SimpleNamespace(per_device_eval_batch_size=4, device=torch.device("cpu")),
        sharded=False, data_collator=tree_trainer.TreeCollator(tokenizer.pad_token_id),
        _prepare_inputs=lambda inputs: inputs,
    )  # fmt: skip
    for name in ("share_rows", "add_up_short", "add_up_longer"):
        method = getattr(tree_trainer.StanceTrainer, name)
        setattr(trainer, name, types.MethodType(method, trainer))
    losses = [
        flat_losses(model, [ids], [turn])[0, 0] for ids, turn in zip(asked, turns, strict=True)
    ]
    return trainer, sum(losses).item(), sum(map(len, turns))


@pytest.mark.parametrize("answers", SEVERAL_TOKENS, ids=str)
def test_validation_counts_whole_labels_and_the_loss_of_answers(answers, monkeypatch):
    """The first token alone would not tell labels from each other; each process adds up its batches."""
    tokenizer = train_tokenizer("llama", True)
    tokenizer.pad_token = tokenizer.eos_token
    model = build_model("llama", len(tokenizer))
    trainer, loss, tokens = make_validation(model, tokenizer, answers, monkeypatch)
    parts = []
    for rank, count in ((0, 1), *((rank, 4) for rank in range(4))):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank, count=count: (rank, count))
        with torch.no_grad():
            sums = tree_trainer.StanceTrainer.add_up_validation(trainer, answers)
        parts.append([float(number) for number in sums])
    whole, parts = parts[0], torch.tensor(parts[1:])
    assert whole == pytest.approx([loss, tokens, 5, 9], abs=1e-3)
    assert parts.sum(0).tolist() == pytest.approx(whole, abs=1e-3)
    # of four processes the third has one row and the last none
    assert parts[:, 3].tolist() == [4, 4, 1, 0] and parts[:, 2].max() < 5


@pytest.mark.parametrize("few_shapes", [True, False])
def test_validation_makes_one_pass_for_labels_of_several_tokens(few_shapes, monkeypatch):
    """A second one for the labels, as wide as the first, would double its cost."""
    monkeypatch.setattr(prefix_tree, "FEW_SHAPES", few_shapes)
    tokenizer = train_tokenizer("llama", True)
    tokenizer.pad_token = tokenizer.eos_token
    model = build_model("llama", len(tokenizer))
    forward, nodes = prefix_tree.forward_tree, []

    def count_nodes(model, config, inputs, logits_to_keep):
        nodes.append(inputs["input_ids"].numel())
        return forward(model, config, inputs, logits_to_keep)

    monkeypatch.setattr(prefix_tree, "forward_tree", count_nodes)
    found = []
    for answers in ([[9], [8], [7]], [[9], [8], [7, 6]]):
        trainer = make_validation(model, tokenizer, answers, monkeypatch)[0]
        nodes.clear()
        with torch.no_grad():
            tree_trainer.StanceTrainer.add_up_validation(trainer, answers)
        found.append(list(nodes))
    one_token, longer = found
    assert len(one_token) == len(longer) == 3  # batches
    if few_shapes:
        assert one_token == longer
    else:  # a label's first token for each row, and a second for some
        assert sum(one_token) + 9 <= sum(longer) <= sum(one_token) + 2 * 9 + 3


@pytest.mark.parametrize("labels", [("pro", "con", "neu", "pro"), ("pro",) * 4, ("neu",) * 4])
def test_batches_of_a_gpu_have_as_many_targets_whatever_their_labels(labels, monkeypatch):
    """Each number of targets would be a shape of batch to record; those that fill up weigh nothing."""
    monkeypatch.setattr(prefix_tree, "FEW_SHAPES", True)
    lengths = {"pro": [9], "con": [8], "neu": [7, 6]}
    monkeypatch.setattr(chat, "encode_labels", lambda tokenizer: list(lengths.values()))
    tokenizer = train_tokenizer("llama", True)
    model = build_model("llama", len(tokenizer))
    model.set_attn_implementation(prefix_tree.ATTENTION)
    pairs = PAIRS[:4]
    rows = [
        {"topic": topic, "text": text, "label": label}
        for (topic, text), label in zip(pairs, labels, strict=True)
    ]
    columns = tree_trainer.encode_rows(tokenizer, rows)
    all_rows = tree_trainer.encode_rows(tokenizer, [{**rows[0], "label": name} for name in lengths])
    assert tree_trainer.count_targets(all_rows["labels"]) == 3
    encoded = [
        {"input_ids": ids, "labels": targets}
        for ids, targets in zip(columns["input_ids"], columns["labels"], strict=True)
    ]
    filled = tree_trainer.TreeCollator(0, 3)(encoded)
    monkeypatch.setattr(prefix_tree, "FEW_SHAPES", False)
    plain = tree_trainer.TreeCollator(0)(encoded)
    assert len(plain["target_ids"]) == sum(1 + len(lengths[label]) for label in labels)
    assert [len(filled[name]) for name in ("loss_positions", "target_ids", "target_weights")] == (
        [12] * 3
    )
    assert filled["target_weights"].sum() == plain["target_weights"].sum()
    losses = [
        tree_trainer.target_losses(model, model.config, inputs).sum() for inputs in (filled, plain)
    ]
    assert torch.allclose(*losses, rtol=1e-6)
    assert len(tree_trainer.TreeCollator(0, 3)(encoded)["target_ids"]) == len(plain["target_ids"])


def test_labels_of_equal_length_give_no_number_to_fill_up_to():
    tokenizer = train_tokenizer("llama", True)
    rows = [{"topic": "a", "text": "b", "label": label} for label in prompts.LABELS]
    assert tree_trainer.count_targets(tree_trainer.encode_rows(tokenizer, rows)["labels"]) is None


# ---------------------------------------------------------------- from training to evaluation


@pytest.mark.slow
@pytest.mark.parametrize(
    "base", [("llama", True), ("mistral", False), ("qwen3", False)], indirect=True, ids=str
)
def test_training_and_evaluation(
    base, train, data_dir, tmp_path, monkeypatch, load_plain, flat_ways, count_ties
):
    """Validation accuracy is that of the answers that evaluate.py gives, for labels of any number of tokens.

    But for ties, which rounding decides.
    """
    _, whole_labels, folder = base
    add_up, added = tree_trainer.StanceTrainer.add_up_longer, []

    def count(trainer, *columns):
        added.append(add_up(trainer, *columns))
        return added[-1]

    monkeypatch.setattr(tree_trainer.StanceTrainer, "add_up_longer", count)
    run = train(tmp_path / "run", "--base-model", folder, "--epochs", "1")
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["base_model"] == folder and record["parameters"]["trainable"] > 0
    assert bool(added) is not whole_labels
    evaluate.main(["--adapter", str(run), "--data-dir", data_dir, "--robustness-rows", "0"])
    rows = [
        json.loads(line)
        for line in run_files.find_text(run, "validation.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    right = [row["models"]["fine-tuned"]["prediction"] == row["label"] for row in rows]
    accuracy = record["result"]["kept_validation"]["eval_accuracy"]
    tokenizer, model = loading.load_tokenizer(folder), load_plain(folder, run)
    asked = chat.encode_examples(tokenizer, [(row["topic"], row["text"]) for row in rows])
    losses = zip(
        *(
            answer_losses(flat_ways, model, asked, answer)
            for answer in chat.encode_labels(tokenizer)
        )
    )
    ties = count_ties([(-torch.stack(way, 1)).softmax(1) for way in losses])
    assert len(rows) == 24 and ties < 6
    assert sum(right) / 24 == pytest.approx(accuracy, abs=(ties + 0.01) / 24)


def answer_losses(flat_ways, model, asked, answer):
    """Return the losses [n] of an answer, summed over its tokens, after each prompt, in each of flat_ways."""
    ways = flat_ways(model, [[*ids, *answer] for ids in asked], last=len(answer) + 1)
    return [-logits.log_softmax(2)[:, range(len(answer)), answer].sum(1) for logits in ways]


@pytest.mark.parametrize("base", [("mistral", True)], indirect=True, ids=str)
def test_replies_are_generated(base):
    """A tokenizer without a padding token pads with another, which nothing sees."""
    tokenizer = loading.load_tokenizer(base[2])
    assert tokenizer.pad_token == tokenizer.eos_token
    model = build_model(
        "mistral", len(tokenizer)
    )  # float32: a random 4-bit model's replies hang on roundings
    encoded = chat.encode_examples(tokenizer, PAIRS)
    assert len(set(map(len, encoded))) > 1
    for ids, reply in zip(
        encoded, scoring.generate_replies(model, tokenizer, encoded), strict=True
    ):
        ids = torch.tensor([ids])
        options = {"attention_mask": torch.ones_like(ids), "pad_token_id": 1}
        output = model.generate(
            ids, max_new_tokens=scoring.MAX_NEW_TOKENS, do_sample=False, **options
        )
        assert tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True) == reply
