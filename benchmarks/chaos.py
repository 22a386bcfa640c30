"""Stop and kill scripts, start them again, and compare what they write with a run that was left alone.

Of --parts: trainings at random positions, resumed again and again; and every script (killed_scripts.py) once at each
rename and at 20 random moments.
Works on a CPU with the tiny model of tests/tiny_model.py and splits of prepare_data.py. A position is the n-th time that
the process opens, renames or deletes a file below the run folder, which happens at every log line and dozens of times
while a checkpoint is saved. There a training gets SIGKILL, or SIGTERM and SIGKILL a few positions on, most often while it
saves. Writes what was found to --output and prints it; a part that was not run keeps its entry there.

    PYTHONPATH=.:tests python benchmarks/chaos.py
    PYTHONPATH=.:tests python benchmarks/chaos.py --parts prepare_data predict
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
from typing import NoReturn

import killed_scripts
import tiny_model
import torch

import finetune
from stance.common import environment, errors, files, flags
from stance.corpus import splitting, tables
from stance.model import loading

# ---------------------------------------------------------------- settings
BASE_MODEL = "outputs/tiny-gemma2"  # folder of a tiny model; built if it is not there
DATA_DIR = "outputs/demo-data"  # folder of its splits
OUTPUT = "benchmarks/results/chaos.json"  # of this run
KILLS = 100  # in all, spread over as many runs as that takes
EPOCHS = 2.0  # of each run
ROWS = 72  # that each run is trained on
SEED = 0  # of the positions
# Of finetune.py; log lines span epochs.
CONSTANTS = {"EFFECTIVE_BATCH_SIZE": 8, "MICRO_BATCH_SIZE": 4, "LOG_STEPS": 4}
# --------------------------------------------------------------------------

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")  # that sys.addaudithook sees
# Exit code of a run that saved a checkpoint when it was asked to stop.
STOPPED = 128 + signal.SIGTERM
# After these a run is started again; SIGTERM ends a process that is not training yet or any more.
SURVIVED = (-signal.SIGKILL, -signal.SIGTERM, STOPPED)
MOST_STARTS = 12  # of a run, before it is left alone
SAVING = 40  # positions of a checkpoint, about
WHOLE = "whole"  # name of the run that is left alone
# trainings: those that are resumed again and again; others: scripts of killed_scripts.py
PARTS = ("trainings", "prepare_data", "finetune", "evaluate", "predict", "export", "study")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument(
        "--base-model", default=BASE_MODEL, help="folder of a tiny model (%(default)s)"
    )
    parser.add_argument("--data-dir", default=DATA_DIR, help="folder of its splits (%(default)s)")
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the result (%(default)s)")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="what is killed (all)"
    )
    parser.add_argument(
        "--moments",
        type=int,
        default=killed_scripts.MOMENTS,
        help="random ones at which each script is killed (%(default)s)",
    )
    parser.add_argument(
        "--kills", type=int, default=KILLS, help="of trainings, in all (%(default)s)"
    )
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="of each run (%(default)s)")
    parser.add_argument(
        "--rows", type=int, default=ROWS, help="that each run is trained on (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of the positions (%(default)s)")
    return parser.parse_args(argv)


def take_rows(data_dir: str, folder: Path, rows: int) -> None:
    """Write small splits: rows of the train split, a third as many of each other."""
    splits = {}
    for name, count in (("train", rows), ("val", rows // 3), ("test", rows // 3)):
        splits[name] = splitting.load_split(f"{data_dir}/{name}.jsonl")[:count]
    splitting.write_splits(folder, splits, {})


def run_process(
    words: list[str], run_dir: Path, signals: dict[int, signal.Signals] | None = None
) -> tuple[int, int]:
    """Run finetune.py in a process of its own that sends itself signals at positions.

    words: for its command line; signals: {position: signal}; None: it is left alone. What it prints
    is added to a text file beside the run folder.
    Returns (exit code, or minus the signal that ended it; how many positions it had, 0 if a signal
    ended it).
    """
    counted, count = os.pipe()
    child = os.fork()  # libraries stay loaded, so that a run takes seconds
    if child == 0:
        _run_child(words, run_dir, signals, count)
    os.close(count)
    with os.fdopen(counted) as pipe:
        positions = int(pipe.read() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), positions


def _run_child(
    words: list[str], run_dir: Path, signals: dict[int, signal.Signals] | None, count: int
) -> NoReturn:
    """Do what run_process's child does; count: where it writes how many positions it had."""
    positions = 0
    code = 1

    def note(event: str, details: tuple) -> None:
        nonlocal positions
        if event in EVENTS and str(details[0]).startswith(f"{run_dir}/"):
            positions += 1
            if signals and positions in signals:
                os.kill(os.getpid(), signals[positions])

    try:
        log = os.open(f"{run_dir}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
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


def draw_signals(rng: random.Random, positions: int) -> dict[int, signal.Signals]:
    """Return {position: signal}: SIGKILL, or SIGTERM and SIGKILL a few positions on."""
    first = rng.randint(1, positions)
    if rng.random() < 0.5:
        return {first: signal.SIGKILL}
    return {first: signal.SIGTERM, first + rng.randint(1, SAVING): signal.SIGKILL}


def equals_undisturbed(run_dir: Path, whole: Path) -> dict[str, bool | int]:
    """Compare the folder of a finished run with that of the one that was left alone.

    Returns whether the adapter, to the byte, and the log are equal, and how many lines of the log
    are lost.
    """
    weights = (run_dir / "adapter_model.safetensors").read_bytes()
    lines = read_log_lines(run_dir)
    whole_lines = read_log_lines(whole)
    return {
        "adapter": weights == (whole / "adapter_model.safetensors").read_bytes(),
        "log": lines == whole_lines,
        "log_lines_lost": sum(line not in lines for line in whole_lines),
    }


def read_log_lines(run_dir: Path) -> list[dict]:
    """Return the lines of a run's log, but for the last, which has times."""
    lines = files.read_jsonl(run_dir / "log.jsonl", ("step",), "look into the log")
    return [line for line in lines if "train_runtime" not in line]


def kill_runs(words: list[str], folder: Path, kills: int, seed: int) -> list[dict]:
    """Kill so many processes of as many runs as that takes; prints a line for each run.

    Returns the entries of kill_run; the last is that of a run that failed, if one did.
    """
    rng = random.Random(seed)
    runs = []
    whole = folder / WHOLE
    code, positions = run_process([*words, "--run-dir", str(whole)], whole)
    if code:
        errors.fail(f"the run that was left alone failed: {(folder / f'{WHOLE}.txt').read_text()}")
    missing = kills
    while missing > 0:
        run_dir = folder / f"run-{len(runs)}"
        entry = kill_run(words, run_dir, missing, positions, rng)
        if "failed" not in entry:
            entry["equal"] = equals_undisturbed(run_dir, whole)
        runs.append(entry)
        missing -= entry["kills"]
        outcome = entry.get("equal", "failed")
        print(
            f"run {len(runs)}: {entry['kills']} kills, {entry['stops']} stops, {outcome}",
            flush=True,
        )
        if "failed" in entry:
            break
    return runs


def kill_run(
    words: list[str], run_dir: Path, most_kills: int, positions: int, rng: random.Random
) -> dict:
    """Start a run and resume it until it ends by itself, with signals at positions of each start.

    It is left alone after most_kills kills and after MOST_STARTS starts; positions: those of a run
    that is left alone.
    Returns {kills, stops, codes: exit code of each start, signals: those that were drawn for it},
    and of a run that failed the end of what it printed: failed.
    """
    codes = []
    drawn = []
    while not codes or codes[-1] in SURVIVED:
        killed = sum(code < 0 for code in codes)
        signals = None
        if killed < most_kills and len(codes) < MOST_STARTS:
            signals = draw_signals(rng, positions)
        if not (run_dir / "plan.json").exists():
            shutil.rmtree(run_dir, ignore_errors=True)  # the run had not begun
        resume = ["--resume"] if run_dir.exists() else []
        code, _ = run_process([*words, "--run-dir", str(run_dir), *resume], run_dir, signals)
        codes.append(code)
        if signals is None:
            drawn.append(None)
        else:
            drawn.append({position: int(number) for position, number in signals.items()})
        if (run_dir / "run.json").is_file():  # with it a run is finished, whenever it was killed
            break
    entry = {
        "kills": sum(code < 0 for code in codes),
        "stops": codes.count(STOPPED),
        "codes": codes,
        "signals": drawn,
    }
    if codes[-1] and codes[-1] not in SURVIVED:
        entry["failed"] = Path(f"{run_dir}.txt").read_text()[-2000:]
    return entry


def count_outcomes(runs: list[dict]) -> dict:
    """Return the record's figures, from the entries of kill_runs."""
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


def kill_trainings(args: argparse.Namespace) -> dict:
    """Kill and resume trainings; return the record's figures."""
    with tempfile.TemporaryDirectory() as folder:
        take_rows(args.data_dir, Path(folder), args.rows)
        words = ["--base-model", args.base_model, "--data-dir", folder]
        words += ["--epochs", str(args.epochs), "--learning-rate", "4e-3"]
        return count_outcomes(kill_runs(words, Path(folder), args.kills, args.seed))


def make_jobs(base: str, data_dir: str, home: Path) -> dict[str, killed_scripts.Job]:
    """Return the jobs of killed_scripts.build_jobs, with what they read; it is written to home."""
    data = home / "data"
    take_rows(data_dir, data, killed_scripts.ROWS)
    rows = splitting.load_split(f"{data_dir}/train.jsonl")
    topics = sorted({row["topic"] for row in rows})[:2]
    corpus = home / "corpus.csv"
    header = ("topic", "text", "stance")
    chosen = [row for row in rows if row["topic"] in topics][: killed_scripts.CORPUS_ROWS]
    tables.write_table(corpus, header, [[row[name] for name in header] for row in chosen])
    table = home / "table.csv"
    chosen = rows[: 3 * killed_scripts.ROWS]
    tables.write_table(table, header[:2], [[row["topic"], row["text"]] for row in chosen])
    adapter = home / "adapter"
    words = ["--base-model", base, "--data-dir", str(data), "--run-dir", str(adapter)]
    code, _ = run_process([*words, "--epochs", "1"], adapter)
    if code:
        errors.fail(f"the adapter could not be trained: {Path(f'{adapter}.txt').read_text()}")
    return killed_scripts.build_jobs(base, data, adapter, table, corpus)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)  # threads add up gradients in the order they finish
    for name, value in CONSTANTS.items():
        setattr(finetune, name, value)
    if not Path(args.base_model).is_dir():
        tiny_model.build(args.base_model)
    loading.check_base(args.base_model)
    record = {}
    if Path(args.output).is_file():
        record = files.read_json(args.output, "delete it")
    described = {"flags": vars(args), "environment": environment.describe_environment()}
    scripts = [name for name in args.parts if name != "trainings"]
    if "trainings" in args.parts:
        record["trainings"] = {**described, **kill_trainings(args)}
    with tempfile.TemporaryDirectory() as folder:
        jobs = make_jobs(args.base_model, args.data_dir, Path(folder)) if scripts else {}
        home = Path(folder) / "tries"
        for name in scripts:
            counts = killed_scripts.kill_scripts({name: jobs[name]}, home, args.moments, args.seed)
            record[name] = {**described, **counts[name]}
            files.write_json(args.output, record)
    files.write_json(args.output, record)
    for name in args.parts:
        counts = {key: value for key, value in record[name].items() if isinstance(value, int)}
        print(f"{name}: {counts}")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
