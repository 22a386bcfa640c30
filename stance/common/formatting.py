"""Texts and lists in messages: quoted, cut, counted."""

import json

# ---------------------------------------------------------------- settings
SHOWN = 10  # rows or spellings that a message lists before it only counts them
SHOWN_LENGTH = 60  # characters of a topic or sentence in messages and in tables on the screen
# --------------------------------------------------------------------------


def list_first(items):
    """Return the first SHOWN items as text, and how many more there are."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(map(str, items[:SHOWN])) + more


def count_rows(numbers):
    """Return row numbers as text: their count and the first of them."""
    return (
        f"{len(numbers)} rows ({list_first(numbers)})" if len(numbers) > 1 else f"row {numbers[0]}"
    )


def cut(text):
    """Return a text, or the start of one that is longer than SHOWN_LENGTH."""
    return text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 3] + "..."


def quote(text):
    """Return a text in quotation marks, cut and on one line, for a message."""
    return json.dumps(cut(text), ensure_ascii=False)
