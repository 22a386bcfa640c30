"""Measure scoring speed of gemma-2-9b with an adapter on this GPU: generated answers against label scoring.

Builds a random gemma-2-9b in --model if that folder does not exist yet (18.5 GB), or measures the model it holds; the
adapter is random. Writes all figures with versions and device to --output; prints the table.

    PYTHONPATH=. python benchmarks/score_throughput.py --tokenizer path/to/gemma-tokenizer
    PYTHONPATH=. python benchmarks/score_throughput.py --model path/to/gemma-2-9b-it
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import peft
import torch
import transformers
import workload

import finetune
from stance.common import environment, files, flags, formatting
from stance.model import chat, compilation, loading, lora_linear, scoring

# ---------------------------------------------------------------- settings
OUTPUT = "benchmarks/results/score_throughput.json"  # of this run
ROWS = 4096  # scored by each setting of label scoring
GENERATED_ROWS = 64  # answered by each setting of generation
SINGLE_ANSWERS = 20  # one at a time
SEED = 0  # of the rows
# --------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    workload.add_model_flags(parser)
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the figures (%(default)s)")
    return parser.parse_args(argv)


def time_rows(predict: Callable[[list[list[int]]], object], encoded: list[list[int]]) -> float:
    """Return rows a second of predict(encoded), where encoded holds the token ids of each row."""
    torch.cuda.synchronize()
    started = time.time()
    predict(encoded)
    torch.cuda.synchronize()
    return len(encoded) / (time.time() - started)


def measure(
    model: torch.nn.Module,
    tokenizer: transformers.PreTrainedTokenizerBase,
    encoded: list[list[int]],
) -> dict:
    """Return the speeds for the record: {setting: rows a second}, the seconds of a single
    prediction, and those of the first compiled rows.

    encoded: the token ids of each prompt.
    """

    def generate(rows: list[list[int]]) -> None:
        scoring.generate_replies(model, tokenizer, rows)

    def score(rows: list[list[int]]) -> None:
        scoring.score_prompts(model, tokenizer, rows)

    results = {}
    for batch in (8, 64):
        scoring.GENERATE_BATCH_SIZE = batch
        generate(encoded[:batch])
        results[f"generate, batch {batch}"] = time_rows(generate, encoded[:GENERATED_ROWS])
    compilation.prepare_scoring(model, 0)
    scoring.record_single_answers(model, tokenizer)  # as predict.py does for one sentence
    single = []
    for row in encoded[:SINGLE_ANSWERS]:
        single.append(1 / time_rows(score, [row]))
    del model.prediction_graph
    score(encoded[:256])
    results["score, uncompiled"] = time_rows(score, encoded[:1024])
    compilation.prepare_scoring(model, compilation.COMPILE_MIN_ROWS)
    started = time.time()
    score(encoded[:1024])
    compile_seconds = time.time() - started
    for batch in (128, 256, 512, compilation.COMPILED_BATCH_SIZE):
        scoring.SCORE_BATCH_SIZE = batch
        score(encoded[:1024])
        results[f"score, batch {batch}"] = time_rows(score, encoded)
    return {
        "rows_per_second": results,
        "single_answer_seconds": {"first": single[0], "median": statistics.median(single)},
        "first_compiled_1024_rows_seconds": compile_seconds,
    }


def run(args: argparse.Namespace) -> None:
    """Measure, write the record and print the table."""
    tokenizer = workload.prepare_model(args)
    rows = workload.make_rows(tokenizer, ROWS, SEED)
    encoded = chat.encode_examples(tokenizer, [(row["topic"], row["text"]) for row in rows])
    lora = peft.LoraConfig(
        r=finetune.LORA_R, lora_alpha=finetune.LORA_ALPHA, target_modules=finetune.LORA_TARGETS
    )
    model = peft.get_peft_model(loading.load_base(args.model), lora)
    lora_linear.fuse_adapters(model)  # as adapters.load_adapter does
    record = {
        **measure(model, tokenizer, encoded),
        "peak_gib": loading.peak_gpu_gib(),
        "seed": SEED,
        "device": loading.device_name(),
        "environment": environment.describe_environment(),
    }
    files.write_json(args.output, record)
    results = record["rows_per_second"]
    baseline = results["generate, batch 8"]
    table = [[name, f"{rate:.1f}", f"{rate / baseline:.1f}x"] for name, rate in results.items()]
    print(formatting.format_table(["Setting", "rows/s", "ratio"], table))
    single = record["single_answer_seconds"]
    print(
        f"\none answer: {single['median'] * 1e3:.1f} ms, the first {single['first'] * 1e3:.1f} ms"
    )
    print(f"wrote {args.output}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(workload.empty_caches(folder))
        run(args)


if __name__ == "__main__":
    main()
