"""One training at a time in a run folder: a lock file that names the process which holds it."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from stance.common import errors, files, formatting, records
from stance.common.types import RunLock

LOCK_FILE = "finetune.lock"
CLOCK_STEP = 5  # seconds by which the start of a process may differ: it is told by the clock


@contextlib.contextmanager
def hold_run(run_dir: Path) -> Iterator[None]:
    """Hold the lock of a run folder; stop if another training holds it.

    A lock whose process is gone from this computer is taken over with a note. Whether a process of
    another computer still runs cannot be seen from here.
    """
    if run_dir.exists() and not run_dir.is_dir():
        errors.fail(f"{run_dir} is a file: choose another --run-dir")
    is_new = not run_dir.exists()
    files.make_folder(run_dir)
    path = run_dir / LOCK_FILE
    own = describe_process(psutil.Process())
    while not create_lock(path, own):
        remove_stale(path)
    try:
        yield
    finally:
        if read_lock(path) == own:
            path.unlink(missing_ok=True)
        if is_new:
            with contextlib.suppress(OSError):  # something was written
                run_dir.rmdir()


def describe_process(process: psutil.Process) -> dict:
    """Return what names a process for good: computer, number, and when it started (seconds since
    1970)."""
    return {
        "host": socket.gethostname(),
        "pid": process.pid,
        "started": round(process.create_time(), 2),
    }


def create_lock(path: Path, own: dict) -> bool:
    """Return whether the lock file could be made: not if there is one. It is there with its content
    at once."""
    temporary = path.with_name(f"{path.name}.{own['pid']}.tmp")
    temporary.write_text(json.dumps(own) + "\n", encoding="utf-8")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: nearly as good
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(json.dumps(own) + "\n")
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def read_lock(path: Path) -> dict | None:
    """Return the content of a lock file; None if there is none, an empty dict if it is no lock of
    ours."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError:
        return {}
    return records.decode_typed(content, RunLock) or {}


def remove_stale(path: Path) -> None:
    """Remove the lock of a process that is gone; stop if it may still run."""
    held = read_lock(path)
    if held is None:  # just released
        return
    delete = f"if no training runs there, delete {path}"
    if not held:
        errors.fail(f"{path} is damaged, so whether a training runs cannot be seen: {delete}")
    host = formatting.quote(str(held["host"]))
    if held["host"] != socket.gethostname():
        errors.fail(
            f"{path.parent} is in use by process {held['pid']} on the computer {host}: wait for it, or {delete}"
        )
    if is_running(held):
        errors.fail(
            f"{path.parent} is in use by another finetune.py, process {held['pid']}: wait for it, or choose another "
            "--run-dir"
        )
    aside = path.with_name(f"{path.name}.{os.getpid()}.stale")
    with contextlib.suppress(FileNotFoundError):  # another process was quicker
        os.replace(path, aside)
        if read_lock(aside) != held:  # not what was read above: somebody took it over meanwhile
            os.replace(aside, path)
            return
        aside.unlink()
        print(f"note: the lock of process {held['pid']}, which is gone, is taken over: {path}")


def is_running(held: dict) -> bool:
    """Return whether the process that a lock names runs: its number may have been given to another
    one since."""
    try:
        process = psutil.Process(held["pid"])
        return abs(process.create_time() - held["started"]) < CLOCK_STEP
    except (psutil.NoSuchProcess, TypeError, ValueError, OverflowError):
        return False
    except psutil.AccessDenied:  # it is there, but of another user
        return True
