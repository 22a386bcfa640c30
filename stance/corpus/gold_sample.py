"""A gold sample: sentences of a labelled table that people annotated, and how they were drawn.

No torch. Annotations are read as those of a corpus are, with the same spellings and errors. A
user's mistake in a file ends in one line through errors.fail.
"""

import contextlib
import math
import re
from pathlib import Path
from typing import NamedTuple, NoReturn

import prompts
from stance.common import errors, formatting
from stance.common.types import AnnotatedRow
from stance.corpus import annotations, cleaning, corpus_flags, labelled, tables, voting

# Columns that tools.sample writes beside topic, text and stance.
INCLUSION_COLUMN = "inclusion_probability"
STRATUM_COLUMN = "stratum"
STRATUM_SIZE_COLUMN = "stratum_sentences"  # different sentences that the stratum has in the table
DESIGN_COLUMNS = (INCLUSION_COLUMN, STRATUM_COLUMN, STRATUM_SIZE_COLUMN)
TRAINING_COLUMN = "drawn_for"  # instead of these in a draw of sentences that teach most
RENAME_GOLD = "name the stances of annotators with --annotator-columns"
SKIP_EMPTY = "fill it, or leave such rows out with --skip-bad"


class GoldRow(NamedTuple):
    """A sentence with its gold label."""

    position: int  # of its pair in the labelled table
    label: int  # index in prompts.LABELS
    probability: float  # of inclusion
    stratum: str
    size: float  # sentences of the stratum; NaN where they are not known
    row: int | str  # in the gold file, as Excel shows it


class Design(NamedTuple):
    """How a row was drawn."""

    probability: float
    stratum: str
    size: float


def read_gold_rows(
    path: str | Path,
    options: corpus_flags.CorpusOptions,
    table: labelled.LabelledTable,
    skip_bad: bool = False,
) -> list[GoldRow]:
    """Return the gold rows of a file, each sentence once, in the order of the file.

    skip_bad: rows without a stance, or that cannot be used, are left out. Fails on rows that are not
    in the table, sentences with several stances, and draws from another table. Without
    INCLUSION_COLUMN all sentences count as drawn with one probability, which a note says.
    """
    check_origin(open_gold(path, options))
    scan = annotations.scan_corpus(path, options)
    findings = [
        finding._replace(hint=SKIP_EMPTY) if finding.hint == annotations.FILL else finding
        for finding in scan.findings
    ]
    annotations.check_scans([scan._replace(findings=findings)], skip_bad)
    location = scan.table.location
    decided = voting.decide_rows(scan.rows, options)
    check_decided(location, decided)
    if not decided.rows:
        errors.fail(f"{location}: no row has a stance: annotate the sample first")
    designs = read_designs(path, options)
    gold = []
    strange = []
    for row in decided.rows:
        position = table.position_of_key.get(labelled.make_pair_key(row["topic"], row["text"]))
        if position is None:
            strange.append(row)
            continue
        design = Design(math.nan, "", math.nan) if designs is None else designs[row["row"]]
        label = prompts.LABELS.index(row["label"])
        gold.append(GoldRow(position, label, *design, row["row"]))
    check_strange(location, strange, table)
    sentences = len(table.pairs)
    if designs is None:
        what = f"has no column {INCLUSION_COLUMN}: its {len(gold):,} sentences count as drawn"
        print(f"note: {location} {what} at random from all {sentences:,}, or no estimate holds")
        share = len(gold) / sentences
        return [row._replace(probability=share, size=sentences) for row in gold]
    return finish_designs(location, gold, sentences)


def open_gold(path: str | Path, options: corpus_flags.CorpusOptions) -> tables.Table:
    """Return the table of a gold file; fail without its headers. Notes come when it is scanned."""
    needed = annotations.list_needed(options)
    how = options.how._replace(collects_long=True)
    with contextlib.redirect_stdout(None):
        return tables.open_table(path, needed, how, rename=RENAME_GOLD, flags={})


def check_origin(table: tables.Table) -> None:
    """Fail if the stances of a file are a model's, or its sentences no random sample."""
    folded = [tables.fold_header(name) for name in table.header]
    if TRAINING_COLUMN in folded:
        what = "was drawn --for training: its sentences are the hard ones, and no random sample"
        errors.fail(f"{table.location} {what}: draw another with tools.sample")
    stance = table.columns.get("stance")
    is_added = stance is not None and folded[stance] == labelled.ADDED_STANCE
    probability = labelled.PROBABILITY_COLUMNS[0]
    labellings = count_added(folded, probability)
    # predict.py adds both columns each time; a stance more is that of people.
    if is_added and labellings and count_added(folded, labelled.ADDED_STANCE) <= labellings:
        names = ", ".join(labelled.PROBABILITY_COLUMNS)
        what = f"has the columns {names} of predict.py: its stances are the model's"
        errors.fail(f"{table.location} {what}: give sentences that people annotated")


def count_added(folded: list[str], column: str) -> int:
    """Return how many headers are a column of predict.py, or what it is called if that is taken."""
    pattern = re.compile(rf"({labelled.PREDICTED})?{column}(_\d+)?")
    return sum(pattern.fullmatch(name) is not None for name in folded)


def check_decided(location: str, decided: voting.duplicates.Decided) -> None:
    """Fail if a sentence has several stances, or annotators no majority: both are the doubtful
    sentences, without which the others are no sample."""
    if decided.conflicts:
        rows = [found["row"] for pair in decided.conflicts for found in pair["rows"]]
        what = f"sentences that are annotated several times with different stances in {formatting.count_rows(rows)}"
        hint = "decide, and keep one row of each, or name the annotators with --annotator-column"
        errors.fail(f"{location}: {what}: {hint}")
    if decided.votes and decided.votes.ties:
        rows = list(
            dict.fromkeys(vote["row"] for pair in decided.votes.ties for vote in pair["votes"])
        )
        what = f"sentences without a majority of the annotators in {formatting.count_rows(rows)}"
        hint = "decide them in the file: without these hard sentences the shares are off"
        errors.fail(f"{location}: {what}: {hint}")


def check_strange(
    location: str, strange: list[AnnotatedRow], table: labelled.LabelledTable
) -> None:
    """Fail if there are gold rows whose topic and sentence are not in the labelled table."""
    if not strange:
        return
    rows = formatting.count_rows([row["row"] for row in strange])
    first = strange[0]
    texts = {text for _, text in table.position_of_key}
    lacking = "sentence"
    if cleaning.normalise_key(first["text"]) in texts:
        lacking = "topic of the sentence"
    what = f"{lacking} {formatting.quote(first['text'])} is not in {table.location}"
    hint = "give the table that the sample was drawn from, or delete these rows"
    errors.fail(f"{location}, {rows}: {what}: {hint}")


def read_designs(path: str | Path, options: corpus_flags.CorpusOptions) -> dict[int, Design] | None:
    """Return {row number: Design} of a file; None if it has no column of probabilities."""
    table = open_gold(path, options)
    index_of = {tables.fold_header(name): index for index, name in enumerate(table.header)}
    if INCLUSION_COLUMN not in index_of:
        return None
    designs = {}
    for number, cells in table.rows:
        found = {name: cells[index_of[name]] for name in DESIGN_COLUMNS if name in index_of}
        if not any(map(cleaning.clean_text, cells)):
            continue
        probability = read_design_number(found[INCLUSION_COLUMN])
        where = f"{table.location}, row {number}"
        if not 0 < probability <= 1:
            hint = "leave these columns as tools.sample wrote them"
            errors.fail(f"{where}: {INCLUSION_COLUMN} is no number above 0, up to 1: {hint}")
        stratum = annotations.name_id(found.get(STRATUM_COLUMN))
        designs[number] = Design(
            probability, stratum, read_design_number(found.get(STRATUM_SIZE_COLUMN))
        )
    return designs


def read_design_number(cell: object) -> float:
    """Return the number of a cell; NaN if it holds none."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def finish_designs(location: str, gold: list[GoldRow], sentences: int) -> list[GoldRow]:
    """Return gold rows whose design fits a table of so many sentences; fail if it does not.

    Notes how many drawn sentences have no stance.
    """
    sizes = {row.stratum: row.size for row in gold}
    if any(math.isnan(size) for size in sizes.values()):
        return gold
    if any(row.size != sizes[row.stratum] for row in gold):
        fail_on_design(location, f"one stratum has several {STRATUM_SIZE_COLUMN}")
    total = sum(sizes.values())
    if total > sentences:
        what = f"was drawn from {total:,.0f} sentences, the labelled table has {sentences:,}"
        fail_on_design(location, what)
    if total < sentences:
        what = f"its rows stand for {total:,.0f} of the {sentences:,} sentences of the table"
        errors.fail(f"{location}: {what}: annotate rows of every stratum that was drawn")
    drawn = sum(size * find_probability(gold, stratum) for stratum, size in sizes.items())
    missing = round(drawn) - len(gold)
    if missing > 0:
        what = f"{missing:,} of {round(drawn):,} drawn sentences have no stance"
        print(
            f"note: {location}: {what}: the others count for them, as if chance had left them out"
        )
    return gold


def find_probability(gold: list[GoldRow], stratum: str) -> float:
    """Return the inclusion probability of the first row of a stratum."""
    return next(row.probability for row in gold if row.stratum == stratum)


def fail_on_design(location: str, what: str) -> NoReturn:
    """Fail because the columns of a design do not fit."""
    hint = "give the sample and the table that it was drawn from, as they were written"
    errors.fail(f"{location}: {what}: {hint}")
