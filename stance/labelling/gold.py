"""Gold stances that a table to label has already: read, and compared with the predictions."""

from collections import Counter
from typing import NamedTuple

from stance.common import errors, formatting
from stance.corpus import annotations, cleaning, labels, workbook_reader
from stance.evaluation import metrics, result_tables
from stance.labelling import terminal
from stance.model import fingerprints

MODEL = "fine-tuned"  # as evaluate.py calls the base with its adapter


class GoldColumn(NamedTuple):
    """Where gold stances stand, and what is needed to compare predictions with them."""

    header: str  # of their column, cleaned
    stances: labels.Stances  # what they mean
    trained: set[str] | None  # fingerprints.read_hashes of the adapter
    same_cleaning: bool  # whether equal sentences have equal hashes: they are cleaned as those were

    def read_label(self, cell: object) -> str | None:
        """Return the gold label of a cell; None if it is empty, dropped or no known stance."""
        stance = cleaning.clean_text(cell)
        label = self.stances.find_label(stance) if stance else None
        return None if label == labels.DROP else label

    def has_seen(self, text: str) -> bool:
        """Return whether the adapter is known to be trained on a cleaned sentence."""
        return bool(self.trained) and fingerprints.hash_text(text) in self.trained


class GoldCheck:
    """Looks at all cells of a column of gold stances before anything is labelled."""

    def __init__(self, column: GoldColumn) -> None:
        self.column = column
        self.scored = 0
        self.empty = 0
        self.dropped = 0
        self.sentiments: dict[str, str] = {}  # label by word of sentiment
        self.unknown: dict[str, list[int]] = {}  # row numbers by stance
        self.broken: list[int] = []  # row numbers

    def add_cell(self, number: int, cell: object) -> None:
        """Take in the cell of a row; number: of the row, as Excel shows it."""
        stance = cleaning.clean_text(cell)
        label = self.column.stances.find_label(stance)
        if cell is workbook_reader.UNSTORED:
            self.broken.append(number)
        elif not stance:
            self.empty += 1
        elif label == labels.DROP:
            self.dropped += 1
        elif label is not None:
            self.scored += 1
            if self.column.stances.find_sentiment(stance):
                self.sentiments[stance] = label
        elif annotations.find_error(stance, cell):
            self.broken.append(number)
        else:
            self.unknown.setdefault(stance, []).append(number)

    def check(self, location: str) -> None:
        """Fail if a stance is unknown, a cell broken, or no row can be scored; note those that are
        not.

        location: of the table.
        """
        where = f"{location}, column {formatting.quote(self.column.header)}"
        if self.broken:
            what = f"an error or a formula without a value in {formatting.count_rows(self.broken)}"
            errors.fail(f"{where}: {what}: mend or empty them")
        if self.unknown:
            found = [
                f"{formatting.quote(stance)} in {formatting.count_rows(rows)}"
                for stance, rows in self.unknown.items()
            ]
            hint = f"name their labels: {labels.propose_words(self.unknown, self.column.stances)}"
            errors.fail(f"{where}: unknown stances {formatting.list_first(found)}: {hint}")
        if not self.scored:
            errors.fail(f"{where}: no row has a stance to compare with: leave out --gold-column")
        if self.sentiments:
            read = [
                f"{formatting.quote(word)} as {self.sentiments[word]}" for word in self.sentiments
            ]
            found = f"words of sentiment are read, {formatting.list_first(read)}"
            print(f"note: {where}: {found}: {annotations.NAME_SENTIMENT}")
        if self.empty or self.dropped:
            parts = []
            if self.empty:
                parts.append(f"{self.empty:,} without a gold stance")
            if self.dropped:
                parts.append(f"{self.dropped:,} that --labels drops")
            print(f"note: {where}: rows that are labelled, but not scored: {', '.join(parts)}")


def score_counts(scored: Counter[tuple[str, str, bool]], unseen_only: bool = False) -> dict:
    """Return metrics.compute_metrics of the rows that terminal.TopicCounts counts as scored.

    unseen_only: without the rows whose sentence the adapter was trained on. One row at least must
    remain.
    """
    gold = []
    predicted = []
    for (truth, label, seen), rows in scored.items():
        if not (seen and unseen_only):
            gold += [truth] * rows
            predicted += [label] * rows
    return metrics.compute_metrics(gold, predicted)


def describe_seen(column: GoldColumn, seen: int, rows: int) -> str:
    """Return in a sentence how many of the scored rows the adapter was trained on."""
    if seen:
        least = "" if column.same_cleaning else "at least "
        found = f"{least}{seen:,} of the {rows:,} scored rows"
        return f"the adapter was trained on the sentences of {found}: their scores are no test"
    if column.trained is None or not column.same_cleaning:
        return (
            "it cannot be told whether the adapter was trained on some of the scored sentences: "
            "if so, the scores are too high"
        )
    return "the adapter was trained on none of the scored sentences"


def format_comparison(
    column: GoldColumn,
    counts: dict[str, terminal.TopicCounts],
    summary: dict[str, terminal.TopicCounts],
) -> str:
    """Return evaluate.py's tables of the predictions against the gold labels, with their notes.

    counts: of each topic; summary: of the topics that are shown, terminal.shorten_counts.
    """
    total = terminal.TopicCounts()
    for count in counts.values():
        total.add(count)
    rows = total.scored.total()
    seen = sum(number for (_, _, was_seen), number in total.scored.items() if was_seen)
    result = score_counts(total.scored)
    scores = {MODEL: result}
    if 0 < seen < rows:
        unseen = score_counts(total.scored, unseen_only=True)
        scores[f"{MODEL}, without the rows trained on"] = unseen
    parts = [
        f"compared with the gold stances in the column {formatting.quote(column.header)}",
        result_tables.format_summary(scores),
        f"note: {describe_seen(column, seen, rows)}",
    ]
    gold_labels = result_tables.describe_gold_labels({MODEL: result})
    if gold_labels:
        parts.append(f"note: {gold_labels}")
    parts += ["", formatting.format_table(*result_tables.tabulate_scores(scores))]
    parts += ["", f"{MODEL}, by label", result_tables.format_labels(result)]
    topics = {topic: score_counts(count.scored) for topic, count in summary.items() if count.scored}
    if len(topics) > 1:
        header, lines = result_tables.tabulate_topics(topics)
        lines = [[formatting.cut(topic), *cells] for topic, *cells in lines]
        parts += ["", f"{MODEL}, by topic", formatting.format_table(header, lines)]
    return "\n".join(parts)
