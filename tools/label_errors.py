"""Find doubtful annotations: rows whose label models that never saw them would not have given.

Reads the splits of --data-dir. Trains --folds adapters, each on the train split but for one part of it, which it then
answers (in a folder of --work-dir each; started again, finished ones are skipped). Or, with --run, takes the answers to
the validation and test rows of an evaluation that is there, without any model. Confident learning then says which labels
are probably errors (stance/evaluation/label_quality.py).
Writes --output, an .xlsx of all rows, the most doubtful first, with both labels, and beside it NAME.again.xlsx: the
suspects among as many other rows, in random order and without any label.
What to do with it: annotate NAME.again.xlsx anew, without a look at the model's labels or the old ones, and decide by
both annotations. Don't drop the suspects, nor take the model's label over: the model is wrong on some, and hard rows
belong to the corpus. Say in the paper how many rows were looked at again and how many labels changed.

    python -m tools.label_errors
    python -m tools.label_errors --run outputs/gemma-2-9b-it-stance --output outputs/doubtful.xlsx
"""

import sys

try:
    from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load
except ModuleNotFoundError:  # started by its path, a tool has Python look for modules in tools/
    print(
        "error: run it as: python -m tools.label_errors ... (in the folder that holds tools/)",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

# isort: split
import argparse
import random
from collections import Counter
from pathlib import Path

import numpy as np

import prompts
from stance.common import errors, files, flags, formatting, locks, records, run_files, types
from stance.corpus import folds, splitting, tables, workbook_writer
from stance.evaluation import analysis, label_quality, predictions, uncertainty
from tools import child_runs

# ---------------------------------------------------------------- settings
DATA_DIR = "data"  # folder of the splits that prepare_data.py wrote
# hub name (name@commit for one version) or folder of the instruction-tuned base
BASE_MODEL = "google/gemma-2-9b-it"
FOLDS = 5  # adapters: each learns from the other folds of the train split
SEED = 0  # of the folds, the trainings and the order of rows to annotate again
WORK_DIR = "outputs/label-errors"  # folder of the trainings
OUTPUT = "outputs/label-errors/doubtful.xlsx"  # table of the rows by doubt
# --------------------------------------------------------------------------

LOCK_FILE = "label_errors.lock"
AGAIN = ".again.xlsx"  # ending of the table of rows to annotate again
COLUMNS = ["doubt", "suspect", "topic", "text", "annotated", "probably"]
SHARE_HEADERS = ("doubt", *(f"p_{label}" for label in prompts.LABELS), "agreement")
GUIDE = (
    "What to do with this table",
    "The sheet beside this one has every row that was looked at, the most doubtful first. suspect: confident learning "
    "takes the annotated label for an error. annotated: the label of the corpus. probably: the label that a model which "
    "was not trained on the row finds most probable. doubt: 0 where the model is sure of the annotated label, 1 where it "
    "is sure of another one.",
    "1. Annotate the suspects again, by people who see neither the model's label nor the old one: the table "
    "{again} is made for that. It has as many rows that are not suspects, so that nobody knows which are which.",
    "2. Decide by both annotations, as your codebook says for rows on which annotators differ.",
    "3. Do not drop suspects silently, and do not take the model's labels over: the model is wrong on some of them, and "
    "a corpus without its hard rows makes every later score too high.",
    "4. Report how many rows were annotated again and how many labels changed, among suspects and among the others. "
    "Draw and train anew with the mended corpus.",
)  # fmt: skip


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags; fail on those that are impossible."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument("--data-dir", default=DATA_DIR, help="folder of the splits (%(default)s)")
    parser.add_argument("--base-model", default=BASE_MODEL, help="hub name or folder (%(default)s)")
    parser.add_argument("--folds", type=int, default=FOLDS, help="adapters (%(default)s)")
    parser.add_argument("--seed", type=flags.seed, default=SEED, help="random seed (%(default)s)")
    child_runs.add_training_flags(parser)
    parser.add_argument(
        "--run", help="folder of an evaluation: its validation and test rows, and no training"
    )
    parser.add_argument("--work-dir", default=WORK_DIR, help="the trainings (%(default)s)")
    parser.add_argument("--output", default=OUTPUT, help=".xlsx to write (%(default)s)")
    args = parser.parse_args(argv)
    if args.folds < 2:
        errors.fail(f"--folds {args.folds} is impossible: give 2 or more")
    trains = args.folds != FOLDS or args.epochs is not None or args.learning_rate is not None
    if args.run is not None and trains:
        errors.fail("--folds, --epochs and --learning-rate go without --run, which trains nothing")
    if Path(args.output).suffix.lower() != ".xlsx":
        errors.fail(f"--output {args.output}: its name must end in .xlsx")
    return args


# ---------------------------------------------------------------- answers to rows that were not seen


def load_train_split(data_dir: str, count: int) -> dict[str, list[types.Example]]:
    """Return {"train", "val": rows} of a folder; fail unless count folds can be made of train."""
    splits = {
        name: splitting.load_split(Path(data_dir) / f"{name}.jsonl") for name in ("train", "val")
    }
    splitting.read_report(data_dir, splits)
    splitting.check_splits_disjoint(splits)
    rows = len(splits["train"])
    if rows < 2 * count:
        errors.fail(f"{data_dir}/train.jsonl has {rows} rows: too few for --folds {count}")
    return splits


def check_same_plan(folder: Path, plan: dict) -> None:
    """Write what all folds have in common to plan.json; fail if the folder holds folds of other
    things."""
    path = folder / "plan.json"
    if path.exists():
        hint = "choose another --work-dir"
        started = records.read_typed(path, dict[str, types.Setting], "plan of folds", hint)
        for key, value in plan.items():
            if started.get(key) != value:
                was = f"{key} {started.get(key)}, now it is {value}"
                errors.fail(f"{folder} holds folds with {was}: {hint}")
    files.write_json(path, plan)


def check_fold(home: Path, data: Path, plan: dict, first: Path) -> None:
    """Fail unless a trained fold has the base, the rows and the settings of the plan.

    home: folder of the run; data: of its splits. first: the run of the first fold, which has the
    same settings.
    """
    hint = "delete its folder and start again"
    record = records.read_typed(home / "run.json", types.RunRecord, "run record", hint)
    other = records.read_typed(first / "run.json", types.RunRecord, "run record", hint)
    found = {name: record.get(name) for name in ("base_model", "base_revision", "prompt_version")}
    wanted = {name: other.get(name) for name in ("base_model", "base_revision", "prompt_version")}
    found |= record.get("settings", {})
    wanted |= other.get("settings", {})
    wanted |= {key: plan[key] for key in ("base_model", "prompt_version")}
    found["train"] = record["data"]["train"]["sha256"]
    wanted["train"] = files.hash_file(data / "train.jsonl")
    for key, value in wanted.items():
        if found.get(key) != value:
            was = f"{key} {found.get(key)}, the folds have {value}"
            errors.fail(f"{home} was trained with {was}: {hint}")


def answer_folds(args: argparse.Namespace, splits: dict[str, list[types.Example]]) -> list[dict]:
    """Return the records of the train rows, each answered by an adapter that was trained without it.

    Trains and evaluates what is not finished.
    """
    folder = Path(args.work_dir)
    plan = {
        "base_model": args.base_model,
        "prompt_version": prompts.PROMPT_VERSION,
        "folds": args.folds,
        "seed": args.seed,
        "epochs": args.epochs,
        "learning_rate": args.learning_rate,
    }
    for name in splits:
        plan[name] = files.hash_file(Path(args.data_dir) / f"{name}.jsonl")
    check_same_plan(folder, plan)
    report = splitting.read_report(args.data_dir, splits)
    fold_of_row = folds.deal_folds(splits["train"], args.folds, args.seed)
    words = ["--base-model", args.base_model, "--seed", args.seed]
    words += flags.list_words(args, ("epochs", "learning_rate"))
    answered = []
    for fold in range(args.folds):
        home = folder / "runs" / f"fold{fold}"
        data = folder / "data" / f"fold{fold}"
        parts = {"train": [], "val": splits["val"], "test": []}
        for row, own in zip(splits["train"], fold_of_row, strict=True):
            parts["test" if own == fold else "train"].append(row)
        if not parts["test"]:
            errors.fail(f"{args.data_dir}/train.jsonl has too few sentences: give fewer --folds")
        splitting.write_splits(data, parts, {**report, "fold": fold, "folds": args.folds})
        first = folder / "runs" / "fold0"
        log = folder / "logs" / f"fold{fold}.txt"

        def check(home=home, data=data, first=first) -> None:
            check_fold(home, data, plan, first)

        done = child_runs.finish_child(home, data, words, log, check)
        print(f"[{fold + 1}/{args.folds}] fold {fold}: {done}", flush=True)
        records_path = run_files.find_text(home, run_files.RECORDS)
        answered += mark_split(predictions.read_records(records_path), "train")
    return answered


def answer_by_run(given: str) -> list[dict]:
    """Return the records of the validation and test rows of an evaluation."""
    parts, _ = predictions.read_parts(run_files.find_records(given))
    table = mark_split(parts["validation"], "val") + mark_split(parts["evaluation"], "test")
    if not analysis.is_scored(table):
        errors.fail(f"{given} has no probabilities: evaluate with --mode score")
    if not parts["validation"]:
        print(f"note: {given} has no records of the validation split: the test rows alone")
    return table


def mark_split(table: list[types.EvaluationRecord], split: str) -> list[dict]:
    """Return records with the split that they are of."""
    return [{**record, "split": split} for record in table]


# ---------------------------------------------------------------- tables


def tabulate_doubts(
    table: list[dict], doubts: label_quality.Doubts
) -> tuple[list[str], list[list]]:
    """Return (header, rows), the most doubtful first, of records and what is doubtful about them."""
    with_agreement = any("agreement" in record for record in table)
    header = [*COLUMNS, *(f"p_{label}" for label in prompts.LABELS)]
    header += ["agreement"] if with_agreement else []
    header += ["split", "source_id", "id"]
    rows = []
    for index in label_quality.order_by_doubt(doubts).tolist():
        record = table[index]
        prediction = list(record["models"].values())[-1]
        cells = [round(1 - float(doubts.confidence[index]), 4)]
        cells += ["yes" if doubts.suspect[index] else "no", record["topic"], record["text"]]
        cells += [record["label"], prediction["prediction"]]
        cells += [round(prediction["probabilities"][label], 4) for label in prompts.LABELS]
        cells += [record.get("agreement")] if with_agreement else []
        cells += [record["split"], analysis.join_source(record.get("source_id", "")), record["id"]]
        rows.append(cells)
    return header, rows


def draw_again(table: list[dict], suspect: list[bool], seed: int) -> list[list]:
    """Return the cells of the rows to annotate again, in random order: suspects and as many others.

    Of fewer others, all.
    """
    rng = random.Random(seed)
    suspects = [record for record, doubted in zip(table, suspect, strict=True) if doubted]
    others = [record for record, doubted in zip(table, suspect, strict=True) if not doubted]
    drawn = suspects + rng.sample(others, min(len(suspects), len(others)))
    rng.shuffle(drawn)
    return [
        [record["id"], record["topic"], record["text"], "", analysis.join_source(record.get("source_id", ""))]
        for record in drawn
    ]  # fmt: skip


def tabulate_suspects(header: list[str], rows: list[list]) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) of how many suspects of each annotated label are probably which."""
    counts = Counter()
    totals = Counter()
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        totals[cells["annotated"]] += 1
        if cells["suspect"] == "yes":
            counts[cells["annotated"], cells["probably"]] += 1
    lines = []
    for label in prompts.LABELS:
        found = [counts[label, other] for other in prompts.LABELS]
        cells = [str(number) for number in (totals[label], sum(found), *found)]
        lines.append([label, *cells])
    return ["Annotated", "Rows", "Suspects", *(f"probably {x}" for x in prompts.LABELS)], lines


def name_again(output: Path) -> Path:
    """Return the path of the rows to annotate again; fail if there is one, which people work in."""
    again = output.with_name(output.stem + AGAIN)
    if again.exists():
        errors.fail(
            f"{again} is there, and may hold annotations: move it, or name another --output"
        )
    return again


def describe_model_quality(probabilities: np.ndarray, gold: np.ndarray) -> str:
    """Return in a sentence how often a model agrees with the annotated labels, and whether that is
    enough to doubt any of them: clearly more often than by always giving the most frequent one."""
    rows = len(gold)
    right = int((probabilities.argmax(1) == gold).sum())
    usual = int(np.bincount(gold).max())
    agreement = f"the model agrees with {100 * right / rows:.1f} % of the {rows:,} labels"
    if uncertainty.find_wilson(right, rows)[0] > usual / rows:
        return agreement
    return (
        f"note: {agreement}, hardly more than the most frequent label has: it has not learnt the task, and its "
        "doubts mean little"
    )


def write_doubts(table: list[dict], output: Path, seed: int) -> None:
    """Write the table of rows by doubt and that of rows to annotate again; print a summary."""
    gold = analysis.index_labels(record["label"] for record in table)
    if len(set(gold.tolist())) < 2:
        errors.fail("all rows have one label: nothing can be doubted")
    model = list(table[0]["models"])[-1]
    probabilities = analysis.read_probabilities(model, table)
    doubts = label_quality.find_label_doubts(probabilities, gold)
    header, rows = tabulate_doubts(table, doubts)
    again = name_again(output)
    drawn = draw_again(table, doubts.suspect.tolist(), seed)
    guide = [paragraph.replace("{again}", again.name) for paragraph in GUIDE]
    shares = [name for name in header if name in SHARE_HEADERS]
    look = workbook_writer.Look("rows by doubt", shares=shares, guide=guide)
    tables.write_table(output, header, rows, look)
    again_header = ["id", "topic", "text", "stance", "source_id"]
    choices = workbook_writer.Look("annotate again", choices={"stance": prompts.LABELS})
    tables.write_table(again, again_header, drawn, choices)
    print(formatting.format_table(*tabulate_suspects(header, rows)))
    print(describe_model_quality(probabilities, gold))
    count = int(doubts.suspect.sum())
    print(f"{count:,} of {len(table):,} rows are suspects, by the probabilities of {model}")
    print(
        "annotate them again without the model's label; don't drop them, nor take its labels over"
    )
    print(f"wrote {output} and {again.name} (to annotate again, without any label)")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    output = Path(args.output)
    name_again(output)
    if args.run is not None:
        table = answer_by_run(args.run)
        tables.check_output(output, COLUMNS)
    else:
        splits = load_train_split(args.data_dir, args.folds)
        tables.check_output(output, COLUMNS)
        folder = Path(args.work_dir)
        files.make_folder(folder)
        hint = "choose another --work-dir"
        with locks.hold_lock(folder / LOCK_FILE, folder, "tools.label_errors", hint):
            table = answer_folds(args, splits)
    write_doubts(table, output, args.seed)


if __name__ == "__main__":
    errors.run_script(main)
