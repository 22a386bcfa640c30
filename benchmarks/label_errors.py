"""Measure how well doubtful annotations are found: train labels flipped at random, and looked for by models that did not see them.

Reads the folder --corpus of --data-dir, whose splits prepare_data.py wrote, and the base of --models. Of the train rows
--share get another label; --folds adapters are trained by benchmarks/quality_runs.py, each without one fold, whose rows
it then scores, and those of the fold before, which it was trained on. The labels of validation rows stay.
Writes probabilities and flipped labels to a folder of --work-dir, a file a fold: started again, finished folds are
skipped. Then writes the numbers of all runs in --work-dir to --output: precision and recall of confident learning
against sorting by loss. Without --models, that alone: a CPU suffices. Several processes may run at once, one for each
share and seed. The corpus has errors of its own, which count as wrongly doubted: precision comes out too low.

    PYTHONPATH=. python benchmarks/label_errors.py --models qwen=path/to/model --corpus ukp --share 0.05 --seed 0
    PYTHONPATH=. python benchmarks/label_errors.py
"""

import argparse
import fcntl
import importlib.metadata
import importlib.util
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import quality
import quality_runs

import prompts
from stance.common import environment, errors, files, flags, formatting
from stance.common.types import Example
from stance.corpus import folds
from stance.evaluation import label_quality
from stance.model import loading

# ---------------------------------------------------------------- settings
DATA_DIR = "outputs/quality/data"  # folder of the folders of splits
CORPUS = "ukp"  # one of them
WORK_DIR = "outputs/quality/work"  # probabilities and flipped labels
OUTPUT = "benchmarks/results/label_errors.json"  # numbers alone
SHARE = 0.05  # of the train labels, flipped
SEED = 0  # of the flipped labels, the folds and the training
FOLDS = 5  # adapters
ROWS = 0  # of the train split, the first; 0: all
# --------------------------------------------------------------------------

HINT = "delete its folder and start again"


class FoldPlace(quality_runs.Workplace):
    """A workplace whose splits are given instead of read."""

    def take_splits(self, corpus: str, splits: dict[str, list[Example]]) -> None:
        """Let a corpus have these splits from now on."""
        self.splits = {corpus: splits}

    def read_splits(self, corpus: str) -> dict[str, list[Example]]:
        """Return {split: rows} of a corpus that was given."""
        return self.splits[corpus]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument(
        "--models", nargs="+", default=[], metavar="NAME=FOLDER", help="bases (default: score only)"
    )
    parser.add_argument("--corpus", default=CORPUS, help="folder of --data-dir (%(default)s)")
    parser.add_argument("--data-dir", default=DATA_DIR, help="folders of splits (%(default)s)")
    parser.add_argument("--work-dir", default=WORK_DIR, help="probabilities (%(default)s)")
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the numbers (%(default)s)")
    parser.add_argument("--share", type=float, default=SHARE, help="flipped (%(default)s)")
    parser.add_argument("--seed", type=flags.seed, default=SEED, help="of all (%(default)s)")
    parser.add_argument("--folds", type=int, default=FOLDS, help="adapters (%(default)s)")
    parser.add_argument("--rows", type=int, default=ROWS, help="0: all (%(default)s)")
    parser.add_argument("--epochs", type=flags.positive_number, help="default: that of finetune.py")
    parser.add_argument(
        "--learning-rate", type=flags.positive_number, help="default: that of finetune.py"
    )
    parser.add_argument(
        "--effective-batch-size", type=int, help="rows a step (default: that of finetune.py)"
    )
    args = parser.parse_args(argv)
    if not 0 < args.share < 1:
        errors.fail(f"--share {args.share} is impossible: give a number between 0 and 1")
    if args.folds < 2 or args.rows < 0:
        errors.fail("--folds is 2 or more, and --rows 0 or more")
    args.models = dict(quality.read_model(word) for word in args.models)
    return args


def flip_labels(rows: list[Example], share: float, seed: int) -> dict[str, str]:
    """Return {id: another label} of a share of the rows, one at least, drawn at random."""
    rng = random.Random(f"{seed}:{share}")
    by_id = sorted(rows, key=lambda row: row["id"])
    flipped = {}
    for row in rng.sample(by_id, max(round(share * len(rows)), 1)):
        others = [label for label in prompts.LABELS if label != row["label"]]
        flipped[row["id"]] = rng.choice(others)
    return flipped


def make_plan(args: argparse.Namespace, base: str, rows: list[Example]) -> dict[str, Any]:
    """Return what a run does with its train rows, for its plan.json."""
    flipped = flip_labels(rows, args.share, args.seed)
    return {
        "base": base,
        "corpus": args.corpus,
        "share": args.share,
        "seed": args.seed,
        "folds": args.folds,
        "epochs": args.epochs,
        "learning_rate": args.learning_rate,
        "effective_batch_size": args.effective_batch_size,
        "ids": [row["id"] for row in rows],
        "clean": [row["label"] for row in rows],
        "labels": [flipped.get(row["id"], row["label"]) for row in rows],
        "fold_of_row": folds.deal_folds(rows, args.folds, args.seed),
        "model": quality.describe_model(args.models[base]),
    }


def run_folds(args: argparse.Namespace, base: str) -> None:
    """Train and score the folds of a run that are not finished."""
    splits = quality_runs.Workplace(args.data_dir, args.models).read_splits(args.corpus)
    rows = splits["train"][: args.rows or None]
    plan = make_plan(args, base, rows)
    folder = Path(args.work_dir) / "label_errors"
    folder /= f"{base}-{args.corpus}-share{args.share:g}-seed{args.seed}"
    files.make_folder(folder)
    path = folder / "plan.json"
    if path.is_file() and files.read_json(path, HINT) != plan:
        errors.fail(f"{path} is of other rows or flags: {HINT}")
    files.write_json(path, plan)
    noisy = [{**row, "label": label} for row, label in zip(rows, plan["labels"], strict=True)]
    place = FoldPlace(args.data_dir, args.models)
    given = {
        "EPOCHS": args.epochs,
        "LEARNING_RATE": args.learning_rate,
        "EFFECTIVE_BATCH_SIZE": args.effective_batch_size,
    }
    settings = tuple((name, value) for name, value in given.items() if value is not None)
    job = quality_runs.Job(args.corpus, base, "adapter", settings, args.seed)
    for fold in range(args.folds):
        output = folder / f"fold{fold}.json"
        if output.is_file():
            continue
        started = time.time()
        before = (fold - 1) % args.folds
        held_out = [row for row, own in zip(noisy, plan["fold_of_row"]) if own == fold]
        seen = [row for row, own in zip(noisy, plan["fold_of_row"]) if own == before]
        learnt = [row for row, own in zip(noisy, plan["fold_of_row"]) if own != fold]
        asked = held_out + seen
        place.take_splits(args.corpus, {"train": learnt, "val": splits["val"], "test": asked})
        answers = quality_runs.RECIPES["adapter"](job, place)
        quality_runs.check_numbers(job, answers.test)
        probabilities = quality_runs.stack_probabilities(answers.test).tolist()
        of_id = dict(zip([row["id"] for row in asked], probabilities, strict=True))
        record = {
            "held_out": {row["id"]: of_id[row["id"]] for row in held_out},
            "seen": {row["id"]: of_id[row["id"]] for row in seen},
            "seconds": round(time.time() - started, 1),
            "train_seconds": answers.details.get("train_seconds"),
            "device": loading.device_name(),
            "versions": environment.describe_environment()["versions"],
        }
        files.write_json(output, record)
        print(f"{folder.name}, fold {fold}: {record['seconds']} s", flush=True)


def score_run(folder: Path) -> dict[str, Any] | None:
    """Return the numbers of a run; None if not all of its folds are finished."""
    plan = files.read_json(folder / "plan.json", HINT)
    paths = [folder / f"fold{fold}.json" for fold in range(plan["folds"])]
    if not all(path.is_file() for path in paths):
        return None
    finished = [files.read_json(path, HINT) for path in paths]
    held_out = {}
    seen = {}
    for record in finished:
        held_out |= record["held_out"]
        seen |= record["seen"]
    labels = np.array([prompts.LABELS.index(label) for label in plan["labels"]])
    clean = np.array([prompts.LABELS.index(label) for label in plan["clean"]])
    wrong = labels != clean
    probabilities = np.array([held_out[row_id] for row_id in plan["ids"]])
    of_seen = np.array([seen[row_id] for row_id in plan["ids"]])
    doubts = label_quality.find_label_doubts(probabilities, labels)
    losses = label_quality.measure_losses(probabilities, labels)
    orders = {
        "confident learning": label_quality.order_by_doubt(doubts),
        "loss": np.argsort(-losses, kind="stable"),  # the order of self-confidence too
        "margin": np.argsort(doubts.margin, kind="stable"),
        "loss of rows trained on": np.argsort(
            -label_quality.measure_losses(of_seen, labels), kind="stable"
        ),
    }
    answers = probabilities.argmax(1)
    kept = ("base", "corpus", "share", "seed", "folds", "epochs", "learning_rate")
    kept += ("effective_batch_size", "model")
    return {
        **{key: plan[key] for key in kept},
        "rows": len(labels),
        "accuracy_clean_labels": float((answers == clean).mean()),
        "accuracy_flipped_labels": float((answers == labels).mean()),
        "at_number_flipped": {
            name: label_quality.score_order(order, wrong) for name, order in orders.items()
        },
        "suspects": label_quality.score_suspects(doubts.suspect, wrong),
        "answer_differs": label_quality.score_suspects(answers != labels, wrong),
        "confident_joint": doubts.joint.tolist(),
        "seconds": [record["seconds"] for record in finished],
        "device": finished[0]["device"],
        "versions": finished[0]["versions"],
    }


def write_scores(work_dir: str, output: str) -> list[dict[str, Any]]:
    """Write the numbers of all finished runs of a work folder; return them."""
    home = Path(work_dir) / "label_errors"
    files.make_folder(home)
    with open(home / "scores.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the last process to come sees the folds of all
        found = [score_run(path.parent) for path in sorted(home.glob("*/plan.json"))]
        scored = [record for record in found if record is not None]
        if not scored:
            errors.fail(f"{home} holds no finished run: give --models")
        cleanlab = importlib.metadata.version("cleanlab")
        files.write_json(output, {"cleanlab": cleanlab, "runs": scored})
    return scored


def tabulate_orders(scored: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) of the table of runs and ways to look for errors."""
    rows = []
    for record in scored:
        run = f"{record['base']} {record['corpus']} {record['share']:g} seed {record['seed']}"
        for name, numbers in record["at_number_flipped"].items():
            found = f"{numbers['found']} of {numbers['wrong']}"
            cells = [f"{numbers[key]:.3f}" for key in ("precision", "average_precision")]
            rows.append([run, name, found, *cells])
        numbers = record["suspects"]
        found = f"{numbers['found']} in {numbers['suspects']} suspects"
        precision = "-" if numbers["precision"] is None else f"{numbers['precision']:.3f}"
        rows.append([run, "suspects", found, precision, f"recall {numbers['recall']:.3f}"])
    return ["Run", "Order", "Found", "Precision = recall", "Average precision"], rows


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    for base in args.models:
        run_folds(args, base)
    if importlib.util.find_spec("cleanlab") is None:
        print("note: cleanlab is not installed: score where it is, without --models")
        return
    scored = write_scores(args.work_dir, args.output)
    print(formatting.format_table(*tabulate_orders(scored)))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    errors.run_script(main)
