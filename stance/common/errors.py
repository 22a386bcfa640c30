"""How a script ends on something the user can mend, and on signals."""

import gc
import os
import signal
import sys


def fail(message):
    """End the script on something the user can mend: one line on stderr, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def fail_below_bar(message):
    """Stop with an error line of its own, below the progress bar."""
    print(file=sys.stderr)
    fail(message)


def run_script(main):
    """Run the main of a script; Ctrl-C and SIGTERM (a cluster ends a job) stop it in one line, exit code 130 or 143.

    Both are raised as exceptions, so that what is open is closed and temporary files go. If torchrun's first process
    fails, it ends the others by SIGTERM: these wait for the first where no handler would run, so they have none.
    Garbage is collected from here on, but never what was there before: the libraries.
    """
    gc.freeze()
    gc.enable()  # until here, stance/common/startup.py had it off, and another handler for Ctrl-C
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("RANK", "0") == "0":
        signal.signal(signal.SIGTERM, interrupt)
    try:
        main()
    except KeyboardInterrupt:
        interrupt(signal.SIGINT)


def interrupt(number, frame=None):
    """End the script on a signal, with the exit code that shells report for it. A handler of signal.signal."""
    os.write(
        2, b"\ninterrupted: no file is half written; start again\n"
    )  # print may be busy: signals come anywhere
    raise SystemExit(128 + number)
