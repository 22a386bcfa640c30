"""How a script ends on something the user can mend, and on signals."""

import gc
import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, TextIO

from stance.common import formatting


def fail(message: str) -> NoReturn:
    """End the script on something the user can mend: one line on stderr, exit code 2."""
    # Names and texts of files may hold anything.
    print(f"error: {formatting.join_lines(message)}", file=sys.stderr)
    raise SystemExit(2)


def fail_below_bar(message: str) -> NoReturn:
    """End the script as fail does, with the error on a line of its own below a progress bar."""
    print(file=sys.stderr)
    fail(message)


class PlainStream:
    """A stream of text whose control characters are spelled out, but for colours and line ends.

    So no text from a file moves the cursor or sets the title of a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text. A carriage return at its start or end is that of a progress bar."""
        middle = text.strip("\r")
        start, _, end = text.partition(middle) if middle else (text, "", "")
        self.stream.write(f"{start}{formatting.escape_beside_colors(middle)}{end}")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def run_script(main: Callable[[], object]) -> None:
    """Run the main of a script; end it in one line on Ctrl-C and SIGTERM, exit code 130 or 143.

    A cluster ends a job by SIGTERM. Both are raised as exceptions, so that what is open is closed
    and temporary files go. If torchrun's first process fails, it ends the others by SIGTERM: these
    wait for the first where no handler would run, so they have none.
    Garbage is collected from here on, but never what was there before: the libraries.
    """
    gc.freeze()
    gc.enable()  # until here, stance/common/startup.py had it off, and another handler for Ctrl-C
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("RANK", "0") == "0":
        signal.signal(signal.SIGTERM, interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a sign gets its code
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = PlainStream(sys.stdout)
    sys.stderr = PlainStream(sys.stderr)
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        interrupt(signal.SIGINT)
    except BrokenPipeError:  # as of `| head`: nobody reads on, which is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def interrupt(number: int, frame: FrameType | None = None) -> NoReturn:
    """End the script on a signal, with the exit code that shells report for it.

    A handler of signal.signal: number is the signal's; the frame is not used.
    """
    # Not print, which may be busy: signals come anywhere.
    os.write(2, b"\ninterrupted: no file is half written; start again\n")
    raise SystemExit(128 + number)
