"""How a user says that a table is to be read: flags that several scripts share. No torch."""

import argparse
from typing import NamedTuple


class Reading(NamedTuple):
    """What a user says about a table; None: the file itself tells."""

    sheet: str | None = None  # name of the sheet of a workbook
    delimiter: str | None = None  # character that separates the cells of a text file
    encoding: str | None = None  # of a text file, by any name that Python knows


def add_file_flags(parser: argparse.ArgumentParser, sheet: str | None = None) -> None:
    """Add the flags of a Reading to a script's parser; sheet: what --sheet is by default."""
    parser.add_argument(
        "--sheet", default=sheet, help="sheet of the workbook (default: the one with the columns)"
    )


def take_reading(args: argparse.Namespace) -> Reading:
    """Return what the flags of add_file_flags say."""
    return Reading(args.sheet)
