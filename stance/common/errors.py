"""How a script ends on something the user can mend, and on signals."""

import contextlib
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from stance.common import formatting, full_disk, streams

# What the system forbids or fails at, which no other line explains.
NO_ACCESS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
AGAIN = "start the same command again"
MAKE_ROOM = f"free some, then {AGAIN}"  # what helps on a full disk


def fail(message: str) -> NoReturn:
    """End the script on something the user can mend: one line on stderr, exit code 2."""
    # Names and texts of files may hold anything.
    print(f"error: {formatting.join_lines(message)}", file=sys.stderr)
    raise SystemExit(2)


def fail_below_bar(message: str) -> NoReturn:
    """End the script as fail does, with the error on a line of its own below a progress bar."""
    print(file=sys.stderr)
    fail(message)


@contextlib.contextmanager
def explain_full_disk(
    path: Path | str | None, hint: str = MAKE_ROOM, below_bar: bool = False
) -> Iterator:
    """Turn the errors of a full disk, which each library words in its own way, into one line.

    path: what is written, if the error does not name it; as text, what that is. hint: what to do.
    below_bar: whether a progress bar may stand where the line goes.
    """
    try:
        yield
    except Exception as problem:
        cause = full_disk.find_full_disk(problem)
        if cause is None:
            raise
        message = full_disk.describe_full_disk(cause, path, hint)
        (fail_below_bar if below_bar else fail)(message)


@contextlib.contextmanager
def explain_access() -> Iterator:
    """Turn the error of a file that the system does not let us read or write into one line."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in NO_ACCESS or not problem.filename:
            raise
        what = f"{problem.filename} cannot be read or written ({problem.strerror})"
        fail(f"{what}: check the path, its disk and your rights, then {AGAIN}")


def note_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Print an error of a destructor, as Python does, but not that a disk is full.

    That is said already when libraries try to close what they could not write.
    """
    if full_disk.find_full_disk(unraisable.exc_value) is None:
        sys.__unraisablehook__(unraisable)


def run_script(main: Callable[[], object]) -> None:
    """Run the main of a script; end it in one line on Ctrl-C and SIGTERM, exit code 130 or 143.

    A cluster ends a job by SIGTERM. Both are raised as exceptions, so that what is open is closed
    and temporary files go. If torchrun's first process fails, it ends the others by SIGTERM: these
    wait for the first where no handler would run, so they have none.
    A full disk ends it in one line too, exit code 2. Where nobody reads what it prints, as of
    `| head`, or a log file has no room, it goes on to the end of its work: see streams.end_printing.
    Garbage is collected from here on, but never what was there before: the libraries.
    """
    gc.freeze()
    gc.enable()  # until here, stance/common/startup.py had it off, and another handler for Ctrl-C
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("RANK", "0") == "0":
        signal.signal(signal.SIGTERM, interrupt)
    streams.make_patient()
    streams.make_plain()
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = note_unraisable
    try:
        with explain_full_disk(None), explain_access():
            main()
    except SystemExit as ended:
        if ended.code:
            raise
    except KeyboardInterrupt:
        interrupt(signal.SIGINT)
    streams.end_printing()


def interrupt(number: int, frame: FrameType | None = None) -> NoReturn:
    """End the script on a signal, with the exit code that shells report for it.

    A handler of signal.signal: number is the signal's; the frame is not used.
    """
    # Not print, which may be busy: signals come anywhere.
    with contextlib.suppress(OSError):  # nobody reads on
        os.write(2, b"\ninterrupted: no file is half written; start again\n")
    raise SystemExit(128 + number)
