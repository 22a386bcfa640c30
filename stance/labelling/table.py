"""Label a table: it is read once to check it and gather its pairs, and once to write the output."""

import contextlib
import itertools
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, NoReturn

import prompts
from stance.common import distributed, errors, formatting
from stance.corpus import annotations, cleaning, reading, tables, workbook_writer
from stance.labelling import gold, labeller, terminal
from stance.model import chat, loading, scoring

if TYPE_CHECKING:
    import transformers

TABLE_DIGITS = 4  # of the probabilities in a table
HEADER_FLAGS = {"topic": "--topic-column", "text": "--text-column"}  # that name the headers
SHARE_COLUMNS = (*(f"p_{label}" for label in prompts.LABELS), "confidence")  # probabilities
ADDED_COLUMNS = ("stance", *SHARE_COLUMNS, "review")
PREFIX = "predicted_"  # of an added column, if the table has one of its name
TOPIC_PREFIX = "given_"  # the same of the column of topics that flags give
# Colours of stances in Excel: blue, orange, grey.
SHADES = {"pro": "BDD7EE", "con": "F8CBAD", "neu": "E7E6E6"}
GOLD = "gold"  # key of the column of gold stances among those that are read


class Source(NamedTuple):
    """What to label, and where its sentences and topics stand."""

    path: str  # of the table; - for the lines of stdin
    text_column: str | None  # header of the sentences; None: any of annotations.COLUMN_NAMES
    topic_column: str | None  # header of the topics; None: any of annotations.COLUMN_NAMES
    how: reading.Reading  # what the user says about the file
    topics: list[str] | None  # cleaned topics for every sentence; None: each row has its own
    repairs: cleaning.Cleaning = cleaning.ALL_REPAIRS  # of sentences and topics
    stdin: BinaryIO | None = None  # what tables.keep_stdin kept of stdin
    # With which predictions are compared; None: with nothing. Not with several topics.
    gold_column: gold.GoldColumn | None = None


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
    with contextlib.ExitStack() as held:
        with distributed.first_rank_first():
            if source.path == "-":
                source = source._replace(stdin=tables.keep_stdin())
            table = open_source(source)
            added = name_added(table)
            tables.check_output(output, [*table.header, *added.values()])
            if is_first_rank:
                held.enter_context(labeller.hold_output(output))
            note_unused_topics(source, table, added)
            note_other_names(table, added)
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
            counts = write_labelled(source, output, added, store, review_below)
            note = loading.read_demo_note(base)
            summary = terminal.shorten_counts(counts, summary_topics)
            report_labelled(counts, summary, store, output, note, review_below)
            labeller.remove_parts(output)  # last: where the picture has no room, nothing is lost
            if source.gold_column:
                print(f"\n{gold.format_comparison(source.gold_column, counts, summary)}")


def open_source(source: Source) -> tables.Table:
    """Open the table to label, at its start: it is read twice."""
    if source.stdin is not None:
        tables.check_reading("stdin", source.how, has_sheets=False, is_text=False)
        return tables.open_lines(source.stdin)
    headers = {"topic": source.topic_column, "text": source.text_column}
    rename = "name those of the file: --text-column and --topic-column"
    if source.topics:
        del headers["topic"]
    if source.gold_column:
        headers[GOLD] = source.gold_column.header
        rename = "name those of the file: --text-column, --topic-column and --gold-column"
    accepted = {}
    for column, header in headers.items():
        if header:
            accepted[column] = (cleaning.clean_text(header),)
        else:
            accepted[column] = annotations.COLUMN_NAMES[column]
    choose = "name one with --sheet"
    # Sentences one a line, as stdin gives them.
    lines_column = None if source.text_column else "text"
    table = tables.open_table(
        source.path, accepted, source.how, choose, rename, HEADER_FLAGS, lines_column
    )
    for column, index in table.columns.items():
        if column != GOLD and index == table.columns.get(GOLD):
            header = formatting.quote(table.header[index])
            errors.fail(f"{table.location}: {header} is the column {column}: name another as gold")
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


def name_added(table: tables.Table) -> dict[str, str]:
    """Return {column that is added: its header in the output}, in their order.

    A column whose name the table has already gets a prefix; if that is taken too, all columns with
    a prefix get the same number, from 2 on: stance, predicted_stance, predicted_stance_2.
    """
    known = {tables.fold_header(name) for name in table.header}
    prefixes = dict.fromkeys(ADDED_COLUMNS, PREFIX)
    if "topic" not in table.columns:
        prefixes = {"topic": TOPIC_PREFIX, **prefixes}
    for number in itertools.count(1):
        ending = "" if number == 1 else f"_{number}"
        names = {}
        for column, prefix in prefixes.items():
            names[column] = f"{prefix}{column}{ending}" if column in known else column
        if known.isdisjoint(names.values()):
            return names


def note_other_names(table: tables.Table, added: dict[str, str]) -> None:
    """Print a note if added columns have other names than usual; added: what name_added
    returned."""
    others = [name for column, name in added.items() if name.startswith(PREFIX)]
    if others:
        own = [column for column, name in added.items() if name.startswith(PREFIX)]
        has = f"{table.location} has columns called {', '.join(own)}, which stay as they are"
        print(f"note: {has}: those of this model are called {', '.join(others)}")


def note_unused_topics(source: Source, table: tables.Table, added: dict[str, str]) -> None:
    """Print a note if topics that flags give are used instead of a column of topics.

    added: what name_added returned.
    """
    if "topic" in table.columns:
        return
    accepted = annotations.COLUMN_NAMES["topic"]
    if source.topic_column:
        accepted = (tables.fold_header(source.topic_column),)
    for name in table.header:
        if tables.fold_header(name) in accepted:
            column = f"the column {formatting.quote(name)} of {table.location}"
            instead = f"stances are towards the topic in the column {added['topic']} of the output"
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
    read_columns = {column: index for column, index in table.columns.items() if column != GOLD}
    gold_check = gold.GoldCheck(source.gold_column) if source.gold_column else None
    for number, cells, pairs in labeller.read_rows(table, source.topics, source.repairs):
        values = set()
        for pair in pairs:
            values.update(pair)
        read_cells = [cells[index] for index in read_columns.values()]
        if "" in values:
            empty.append(number)
        elif any(annotations.find_error(cleaning.clean_text(cell), cell) for cell in read_cells):
            broken.append(number)
        for cell in read_cells:
            repaired.update(cleaning.list_repairs(cell, source.repairs))
        if gold_check:
            gold_check.add_cell(number, cells[table.columns[GOLD]])
        tables.check_fit(output, table.location, number, table.header, cells)
        count += len(pairs)
        yield from pairs
    check_faults(table.location, list(read_columns), empty, broken)
    if not count:
        errors.fail(f"{table.location}: no rows to label: fill in the table")
    if gold_check:
        gold_check.check(table.location)
    annotations.note_repairs(table.location, repaired)
    tables.check_length(output, count)


def check_faults(location: str, columns: list[str], empty: list[int], broken: list[int]) -> None:
    """Fail if cells of the columns that are labelled cannot be: empty and broken are row
    numbers."""
    faults = []
    if empty:
        faults.append(f"empty {' or '.join(columns)} in {formatting.count_rows(empty)}")
    if broken:
        faults.append(f"an error such as #N/A instead of a text in {formatting.count_rows(broken)}")
    if faults:
        errors.fail(f"{location}: {'; '.join(faults)}: fill or delete them")


def write_labelled(
    source: Source,
    output: str,
    added: dict[str, str],
    store: labeller.PairStore,
    review_below: float,
) -> dict[str, terminal.TopicCounts]:
    """Write the output; return the counts of each topic. added: what name_added returned."""
    counts = defaultdict(terminal.TopicCounts)
    # Notes about the table were printed when it was read first.
    with contextlib.redirect_stdout(None):
        table = open_source(source)
        header = [*table.header, *added.values()]
        rows = label_rows(table, source, store, review_below, counts)
        shares = [added[column] for column in SHARE_COLUMNS]
        look = workbook_writer.Look("predictions", {added["stance"]: SHADES}, shares)
        tables.write_table(output, header, rows, look)
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
            # Of the exact probabilities; no other has a larger one once they are rounded.
            label = scoring.pick_label(probabilities)
            confidence = round(max(probabilities), TABLE_DIGITS)
            counts[topic].labels[label] += 1
            review = "no"
            if confidence < review_below:
                counts[topic].review += 1
                review = "yes"
            if source.gold_column:
                truth = source.gold_column.read_label(cells[table.columns[GOLD]])
                if truth is not None:
                    seen = source.gold_column.has_seen(text)
                    counts[topic].scored[truth, label, seen] += 1
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
    summary: dict[str, terminal.TopicCounts],
    store: labeller.PairStore,
    output: str,
    note: str | None,
    review_below: float,
) -> None:
    """Print the summary by topic, and draw it beside the output, with the ending .stances.png.

    counts: of each topic; summary: terminal.shorten_counts of them. note: what a demo's picture
    says below itself. review_below: see label_table.
    """
    from stance.evaluation import figures  # loads matplotlib, which single sentences do not need

    picture = Path(output).with_suffix(".stances.png")
    print(f"\n{terminal.format_topic_counts(summary)}\n")
    review = sum(count.review for count in counts.values())
    print(f"review: {review:,} of {store.rows:,} rows have a confidence below {review_below}")
    figures.plot_shares({topic: count.labels for topic, count in summary.items()}, picture, note)
    labelled = f"labelled {store.rows:,} rows"
    repeated = store.rows - store.size
    if repeated:
        labelled += f" ({repeated:,} with the topic and sentence of an earlier row)"
    print(f"{labelled}: wrote {output} and {picture.name}")
    command = f"python -m tools.shares --labelled {shlex.quote(output)}"
    print(f"shares are not corrected for the model's errors: {command} says how")
