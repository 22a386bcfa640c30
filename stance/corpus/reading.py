"""How a user says that a table is to be read: flags that several scripts share. No torch."""

import argparse
import codecs
from typing import NamedTuple

from stance.common import errors, formatting

# Delimiters by name: a shell takes some of the characters for its own.
DELIMITER_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}


class Reading(NamedTuple):
    """What a user says about a table; None: the file itself tells."""

    sheet: str | None = None  # name of the sheet of a workbook
    delimiter: str | None = None  # character that separates the cells of a text file
    encoding: str | None = None  # of a text file, by any name that Python knows
    collects_long: bool = False  # rows with cells beyond the headers do not stop the run at once


def add_file_flags(parser: argparse.ArgumentParser, sheet: str | None = None) -> None:
    """Add the flags of a Reading to a script's parser; sheet: what --sheet is by default."""
    parser.add_argument(
        "--sheet", default=sheet, help="sheet of the workbook (default: the one with the columns)"
    )
    parser.add_argument(
        "--delimiter",
        help="between the cells of a text file: comma, semicolon, tab, pipe or any sign "
        "(default: as its rows tell)",
    )
    parser.add_argument(
        "--encoding", help="of a text file, as cp1251 or gb18030 (default: as its bytes tell)"
    )


def take_reading(args: argparse.Namespace) -> Reading:
    """Return what the flags of add_file_flags say; fail on what no file can have."""
    return Reading(args.sheet, name_delimiter(args.delimiter), name_encoding(args.encoding))


def name_delimiter(given: str | None) -> str | None:
    """Return the character that --delimiter means; fail if it is none that can separate cells."""
    if given is None:
        return None
    delimiter = DELIMITER_NAMES.get(given.casefold(), given)
    if len(delimiter) != 1 or delimiter.isalnum() or delimiter in "\"'\r\n":
        hint = "give comma, semicolon, tab, pipe or one sign"
        errors.fail(f"--delimiter {formatting.quote(given)} separates no cells: {hint}")
    return delimiter


def name_encoding(given: str | None) -> str | None:
    """Return the encoding that --encoding means, as Python names it; fail if it is none."""
    if given is None:
        return None
    try:
        encoding = codecs.lookup(given).name
        "".encode(encoding)  # fails for codecs between bytes, such as zip
    except (LookupError, ValueError):
        hint = "give one that Python knows, as utf-8, cp1251 or gb18030"
        errors.fail(f"--encoding {formatting.quote(given)} is no encoding of texts: {hint}")
    return "utf-8-sig" if encoding == "utf-8" else encoding
