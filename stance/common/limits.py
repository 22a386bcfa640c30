"""Limits on time and memory for work whose size strangers decide, such as the templates of models."""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None

SOURCES = Path(__file__).resolve().parents[2]  # where a trial finds this library
START_SECONDS = 30  # that Python and the modules of a trial may take to start
WATCH_SECONDS = 0.05  # between two looks at the memory of a trial


def can_limit() -> bool:
    """Return whether limit_work can hold its limits here: not on Windows, nor in other threads."""
    has_limits = resource is not None and hasattr(signal, "setitimer")
    return has_limits and threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def limit_work(seconds: float, more_bytes: int) -> Iterator[None]:
    """Raise TimeoutError or MemoryError if what the context encloses takes more than that.

    more_bytes: beyond what the process has at the start. Without effect where can_limit says so:
    there, call try_out before.
    """
    if not can_limit():
        yield
        return
    with _limit_memory(more_bytes), _limit_time(seconds):
        yield


@contextlib.contextmanager
def _limit_memory(more_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + more_bytes
    limits = [limit for limit in (most, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class _TimeIsUpError(BaseException):
    """Raised wherever the work is: jinja goes on after what it takes for errors of a template."""


@contextlib.contextmanager
def _limit_time(seconds):
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise _TimeIsUpError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _TimeIsUpError:
        raise TimeoutError(explain_time(seconds)) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def explain_time(seconds: float) -> str:
    """Return what is wrong with work that takes more time."""
    return f"it takes more than {seconds:g} seconds"


def try_out(function: Callable, arguments: list, seconds: float, more_bytes: int) -> None:
    """Call a function; raise TimeoutError or MemoryError if it takes more than that.

    Where this process can limit itself, it calls the function, which may raise what it wants. Else
    another process does, which can be ended: its result and its errors are those that a call after
    the trial will have. function: of a module that loads fast. arguments: of JSON's types.
    """
    if can_limit():
        with limit_work(seconds, more_bytes):
            function(*arguments)
        return
    command = [sys.executable, "-m", "stance.common.trial"]
    most_bytes = psutil.Process().memory_info().rss + more_bytes
    call = {"module": function.__module__, "name": function.__name__, "arguments": arguments}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryFile() as given:
        given.write(json.dumps(call, default=str).encode())
        given.seek(0)
        with subprocess.Popen(command, stdin=given, cwd=SOURCES, **silent) as trial:
            try:
                _watch(trial, seconds, most_bytes)
            finally:
                trial.kill()


def _watch(trial, seconds, most_bytes):
    """Return once a process has ended; raise as try_out does."""
    deadline = time.monotonic() + START_SECONDS + seconds
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            trial.wait(WATCH_SECONDS)
            return
        if time.monotonic() > deadline:
            raise TimeoutError(explain_time(seconds))
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(trial.pid).memory_info().rss > most_bytes:
                raise MemoryError(f"it takes more than {most_bytes >> 20} MiB")
