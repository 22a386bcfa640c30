"""Measure what labels of several tokens cost: training, validation and scoring against labels of one token.

The same rows are computed with the usual labels and with the first token of each in its place, by turns in one process,
so that other work on the machine slows both; without a GPU, seconds are those in which this process had a core. The
base is one whose tokenizer cuts a label into several tokens, as SmolLM2 and Qwen cut neu; for another, ratios of 1 show
how exactly this machine measures. On a GPU the layers are compiled and steps recorded as in finetune.py, and --rows 4096
fills the batches that evaluate.py and predict.py score.

Writes all times with versions and device to --output, anew after each part; prints the table.

    PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/label_tokens.py --base-model outputs/smollm2-135m-instruct
    PYTHONPATH=. python benchmarks/label_tokens.py --base-model path/to/qwen --rows 4096 --steps 48
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import peft
import torch
import transformers
import workload

import finetune
from stance.common import environment, errors, files, flags, formatting
from stance.model import chat, compilation, cuda_graphs, loading, lora_linear, scoring
from stance.training import callbacks, tree_trainer
from stance.tree import prefix_tree

# ---------------------------------------------------------------- settings
OUTPUT = "benchmarks/results/label_tokens.json"  # of this run
ROWS = 256  # validated; scored
STEPS = 12  # of finetune.py's effective batch, each with both kinds of labels
ROUNDS = 3  # of validation and of scoring, each with both kinds of labels
SINGLE_ANSWERS = 20  # prompts scored one at a time, on a GPU
SEED = 0  # of the rows
# --------------------------------------------------------------------------

KINDS = ("one token", "usual")  # of labels
HEADERS = ["Work", "one token, s", "usual, s", "ratio", "quartiles"]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument("--base-model", required=True, help="hub name or folder of the base")
    parser.add_argument("--rows", type=int, default=ROWS, help="validated, scored (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of training (%(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the rest (%(default)s)")
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the times (%(default)s)")
    return parser.parse_args(argv)


@contextlib.contextmanager
def use_labels(kind: str, tokenizer: transformers.PreTrainedTokenizerBase) -> Iterator[None]:
    """Let labels be encoded as one of KINDS while the context lasts; prompts stay as they are."""
    label_ids = chat.encode_labels(tokenizer)
    if kind == "one token":
        label_ids = [ids[:1] for ids in label_ids]
    if len(set(map(tuple, label_ids))) < len(label_ids):
        errors.fail("two labels begin with the same token: nothing to compare with")
    with mock.patch.object(chat, "encode_labels", lambda tokenizer: label_ids):
        yield


def measure_pairs(
    work: Callable[[str, int], object],
    rounds: int,
    tokenizer: transformers.PreTrainedTokenizerBase,
) -> dict[str, list[float]]:
    """Return the seconds of work(kind, round) for each of KINDS in each round.

    The kinds take turns in being the first of a round.
    """
    seconds = {kind: [] for kind in KINDS}
    for index in range(rounds):
        order = KINDS if index % 2 == 0 else KINDS[::-1]
        for kind in order:
            with use_labels(kind, tokenizer):
                started = read_clock()
                work(kind, index)
                seconds[kind].append(read_clock() - started)
    return seconds


def read_clock() -> float:
    """Return a time in seconds, once a GPU has computed all that it was given.

    Without a GPU it is the time that this process had the cores: others may want them too.
    """
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def compare_seconds(seconds: dict[str, list[float]]) -> dict:
    """Return the figures for the record: medians, and the ratios of usual labels to one token."""
    ratios = [
        usual / one for one, usual in zip(seconds["one token"], seconds["usual"], strict=True)
    ]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "median_seconds": {kind: statistics.median(seconds[kind]) for kind in KINDS},
        "ratio": statistics.median(ratios),
        "quartiles": [quartiles[0], quartiles[2]],
        "seconds": seconds,
    }


# ---------------------------------------------------------------- training and validation


def build_trainer(
    args: argparse.Namespace,
    folder: str,
    tokenizer: transformers.PreTrainedTokenizerBase,
    rows: list[dict],
) -> tree_trainer.StanceTrainer:
    """Return finetune.py's trainer, made fast, which prints nothing.

    rows: {topic, text, label}, to train on and to validate.
    """
    words = ["--base-model", args.base_model]
    trainer = finetune.build_trainer(
        finetune.parse_args(words), Path(folder), tokenizer, rows, rows[: args.rows]
    )
    trainer.accelerate(finetune.GRADIENT_CHECKPOINTING, finetune.LORA_DROPOUT > 0)
    trainer.remove_callback(callbacks.TrainingLines)
    trainer.remove_callback(callbacks.JsonlLog)
    return trainer


def measure_training(
    trainer: tree_trainer.StanceTrainer,
    tokenizer: transformers.PreTrainedTokenizerBase,
    rows: list[dict],
    steps: int,
) -> dict[str, dict]:
    """Return the figures of training steps, forward and backward.

    On a GPU of the first time too, in which steps are recorded, with how many were.
    """
    size = trainer.args.per_device_train_batch_size
    batches = {}
    collators = {}
    for kind in KINDS:
        with use_labels(kind, tokenizer):
            columns = tree_trainer.encode_rows(tokenizer, rows)
            row_targets = tree_trainer.count_targets(columns["labels"])
            collators[kind] = tree_trainer.TreeCollator(tokenizer.pad_token_id, row_targets)
            encoded = [
                {"input_ids": ids, "labels": labels}
                for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True)
            ]
            batches[kind] = [encoded[step * size :][:size] for step in range(steps + 1)]
    recordings = dict.fromkeys(KINDS)
    if trainer.step_graphs is not None:
        for kind in KINDS:
            graphs = trainer.step_graphs
            recordings[kind] = cuda_graphs.StepGraphs(
                graphs.run_step, graphs.weights, graphs.count_bytes
            )

    def run_step(kind: str, step: int) -> None:
        inputs = collators[kind](batches[kind][step])
        inputs["items"] = inputs["target_weights"].sum()
        inputs = trainer._prepare_inputs(inputs)
        if recordings[kind] is None:
            with prefix_tree.compute_precision(trainer.model):
                trainer.compute_loss(trainer.model, inputs).backward()
        else:
            recordings[kind](inputs)
        for weight in trainer.trained:
            weight.grad = None

    figures = {}
    trainer.model.train()
    for kind in KINDS:  # what is compiled and allocated at first
        run_step(kind, steps)
    if trainer.step_graphs is not None:
        recorded = compare_seconds(measure_pairs(run_step, steps, tokenizer))
        recorded["recorded"] = {kind: len(recordings[kind].graphs) for kind in KINDS}
        figures["training step, recorded at first"] = recorded
    figures["training step"] = compare_seconds(measure_pairs(run_step, steps, tokenizer))
    trainer.step_graphs = None
    return figures


def measure_validation(
    trainer: tree_trainer.StanceTrainer,
    tokenizer: transformers.PreTrainedTokenizerBase,
    rows: list[dict],
    rounds: int,
) -> dict:
    """Return the figures of trainer.evaluate over rows {topic, text, label}."""
    data = {}
    for kind in KINDS:
        with use_labels(kind, tokenizer):
            columns = tree_trainer.encode_rows(tokenizer, rows)
            data[kind] = type(trainer.eval_dataset).from_dict(columns)

    def validate(kind: str, index: int) -> None:
        trainer.eval_dataset = data[kind]
        trainer.evaluate()

    measure_pairs(validate, 1, tokenizer)  # what is compiled and allocated at first
    return compare_seconds(measure_pairs(validate, rounds, tokenizer))


# ---------------------------------------------------------------- scoring


def measure_scoring(
    base: str,
    tokenizer: transformers.PreTrainedTokenizerBase,
    rows: list[dict],
    rounds: int,
) -> dict[str, dict]:
    """Return the figures of scoring.score_prompts over rows {topic, text}, with a new adapter.

    On a GPU: as predict.py answers one sentence, as it scores few rows, and by compiled layers.
    """
    encoded = chat.encode_examples(tokenizer, [(row["topic"], row["text"]) for row in rows])
    model = peft.get_peft_model(loading.load_base(base), finetune.make_lora_config())
    lora_linear.fuse_adapters(model)
    batch_size = compilation.prepare_scoring(model, 0)

    def score(kind: str, index: int) -> None:
        scoring.score_prompts(model, tokenizer, encoded, batch_size)

    def answer_one(kind: str, index: int) -> None:
        model.prediction_graph = recordings[kind]
        scoring.score_prompts(model, tokenizer, [encoded[index]])
        del model.prediction_graph

    figures = {}
    if torch.cuda.is_available():
        recordings = {}
        for kind in KINDS:
            with use_labels(kind, tokenizer):
                scoring.record_single_answers(model, tokenizer)
                recordings[kind] = model.prediction_graph
        measure_pairs(answer_one, 1, tokenizer)
        singles = measure_pairs(answer_one, min(SINGLE_ANSWERS, len(rows)), tokenizer)
        figures["one answer"] = compare_seconds(singles)
    measure_pairs(score, 1, tokenizer)
    figures["scoring"] = compare_seconds(measure_pairs(score, rounds, tokenizer))
    if torch.cuda.is_available():
        batch_size = compilation.prepare_scoring(model, compilation.COMPILE_MIN_ROWS)
        measure_pairs(score, 1, tokenizer)
        compiled = measure_pairs(score, rounds, tokenizer)
        figures["scoring, compiled"] = {**compare_seconds(compiled), "batch_size": batch_size}
    return figures


# ---------------------------------------------------------------- the whole


def run(args: argparse.Namespace) -> None:
    """Measure, write the record after each part, and print the table."""
    tokenizer = loading.load_tokenizer(args.base_model)
    count = max(args.rows, (args.steps + 1) * finetune.EFFECTIVE_BATCH_SIZE)
    rows = workload.make_rows(tokenizer, count, SEED)
    results = {}
    record = {
        "results": results,
        "base_model": Path(args.base_model).name,
        "label_ids": chat.encode_labels(tokenizer),
        "rows": args.rows,
        "rows_a_step": finetune.MICRO_BATCH_SIZE,
        "seed": SEED,
        "device": loading.device_name(),
        "threads": torch.get_num_threads(),
        "environment": environment.describe_environment(),
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(args, folder, tokenizer, rows)
        results.update(measure_training(trainer, tokenizer, rows, args.steps))
        files.write_json(args.output, record)
        results["validation"] = measure_validation(
            trainer, tokenizer, rows[: args.rows], args.rounds
        )
        files.write_json(args.output, record)
        del trainer
    results.update(measure_scoring(args.base_model, tokenizer, rows[: args.rows], args.rounds))
    files.write_json(args.output, record)
    print(formatting.format_table(HEADERS, list_lines(results)))
    print(f"wrote {args.output}")


def list_lines(results: dict[str, dict]) -> list[list[str]]:
    """Return the table's lines, one for each kind of work."""
    lines = []
    for name, figures in results.items():
        medians = figures["median_seconds"]
        low, high = figures["quartiles"]
        lines.append(
            [
                name,
                f"{medians['one token']:.3f}",
                f"{medians['usual']:.3f}",
                f"{figures['ratio']:.3f}",
                f"{low:.3f} to {high:.3f}",
            ]
        )
    return lines


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(workload.empty_caches(folder))
        run(args)


if __name__ == "__main__":
    main()
