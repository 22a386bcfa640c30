"""Label a table: it is read once to check it and gather its pairs, and once to write the output."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, NoReturn

import prompts
from stance.common import distributed, errors, formatting
from stance.corpus import annotations, cleaning, reading, tables
from stance.evaluation import figures
from stance.labelling import labeller, terminal
from stance.model import chat, loading, scoring

if TYPE_CHECKING:
    import transformers

TABLE_DIGITS = 4  # of the probabilities in a table
GIVEN_TOPIC = "topic"  # column of topics that flags give
OTHER_GIVEN_TOPIC = "given_topic"  # the same, if the table has a column of the first name
ADDED_COLUMNS = ("stance", *(f"p_{label}" for label in prompts.LABELS), "confidence", "review")
# column: {value: colour of its cells in Excel}: blue, orange, grey
SHADES = {"stance": {"pro": "BDD7EE", "con": "F8CBAD", "neu": "E7E6E6"}}


class Source(NamedTuple):
    """What to label, and where its sentences and topics stand."""

    path: str  # of the table; - for the lines of stdin
    text_column: str | None  # header of the sentences; None: any of annotations.COLUMN_NAMES
    topic_column: str | None  # header of the topics; None: any of annotations.COLUMN_NAMES
    how: reading.Reading  # what the user says about the file
    topics: list[str] | None  # cleaned topics for every sentence; None: each row has its own
    repairs: cleaning.Cleaning = cleaning.ALL_REPAIRS  # of sentences and topics
    stdin: BinaryIO | None = None  # what tables.keep_stdin kept of stdin


def label_table(
    source: Source,
    output: str,
    adapter: str,
    base: str,
    tokenizer: "transformers.PreTrainedTokenizerBase",
    load_scorer: Callable[[int], labeller.Scorer],
    resume: bool,
    review_below: float,
    summary_topics: int,
) -> None:
    """Label a table and sum it up; of several processes, the first alone writes.

    output: path of the labelled table. adapter: its folder; base: hub name or folder.
    load_scorer(rows): loads the model for so many rows. resume: go on from the part files of an
    interrupted run. review_below: confidence below which a person should look at a row.
    summary_topics: topics that the summary shows one by one.
    """
    is_first_rank = distributed.get_rank()[0] == 0
    with distributed.first_rank_first():
        if source.path == "-":
            source = source._replace(stdin=tables.keep_stdin())
        table = open_source(source)
        header = name_columns(table, output)
        note_unused_topics(source, table, header)
        store = labeller.PairStore(check_table_rows(table, source, output))
        if is_first_rank:
            chat.report_long(tokenizer, store.read_pairs())
    if is_first_rank and not resume:
        labeller.remove_parts(output)
    distributed.wait_for_ranks()
    dependencies = labeller.list_dependencies(adapter, base, store)
    dependencies["cleaning"] = cleaning.describe_cleaning(source.repairs)
    labeller.label_pairs(store, output, dependencies, lambda: load_scorer(store.size))
    if is_first_rank:
        counts = write_labelled(source, output, header, store, review_below)
        labeller.remove_parts(output)
        note = loading.read_demo_note(base)
        report_labelled(counts, store, output, note, review_below, summary_topics)


def open_source(source: Source) -> tables.Table:
    """Open the table to label, at its start: it is read twice."""
    if source.stdin is not None:
        return tables.open_lines(source.stdin)
    headers = {"topic": source.topic_column, "text": source.text_column}
    if source.topics:
        del headers["topic"]
    accepted = {}
    for column, header in headers.items():
        if header:
            accepted[column] = (cleaning.clean_text(header),)
        else:
            accepted[column] = annotations.COLUMN_NAMES[column]
    choose = "name one with --sheet"
    rename = "name those of the file: --text-column and --topic-column"
    table = tables.open_table(source.path, accepted, source.how, choose, rename)
    return drop_unnamed(table)


def drop_unnamed(table: tables.Table) -> tables.Table:
    """Return a table without the columns that have no header; once read, note what they held."""
    named = [index for index, name in enumerate(table.header) if name]
    if len(named) == len(table.header):
        return table
    header = [table.header[index] for index in named]
    columns = {column: named.index(index) for column, index in table.columns.items()}
    return table._replace(header=header, columns=columns, rows=_keep_cells(table, named))


def _keep_cells(table, named):
    """Yield the rows of a table with the cells of its named columns alone."""
    filled = 0
    for number, cells in table.rows:
        kept = [cells[index] for index in named]
        held = sum(bool(cleaning.clean_text(cell)) for cell in cells)
        filled += held > sum(bool(cleaning.clean_text(cell)) for cell in kept)
        yield number, kept
    if filled:
        what = "columns without a header are left out"
        print(f"note: {table.location}: {what}, also where they hold something ({filled:,} rows)")


def name_columns(table: tables.Table, output: str) -> list[str]:
    """Return the header of the output.

    Fails if the table has a column that is added, or cannot be written to output.
    """
    known = {name.casefold() for name in table.header}
    added = list(ADDED_COLUMNS)
    if "topic" not in table.columns:
        added.insert(0, OTHER_GIVEN_TOPIC if GIVEN_TOPIC in known else GIVEN_TOPIC)
    taken = [name for name in table.header if name.casefold() in added]
    if taken:
        errors.fail(
            f"{table.location} already has the column {taken[0]}, which predict.py adds: rename it"
        )
    header = [*table.header, *added]
    tables.check_output(output, header)
    return header


def note_unused_topics(source: Source, table: tables.Table, header: list[str]) -> None:
    """Print a note if topics that flags give are used instead of a column of topics.

    header: of the output, as name_columns returned it.
    """
    if "topic" in table.columns:
        return
    accepted = annotations.COLUMN_NAMES["topic"]
    if source.topic_column:
        accepted = (source.topic_column.casefold(),)
    for name in table.header:
        if name.casefold() in accepted:
            column = f"the column {formatting.quote(name)} of {table.location}"
            given = header[len(table.header)]  # the first that is added
            instead = f"stances are towards the topic in the column {given} of the output"
            print(f"note: {column} is not used: {instead}")
            return


def check_table_rows(table: tables.Table, source: Source, output: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs (topic, sentence) of all rows; fail after the last if any cannot be labelled.

    Fails at once on a row that output cannot hold. Prints notes on what was repaired.
    """
    count = 0  # pairs
    empty = []  # row numbers
    broken = []  # row numbers
    repaired = Counter()
    for number, cells, pairs in labeller.read_rows(table, source.topics, source.repairs):
        values = set()
        for pair in pairs:
            values.update(pair)
        read_cells = [cells[index] for index in table.columns.values()]
        if "" in values:
            empty.append(number)
        elif any(annotations.find_error(cleaning.clean_text(cell), cell) for cell in read_cells):
            broken.append(number)
        for cell in read_cells:
            repaired.update(cleaning.list_repairs(cell, source.repairs))
        tables.check_fit(output, table.location, number, table.header, cells)
        count += len(pairs)
        yield from pairs
    faults = []
    if empty:
        faults.append(f"empty {' or '.join(table.columns)} in {formatting.count_rows(empty)}")
    if broken:
        faults.append(f"an error such as #N/A instead of a text in {formatting.count_rows(broken)}")
    if faults:
        errors.fail(f"{table.location}: {'; '.join(faults)}: fill or delete them")
    if not count:
        errors.fail(f"{table.location}: no rows to label: fill in the table")
    annotations.note_repairs(table.location, repaired)
    tables.check_length(output, count)


def write_labelled(
    source: Source, output: str, header: list[str], store: labeller.PairStore, review_below: float
) -> dict[str, terminal.TopicCounts]:
    """Write the output; return the counts of each topic."""
    counts = defaultdict(terminal.TopicCounts)
    # Notes about the table were printed when it was read first.
    with contextlib.redirect_stdout(None):
        rows = label_rows(open_source(source), source, store, review_below, counts)
        tables.write_table(output, header, rows, SHADES)
    return counts


def label_rows(
    table: tables.Table,
    source: Source,
    store: labeller.PairStore,
    review_below: float,
    counts: dict[str, terminal.TopicCounts],
) -> Iterator[list]:
    """Yield the rows of the output; fail if they are not those that the store was made from.

    counts: a defaultdict, to which each row is added.
    """
    rows = 0
    for _, cells, pairs in labeller.read_rows(table, source.topics, source.repairs):
        for topic, text in pairs:
            probabilities = store.find_prediction(topic, text)
            if probabilities is None:
                fail_on_change(table)
            rows += 1
            label = scoring.pick_label(probabilities)
            confidence = round(max(probabilities), TABLE_DIGITS)
            counts[topic].labels[label] += 1
            review = "no"
            if confidence < review_below:
                counts[topic].review += 1
                review = "yes"
            given = [topic] if source.topics else []
            shares = [round(value, TABLE_DIGITS) for value in probabilities]
            yield [*cells, *given, label, *shares, confidence, review]
    if rows != store.rows:
        fail_on_change(table)


def fail_on_change(table: tables.Table) -> NoReturn:
    """Fail because a table holds other rows than when it was read first."""
    errors.fail(f"{table.location} changed while it was labelled: start again")


def report_labelled(
    counts: dict[str, terminal.TopicCounts],
    store: labeller.PairStore,
    output: str,
    note: str | None,
    review_below: float,
    summary_topics: int,
) -> None:
    """Print the summary by topic, and draw it beside the output, with the ending .stances.png.

    note: what a demo's picture says below itself. review_below, summary_topics: see label_table.
    """
    summary = terminal.shorten_counts(counts, summary_topics)
    picture = Path(output).with_suffix(".stances.png")
    print(f"\n{terminal.format_topic_counts(summary)}\n")
    review = sum(count.review for count in counts.values())
    print(f"review: {review:,} of {store.rows:,} rows have a confidence below {review_below}")
    figures.plot_shares({topic: count.labels for topic, count in summary.items()}, picture, note)
    labelled = f"labelled {store.rows:,} rows, {store.size:,} of them different"
    print(f"{labelled}: wrote {output} and {picture.name}")
