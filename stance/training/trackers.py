"""Experiment trackers: transformers' own integrations, each a package that a user installs.

They get the settings of the trainer, the base's config and what log.jsonl holds; no text of the
corpus.
"""

import os
from pathlib import Path
from typing import Any

import transformers
import transformers.integrations

from stance.common import errors

# {name in transformers: whether its package is installed}
INSTALLED = {
    "tensorboard": transformers.integrations.is_tensorboard_available,
    "wandb": transformers.integrations.is_wandb_available,
    "mlflow": transformers.integrations.is_mlflow_available,
}
TENSORBOARD_FOLDER = "tensorboard"  # in the run folder


def check_tracker(name: str) -> None:
    """Fail unless a tracker is known and installed; "none" is none."""
    if name == "none":
        return
    if name not in INSTALLED:
        known = ", ".join(["none", *INSTALLED])
        errors.fail(f"REPORT_TO {name} is unknown: write one of {known}")
    if not INSTALLED[name]():
        errors.fail(f"REPORT_TO {name} needs a package: pip install {name}, or write none")


def name_places(name: str, run_dir: Path) -> None:
    """Tell a tracker where its files go and what the run is called; a user's own choice stays.

    Trackers read environment variables.
    """
    if name == "tensorboard":
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(run_dir / TENSORBOARD_FOLDER))
    if name == "wandb":
        os.environ.setdefault("WANDB_PROJECT", "stance")
        os.environ.setdefault("WANDB_DIR", str(run_dir))
    if name == "mlflow":
        os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", "stance")


class LastInterval(transformers.TrainerCallback):
    """Log the last steps too, where their number is no multiple of those between two entries."""

    def on_step_end(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Ask for an entry at the last step."""
        if state.global_step == state.max_steps:
            control.should_log = True
