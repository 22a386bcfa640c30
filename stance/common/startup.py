"""What a script imports first: libraries load faster, Ctrl-C ends that in one line, and needless
advice is kept back.

Also how threads wait. Where scripts are imported, by tests for example, Ctrl-C and garbage
collection stay as they are. Standard library only.
"""

import contextlib
import gc
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

BEGAN = time.time()  # of the process, nearly

# Threads that wait for each other sleep instead of spinning: beside any other work on a small
# computer, spinning makes everything several times slower. Read when PyTorch's OpenMP loads; a
# user's own choice stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Asks for a package that is not needed, as soon as bitsandbytes loads; peft loads it too.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def end_loading(number: int, frame: FrameType | None) -> None:
    """End the process at once, with the exit code that shells report for a signal.

    A handler of signal.signal that raises nothing: libraries may catch what a handler raises.
    """
    with contextlib.suppress(OSError):  # nobody reads on
        os.write(2, b"\ninterrupted: nothing was begun; start again\n")
    os._exit(128 + number)


def open_missing() -> None:
    """Open stdin, stdout and stderr where a process was started without them, as by >&-.

    Else the first files that it opens would get their numbers, and what libraries print.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


ROOT = Path(__file__).resolve().parents[2]
script = getattr(sys.modules["__main__"], "__file__", None)  # or <stdin>, or none at all
if script and Path(script).is_file() and Path(script).resolve().parent in (ROOT, ROOT / "tools"):
    # Garbage and Ctrl-C until errors.run_script. A fifth of the loading time goes into looking for garbage, of
    # which there is little.
    gc.disable()
    open_missing()
    # A shell lets what runs in the background ignore SIGINT; then another handler stands here.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_loading)
