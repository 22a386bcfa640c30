"""The work that all benchmarks measure: a random gemma-2-9b and rows with the prompt's realistic
lengths.

Speed and memory do not depend on what the weights know, so a random model of the exact architecture
gives real figures (and no accuracy). Sentences are shuffled words of the sample corpus; their
length in tokens is log-normal with median 23 and mean 26, as in annotated online debate.
"""

import argparse
import math
import random
from pathlib import Path

import torch
import transformers

import prompts
from stance.common import errors
from stance.corpus import annotations
from stance.model import loading

# ---------------------------------------------------------------- settings
MODEL = "/tmp/random-gemma-2-9b"  # folder of the model; built at random if it does not exist
SENTENCE_MEDIAN = 23  # tokens
SENTENCE_MEAN = 26  # tokens
MAX_SENTENCE = 120  # tokens
# --------------------------------------------------------------------------

SAMPLE = Path(__file__).parent.parent / "data" / "stance_corpus_sample.xlsx"


def make_rows(
    tokenizer: transformers.PreTrainedTokenizerBase, count: int, seed: int
) -> list[dict[str, str]]:
    """Return rows {topic, text, label}, five topics, with sentences of the stated lengths."""
    rng = random.Random(seed)
    sample = annotations.read_corpus(SAMPLE)
    words = [word for row in sample for word in row["text"].split()]
    topics = sorted({row["topic"] for row in sample})
    # Of a log-normal distribution, mean = median * exp(sigma^2 / 2).
    sigma = math.sqrt(2 * math.log(SENTENCE_MEAN / SENTENCE_MEDIAN))
    rows = []
    for _ in range(count):
        drawn = round(rng.lognormvariate(math.log(SENTENCE_MEDIAN), sigma))
        length = min(max(2, drawn), MAX_SENTENCE)
        text = " ".join(rng.choices(words, k=length))  # a word is a token at least
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:length]
        rows.append(
            {
                "topic": rng.choice(topics),
                "text": tokenizer.decode(ids),
                "label": rng.choice(prompts.LABELS),
            }
        )
    return rows


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which model a benchmark measures."""
    parser.add_argument("--model", default=MODEL, help="folder of the model (%(default)s)")
    parser.add_argument(
        "--tokenizer", help="folder of Gemma's tokenizer, to build a random model with"
    )


def prepare_model(args: argparse.Namespace) -> transformers.PreTrainedTokenizerBase:
    """Return the tokenizer of the model to measure; build the model if its folder does not exist.

    args: with the flags of add_model_flags. Fails if there is nothing to build it from.
    """
    if not Path(args.model).is_dir():
        if not args.tokenizer:
            errors.fail(
                f"{args.model} does not exist: give --tokenizer to build a random model there"
            )
        build_gemma(args.model, transformers.AutoTokenizer.from_pretrained(args.tokenizer))
        torch.cuda.empty_cache()  # processes that this one starts plan with the free memory
    return loading.load_tokenizer(args.model)


def empty_caches(folder: str) -> dict[str, str]:
    """Return environment variables with which compilers find nothing of earlier runs: caches in
    this empty folder."""
    return {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor", "TRITON_CACHE_DIR": f"{folder}/triton"}


def gemma_config() -> transformers.Gemma2Config:
    """Return the published shape of google/gemma-2-9b-it."""
    return transformers.Gemma2Config(
        vocab_size=256000,
        hidden_size=3584,
        intermediate_size=14336,
        num_hidden_layers=42,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=256,
        query_pre_attn_scalar=256,
        sliding_window=4096,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        max_position_embeddings=8192,
    )


def build_gemma(folder: str, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Save a random bfloat16 gemma-2-9b-it with its tokenizer (18.5 GB); built on the GPU if there
    is one."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.Gemma2ForCausalLM(gemma_config())
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
