"""Train and evaluate many adapters to learn what one cannot tell: each topic held out in turn, and a learning curve.

Reads --corpus; calls prepare_data.py, finetune.py and evaluate.py for each run.
Writes to --study-dir: data/ and runs/ (a folder a run, with all that these scripts write), study.json (all numbers),
study.md, study.tex, cross_topic.png, learning_curve.png. Finished runs are skipped: the same command continues a study.

    python -m tools.study
    python -m tools.study --studies topics --seeds 0 1 2 --study-dir outputs/my-study
"""

from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load

# isort: split
import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import prompts
from stance.common import errors, files
from stance.corpus import annotations, cleaning, splitting
from stance.evaluation import figures, predictions, study_tables
from stance.model import loading

# ---------------------------------------------------------------- settings
CORPUS = "data/stance_corpus_sample.xlsx"  # annotated file: .xlsx, .csv, .tsv or .jsonl
BASE_MODEL = "google/gemma-2-9b-it"  # hub name (name@commit for one version) or folder of the instruction-tuned base
STUDIES = (
    "topics",
    "curve",
)  # topics: each topic held out in turn; curve: trained on parts of the train split
SEEDS = (0,)  # of the training; with several, every run is repeated, and parts are drawn anew
FRACTIONS = (
    0.1,
    0.25,
    0.5,
)  # of the train split for the curve, whose last point is the whole; below 1
STUDY_DIR = "outputs/study"  # where everything goes
# --------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[1]


class Run(NamedTuple):
    """One adapter to train and evaluate."""

    data: str  # name of its folder of splits
    seed: int
    topic: str | None = None  # held out
    fraction: float = 1.0  # of the train split

    @property
    def name(self):
        return f"{self.data}-seed{self.seed}"


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--corpus", default=CORPUS, help="annotated file (%(default)s)")
    parser.add_argument("--base-model", default=BASE_MODEL, help="hub name or folder (%(default)s)")
    parser.add_argument("--study-dir", default=STUDY_DIR, help="where results go (%(default)s)")
    parser.add_argument(
        "--studies", nargs="+", default=STUDIES, choices=STUDIES, help="which to do (both)"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=SEEDS, help="seeds of the training (%(default)s)"
    )
    parser.add_argument(
        "--epochs", type=float, help="passes over the data (default: that of finetune.py)"
    )
    parser.add_argument(
        "--learning-rate", type=float, help="peak rate (default: that of finetune.py)"
    )
    return parser.parse_args(argv)


def list_corpus_topics(path):
    """Return the topics of a corpus, each once."""
    rows, _, _ = annotations.merge_duplicates(annotations.read_corpus(path))
    topics = {}
    for row in rows:
        topics.setdefault(cleaning.normalise_key(row["topic"]), row["topic"])
    return sorted(topics.values())


def list_runs(args, topics):
    """Return the runs of the chosen studies; the run on all data belongs to both."""
    runs = [Run("all", seed) for seed in args.seeds]
    if "topics" in args.studies:
        if len(topics) < 2:
            errors.fail(
                f"{args.corpus} has one topic, holding it out leaves nothing: use --studies curve"
            )
        runs += [
            Run(f"without-{shorten(topic)}", seed, topic=topic)
            for topic in topics
            for seed in args.seeds
        ]
    if "curve" in args.studies:
        parts = [(fraction, seed) for fraction in FRACTIONS for seed in args.seeds]
        runs += [
            Run(f"part-{fraction:g}-draw{seed}", seed, fraction=fraction)
            for fraction, seed in parts
        ]
    return runs


def shorten(topic):
    """Return a topic as part of a folder's name; different for different topics."""
    words = re.sub(r"[^a-z0-9]+", "-", topic.lower())[:40].strip("-")
    return f"{words}-{hashlib.sha256(topic.encode()).hexdigest()[:6]}".lstrip("-")


def read_settings(args):
    """Return {"setting NAME": value} of finetune.py, or of flags that override them; no SEED, which runs differ in."""
    import finetune  # takes seconds, so only once flags and corpus are known to be right

    settings = finetune.collect_experiment_settings()
    flags = {"EPOCHS": args.epochs, "LEARNING_RATE": args.learning_rate}
    settings |= {name: value for name, value in flags.items() if value is not None}
    return {f"setting {name}": value for name, value in settings.items() if name != "SEED"}


def check_plan(folder, plan):
    """Write what all runs of a study have in common to plan.json; stop if the folder holds a study of other things."""
    path = folder / "plan.json"
    if path.exists():
        started = files.read_json(path, "choose another --study-dir")
        for key, value in plan.items():
            if started.get(key) != value:
                was = started.get(key)
                errors.fail(
                    f"{folder} holds a study with {key} {was}, now it is {value}: choose another --study-dir"
                )
    files.make_folder(folder)
    files.write_json(path, plan)


def call_script(script, *flags, log):
    """Run a script of this folder; what it prints goes to the end of a log file, its error line to the screen."""
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, ROOT / script, *map(str, flags)]
    with open(log, "a", encoding="utf-8") as file, subprocess.Popen(words, stdout=file) as running:
        try:
            running.wait()
        except SystemExit:  # SIGTERM
            running.terminate()
            raise
        except KeyboardInterrupt:  # a terminal sends Ctrl-C to both
            running.wait()  # finetune.py saves a checkpoint
            raise
    if running.returncode:
        errors.fail(
            f"{script} {' '.join(map(str, flags))} failed: see above and {log}, then start again"
        )


def prepare_splits(args, folder, run):
    """Make the folder of splits of a run."""
    target = folder / "data" / run.data
    if run.fraction < 1:
        whole = folder / "data" / "all"
        rows = splitting.load_split(whole / "train.jsonl")
        files.write_jsonl(target / "train.jsonl", take_fraction(rows, run.fraction, run.seed))
        for name in ("val.jsonl", "test.jsonl"):
            shutil.copyfile(whole / name, target / name)
        return
    held_out = [] if run.topic is None else ["--hold-out-topic", run.topic]
    log = folder / "logs" / f"{run.data}.txt"
    call_script(
        "prepare_data.py", "--corpus", args.corpus, "--output-dir", target, *held_out, log=log
    )


def take_fraction(rows, fraction, seed):
    """Return a part of rows in their order, with the same shares of topics and labels; smaller parts lie in larger."""
    strata, line = {}, []
    for row in rows:
        digest = hashlib.sha256(f"{seed}:{row['id']}".encode()).hexdigest()
        strata.setdefault((row["topic"], row["label"]), []).append((digest, row["id"]))
    for stratum in strata.values():  # spread evenly along one line, of which a part takes the start
        line += [
            ((i + 0.5) / len(stratum), digest, name)
            for i, (digest, name) in enumerate(sorted(stratum))
        ]
    taken = {name for _, _, name in sorted(line)[: max(round(fraction * len(rows)), 1)]}
    return [row for row in rows if row["id"] in taken]


def finish_run(args, folder, run, plan):
    """Train and evaluate a run as far as that has not happened; return what was done, in words."""
    data, home, log = (
        folder / "data" / run.data,
        folder / "runs" / run.name,
        folder / "logs" / f"{run.name}.txt",
    )
    done = "finished before"
    if not (home / "run.json").is_file():
        resume = ["--resume"] if any(home.glob("checkpoints/checkpoint-*")) else []
        if home.exists() and not resume:
            shutil.rmtree(home)  # broken off before the first checkpoint
        flags = [
            "--base-model",
            args.base_model,
            "--data-dir",
            data,
            "--run-dir",
            home,
            "--seed",
            run.seed,
            *resume,
        ]
        for flag, value in (("--epochs", args.epochs), ("--learning-rate", args.learning_rate)):
            flags += [] if value is None else [flag, value]
        call_script("finetune.py", *flags, log=log)
        done = "trained and evaluated"
    check_run(home, data, run, plan)
    shutil.rmtree(home / "checkpoints", ignore_errors=True)  # gigabytes that only --resume needs
    if not is_evaluated(home, data):
        call_script(
            "evaluate.py", "--adapter", home, "--data-dir", data, "--robustness-rows", 0, log=log
        )
        done = "evaluated" if done == "finished before" else done
    return done


def check_run(home, data, run, plan):
    """Stop unless a trained run has the settings and data of the study."""
    record = files.read_json(home / "run.json", "delete its folder and start again")
    found = {**record, **{f"setting {name}": value for name, value in record["settings"].items()}}
    found |= {name: part["sha256"] for name, part in record["data"].items()}
    wanted = {key: value for key, value in plan.items() if key.startswith("setting ")}
    wanted |= {key: plan[key] for key in ("base_model", "prompt_version")}
    wanted |= {name: files.hash_file(data / f"{name}.jsonl") for name in ("train", "val")}
    wanted["setting SEED"] = run.seed
    for key, value in wanted.items():
        if found.get(key) != value:
            errors.fail(
                f"{home} was trained with {key} {found.get(key)}, the study has {value}: delete the folder"
            )


def is_evaluated(home, data):
    """Whether a run has been evaluated on the test split of its data."""
    if not (home / "evaluation.json").is_file():
        return False
    evaluation = files.read_json(home / "evaluation.json", "delete it")
    return evaluation["test_sha256"] == files.hash_file(data / "test.jsonl") and evaluation[
        "adapter"
    ] == str(home)


def main(argv=None):
    args = parse_args(argv)
    folder, topics = Path(args.study_dir), list_corpus_topics(args.corpus)
    runs = list_runs(args, topics)
    plan = {
        "corpus": files.hash_file(args.corpus),
        "SPLIT_SEED": splitting.SPLIT_SEED,
        "base_model": args.base_model,
        "prompt_version": prompts.PROMPT_VERSION,
        **read_settings(args),
    }
    check_plan(folder, plan)
    for run in {run.data: run for run in runs}.values():
        prepare_splits(args, folder, run)
    for number, run in enumerate(runs, start=1):
        print(
            f"[{number}/{len(runs)}] {run.name}: {finish_run(args, folder, run, plan)}", flush=True
        )
    note = loading.read_demo_note(args.base_model)
    tables = {
        run: predictions.read_records(folder / "runs" / run.name / "evaluation.jsonl")
        for run in runs
    }
    sizes = {
        run: len(splitting.load_split(folder / "data" / run.data / "train.jsonl")) for run in runs
    }
    result, texts = {"note": note, "plan": plan}, []
    if "topics" in args.studies:
        result["topics"] = study_tables.compare_topics(tables)
        texts += study_tables.list_topics(result["topics"])
        figures.plot_topics(result["topics"]["pictured"], folder / "cross_topic.png", note)
    if "curve" in args.studies:
        result["curve"] = study_tables.trace_curve(tables, sizes)
        texts += study_tables.list_curve(result["curve"])
        figures.plot_learning(
            *study_tables.pick_points(result["curve"]), folder / "learning_curve.png", note
        )
    files.write_json(folder / "study.json", result)
    files.write_text(folder / "study.md", [study_tables.build_page(texts, args.studies, note)])
    files.write_text(folder / "study.tex", study_tables.list_latex(texts, note))
    print("\n" + study_tables.format_screen(texts) + (f"\n\n{note}" if note else ""))
    print(f"wrote study.json, study.md, study.tex and pictures to {folder}")


if __name__ == "__main__":
    errors.run_script(main)
