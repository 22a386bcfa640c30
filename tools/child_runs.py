"""Trainings that a tool has done by the scripts, started as processes, each in a folder; resumable."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from stance.common import errors, files, flags, formatting, records, types
from stance.evaluation import predictions

SCRIPTS_HOME = Path(__file__).resolve().parents[1]


def add_training_flags(parser: flags.FlagParser) -> None:
    """Add the flags of finetune.py that hold for each training."""
    parser.add_argument(
        "--epochs",
        type=flags.positive_number,
        help="passes over the data (default: that of finetune.py)",
    )
    parser.add_argument(
        "--learning-rate",
        type=flags.positive_number,
        help="peak rate (default: that of finetune.py)",
    )


def call_script(script: str, *words: object, log: Path) -> None:
    """Run a script of the folder above; fail if it fails.

    What it prints goes to the end of a log file, its error line to the screen.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, SCRIPTS_HOME / script, *map(str, words)]
    with files.open_to_append(log) as file:
        try:
            running = subprocess.Popen(command, stdout=file)
        except OSError as problem:  # such as thousands of topics, too long for a command line
            hint = "with many topics, give more --groups"
            errors.fail(f"cannot start {script} ({problem.strerror}): {hint}")
        with running:
            try:
                running.wait()
            except SystemExit:  # SIGTERM
                running.terminate()
                raise
            except KeyboardInterrupt:  # a terminal sends Ctrl-C to both
                running.wait()  # finetune.py saves a checkpoint
                raise
    if running.returncode:
        shown = formatting.cut(" ".join(map(str, words)))
        errors.fail(f"{script} {shown} failed: see above and {log}, then start again")


def finish_child(
    home: Path, data: Path, words: Sequence[object], log: Path, check: Callable[[], object]
) -> str:
    """Train and evaluate a run as far as that has not happened; return what was done, in words.

    home: folder of the run; data: of its splits; words: further flags of finetune.py. check: fails
    unless what is trained is what is wanted.
    """
    done = "finished before"
    if not (home / "run.json").is_file():
        given = ["--data-dir", data, "--run-dir", home, *words]
        if any(home.glob("checkpoints/checkpoint-*")):
            given.append("--resume")
        elif home.exists():
            shutil.rmtree(home)  # broken off before the first checkpoint
        call_script("finetune.py", *given, log=log)
        done = "trained and evaluated"
    check()
    shutil.rmtree(home / "checkpoints", ignore_errors=True)  # gigabytes that only --resume needs
    if not is_evaluated(home, data):
        words = ["--adapter", home, "--data-dir", data, "--robustness-rows", 0]
        (home / "README.md").unlink(missing_ok=True)
        call_script("evaluate.py", *words, log=log)
        if done == "finished before":
            done = "evaluated"
    return done


def is_evaluated(home: Path, data: Path) -> bool:
    """Return whether a run has been evaluated on the test split of its data.

    home: folder of the run; data: of its splits.
    """
    # evaluate.py writes the card last; without it, it was killed before.
    if not (home / "evaluation.json").is_file() or not (home / "README.md").is_file():
        return False
    path = home / "evaluation.json"
    evaluation = records.read_typed(path, types.EvaluationRun, predictions.RUN_KIND, "delete it")
    same_test = evaluation.get("test_sha256") == files.hash_file(data / "test.jsonl")
    return same_test and evaluation.get("adapter") == str(home)
