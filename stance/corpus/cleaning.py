"""Texts cleaned of what Excel and web pages smuggle in, and keys under which texts count as the same. No torch."""

import functools
import re
import unicodedata

CLEANING = {  # for str.translate; the joiners U+200C and U+200D stay: Persian and emoji need them
    **dict.fromkeys(
        [*range(32), *range(0x7F, 0xA0), *range(0xD800, 0xE000)]
    ),  # controls, halves of characters
    **dict.fromkeys(
        map(ord, "\u00ad\u180e\u200b\u200e\u200f\u2060\ufeff")
    ),  # soft hyphen, zero width, BOM
    **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)]),  # marks of writing direction
    **dict.fromkeys([9, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " "),
    **dict.fromkeys(map(ord, "\n\v\f\x85\u2028\u2029"), "\n"),
    ord("\r"): "\r",
}
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
LINE_END = re.compile(r"\r\n?")
ESCAPE = re.compile(
    "_x00([01][0-9A-F]|7F)_"
)  # how Excel writes control characters, a carriage return as _x000D_


def clean_text(value):
    """Return a cell or text without what Excel and web pages smuggle in; ordinary text stays as it is, to the byte.

    NFC; odd spaces to a space; odd line ends to a line feed; invisible and control characters dropped; ends stripped.
    None (an empty cell, or a formula without a stored value) gives ''.
    """
    text = "" if value is None else str(value)
    if (
        text.isascii() and text.isprintable() and "_x" not in text
    ):  # most text by far: there is nothing to clean
        return text.strip()
    if "_x" in text:
        text = ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    return unicodedata.normalize("NFC", LINE_END.sub("\n", text.translate(CLEANING))).strip()


KEYING = {
    **CLEANING,
    **dict.fromkeys(map(ord, "\u200c\u200d\ufe0e\ufe0f")),
}  # keys drop joiners, emoji style
# Signs that carry meaning beside digits stay in a key: 5 %, -5, 3.2, 3:2. NFKC maps wide punctuation into this range.
SIGNS = "%‰-.,:/"
PUNCTUATION = {
    code: " "
    for code in range(0x3100)
    if unicodedata.category(chr(code))[0] == "P" and chr(code) not in SIGNS
}
IDLE_SIGN = re.compile(r"[-.,:/](?!\d)")
ASCII_KEYING = {  # KEYING, casefold and PUNCTUATION in one table
    code: PUNCTUATION.get(ord(kept.lower()), kept.lower())
    if (kept := KEYING.get(code, chr(code)))
    else None
    for code in range(128)
}


@functools.cache  # each key is needed four times, for duplicates, splits, ids and the last check
def normalise_key(text):
    """Return the key under which texts count as the same: case, spacing and punctuation aside; never empty for a text.

    Keeps what can change a meaning: accents, symbols, emoji, percent signs, and signs before a digit (-5, 3.2).
    """
    if text.isascii():
        plain = text.translate(ASCII_KEYING)
    else:
        plain = unicodedata.normalize(
            "NFKC", unicodedata.normalize("NFKC", text.translate(KEYING)).casefold()
        )
        plain = plain.translate(PUNCTUATION)
    words = IDLE_SIGN.sub(" ", plain).split()
    return " ".join(words) or text.casefold()
