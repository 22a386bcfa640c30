"""Label a table: it is read once to check it and to gather what is asked, and once to write it with the answers."""

import contextlib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import prompts
from stance.common import distributed, errors, formatting
from stance.corpus import annotations, cleaning, tables
from stance.evaluation import figures
from stance.labelling import labeller, terminal
from stance.model import chat, loading, scoring

TABLE_DIGITS = 4  # of the probabilities in a table
GIVEN_TOPIC, OTHER_GIVEN_TOPIC = (
    "topic",
    "given_topic",
)  # column of topics from flags; the second if the first is taken
ANSWER_COLUMNS = ("stance", *(f"p_{label}" for label in prompts.LABELS), "confidence", "review")
SHADES = {
    "stance": {"pro": "BDD7EE", "con": "F8CBAD", "neu": "E7E6E6"}
}  # of cells in Excel: blue, orange, grey


class Source(NamedTuple):
    """What to label, and where its sentences and topics stand."""

    path: str  # of the table; - for the lines of stdin
    text_column: str | None  # header of the sentences; None: any of annotations.COLUMN_NAMES
    topic_column: str | None  # header of the topics; None: any of annotations.COLUMN_NAMES
    sheet: str | None  # name of the sheet of a workbook; None: the only one with these headers
    topics: list | None  # cleaned topics for every sentence; None: each row has its own
    stdin: object = None  # what tables.keep_stdin kept of stdin


def label_table(
    source, output, adapter, base, tokenizer, load_scorer, resume, review_below, summary_topics
):
    """Label a table and sum it up; of several processes, the first alone writes.

    load_scorer(rows) returns score(pairs, batch_size=None, bar=None) -> scoring.Scores. resume: go on from the part
    files of an interrupted run. review_below: confidence below which a person should look at a row. summary_topics:
    topics that the summary shows one by one.
    """
    with distributed.first_rank_first():
        if source.path == "-":
            source = source._replace(stdin=tables.keep_stdin())
        table = open_source(source)
        header = name_columns(table, output)
        note_unused_topics(source, table, header)
        store = labeller.PairStore(check_table_rows(table, source.topics, output))
        if distributed.get_rank()[0] == 0:
            chat.report_long(tokenizer, store.read_pairs())
    if not resume and distributed.get_rank()[0] == 0:
        labeller.remove_parts(output)
    distributed.wait_for_ranks()
    run = labeller.list_dependencies(adapter, base, store)
    labeller.label_pairs(store, output, run, lambda: load_scorer(store.size))
    if distributed.get_rank()[0] == 0:
        counts = write_labelled(source, output, header, store, review_below)
        labeller.remove_parts(output)
        report_labelled(
            counts, store, output, loading.read_demo_note(base), review_below, summary_topics
        )


def open_source(source):
    """Open the table to label, at its start: it is read twice. Return a tables.Table."""
    if source.stdin is not None:
        return tables.open_lines(source.stdin)
    named = {"topic": source.topic_column, "text": source.text_column}
    if source.topics:
        del named["topic"]
    needed = {
        name: (cleaning.clean_text(own),) if own else annotations.COLUMN_NAMES[name]
        for name, own in named.items()
    }
    rename = "name those of the file: --text-column, and TOPIC_COLUMN at the top of predict.py"
    return tables.open_table(
        source.path, needed, source.sheet, "name one in SHEET at the top of predict.py", rename
    )


def name_columns(table, output):
    """Return the header of the output; stop if the table has one of its columns, or cannot be written to output."""
    known = {name.casefold() for name in table.header}
    added = list(ANSWER_COLUMNS)
    if "topic" not in table.columns:
        added.insert(0, OTHER_GIVEN_TOPIC if GIVEN_TOPIC in known else GIVEN_TOPIC)
    taken = [name for name in table.header if name.casefold() in added]
    if taken:
        errors.fail(
            f"{table.location} already has the column {taken[0]}, which predict.py adds: rename it"
        )
    tables.check_output(output, [*table.header, *added])
    return [*table.header, *added]


def note_unused_topics(source, table, header):
    """Print a note if topics that flags give take the place of a column of topics."""
    if "topic" in table.columns:
        return
    accepted = (
        (source.topic_column.casefold(),)
        if source.topic_column
        else annotations.COLUMN_NAMES["topic"]
    )
    for name in table.header:
        if name.casefold() in accepted:
            column = f"the column {formatting.quote(name)} of {table.location}"
            given = header[len(table.header)]
            print(
                f"note: {column} is not used: stances are towards the topic in the column {given} of the output"
            )
            return


def check_table_rows(table, topics, output):
    """Yield the pairs (topic, sentence) of all rows; stop after the last if any row cannot be labelled."""
    count, empty, broken = 0, [], []
    for number, cells, pairs in labeller.read_rows(table, topics):
        values = {value for pair in pairs for value in pair}
        if "" in values:
            empty.append(number)
        elif values & annotations.BROKEN:
            broken.append(number)
        tables.check_fit(output, table.location, number, table.header, cells)
        count += len(pairs)
        yield from pairs
    faults = []
    if empty:
        faults.append(f"empty {' or '.join(table.columns)} in {formatting.count_rows(empty)}")
    if broken:
        faults.append(
            f"an Excel error such as #N/A instead of a text in {formatting.count_rows(broken)}"
        )
    if faults:
        errors.fail(f"{table.location}: {'; '.join(faults)}: fill or delete them")
    if not count:
        errors.fail(f"{table.location}: no rows to label: fill in the table")
    tables.check_length(output, count)


def write_labelled(source, output, header, store, review_below):
    """Write the output; return {topic: terminal.TopicCounts}."""
    counts = defaultdict(terminal.TopicCounts)
    with contextlib.redirect_stdout(
        None
    ):  # notes about the table were printed when it was read first
        rows = label_rows(open_source(source), source.topics, store, review_below, counts)
        tables.write_table(output, header, rows, SHADES)
    return counts


def label_rows(table, topics, store, review_below, counts):
    """Yield the rows of the output; counts, {topic: terminal.TopicCounts}, grows with them."""
    rows = 0
    for _, cells, pairs in labeller.read_rows(table, topics):
        for topic, text in pairs:
            probabilities = store.find_answer(topic, text)
            if probabilities is None:
                break
            rows += 1
            label, confidence = (
                scoring.pick_label(probabilities),
                round(max(probabilities), TABLE_DIGITS),
            )
            counts[topic].labels[label] += 1
            review = "no"
            if confidence < review_below:
                counts[topic].review += 1
                review = "yes"
            given = [topic] if topics else []
            shares = [round(value, TABLE_DIGITS) for value in probabilities]
            yield [*cells, *given, label, *shares, confidence, review]
    if rows != store.rows:
        errors.fail(f"{table.location} changed while it was labelled: start again")


def report_labelled(counts, store, output, note, review_below, summary_topics):
    """Print the summary by topic, and draw it beside the output; note: what a demo's picture says below itself."""
    summary = terminal.shorten_counts(counts, summary_topics)
    picture = Path(output).with_suffix(".stances.png")
    print(f"\n{terminal.format_topic_counts(summary)}\n")
    low = sum(count.review for count in counts.values())
    print(f"review: {low:,} of {store.rows:,} rows have a confidence below {review_below}")
    figures.plot_shares({topic: count.labels for topic, count in summary.items()}, picture, note)
    print(
        f"labelled {store.rows:,} rows, {store.size:,} of them different: wrote {output} and {picture.name}"
    )
