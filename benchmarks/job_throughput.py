"""Measure the published job from the command to its end: finetune.py on 4,000 rows, 2 epochs, with 500 to validate.

Builds a random gemma-2-9b in --model if that folder does not exist yet (18.5 GB), or measures the model it holds. Each
run starts a process that finds nothing compiled. Writes all figures to --output; prints the table.

    PYTHONPATH=. python benchmarks/job_throughput.py --tokenizer path/to/gemma-tokenizer
    PYTHONPATH=. python benchmarks/job_throughput.py --model path/to/gemma-2-9b-it --runs 1
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import workload

import prepare_data
from stance.common import files, formatting

# ---------------------------------------------------------------- settings
OUTPUT = "benchmarks/results/job_throughput.json"  # of this run
ROWS = {"train": 4000, "val": 500}
RUNS = 3  # one after the other
SEED = 0  # of the rows
# --------------------------------------------------------------------------

COLUMNS = ("seconds", "start_seconds", "training_seconds", "rows_per_second", "peak_gib")


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    workload.add_model_flags(parser)
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the figures (%(default)s)")
    parser.add_argument("--runs", type=int, default=RUNS, help="how often (%(default)s)")
    return parser.parse_args(argv)


def make_splits(folder, tokenizer):
    """Write the splits that finetune.py reads, as prepare_data.py does."""
    rows = workload.make_rows(tokenizer, sum(ROWS.values()), SEED)
    lines = (prepare_data.make_line({**row, "stance": row["label"]}) for row in rows)
    for name, count in ROWS.items():
        files.write_jsonl(folder / f"{name}.jsonl", itertools.islice(lines, count))


def measure(model, data_dir):
    """Train in a process of its own; return the run record of finetune.py and its seconds from start to end."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        flags = ["--base-model", model, "--data-dir", str(data_dir), "--run-dir", str(run_dir)]
        started, variables = time.time(), {**os.environ, **workload.empty_caches(folder)}
        subprocess.run([sys.executable, "finetune.py", *flags], check=True, env=variables)
        seconds = time.time() - started
        return {
            "seconds": seconds,
            **files.read_json(run_dir / "run.json", "run the benchmark again"),
        }


def list_cells(results):
    """Return the cells of the table, a row for each run."""
    return [
        [str(position), *(f"{run[name]:.1f}" for name in COLUMNS)]
        for position, run in enumerate(results, 1)
    ]


def main(argv=None):
    args = parse_args(argv)
    tokenizer, results = workload.prepare_model(args), []
    with tempfile.TemporaryDirectory() as folder:
        make_splits(Path(folder), tokenizer)
        for _ in range(args.runs):
            run = measure(args.model, folder)
            result = run["result"]
            results.append(
                {
                    "seconds": round(run["seconds"], 1),
                    "start_seconds": run["start_seconds"],  # imports, loading, compiling
                    "training_seconds": result[
                        "train_seconds"
                    ],  # with validation, checkpoints and recording steps
                    "rows_per_second": result["train_samples_per_second"],
                    "peak_gib": result["peak_gpu_gib"],
                    "acceleration": run["acceleration"],
                    "memory_probe": run["memory_probe"],
                }
            )
            record = {"runs": results, "rows": ROWS, "seed": SEED}
            record.update(
                {key: run[key] for key in ("settings", "parameters", "device", "environment")}
            )
            files.write_json(args.output, record)  # at once: the next run may fail
    print(formatting.format_table(["Run", *COLUMNS], list_cells(results)))
    print(f"\nwrote {args.output}")


if __name__ == "__main__":
    main()
