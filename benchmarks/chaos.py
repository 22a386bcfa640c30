"""Stop and kill training runs at random positions, resume them, and compare them with a run that was left alone.

Works on a CPU with the tiny model of tests/tiny_model.py and splits of prepare_data.py. A position is the n-th time that
the process opens, renames or deletes a file below the run folder, which happens at every log line and dozens of times
while a checkpoint is saved. There the run gets SIGKILL, or SIGTERM and SIGKILL a few positions on, most often while it
saves. Writes what was found to --output and prints it.

    PYTHONPATH=.:tests python benchmarks/chaos.py
    PYTHONPATH=.:tests python benchmarks/chaos.py --base-model outputs/tiny-gemma2 --data-dir outputs/demo-data --kills 200
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import tiny_model
import torch

import finetune
from stance.common import environment, errors, files
from stance.model import loading

# ---------------------------------------------------------------- settings
BASE_MODEL = "outputs/tiny-gemma2"  # folder of a tiny model; built if it is not there
DATA_DIR = "outputs/demo-data"  # folder of its splits
OUTPUT = "benchmarks/results/chaos.json"  # of this run
KILLS = 100  # in all, spread over as many runs as that takes
EPOCHS = 2.0  # of each run
ROWS = 72  # that each run is trained on
SEED = 0  # of the positions
CONSTANTS = {
    "EFFECTIVE_BATCH_SIZE": 8,
    "MICRO_BATCH_SIZE": 4,
    "LOG_STEPS": 4,
}  # of finetune.py; log lines span epochs
# --------------------------------------------------------------------------

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")  # that sys.addaudithook sees
STOPPED = (
    128 + signal.SIGTERM
)  # exit code of a run that saved a checkpoint when it was asked to stop
SURVIVED = (
    -signal.SIGKILL,
    -signal.SIGTERM,
    STOPPED,
)  # SIGTERM ends a process that is not training yet or any more
MOST_STARTS = 12  # of a run, before it is left alone
SAVING = 40  # positions of a checkpoint, about
WHOLE = "whole"  # name of the run that is left alone


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--base-model", default=BASE_MODEL, help="folder of a tiny model (%(default)s)"
    )
    parser.add_argument("--data-dir", default=DATA_DIR, help="folder of its splits (%(default)s)")
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the result (%(default)s)")
    parser.add_argument("--kills", type=int, default=KILLS, help="how many in all (%(default)s)")
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="of each run (%(default)s)")
    parser.add_argument(
        "--rows", type=int, default=ROWS, help="that each run is trained on (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of the positions (%(default)s)")
    return parser.parse_args(argv)


def take_rows(data_dir, folder, rows):
    """Write small splits: rows of the train split, a third as many of the other."""
    for name, count in (("train", rows), ("val", rows // 3)):
        taken = files.read_jsonl(f"{data_dir}/{name}.jsonl", (), "run prepare_data.py")[:count]
        files.write_jsonl(folder / f"{name}.jsonl", taken)


def run_process(words, run_dir, signals=None):
    """Run finetune.py in a process of its own that sends itself signals at positions: {position: signal}.

    Returns (exit code, or minus the signal that ended it; how many positions it had).
    """
    counted, count = os.pipe()
    child = os.fork()  # libraries stay loaded, so that a run takes seconds
    if child == 0:
        positions, code = 0, 1

        def note(event, details):
            nonlocal positions
            if event in EVENTS and str(details[0]).startswith(f"{run_dir}/"):
                positions += 1
                if signals and positions in signals:
                    os.kill(os.getpid(), signals[positions])

        try:
            log = os.open(f"{run_dir}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout, sys.stderr = (os.fdopen(position, "w", buffering=1) for position in (1, 2))
            sys.addaudithook(note)
            finetune.main(words)
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:
            traceback.print_exc()
        finally:  # whatever happened, the child must not go on as its parent
            os.write(count, str(positions).encode())
            os._exit(code)
    os.close(count)
    with os.fdopen(counted) as pipe:
        positions = int(pipe.read() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), positions


def draw_signals(rng, positions):
    """Return {position: signal}: SIGKILL, or SIGTERM and SIGKILL a few positions on."""
    first = rng.randint(1, positions)
    if rng.random() < 0.5:
        return {first: signal.SIGKILL}
    return {first: signal.SIGTERM, first + rng.randint(1, SAVING): signal.SIGKILL}


def equals_undisturbed(run_dir, whole):
    """Return whether a run has the adapter, to the byte, and the log of the one that was left alone."""
    weights, logs, lost = [], [], 0
    for folder in (run_dir, whole):
        weights.append((folder / "adapter_model.safetensors").read_bytes())
        entries = files.read_jsonl(folder / "log.jsonl", ("step",), "look into the log")
        logs.append(
            [entry for entry in entries if "train_runtime" not in entry]
        )  # that line has times
        lost = sum(entry not in logs[0] for entry in logs[-1])
    return {"adapter": weights[0] == weights[1], "log": logs[0] == logs[1], "log_lines_lost": lost}


def kill_runs(words, folder, kills, seed):
    """Return one entry a run: the signals that it survived, and whether it equals the run that was left alone."""
    rng, runs = random.Random(seed), []
    code, positions = run_process([*words, "--run-dir", str(folder / WHOLE)], folder / WHOLE)
    if code:
        errors.fail(f"the run that was left alone failed: {(folder / f'{WHOLE}.txt').read_text()}")
    while (missing := kills - sum(run["kills"] for run in runs)) > 0:
        run_dir, codes, drawn = folder / f"run-{len(runs)}", [], []
        while not codes or codes[-1] in SURVIVED:
            killed = sum(code < 0 for code in codes)
            signals = (
                draw_signals(rng, positions)
                if killed < missing and len(codes) < MOST_STARTS
                else None
            )
            if not (run_dir / "plan.json").exists():
                shutil.rmtree(run_dir, ignore_errors=True)  # the run had not begun
            resume = ["--resume"] if run_dir.exists() else []
            drawn.append(
                signals and {position: int(number) for position, number in signals.items()}
            )
            codes.append(
                run_process([*words, "--run-dir", str(run_dir), *resume], run_dir, signals)[0]
            )
        entry = {"kills": sum(code < 0 for code in codes), "stops": codes.count(STOPPED)}
        entry |= {"codes": codes, "signals": drawn}
        if codes[-1]:
            entry["failed"] = Path(f"{run_dir}.txt").read_text()[-2000:]
        else:
            entry["equal"] = equals_undisturbed(run_dir, folder / WHOLE)
        runs.append(entry)
        outcome = entry.get("equal", "failed")
        print(
            f"run {len(runs)}: {entry['kills']} kills, {entry['stops']} stops, {outcome}",
            flush=True,
        )
        if codes[-1]:
            break
    return runs


def count_outcomes(runs):
    """Return the record's figures."""
    finished = [run for run in runs if "equal" in run]
    return {
        "runs": len(runs),
        "kills": sum(run["kills"] for run in runs),
        "stops": sum(run["stops"] for run in runs),
        "failed": [run["failed"] for run in runs if "failed" in run],
        "bit_equal_adapters": sum(run["equal"]["adapter"] for run in finished),
        "equal_loss_curves": sum(run["equal"]["log"] for run in finished),
        "log_lines_lost": sum(run["equal"]["log_lines_lost"] for run in finished),
        "details": runs,
    }


def main(argv=None):
    args = parse_args(argv)
    torch.set_num_threads(1)  # threads add up gradients in the order they finish
    for name, value in CONSTANTS.items():
        setattr(finetune, name, value)
    if not Path(args.base_model).is_dir():
        tiny_model.build(args.base_model)
    loading.check_base(args.base_model)
    with tempfile.TemporaryDirectory() as folder:
        take_rows(args.data_dir, Path(folder), args.rows)
        words = [
            "--base-model",
            args.base_model,
            "--data-dir",
            folder,
            "--epochs",
            str(args.epochs),
        ]
        runs = kill_runs([*words, "--learning-rate", "4e-3"], Path(folder), args.kills, args.seed)
    result = count_outcomes(runs)
    files.write_json(
        args.output,
        {"flags": vars(args), "environment": environment.describe_environment(), **result},
    )
    print(
        {key: value for key, value in result.items() if key != "details"},
        f"wrote {args.output}",
        sep="\n",
    )


if __name__ == "__main__":
    main()
