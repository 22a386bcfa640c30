"""Checkpoints that count only when they are whole, and the final adapter.

The trainer writes a checkpoint file by file. MARKER is written last and lists the files with size and SHA-256: a folder
without it, or whose files differ from it, was broken off or damaged, and no run goes on from it.
"""

import json
import os
import re
import shutil
from pathlib import Path

from stance.common import errors, files
from stance.model import adapters

# ---------------------------------------------------------------- settings
KEPT = 2  # complete checkpoints that stay: the newest and the best, or the newest two
# --------------------------------------------------------------------------

MARKER = "complete.json"


def list_checkpoints(run_dir):
    """Return the checkpoint folders of a run, complete or not, in the order of their steps."""
    folders = (run_dir / "checkpoints").glob("checkpoint-*")
    return sorted(
        (folder for folder in folders if re.fullmatch(r"checkpoint-\d+", folder.name)),
        key=count_steps,
    )


def count_steps(folder):
    """Return the optimiser steps after which a checkpoint was saved."""
    return int(Path(folder).name.rpartition("-")[2])


def flush(path):
    """Return once a file, or the entries of a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def mark_complete(folder):
    """Declare a checkpoint whole, after all its files are on disk."""
    listed = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    for path in listed:
        flush(path)
    listed = {
        str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": files.hash_file(p)}
        for p in listed
    }
    files.write_json(folder / MARKER, {"files": listed})
    flush(folder)
    flush(folder.parent)


def is_complete(folder):
    """Return whether a checkpoint has all the files that were there when it was marked, to the byte."""
    try:
        listed = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
        return all(
            (folder / name).stat().st_size == file["bytes"]
            and files.hash_file(folder / name) == file["sha256"]
            for name, file in listed.items()
        )
    except (OSError, ValueError, KeyError, TypeError):  # missing, cut off or overwritten
        return False


def find_best(folder):
    """Return the best checkpoint so far by the validation of a complete checkpoint, or None before any validation."""
    state = files.read_json(folder / "trainer_state.json", "start a new run")
    step = state["best_global_step"]
    return folder.with_name(f"checkpoint-{step}") if step else None


def is_usable(folder):
    """Return whether a run can go on from a checkpoint: it is complete, and so is the best one before it."""
    if not is_complete(folder):
        return False
    best = find_best(folder)
    return best in (None, folder) or is_complete(best)


def find_checkpoint(run_dir, resume):
    """Return the newest usable checkpoint, or None to start from the first step; stop rather than mix two runs."""
    if run_dir.exists() and not run_dir.is_dir():
        errors.fail(f"{run_dir} is a file: choose another --run-dir")
    started = (run_dir / "plan.json").is_file()
    if not resume and run_dir.is_dir() and any(run_dir.iterdir()):
        hint = "add --resume to continue it" if started else "delete it"
        errors.fail(f"{run_dir} is not empty: {hint}, or choose another --run-dir")
    if resume and not started:
        errors.fail(f"--resume: {run_dir} holds no run to continue: start without --resume")
    return next(filter(is_usable, reversed(list_checkpoints(run_dir))), None) if resume else None


def set_aside(run_dir, checkpoint):
    """Rename the checkpoints that a run cannot go on from, so that nothing is lost and nothing takes them for whole."""
    kept = {checkpoint, checkpoint and find_best(checkpoint)}
    for folder in list_checkpoints(run_dir):
        later = checkpoint is None or count_steps(folder) > count_steps(checkpoint)
        if folder in kept or not (later or not is_complete(folder)):
            continue
        aside, number = folder.with_name(f"incomplete-{folder.name}"), 2
        while aside.exists():
            aside, number = folder.with_name(f"incomplete-{folder.name}-{number}"), number + 1
        folder.rename(aside)
        print(f"note: {folder.name} is incomplete: set aside as {aside}, you may delete it")


def remove_old(run_dir, best):
    """Delete complete checkpoints beyond KEPT, never the newest or the best (its path, or None)."""
    for leftover in (run_dir / "checkpoints").glob(
        "deleting-*"
    ):  # a kill came while it was deleted
        shutil.rmtree(leftover)
    complete = [folder for folder in list_checkpoints(run_dir) if (folder / MARKER).is_file()]
    newest, best = complete[-1].name, best and Path(best).name
    complete.sort(
        key=lambda folder: folder.name in (newest, best)
    )  # the others first, oldest first
    for folder in complete[:-KEPT]:
        shutil.rmtree(folder.rename(folder.with_name(f"deleting-{folder.name}")))


# ---------------------------------------------------------------- one run, and not two mixed


# ---------------------------------------------------------------- disk


def save_final_adapter(model, run_dir, train_rows):
    """Write the final adapter, each file whole or not at all. run.json makes them count: write it after them."""
    partial = run_dir / "adapter.partial"
    shutil.rmtree(partial, ignore_errors=True)
    adapters.save_adapter(model, partial, train_rows)
    for path in sorted(partial.iterdir()):
        flush(path)
        os.replace(path, run_dir / path.name)
    partial.rmdir()
    flush(run_dir)
