"""Run what `make demo` runs, and record how long each command takes and what the demo's tables say.

Runs in the root of the repository, by the Python that runs this file; replaces outputs/demo and outputs/demo-data. The
commands are those of the Makefile. Writes all figures to --output; prints a table.

    PYTHONPATH=. python benchmarks/demo.py
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from stance.common import environment, errors, files, flags, formatting, run_files

# ---------------------------------------------------------------- settings
OUTPUT = "benchmarks/results/demo.json"  # of this run
# --------------------------------------------------------------------------

RUN_DIR = Path("outputs/demo")  # of the Makefile
DATA_DIR = Path("outputs/demo-data")  # of the Makefile
# With these a run may be limited.
ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "OMP_NUM_THREADS")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the figures (%(default)s)")
    return parser.parse_args(argv)


def list_commands() -> list[list[str]]:
    """Return the commands of `make demo`, each as a list of words, without what installs."""
    done = subprocess.run(["make", "--dry-run", "demo"], capture_output=True, text=True, check=True)
    commands = []
    for line in done.stdout.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        if words[0].endswith("/python") and "pip" not in words:
            commands.append(words)
    return commands


def run_command(words: list[str]) -> dict[str, str | float]:
    """Run a command of the demo by this Python; return {command, seconds}."""
    started = time.monotonic()
    subprocess.run([sys.executable, *words[1:]], check=True)
    return {
        "command": shlex.join(["python", *words[1:]]),
        "seconds": round(time.monotonic() - started, 1),
    }


def describe_cpu() -> dict:
    """Return what the speed depends on: processor, cores, threads, instructions, their limits."""
    names = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "bf16")
    capabilities = torch.cpu.get_capabilities()
    return {
        "name": capabilities.get("cpu_name"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": [name for name in names if capabilities.get(name)],
        "limits": {name: os.environ[name] for name in ISA_VARIABLES if name in os.environ},
    }


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    for folder in (RUN_DIR, DATA_DIR):
        shutil.rmtree(folder, ignore_errors=True)
    steps = [run_command(words) for words in list_commands()]
    run = files.read_json(RUN_DIR / "run.json", "run it again")
    evaluation = files.read_json(RUN_DIR / "evaluation.json", "run it again")
    records = run_files.find_text(RUN_DIR, run_files.RECORDS)
    result = {
        "seconds": round(sum(step["seconds"] for step in steps), 1),
        "steps": steps,
        "cpu": describe_cpu(),
        "precision": run["precision"],
        "test_rows": len(files.read_jsonl(records, (), "run it again")),
        "training": run["result"],
        "settings": run["settings"],
        "metrics": evaluation["metrics"],
        "intervals": evaluation["analysis"]["intervals"],
        "comparisons": evaluation["analysis"]["comparisons"],
        "note": evaluation["note"],
        "environment": environment.describe_environment(),
    }
    files.write_json(args.output, result)
    lines = [[step["command"], f"{step['seconds']:.1f}"] for step in steps]
    print("\n" + formatting.format_table(["Command", "seconds"], lines))
    computed = f"{result['seconds']} s in all, computed in {run['precision']['compute']}"
    print(f"{computed}: wrote {args.output}")


if __name__ == "__main__":
    errors.run_script(main)
