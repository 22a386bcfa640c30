"""stance/common/progress.py and the trainer's lines: a bar on a terminal, few whole lines in a log file or a pipe."""

import re
import sys
from types import SimpleNamespace

import pytest

from stance.common import progress
from stance.training import callbacks


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until clock.now is set."""
    clock = SimpleNamespace(now=1000.0)
    for module in (progress, callbacks):
        monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    return clock


def test_short_work_prints_nothing_into_a_file(clock, capsys):
    with progress.open_progress(10, "scoring", "row") as bar:
        for _ in range(10):
            clock.now += 1
            bar.update()
    assert capsys.readouterr() == ("", "")


def test_long_work_prints_a_line_now_and_then(clock, capsys):
    with progress.open_progress(1000, "labelling", "row") as bar:
        for _ in range(100):
            clock.now += 1
            bar.update(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "labelling: 300 of 1,000 rows, 10.0 a second, 01:10 left",
        "labelling: 600 of 1,000 rows, 10.0 a second, 00:40 left",
        "labelling: 900 of 1,000 rows, 10.0 a second, 00:10 left",
    ]


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.open_progress(10, "scoring", "row") as bar:
        bar.update(10)
        assert bar.n == 10
    assert "\rscoring: " in capsys.readouterr().err


# ---------------------------------------------------------------- training


ARGS = SimpleNamespace(per_device_train_batch_size=4, gradient_accumulation_steps=2)


def test_lines_of_a_training_say_step_loss_rate_pace_and_time_left(clock, capsys):
    state = SimpleNamespace(global_step=0, max_steps=20, is_world_process_zero=True, epoch=0.0)
    lines = callbacks.TrainingLines()
    lines.on_train_begin(ARGS, state, None)
    for step in range(1, 11):
        state.global_step, state.epoch = step, step / 10
        clock.now += 2
        lines.on_step_end(ARGS, state, None)
        if step == 5:
            lines.on_log(
                ARGS,
                state,
                None,
                {"loss": 1.5, "learning_rate": 1e-4, "grad_norm": 2.0, "epoch": 0.5},
            )
    lines.on_log(ARGS, state, None, {"eval_loss": 0.25, "eval_accuracy": 0.75, "epoch": 1.0})
    lines.on_log(ARGS, state, None, {"train_runtime": 20.0, "train_loss": 1.0})
    lines.on_train_end(ARGS, state, None)
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "step  5/20   loss 1.5000   rate 1.0e-04   4.0 rows/s   00:30 left",
        "epoch 1: validation loss 0.2500, accuracy 0.750",
    ]
    assert captured.err == ""


def test_validation_and_checkpoints_do_not_slow_the_rows_a_second(clock, capsys):
    state = SimpleNamespace(global_step=0, max_steps=4, is_world_process_zero=True, epoch=0.0)
    lines = callbacks.TrainingLines()
    lines.on_train_begin(ARGS, state, None)
    clock.now, state.global_step = clock.now + 1000, 2
    lines.on_evaluate(ARGS, state, None)
    lines.on_save(ARGS, state, None)
    clock.now, state.global_step = clock.now + 4, 4
    lines.on_log(ARGS, state, None, {"loss": 1.0, "learning_rate": 0.0})
    assert " 4.0 rows/s " in capsys.readouterr().out


def test_other_processes_print_nothing(capsys):
    state = SimpleNamespace(global_step=1, max_steps=4, is_world_process_zero=False, epoch=0.0)
    lines = callbacks.TrainingLines()
    for event in (
        lines.on_train_begin,
        lines.on_step_end,
        lines.on_evaluate,
        lines.on_save,
        lines.on_train_end,
    ):
        event(ARGS, state, None)
    lines.on_log(ARGS, state, None, {"loss": 1.0, "learning_rate": 0.0})
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_training_into_a_file_prints_one_line_a_log_step(train, tmp_path, capfd):
    """No bars, no dicts, no library's chatter: every line is this project's."""
    train(tmp_path / "run", "--epochs", "2", LOG_STEPS=3)
    captured = capfd.readouterr()
    lines = captured.out.splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) == 6 and all(
        re.fullmatch(r"step +\d+/18   loss .* left", line) for line in steps
    )
    assert sum(": validation loss " in line for line in lines) == 2
    assert not any(line.startswith("{") for line in lines)
    assert "\r" not in captured.out + captured.err and len(captured.err.splitlines()) <= 1
