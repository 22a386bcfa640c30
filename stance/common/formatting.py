"""Texts and lists in messages: quoted, cut, counted; tables for the screen, in Markdown and in
LaTeX."""

import json
import re
from collections.abc import Mapping, Sequence

from stance.common import text_width

# ---------------------------------------------------------------- settings
SHOWN = 10  # rows or spellings that a message lists before it only counts them
SHOWN_TOPICS = 20  # in a table or picture; the others are one line or bar
SHOWN_LENGTH = 60  # columns of a topic or sentence in messages and in tables on the screen
# --------------------------------------------------------------------------

# What a terminal would obey or hide, and text from files may hold: control characters, halves of
# characters, marks of writing direction.
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
LINE_BREAK = re.compile("\\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\\s*")
COLOR = re.compile("(\033\\[[0-9]{1,2}m)")  # of stance/labelling/terminal.py
MARKUP = re.compile(
    r"([\\`*|~$]|(?<!\w)_|_(?!\w)|(?<=\])[(\[:])"
)  # a bracket alone, as of an interval, is none
LINE_START = re.compile(r"^(\d*)(#|[-+=](?=[-=\s])|[.)](?=\s))")  # a heading, a rule or a list
# HTML, and what GitHub makes a link of by itself.
HTML_SIGNS = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "://": "&#58;//", "www.": "www&#46;", "@": "&#64;"}  # fmt: skip
LATEX_SIGNS = {sign: "\\" + sign for sign in "&%$#_{}"}
LATEX_SIGNS |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
# Without these commands, LaTeX's usual fonts print other signs.
LATEX_SIGNS |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}


def list_first(items: Sequence) -> str:
    """Return the first SHOWN items as text, and how many more there are."""
    shown = ", ".join(map(str, items[:SHOWN]))
    if len(items) > SHOWN:
        return f"{shown} and {len(items) - SHOWN} more"
    return shown


def count_rows(numbers: Sequence[int]) -> str:
    """Return row numbers (one at least) as text: their count and the first of them."""
    if len(numbers) == 1:
        return f"row {numbers[0]}"
    return f"{len(numbers)} rows ({list_first(numbers)})"


def choose_largest(
    sizes: Mapping[str, int], shown: int = SHOWN_TOPICS
) -> tuple[list[str], list[str]]:
    """Return (names that a table or picture shows, the others); sizes: {name: rows}.

    All names in their order if they are no more than shown; else the largest, by rows and then by
    name.
    """
    if len(sizes) <= shown:
        return list(sizes), []
    by_size = sorted(sizes, key=lambda name: (-sizes[name], name))
    return by_size[:shown], by_size[shown:]


def name_others(count: int) -> str:
    """Return what a table or picture calls the topics that it does not name."""
    return f"{count:,} other topic{'s' if count > 1 else ''}"


def cut(text: str) -> str:
    """Return a text, or the start of one that is longer than SHOWN_LENGTH."""
    return text_width.cut_text(text, SHOWN_LENGTH)


def escape_controls(text: str) -> str:
    """Return a text with its control characters spelled out, as \\x1b; line feeds stay."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def escape_beside_colors(text: str) -> str:
    """Return a text with its control characters spelled out, but for changes of colour."""
    if not CONTROL.search(text):
        return text
    parts = COLOR.split(text)
    return "".join(part if COLOR.fullmatch(part) else escape_controls(part) for part in parts)


def join_lines(text: str) -> str:
    """Return a text on one line, a blank for each line break, without control characters."""
    return escape_controls(LINE_BREAK.sub(" ", text))


def escape_markup(text: str) -> str:
    """Return a text on one line in which Markdown and HTML mean nothing: as it stands."""
    for sign, inert in HTML_SIGNS.items():
        text = text.replace(sign, inert)
    return LINE_START.sub(r"\1\\\2", MARKUP.sub(r"\\\1", join_lines(text)))


def format_code(text: object) -> str:
    """Return a text as code in Markdown, in which nothing means anything."""
    return f"`{join_lines(str(text)).replace('`', chr(39))}`"


def quote(text: str) -> str:
    """Return a text in quotation marks, cut and on one line, for a message."""
    return escape_controls(json.dumps(cut(text), ensure_ascii=False))


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return "l" or "r" for each column of a table: numbers, but in the first column, go to the
    right."""
    sides = []
    for index, cells in enumerate(zip(*rows, strict=True)):
        # The start of a number or an interval; an empty cell is no reason against numbers.
        numeric = all(cell[:1] in "+-[0123456789" for cell in cells)
        sides.append("r" if index > 0 and numeric else "l")
    return sides


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a fixed-width table, aligned as align_columns says; without rows, its header."""
    header = list(map(join_lines, header))
    rows = [list(map(join_lines, cells)) for cells in rows]
    columns = zip(header, *rows, strict=True)
    widths = [max(map(text_width.measure_width, cells)) for cells in columns]
    sides = align_columns(rows or [header])
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    lines = [_pad_cells(header, widths, sides), rule]
    for row in rows:
        lines.append(_pad_cells(row, widths, sides))
    return "\n".join(lines)


def format_blocks(
    header: Sequence[str], blocks: Sequence[tuple[str, Sequence[Sequence[str]]]]
) -> str:
    """Return a fixed-width table whose rows stand in blocks, each under a line with its title.

    blocks: (title, rows), at least one row in all. For titles that would make a column too wide.
    """
    rows = [cells for _, own in blocks for cells in own]
    head, rule, *lines = format_table(header, rows).split("\n")
    parts = [head, rule]
    for title, own in blocks:
        parts += [cut(join_lines(title)), *lines[: len(own)]]
        lines = lines[len(own) :]
    return "\n".join(parts)


def _pad_cells(row: Sequence[str], widths: list[int], sides: list[str]) -> str:
    padded = []
    for cell, width, side in zip(row, widths, sides, strict=True):
        gap = " " * (width - text_width.measure_width(cell))
        padded.append(gap + cell if side == "r" else cell + gap)
    return "  ".join(padded)


def format_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of at least one row, numbers to the right; cells mean what they say."""
    sides = ["---:" if side == "r" else "---" for side in align_columns(rows)]
    lines = []
    for row in [header, sides, *rows]:
        cells = row if row is sides else map(escape_markup, row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def format_latex(
    header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str
) -> str:
    """Return a LaTeX table of at least one row for the package booktabs."""
    sides = "".join(align_columns(rows))
    return "\n".join([
        r"\begin{table}[t]", r"\centering\small", rf"\begin{{tabular}}{{{sides}}}", r"\toprule",
        _format_latex_row(header), r"\midrule", *map(_format_latex_row, rows), r"\bottomrule",
        r"\end{tabular}", rf"\caption{{{_escape_latex(caption)}}}", rf"\label{{{label}}}",
        r"\end{table}", "",
    ])  # fmt: skip


def _format_latex_row(cells: Sequence[str]) -> str:
    text = " & ".join(map(_escape_latex, cells)) + r" \\"
    if text.startswith("["):  # LaTeX would read an option of the line break before it
        return "{}" + text
    return text


def _escape_latex(text: str) -> str:
    text = escape_controls(" ".join(text.split()))
    text = re.sub(r"[\\~^&%$#_{}<>|]", lambda found: LATEX_SIGNS[found[0]], text)
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", text)  # a minus, where LaTeX would set a hyphen
