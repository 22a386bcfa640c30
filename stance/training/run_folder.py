"""The folder of a training run: its plan, whether a run may go on from it, room on the disk, its result."""

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import safetensors

from stance.common import errors, files
from stance.model import loading
from stance.training import checkpoints

# ---------------------------------------------------------------- settings
OTHER_BYTES = (
    50_000_000  # of a checkpoint beside the adapter and its optimiser: Gemma's tokenizer has 34 MB
)
# --------------------------------------------------------------------------

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def flatten(value, name=""):
    """Return a nested dict as {"outer inner": value}, in the types of JSON."""
    if not isinstance(value, dict):
        return {name: json.loads(json.dumps(value))}
    return {
        key: leaf
        for part in value
        for key, leaf in flatten(value[part], f"{name} {part}".strip()).items()
    }


def list_differences(before, now):
    """Return what differs between two nested dicts, in words."""
    before, now = flatten(before), flatten(now)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return "; ".join(f"{name} was {before.get(name)}, now it is {now.get(name)}" for name in names)


def open_run(run_dir, record, resume, checkpoint):
    """Make the run folder and its plan.json; to resume, tidy checkpoints. Called by one process alone."""
    files.make_folder(run_dir)
    if not resume:
        files.write_json(run_dir / "plan.json", record)
        return
    checkpoints.set_aside(run_dir, checkpoint)
    print(f"resuming from {checkpoint or 'the first step: there is no complete checkpoint yet'}")


def check_same_run(run_dir, record):
    """Stop if a run to resume was started with other settings, data or base, or is finished; note other versions."""
    started = files.read_json(run_dir / "plan.json", "start a new run")
    keys = ("base_model", "base_revision", "tokenizer", "prompt_version", "precision", "data")
    parts = [
        ({key: run.get(key) for key in keys}, run.get("settings", {})) for run in (started, record)
    ]
    differences = "; ".join(
        filter(None, (list_differences(*pair) for pair in zip(*parts, strict=True)))
    )
    if differences:
        errors.fail(f"--resume: {differences}: restore it or start a new run")
    if (run_dir / "run.json").is_file():
        errors.fail(f"--resume: {run_dir} is finished: nothing is left to do")
    keys = ("environment", "device")
    other = list_differences(*({key: run.get(key) for key in keys} for run in (started, record)))
    if other:
        print(f"note: {other}; results may differ from those of one run in a last digit")


def check_disk_space(run_dir, parameters):
    """Stop if the disk has no room for the checkpoints of this many trainable parameters."""
    adapter = 4 * parameters  # float32
    each = 3 * adapter + OTHER_BYTES  # Adam keeps two numbers a parameter
    needed = (
        checkpoints.KEPT + 1
    ) * each + adapter  # a new checkpoint is whole before an old one goes
    there = sum(
        path.stat().st_size
        for folder in checkpoints.list_checkpoints(run_dir)
        for path in folder.rglob("*")
    )
    free = shutil.disk_usage(run_dir).free + there
    if free < needed:
        found = f"{run_dir} has {free / 1e9:.2f} GB of disk space left, checkpoints need {needed / 1e9:.2f}"
        errors.fail(f"{found}: free some, or choose a --run-dir on another disk")


@contextlib.contextmanager
def explain_full_disk(run_dir):
    """Turn the errors of a full disk, which each library words in its own way, into one line."""
    try:
        yield
    except (OSError, RuntimeError, safetensors.SafetensorError) as problem:
        full = getattr(problem, "errno", None) in DISK_FULL or "PytorchStreamWriter failed" in str(
            problem
        )
        if not full and not any(os.strerror(number) in str(problem) for number in DISK_FULL):
            raise
        left = shutil.disk_usage(run_dir).free / 1e9
        message = f"cannot write to {run_dir}, the disk is full ({left:.2f} GB left)"
        errors.fail_below_bar(f"{message}: free some, then add --resume")


def describe_result(trainer, checkpoint, seconds):
    """Return what the training came to, for the run record; speed is that since the checkpoint, if it was resumed."""
    steps, before = (
        trainer.state.global_step,
        checkpoints.count_steps(checkpoint) if checkpoint else 0,
    )
    rows = trainer.state.epoch * len(trainer.train_dataset) * (steps - before) / steps
    validation = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    kept = trainer.state.best_model_checkpoint or f"checkpoint-{steps}"
    return {
        "steps": steps,
        "train_seconds": round(seconds, 1),
        "train_samples_per_second": round(rows / seconds, 2),
        "peak_gpu_gib": loading.peak_gpu_gib(),
        "kept": Path(kept).name,
        "kept_validation": next(
            e for e in validation if e["step"] == checkpoints.count_steps(kept)
        ),
        "validation": validation,
    }
