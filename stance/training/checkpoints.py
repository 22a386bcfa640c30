"""Checkpoints that count only when they are whole, and the final adapter.

The trainer writes a checkpoint file by file. MARKER is written last and lists the files with size
and SHA-256: a folder without it, or whose files differ from it, was broken off or damaged, and no
run goes on from it.
"""

import dataclasses
import os
import re
import shutil
from pathlib import Path

import torch
from transformers import TrainerState, trainer_pt_utils

from stance.common import errors, files, formatting, records
from stance.common.types import CheckpointMarker, CheckpointState, Example
from stance.model import adapters, fingerprints
from stance.training import run_lock

# ---------------------------------------------------------------- settings
KEPT = 2  # complete checkpoints that stay: the newest and the best, or the newest two
# --------------------------------------------------------------------------

MARKER = "complete.json"
TRAINER_CONTROL = "TrainerControl"  # a callback of every trainer whose state it saves


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoint folders of a run, complete or not, in the order of their steps."""
    folders = (run_dir / "checkpoints").glob("checkpoint-*")
    numbered = [folder for folder in folders if re.fullmatch(r"checkpoint-\d+", folder.name)]
    return sorted(numbered, key=count_steps)


def count_steps(folder: Path | str) -> int:
    """Return the optimiser steps after which a checkpoint was saved."""
    return int(Path(folder).name.rpartition("-")[2])


def mark_complete(folder: Path) -> None:
    """Declare a checkpoint whole, after all its files are on disk."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    for path in paths:
        files.flush_file(path)
    listed = {}
    for path in paths:
        name = str(path.relative_to(folder))
        listed[name] = {"bytes": path.stat().st_size, "sha256": files.hash_file(path)}
    files.write_json(folder / MARKER, {"files": listed})
    files.flush_file(folder)
    files.flush_file(folder.parent)


def is_complete(folder: Path) -> bool:
    """Return whether a checkpoint has all files that it had when it was marked, to the byte."""
    marker = records.find_typed(folder / MARKER, CheckpointMarker)
    if marker is None:  # missing, cut off or overwritten
        return False
    try:
        return all(
            (folder / name).stat().st_size == file["bytes"]
            and files.hash_file(folder / name) == file["sha256"]
            for name, file in marker["files"].items()
        )
    except (OSError, ValueError):  # a file is missing, or its name is none
        return False


def read_state(folder: Path) -> CheckpointState:
    """Return the trainer's state of a checkpoint; fail if it is none that transformers can read."""
    path = folder / "trainer_state.json"
    hint = "start a new run"
    state = records.read_typed(path, CheckpointState, "state of a training", hint)
    unknown = sorted(state.keys() - {field.name for field in dataclasses.fields(TrainerState)})
    if unknown:
        found = formatting.quote(unknown[0])
        errors.fail(f"{path} is of another version of transformers, it has {found}: {hint}")
    if TRAINER_CONTROL not in state.get("stateful_callbacks", {TRAINER_CONTROL: {}}):
        errors.fail(f"{path} lacks the state of {TRAINER_CONTROL}: {hint}")
    best = state.get("best_global_step")
    if best and not _holds_best(state, best):
        errors.fail(f"{path} lacks the validation of its best checkpoint, step {best}: {hint}")
    return state


def _holds_best(state, best):
    """Return whether the trainer's state tells of the best checkpoint what the run record says."""
    validated = {"step", "eval_loss", "eval_accuracy"}
    entries = [entry for entry in state.get("log_history", []) if entry["step"] == best]
    is_validated = any(validated <= entry.keys() for entry in entries)
    return is_validated and str(state.get("best_model_checkpoint")).endswith(f"checkpoint-{best}")


def check_tensors(folder: Path) -> None:
    """Fail if torch cannot read a file of tensors of a checkpoint, as the trainer will."""
    for path in [*folder.glob("*.pt"), *folder.glob("*.pth")]:
        try:
            with trainer_pt_utils.safe_globals():
                torch.load(path, map_location="cpu", weights_only=True)
        except Exception as problem:  # of the archive, of what it may hold, of its numbers
            lines = str(problem).splitlines() or [type(problem).__name__]
            reason = formatting.quote(lines[0])
            errors.fail(f"{path} cannot be read ({reason}): start a new run")


def check_loss(folder: Path, loss: float) -> None:
    """Fail if the sum of losses beside a checkpoint is none: the trainer keeps it in float32."""
    if not abs(loss) <= torch.finfo(torch.float32).max:
        errors.fail(f"{folder} has a sum of losses of {loss:g}: start a new run")


def find_best(folder: Path) -> Path | None:
    """Return the best checkpoint by validation up to a complete one; None before any validation."""
    step = read_state(folder).get("best_global_step")
    return folder.with_name(f"checkpoint-{step}") if step else None


def can_go_on(folder: Path) -> bool:
    """Return whether a run can go on from a checkpoint: it and the best so far are complete."""
    if not is_complete(folder):
        return False
    best = find_best(folder)
    return best in (None, folder) or is_complete(best)


def find_checkpoint(run_dir: Path, resume: bool) -> Path | None:
    """Return the newest usable checkpoint, or None to start from the first step.

    Fails rather than mix two runs: if a new one finds a folder in use, or --resume finds no run.
    """
    started = (run_dir / "plan.json").is_file()
    if not resume:
        if run_dir.is_dir() and any(map(is_of_run, run_dir.iterdir())):
            hint = "add --resume to continue it" if started else "delete it"
            errors.fail(f"{run_dir} is not empty: {hint}, or choose another --run-dir")
        return None
    if not started:
        errors.fail(f"--resume: {run_dir} holds no run to continue: start without --resume")
    for folder in reversed(list_checkpoints(run_dir)):
        if can_go_on(folder):
            return folder
    return None


def is_of_run(path: Path) -> bool:
    """Return whether a file in a run folder is of a run; a lock and what a kill has left are not."""
    return path.name != run_lock.LOCK_FILE and path.suffix != ".tmp"


def set_aside(run_dir: Path, checkpoint: Path | None) -> None:
    """Rename the checkpoints of a run that it does not go on from, and say so.

    So nothing is lost, and nothing takes them for whole. checkpoint: the one that it goes on from;
    this, the best before it, and complete ones before it stay.
    """
    kept = set()
    if checkpoint is not None:
        kept = {checkpoint, find_best(checkpoint)}
    for folder in list_checkpoints(run_dir):
        if folder in kept:
            continue
        later = checkpoint is None or count_steps(folder) > count_steps(checkpoint)
        if not later and is_complete(folder):
            continue
        aside = folder.with_name(f"incomplete-{folder.name}")
        number = 2
        while aside.exists():
            aside = folder.with_name(f"incomplete-{folder.name}-{number}")
            number += 1
        folder.rename(aside)
        print(f"note: {folder.name} is incomplete: set aside as {aside}, you may delete it")


def remove_old(run_dir: Path, best: Path | str | None) -> None:
    """Delete complete checkpoints beyond KEPT, oldest first, never the newest or the best.

    best: the path of the best, wherever the run folder was then; None before any validation.
    """
    for leftover in (run_dir / "checkpoints").glob("deleting-*"):
        shutil.rmtree(leftover)  # a kill came while it was deleted
    complete = [folder for folder in list_checkpoints(run_dir) if (folder / MARKER).is_file()]
    stay = {complete[-1].name}
    if best:
        stay.add(Path(best).name)
    complete.sort(key=lambda folder: folder.name in stay)  # these last, the others oldest first
    for folder in complete[:-KEPT]:
        shutil.rmtree(folder.rename(folder.with_name(f"deleting-{folder.name}")))


def save_final_adapter(model: torch.nn.Module, run_dir: Path, train_rows: list[Example]) -> None:
    """Write the final adapter and the hashes of its training sentences, each file whole or not at
    all.

    run.json makes them count: write it after them.
    """
    partial = run_dir / "adapter.partial"
    if partial.is_symlink():  # not ours, and rmtree leaves links alone
        partial.unlink()
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    fingerprints.write_sentences(run_dir, train_rows)
    adapters.save_adapter(model, partial)
    for path in sorted(partial.iterdir()):
        files.flush_file(path)
        os.replace(path, run_dir / path.name)
    partial.rmdir()
    files.flush_file(run_dir)
