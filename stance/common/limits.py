"""Limits on time and memory for work whose size strangers decide, such as the templates of models."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None


@contextlib.contextmanager
def limit_work(seconds: float, more_bytes: int) -> Iterator[None]:
    """Raise TimeoutError or MemoryError if what the context encloses takes more than that.

    more_bytes: beyond what the process has at the start. Without effect where the system has no
    such limits (Windows), and on time outside the main thread.
    """
    with contextlib.ExitStack() as limits:
        if resource is not None:
            limits.enter_context(_limit_memory(more_bytes))
        if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
            limits.enter_context(_limit_time(seconds))
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


@contextlib.contextmanager
def _limit_time(seconds):
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"it takes more than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
