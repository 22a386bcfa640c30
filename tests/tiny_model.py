"""A tiny Gemma-2 with its own tokenizer, in the form of google/gemma-2-9b-it: the whole pipeline within seconds.

build() reads data/stance_corpus_sample.xlsx, of which the model sees the train sentences and no stance. The model shows
that the code works; its answers say nothing about what a real model can do.
"""

import json
import os
import random
import sys
from pathlib import Path

import tokenizers
import torch
import transformers

import prompts
from stance.common import environment, files
from stance.corpus import annotations, duplicates, splitting
from stance.model import chat, loading
from stance.tree import prefix_tree

# ---------------------------------------------------------------- settings
CORPUS = Path(__file__).resolve().parents[1] / "data" / "stance_corpus_sample.xlsx"
NOTE = (
    "DEMO: tiny model with random knowledge. These numbers show the plumbing, not stance quality."
)

# size; every width is a multiple of 64, the block of 4-bit NF4 weights
VOCABULARY = 3072  # tokens at most; a smaller corpus gives fewer
HIDDEN_SIZE = 256
INTERMEDIATE_SIZE = 512
LAYERS = 2  # one with a sliding window, one without
HEADS, KEY_VALUE_HEADS, HEAD_DIM = 4, 2, 64
RELATED_DIMS = 64  # of HIDDEN_SIZE, where tokens of similar sentences start side by side

# pre-training
STEPS = 150  # 0.1 to 0.2 s each on two CPU cores; after 40 the labels get 42 % of the probability, after 80 96 %
BATCH_SIZE = 16  # sentences a step
PRETRAIN_LEARNING_RATE = (
    2e-3  # peak; linear warm-up over a tenth of the steps, then cosine decay to 0
)
PRETRAIN_SEED = 0  # weights, order of sentences and random answers
# --------------------------------------------------------------------------

TURN_TOKENS = ["<start_of_turn>", "<end_of_turn>"]
# The ids of google/gemma-2-9b-it: 0 to 4, then fillers, then the turn markers at 106 and 107.
CONTROL_TOKENS = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<mask>",
    *(f"<unused{i}>" for i in range(101)),
] + TURN_TOKENS
BYTE_TOKENS = [
    f"<0x{byte:02X}>" for byte in range(256)
]  # spell out any character outside the vocabulary

# What merges may join: a word with the space before it (don't stays whole), a digit, a run of signs. A line feed stays
# alone, so the answer after "model\n" is encoded as if it stood by itself.
PIECES = r"▁?\p{L}+(?:['’]\p{L}+)*|▁?\p{N}|\n|▁?[^▁\p{L}\p{N}\n]+|▁"

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role != ("user" if loop.index0 is even else "assistant") -%}
{{- raise_exception("turns must be user, assistant, user, ... in this order; a system role is not supported") -}}
{%- endif -%}
{%- set speaker = "model" if message.role == "assistant" else "user" -%}
{{- "<start_of_turn>" ~ speaker ~ "\\n" ~ message.content | trim ~ "<end_of_turn>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- "<start_of_turn>model\\n" -}}
{%- endif -%}
"""


def read_train_pairs(path):
    """Return (topic, sentence) pairs of the train split of prepare_data.py, unless it was given another --seed.

    The stances only serve to draw the splits.
    """
    rows = duplicates.merge_duplicates(annotations.read_corpus(path)).rows
    return [
        (row["topic"], row["text"])
        for row in splitting.draw_splits(rows, splitting.SPLIT_SEED)["train"]
    ]


def train_tokenizer(pairs):
    """Return a GemmaTokenizer (byte-pair encoding with byte fallback) trained on the chat turns of the pairs."""
    trainee = tokenizers.Tokenizer(
        tokenizers.models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    trainee.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    trainee.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PIECES), "isolated")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=CONTROL_TOKENS + BYTE_TOKENS,
        show_progress=False,
    )
    turns = [
        f"{role}\n" + prompts.build_prompt(*pair) for pair in pairs for role in ("user", "model")
    ]
    trainee.train_from_iterator(turns, trainer)
    learnt = json.loads(trainee.to_str())["model"]
    tokenizer = transformers.GemmaTokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.add_tokens(
        [tokenizers.AddedToken(turn, special=True, normalized=False) for turn in TURN_TOKENS]
    )
    tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A",
        pair="<bos> $A <bos>:1 $B:1",
        special_tokens=[("<bos>", tokenizer.bos_token_id)],
    )
    return tokenizer


def build_model(tokenizer):
    """Return a Gemma-2 with random float32 weights; soft caps and sliding window are those of gemma-2-9b-it."""
    config = transformers.Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=INTERMEDIATE_SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        head_dim=HEAD_DIM,
        query_pre_attn_scalar=HEAD_DIM,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        sliding_window=4096,
    )
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=prefix_tree.ATTENTION, dtype=torch.float32
    )
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(TURN_TOKENS[1])],
    )
    return model


def relate_tokens(bags, size):
    """Return a vector [size, RELATED_DIMS] a token, alike for tokens of similar sentences; mean square length 1.

    Latent semantic analysis: the leading right singular vectors of the sentence-token matrix, tf-idf weighted.
    Steps of gradient descent would need far more text to find the same.
    """
    counts = torch.stack(
        [torch.bincount(torch.tensor(bag), minlength=size) for bag in bags]
    ).float()
    rarity = torch.log((1 + len(bags)) / (1 + (counts > 0).sum(0))) + 1
    weighted = torch.nn.functional.normalize(torch.log1p(counts) * rarity)
    axes = torch.linalg.svd(weighted, full_matrices=False).Vh[:RELATED_DIMS]
    vectors = axes.T * rarity[:, None]
    return vectors / vectors.square().sum(1).mean().sqrt()


def place_related(model, bags):
    """Move the random embeddings of tokens of similar sentences towards each other, in the first RELATED_DIMS."""
    embeddings = model.get_input_embeddings().weight
    vectors = relate_tokens(bags, len(embeddings))
    with torch.no_grad():
        embeddings[:, : vectors.shape[1]] += vectors * embeddings.norm(dim=1).mean()


def make_batch(tokenizer, pairs, bags, closing, rng):
    """Return tree inputs, nodes [K] and their target tokens [K] of a pre-training batch.

    A node predicts the next token, so the model learns language and to answer with a label; the label is drawn anew
    each time, so it learns nothing about stance. A node of the prompt's closing tokens predicts a random token of the
    sentence instead: this brings the sentence to where the answer is formed, and a small adapter can build on it.
    """
    asked = chat.encode_examples(tokenizer, pairs)
    answered = chat.encode_examples(tokenizer, pairs, [rng.choice(prompts.LABELS) for _ in pairs])
    tree = prefix_tree.merge_prefixes([ids[:-1] for ids in answered], tokenizer.pad_token_id)
    targets = {}  # a dict as an ordered set: what all rows share counts once
    for question, ids, bag, nodes in zip(asked, answered, bags, tree.nodes, strict=True):
        following = ids[1:]
        for place in range(len(question) - closing, len(question) - 1):
            following[place] = rng.choice(bag)
        targets.update(dict.fromkeys(zip(nodes, following, strict=True)))
    nodes, tokens = map(torch.tensor, zip(*targets))
    return prefix_tree.tree_inputs(tree), nodes, tokens


def pretrain(model, tokenizer, pairs, bags):
    """Train the model for STEPS random batches of the pairs."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(
        True
    )  # or threads add up the gradients of a node in the order they finish
    rng = random.Random(PRETRAIN_SEED)
    reversed_ids = [ids[::-1] for ids in chat.encode_examples(tokenizer, pairs)]
    closing = len(
        os.path.commonprefix(reversed_ids)
    )  # tokens after the sentence, the same in all prompts
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PRETRAIN_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01
    )
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, STEPS // 10, STEPS)
    for _ in range(STEPS):
        chosen = rng.sample(range(len(pairs)), min(BATCH_SIZE, len(pairs)))
        drawn = [pairs[row] for row in chosen], [bags[row] for row in chosen]
        inputs, nodes, tokens = make_batch(tokenizer, *drawn, closing, rng)
        logits = prefix_tree.forward_tree(model, model.config, inputs, nodes)
        torch.nn.functional.cross_entropy(logits, tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    torch.use_deterministic_algorithms(deterministic)


def build(folder):
    """Write model (bfloat16), tokenizer and demo_model.json into a new folder."""
    pairs = read_train_pairs(CORPUS)
    tokenizer = train_tokenizer(pairs)
    chat.label_token_ids(tokenizer)  # refuses a tokenizer that splits a label
    bags = tokenizer(
        [text for _, text in pairs], add_special_tokens=False, split_special_tokens=True
    )["input_ids"]
    torch.manual_seed(PRETRAIN_SEED)
    model = build_model(tokenizer)
    place_related(model, bags)
    pretrain(model, tokenizer, pairs, bags)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {
        name: value
        for name, value in environment.collect_settings(sys.modules[__name__]).items()
        if name != "CORPUS"
    }
    files.write_json(Path(folder) / loading.DEMO_FILE, {"note": NOTE, "settings": settings})
