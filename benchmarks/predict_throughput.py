"""Measure predict.py on long tables: rows a second and peak memory, in a process of its own for each size.

Builds a tiny Gemma-2 by tests/tiny_model.py, smaller still, with a random adapter in --work-dir, and tables of random
words, every tenth row a repeat. The model is real but tiny: the figures say what reading, keeping, resuming and writing
cost, not how fast gemma-2-9b is (score_throughput.py does). Writes all figures to --output; prints the table.

    PYTHONPATH=.:tests python benchmarks/predict_throughput.py
    PYTHONPATH=.:tests python benchmarks/predict_throughput.py --rows 10000 --output /tmp/predict_throughput.json
"""

import argparse
import csv
import os
import random
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import peft
import tiny_model
import workload

import finetune
import prompts
from stance.common import environment, errors, files, flags, formatting
from stance.corpus import annotations
from stance.labelling import labeller
from stance.model import loading, precision, scoring

# ---------------------------------------------------------------- settings
ROWS = [10_000, 100_000, 1_000_000]  # of the tables
WORK_DIR = "outputs/predict-throughput"  # folder of model, adapter and tables
OUTPUT = "benchmarks/results/predict_throughput.json"  # of this run
SIZES = {
    "HIDDEN_SIZE": 64,
    "INTERMEDIATE_SIZE": 64,
    "LAYERS": 1,
    "HEADS": 1,
    "KEY_VALUE_HEADS": 1,
    "STEPS": 20,
}
REPEATS = 10  # each tenth row is a repeat
REPEATED = 1000  # of one of so many first rows
SEED = 0  # of the rows
# --------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=ROWS, help="of the tables (%(default)s)"
    )
    parser.add_argument(
        "--work-dir", default=WORK_DIR, help="folder of model, adapter and tables (%(default)s)"
    )
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the figures (%(default)s)")
    return parser.parse_args(argv)


def build_adapter(folder: Path, base: Path) -> None:
    """Make a tiny model in base, if that is not there, and a random adapter on it in folder, in the
    form that finetune.py leaves."""
    for name, value in SIZES.items():
        setattr(tiny_model, name, value)
    if not base.is_dir():
        tiny_model.build(base)
    lora = peft.LoraConfig(
        r=finetune.LORA_R, lora_alpha=finetune.LORA_ALPHA, target_modules=finetune.LORA_TARGETS
    )
    peft.get_peft_model(loading.load_base(str(base)), lora).save_pretrained(folder)
    record = {
        **loading.describe_base(str(base), loading.load_tokenizer(str(base))),
        "prompt_version": prompts.PROMPT_VERSION,
        "labels": prompts.LABELS,
        "precision": precision.describe_precision(),
        "data": {},
        "demo": True,
    }
    files.write_json(folder / "run.json", record)


def write_rows(path: Path, count: int) -> None:
    """Write a table of so many rows: random words of the sample corpus, 4 to 36 in a sentence."""
    rng = random.Random(SEED)
    sample = annotations.read_corpus(workload.SAMPLE)
    words = [word for row in sample for word in row["text"].split()]
    topics = sorted({row["topic"] for row in sample})
    first = []
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["nr", "topic", "text"])
        for number in range(count):
            pair = [rng.choice(topics), " ".join(rng.choices(words, k=rng.randint(4, 36)))]
            if number % REPEATS == REPEATS - 1:
                pair = rng.choice(first)
            elif len(first) < REPEATED:
                first.append(pair)
            writer.writerow([number, *pair])


def measure(adapter: Path, source: Path) -> dict[str, float]:
    """Label a table in a process of its own.

    Returns its seconds and processor time, the most memory it took and the size of its output, both
    in MiB. Linux only: memory is read from /proc.
    """
    output = source.with_name(f"labelled-{source.name}")
    command = [sys.executable, "predict.py", "--adapter", str(adapter)]
    command += ["--input", str(source), "--output", str(output)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.time()
    process = subprocess.Popen(command)
    peak = 0
    while process.poll() is None:
        # Not ru_maxrss: that of a child counts the memory of this process too.
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        if found:  # a process that has ended has no memory
            peak = int(found[1])
        time.sleep(0.1)
    if process.returncode:
        errors.fail(f"predict.py ended with status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(time.time() - started, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_memory_mib": round(peak / 1024),  # Linux counts in KiB
        "output_mib": round(output.stat().st_size / 2**20, 1),
    }


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    folder = Path(args.work_dir)
    build_adapter(folder, folder / "tiny-gemma2")
    record = {
        "rows": {},
        "model": {"settings": SIZES, "note": tiny_model.NOTE},
        "settings": {
            "SCORE_BATCH_SIZE": scoring.SCORE_BATCH_SIZE,
            "BLOCK_SIZE": labeller.BLOCK_SIZE,
            "CACHE_MIB": labeller.CACHE_MIB,
        },
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "niceness": os.nice(0),
        "seed": SEED,
        "device": loading.device_name(),
        "environment": environment.describe_environment(),
    }
    for rows in [1, *args.rows]:  # one row: what starting takes
        source = folder / f"{rows}.csv"
        write_rows(source, rows)
        result = {"input_mib": round(source.stat().st_size / 2**20, 1), **measure(folder, source)}
        record["rows"][rows] = {**result, "rows_per_second": round(rows / result["seconds"], 1)}
        files.write_json(args.output, record)  # at once: the next may take long
    results = record["rows"]
    columns = ("seconds", "rows_per_second", "peak_memory_mib", "input_mib", "output_mib")
    lines = []
    for rows, result in results.items():
        lines.append([f"{rows:,}", *(f"{result[name]:,}" for name in columns)])
    header = ["Rows", "s", "rows/s", "peak MiB", "input MiB", "output MiB"]
    print(formatting.format_table(header, lines))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
