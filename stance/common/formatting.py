"""Texts and lists in messages: quoted, cut, counted; tables for the screen, in Markdown and in LaTeX."""

import json
import re

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


def align_columns(rows):
    """Return "l" or "r" for each column of a table: numbers, but in the first column, go to the right."""
    columns = list(zip(*rows, strict=True))
    return [
        "r" if i and all(cell[:1] in "+-[0123456789" for cell in cells) else "l"
        for i, cells in enumerate(columns)
    ]


def format_table(header, rows):
    """Return a fixed-width table, aligned as align_columns says."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    sides = align_columns(rows or [header])

    def align(row):
        cells = zip(row, widths, sides, strict=True)
        return "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width) for cell, width, side in cells
        )

    return "\n".join([align(header), "-" * (sum(widths) + 2 * len(widths) - 2), *map(align, rows)])


LATEX_SIGNS = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX_SIGNS |= {sign: "\\" + sign for sign in "&%$#_{}"}
LATEX_SIGNS |= {
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # others in LaTeX's usual fonts


def format_markdown(header, rows):
    """Return a Markdown table of at least one row, numbers to the right."""
    sides = ["---:" if side == "r" else "---" for side in align_columns(rows)]
    lines = [header, sides, *rows]
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def format_latex(header, rows, caption, label):
    """Return a LaTeX table of at least one row for the package booktabs."""

    def escape(text):
        text = re.sub(
            r"[\\~^&%$#_{}<>|]", lambda found: LATEX_SIGNS[found[0]], " ".join(text.split())
        )
        return re.sub(r"(?<!\w)-(?=\d)", "$-$", text)  # a minus, where LaTeX would set a hyphen

    def line(cells):
        text = " & ".join(map(escape, cells)) + r" \\"
        return (
            "{}" + text if text.startswith("[") else text
        )  # else an option of the line break before it

    sides = "".join(align_columns(rows))
    return "\n".join([
        r"\begin{table}[t]", r"\centering\small", rf"\begin{{tabular}}{{{sides}}}", r"\toprule",
        line(header), r"\midrule", *map(line, rows), r"\bottomrule", r"\end{tabular}",
        rf"\caption{{{escape(caption)}}}", rf"\label{{{label}}}", r"\end{table}", "",
    ])  # fmt: skip
