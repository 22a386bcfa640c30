"""Train and evaluate many adapters to learn what one cannot tell: each topic held out in turn, and a learning curve.

Reads --corpus, by the flags of prepare_data.py; calls prepare_data.py, finetune.py and evaluate.py for each run.
Writes to --study-dir: data/ and runs/ (a folder a run, with all that these scripts write), study.json (all numbers),
study.md, study.tex, cross_topic.png, learning_curve.png. Finished runs are skipped: the same command continues a study.

    python -m tools.study
    python -m tools.study --studies topics --seeds 0 1 2 --study-dir outputs/my-study
    python -m tools.study --corpus my_annotations.csv --labels pro=1 con=-1 --groups 10
"""

import sys

try:
    from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load
except ModuleNotFoundError:  # started by its path, a tool has Python look for modules in tools/
    print(
        "error: run it as: python -m tools.study ... (in the folder that holds tools/)",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

# isort: split
import argparse
import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import prompts
from stance.common import errors, files, flags, formatting, locks, records, run_files, types
from stance.corpus import annotations, cleaning, corpus_flags, splitting, voting
from stance.evaluation import figures, predictions, study_tables
from stance.model import loading
from tools import child_runs

# ---------------------------------------------------------------- settings
CORPUS = "data/stance_corpus_sample.xlsx"  # annotated file: .xlsx, .csv, .tsv or .jsonl
# hub name (name@commit for one version) or folder of the instruction-tuned base
BASE_MODEL = "google/gemma-2-9b-it"
# topics: each topic held out in turn; curve: trained on parts of the train split
STUDIES = ("topics", "curve")
SEEDS = (0,)  # of the training; with several, every run is repeated, and parts are drawn anew
# of the train split for the curve, whose last point is the whole; below 1
FRACTIONS = (0.1, 0.25, 0.5)
MAX_TOPICS = 30  # held out one by one, each a training a seed; for more, --groups or --max-topics
STUDY_DIR = "outputs/study"  # where everything goes
# --------------------------------------------------------------------------

LOCK_FILE = "study.lock"


class Run(NamedTuple):
    """One adapter to train and evaluate."""

    data: str  # name of its folder of splits
    seed: int
    topic: str | None = None  # held out; of several, the name of the group
    topics: tuple[str, ...] = ()  # of a group that is held out
    fraction: float = 1.0  # of the train split

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return f"{self.data}-seed{self.seed}"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags."""
    parser = flags.FlagParser(__doc__)
    corpus_flags.add_corpus_flags(parser, CORPUS)
    parser.add_argument("--base-model", default=BASE_MODEL, help="hub name or folder (%(default)s)")
    parser.add_argument("--study-dir", default=STUDY_DIR, help="where results go (%(default)s)")
    parser.add_argument(
        "--studies", nargs="+", default=STUDIES, choices=STUDIES, help="which to do (both)"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=flags.seed,
        default=SEEDS,
        help="seeds of the training (%(default)s)",
    )
    child_runs.add_training_flags(parser)
    parser.add_argument(
        "--groups",
        type=int,
        help="hold out this many groups of topics, of about as many rows, instead of each topic",
    )
    parser.add_argument(
        "--max-topics",
        type=int,
        default=MAX_TOPICS,
        help="hold out no more topics one by one (%(default)s)",
    )
    args = parser.parse_args(argv)
    if args.groups is not None and args.groups < 2:
        errors.fail(f"--groups {args.groups} is impossible: give 2 or more")
    return args


def count_topics_of_corpus(args: argparse.Namespace) -> dict[str, int]:
    """Return {topic: usable rows} of the corpus, topics alphabetically; fail on what is wrong in
    it."""
    options = corpus_flags.take_options(args)
    scans = annotations.scan_files(args.corpus, options)
    annotations.check_scans(scans, args.skip_bad)
    decided = voting.decide_rows((row for scan in scans for row in scan.rows), options)
    spellings = {}  # the first of each topic
    counts = Counter()
    for row in decided.rows:
        key = cleaning.normalise_key(row["topic"])
        counts[spellings.setdefault(key, row["topic"])] += 1
    return dict(sorted(counts.items()))


def deal_groups(sizes: dict[str, int], groups: int) -> list[tuple[str, ...]]:
    """Return groups of topics with about as many rows each; sizes: {topic: rows}.

    The topics, largest first, go one by one to the group that has the fewest rows so far.
    """
    dealt = [[] for _ in range(groups)]
    rows = [0] * groups
    for topic in sorted(sizes, key=lambda topic: (-sizes[topic], topic)):
        smallest = rows.index(min(rows))
        dealt[smallest].append(topic)
        rows[smallest] += sizes[topic]
    return [tuple(sorted(topics)) for topics in dealt]


def list_held_out(args: argparse.Namespace, sizes: dict[str, int]) -> dict[str, tuple[str, ...]]:
    """Return {name: topics of a group} of what is held out in turn; a topic alone has none.

    sizes: {topic: rows}. Fails if there are too few topics, or too many.
    """
    name = formatting.list_first(args.corpus)
    count = len(sizes)
    if count < 2:
        errors.fail(f"{name} has one topic, holding it out leaves nothing: use --studies curve")
    if args.groups is not None:
        if args.groups > count:
            errors.fail(f"{name} has {count} topics: give --groups {count} or fewer")
        groups = deal_groups(sizes, args.groups)
        return {f"group {number}": topics for number, topics in enumerate(groups, start=1)}
    if count > args.max_topics:
        problem = f"{name} has {count:,} topics, and each held out is a training a seed"
        hint = f"hold out groups of them (--groups 10), or give --max-topics {count}"
        errors.fail(f"{problem}: {hint}")
    return dict.fromkeys(sizes, ())


def list_runs(args: argparse.Namespace, sizes: dict[str, int]) -> list[Run]:
    """Return the runs of the chosen studies; the run on all data belongs to both.

    sizes: {topic: rows}.
    """
    runs = [Run("all", seed) for seed in args.seeds]
    if "topics" in args.studies:
        for name, topics in list_held_out(args, sizes).items():
            data = f"without-{shorten(name, topics)}"
            runs += [Run(data, seed, topic=name, topics=topics) for seed in args.seeds]
    if "curve" in args.studies:
        for fraction in FRACTIONS:
            for seed in args.seeds:
                runs.append(Run(f"part-{fraction:g}-draw{seed}", seed, fraction=fraction))
    return runs


def describe_trainings(folder: Path, runs: list[Run], sizes: dict[str, int]) -> str:
    """Return how many trainings a study has, of what, and how many of them are done; and what is in
    its groups.

    folder: of the study; sizes: {topic: rows}.
    """
    held_out = [run for run in runs if run.topic is not None]
    parts = sum(run.fraction < 1 for run in runs)
    done = sum((folder / "runs" / run.name / "run.json").is_file() for run in runs)
    what = "group of topics" if any(run.topics for run in held_out) else "topic"
    lines = [
        f"{len(runs) - done} trainings to do, {done} done already: "
        f"{len(runs) - len(held_out) - parts} on all data, {len(held_out)} with a {what} held out, "
        f"{parts} on parts of the train split"
    ]
    groups = {run.topic: run.topics for run in held_out if run.topics}
    for name, topics in groups.items():
        rows = sum(sizes[topic] for topic in topics)
        listed = formatting.list_first([formatting.quote(topic) for topic in topics])
        lines.append(f"{name}: {len(topics)} topics, {rows} rows: {listed}")
    return "\n".join(lines)


def shorten(name: str, topics: tuple[str, ...] = ()) -> str:
    """Return the name of what is held out as part of a folder's name; different for others.

    name: a topic, or that of a group of topics.
    """
    words = re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-")
    key = "\n".join(topics or [name])
    return f"{words}-{hashlib.sha256(key.encode()).hexdigest()[:6]}".lstrip("-")


def read_settings(args: argparse.Namespace) -> dict:
    """Return {"setting NAME": value} of finetune.py, or of flags that override them.

    SEED is not among them: runs differ in it.
    """
    import finetune  # takes seconds, so only once flags and corpus are known to be right

    settings = finetune.collect_experiment_settings()
    if args.epochs is not None:
        settings["EPOCHS"] = args.epochs
    if args.learning_rate is not None:
        settings["LEARNING_RATE"] = args.learning_rate
    return {f"setting {name}": value for name, value in settings.items() if name != "SEED"}


def list_reading(args: argparse.Namespace) -> list[str] | None:
    """Return the words of a command line that say how the corpus is read; None if there are
    none."""
    names = [name for name in corpus_flags.PASSED_ON if name != "corpus"]
    return flags.list_words(args, names) or None


def check_plan(folder: Path, plan: dict) -> None:
    """Write what all runs of a study have in common to plan.json.

    Fails if the folder holds a study of other things.
    """
    path = folder / "plan.json"
    if path.exists():
        hint = "choose another --study-dir"
        started = records.read_typed(path, dict[str, types.Setting], "plan of a study", hint)
        for key, value in plan.items():
            was = started.get(key)
            if was != value:
                errors.fail(
                    f"{folder} holds a study with {key} {was}, now it is {value}: "
                    "choose another --study-dir"
                )
    files.write_json(path, plan)


def prepare_splits(args: argparse.Namespace, folder: Path, run: Run) -> None:
    """Make the folder of splits of a run; a part of the train split is taken from that of all data.

    folder: of the study.
    """
    target = folder / "data" / run.data
    if run.fraction < 1:
        whole = folder / "data" / "all"
        report = splitting.read_report(whole, splitting.SPLITS)
        splits = {name: splitting.load_split(whole / f"{name}.jsonl") for name in splitting.SPLITS}
        splits["train"] = take_fraction(splits["train"], run.fraction, run.seed)
        part = {"fraction_of_train": run.fraction, "fraction_seed": run.seed}
        splitting.write_splits(target, splits, {**report, **part})
        return
    words = [*corpus_flags.list_corpus_words(args), "--output-dir", target]
    if run.topics:
        words += ["--hold-out-topic", *map(flags.hide_dash, run.topics)]
    elif run.topic is not None:
        words.append(f"--hold-out-topic={run.topic}")  # it may begin with a dash
    child_runs.call_script("prepare_data.py", *words, log=folder / "logs" / f"{run.data}.txt")


def take_fraction(rows: list[types.Example], fraction: float, seed: int) -> list[types.Example]:
    """Return a part of rows in their order, with the same shares of topics and labels.

    Of one seed, a smaller part lies in every larger one. A part has at least one row.
    """
    strata = {}  # [(hash, id)] by topic and label
    for row in rows:
        digest = hashlib.sha256(f"{seed}:{row['id']}".encode()).hexdigest()
        stratum = strata.setdefault((row["topic"], row["label"]), [])
        stratum.append((digest, row["id"]))
    line = []  # along which each stratum is spread evenly, so that a part can take its start
    for stratum in strata.values():
        for rank, (digest, row_id) in enumerate(sorted(stratum)):
            position = (rank + 0.5) / len(stratum)
            line.append((position, digest, row_id))
    size = max(round(fraction * len(rows)), 1)
    taken = {row_id for _, _, row_id in sorted(line)[:size]}
    return [row for row in rows if row["id"] in taken]


def finish_run(args: argparse.Namespace, folder: Path, run: Run, plan: dict) -> str:
    """Train and evaluate a run as far as that has not happened; return what was done, in words.

    folder: of the study.
    """
    data = folder / "data" / run.data
    home = folder / "runs" / run.name
    words = ["--base-model", args.base_model, "--seed", run.seed]
    if args.epochs is not None:
        words += ["--epochs", args.epochs]
    if args.learning_rate is not None:
        words += ["--learning-rate", args.learning_rate]
    log = folder / "logs" / f"{run.name}.txt"
    return child_runs.finish_child(home, data, words, log, lambda: check_run(home, data, run, plan))


def check_run(home: Path, data: Path, run: Run, plan: dict) -> None:
    """Fail unless a trained run has the settings and data of the study.

    home: folder of the run; data: of its splits.
    """
    hint = "delete its folder and start again"
    record = records.read_typed(home / "run.json", types.RunRecord, "run record", hint)
    found = dict(record)
    for name, value in record.get("settings", {}).items():
        found[f"setting {name}"] = value
    for name, part in record["data"].items():
        found[name] = part["sha256"]
    wanted = {key: value for key, value in plan.items() if key.startswith("setting ")}
    wanted["base_model"] = plan["base_model"]
    wanted["prompt_version"] = plan["prompt_version"]
    for name in ("train", "val"):
        wanted[name] = files.hash_file(data / f"{name}.jsonl")
    wanted["setting SEED"] = run.seed
    for key, value in wanted.items():
        if found.get(key) != value:
            errors.fail(
                f"{home} was trained with {key} {found.get(key)}, the study has {value}: "
                "delete the folder"
            )


def write_study(args: argparse.Namespace, folder: Path, runs: list[Run], plan: dict) -> None:
    """Write the numbers, tables and pictures of finished runs to the folder of the study.

    Prints the tables and the names of the files.
    """
    note = loading.read_demo_note(args.base_model)
    tables = {}
    sizes = {}  # rows of the train split
    for run in runs:
        train = splitting.load_split(folder / "data" / run.data / "train.jsonl")
        sizes[run] = len(train)
        records = run_files.find_text(folder / "runs" / run.name, run_files.RECORDS)
        tables[run] = predictions.read_records(records)
    result = {"note": note, "plan": plan}
    titled_tables = []
    if "topics" in args.studies:
        result["topics"] = study_tables.compare_topics(tables)
        titled_tables += study_tables.list_topics(result["topics"])
        pictured = study_tables.pick_pictured(result["topics"])
        figures.plot_topics(pictured, folder / "cross_topic.png", note)
    if "curve" in args.studies:
        result["curve"] = study_tables.trace_curve(tables, sizes)
        titled_tables += study_tables.list_curve(result["curve"])
        points, baselines = study_tables.pick_points(result["curve"])
        figures.plot_learning(points, baselines, folder / "learning_curve.png", note)
    page = study_tables.build_page(titled_tables, args.studies, note)
    files.write_json(folder / "study.json", result)
    files.write_text(folder / "study.md", [page])
    files.write_text(folder / "study.tex", study_tables.list_latex(titled_tables, note))
    print(f"\n{study_tables.format_screen(titled_tables)}")
    if note:
        print(f"\n{note}")
    print(f"wrote study.json, study.md, study.tex and pictures to {folder}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    folder = Path(args.study_dir)
    sizes = count_topics_of_corpus(args)
    runs = list_runs(args, sizes)
    plan = {
        "corpus": " ".join(files.hash_file(path) for path in args.corpus),
        "reading": list_reading(args),
        "SPLIT_SEED": splitting.SPLIT_SEED,
        "base_model": args.base_model,
        "prompt_version": prompts.PROMPT_VERSION,
        **read_settings(args),
    }
    files.make_folder(folder)
    with locks.hold_lock(folder / LOCK_FILE, folder, "tools.study", "choose another --study-dir"):
        do_runs(args, folder, runs, plan, sizes)


def do_runs(
    args: argparse.Namespace, folder: Path, runs: list[Run], plan: dict, sizes: dict[str, int]
) -> None:
    """Do what is left of the runs of a study, and write what came out of all of them.

    folder: of the study; plan: what its runs have in common; sizes: {topic: rows}.
    """
    check_plan(folder, plan)
    print(describe_trainings(folder, runs, sizes), flush=True)
    run_of_data = {run.data: run for run in runs}  # runs of several seeds share splits
    for run in run_of_data.values():
        prepare_splits(args, folder, run)
    for number, run in enumerate(runs, start=1):
        done = finish_run(args, folder, run, plan)
        print(f"[{number}/{len(runs)}] {run.name}: {done}", flush=True)
    write_study(args, folder, runs, plan)


if __name__ == "__main__":
    errors.run_script(main)
