"""Texts cleaned of what Excel and web pages smuggle in, and keys by which they are compared.

No torch.
"""

import functools
import html
import html.entities
import re
import unicodedata
from typing import NamedTuple

# ---------------------------------------------------------------- settings
# Signs that carry meaning beside digits stay in a key: 5 %, -5, 3.2, 3:2. NFKC maps wide
# punctuation into this range.
SIGNS = "%‰-.,:/"

# What clean_text does to characters, for str.translate: None drops one. The joiners U+200C and
# U+200D stay: Persian and emoji need them. Where a code is listed twice, the later line counts.
CLEANING = {
    # Control characters, and halves of characters.
    **dict.fromkeys([*range(32), *range(0x7F, 0xA0), *range(0xD800, 0xE000)], None),
    # Soft hyphen, signs without width, byte order mark.
    **dict.fromkeys(map(ord, "\u00ad\u180e\u200b\u200e\u200f\u2060\ufeff"), None),
    # Marks of writing direction.
    **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], None),
    # Tab and odd spaces.
    **dict.fromkeys([9, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " "),
    # Odd line ends. Carriage returns are left to LINE_END.
    **dict.fromkeys(map(ord, "\n\v\f\x85\u2028\u2029"), "\n"),
    ord("\r"): "\r",
}
# --------------------------------------------------------------------------

FIRST_VERSION = "1"  # of reports and runs that name none
VERSION = 2  # of the cleaning: keys of sentences change with it; 1: C1 dropped, HTML left alone
# UTF-8 of one character, each byte read as a character of its own.
SPLIT_UTF8 = re.compile(
    "[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
C1 = re.compile("[\x80-\x9f]")  # control characters that nobody types: bytes of cp1252 misread
HTML_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});")

HALF_CHARACTER = re.compile("[\ud800-\udfff]")
LINE_END = re.compile(r"\r\n?")
# How Excel writes control characters, a carriage return as _x000D_.
ESCAPE = re.compile("_x00([01][0-9A-F]|7F)_")

# What posts carry around what is said: that it is passed on, to whom, and links.
RETWEET = re.compile(r"\A(?:\W*\bRT\b)+")
POST_MARKS = re.compile(r"(?<!\w)@\w+|\b(?:https?://|www\.)\S+|\bhttps?…")


# Keys drop joiners and the style of emoji as well.
KEYING = {**CLEANING, **dict.fromkeys(map(ord, "\u200c\u200d\ufe0e\ufe0f"), None)}
PUNCTUATION = {
    code: " "
    for code in range(0x3100)
    if unicodedata.category(chr(code)).startswith("P") and chr(code) not in SIGNS
}
IDLE_SIGN = re.compile(r"[-.,:/](?!\d)")  # one of SIGNS without a digit after it
# Casefold, KEYING and PUNCTUATION in one table. Only for texts of ASCII.
ASCII_KEYING = {**{code: chr(code).lower() for code in range(128)}, **KEYING, **PUNCTUATION}


class Cleaning(NamedTuple):
    """What is repaired in texts beyond what always is."""

    repair_c1: bool = True  # C1 characters become what Windows meant by them; False: dropped
    unescape_html: bool = True  # &gt; becomes >; False: entities stay


ALL_REPAIRS = Cleaning()


def describe_cleaning(cleaning: Cleaning) -> str:
    """Return the version of the cleaning as reports and run records hold it."""
    parts = [str(VERSION)]
    if not cleaning.repair_c1:
        parts.append("without C1")
    if not cleaning.unescape_html:
        parts.append("without HTML")
    return " ".join(parts)


def clean_text(value: object, cleaning: Cleaning = ALL_REPAIRS) -> str:
    """Return a cell or text without what Excel and web pages smuggle in.

    HTML entities and misread characters of Windows repaired; NFC; odd spaces to a space; odd line
    ends to a line feed; invisible and control characters dropped; ends stripped. Ordinary text
    stays as it is, to the byte. None (an empty cell, or a formula without a stored value) gives ''.
    """
    text = "" if value is None else str(value)
    # Most text by far: there is nothing to clean.
    if text.isascii() and text.isprintable() and "_x" not in text and "&" not in text:
        return text.strip()
    if "_x" in text:
        text = ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    if cleaning.unescape_html:
        text = unescape_html(text)
    if cleaning.repair_c1:
        text = C1.sub(repair_c1, SPLIT_UTF8.sub(join_utf8, text))
    text = LINE_END.sub("\n", text.translate(CLEANING))
    text = unicodedata.normalize("NFC", text).strip()
    # What was dropped may have stood inside an entity: cleaned texts are not changed again.
    if text != value and ("&" in text or "_x" in text):
        return clean_text(text, cleaning)
    return text


def unescape_html(text: str) -> str:
    """Return a text with its HTML entities as characters, also where they were escaped twice."""
    while "&" in text:
        plain = HTML_ENTITY.sub(unescape_entity, text)
        if plain == text:
            break
        text = plain
    return text


def unescape_entity(found: re.Match) -> str:
    """Return the characters of an HTML entity; one that does not exist as it is."""
    if found[0].startswith("&#"):
        return html.unescape(found[0])
    return html.entities.html5.get(found[0][1:], found[0])


def join_utf8(found: re.Match) -> str:
    """Return the character of UTF-8 bytes that were read one by one, if one of them is C1."""
    if not C1.search(found[0]):
        return found[0]
    return found[0].encode("latin-1").decode("utf-8", errors="replace").replace("\ufffd", found[0])


def repair_c1(found: re.Match) -> str:
    """Return the character that Windows means by the byte of a C1 character; '' for none."""
    return bytes([ord(found[0])]).decode("cp1252", errors="ignore")


def list_repairs(cell: object, cleaning: Cleaning) -> list[str]:
    """Return in words what clean_text repairs in a cell, beyond what it always does."""
    repairs = []
    if not isinstance(cell, str):
        return repairs
    if cleaning.repair_c1 and not cell.isascii() and C1.search(cell):
        repairs.append("C1 characters, read as Windows meant them")
    if cleaning.unescape_html and "&" in cell and unescape_html(cell) != cell:
        repairs.append("HTML entities, as &gt; for >, unescaped")
    return repairs


@functools.cache  # each key is needed four times, for duplicates, splits, ids and the last check
def normalise_key(text: str) -> str:
    """Return the key under which texts count as the same: case, spacing and punctuation aside.

    Keeps what can change a meaning: accents, symbols, emoji, percent signs, and signs before a
    digit (-5, 3.2). Never empty for a text.
    """
    if text.isascii():
        plain = text.translate(ASCII_KEYING)
    else:
        folded = unicodedata.normalize("NFKC", text.translate(KEYING)).casefold()
        # Folding the case may undo NFKC, so it is done twice.
        plain = unicodedata.normalize("NFKC", folded).translate(PUNCTUATION)
    words = IDLE_SIGN.sub(" ", plain).split()
    return " ".join(words) or text.casefold()


def may_have_marks(text: str) -> bool:
    """Return whether a text may hold marks of posts that its key holds too; # is in no key."""
    # Four tests are faster than a loop, and this is asked of each sentence.
    return "@" in text or "http" in text or "www." in text or "RT" in text


def normalise_post_key(text: str) -> str:
    """Return the key under which posts count as the same: a leading RT, @names, links and hashtag
    marks aside.

    Of a text that is nothing else, the key of normalise_key; so it is of most texts anyway.
    """
    if not may_have_marks(text):
        return normalise_key(text)
    bare = POST_MARKS.sub(" ", RETWEET.sub(" ", POST_MARKS.sub(" ", text)))
    if not any(map(str.isalnum, bare)):
        return normalise_key(text)
    return normalise_key(bare)
