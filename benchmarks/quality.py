"""Measure the quality of recipes on real corpora with real bases: many runs, a base loaded once for many adapters.

Reads --data-dir, the folders of splits that benchmarks/quality_corpora.py wrote, and the folders of --models.
Each GPU has --processes processes, which take the next run from a shared list and append a line to
--work-dir/records.jsonl: started again, finished runs are skipped. Writes the runs that are finished with all their
numbers to --output, and prints their table. Settings are chosen by validation rows, never by test rows.

    PYTHONPATH=. python benchmarks/quality.py --models qwen=path/to/model minilm=path/to/encoder
    PYTHONPATH=. python benchmarks/quality.py --models gemma=google/gemma-2-9b-it --studies recipes --processes 1
    PYTHONPATH=. python benchmarks/quality.py --table
"""

import argparse
import contextlib
import fcntl
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import quality_runs
import torch

import finetune
from stance.common import errors, files, flags, formatting
from stance.evaluation import uncertainty

# ---------------------------------------------------------------- settings
DATA_DIR = "outputs/quality/data"  # folder of the folders of splits
WORK_DIR = "outputs/quality/work"  # records of finished runs, claims, logs
OUTPUT = "benchmarks/results/quality.json"  # all records
# What is run, in this order; those of STUDY_NAMES.
STUDIES = ("recipes", "rates", "settings", "topics", "rows")
CORPORA = ("ukp",)  # folders of --data-dir
SEEDS = (0, 1, 2)  # of each training
PROCESSES = 1  # a GPU; a small base leaves room for several
LIMIT_SECONDS = 86400.0  # after which no further run is begun
# What the studies try:
RATES = (1e-4, 2e-4, 3e-4, 5e-4)  # with each of BATCHES
BATCHES = (8, 16, 32)
EDGES = ((5e-5, 16), (1e-3, 32), (2e-4, 64), (5e-4, 64))  # (rate, batch), with the first seed alone
BEFORE = {"LEARNING_RATE": 1e-4, "EFFECTIVE_BATCH_SIZE": 32}  # of finetune.py, till it had START's
START = {"LEARNING_RATE": 2e-4, "EFFECTIVE_BATCH_SIZE": 16}  # what single settings are changed of
CHANGES = (  # of START, one at a time
    *({"NEGATED_SHARE": 0.25}, {"NEGATED_SHARE": 0.5}),
    *({"EPOCHS": 1.0}, {"EPOCHS": 3.0}, {"EPOCHS": 4.0}),
    {"LABEL_SMOOTHING": 0.1},
    *({"LORA_R": 8, "LORA_ALPHA": 16}, {"LORA_R": 32, "LORA_ALPHA": 64}),
    {"LORA_R": 64, "LORA_ALPHA": 128},
    *({"SCHEDULE": "cosine"}, {"SCHEDULE": "constant_with_warmup"}),
    *({"LORA_DROPOUT": 0.05}, {"LORA_DROPOUT": 0.1}),
    *({"WARMUP": 0.0}, {"WARMUP": 0.1}),
    *({"WEIGHT_DECAY": 0.01}, {"WEIGHT_DECAY": 0.1}),
    {"LORA_TARGETS": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    {"LORA_TARGETS": ["gate_proj", "up_proj", "down_proj"]},
)
CANDIDATES = (  # what is confirmed on other corpora and bases
    *(BEFORE, START),
    {"LEARNING_RATE": 3e-4, "EFFECTIVE_BATCH_SIZE": 16},
    {"LEARNING_RATE": 3e-4, "EFFECTIVE_BATCH_SIZE": 32},
    *({**START, "NEGATED_SHARE": 0.25}, {**START, "NEGATED_SHARE": 0.5}),
)
TRAIN_ROWS = (250, 500, 1000, 2000)  # of the learning curve
ENCODER_RATES = (5e-5, 2e-4)
# Of plain trl: its logits are of all tokens, and fill the memory sooner.
PLAIN_MICRO_BATCH_SIZE = 16
HEAD_RATES = (1e-4, 3e-4)  # of LoRA with a classification head, with BEFORE's batch
# --------------------------------------------------------------------------

CLAIMS = "claims.json"  # in the work folder: which process runs which job
FAILED = "failed"  # in place of a process: nobody tries the job again
FAILED_CODE = 3  # exit code of a process whose job failed
POLL_SECONDS = 1.0
CHOSEN_BY = "macro_f1"  # of the validation rows
ENCODERS = ("minilm",)  # names of --models that are encoders and no language models
HEADERS = [
    "Corpus", "Base", "Recipe", "Settings", "Seeds", "Validation macro-F1", "Accuracy", "Macro-F1",
    "95 % interval", "SemEval F1", "F1 pro/con/neu", "ECE", "scaled", "Train s",
]  # fmt: skip
SHORT = {
    "LEARNING_RATE": "rate",
    "EFFECTIVE_BATCH_SIZE": "batch",
    "EPOCHS": "epochs",
    "LORA_R": "rank",
    "LORA_ALPHA": "alpha",
    "LORA_DROPOUT": "dropout",
    "LORA_TARGETS": "layers",
    "WARMUP": "warm-up",
    "SCHEDULE": "schedule",
    "WEIGHT_DECAY": "weight decay",
    "LABEL_SMOOTHING": "smoothing",
    "NEGATED_SHARE": "negated share",
    "CLASS_WEIGHTS": "class weights",
    "TRAIN_ROWS": "train rows",
    "MICRO_BATCH_SIZE": "micro-batch",
}
# What finetune.py has at present. Jobs spell their settings out instead: a name of a run means the
# same when defaults change.
SHIPPED = {
    "LEARNING_RATE": finetune.LEARNING_RATE,
    "EFFECTIVE_BATCH_SIZE": finetune.EFFECTIVE_BATCH_SIZE,
}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument(
        "--models", nargs="+", default=[], metavar="NAME=FOLDER", help="bases and encoders"
    )
    parser.add_argument("--data-dir", default=DATA_DIR, help="folders of splits (%(default)s)")
    parser.add_argument("--work-dir", default=WORK_DIR, help="records and logs (%(default)s)")
    parser.add_argument("--output", default=OUTPUT, help="JSON file of all records (%(default)s)")
    parser.add_argument(
        "--studies",
        nargs="+",
        choices=STUDY_NAMES,
        default=STUDIES,
        help="what to run (%(default)s)",
    )
    parser.add_argument(
        "--corpora", nargs="+", default=CORPORA, help="folders of --data-dir (%(default)s)"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=flags.seed, default=SEEDS, help="of the training (%(default)s)"
    )
    parser.add_argument("--processes", type=int, default=PROCESSES, help="a GPU (%(default)s)")
    parser.add_argument(
        "--limit-seconds",
        type=flags.positive_number,
        default=LIMIT_SECONDS,
        help="begin no run after these (%(default)s)",
    )
    parser.add_argument("--table", action="store_true", help="run nothing, show what is recorded")
    parser.add_argument("--jobs", help=argparse.SUPPRESS)  # of a process that this script starts
    args = parser.parse_args(argv)
    args.models = dict(read_model(word) for word in args.models)
    return args


def read_model(word: str) -> tuple[str, str]:
    """Return (name, folder) of a value of --models."""
    name, equals, folder = word.partition("=")
    if not (name and equals and folder):
        errors.fail(f"--models {word} names no model: write NAME=FOLDER")
    return name, folder


# ---------------------------------------------------------------- what is run


def make_job(
    corpus: str, base: str, recipe: str, settings: dict[str, Any] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Return a job as JSON holds it; quality_runs.Job takes it."""
    return {
        "corpus": corpus,
        "base": base,
        "recipe": recipe,
        "settings": settings or {},
        "seed": seed,
    }


def list_rates(corpus: str, base: str, seeds: list[int]) -> list[dict]:
    """Return the jobs of learning rate x batch."""
    jobs = []
    for seed in seeds:
        pairs = [(rate, batch) for batch in BATCHES for rate in RATES]
        if seed == seeds[0]:
            pairs += EDGES
        for rate, batch in pairs:
            settings = {"LEARNING_RATE": rate, "EFFECTIVE_BATCH_SIZE": batch}
            jobs.append(make_job(corpus, base, "adapter", settings, seed))
    return jobs


def list_recipes(corpus: str, base: str, seeds: list[int]) -> list[dict]:
    """Return the jobs of the recipes that learn with a language model."""
    jobs = [make_job(corpus, base, "zero-shot")]
    for seed in seeds:
        for settings in (BEFORE, START):
            jobs.append(make_job(corpus, base, "adapter", settings, seed))
            plain = {**settings, "MICRO_BATCH_SIZE": PLAIN_MICRO_BATCH_SIZE}
            jobs.append(make_job(corpus, base, "plain trl", plain, seed))
        jobs.append(make_job(corpus, base, "adapter", finetune.PUBLISHED, seed))
        jobs.append(make_job(corpus, base, "few-shot", {}, seed))
        for rate in HEAD_RATES:
            jobs.append(make_job(corpus, base, "seq_cls", {**BEFORE, "LEARNING_RATE": rate}, seed))
    return jobs


def list_settings(corpus: str, base: str, seeds: list[int]) -> list[dict]:
    """Return the jobs of START with one setting changed."""
    jobs = []
    for seed in seeds:
        for change in CHANGES:
            jobs.append(make_job(corpus, base, "adapter", {**START, **change}, seed))
    return jobs


def list_candidates(corpus: str, base: str, seeds: list[int]) -> list[dict]:
    """Return the jobs that confirm settings on another corpus or base."""
    jobs = [make_job(corpus, base, "zero-shot")]
    for seed in seeds:
        for settings in CANDIDATES:
            jobs.append(make_job(corpus, base, "adapter", settings, seed))
    return jobs


def list_balance(corpus: str, base: str, seeds: list[int]) -> list[dict]:
    """Return the jobs of a corpus whose labels are not balanced: as it is, and with class weights."""
    jobs = [make_job(corpus, base, "zero-shot")]
    for seed in seeds:
        jobs.append(make_job(corpus, base, "adapter", START, seed))
        weighted = {**START, "CLASS_WEIGHTS": True}
        jobs.append(make_job(corpus, base, "adapter", weighted, seed))
    return jobs


def list_curve(corpus: str, base: str, seeds: list[int]) -> list[dict]:
    """Return the jobs of the learning curve: START with few train rows."""
    jobs = []
    for seed in seeds:
        for count in TRAIN_ROWS:
            settings = {**START, "TRAIN_ROWS": count}
            jobs.append(make_job(corpus, base, "adapter", settings, seed))
    return jobs


def list_small(corpus: str, encoder: str | None, seeds: list[int]) -> list[dict]:
    """Return the jobs that need no language model; encoder: its name, or None without one."""
    jobs = [make_job(corpus, "", "tf-idf")]
    if encoder is None:
        return jobs
    jobs.append(make_job(corpus, encoder, "embeddings"))
    for rate in ENCODER_RATES:
        for seed in seeds:
            jobs.append(make_job(corpus, encoder, "encoder", {"LEARNING_RATE": rate}, seed))
    return jobs


def list_topics(args: argparse.Namespace, corpus: str, base: str) -> list[dict]:
    """Return the jobs of leave-one-topic-out: base and adapters, each topic held out in turn."""
    jobs = []
    for folder in sorted(Path(args.data_dir).glob(f"{corpus}-without-*")):
        jobs.append(make_job(folder.name, base, "zero-shot"))
        for settings in (BEFORE, START, {**START, "NEGATED_SHARE": 0.25}):
            jobs.append(make_job(folder.name, base, "adapter", settings, args.seeds[0]))
    return jobs


LISTS = {
    "recipes": list_recipes,
    "rates": list_rates,
    "settings": list_settings,
    "candidates": list_candidates,
    "balance": list_balance,
    "rows": list_curve,
}
STUDY_NAMES = (*LISTS, "topics")


def list_jobs(args: argparse.Namespace) -> list[dict]:
    """Return the jobs of the chosen studies, each once."""
    bases = [name for name in args.models if name not in ENCODERS]
    encoder = next((name for name in args.models if name in ENCODERS), None)
    seeds = list(args.seeds)
    jobs = []
    for corpus in args.corpora:
        for base in bases:
            for study in args.studies:
                if study == "topics":
                    jobs += list_topics(args, corpus, base)
                else:
                    jobs += LISTS[study](corpus, base, seeds)
        if "recipes" in args.studies:
            jobs += list_small(corpus, encoder, seeds)
    return list({name_job(job): job for job in jobs}.values())


def name_job(job: dict) -> str:
    """Return the name of a job, quality_runs.Job.key."""
    settings = ",".join(f"{name}={value}" for name, value in job["settings"].items())
    return f"{job['corpus']}/{job['base']}/{job['recipe']}/{settings}/seed{job['seed']}"


# ---------------------------------------------------------------- processes


def read_records(folder: Path) -> dict[str, dict]:
    """Return {key: record} of the finished runs of a work folder."""
    path = folder / "records.jsonl"
    if not path.is_file():
        return {}
    return {record["key"]: record for record in files.read_jsonl(path, ("key",), "delete it")}


def append_record(folder: Path, record: dict) -> None:
    """Append a record to those of a work folder, which other processes write to as well."""
    with open(folder / "records.jsonl", "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(files.encode_line(record))


def claim_job(folder: Path, key: str) -> bool:
    """Return whether this process may run a job.

    It must have no record, must not have failed, and no living process may have it.
    """
    with open_claims(folder) as claims:
        owner = claims.get(key)
        if key in read_records(folder) or owner == FAILED:
            return False
        if owner is not None and is_running(owner):
            return False
        claims[key] = os.getpid()
    return True


@contextlib.contextmanager
def open_claims(folder: Path) -> Iterator[dict[str, int | str]]:
    """Give {key: process, or FAILED} of a work folder's jobs, locked; write it back at the end."""
    with open(folder / CLAIMS, "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        claims = json.loads(file.read() or "{}")
        yield claims
        file.seek(0)
        file.truncate()
        file.write(json.dumps(claims))


def is_running(process: int) -> bool:
    """Return whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def work(args: argparse.Namespace) -> None:
    """Run jobs of the list --jobs, one after the other, until none is left to take."""
    folder = Path(args.work_dir)
    place = quality_runs.Workplace(args.data_dir, args.models)
    planned = files.read_json(args.jobs, "start again")
    began = planned["began"]
    for job in planned["jobs"]:
        key = name_job(job)
        if time.time() - began > args.limit_seconds or not claim_job(folder, key):
            continue
        print(f"{time.time() - began:.0f} s: {key}", flush=True)
        settings = tuple(job["settings"].items())
        try:
            record = quality_runs.perform(quality_runs.Job(**{**job, "settings": settings}), place)
        except (Exception, SystemExit) as problem:
            print(f"failed: {key}", flush=True)
            traceback.print_exception(problem)
            with open_claims(folder) as claims:
                claims[key] = FAILED
            # What failed may have left the GPU unusable for this process: another takes over.
            raise SystemExit(FAILED_CODE) from None
        append_record(folder, record)


def run_jobs(args: argparse.Namespace, argv: list[str], jobs: list[dict]) -> None:
    """Run jobs by processes of this script, PROCESSES for each GPU, and wait for their end.

    A process whose job failed ends, and another is started in its place. Jobs that failed are
    tried again when the benchmark is started again.
    """
    folder = Path(args.work_dir)
    with open_claims(folder) as claims:
        for job in jobs:
            if claims.get(name_job(job)) == FAILED:
                del claims[name_job(job)]
    path = folder / f"jobs-{os.getpid()}.json"
    files.write_json(path, {"began": time.time(), "jobs": jobs})
    gpus = torch.cuda.device_count()
    count = min(args.processes * max(gpus, 1), len(jobs))

    def start_process(index: int) -> subprocess.Popen:
        variables = dict(os.environ)
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = str(index % gpus)
        command = [sys.executable, __file__, *argv, "--jobs", str(path)]
        name = folder / f"log-{os.getpid()}-{index}.txt"
        with open(name, "a", encoding="utf-8") as log:
            return subprocess.Popen(command, env=variables, stdout=log, stderr=log)

    running = {index: start_process(index) for index in range(count)}
    while running:
        time.sleep(POLL_SECONDS)
        for index, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[index]
            if process.returncode == FAILED_CODE:
                running[index] = start_process(index)


# ---------------------------------------------------------------- numbers


def group_records(records: dict[str, dict]) -> dict[tuple, list[dict]]:
    """Return {(corpus, base, recipe, settings as JSON): records by seed}."""
    groups = {}
    for record in records.values():
        job = record["job"]
        key = (job["corpus"], job["base"], job["recipe"], json.dumps(job["settings"]))
        groups.setdefault(key, []).append(record)
    return {key: sorted(group, key=lambda one: one["job"]["seed"]) for key, group in groups.items()}


def summarise(records: list[dict]) -> dict[str, Any]:
    """Return the numbers of runs that differ in their seed alone.

    {"seeds", "validation", "test": {score: {"mean", "sd", "interval"}}}: sd over seeds, None for
    one; interval: the 95 % interval over test rows, for macro_f1 and accuracy, its ends the means
    of those of the runs.
    """
    summary = {"seeds": [record["job"]["seed"] for record in records]}
    for split in ("validation", "test"):
        summary[split] = {}
        for score in ("accuracy", "macro_f1", "semeval_f1", "micro_f1", "ece", "ece_scaled"):
            values = [record[split].get(score) for record in records]
            if None not in values:
                summary[split][score] = describe_values(values)
    ends = {"accuracy": [], "macro_f1": []}
    for record in records:
        counts = np.array(record["test"]["confusion"])
        samples = uncertainty.resample_rows(counts)
        labels = uncertainty.find_gold_labels(counts)
        ends["accuracy"].append(uncertainty.find_interval(uncertainty.accuracy(samples)))
        ends["macro_f1"].append(uncertainty.find_interval(uncertainty.macro_f1(samples, labels)))
    for score, intervals in ends.items():
        summary["test"][score]["interval"] = np.mean(intervals, 0).tolist()
    return summary


def describe_values(values: list[float]) -> dict[str, float | None]:
    """Return {"mean", "sd"} of the runs' values; sd is None of one."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": spread}


def choose_settings(records: dict[str, dict], corpus: str, base: str, seeds: int) -> str | None:
    """Return the settings of finetune.py, as JSON, that are best by validation.

    Among those with runs of so many seeds; None without any.
    """
    found = []
    for (of_corpus, of_base, recipe, settings), group in group_records(records).items():
        is_tuned = set(json.loads(settings)) == {"LEARNING_RATE", "EFFECTIVE_BATCH_SIZE"}
        if (of_corpus, of_base, recipe) != (corpus, base, "adapter") or not is_tuned:
            continue
        if len(group) >= seeds:
            mean = statistics.fmean(record["validation"][CHOSEN_BY] for record in group)
            found.append((mean, settings))
    return max(found)[1] if found else None


def word_settings(settings: dict[str, Any]) -> str:
    """Return settings as a cell of the table."""
    if settings == finetune.PUBLISHED:
        return "published"
    if settings == SHIPPED:
        return "as shipped"
    return ", ".join(f"{SHORT.get(name, name)} {word_value(settings[name])}" for name in settings)


def word_value(value: Any) -> str:
    """Return the value of a setting as a cell of the table has it."""
    if isinstance(value, list):
        return " ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def word_spread(numbers: dict[str, float | None]) -> str:
    """Return mean and standard deviation as a cell of the table."""
    if numbers["sd"] is None:
        return f"{numbers['mean']:.3f}"
    return f"{numbers['mean']:.3f} ± {numbers['sd']:.3f}"


def list_cells(records: dict[str, dict]) -> list[list[str]]:
    """Return the cells of the table, a row for each group of runs that differ in their seed."""
    rows = []
    for (corpus, base, recipe, settings), group in sorted(group_records(records).items()):
        numbers = summarise(group)
        test = numbers["test"]
        low, high = test["macro_f1"]["interval"]
        of_labels = [
            statistics.fmean(record["test"]["labels"][label]["f1"] for record in group)
            for label in group[0]["test"]["labels"]
        ]
        trained = [record["train_seconds"] for record in group if "train_seconds" in record]
        chosen = json.loads(settings)
        is_tuned = settings == choose_settings(records, corpus, base, len(SEEDS))
        rows.append(
            [
                corpus,
                base or "-",
                recipe,
                word_settings(chosen) + (" (chosen)" if is_tuned else ""),
                str(len(group)),
                word_spread(numbers["validation"]["macro_f1"]),
                word_spread(test["accuracy"]),
                word_spread(test["macro_f1"]),
                f"[{low:.3f}, {high:.3f}]",
                word_spread(test["semeval_f1"]),
                "/".join(f"{value:.2f}" for value in of_labels),
                word_optional(test.get("ece")),
                word_optional(test.get("ece_scaled")),
                f"{statistics.fmean(trained):.0f}" if trained else "-",
            ]
        )
    return rows


def word_optional(numbers: dict[str, float | None] | None) -> str:
    """Return a mean as a cell of the table, "-" without one."""
    return "-" if numbers is None else f"{numbers['mean']:.3f}"


def write_output(path: str, records: dict[str, dict], planned: list[dict], models: dict) -> None:
    """Write all records, their summaries, and which planned runs were not run."""
    summaries = []
    for (corpus, base, recipe, settings), group in sorted(group_records(records).items()):
        described = {"corpus": corpus, "base": base, "recipe": recipe}
        summaries.append({**described, "settings": json.loads(settings), **summarise(group)})
    not_run = [name_job(job) for job in planned if name_job(job) not in records]
    lists = {
        "models": [{"key": name, **describe_model(folder)} for name, folder in models.items()],
        "not_run": not_run,
        "summaries": summaries,
        "runs": [strip_record(records[key]) for key in sorted(records)],
    }
    parts = []
    for (
        name,
        items,
    ) in lists.items():  # a line an item: indented, the file would be ten times as long
        lines = ",\n".join(files.encode_line(item).strip() for item in items)
        parts.append(f'"{name}": [\n{lines}\n]')
    files.write_text(path, ["{\n", ",\n".join(parts), "\n}\n"])


def strip_record(record: dict) -> dict:
    """Return a record without the probabilities of single rows, which stay in the work folder."""
    return {name: value for name, value in record.items() if name != "probabilities"}


def describe_model(folder: str) -> dict[str, Any]:
    """Return what the folder of a model says of where it comes from, in its origin.json."""
    path = Path(folder) / "origin.json"
    return files.read_json(path, "delete it") if path.is_file() else {"name": Path(folder).name}


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    args = parse_args(words)
    folder = Path(args.work_dir)
    files.make_folder(folder)
    if args.jobs:
        work(args)
        return
    planned = list_jobs(args)
    if not args.table:
        records = read_records(folder)
        run_jobs(args, words, [job for job in planned if name_job(job) not in records])
    records = read_records(folder)
    write_output(args.output, records, planned, args.models)
    print(formatting.format_table(HEADERS, list_cells(records)))
    missing = [name_job(job) for job in planned if name_job(job) not in records]
    for key in missing:
        print(f"not run: {key}")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    errors.run_script(main)
