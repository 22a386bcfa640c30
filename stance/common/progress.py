"""Progress of long work: a bar on a terminal; in a log file or a pipe, a whole line now and then."""

import sys
import time

from tqdm import tqdm

# ---------------------------------------------------------------- settings
LINE_SECONDS = 30  # at least so long between two lines, where there is no terminal
# --------------------------------------------------------------------------


def open_progress(total, name, unit, unit_scale=False, disable=False):
    """Return a context that counts to total by update(count): a tqdm on a terminal, else a ProgressLines."""
    if sys.stderr.isatty() or disable:
        return tqdm(
            total=total, desc=name, unit=unit, unit_scale=unit_scale, leave=False, disable=disable
        )
    return ProgressLines(total, name, unit)


class ProgressLines:
    """Counts as a tqdm does, and prints a line of its own each LINE_SECONDS; work that takes less prints none."""

    def __init__(self, total, name, unit):
        self.total, self.name, self.unit, self.count = total, name, unit, 0
        self.started = self.printed = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        pass

    def update(self, count=1):
        self.count += count
        now = time.monotonic()
        if now - self.printed >= LINE_SECONDS and self.count < self.total:
            self.printed = now
            rate = self.count / (now - self.started)
            left = tqdm.format_interval((self.total - self.count) / rate)
            done = f"{self.count:,} of {self.total:,} {self.unit}s"
            print(
                f"{self.name}: {done}, {rate:.1f} a second, {left} left",
                file=sys.stderr,
                flush=True,
            )
