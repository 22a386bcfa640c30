"""How wide texts are on a screen and in pictures, in any script; texts cut and wrapped by it.

Width is counted in columns of a terminal: a Chinese character or an emoji takes two, a mark above
or below a letter none. As Unicode's East Asian Width says, and the C library of Linux.
"""

import re
import unicodedata

ZERO_WIDTH_JOINER = "\u200d"  # makes one emoji of two
SKIN_TONES = range(0x1F3FB, 0x1F400)  # emoji modifiers: they colour the emoji before them
JAMO_VOWELS = range(0x1160, 0x1200)  # parts of a Korean syllable: drawn into its first letter
BREAKS = re.compile("[^\\S\u00a0]+")  # white space but the space that no line breaks at


def is_extending(character: str) -> bool:
    """Return whether a character belongs to the one before it: a mark, a joiner, a skin tone."""
    code = ord(character)
    category = unicodedata.category(character)
    return (
        category in ("Mn", "Me", "Mc", "Cf")  # marks without and with width, invisible signs
        or code in SKIN_TONES
        or code in JAMO_VOWELS
    )


def split_characters(text: str) -> list[str]:
    """Return the characters of a text as a reader counts them, each with its marks."""
    parts = []
    for character in text:
        joined = bool(parts) and parts[-1].endswith(ZERO_WIDTH_JOINER)
        if parts and (joined or is_extending(character)):
            parts[-1] += character
        else:
            parts.append(character)
    return parts


def measure_width(text: str) -> int:
    """Return the columns that one line of text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_measure_character, split_characters(text)))


def _measure_character(character):
    """Return the columns of a character of split_characters."""
    first, *marks = character
    # Joined to an emoji, another has no width of its own; spacing vowel signs have.
    width = sum(unicodedata.category(mark) == "Mc" for mark in marks)
    if unicodedata.category(first) in ("Mn", "Me", "Cf"):
        return width
    return width + (2 if unicodedata.east_asian_width(first) in "WF" else 1)


def fill_line(text: str, width: int) -> str:
    """Return as much of the start of a text as so many columns take."""
    taken = ""
    columns = 0
    for character in split_characters(text):
        columns += _measure_character(character)
        if columns > width:
            break
        taken += character
    return taken


def cut_text(text: str, width: int, ending: str = "...") -> str:
    """Return a text, or the start of one that is wider than so many columns, with an ending."""
    if measure_width(text) <= width:
        return text
    return fill_line(text, width - len(ending)) + ending


def wrap_text(text: str, width: int, most_lines: int | None = None) -> list[str]:
    """Return a text as lines of so many columns, a narrow word whole; none of an empty text.

    Words wider than a line, as sentences in scripts without spaces are, break anywhere. What goes
    beyond most_lines is left out, and " ..." ends the last one.
    """
    lines = []
    line = ""
    for word in filter(None, BREAKS.split(text)):
        longer = f"{line} {word}" if line else word
        if measure_width(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while measure_width(word) > width:
            # One character at least, where even that is too wide.
            start = fill_line(word, width) or split_characters(word)[0]
            lines.append(start)
            word = word[len(start) :]
        line = word
    if line:
        lines.append(line)
    if most_lines is None or len(lines) <= most_lines:
        return lines
    ending = " ..."
    last = fill_line(lines[most_lines - 1], width - len(ending))
    return [*lines[: most_lines - 1], last.rstrip() + ending]


def shorten_text(text: str, width: int) -> str:
    """Return a text on one line of so many columns; one that was cut ends in " ..."."""
    lines = wrap_text(text, width, most_lines=1)
    return lines[0] if lines else ""
