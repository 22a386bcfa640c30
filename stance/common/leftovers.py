"""What a killed process has left: files and folders under temporary names, which nothing needs any more."""

import contextlib
import os
import re
import shutil
import stat
from pathlib import Path

import psutil

from stance.common import files

# Seconds by which a process must have started after a file was written to be no writer of it: the
# file's time is that of the disk, which may be on another computer.
CLOCK_DIFFERENCE = 3600
# What name_temporary makes: the name, the computer, the number of the process, and at random.
TEMPORARY = re.compile(r"(.+)\.([0-9a-f]{4})-(\d{1,10})-[0-9a-f]{8}\.tmp")


def remove_leftovers(folder: str | Path) -> None:
    """Delete what list_leftovers finds, as far as the system lets us."""
    for path in list_leftovers(folder):
        with contextlib.suppress(OSError):  # another process was quicker, or the folder is not ours
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def list_leftovers(folder: str | Path) -> list[Path]:
    """Return the files and folders right in a folder that processes which are gone left unfinished.

    Only those with a name of files.name_temporary that a process of this computer and this user
    made; never links, and nothing of a process that may still run. Of a folder that is not there,
    none.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [Path(folder) / name for name in names if _is_left(Path(folder) / name)]


def _is_left(path):
    """Return whether a file or folder is a leftover, see list_leftovers."""
    found = TEMPORARY.fullmatch(path.name)
    if not found or found[2] != files.name_computer():
        return False
    try:
        status = path.lstat()
    except OSError:
        return False
    is_own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    is_plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return is_own and is_plain and _is_gone(int(found[3]), status.st_mtime)


def _is_gone(pid, written):
    """Return whether a process is gone that wrote a file at a time (seconds since 1970).

    Its number may have been given to another one since, which has started later.
    """
    try:
        return psutil.Process(pid).create_time() > written + CLOCK_DIFFERENCE
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return True
    except psutil.AccessDenied:  # it is there, but of another user
        return False
