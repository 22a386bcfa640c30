"""One training at a time in a run folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from stance.common import errors, files, locks

LOCK_FILE = "finetune.lock"


@contextlib.contextmanager
def hold_run(run_dir: Path) -> Iterator[None]:
    """Hold the lock of a run folder; fail if another training holds it, see locks.hold_lock.

    A folder that was made for it and stays empty is removed again.
    """
    if run_dir.exists() and not run_dir.is_dir():
        errors.fail(f"{run_dir} is a file: choose another --run-dir")
    is_new = not run_dir.exists()
    files.make_folder(run_dir)
    try:
        path = run_dir / LOCK_FILE
        with locks.hold_lock(path, run_dir, "finetune.py", "choose another --run-dir"):
            yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # something was written
                run_dir.rmdir()
