"""Progress of long work: a bar on a terminal; in a log file or pipe, a whole line now and then."""

import sys
import time

from tqdm import tqdm

# ---------------------------------------------------------------- settings
LINE_SECONDS = 30  # at least so long between two lines, where there is no terminal
# --------------------------------------------------------------------------


def open_progress(
    total: int, name: str, unit: str, unit_scale: bool = False, disable: bool = False
) -> "tqdm | ProgressLines":
    """Return a context that counts to total by update(count): a bar on a terminal, else lines.

    name: of the work; unit: what is counted, in the singular; unit_scale: show 12.3k for 12,300
    on the bar; disable: show nothing.
    """
    if sys.stderr.isatty() or disable:
        return tqdm(
            total=total, desc=name, unit=unit, unit_scale=unit_scale, leave=False, disable=disable
        )
    return ProgressLines(total, name, unit)


class ProgressLines:
    """Counts as a tqdm does, and prints a line of its own each LINE_SECONDS.

    Work that takes less time prints none.
    """

    def __init__(self, total: int, name: str, unit: str):
        self.total = total
        self.name = name
        self.unit = unit
        self.count = 0
        self.started = time.monotonic()
        self.printed = self.started

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        pass

    def update(self, count: int = 1) -> None:
        """Count so many more; print a line to stderr if the last is long enough ago."""
        self.count += count
        now = time.monotonic()
        if now - self.printed >= LINE_SECONDS and self.count < self.total:
            self.printed = now
            rate = self.count / (now - self.started)
            left = tqdm.format_interval((self.total - self.count) / rate)
            done = f"{self.count:,} of {self.total:,} {self.unit}s"
            line = f"{self.name}: {done}, {rate:.1f} a second, {left} left"
            print(line, file=sys.stderr, flush=True)
