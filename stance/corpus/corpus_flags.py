"""What a user says about an annotated corpus: flags that prepare_data.py and tools/study.py share.

No torch.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from stance.common import errors, flags, formatting
from stance.corpus import cleaning, labels, reading, tables

# Flags that add_corpus_flags adds, and those of reading.add_file_flags, by their names in args.
PASSED_ON = (
    "corpus",
    "columns",
    "topic",
    "labels",
    "id_column",
    "group_column",
    "annotator_columns",
    "annotator_column",
    "strict",
    "skip_bad",
    "sheet",
    "delimiter",
    "encoding",
)


class CorpusOptions(NamedTuple):
    """How an annotated corpus is read. Headers are cleaned; None: there is no such column."""

    how: reading.Reading = reading.Reading()
    columns: tuple[str, ...] | None = None  # of list_named; None: headers of COLUMN_NAMES
    topic: str | None = None  # of all rows; None: each row has its own
    stances: labels.Stances = labels.BUILT_IN  # what stances mean
    repairs: cleaning.Cleaning = cleaning.ALL_REPAIRS  # of topics and texts
    strict: bool = False  # rows with doubtful cells cannot be used either
    id_column: str | None = None  # names of the rows in their source
    group_column: str | None = None  # rows with one value there go to one split
    date_column: str | None = None
    split_column: str | None = None  # the split of each row, as published
    annotator_columns: tuple[str, ...] = ()  # a stance of each annotator
    annotator_column: str | None = None  # who annotated a row: several rows a sentence


def list_named(options: CorpusOptions) -> list[str]:
    """Return which columns --columns names: topic, text and stance, but those that flags replace."""
    named = ["topic", "text", "stance"]
    if options.topic is not None:
        named.remove("topic")
    if options.annotator_columns:
        named.remove("stance")
    return named


def add_corpus_flags(
    parser: argparse.ArgumentParser, corpus: str | Sequence[str], words: Sequence[str] = ()
) -> None:
    """Add the flags that say what a corpus is.

    corpus: the file or files that --corpus names by default; words: those of --labels by default.
    """
    parser.add_argument(
        "--corpus",
        nargs="+",
        default=[corpus] if isinstance(corpus, str) else list(corpus),
        help="annotated file, or several with the same columns (default: CORPUS)",
    )
    reading.add_file_flags(parser)
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="HEADER",
        help="headers of topic, text and stance, or their positions if there are no headers "
        "(default: those of stance/corpus/annotations.py)",
    )
    parser.add_argument("--topic", help="the claim, for a corpus about one topic without a column")
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL=STANCE,...",
        default=list(words),
        help="what stances mean: pro=1 con=-1 neu=0 drop=unrelated (default: built-in spellings)",
    )
    parser.add_argument("--id-column", help="names of the rows (default: file:row)")
    parser.add_argument(
        "--group-column", help="rows with one value there, as one author's, go to one split"
    )
    parser.add_argument(
        "--annotator-columns",
        nargs="+",
        metavar="HEADER",
        default=[],
        help="stances of several annotators, side by side: the majority counts",
    )
    parser.add_argument(
        "--annotator-column", help="who annotated a row, one below the other: the majority counts"
    )
    parser.add_argument(
        "--strict", action="store_true", help="doubtful cells and differing stances are errors"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave rows out that cannot be used, and list them"
    )


def take_options(
    args: argparse.Namespace, repairs: cleaning.Cleaning = cleaning.ALL_REPAIRS
) -> CorpusOptions:
    """Return what the flags of add_corpus_flags say; fail where they do not go together.

    args may also have date_column and split_column. repairs: of topics and texts.
    """
    options = CorpusOptions(
        how=reading.take_reading(args),
        topic=None if args.topic is None else cleaning.clean_text(args.topic, repairs),
        stances=labels.read_stances(args.labels),
        repairs=repairs,
        strict=args.strict,
        annotator_columns=tuple(map(cleaning.clean_text, args.annotator_columns)),
    )
    single = ("id_column", "group_column", "date_column", "split_column", "annotator_column")
    for name in single:
        header = getattr(args, name, None)
        if header is not None:
            options = options._replace(**{name: cleaning.clean_text(header)})
    if args.columns:
        options = options._replace(columns=tuple(map(cleaning.clean_text, args.columns)))
    check_corpus_options(options)
    return options


def check_corpus_options(options: CorpusOptions) -> None:
    """Fail if what a user says about a corpus cannot be."""
    if options.topic == "":
        errors.fail("--topic must not be empty")
    if options.annotator_columns and options.annotator_column:
        errors.fail("--annotator-columns and --annotator-column do not go together: leave one out")
    if len(options.annotator_columns) == 1:
        errors.fail("--annotator-columns names one column: give two at least")
    check_different("--annotator-columns", options.annotator_columns)
    if options.columns is not None:
        check_different("--columns", options.columns)
        named = list_named(options)
        if len(options.columns) != len(named):
            wanted = f"{len(named)} headers, of {', '.join(named)}"
            errors.fail(f"--columns names {len(options.columns)} headers: give {wanted}")


def check_different(flag: str, headers: Sequence[str]) -> None:
    """Fail if one of the headers that a flag names is empty or there twice."""
    folded = {tables.fold_header(header) for header in headers}
    if "" in folded or len(folded) < len(headers):
        given = " ".join(map(formatting.quote, headers))
        errors.fail(f"{flag} {given}: give different headers")


def list_corpus_words(args: argparse.Namespace) -> list[str]:
    """Return the words of a command line that say what the flags of add_corpus_flags say."""
    return flags.list_words(args, PASSED_ON)
