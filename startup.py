"""What a script imports first: Ctrl-C while the libraries load ends it in one line, and they keep needless advice back.

Where scripts are imported, by tests for example, Ctrl-C stays as it is. Standard library only.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path

BEGAN = time.time()  # of the process, nearly

# Asks for a package that is not needed, as soon as bitsandbytes loads; peft loads it too.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def end_loading(number, frame):
    """End the process at once: libraries may catch what a handler raises. A handler of signal.signal."""
    os.write(2, b"\ninterrupted: nothing was begun; start again\n")
    os._exit(128 + number)


script = Path(getattr(sys.modules["__main__"], "__file__", None) or "").resolve()
# A shell lets what runs in the background ignore SIGINT; then another handler stands here.
if script.parent == Path(__file__).resolve().parent and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_loading)  # until records.run_script
