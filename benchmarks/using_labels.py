"""Measure what tools.shares and tools.sample are worth: do intervals hold, and do chosen annotations teach more?

--part shares reads --rows, JSON lines {topic, label, probabilities: {pro, con, neu}} of a real model on rows that it has
not seen, and draws DRAWS gold samples of each of SIZES: how often the 95 % intervals hold the true share, how wide.
--part sample trains on ROUNDS annotations that were drawn at random or as tools.sample --for training chooses them, with
one --seed a process: macro-F1 of the test rows. Language models are fine-tuned; of encoders the embeddings go into a
logistic regression. A killed process goes on after its last finished round.
Writes to --output: of shares an entry for each name of a --rows file, of sample what --work-dir holds. Other entries
stay as they are.

    PYTHONPATH=. python benchmarks/using_labels.py --part shares --rows rows.jsonl
    PYTHONPATH=. python benchmarks/using_labels.py --part sample --models qwen=path/to/model --seed 1
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import quality
import quality_runs

import prompts
from stance.common import environment, errors, files, flags, formatting
from stance.common.types import Example
from stance.evaluation import baselines, prediction_powered, sampling, uncertainty
from stance.model import loading

# ---------------------------------------------------------------- settings
PARTS = ("shares", "sample")
OUTPUT = "benchmarks/results/using_labels.json"  # all numbers
WORK_DIR = "outputs/using_labels"  # records of each process
DATA_DIR = "outputs/quality/data"  # folder of the folders of splits: benchmarks/quality_corpora.py
CORPUS = "ukp"  # folder of --data-dir
SEED = 0  # of the draws, of the training
SIZES = (100, 300, 500)  # gold sentences
DRAWS = 1000  # gold samples of each size
ROUNDS = (250, 500, 1000)  # annotations that are trained on
# --------------------------------------------------------------------------

ARMS = (
    "random",
    "training",
)  # how annotations are chosen; training: by sampling.choose_informative
HINT = "give JSON lines with topic, label and probabilities"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument("--part", required=True, choices=PARTS, help="which to run")
    parser.add_argument("--rows", help="JSON lines of a model's answers, for --part shares")
    parser.add_argument(
        "--models", nargs="+", default=[], metavar="NAME=FOLDER", help="bases, for --part sample"
    )
    parser.add_argument("--corpus", default=CORPUS, help="folder of --data-dir (%(default)s)")
    parser.add_argument("--data-dir", default=DATA_DIR, help="folder of corpora (%(default)s)")
    parser.add_argument("--work-dir", default=WORK_DIR, help="records (%(default)s)")
    parser.add_argument("--output", default=OUTPUT, help="all numbers (%(default)s)")
    parser.add_argument("--seed", type=flags.seed, default=SEED, help="of draws (%(default)s)")
    parser.add_argument("--draws", type=int, default=DRAWS, help="gold samples (%(default)s)")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="of gold samples")
    parser.add_argument("--rounds", nargs="+", type=int, default=ROUNDS, help="annotations")
    parser.add_argument("--epochs", type=float, help="of a training (default: of finetune.py)")
    args = parser.parse_args(argv)
    if args.part == "shares" and not args.rows:
        errors.fail("--part shares takes --rows")
    if args.part == "sample" and not args.models:
        errors.fail("--part sample takes --models")
    args.models = dict(quality.read_model(word) for word in args.models)
    return args


# ---------------------------------------------------------------- shares


class Tally:
    """Counts how often intervals hold the true values, and adds up their widths."""

    def __init__(self) -> None:
        self.asked = 0
        self.given = 0
        self.held = np.zeros(len(prompts.LABELS))
        self.width = np.zeros(len(prompts.LABELS))
        self.error = np.zeros(len(prompts.LABELS))

    def add(self, shares: np.ndarray, ends: np.ndarray | None, true: np.ndarray) -> None:
        """Take in the estimate of a draw; ends: float [2, 3], None where there is no interval."""
        self.asked += 1
        if ends is None:
            return
        self.given += 1
        self.held += (ends[0] <= true) & (true <= ends[1])
        self.width += ends[1] - ends[0]
        self.error += shares - true

    def describe(self) -> dict[str, Any]:
        """Return coverage, mean width and bias by label, and in how many draws there was any."""
        if not self.given:
            return {"draws": self.asked, "with_interval": 0}
        values = {"coverage": self.held, "width": self.width, "bias": self.error}
        by_label = {
            name: dict(zip(prompts.LABELS, (sums / self.given).round(4).tolist(), strict=True))
            for name, sums in values.items()
        }
        return {"draws": self.asked, "with_interval": self.given, **by_label}


class Answered:
    """Rows of a real model, with their true labels."""

    def __init__(self, path: str) -> None:
        rows = files.read_jsonl(path, ("topic", "label", "probabilities"), HINT)
        self.gold = np.array([prompts.LABELS.index(row["label"]) for row in rows])
        probabilities = np.array(
            [[row["probabilities"][label] for label in prompts.LABELS] for row in rows]
        )
        probabilities /= probabilities.sum(1, keepdims=True)
        self.labelled = prediction_powered.Labelled(probabilities.argmax(1), probabilities)
        self.all_rows = np.ones(len(rows))
        topics = np.array([row["topic"] for row in rows])
        self.rows_of_topic = {topic: (topics == topic) * 1.0 for topic in np.unique(topics)}
        self.bands = [sampling.name_band(value) for value in probabilities.max(1)]

    def find_true(self, rows: np.ndarray) -> np.ndarray:
        """Return the true shares [3] of the rows of a domain."""
        return np.bincount(self.gold, rows, len(prompts.LABELS)) / rows.sum()

    def draw(self, size: int, by_confidence: bool, rng: np.random.Generator) -> Any:
        """Return a gold sample as tools.sample draws it."""
        strata = self.bands if by_confidence else ["all"] * len(self.gold)
        spreads = self.all_rows
        if by_confidence:
            spreads = sampling.measure_spread(self.labelled.scores)
        drawn = sampling.draw_stratified(strata, spreads, size, {}, rng)
        numbers = np.unique(drawn.strata, return_inverse=True)[1]
        gold = self.gold[drawn.positions]
        return prediction_powered.make_sample(
            drawn.positions, gold, drawn.probabilities, numbers, drawn.sizes
        )


def measure_size(answered: Answered, size: int, draws: int, seed: int) -> dict[str, Any]:
    """Return the tallies of all methods over draws of one size, and of topics and differences."""
    rng = np.random.default_rng(seed)
    true = answered.find_true(answered.all_rows)
    tallies: dict[str, Tally] = {}

    def add(name: str, estimate: Any, truth: np.ndarray, lowest: float = 0.0) -> None:
        ends = None if estimate is None else prediction_powered.find_ends(estimate, lowest)
        shares = truth if estimate is None else estimate.shares
        tallies.setdefault(name, Tally()).add(shares, ends, truth)

    naive = prediction_powered.count_naive(answered.labelled, answered.all_rows)
    naive_ends = prediction_powered.find_naive_ends(answered.labelled, answered.all_rows)
    for _ in range(draws):
        tallies.setdefault("naive", Tally()).add(naive, naive_ends, true)
        for by_confidence in (False, True):
            sample = answered.draw(size, by_confidence, rng)
            ending = ", drawn by confidence" if by_confidence else ""
            rows = answered.all_rows
            power = prediction_powered.tune_power(answered.labelled, sample, rows)
            estimates = prediction_powered.estimate_shares(answered.labelled, sample, rows, power)
            for method, estimate in estimates.items():
                add(f"{method}{ending}", estimate, true)
            if by_confidence:
                continue
            for of_topic in answered.rows_of_topic.values():
                parts = [
                    prediction_powered.estimate_shares(answered.labelled, sample, one, power)
                    for one in (of_topic, rows - of_topic)
                ]
                first, others = (part["prediction_powered"] for part in parts)
                truths = [answered.find_true(one) for one in (of_topic, rows - of_topic)]
                add("prediction_powered, a topic", first, truths[0])
                if first is not None and others is not None:
                    both = prediction_powered.subtract_shares(first, others, sample)
                    add(
                        "prediction_powered, a topic and the others",
                        both,
                        truths[0] - truths[1],
                        -1,
                    )
    return {name: tally.describe() for name, tally in tallies.items()}


def measure_shares(args: argparse.Namespace) -> dict[str, Any]:
    """Return the entry of the part shares."""
    answered = Answered(args.rows)
    true = answered.find_true(answered.all_rows)
    naive = prediction_powered.count_naive(answered.labelled, answered.all_rows)
    sizes = {}
    for size in args.sizes:
        sizes[str(size)] = measure_size(answered, size, args.draws, args.seed)
        print(f"{size} gold sentences, {args.draws} draws")
        print(format_sizes(sizes[str(size)]))
    return {
        "rows": len(answered.gold),
        "accuracy": float((answered.gold == answered.labelled.predicted).mean()),
        "true": dict(zip(prompts.LABELS, true.tolist(), strict=True)),
        "naive": dict(zip(prompts.LABELS, naive.tolist(), strict=True)),
        "level": uncertainty.LEVEL,
        "sizes": sizes,
        "environment": environment.describe_environment(),
    }


def format_sizes(tallies: dict[str, dict]) -> str:
    """Return the table of coverage and width by method and label."""
    lines = []
    for name, tally in tallies.items():
        cells = [f"{tally['with_interval']:,}"]
        for what in ("coverage", "width"):
            for label in prompts.LABELS:
                cells.append(f"{100 * tally[what][label]:.1f}" if what in tally else "-")
        lines.append([name, *cells])
    header = ["Method", "intervals"]
    header += [f"{label} {what} %" for what in ("held", "wide") for label in prompts.LABELS]
    return formatting.format_table(header, lines)


# ---------------------------------------------------------------- sample


class Rounds:
    """Trains a base on more and more annotations of a corpus, chosen in one of two ways."""

    def __init__(self, args: argparse.Namespace, name: str) -> None:
        self.args = args
        self.base = name
        self.place = quality_runs.Workplace(args.data_dir, args.models)
        self.splits = dict(self.place.read_splits(args.corpus))
        self.train: list[Example] = self.splits["train"]
        self.texts = baselines.join_texts(self.train)
        file_name = f"sample-{name}-{args.corpus}-seed{args.seed}.json"
        self.path = Path(args.work_dir) / file_name
        self.record: dict[str, Any] = {"base": name, "corpus": args.corpus, "seed": args.seed}
        self.record |= {"rounds": []}
        if self.path.is_file():
            self.record = files.read_json(self.path, "delete it to begin anew")

    def find_round(self, arm: str, count: int) -> dict | None:
        """Return the record of a finished round; of the first round, both arms have one."""
        for done in self.record["rounds"]:
            is_shared = count == min(self.args.rounds)
            if done["annotations"] == count and (done["arm"] == arm or is_shared):
                return done
        return None

    def perform_round(self, arm: str, chosen: list[int], count: int) -> dict:
        """Train on chosen positions of the train split; return the record of the round.

        With it come the probabilities of the other rows, from which the next are chosen.
        """
        taken = set(chosen)
        rest = [position for position in range(len(self.train)) if position not in taken]
        is_last = count == max(self.args.rounds)
        needs_rest = not is_last and (arm == "training" or count == min(self.args.rounds))
        pool = [self.train[position] for position in rest] if needs_rest else []
        key = f"{self.args.corpus}-{arm}-{count}"
        self.place.splits[key] = {
            "train": [self.train[position] for position in chosen],
            "val": self.splits["val"],
            "test": [*self.splits["test"], *pool],
        }
        settings = () if self.args.epochs is None else (("EPOCHS", self.args.epochs),)
        recipe = "embeddings" if self.base in quality.ENCODERS else "adapter"
        job = quality_runs.Job(key, self.base, recipe, settings, self.args.seed)
        started = time.time()
        answers = quality_runs.RECIPES[recipe](job, self.place)
        quality_runs.check_numbers(job, answers.test)
        tests = len(self.splits["test"])
        described = quality_runs.describe_answers(answers.test[:tests], self.splits["test"])
        done = {
            "arm": arm,
            "annotations": count,
            "test": described,
            "seconds": round(time.time() - started, 1),
            "device": loading.device_name(),
            "chosen": chosen,
        }
        if pool:
            probabilities = quality_runs.stack_probabilities(answers.test[tests:])
            done["next"] = self.choose_next(rest, probabilities, count)
        del self.place.splits[key]
        self.record["rounds"].append(done)
        files.write_json(self.path, self.record)
        print(f"{self.base} seed {self.args.seed} {arm} {count}: {described['macro_f1']:.4f}")
        return done

    def choose_next(self, rest: list[int], probabilities: np.ndarray, count: int) -> list[int]:
        """Return the positions that tools.sample --for training would have annotated next."""
        larger = [size for size in sorted(self.args.rounds) if size > count]
        if not larger:
            return []
        texts = [self.texts[position] for position in rest]
        size = larger[0] - count
        found = sampling.choose_informative(texts, probabilities, size, self.args.seed)
        return [rest[position] for position in found]

    def run(self) -> None:
        """Run all rounds that are not finished."""
        order = np.random.default_rng(self.args.seed).permutation(len(self.train)).tolist()
        if max(self.args.rounds) > len(order):
            errors.fail(f"--rounds: the train split has {len(order)} rows")
        for arm in ARMS:
            chosen: list[int] = []
            for count in sorted(self.args.rounds):
                done = self.find_round(arm, count)
                if arm == "random" or not chosen:
                    chosen = order[:count]
                if done is None:
                    done = self.perform_round(arm, chosen, count)
                chosen = [*done["chosen"], *done.get("next", [])]


def gather_rounds(folder: Path) -> dict[str, Any]:
    """Return the entry of the part sample: the rounds of all processes, and their means."""
    runs = []
    scores: dict[tuple, dict[int, float]] = {}
    for path in sorted(folder.glob("sample-*.json")):
        record = files.read_json(path, "delete it")
        first = min((done["annotations"] for done in record["rounds"]), default=0)
        for done in record["rounds"]:
            kept = {key: value for key, value in done.items() if key not in ("chosen", "next")}
            runs.append({**{key: record[key] for key in ("base", "corpus", "seed")}, **kept})
            arms = ARMS if done["annotations"] == first else (done["arm"],)
            for arm in arms:
                key = (record["base"], record["corpus"], done["annotations"], arm)
                scores.setdefault(key, {})[record["seed"]] = done["test"]["macro_f1"]
    means = [
        {
            "base": base,
            "corpus": corpus,
            "annotations": count,
            "arm": arm,
            "seeds": sorted(by_seed),
            "macro_f1": [round(by_seed[seed], 4) for seed in sorted(by_seed)],
            "mean": round(float(np.mean(list(by_seed.values()))), 4),
        }
        for (base, corpus, count, arm), by_seed in sorted(scores.items())
    ]
    return {"means": means, "runs": runs, "environment": environment.describe_environment()}


def measure_rounds(args: argparse.Namespace) -> dict[str, Any]:
    """Run the rounds of each model; return the entry of the part sample."""
    files.make_folder(args.work_dir)
    for name in args.models:
        Rounds(args, name).run()
    entry = gather_rounds(Path(args.work_dir))
    lines = [
        [
            one["base"],
            str(one["annotations"]),
            one["arm"],
            f"{one['mean']:.4f}",
            str(len(one["seeds"])),
        ]
        for one in entry["means"]
    ]
    print(formatting.format_table(["Base", "annotations", "chosen", "macro-F1", "seeds"], lines))
    return entry


def write_part(path: str, part: str, entry: dict[str, Any]) -> None:
    """Write the entry of a part, keys of another name in it kept; the other parts keep theirs."""
    results = files.read_json(path, "delete it") if Path(path).is_file() else {}
    results[part] = {**results.get(part, {}), **entry}
    files.write_json(path, results)
    print(f"wrote {path}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.part == "shares":
        write_part(args.output, args.part, {Path(args.rows).stem: measure_shares(args)})
    else:
        write_part(args.output, args.part, measure_rounds(args))


if __name__ == "__main__":
    errors.run_script(main)
