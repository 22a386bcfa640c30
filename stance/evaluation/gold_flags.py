"""What a user says about a labelled table and its gold sample: flags of tools/shares.py and tools/regression.py."""

import argparse
from collections.abc import Sequence

from stance.common import errors, formatting
from stance.corpus import cleaning, corpus_flags, gold_sample, labelled, labels
from stance.model import fingerprints


def add_gold_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which table was labelled, and how its gold sample is read."""
    parser.add_argument("--labelled", required=True, help="table that predict.py wrote")
    parser.add_argument("--gold", help="annotated sentences of it, as tools.sample draws them")
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL=STANCE,...",
        default=[],
        help="what stances of --gold mean: pro=1 con=-1 (default: built-in spellings)",
    )
    parser.add_argument(
        "--annotator-columns",
        nargs="+",
        metavar="HEADER",
        default=[],
        help="stances of several annotators in --gold, side by side: the majority counts",
    )
    parser.add_argument(
        "--annotator-column", help="who annotated a row of --gold, one below the other"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave rows of --gold without a stance out"
    )
    parser.add_argument("--text-column", help="header of the sentences (default: text, ...)")
    parser.add_argument("--topic-column", help="header of the topics (default: topic, ...)")
    parser.add_argument(
        "--adapter", help="folder of the adapter: fail if it was trained on a gold sentence"
    )


def check_gold_words(args: argparse.Namespace) -> None:
    """Fail if flags about the gold sample are given without it."""
    given = (args.labels, args.annotator_columns, args.annotator_column, args.adapter)
    if args.gold is None and (any(given) or args.skip_bad):
        errors.fail("--labels, --annotator-..., --skip-bad and --adapter go with --gold")


def read_flagged(
    args: argparse.Namespace, columns: Sequence[str]
) -> tuple[labelled.LabelledTable, list[gold_sample.GoldRow] | None]:
    """Return the table and the gold rows that flags name; None without --gold.

    columns: of the table, that are read too.
    """
    table = labelled.read_labelled(args.labelled, columns, args.text_column, args.topic_column)
    if args.gold is None:
        return table, None
    options = corpus_flags.CorpusOptions(
        stances=labels.read_stances(args.labels),
        annotator_columns=tuple(map(cleaning.clean_text, args.annotator_columns)),
        annotator_column=cleaning.clean_text(args.annotator_column) or None,
    )
    corpus_flags.check_corpus_options(options)
    gold = gold_sample.read_gold_rows(args.gold, options, table, args.skip_bad)
    if args.adapter:
        check_untrained(args.adapter, table, gold, args.gold)
    return table, gold


def check_untrained(
    adapter: str,
    table: labelled.LabelledTable,
    gold: Sequence[gold_sample.GoldRow],
    path: str,
) -> None:
    """Fail if an adapter was trained on a gold sentence, where it errs less than elsewhere.

    path: of the gold sample.
    """
    trained = fingerprints.read_hashes(adapter)
    if trained is None:
        errors.fail(f"{adapter} does not say what it was trained on: leave out --adapter")
    rows = [
        row.row for row in gold if fingerprints.hash_text(table.pairs[row.position][1]) in trained
    ]
    if rows:
        what = f"{adapter} was trained on sentences in {formatting.count_rows(rows)}"
        errors.fail(f"{path}: {what}: draw a sample of others, these make it look too good")
