"""Trackers: checked before any weights load, given what log.jsonl holds; the last steps are logged."""

import os
import types

import pytest
import transformers
from stopping import stop_message

import finetune
from stance.common import files
from stance.model import loading
from stance.training import trackers


@pytest.mark.parametrize("name, expected", [
    ("tensorbord", "REPORT_TO tensorbord is unknown: write one of none, tensorboard, wandb, mlflow"),
    ("mlflow", "REPORT_TO mlflow needs a package: pip install mlflow, or write none"),
])  # fmt: skip
def test_a_tracker_that_is_not_there_ends_in_one_line(
    tmp_path, monkeypatch, capsys, name, expected
):
    monkeypatch.setattr(loading, "load_base", None)
    monkeypatch.setattr(finetune, "REPORT_TO", name)
    monkeypatch.setitem(trackers.INSTALLED, "mlflow", lambda: False)
    words = ["--run-dir", str(tmp_path / "run"), "--data-dir", str(tmp_path)]
    assert expected in stop_message(capsys, finetune.main, words)
    assert not (tmp_path / "run" / "plan.json").exists()


def test_installed_trackers_are_accepted_and_none_needs_nothing(monkeypatch):
    monkeypatch.setattr(trackers, "INSTALLED", {"wandb": lambda: True})
    trackers.check_tracker("wandb")
    trackers.check_tracker("none")


def test_files_of_trackers_go_to_the_run_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {"WANDB_PROJECT": "mine"})
    for name in ("none", "tensorboard", "wandb", "mlflow"):
        trackers.name_places(name, tmp_path)
    assert os.environ == {
        "TENSORBOARD_LOGGING_DIR": str(tmp_path / "tensorboard"),
        "WANDB_PROJECT": "mine",
        "WANDB_DIR": str(tmp_path),
        "MLFLOW_EXPERIMENT_NAME": "stance",
    }


def test_a_tracker_is_part_of_no_experiment():
    """A run may go on with another one."""
    assert "REPORT_TO" not in finetune.collect_experiment_settings()


def test_only_the_last_step_asks_for_an_entry():
    for step, wanted in ((7, False), (8, True)):
        control = transformers.TrainerControl()
        state = types.SimpleNamespace(global_step=step, max_steps=8)
        trackers.LastInterval().on_step_end(None, state, control)
        assert control.should_log is wanted


@pytest.mark.slow
def test_the_last_partial_interval_is_in_the_log(train, tmp_path):
    train(tmp_path / "run", "--epochs", "1", LOG_STEPS=1000)
    entries = files.read_jsonl(tmp_path / "run" / "log.jsonl", (), "fix the test")
    [logged] = [entry for entry in entries if "loss" in entry]
    assert logged["step"] == max(entry["step"] for entry in entries)


@pytest.mark.slow
@pytest.mark.parametrize("name", trackers.INSTALLED)
def test_an_installed_tracker_gets_the_losses(train, tmp_path, monkeypatch, name):
    if not trackers.INSTALLED[name]():
        pytest.skip(f"{name} is not installed")
    for variable in ("TENSORBOARD_LOGGING_DIR", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.setenv(variable, "x")  # so that what the run sets is taken back afterwards
        monkeypatch.delenv(variable)
    database = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = train(tmp_path / "run", "--epochs", "1", REPORT_TO=name)
    entries = files.read_jsonl(run / "log.jsonl", (), "fix the test")
    losses = {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}
    if name == "tensorboard":
        from tensorboard.backend.event_processing import event_accumulator

        events = event_accumulator.EventAccumulator(str(run / trackers.TENSORBOARD_FOLDER)).Reload()
        found = {event.step: event.value for event in events.Scalars("train/loss")}
    elif name == "mlflow":
        import mlflow

        [found_run] = mlflow.MlflowClient(database).search_runs(["1"])
        history = mlflow.MlflowClient(database).get_metric_history(found_run.info.run_id, "loss")
        found = {metric.step: metric.value for metric in history}
    else:
        [record] = (run / "wandb").glob("offline-run-*/run-*.wandb")
        assert b"train/loss" in record.read_bytes()
        return
    assert found == pytest.approx(losses, rel=1e-4)
