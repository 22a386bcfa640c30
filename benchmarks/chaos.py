"""Kill training runs with SIGKILL at random places, resume them, and compare them with a run that was left alone.

Works on a CPU with the tiny model of make_tiny_model.py and the splits of prepare_data.py. A place is the n-th time that
the process opens, renames or deletes a file below the run folder, which happens at every step (the log) and dozens of
times while a checkpoint is saved. Writes what was found to --output and prints it.

    PYTHONPATH=. python benchmarks/chaos.py
    PYTHONPATH=. python benchmarks/chaos.py --base-model outputs/tiny-gemma2 --data-dir outputs/demo-data --kills 200
"""

import argparse
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

import torch

import finetune
import modeling
import records

# ---------------------------------------------------------------- settings
BASE_MODEL = "outputs/tiny-gemma2"  # folder of a tiny model
DATA_DIR = "outputs/demo-data"  # folder of its splits
OUTPUT = "benchmarks/results/chaos.json"  # of this run
KILLS = 100  # in all, spread over as many runs as that takes
EPOCHS = 2.0  # of each run
SEED = 0  # of the places
CONSTANTS = {"EFFECTIVE_BATCH_SIZE": 8, "MICRO_BATCH_SIZE": 4, "LOG_STEPS": 4}  # of finetune.py; log lines span epochs
# --------------------------------------------------------------------------

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")  # that sys.addaudithook sees
WHOLE = "whole"  # name of the run that is left alone


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--base-model", default=BASE_MODEL, help="folder of a tiny model (%(default)s)")
    parser.add_argument("--data-dir", default=DATA_DIR, help="folder of its splits (%(default)s)")
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the result (%(default)s)")
    parser.add_argument("--kills", type=int, default=KILLS, help="how many in all (%(default)s)")
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="of each run (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the places (%(default)s)")
    return parser.parse_args(argv)


def run_process(words, run_dir, place=None):
    """Run finetune.py in a process of its own, killed at a place if one is given.

    Returns (exit status as os.waitpid, how many places it had).
    """
    counted, count = os.pipe()
    child = os.fork()  # libraries stay loaded, so that a run takes seconds
    if child == 0:
        places = 0

        def note(event, details):
            nonlocal places
            if event in EVENTS and str(details[0]).startswith(str(run_dir)):
                places += 1
                if places == place:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            log = os.open(f"{run_dir}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.addaudithook(note)
            finetune.main(words)
            status = 0
        finally:  # whatever happened, the child must not go on as its parent
            os.write(count, str(places).encode())
            sys.stdout.flush()
            os._exit(status)
    os.close(count)
    with os.fdopen(counted) as pipe:
        places = int(pipe.read() or 0)
    return os.waitpid(child, 0)[1], places


def compare_runs(run_dir, whole):
    """Return what a run that was killed has other than the one that was left alone: adapter bytes, log lines."""
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (run_dir, whole)]
    logs = [
        [{key: value for key, value in entry.items() if key in ("step", "loss", "grad_norm", "eval_loss", "eval_accuracy")}
         for entry in records.read_jsonl(folder / "log.jsonl", (), "fix the log") if "train_runtime" not in entry]
        for folder in (run_dir, whole)
    ]  # fmt: skip
    results = [records.read_json(folder / "run.json", "")["result"]["validation"] for folder in (run_dir, whole)]
    return {"adapter": weights[0] == weights[1], "log": logs[0] == logs[1], "validation": results[0] == results[1]}


def kill_runs(words, folder, kills, seed):
    """Return one entry a run: the kills that it survived, and whether its results equal those of the run left alone."""
    rng, runs = random.Random(seed), []
    status, places = run_process([*words, "--run-dir", str(folder / WHOLE)], folder / WHOLE)
    if status:
        records.stop(f"the run without a kill failed: read {folder / WHOLE}.txt")
    while (missing := kills - sum(run["kills"] for run in runs)) > 0:
        run_dir, survived = folder / f"run-{len(runs)}", []
        while True:
            place = rng.randint(1, places) if len(survived) < missing else None
            resume = ["--resume"] if (run_dir / "plan.json").exists() else []
            status, _ = run_process([*words, "--run-dir", str(run_dir), *resume], run_dir, place)
            if status == 0:
                break
            if not os.WIFSIGNALED(status):
                return [*runs, {"kills": len(survived), "failed": f"place {place}, see {run_dir}.txt"}]
            survived.append(place)
            for leftover in run_dir.glob("plan.json.tmp") if not (run_dir / "plan.json").exists() else ():
                leftover.unlink()  # of a run that had not begun: the message asks to delete the folder
        runs.append({"kills": len(survived), "places": survived, "equal": compare_runs(run_dir, folder / WHOLE)})
        print(f"run {len(runs)}: survived {len(survived)} kills, equal: {runs[-1]['equal']}", flush=True)
    return runs


def summarise(runs):
    """Return the record's figures."""
    finished = [run for run in runs if "failed" not in run]
    return {
        "runs": len(runs),
        "kills": sum(run["kills"] for run in runs),
        "failed": [run["failed"] for run in runs if "failed" in run],
        "bit_equal_adapters": sum(run["equal"]["adapter"] for run in finished),
        "equal_logs": sum(run["equal"]["log"] for run in finished),
        "equal_validations": sum(run["equal"]["validation"] for run in finished),
        "details": runs,
    }


def main(argv=None):
    args = parse_args(argv)
    torch.set_num_threads(1)  # threads add up gradients in the order they finish
    for name, value in CONSTANTS.items():
        setattr(finetune, name, value)
    modeling.check_base(args.base_model)
    words = ["--base-model", args.base_model, "--data-dir", args.data_dir, "--epochs", str(args.epochs)]
    with tempfile.TemporaryDirectory() as folder:
        runs = kill_runs([*words, "--learning-rate", "4e-3"], Path(folder), args.kills, args.seed)
    result = summarise(runs)
    records.write_json(args.output, {"flags": vars(args), "environment": records.describe_environment(), **result})
    print({key: value for key, value in result.items() if key != "details"}, f"wrote {args.output}", sep="\n")


if __name__ == "__main__":
    main()
