"""The folder of a training run: its plan, whether a run may go on from it, its result."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stance.common import errors, files, records
from stance.common.types import RunRecord
from stance.model import loading
from stance.training import checkpoints

if TYPE_CHECKING:
    import transformers

# ---------------------------------------------------------------- settings
# bytes of a checkpoint beside the adapter and its optimiser: Gemma's tokenizer has 34 MB
OTHER_BYTES = 50_000_000
# --------------------------------------------------------------------------

# What must be the same, beside the settings, for a run to go on; and what is only noted.
SAME_KEYS = (
    "base_model",
    "base_revision",
    "tokenizer",
    "prompt_version",
    "precision",
    "data",
)
NOTED_KEYS = ("environment", "device")
# Settings that came later, and what runs did before: such a run may go on as it began.
LATER_SETTINGS = {
    "SCHEDULE": "linear",
    "WEIGHT_DECAY": 0.0,
    "CLASS_WEIGHTS": False,
    "LABEL_SMOOTHING": 0.0,
    "NEGATED_SHARE": 0.0,
}


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Return a nested dict as {"outer inner": value}, with the values in the types of JSON."""
    if not isinstance(value, dict):
        return {name: json.loads(json.dumps(value))}
    leaves = {}
    for key, part in value.items():
        leaves.update(flatten(part, f"{name} {key}".strip()))
    return leaves


def list_differences(before: dict, now: dict) -> str:
    """Return what differs between two nested dicts, in words; "" if nothing does."""
    old = flatten(before)
    new = flatten(now)
    differences = []
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            differences.append(f"{name} was {old.get(name)}, now it is {new.get(name)}")
    return "; ".join(differences)


def open_run(run_dir: Path, record: RunRecord, resume: bool, checkpoint: Path | None) -> None:
    """Make the run folder and its plan.json; to resume, set checkpoints aside that do not count.

    Called by one process alone. checkpoint: the one to go on from, or None for the first step.
    """
    files.make_folder(run_dir)
    if not resume:
        files.write_json(run_dir / "plan.json", record)
        return
    checkpoints.set_aside(run_dir, checkpoint)
    print(f"resuming from {checkpoint or 'the first step: there is no complete checkpoint yet'}")


def check_same_run(run_dir: Path, record: RunRecord) -> None:
    """Check that the run to resume is the one of this record, and not finished; fail otherwise.

    Fails on other settings, data or base; prints a note on other versions or another device.
    """
    plan = records.read_typed(run_dir / "plan.json", RunRecord, "plan of a run", "start a new run")
    changes = [
        list_differences(_pick_keys(plan, SAME_KEYS), _pick_keys(record, SAME_KEYS)),
        list_differences(fill_settings(plan), fill_settings(record)),
    ]
    differences = "; ".join(change for change in changes if change)
    if differences:
        errors.fail(f"--resume: {differences}: restore it or start a new run")
    if (run_dir / "run.json").is_file():
        errors.fail(f"--resume: {run_dir} is finished: nothing is left to do")
    noted = list_differences(_pick_keys(plan, NOTED_KEYS), _pick_keys(record, NOTED_KEYS))
    if noted:
        print(f"note: {noted}; results may differ from those of one run in a last digit")


def fill_settings(record: RunRecord) -> dict[str, Any]:
    """Return the settings of a run; those that came after it as they were before."""
    return {**LATER_SETTINGS, **record.get("settings", {})}


def _pick_keys(record, keys):
    """Return {key: value} of these keys; None for those that the record lacks."""
    return {key: record.get(key) for key in keys}


def check_disk_space(run_dir: Path, parameters: int) -> None:
    """Fail if the disk has no room for the checkpoints of this many trainable parameters.

    Space that checkpoints of a resumed run have already counts as free.
    """
    adapter = 4 * parameters  # float32
    each = 3 * adapter + OTHER_BYTES  # Adam keeps two numbers a parameter
    most = checkpoints.KEPT + 1  # a new checkpoint is whole before an old one goes
    needed = most * each + adapter
    there = 0
    for folder in checkpoints.list_checkpoints(run_dir):
        there += sum(path.stat().st_size for path in folder.rglob("*"))
    free = shutil.disk_usage(run_dir).free + there
    if free < needed:
        left = f"{run_dir} has {free / 1e9:.2f} GB of disk space left"
        found = f"{left}, checkpoints need {needed / 1e9:.2f}"
        errors.fail(f"{found}: free some, or choose a --run-dir on another disk")


def describe_result(
    trainer: "transformers.Trainer", checkpoint: Path | None, seconds: float
) -> dict[str, Any]:
    """Return what the training came to, for the run record.

    checkpoint: the one that the run went on from; the rows a second are those since then.
    seconds: what this training took.
    """
    state = trainer.state
    steps = state.global_step
    steps_before = checkpoints.count_steps(checkpoint) if checkpoint else 0
    rows = state.epoch * len(trainer.train_dataset) * (steps - steps_before) / steps
    validation = [entry for entry in state.log_history if "eval_loss" in entry]
    kept = state.best_model_checkpoint or f"checkpoint-{steps}"
    kept_step = checkpoints.count_steps(kept)
    return {
        "steps": steps,
        "train_seconds": round(seconds, 1),
        "train_samples_per_second": round(rows / seconds, 2),
        "peak_gpu_gib": loading.peak_gpu_gib(),
        "kept": Path(kept).name,
        "kept_validation": next(entry for entry in validation if entry["step"] == kept_step),
        "validation": validation,
    }
