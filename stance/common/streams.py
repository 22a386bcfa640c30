"""What a script prints.

It never stops the work, whatever becomes of who reads it, and moves no terminal's cursor.
"""

import contextlib
import errno
import io
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, TextIO

from stance.common import formatting


class PatientStream(io.RawIOBase):
    """Bytes go to a file, terminal or pipe until that fails; from there on they are dropped.

    A pipe that nobody reads on, as of `| head`, and a log file on a full disk end no training, and
    no results get lost for it. problem: what failed, None while nothing did.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        """stream: what goes there without this; kept, as it closes what it wrote to once it is
        collected."""
        self.stream = stream
        self.raw = getattr(stream.buffer, "raw", stream.buffer)  # python -u has no buffer
        self.problem: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return self.raw.isatty()

    def write(self, content: bytes) -> int | None:
        """Write bytes; return how many were taken."""
        if self.problem is None:
            try:
                return self.raw.write(content)
            except OSError as problem:
                self.problem = problem
        return len(content)


class PlainStream:
    """A stream of text whose control characters are spelled out, but for line ends.

    So no text from a file moves the cursor, sets the title or changes the colours of a terminal.
    """

    def __init__(self, stream: TextIO, has_colors: bool) -> None:
        """has_colors: whether changes of colour stay too; libraries print them to stderr."""
        self.stream = stream
        self.escape = formatting.escape_controls
        if has_colors:
            self.escape = formatting.escape_beside_colors

    def write(self, text: str) -> int:
        """Write a text. A carriage return at its start or end is that of a progress bar."""
        middle = text.strip("\r")
        start, _, end = text.partition(middle) if middle else (text, "", "")
        self.stream.write(f"{start}{self.escape(middle)}{end}")
        return len(text)

    def write_painted(self, text: str) -> None:
        """Write a text whose colours are the script's own: what it shows of files is spelled out."""
        self.stream.write(formatting.escape_beside_colors(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def make_patient() -> None:
    """Let stdout and stderr of this process go on where they cannot be written to any more.

    A character that the encoding of a terminal does not have gets its code. Streams that are
    closed, or that a test has put there, stay as they are.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper) or find_patient(stream):
            continue
        stream.flush()
        patient = io.TextIOWrapper(
            io.BufferedWriter(PatientStream(stream)),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering or stream.write_through or name == "stderr",
        )
        setattr(sys, name, patient)


def make_plain() -> None:
    """Let stdout and stderr spell control characters out, once; a closed one stays as it is.

    Also where libraries that were loaded before log to them: they print names from files too.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, PlainStream):
            setattr(sys, name, PlainStream(stream, has_colors=name == "stderr"))

    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        for handler in getattr(logger, "handlers", ()):  # a placeholder has none
            stream = getattr(handler, "stream", None)
            if stream is not None and stream in (sys.__stdout__, sys.__stderr__):
                handler.setStream(sys.stdout if stream is sys.__stdout__ else sys.stderr)


def print_painted(text: str) -> None:
    """Print a text with colours of the script's own to stdout.

    Control characters in what it shows of files must be spelled out: one may be a colour.
    """
    if isinstance(sys.stdout, PlainStream):
        sys.stdout.write_painted(f"{text}\n")
    else:
        print(text)


@contextlib.contextmanager
def spell_native_output() -> Iterator[None]:
    """Hold back what is printed to stdout, and print it with its control characters spelled out.

    For libraries that are not written in Python: the tokenizers library prints unknown keys of its
    files straight to the descriptor.
    """
    print(end="", flush=True)  # not sys.stdout.flush(): of several processes only one has a stdout
    own = os.dup(1)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 1)
        try:
            yield
        finally:
            print(end="", flush=True)
            os.dup2(own, 1)
            os.close(own)
            caught.seek(0)
            text = caught.read().decode("utf-8", "backslashreplace")
            print(formatting.escape_controls(text), end="")


def find_patient(stream: object) -> PatientStream | None:
    """Return the PatientStream below sys.stdout or sys.stderr; None if it has none."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, PatientStream) else None


def end_printing() -> None:
    """End a script that has done its work but could not print all of it.

    Quietly if nobody read on, with the exit code that shells report for a broken pipe; in one line
    and with exit code 2 if there was no room.
    """
    if sys.stdout is None:  # closed, as by >&-
        return
    sys.stdout.flush()
    patient = find_patient(sys.stdout)
    if patient is None or patient.problem is None:
        return
    if patient.problem.errno == errno.EPIPE:
        raise SystemExit(128 + signal.SIGPIPE)
    reason = os.strerror(patient.problem.errno)
    what = f"what is printed is not whole ({reason}), all files are written"
    print(f"error: {what}: print to another place", file=sys.stderr)
    raise SystemExit(2)
