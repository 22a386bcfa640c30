"""A full disk is told from other problems, whoever words it, and ends a script in one line."""

import errno
import os
import sqlite3
import subprocess
import sys
import types

import pytest
import safetensors
from stopping import line_below_bar, stop_message

from stance.common import errors, files, full_disk

PROBLEMS = {
    "no room": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "no quota": OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    "file too large": OSError(errno.EFBIG, os.strerror(errno.EFBIG)),
    "torch": RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0"),
    "torch, at the end of a file": RuntimeError(
        "[enforce fail at inline_container.cc:672] . unexpected pos 785664 vs 785552"
    ),
    "torch, while it closes a file": RuntimeError("basic_ios::clear: iostream error"),
    "safetensors": safetensors.SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    ),
    "safetensors, quota": safetensors.SafetensorError(
        "I/O error: Disk quota exceeded (os error 122)"
    ),
    "sqlite": sqlite3.OperationalError("database or disk is full"),
    "tempfile": FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']"),
}


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_a_full_disk_is_told_from_other_problems(tmp_path, capsys, problem):
    def write(error, **options):
        with errors.explain_full_disk(tmp_path / "file", **options):
            raise error

    message = stop_message(capsys, write, problem)
    assert "the disk is full" in message and "start the same command again" in message
    assert f"{tmp_path / 'file'}, " in message
    assert "the disk is full" in line_below_bar(capsys, write, problem, below_bar=True)
    with pytest.raises(type(problem), match="something else"):
        write(type(problem)("something else"))


def test_what_a_library_makes_of_a_full_disk_is_one_too(tmp_path, capsys):
    def write():
        with errors.explain_full_disk(tmp_path):
            try:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(tmp_path / "inner"))
            except OSError as problem:
                raise ValueError("cannot save") from problem

    message = stop_message(capsys, write)
    assert "inner" in message and os.strerror(errno.EDQUOT) in message


def test_a_signal_while_a_full_disk_is_met_stays_a_signal(tmp_path):
    with pytest.raises(KeyboardInterrupt), errors.explain_full_disk(tmp_path):
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError:
            raise KeyboardInterrupt from None


def test_a_file_without_room_leaves_the_old_one_and_its_name_is_said(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    files.write_jsonl(path, [{"old": True}])

    def refuse(number):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", refuse)  # as a network disk says it
    with pytest.raises(OSError) as stopped:
        files.write_jsonl(path, [{"new": True}])
    assert stopped.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
    assert path.read_text() == '{"old": true}\n'


def test_the_room_of_a_file_that_is_not_there_is_that_of_its_disk(tmp_path):
    assert full_disk.measure_room(tmp_path / "a" / "b" / "c.csv").endswith(" GB")


def test_destructors_do_not_say_again_that_the_disk_is_full(capsys):
    def report(problem):
        fields = {"exc_type": type(problem), "exc_value": problem, "exc_traceback": None}
        errors.note_unraisable(types.SimpleNamespace(**fields, err_msg=None, object=None))
        return capsys.readouterr().err

    assert report(OSError(errno.ENOSPC, "full")) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem", ["PermissionError(13, 'denied', 'x.csv')", "OSError(30, 'read-only', 'x.csv')"]
)
def test_what_the_system_forbids_is_one_line(problem):
    code = f"from stance.common import errors\ndef main():\n    raise {problem}\nerrors.run_script(main)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: x.csv cannot be") and ended.stderr.count("\n") == 1
