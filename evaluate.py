"""Compare the base model with a fine-tuned adapter on the test split, both scored in one load.

Reads the splits of --data-dir and the adapter folder that finetune.py wrote; or without any model: with --predictions
the records of an earlier evaluation, with --runs those of several (adapters, seeds), to compare them.
Writes to --output-dir evaluation.jsonl, validation.jsonl, robustness.jsonl (a record an answered row), evaluation.json
(all numbers), report.md, results.tex, errors.xlsx, pictures; beside an adapter its model card, README.md,
which --predictions leaves as it is.

    python evaluate.py
    python evaluate.py --adapter outputs/my-run --mode generate
    python evaluate.py --runs outputs/seed-0 outputs/seed-1 outputs/seed-2
    torchrun --nproc-per-node 2 evaluate.py  # as many as there are GPUs
"""

from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load

# isort: split
import argparse
import time
from pathlib import Path

import prompts
from stance.common import distributed, environment, errors, files, formatting
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

# ---------------------------------------------------------------- settings
ADAPTER = "outputs/gemma-2-9b-it-stance"  # folder that finetune.py wrote; none: the base alone
BASE_MODEL = (
    "google/gemma-2-9b-it"  # with ADAPTER none: hub name or folder; else the adapter names its base
)
DATA_DIR = "data"  # folder of the splits that prepare_data.py wrote
BASE_RESULTS = "outputs/base"  # where results of the base alone go
MODE = (
    "score"  # score: label probabilities from one forward pass; generate: greedy text, as published
)
ROBUSTNESS_ROWS = 200  # test rows asked again in every variant of stance/evaluation/prompt_variants.py, in --mode score; 0: none
RUNS_RESULTS = "outputs/runs"  # where --runs leaves its tables
PUSH_TO_HUB = None  # "user/name": push the adapter and its model card to the Hugging Face Hub; None: push nothing
PUSH_PRIVATE = True  # False: everybody can read what is pushed
# --------------------------------------------------------------------------


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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
        "--predictions", help="an evaluation.jsonl: compute its tables again, without a model"
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
    if distributed.get_rank()[1] > 1 and (args.runs or args.predictions):
        errors.fail("torchrun is for answering: without a model, start evaluate.py with python")
    return args


def report_runs(args):
    """Print and write the table of several evaluations, with mean and standard deviation."""
    found, run = predictions.read_runs(args.runs)
    note = run.get("note")
    output_dir = Path(args.output_dir or RUNS_RESULTS)
    files.make_folder(output_dir)
    result = analysis.compare_runs(found)
    table = formatting.format_table(*result_tables.tabulate_runs(result))
    print(f"\n{table}\n\n{result_tables.describe_runs(result)}")
    written = report.write_runs(output_dir, result, note)
    print(f"{note}\n" if note else "", end="")
    print(f"wrote {', '.join(written)} to {output_dir}")


def resolve_base(args):
    """Return (base model, adapter folder or None), checked against each other before any weights load."""
    if args.adapter == "none":
        return args.base_model or BASE_MODEL, None
    record = adapters.check_adapter(args.adapter)
    if args.base_model not in (None, record["base_model"]):
        problem = f"{args.adapter} was trained on {record['base_model']}, not on {args.base_model}"
        errors.fail(f"{problem}: leave out --base-model")
    return record["base_model"], args.adapter


def answer_rows(model, tokenizer, encoded, mode, size=None):
    """Return one answer for each prompt: prediction (a label or None), and the probabilities or reply behind it.

    size: prompts a forward pass when scoring (None: scoring.SCORE_BATCH_SIZE).
    """
    if mode == "generate":
        with memory.explain_memory(
            "generate", "lower GENERATE_BATCH_SIZE in stance/model/scoring.py, or give --mode score"
        ):
            replies = scoring.generate_replies(model, tokenizer, encoded)
        return [{"prediction": prompts.parse_label(reply), "reply": reply} for reply in replies]
    scores = scoring.score_prompts(model, tokenizer, encoded, size)
    return [
        {
            "prediction": scoring.pick_label(row),
            "probabilities": dict(
                zip(prompts.LABELS, (float(f"{p:.6g}") for p in row), strict=True)
            ),
            "label_mass": round(mass, 6),
        }
        for row, mass in zip(scores.probabilities.tolist(), scores.label_mass.tolist(), strict=True)
    ]


def share_answers(model, tokenizer, encoded, mode, size):
    """Return answer_rows of the prompts, computed by all processes.

    A process takes whole batches of those that one alone would make, so that roundings and records are the same.
    """
    order = (
        sorted(range(len(encoded)), key=encoded.__getitem__)
        if mode == "score"
        else range(len(encoded))
    )
    own = sorted(distributed.shard(order, size))  # score_prompts puts them into that order again
    answers = (
        answer_rows(model, tokenizer, [encoded[row] for row in own], mode, size) if own else []
    )
    found = dict(distributed.join_lists(list(zip(own, answers, strict=True))))
    return [found[row] for row in range(len(encoded))]


def load_splits(data_dir):
    """Return {split: rows} of the test split and, where they are, the others; stop if a sentence is in two of them."""
    splits = {"test": splitting.load_split(Path(data_dir) / "test.jsonl")}
    for name, loss in (("train", "no baselines"), ("val", "no baselines and no temperature")):
        path = Path(data_dir) / f"{name}.jsonl"
        if path.is_file():
            splits[name] = splitting.load_split(path)
        else:
            print(f"note: {path} not found: {loss}")
    splitting.check_splits_disjoint(splits)
    return splits


def list_questions(args, splits):
    """Return {part: (rows, prompt_variants.Variant)}: what models are asked; with --mode generate, the test alone."""
    pairs = {name: [(row["topic"], row["text"]) for row in rows] for name, rows in splits.items()}
    questions = {
        "evaluation": (
            splits["test"],
            prompt_variants.Variant(prompts.PROMPT_TEMPLATE, pairs["test"]),
        )
    }
    if args.mode == "score" and "val" in splits:
        questions["validation"] = (
            splits["val"],
            prompt_variants.Variant(prompts.PROMPT_TEMPLATE, pairs["val"]),
        )
    rows = splits["test"][
        : args.robustness_rows
    ]  # ordered by id, so that the first are no special ones
    if args.mode == "score" and rows:
        questions |= {
            name: (rows, variant) for name, variant in prompt_variants.build_variants(rows).items()
        }
    return questions


def run_models(args, base, adapter, splits):
    """Return (records of all parts, description of the run)."""
    with distributed.first_rank_first():
        loading.check_base(base)
        tokenizer = loading.load_tokenizer(base)
        compared = {"splits_of_adapter": None}
        if adapter is not None:
            adapters.check_same_base(adapter, base, tokenizer)
            train_hash = adapters.check_adapter(adapter)["data"]["train"]["sha256"]
            compared = fingerprints.compare_splits(
                args.data_dir, adapter, train_hash, splits["test"]
            )
        questions = list_questions(args, splits)
        encoded = {
            part: chat.encode_examples(tokenizer, variant.pairs, template=variant.template)
            for part, (_, variant) in questions.items()
        }
    baseline_labels = (
        baselines.predict_baselines(splits["train"], splits["val"], splits["test"])
        if len(splits) == 3
        else {}
    )
    model = loading.load_base(base)
    count = sum(map(len, encoded.values()))
    size = (
        compilation.prepare_scoring(model, count)
        if args.mode == "score"
        else scoring.GENERATE_BATCH_SIZE
    )
    size = (
        distributed.take_from_first(size) or scoring.SCORE_BATCH_SIZE
    )  # or shares would not fit, on GPUs of unequal memory
    answers, started = {part: {} for part in questions}, time.time()
    for name in ("base",) if adapter is None else ("base", "fine-tuned"):
        model = model if name == "base" else adapters.load_adapter(model, adapter)
        for part, sequences in encoded.items():
            answers[part][name] = share_answers(model, tokenizer, sequences, args.mode, size)
    distributed.go_on_alone()
    seconds = time.time() - started
    run = {
        "mode": args.mode,
        "base_model": base,
        "adapter": adapter,
        "demo": loading.read_demo_note(base) is not None,
        "note": loading.read_demo_note(base),
        "prompt_version": prompts.PROMPT_VERSION,
        "shortened_sentences": chat.report_long(tokenizer, questions["evaluation"][1].pairs),
        **compared,
        "test_sha256": files.hash_file(Path(args.data_dir) / "test.jsonl"),
        "seconds": round(seconds, 2),
        "answers_per_second": round(count * len(answers["evaluation"]) / seconds, 1),
        "device": loading.device_name(),
        "processes": distributed.get_rank()[1],
        "batch_size": size,
        "peak_gpu_gib": loading.peak_gpu_gib(),
        "environment": environment.describe_environment(),
    }
    return predictions.collect_parts(questions, answers, baseline_labels), run


def print_report(result):
    """Print the summary table, then labels and topics of each model."""
    print(f"\n{result_tables.format_summary(result)}")
    for name, numbers in result.items():
        print(f"\n{name}, by label\n{result_tables.format_labels(numbers)}")
        print(f"\n{name}, by topic\n{result_tables.format_topics(numbers['topics'])}")


def main(argv=None):
    args = parse_args(argv)
    if args.runs:
        report_runs(args)
        return
    if args.predictions:
        parts, run = predictions.read_parts(args.predictions)
        run["rescored"] = Path(args.predictions).name
        output_dir = Path(args.output_dir or Path(args.predictions).parent)
        files.make_folder(output_dir)
        written = []
    else:
        distributed.join_ranks()
        with distributed.first_rank_first():
            splits = load_splits(args.data_dir)
            base, adapter = resolve_base(args)
            home = Path(adapter or BASE_RESULTS)
            output_dir = Path(
                args.output_dir or (home if args.mode == "score" else home / args.mode)
            )
            files.make_folder(output_dir)
        parts, run = run_models(args, base, adapter, splits)
        written = predictions.write_parts(output_dir, parts, run)
    table = parts["evaluation"]
    result = analysis.compute_model_metrics(table)
    numbers = analysis.analyse(table, parts["validation"], parts["robustness"])
    run.setdefault("note", None)
    print_report(result)
    print(f"\n{report.format_statistics(numbers)}\n")
    written += report.write_results(output_dir, run, table, result, numbers)
    written += model_card.publish(output_dir, run, table, numbers, PUSH_TO_HUB, PUSH_PRIVATE)
    print(f"{run['note']}\n" if run["note"] else "", end="")
    print(f"wrote {', '.join(written)} to {output_dir}")


if __name__ == "__main__":
    errors.run_script(main)
