"""Compare the base model with a fine-tuned adapter on the test split, both scored in one load.

Reads test.jsonl of --data-dir and the adapter folder that finetune.py wrote; or, with --predictions, the records of
an earlier evaluation, without any model.
Writes evaluation.jsonl (a record a row), evaluation.json (all numbers) and confusion.png to --output-dir.

    python evaluate.py
    python evaluate.py --adapter outputs/my-run --mode generate
"""

import argparse
import time
from pathlib import Path

import acceleration
import corpus
import figures
import metrics
import modeling
import prompts
import records
import scoring

# ---------------------------------------------------------------- settings
MODE = "score"  # score: label probabilities from one forward pass; generate: greedy text, as published
# --------------------------------------------------------------------------

RECORD_KEYS = ("id", "topic", "text", "label", "models")  # of a line in evaluation.jsonl


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--base-model", help="base model (default: the one that the adapter was trained on)")
    parser.add_argument("--adapter", default=modeling.RUN_DIR, help="folder, or none: base only (%(default)s)")
    parser.add_argument("--data-dir", default=corpus.DATA_DIR, help="folder of the splits (%(default)s)")
    parser.add_argument("--mode", default=MODE, choices=("score", "generate"), help="how to answer (%(default)s)")
    parser.add_argument("--predictions", help="an evaluation.jsonl: compute its tables again, without a model")
    parser.add_argument("--output-dir", help="where results go (default: beside the adapter or the predictions)")
    return parser.parse_args(argv)


def resolve_base(args):
    """Return (base model, adapter folder or None), checked against each other before any weights load."""
    if args.adapter == "none":
        return args.base_model or modeling.BASE_MODEL, None
    record = modeling.check_adapter(args.adapter)
    if args.base_model not in (None, record["base_model"]):
        records.stop(f"{args.adapter} was trained on {record['base_model']}, not on {args.base_model}: drop --base-model")
    return record["base_model"], args.adapter


def compare_splits(data_dir, adapter):
    """Return whether the splits are those that the adapter was trained with; print a note if not. None: no adapter."""
    if adapter is None:
        return None
    train = Path(data_dir) / "train.jsonl"
    expected = modeling.check_adapter(adapter)["data"]["train"]["sha256"]
    same = train.is_file() and records.hash_file(train) == expected
    if not same:
        print(f"note: {data_dir} does not hold the train.jsonl of {adapter}: it may have been trained on test sentences")
    return same


def answer_rows(model, tokenizer, encoded, mode):
    """Return one answer for each prompt: prediction (a label or None), and the probabilities or reply behind it."""
    if mode == "generate":
        replies = scoring.generate_replies(model, tokenizer, encoded)
        return [{"prediction": prompts.parse_label(reply), "reply": reply} for reply in replies]
    scores = scoring.score_prompts(model, tokenizer, encoded)
    return [
        {
            "prediction": scoring.pick_label(row),
            "probabilities": dict(zip(prompts.LABELS, (round(p, 6) for p in row), strict=True)),
            "label_mass": round(mass, 6),
        }
        for row, mass in zip(scores.probabilities.tolist(), scores.label_mass.tolist(), strict=True)
    ]


def run_models(args, base, adapter, rows):
    """Score the rows with the base and with the adapter, if any; return (records, description of the run)."""
    modeling.check_base(base)
    tokenizer = modeling.load_tokenizer(base)
    pairs = [(row["topic"], row["text"]) for row in rows]
    encoded = prompts.encode_examples(tokenizer, pairs)
    model = modeling.load_base(base)
    if args.mode == "score":
        acceleration.prepare_scoring(model, len(rows))
    started = time.time()
    answers = {"base": answer_rows(model, tokenizer, encoded, args.mode)}
    if adapter is not None:
        model = modeling.load_adapter(model, adapter)
        answers["fine-tuned"] = answer_rows(model, tokenizer, encoded, args.mode)
    seconds = time.time() - started
    run = {
        "mode": args.mode,
        "base_model": base,
        "adapter": adapter,
        "demo": modeling.is_demo(base),
        "prompt_version": prompts.PROMPT_VERSION,
        "shortened_sentences": prompts.report_long(tokenizer, pairs),
        "splits_of_adapter": compare_splits(args.data_dir, adapter),
        "test_sha256": records.hash_file(Path(args.data_dir) / "test.jsonl"),
        "seconds": round(seconds, 2),
        "answers_per_second": round(len(rows) * len(answers) / seconds, 1),
        "device": modeling.device_name(),
        "peak_gpu_gib": modeling.peak_gpu_gib(),
        "environment": records.describe_environment(),
    }
    table = [
        {**{key: row[key] for key in RECORD_KEYS[:-1]}, "models": {name: answers[name][i] for name in answers}}
        for i, row in enumerate(rows)
    ]
    return table, run


def read_predictions(args):
    """Return (records, description of the run, output folder) of an earlier evaluation."""
    path = Path(args.predictions)
    table = records.read_jsonl(path, RECORD_KEYS, "give an evaluation.jsonl that evaluate.py wrote")
    for number, row in enumerate(table, start=1):
        models = row["models"] if isinstance(row["models"], dict) else {}
        if not models or models.keys() != dict(table[0]["models"]).keys():
            records.stop(f"{path}, line {number}: not the models of line 1: evaluate again")
        answers = [answer.get("prediction", "nothing") if isinstance(answer, dict) else answer for answer in models.values()]
        if row["label"] not in prompts.LABELS or any(answer not in (*prompts.LABELS, None) for answer in answers):
            records.stop(f"{path}, line {number}: labels must be {', '.join(prompts.LABELS)}: evaluate again")
    earlier = path.with_name("evaluation.json")
    run = records.read_json(earlier, "delete it") if earlier.is_file() else {}
    if not isinstance(run, dict):
        records.stop(f"{earlier} is no record of evaluate.py: delete it")
    return table, {**run, "rescored": path.name}, Path(args.output_dir or path.parent)


def compute_all(table):
    """Return {model: metrics with "topics"} of evaluation records."""
    topics, gold = [row["topic"] for row in table], [row["label"] for row in table]
    result = {}
    for name in table[0]["models"]:
        predicted = [row["models"][name]["prediction"] for row in table]
        result[name] = metrics.compute_metrics(gold, predicted)
        result[name]["topics"] = metrics.compute_topic_metrics(topics, gold, predicted)
    return result


def print_report(result):
    """Print the summary table, then labels and topics of each model."""
    print(f"\n{metrics.format_summary(result)}")
    for name, numbers in result.items():
        print(f"\n{name}, by label\n{metrics.format_labels(numbers)}")
        print(f"\n{name}, by topic\n{metrics.format_topics(numbers['topics'])}")


def main(argv=None):
    args = parse_args(argv)
    if args.predictions:
        table, run, output_dir = read_predictions(args)
        records.make_folder(output_dir)
    else:
        rows = corpus.load_split(Path(args.data_dir) / "test.jsonl")
        base, adapter = resolve_base(args)
        home = Path(adapter or modeling.BASE_RESULTS)
        output_dir = Path(args.output_dir or (home if args.mode == "score" else home / args.mode))
        records.make_folder(output_dir)
        table, run = run_models(args, base, adapter, rows)
        records.write_jsonl(output_dir / "evaluation.jsonl", table)
    result = compute_all(table)
    note = modeling.DEMO_NOTE if run.get("demo") else None
    print_report(result)
    records.write_json(output_dir / "evaluation.json", {**run, "note": note, "metrics": result})
    figures.plot_confusion(result, output_dir / "confusion.png", note)
    print(f"\n{note}" if note else "")
    written = "evaluation.json" if args.predictions else "evaluation.jsonl, evaluation.json"
    print(f"wrote {written} and confusion.png to {output_dir}")


if __name__ == "__main__":
    main()
