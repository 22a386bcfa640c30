"""The shares of a labelled table as one dict of all numbers, and that as tables for the screen.

No torch. The numbers are those of stance/evaluation/prediction_powered.py.
"""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

import prompts
from stance.common import formatting, text_width
from stance.corpus import gold_sample, labelled
from stance.evaluation import prediction_powered, result_tables, uncertainty

# ---------------------------------------------------------------- settings
SHOWN_GROUPS = 20  # of a column, those with most rows; the others are one group
PAIRED_GROUPS = 4  # up to so many are compared two by two; of more, each with all others
GROUP_WIDTH = 30  # columns of the name of a group on the screen
SCREEN_WIDTH = 100  # columns; wider tables of differences name the groups in lines of their own
# --------------------------------------------------------------------------

METHOD_NAMES = {
    "naive": "naive, uncorrected",
    "gold": "gold sample alone",
    "prediction_powered": "prediction-powered",
    "adjusted": "adjusted counts",
}
TARGET = (
    "the rows of the labelled table, had the annotators of the gold sample labelled all of them"
)
OTHERS = "all others"  # the second group of a difference


def take_arrays(table: labelled.LabelledTable) -> prediction_powered.Labelled:
    """Return what a model says of the sentences of a table, as arrays."""
    predicted = np.array(table.predicted)
    if table.probabilities is None:
        return prediction_powered.Labelled(predicted, prediction_powered.encode_one_hot(predicted))
    return prediction_powered.Labelled(predicted, np.array(table.probabilities))


def take_sample(gold: Sequence[gold_sample.GoldRow]) -> prediction_powered.GoldSample:
    """Return gold rows as arrays."""
    names = {row.stratum: number for number, row in enumerate(gold)}
    return prediction_powered.make_sample(
        np.array([row.position for row in gold]),
        np.array([row.label for row in gold]),
        np.array([row.probability for row in gold]),
        np.array([names[row.stratum] for row in gold]),
        np.array([row.size for row in gold]),
    )


def count_domains(table: labelled.LabelledTable, column: str) -> dict[str, np.ndarray]:
    """Return {group: rows of it that each sentence has, float [N]} of a column of groups.

    Groups stand in order, numbers by size; beyond SHOWN_GROUPS, the smaller ones are one.
    """
    values = table.groups[column]
    sizes = Counter(values)
    names = sorted(
        sizes, key=lambda name: (not is_number(name), float(name) if is_number(name) else 0, name)
    )
    shown, others = formatting.choose_largest({name: sizes[name] for name in names}, SHOWN_GROUPS)
    shown = [name for name in names if name in set(shown)]
    number_of = {name: number for number, name in enumerate(shown)}
    group_of_row = np.array([number_of.get(value, len(shown)) for value in values])
    pair_of_row = np.asarray(table.pair_of_row)
    sentences = len(table.pairs)
    domains = {}
    for name, number in number_of.items():
        members = pair_of_row[group_of_row == number]
        domains[name] = np.bincount(members, minlength=sentences).astype(float)
    if others:
        members = pair_of_row[group_of_row == len(shown)]
        domains[f"{len(others):,} others"] = np.bincount(members, minlength=sentences).astype(float)
    return domains


def is_number(name: str) -> bool:
    """Return whether the name of a group is a whole number, as of a year."""
    return name.removeprefix("-").isdecimal() and name.isascii()


def choose_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return which groups are compared: (first, second) of each difference first - second.

    Numbers, as years: each with the one before it, and the last with the first. Others: two by two;
    of more than PAIRED_GROUPS, each with OTHERS.
    """
    if len(names) < 2:
        return []
    if all(map(is_number, names)):
        pairs = [(later, earlier) for earlier, later in itertools.pairwise(names)]
        return pairs if len(names) == 2 else [*pairs, (names[-1], names[0])]
    if len(names) <= PAIRED_GROUPS:
        return list(itertools.combinations(names, 2))
    return [(name, OTHERS) for name in names]


# ---------------------------------------------------------------- numbers


def describe_shares(
    shares: np.ndarray, ends: np.ndarray | None, lowest: float = 0.0
) -> dict | None:
    """Return {label: {"value", "interval"}}; None without ends.

    lowest: of what is estimated; a value outside of it and 1 is put at the end.
    """
    if ends is None:
        return None
    values = np.clip(shares, lowest, 1)
    return {
        label: {"value": float(values[index]), "interval": ends[:, index].tolist()}
        for index, label in enumerate(prompts.LABELS)
    }


class ShareReport:
    """Computes the shares of one table, with a gold sample or without."""

    def __init__(
        self,
        table: labelled.LabelledTable,
        gold: Sequence[gold_sample.GoldRow] | None,
    ) -> None:
        """gold: None without a gold sample; then there are naive shares alone."""
        self.table = table
        self.arrays = take_arrays(table)
        pair_of_row = np.asarray(table.pair_of_row)
        self.all_rows = np.bincount(pair_of_row, minlength=len(table.pairs)).astype(float)
        self.sample = None
        self.power = None
        if gold is not None:
            self.sample = take_sample(gold)
            self.power = prediction_powered.tune_power(self.arrays, self.sample, self.all_rows)

    def estimate(self, rows: np.ndarray) -> dict[str, prediction_powered.Estimate | None]:
        """Return prediction_powered.estimate_shares of a domain; {} without a gold sample."""
        if self.sample is None:
            return {}
        return prediction_powered.estimate_shares(self.arrays, self.sample, rows, self.power)

    def describe_domain(self, rows: np.ndarray) -> dict:
        """Return {"rows", "sentences", "gold", "shares": {method: {label: ...} or None}}."""
        naive = prediction_powered.count_naive(self.arrays, rows)
        naive_ends = prediction_powered.find_naive_ends(self.arrays, rows)
        shares = {"naive": describe_shares(naive, naive_ends)}
        for method, estimate in self.estimate(rows).items():
            ends = prediction_powered.find_ends(estimate) if estimate else None
            shares[method] = describe_shares(estimate.shares, ends) if estimate else None
        drawn = 0 if self.sample is None else np.count_nonzero(rows[self.sample.positions])
        return {
            "rows": int(rows.sum()),
            "sentences": int(np.count_nonzero(rows)),
            "gold": int(drawn),
            "shares": shares,
        }

    def describe_difference(self, first: np.ndarray, second: np.ndarray) -> dict:
        """Return {method: {label: {"value", "interval"}} or None} of the shares of first - second."""
        naive = [prediction_powered.count_naive(self.arrays, rows) for rows in (first, second)]
        shares = {"naive": describe_shares(naive[0] - naive[1], np.full((2, 3), np.nan), -1)}
        one, other = self.estimate(first), self.estimate(second)
        for method in one:
            if one[method] is None or other[method] is None:
                shares[method] = None
                continue
            difference = prediction_powered.subtract_shares(one[method], other[method], self.sample)
            ends = prediction_powered.find_ends(difference, lowest=-1)
            shares[method] = describe_shares(difference.shares, ends, lowest=-1)
        return shares

    def describe(self) -> dict:
        """Return all numbers: of the whole table, of the groups of each column, of differences."""
        groups = {}
        differences = {}
        for column in self.table.groups:
            domains = count_domains(self.table, column)
            groups[column] = {name: self.describe_domain(rows) for name, rows in domains.items()}
            differences[column] = []
            for first, second in choose_pairs(list(domains)):
                rows = domains[first]
                others = self.all_rows - rows if second == OTHERS else domains[second]
                shares = self.describe_difference(rows, others)
                differences[column].append({"first": first, "second": second, "shares": shares})
        return {
            "target": TARGET,
            "level": uncertainty.LEVEL,
            "power": self.power,
            "least_gold": prediction_powered.MIN_GOLD,
            "table": self.describe_domain(self.all_rows),
            "groups": groups,
            "differences": differences,
        }


# ---------------------------------------------------------------- tables


def format_share_cell(found: dict | None, label: str, signed: bool = False) -> str:
    """Return a share or a difference in per cent with its interval; "-" where there is none."""
    if found is None:
        return "-"
    sign = "+" if signed else ""
    value = f"{100 * found[label]['value']:{sign}.1f}"
    low, high = found[label]["interval"]
    if not np.isfinite(low):
        return value
    return f"{value} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def format_methods(domain: dict) -> str:
    """Return the table of the shares of one domain, a line for each method."""
    lines = []
    for method, found in domain["shares"].items():
        cells = [format_share_cell(found, label) for label in prompts.LABELS]
        count = domain["rows"] if method == "naive" else domain["gold"]
        unit = "rows" if method == "naive" else "gold"
        lines.append([METHOD_NAMES[method], f"{count:,} {unit}", *cells])
    header = ["Method", "from", *(f"{label} %" for label in prompts.LABELS)]
    return formatting.format_table(header, lines)


def format_groups(groups: dict[str, dict], column: str) -> str:
    """Return the tables of the shares of groups: prediction-powered where there are, and naive."""
    lines = []
    naive_lines = []
    for name, domain in groups.items():
        start = [text_width.cut_text(name, GROUP_WIDTH), f"{domain['rows']:,}"]
        corrected = domain["shares"].get("prediction_powered")
        cells = [format_share_cell(corrected, label) for label in prompts.LABELS]
        lines.append([*start, f"{domain['gold']:,}", *cells])
        naive = domain["shares"]["naive"]
        naive_lines.append([*start, *(f"{100 * naive[x]['value']:.1f}" for x in prompts.LABELS)])
    naive_header = [column, "rows", *(f"{label} % naive" for label in prompts.LABELS)]
    naive_table = formatting.format_table(naive_header, naive_lines)
    if not any("gold" in domain["shares"] for domain in groups.values()):
        return naive_table
    header = [column, "rows", "gold", *(f"{label} %" for label in prompts.LABELS)]
    return f"{formatting.format_table(header, lines)}\n\n{naive_table}"


def format_differences(differences: list[dict]) -> str:
    """Return the table of differences between groups, prediction-powered, in percentage points."""
    lines = []
    blocks = []
    for found in differences:
        shares = found["shares"]["prediction_powered"]
        cells = [format_share_cell(shares, label, signed=True) for label in prompts.LABELS]
        names = [text_width.cut_text(found[key], GROUP_WIDTH - 2) for key in ("first", "second")]
        lines.append([*names, *cells])
        blocks.append((" - ".join(names), [cells]))
    table = formatting.format_table(["Group", "minus", *prompts.LABELS], lines)
    if text_width.measure_width(table.split("\n")[1]) <= SCREEN_WIDTH:
        return table
    return formatting.format_blocks(prompts.LABELS, blocks)


def format_shares(result: dict) -> str:
    """Return all tables of a result of ShareReport.describe, with their notes."""
    level = result_tables.LEVEL_TEXT
    has_gold = result["power"] is not None
    shares = f"shares in %, with {level} intervals" if has_gold else "shares in %, uncorrected"
    parts = [f"{shares}; of {result['table']['rows']:,} rows", format_methods(result["table"])]
    if not has_gold:
        parts[0] += " (the interval takes the model's labels for true)"
    for column, groups in result["groups"].items():
        parts += ["", format_groups(groups, column)]
        if has_gold and result["differences"][column]:
            parts += ["", f"differences in percentage points, with {level} intervals"]
            parts.append(format_differences(result["differences"][column]))
            parts.append("note: intervals of several differences at once are not widened for that")
        if has_gold and (note := describe_small(groups, column)):
            parts.append(f"note: {note}")
    if has_gold:
        parts += ["", f"note: intervals are about {result['target']}"]
        if result["table"]["gold"] < prediction_powered.MIN_GOLD:
            least = prediction_powered.MIN_GOLD
            what = f"no interval holds with fewer than {least} gold sentences, here are"
            parts.append(f"note: {what} {result['table']['gold']:,}: annotate more of them")
        if result["table"]["shares"]["adjusted"] is None:
            least = prediction_powered.MIN_GOLD_OF_LABEL
            what = f"counts are not adjusted: a label has fewer than {least} gold sentences"
            parts.append(f"note: {what}, or the model hardly tells the labels apart")
    return "\n".join(parts)


def describe_small(groups: dict[str, dict], column: str) -> str:
    """Return which groups have too few gold sentences for an interval; "" if none has."""
    small = [
        f"{formatting.quote(name)} ({domain['gold']:,})"
        for name, domain in groups.items()
        if domain["gold"] < prediction_powered.MIN_GOLD
    ]
    if not small:
        return ""
    what = f"no interval holds with fewer than {prediction_powered.MIN_GOLD} gold sentences"
    hint = f"draw a larger sample with tools.sample --by {formatting.quote(column)}"
    return f"{what}: {formatting.list_first(small)}: {hint}"
