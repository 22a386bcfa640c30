"""Two trainings never share a run folder; a killed one does not block it."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from stance.common import locks
from stance.training import run_lock


def hold_until_killed(folder, ready):
    with run_lock.hold_run(folder):
        ready.set()
        time.sleep(600)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of tmp_path."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold_until_killed, args=(tmp_path, ready))
    process.start()
    assert ready.wait(300)
    yield process
    process.kill()
    process.join()


def fail_line(capsys, folder):
    with pytest.raises(SystemExit) as stopped, run_lock.hold_run(folder):
        pass
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return printed.err


def test_a_lock_is_gone_after_the_run_also_if_it_fails(tmp_path):
    with run_lock.hold_run(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [run_lock.LOCK_FILE]
    assert not list(tmp_path.iterdir())
    with pytest.raises(LookupError), run_lock.hold_run(tmp_path):
        raise LookupError
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_second_run_stops_and_goes_on_after_a_kill(tmp_path, other, capsys):
    assert f"process {other.pid}" in fail_line(capsys, tmp_path)
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with run_lock.hold_run(tmp_path):
        held = json.loads((tmp_path / run_lock.LOCK_FILE).read_text(encoding="utf-8"))
        assert held["pid"] == os.getpid()
    assert (
        f"the lock of process {other.pid}, which is gone, is taken over" in capsys.readouterr().out
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"host": 'a "\x1b[31m'}])
def test_a_lock_of_another_computer_stops(tmp_path, capsys, change):
    path = tmp_path / run_lock.LOCK_FILE
    path.write_text(json.dumps({"host": "", "pid": 1, "started": 1.0} | change), encoding="utf-8")
    line = fail_line(capsys, tmp_path)
    assert f"delete {path}" in line and "\x1b" not in line
    assert path.exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, '{"host": "a"}'])
def test_a_damaged_lock_stops(tmp_path, capsys, content):
    path = tmp_path / run_lock.LOCK_FILE
    path.write_text(content, encoding="utf-8")
    assert f"delete {path}" in fail_line(capsys, tmp_path)


def test_a_number_that_another_process_got_is_no_running_training(tmp_path, capsys):
    import psutil

    own = locks.describe_process(psutil.Process())
    path = tmp_path / run_lock.LOCK_FILE
    path.write_text(json.dumps(own | {"started": own["started"] - 1000}), encoding="utf-8")
    with run_lock.hold_run(tmp_path):
        assert "is taken over" in capsys.readouterr().out
