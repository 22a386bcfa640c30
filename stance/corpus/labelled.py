"""A table that predict.py labelled, read back: its different sentences and what the model says of them.

No torch. A user's mistake in a file ends in one line through errors.fail.
"""

import array
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import prompts
from stance.common import errors, formatting
from stance.corpus import annotations, cleaning, dates, labels, reading, tables

# ---------------------------------------------------------------- settings
ADDED_STANCE = "stance"  # the column of labels that predict.py adds
SUM_TOLERANCE = 0.01  # of three probabilities, each rounded, from 1
# --------------------------------------------------------------------------

PROBABILITY_COLUMNS = tuple(f"p_{label}" for label in prompts.LABELS)
PREDICTED = "predicted_"  # before the name of an added column that the table had already
GIVEN_TOPIC = "given_topic"  # the column of topics that flags gave, where the table had one
EMPTY_GROUP = "(empty)"  # the name of a group whose cells hold nothing
LABELLED_HINT = "give the table that predict.py wrote, with the columns topic, text and stance"


class LabelledTable(NamedTuple):
    """The N different pairs of topic and sentence of a labelled table, and its rows.

    Pairs whose cleaning.normalise_key is the same are one: the first row of them counts.
    """

    location: str
    pairs: list[tuple[str, str]]  # topic and text, cleaned
    position_of_key: dict[tuple[str, str], int]  # in pairs, by make_pair_key
    predicted: list[int]  # index in prompts.LABELS of each pair
    probabilities: list[tuple[float, ...]] | None  # of each pair; None without the columns
    pair_of_row: Sequence[int]  # position in pairs of each row
    groups: dict[str, list[str]]  # {column: value of each row}
    first_rows: Sequence[int]  # number of the first row of each pair, as Excel shows it


def make_pair_key(topic: str, text: str) -> tuple[str, str]:
    """Return the key under which pairs of cleaned texts count as the same."""
    return cleaning.normalise_key(topic), cleaning.normalise_key(text)


def read_labelled(
    path: str | Path,
    by: Sequence[str] = (),
    text_column: str | None = None,
    topic_column: str | None = None,
) -> LabelledTable:
    """Read a labelled table; fail if it is none, or a row has no label.

    by: headers of columns of groups. text_column, topic_column: headers; None: those that predict.py
    takes.
    """
    accepted = (cleaning.clean_text(text_column),) if text_column else None
    needed = {"text": accepted or annotations.COLUMN_NAMES["text"]}
    how = reading.Reading(sheet=None)
    table = tables.open_table(path, needed, how, rename="name it with --text-column")
    reader = LabelledReader(table, by, topic_column)
    for number, cells in table.rows:
        if any(map(cleaning.clean_text, cells)):
            reader.add_row(number, cells)
    return reader.finish()


class LabelledReader:
    """Takes in the rows of a labelled table, one by one."""

    def __init__(self, table: tables.Table, by: Sequence[str], topic_column: str | None) -> None:
        """by, topic_column: as read_labelled takes them."""
        self.location = table.location
        self.columns = find_added(table, topic_column)
        self.columns["text"] = table.columns["text"]
        self.has_probabilities = all(name in self.columns for name in PROBABILITY_COLUMNS)
        self.groups = {name: [] for name in by}
        self.group_columns = {name: self.find_group(table, name) for name in by}
        self.pairs: list[tuple[str, str]] = []
        self.position_of_key: dict[tuple[str, str], int] = {}
        self.predicted: list[int] = []
        self.probabilities: list[tuple[float, ...]] = []
        self.pair_of_row = array.array("q")
        self.first_rows = array.array("q")
        self.differing = 0  # rows with another label than the first of their pair

    def find_group(self, table: tables.Table, name: str) -> int:
        """Return the index of a column of groups; fail if the table has none of its name."""
        folded = [tables.fold_header(header) for header in table.header]
        wanted = tables.fold_header(cleaning.clean_text(name))
        if wanted in folded and wanted != "topic":
            return folded.index(wanted)
        if wanted == "topic":  # the one that the stances are towards
            return self.columns["topic"]
        found = tables.quote_all([header for header in table.header if header])
        errors.fail(f"{table.location} has no column {formatting.quote(name)}: name one of {found}")

    def add_row(self, number: int, cells: list) -> None:
        """Take in a row that is not blank; number: as Excel shows it."""
        where = f"{self.location}, row {number}"
        topic = cleaning.clean_text(cells[self.columns["topic"]])
        text = cleaning.clean_text(cells[self.columns["text"]])
        if not topic or not text:
            errors.fail(f"{where} has no {'text' if topic else 'topic'}: {LABELLED_HINT}")
        stance = cleaning.clean_text(cells[self.columns[ADDED_STANCE]])
        label = labels.BUILT_IN.find_label(stance)
        if label is None:
            errors.fail(
                f"{where}: {formatting.quote(stance)} is no label of predict.py: {LABELLED_HINT}"
            )
        index = prompts.LABELS.index(label)
        key = make_pair_key(topic, text)
        position = self.position_of_key.setdefault(key, len(self.pairs))
        if position == len(self.pairs):
            self.pairs.append((topic, text))
            self.predicted.append(index)
            self.first_rows.append(number)
            if self.has_probabilities:
                self.probabilities.append(self.read_probabilities(where, cells))
        self.differing += self.predicted[position] != index
        self.pair_of_row.append(position)
        for name, column in self.group_columns.items():
            self.groups[name].append(name_group(cells[column]))

    def read_probabilities(self, where: str, cells: list) -> tuple[float, ...]:
        """Return the probabilities of a row, which add up to 1; fail if they are none."""
        values = []
        for name in PROBABILITY_COLUMNS:
            try:
                values.append(float(cells[self.columns[name]]))
            except (TypeError, ValueError):
                errors.fail(f"{where}: {name} is no number: {LABELLED_HINT}")
        total = sum(values)
        if min(values) < 0 or not abs(total - 1) < SUM_TOLERANCE:
            names = ", ".join(PROBABILITY_COLUMNS)
            errors.fail(f"{where}: {names} are no probabilities that add up to 1: {LABELLED_HINT}")
        return tuple(value / total for value in values)

    def finish(self) -> LabelledTable:
        """Return what the rows hold; note what is doubtful in them."""
        if not self.pairs:
            errors.fail(f"{self.location}: no rows below the header: {LABELLED_HINT}")
        if not self.has_probabilities:
            names = ", ".join(PROBABILITY_COLUMNS)
            print(f"note: {self.location} has no columns {names}: its labels count as certain")
        if self.differing:
            what = "are equal to an earlier row but for case or punctuation, and labelled otherwise"
            print(f"note: {self.location}: {self.differing:,} rows {what}: the first counts")
        probabilities = self.probabilities if self.has_probabilities else None
        return LabelledTable(
            self.location,
            self.pairs,
            self.position_of_key,
            self.predicted,
            probabilities,
            self.pair_of_row,
            self.groups,
            self.first_rows,
        )


def find_added(table: tables.Table, topic_column: str | None) -> dict[str, int]:
    """Return {column: index} of topic, stance and the probabilities that there are.

    Of a table that was labelled several times, those of the last time. topic_column: header of the
    topics; None: the usual ones. Fails without topics or labels.
    """
    index_of = {tables.fold_header(name): index for index, name in enumerate(table.header) if name}
    start = f"{PREDICTED}{ADDED_STANCE}_"
    numbers = [
        int(name.removeprefix(start))
        for name in index_of
        if name.startswith(start) and tables.is_position(name.removeprefix(start))
    ]
    ending = f"_{max(numbers)}" if numbers else ""
    columns = {}
    for column in (ADDED_STANCE, *PROBABILITY_COLUMNS):
        for name in (f"{PREDICTED}{column}{ending}", column):
            if name in index_of:
                columns[column] = index_of[name]
                break
    usual = (f"{GIVEN_TOPIC}{ending}", *annotations.COLUMN_NAMES["topic"])
    if topic_column:
        usual = (tables.fold_header(cleaning.clean_text(topic_column)),)
    found = [index_of[name] for name in usual if name in index_of]
    if found:
        columns["topic"] = found[0]
    lacking = [name for name in ("topic", ADDED_STANCE) if name not in columns]
    if lacking:
        headers = tables.quote_all([name for name in table.header if name])
        hint = (
            f"{LABELLED_HINT}, or name it with --topic-column"
            if lacking == ["topic"]
            else LABELLED_HINT
        )
        errors.fail(
            f"{table.location} has no column {' and '.join(lacking)}, but {headers}: {hint}"
        )
    return columns


def name_group(cell: object) -> str:
    """Return the group that a cell names: its text, the year of a date, the digits of a number."""
    if isinstance(cell, datetime.date):
        return str(cell.year)
    text = annotations.name_id(cell)
    is_long_date = len(text) >= len("2024-12-31") and text[:4].isdecimal()
    date = dates.read_date(text) if is_long_date else None
    if isinstance(date, datetime.datetime):
        return str(date.year)
    return text or EMPTY_GROUP
