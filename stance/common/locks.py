"""One process at a time in a folder or at an output: a lock file that names the process which holds it."""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from stance.common import errors, files, formatting, leftovers, records
from stance.common.types import RunLock

CLOCK_STEP = 5  # seconds by which the start of a process may differ: it is told by the clock
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


@contextlib.contextmanager
def hold_lock(path: Path, what: str | Path, script: str, hint: str) -> Iterator[None]:
    """Hold a lock file; fail if another process holds it.

    what: is held, for messages; script: that may hold it; hint: what else to do than to wait. A lock
    whose process is gone from this computer is taken over with a note. Whether a process of another
    computer still runs cannot be seen from here. What killed processes left unfinished beside the
    lock is deleted: see leftovers.remove_leftovers.
    """
    own = describe_process(psutil.Process())
    while not create_lock(path, own):
        remove_stale(path, what, script, hint)
    try:
        leftovers.remove_leftovers(path.parent)
        yield
    finally:
        if read_lock(path) == own:
            path.unlink(missing_ok=True)


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
    temporary = files.name_temporary(path)
    try:
        files.write_json(temporary, own)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as problem:
        if problem.errno not in NO_LINKS:
            raise
        return _create_without_links(path, own)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _create_without_links(path, own):
    """Do what create_lock does on a file system without hard links: nearly as good."""
    try:
        file = open(path, "x", encoding="utf-8")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(json.dumps(own) + "\n")
    except OSError:  # the disk is full
        path.unlink(missing_ok=True)
        raise
    return True


def read_lock(path: Path) -> dict | None:
    """Return the content of a lock file; None if there is none, an empty dict if it is no lock of
    ours."""
    if path.is_symlink() or path.is_fifo():
        return {}
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError:
        return {}
    return records.decode_typed(content, RunLock) or {}


def remove_stale(path: Path, what: str | Path, script: str, hint: str) -> None:
    """Remove the lock of a process that is gone; fail if it may still run. See hold_lock."""
    held = read_lock(path)
    if held is None:  # just released
        return
    delete = f"if no {script} runs there, delete {path}"
    if not held:
        errors.fail(f"{path} is damaged, so whether {script} runs there cannot be seen: {delete}")
    host = formatting.quote(str(held["host"]))
    if held["host"] != socket.gethostname():
        where = f"process {held['pid']} on the computer {host}"
        errors.fail(f"{what} is in use by {where}: wait for it, or {delete}")
    if is_running(held):
        holder = f"another {script}, process {held['pid']}"
        errors.fail(f"{what} is in use by {holder}: wait for it, or {hint}")
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
