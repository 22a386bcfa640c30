"""Exports of survey and annotation tools recognised, and columns proposed for unknown headers.

No torch.
"""

import itertools
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

# ---------------------------------------------------------------- settings
# Words of headers that probably name a column, the likelier ones first. Only for proposals.
PLAUSIBLE_WORDS = {
    "topic": ("topic", "claim", "target", "hypothesis", "issue", "motion", "proposition",
              "thesis", "question", "statement", "query", "subject", "entity"),
    "text": ("text", "sentence", "segment", "comment", "tweet", "argument", "post", "content",
             "body", "document", "response", "answer", "reply", "premise", "headline"),
    "stance": ("stance", "label", "labels", "gold", "annotation", "code", "class", "polarity",
               "position", "choice", "sentiment", "category"),
}  # fmt: skip
# --------------------------------------------------------------------------

IMPORT_ID = '{"ImportId"'  # how each cell of the third row of a Qualtrics export begins
# Headers of MAXQDA's tables of coded segments, by the language of its menus.
MAXQDA_HEADERS = ({"document name", "code", "segment"}, {"dokumentname", "code", "segment"})
INCEPTION_HINT = (
    "write topic, sentence and stance of each annotation into a table, a row a sentence"
)
MAXQDA_COMMENTS = ("comment", "kommentar")  # of the coders, beside the segments
# Of a script's flags for columns, in the order in which they are proposed.
COLUMN_FLAGS = {"topic": "--columns", "text": "--columns", "stance": "--columns"}
TOPIC_PROPOSAL = "--topic 'THE CLAIM'"


def split_question_rows(lines: Iterator[tuple[int, list]]) -> tuple[list[int], Iterator]:
    """Take the question texts and ids that Qualtrics writes below the headers out of lines.

    lines: (row number, cells) below the header. Returns (numbers of the rows that were taken out,
    the other lines); no numbers if the file is no such export.
    """
    first = list(itertools.islice(lines, 2))
    if len(first) == 2 and is_import_row(first[1][1]):
        return [number for number, _ in first], lines
    return [], itertools.chain(first, lines)


def is_import_row(cells: list) -> bool:
    """Return whether all cells that hold something are ids of Qualtrics."""
    filled = [cell for cell in cells if cell not in (None, "")]
    return bool(filled) and all(
        isinstance(cell, str) and cell.lstrip().startswith(IMPORT_ID) for cell in filled
    )


def is_maxqda(folded_header: Sequence[str]) -> bool:
    """Return whether headers are those of coded segments of MAXQDA."""
    return any(names <= set(folded_header) for names in MAXQDA_HEADERS)


def drop_comments(
    matches: Mapping[str, list[int]],
    folded_header: Sequence[str],
    needed: Mapping[str, Sequence[str]],
) -> dict[str, list[int]]:
    """Return which headers fit the needed columns of an export of MAXQDA: the comments, which are
    the coders', are no texts unless the user names them.

    matches: {needed column: indices of all headers that fit}; needed: {column: headers accepted}.
    """
    kept = dict(matches)
    if len(needed.get("text", ())) > 1:
        kept["text"] = [i for i in matches["text"] if folded_header[i] not in MAXQDA_COMMENTS]
    return kept


def propose_columns(
    header: Sequence[str],
    matches: Mapping[str, Sequence[int]],
    flags: Mapping[str, str],
    fold: Callable[[str], str],
) -> str | None:
    """Return the flags that read a table whose headers are not known; None if there is no idea.

    matches: {needed column: indices of the headers that fit it}. flags: {column: the flag that
    names its header}. fold: how headers are compared. A topic that no column holds is to be given
    by --topic.
    """
    chosen = {}  # column: header
    for column, indices in matches.items():
        if indices:
            chosen[column] = header[indices[0]]
        elif column not in flags:
            return None
    for column in flags:
        if column in matches and column not in chosen:
            found = find_plausible(header, PLAUSIBLE_WORDS[column], list(chosen.values()), fold)
            if found is not None:
                chosen[column] = found
    lacking = [column for column in matches if column not in chosen]
    if lacking not in ([], ["topic"]):
        return None
    words = [TOPIC_PROPOSAL] if lacking else []
    named = None  # the flag that was written last
    for column, flag in flags.items():
        if column in chosen:
            if flag != named:
                words.append(flag)
                named = flag
            words.append(shlex.quote(" ".join(chosen[column].split())))
    return " ".join(words)


def find_plausible(
    header: Sequence[str], words: Sequence[str], taken: Sequence[str], fold: Callable[[str], str]
) -> str | None:
    """Return the header that most probably names a column, by the words for it; None if none does.

    taken: headers that are another column already.
    """
    for word in words:
        for name in header:  # the word alone is likelier than among others
            if fold(name) == word and name not in taken:
                return name
        for name in header:
            if word in re.split(r"[\W_]+", fold(name)) and name not in taken:
                return name
    return None
