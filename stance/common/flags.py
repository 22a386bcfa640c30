"""The flags of scripts: a parser that takes each flag once, and the types of values that several scripts share."""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

from stance.common import errors

MAX_SEED = (1 << 32) - 1  # the largest that numpy and transformers take


class FlagParser(argparse.ArgumentParser):
    """argparse's parser for a script: its docstring is the help, flags are written out, and each is
    given once.

    Where a flag is repeated, argparse takes the last value in silence, which changes an experiment.
    """

    def __init__(self, docstring: str | None) -> None:
        self.flags: set[str] = set()  # all names; argparse adds --help at once
        super().__init__(
            description=docstring,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def add_argument(self, *names, **options) -> argparse.Action:
        """Add a flag, as argparse does."""
        self.flags.update(name for name in names if name.startswith("-"))
        return super().add_argument(*names, **options)

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Return the flags of a command line; stop if one is given twice."""
        words = sys.argv[1:] if args is None else list(args)
        given = words[: words.index("--")] if "--" in words else words
        counts = Counter(word.partition("=")[0] for word in given)
        for flag in sorted(self.flags):
            if counts[flag] > 1:
                errors.fail(f"{flag} is given {counts[flag]} times: give it once")
        return super().parse_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Stop in one line; argparse would print the usage before it."""
        errors.fail(f"{message} (--help explains the flags)")


def seed(text: str) -> int:
    """Return a random seed; for argparse, which turns the error into a line with the flag's
    name."""
    number = int(text)
    if not 0 <= number <= MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text} is no seed from 0 to {MAX_SEED}")
    return number


def positive_number(text: str) -> float:
    """Return a finite number above 0; for argparse."""
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return number


def hide_dash(text: str) -> str:
    """Return a header or topic that argparse does not take for a flag: a blank before it does not
    matter."""
    return f" {text}" if text.startswith("-") else text


def list_words(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Return the words of a command line that give the named flags the values that they have.

    names: as args has them, with underscores; those that it lacks have no words. Values that start
    with a dash would be taken for flags, so that single ones are joined to their flag.
    """
    words = []
    for name in names:
        value = getattr(args, name, None)
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif isinstance(value, (list, tuple)):
            words += [flag, *map(hide_dash, map(str, value))] if value else []
        elif value is not None and value is not False:
            words.append(f"{flag}={value}")
    return words
