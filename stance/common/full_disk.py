"""A disk without room: told from other problems in the words of all libraries, and put in one line."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

# No room, no quota, a file beyond the limit of the shell (ulimit -f).
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What libraries say that keep the number to themselves: torch, SQLite, tempfile.
WORDS = (
    "PytorchStreamWriter failed",
    "unexpected pos",
    "iostream error",
    "database or disk is full",
    "No usable temporary directory",
)


def find_full_disk(problem: BaseException | None) -> BaseException | None:
    """Return the exception that tells of a full disk, of one and those it came of; None if none
    does."""
    seen = set()
    while problem is not None and id(problem) not in seen:
        seen.add(id(problem))
        if tells_of_full_disk(problem):
            return problem
        problem = problem.__cause__ or problem.__context__
    return None


def tells_of_full_disk(problem: BaseException) -> bool:
    """Return whether an exception tells of a full disk: by its number, or in a library's words."""
    if not isinstance(problem, Exception):  # a script that ends, or a signal
        return False
    if getattr(problem, "errno", None) in DISK_FULL:
        return True
    text = str(problem)
    return any(os.strerror(number) in text for number in DISK_FULL) or any(
        words in text for words in WORDS
    )


def describe_full_disk(problem: BaseException, path: Path | str | None, hint: str) -> str:
    """Return the line on a full disk: what cannot be written, the room that is left, what to do.

    problem: of find_full_disk. path: what was to be written, if the problem does not name it; as
    text, what that is.
    """
    filename = getattr(problem, "filename", None)
    if isinstance(filename, str):
        path = Path(filename)
    rooms = []
    if getattr(problem, "errno", None) in DISK_FULL:
        rooms.append(os.strerror(problem.errno))
    if isinstance(path, Path):
        rooms.append(f"{measure_room(path)} left there")
    rooms.append(describe_temporary())
    return f"cannot write {path or 'a file'}, the disk is full ({', '.join(rooms)}): {hint}"


def describe_temporary() -> str:
    """Return in words how much room there is for temporary files, and where."""
    folder = read_temporary_folder()
    return f"{measure_room(folder)} in {folder} for temporary files"


def read_temporary_folder() -> str:
    """Return the folder that temporary files go to, also if there is no room in it."""
    return os.environ.get("TMPDIR") or tempfile.tempdir or "/tmp"


def measure_room(path: str | Path) -> str:
    """Return the space left on the disk of a file or folder, which need not exist, in words."""
    folder = Path(os.path.abspath(path))
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return "an unknown space"
    return f"{free / 1e9:.2f} GB"
