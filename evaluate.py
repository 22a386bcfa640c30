"""Compare the base model with a fine-tuned adapter on the test split, both scored in one load.

Reads the splits of --data-dir and the adapter folder that finetune.py wrote; or without any model: with --predictions
the records of an earlier evaluation, with --runs those of several (adapters, seeds), to compare them.
Writes to --output-dir evaluation.json (all numbers), results.tex, pictures, and to its folder texts/ what holds
sentences: evaluation.jsonl, validation.jsonl, robustness.jsonl (a record an answered row), report.md, errors.xlsx;
beside an adapter its model card, README.md, which --predictions leaves as it is.

    python evaluate.py
    python evaluate.py --adapter outputs/my-run --mode generate
    python evaluate.py --runs outputs/seed-0 outputs/seed-1 outputs/seed-2
    torchrun --nproc-per-node 2 evaluate.py  # as many as there are GPUs
"""

from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load

# isort: split
import argparse
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import prompts
from stance.common import (
    distributed,
    environment,
    errors,
    files,
    flags,
    formatting,
    leftovers,
    locks,
    run_files,
)
from stance.common.types import Example, Prediction
from stance.corpus import splitting
from stance.evaluation import (
    analysis,
    baselines,
    model_card,
    predictions,
    prompt_variants,
    report,
    result_tables,
)
from stance.model import adapters, chat, compilation, fingerprints, loading, memory, scoring

if TYPE_CHECKING:
    import torch
    import transformers

# ---------------------------------------------------------------- settings
ADAPTER = "outputs/gemma-2-9b-it-stance"  # folder that finetune.py wrote; none: the base alone
# With ADAPTER none: hub name or folder. Else the adapter names its base.
BASE_MODEL = "google/gemma-2-9b-it"
DATA_DIR = "data"  # folder of the splits that prepare_data.py wrote
BASE_RESULTS = "outputs/base"  # where results of the base alone go
# score: label probabilities from one forward pass; generate: greedy text, as published.
MODE = "score"
# Test rows that are asked again in every prompt variant, in --mode score; 0: none.
ROBUSTNESS_ROWS = 200
RUNS_RESULTS = "outputs/runs"  # where --runs leaves its tables
# "user/name": push the adapter and its model card to the Hugging Face Hub; None: push nothing.
PUSH_TO_HUB = None
PUSH_PRIVATE = True  # False: everybody can read what is pushed
# --------------------------------------------------------------------------

LOCK_FILE = "evaluate.lock"
Splits = dict[str, list[Example]]  # by "test" and, where they are, "train" and "val"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of a command; fail on those that are impossible together or alone."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument(
        "--base-model", help=f"base model (default: that of the adapter; without one {BASE_MODEL})"
    )
    parser.add_argument(
        "--adapter", default=ADAPTER, help="folder, or none: base only (%(default)s)"
    )
    parser.add_argument("--data-dir", default=DATA_DIR, help="folder of the splits (%(default)s)")
    parser.add_argument(
        "--mode", default=MODE, choices=("score", "generate"), help="how to answer (%(default)s)"
    )
    parser.add_argument(
        "--robustness-rows",
        type=int,
        default=ROBUSTNESS_ROWS,
        help="rows asked in other ways too (%(default)s)",
    )
    parser.add_argument(
        "--predictions",
        help="an evaluation.jsonl, or its folder: compute its tables again, without a model",
    )
    parser.add_argument(
        "--runs", nargs="+", help="folders of evaluations on one test split: compare them"
    )
    parser.add_argument(
        "--output-dir", help="where results go (default: beside the adapter or the predictions)"
    )
    args = parser.parse_args(argv)
    if args.robustness_rows < 0:
        errors.fail(f"--robustness-rows {args.robustness_rows} is impossible: give 0 or more")
    if args.runs and args.predictions:
        errors.fail("--runs and --predictions do not go together: leave one out")
    _, processes = distributed.get_rank()
    if processes > 1 and (args.runs or args.predictions):
        errors.fail("torchrun is for answering: without a model, start evaluate.py with python")
    return args


@contextlib.contextmanager
def hold_results(output_dir: Path) -> Iterator[None]:
    """Hold the lock of a folder for results, which is made; fail if another evaluation holds it.

    What killed ones left unfinished in it is deleted, see locks.hold_lock.
    """
    files.make_folder(output_dir)
    hint = "choose another --output-dir"
    with locks.hold_lock(output_dir / LOCK_FILE, output_dir, "evaluate.py", hint):
        leftovers.remove_leftovers(output_dir / run_files.TEXTS)
        yield


# ---------------------------------------------------------------- without a model


def report_runs(folders: list[str], output_dir: Path, held: contextlib.ExitStack) -> None:
    """Print and write the table of several evaluations, with mean and standard deviation.

    held: takes the lock of output_dir.
    """
    found, run = predictions.read_runs(folders)
    note = run.get("note")
    held.enter_context(hold_results(output_dir))
    result = analysis.compare_runs(found)
    table = formatting.format_table(*result_tables.tabulate_runs(result))
    print(f"\n{table}\n\n{result_tables.describe_runs(result)}")
    if result.get("without_leaks"):
        table = formatting.format_table(*result_tables.tabulate_runs(result["without_leaks"]))
        print(f"\nwithout the leaked rows\n{table}")
    written = report.write_runs(output_dir, result, note)
    print_written(written, output_dir, note)


def read_earlier(path: Path) -> tuple[predictions.Parts, dict]:
    """Return (records of all parts, description of the run) of an earlier evaluation.jsonl."""
    parts, run = predictions.read_parts(path)
    run["rescored"] = path.name
    # Of records without their evaluation.json, or where some were taken out.
    counted = {"val": analysis.count_leaked(parts["validation"]), **(run.get("leaked_rows") or {})}
    run["leaked_rows"] = {**counted, "test": analysis.count_leaked(parts["evaluation"])}
    return parts, run


# ---------------------------------------------------------------- before models load


def load_splits(data_dir: str) -> Splits:
    """Return the rows of the test split and, where they are, of the train and val split.

    Prints a note on those that are missing; fails if a sentence is in two of them, or if they are
    not of one run of prepare_data.py.
    """
    splits = {"test": splitting.load_split(Path(data_dir) / "test.jsonl")}
    lost_without = {"train": "no baselines", "val": "no baselines and no temperature"}
    for name, loss in lost_without.items():
        path = Path(data_dir) / f"{name}.jsonl"
        if path.is_file():
            splits[name] = splitting.load_split(path)
        else:
            print(f"note: {path} not found: {loss}")
    splitting.check_splits_disjoint(splits)
    if len(splits) > 1 or (Path(data_dir) / splitting.REPORT).is_file():
        splitting.read_report(data_dir, splits)
    else:
        print(
            f"note: {Path(data_dir) / splitting.REPORT} not found: the test split is taken as it is"
        )
    return splits


def resolve_base(base_model: str | None, adapter: str) -> tuple[str, str | None]:
    """Return (base model, adapter folder or None), checked before any weights load.

    base_model: None for that of the adapter, or without one BASE_MODEL; adapter: folder or "none".
    Fails on a folder without a finished adapter, and on another base than that of the adapter.
    """
    if adapter == "none":
        return base_model or BASE_MODEL, None
    record = adapters.check_adapter(adapter)
    if base_model not in (None, record["base_model"]):
        problem = f"{adapter} was trained on {record['base_model']}, not on {base_model}"
        errors.fail(f"{problem}: leave out --base-model")
    return record["base_model"], adapter


def choose_output_dir(given: str | None, adapter: str | None, mode: str) -> Path:
    """Return where results go: where --output-dir says, or to the adapter.

    Those of --mode generate go to a folder below it, so that neither mode replaces the other's.
    """
    if given:
        return Path(given)
    home = Path(adapter or BASE_RESULTS)
    return home if mode == "score" else home / mode


def check_own_splits(data_dir: str, adapter: str | None, output_dir: str | None) -> None:
    """Fail if results on other splits than the adapter's would replace those beside the adapter."""
    if adapter is None or output_dir is not None:
        return
    own = adapters.check_adapter(adapter)["data"]["train"]["sha256"]
    if not fingerprints.holds_train_split(data_dir, own):
        problem = f"{data_dir} does not hold the splits of {adapter}"
        hint = "name a folder for these results with --output-dir"
        errors.fail(f"{problem}, whose own evaluation would be replaced: {hint}")


# ---------------------------------------------------------------- with models


def evaluate_models(
    base: str, adapter: str | None, splits: Splits, data_dir: str, mode: str, robustness_rows: int
) -> tuple[predictions.Parts, dict]:
    """Return (records of all parts, description of the run) of base and adapter, in one load.

    adapter: a folder, or None for the base alone; data_dir: the folder of the splits. Of several
    processes, only the first returns.
    """
    with distributed.first_rank_first():
        tokenizer = load_checked_tokenizer(base, adapter)
        compared = compare_with_training(adapter, data_dir, splits["test"])
        questions = list_questions(splits, mode, robustness_rows)
        encoded = encode_questions(tokenizer, questions)
    baseline_labels = predict_by_baselines(splits)

    model = loading.load_base(base)
    count = sum(len(sequences) for sequences in encoded.values())
    size = prepare_to_predict(model, mode, count)
    started = time.time()
    predicted = run_models(model, adapter, tokenizer, encoded, mode, size)
    distributed.go_on_alone()
    seconds = time.time() - started

    _, asked = questions["evaluation"]
    run = {
        **describe_models(base, adapter, mode),
        "shortened_sentences": chat.report_long(tokenizer, asked.pairs),
        **compared,
        "leaked_rows": {
            name: analysis.count_leaked(splits[name]) for name in ("test", "val") if name in splits
        },
        "test_sha256": files.hash_file(Path(data_dir) / "test.jsonl"),
        **describe_speed(count * len(predicted["evaluation"]), seconds, size),
        "environment": environment.describe_environment(),
    }
    return predictions.collect_parts(questions, predicted, baseline_labels), run


def load_checked_tokenizer(
    base: str, adapter: str | None
) -> "transformers.PreTrainedTokenizerBase":
    """Return the tokenizer of a base; fail before any weights load if they cannot be used.

    That is, if this machine cannot run the base, or if the adapter was trained on another one.
    """
    loading.check_base(base)
    tokenizer = loading.load_tokenizer(base)
    if adapter is not None:
        adapters.check_same_base(adapter, base, tokenizer)
    return tokenizer


def compare_with_training(
    adapter: str | None, data_dir: str, test_rows: list[Example]
) -> dict[str, bool | None]:
    """Return what the run says about splits and adapter; fail if it has seen test sentences."""
    if adapter is None:
        return {"splits_of_adapter": None}
    record = adapters.check_adapter(adapter)
    train_hash = record["data"]["train"]["sha256"]
    cleaning_of_adapter = splitting.read_cleaning(record)
    return fingerprints.compare_splits(
        data_dir, adapter, train_hash, cleaning_of_adapter, test_rows
    )


def list_questions(splits: Splits, mode: str, robustness_rows: int) -> predictions.Questions:
    """Return {part: (rows, how they are asked)}: what each model is asked.

    The parts are evaluation and, with --mode score, validation and the prompt variants.
    """
    questions = {"evaluation": (splits["test"], ask_usually(splits["test"]))}
    if mode == "score":
        if "val" in splits:
            questions["validation"] = (splits["val"], ask_usually(splits["val"]))
        # The split is ordered by id, so that its first rows are no special ones.
        rows = splits["test"][:robustness_rows]
        if rows:
            for name, variant in prompt_variants.build_variants(rows).items():
                questions[name] = (rows, variant)
    return questions


def ask_usually(rows: list[Example]) -> prompt_variants.Variant:
    """Return the usual way to ask rows: the prompt that models are trained with."""
    pairs = [(row["topic"], row["text"]) for row in rows]
    return prompt_variants.Variant(prompts.PROMPT_TEMPLATE, pairs)


def encode_questions(
    tokenizer: "transformers.PreTrainedTokenizerBase", questions: predictions.Questions
) -> dict[str, list[list[int]]]:
    """Return {part: token ids of each prompt}."""
    return {
        part: chat.encode_examples(tokenizer, variant.pairs, template=variant.template)
        for part, (_, variant) in questions.items()
    }


def predict_by_baselines(splits: Splits) -> dict[str, list[str]]:
    """Return {baseline: one label a test row}; empty unless all three splits are there."""
    if len(splits) < 3:
        return {}
    return baselines.predict_baselines(splits["train"], splits["val"], splits["test"])


def prepare_to_predict(model: "torch.nn.Module", mode: str, count: int) -> int:
    """Make a loaded model fast for so many prompts; return the prompts of a forward pass."""
    if mode == "score":
        size = compilation.prepare_scoring(model, count)
    else:
        size = scoring.GENERATE_BATCH_SIZE
    # One size for all processes: else shards would not fit, on GPUs of unequal memory.
    return distributed.take_from_first(size) or scoring.SCORE_BATCH_SIZE


def run_models(
    model: "torch.nn.Module",
    adapter: str | None,
    tokenizer: "transformers.PreTrainedTokenizerBase",
    encoded: dict[str, list[list[int]]],
    mode: str,
    size: int,
) -> dict[str, dict[str, list[Prediction]]]:
    """Return {part: {model name: one prediction a prompt}} of the base, and with the adapter on it.

    encoded: {part: token ids of each prompt}; size: prompts of a forward pass.
    """
    predicted = {part: {} for part in encoded}
    for part, sequences in encoded.items():
        predicted[part]["base"] = predict_in_shards(model, tokenizer, sequences, mode, size)
    if adapter is not None:
        model = adapters.load_adapter(model, adapter)
        for part, sequences in encoded.items():
            predicted[part]["fine-tuned"] = predict_in_shards(
                model, tokenizer, sequences, mode, size
            )
    return predicted


def predict_in_shards(
    model: "torch.nn.Module",
    tokenizer: "transformers.PreTrainedTokenizerBase",
    encoded: list[list[int]],
    mode: str,
    size: int,
) -> list[Prediction]:
    """Return predict_rows of the prompts, computed by all processes.

    A process takes whole batches of those that one alone would make, so that roundings and records
    are the same.
    """
    order = range(len(encoded))
    if mode == "score":  # as score_prompts sorts them into batches
        order = sorted(order, key=encoded.__getitem__)
    own = sorted(distributed.shard(order, size))
    own_predictions = []
    if own:
        sequences = [encoded[row] for row in own]
        own_predictions = predict_rows(model, tokenizer, sequences, mode, size)
    found = distributed.join_lists(list(zip(own, own_predictions, strict=True)))
    prediction_of_row = dict(found)
    return [prediction_of_row[row] for row in range(len(encoded))]


def predict_rows(
    model: "torch.nn.Module",
    tokenizer: "transformers.PreTrainedTokenizerBase",
    encoded: list[list[int]],
    mode: str,
    size: int | None = None,
) -> list[Prediction]:
    """Return one prediction for each prompt: a label or None, and what is behind it.

    With mode generate that is the "reply"; with mode score the "probabilities" of the labels, in 6
    significant digits, and "label_mass", what the labels have of the probability of all tokens.
    encoded: token ids of each prompt; size: prompts of a forward pass with mode score (None:
    scoring.SCORE_BATCH_SIZE).
    """
    if mode == "generate":
        hint = "lower GENERATE_BATCH_SIZE in stance/model/scoring.py, or give --mode score"
        with memory.explain_memory("generate", hint):
            replies = scoring.generate_replies(model, tokenizer, encoded)
        return [{"prediction": prompts.parse_label(reply), "reply": reply} for reply in replies]
    scores = scoring.score_prompts(model, tokenizer, encoded, size)
    predicted = []
    for row, mass in zip(scores.probabilities.tolist(), scores.label_mass.tolist(), strict=True):
        rounded = [float(f"{probability:.6g}") for probability in row]
        predicted.append(
            {
                "prediction": scoring.pick_label(row),
                "probabilities": dict(zip(prompts.LABELS, rounded, strict=True)),
                "label_mass": round(mass, 6),
            }
        )
    return predicted


def describe_models(base: str, adapter: str | None, mode: str) -> dict:
    """Return what evaluation.json says about what was evaluated."""
    note = loading.read_demo_note(base)
    return {
        "mode": mode,
        "base_model": base,
        "adapter": adapter,
        "demo": note is not None,
        "note": note,
        "prompt_version": prompts.PROMPT_VERSION,
    }


def describe_speed(count: int, seconds: float, size: int) -> dict:
    """Return what evaluation.json says about how fast so many predictions were made, and by what.

    size: prompts of a forward pass.
    """
    _, processes = distributed.get_rank()
    return {
        "seconds": round(seconds, 2),
        "answers_per_second": round(count / seconds, 1),
        "device": loading.device_name(),
        "processes": processes,
        "batch_size": size,
        "peak_gpu_gib": loading.peak_gpu_gib(),
    }


# ---------------------------------------------------------------- the report


def report_results(parts: predictions.Parts, run: dict, output_dir: Path) -> list[str]:
    """Compute all numbers of the records, print and write them; return the names of the files.

    Of an evaluation in the adapter's own folder that is the model card too.
    """
    table = parts["evaluation"]
    result = analysis.compute_model_metrics(table)
    numbers = analysis.analyse(table, parts["validation"], parts["robustness"])
    print_report(result, numbers["leaks"])
    print(f"\n{report.format_statistics(numbers)}\n")
    written = report.write_results(output_dir, run, table, result, numbers)
    return written + model_card.publish(output_dir, run, table, numbers, PUSH_TO_HUB, PUSH_PRIVATE)


def print_report(result: dict[str, dict], leaks: dict) -> None:
    """Print the summary table, without leaked rows too, then labels and topics of each model.

    result: {model: metrics}, of analysis.compute_model_metrics; leaks:
    analysis.describe_without_leaks.
    """
    print(f"\n{result_tables.format_summary(result)}")
    labels = result_tables.describe_gold_labels(result)
    if labels:
        print(f"note: {labels}")
    if leaks:
        print(f"note: {result_tables.name_leaks(leaks['leaked'], leaks['rows'])}")
        kept = {name: leaks["scores"][name] for name in result if leaks["n"]}
        if kept:
            print(f"\nwithout the leaked rows\n{result_tables.format_summary(kept)}")
    for name, numbers in result.items():
        print(f"\n{name}, by label\n{result_tables.format_labels(numbers)}")
        topics = result_tables.pick_topics(numbers["topics"], numbers["other_topics"])
        print(f"\n{name}, by topic\n{result_tables.format_topics(topics)}")


def print_written(written: list[str], output_dir: Path, note: str | None) -> None:
    """Print which files were written where, below the note of a demo model."""
    if note:
        print(note)
    print(f"wrote {', '.join(written)} to {output_dir}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with contextlib.ExitStack() as held:
        if args.runs:
            report_runs(args.runs, Path(args.output_dir or RUNS_RESULTS), held)
        else:
            report_models(args, held)


def report_models(args: argparse.Namespace, held: contextlib.ExitStack) -> None:
    """Evaluate base and adapter, or read an earlier evaluation of them, and report the results.

    held: takes the lock of the folder that they go to.
    """
    if args.predictions:
        path = run_files.find_records(args.predictions)
        parts, run = read_earlier(path)
        output_dir = Path(args.output_dir or run_files.find_folder(path))
        held.enter_context(hold_results(output_dir))
        written = []
    else:
        distributed.join_ranks()
        with distributed.first_rank_first():
            splits = load_splits(args.data_dir)
            base, adapter = resolve_base(args.base_model, args.adapter)
            output_dir = choose_output_dir(args.output_dir, adapter, args.mode)
            check_own_splits(args.data_dir, adapter, args.output_dir)
            if distributed.get_rank()[0] == 0:
                held.enter_context(hold_results(output_dir))
        parts, run = evaluate_models(
            base, adapter, splits, args.data_dir, args.mode, args.robustness_rows
        )
        written = predictions.write_parts(output_dir, parts, run)
    run.setdefault("note", None)
    written += report_results(parts, run, output_dir)
    print_written(written, output_dir, run["note"])


if __name__ == "__main__":
    errors.run_script(main)
