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

import transformers
import workload

import prepare_data
from stance.common import files, flags, formatting
from stance.corpus import splitting

# ---------------------------------------------------------------- settings
OUTPUT = "benchmarks/results/job_throughput.json"  # of this run
ROWS = {"train": 4000, "val": 500}  # by split
RUNS = 3  # one after the other
SEED = 0  # of the rows
# --------------------------------------------------------------------------

COLUMNS = ("seconds", "start_seconds", "training_seconds", "rows_per_second", "peak_gib")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    workload.add_model_flags(parser)
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the figures (%(default)s)")
    parser.add_argument("--runs", type=int, default=RUNS, help="how often (%(default)s)")
    return parser.parse_args(argv)


def make_splits(folder: Path, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Write the splits that finetune.py reads, as prepare_data.py does."""
    rows = workload.make_rows(tokenizer, sum(ROWS.values()), SEED)
    lines = (prepare_data.make_line({**row, "stance": row["label"]}) for row in rows)
    splits = {name: list(itertools.islice(lines, count)) for name, count in ROWS.items()}
    splitting.write_splits(folder, splits, {})


def measure(model: str, data_dir: str) -> dict:
    """Train in a process of its own; return the run record of finetune.py and its seconds from
    start to end."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        flags = ["--base-model", model, "--data-dir", data_dir, "--run-dir", str(run_dir)]
        variables = {**os.environ, **workload.empty_caches(folder)}
        started = time.time()
        subprocess.run([sys.executable, "finetune.py", *flags], check=True, env=variables)
        seconds = time.time() - started
        run = files.read_json(run_dir / "run.json", "run the benchmark again")
    return {"seconds": seconds, **run}


def list_figures(run: dict) -> dict:
    """Return what the record of this benchmark keeps of a run, from what measure returns."""
    result = run["result"]
    return {
        "seconds": round(run["seconds"], 1),
        "start_seconds": run["start_seconds"],  # imports, loading, compiling
        # With validation, checkpoints and recording steps.
        "training_seconds": result["train_seconds"],
        "rows_per_second": result["train_samples_per_second"],
        "peak_gib": result["peak_gpu_gib"],
        "acceleration": run["acceleration"],
        "memory_probe": run["memory_probe"],
    }


def list_cells(results: list[dict]) -> list[list[str]]:
    """Return the cells of the table, a row for each run."""
    rows = []
    for number, figures in enumerate(results, start=1):
        rows.append([str(number), *(f"{figures[name]:.1f}" for name in COLUMNS)])
    return rows


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    tokenizer = workload.prepare_model(args)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        make_splits(Path(folder), tokenizer)
        for _ in range(args.runs):
            run = measure(args.model, folder)
            results.append(list_figures(run))
            record = {"runs": results, "rows": ROWS, "seed": SEED}
            for key in ("settings", "parameters", "device", "environment"):
                record[key] = run[key]
            files.write_json(args.output, record)  # at once: the next run may fail
    print(formatting.format_table(["Run", *COLUMNS], list_cells(results)))
    print(f"\nwrote {args.output}")


if __name__ == "__main__":
    main()
