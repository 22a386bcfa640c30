"""Draw sentences of a labelled table to annotate: a gold sample for shares, or those that teach a model most.

Reads --labelled, a table that predict.py wrote.
Writes --output, an .xlsx with topic, text and an empty stance to choose from a list, in random order. The model's answer
is not in it, unless --show-answer, as annotators would follow it. For shares, hidden columns keep how each sentence was
drawn: leave them, tools.shares and tools.regression need them. Of a draw for training these take no gold sample.
--for shares: at random; with --by, in each group; with --draw confidence, doubtful sentences more often.
--for training: the most uncertain sentences that are unlike each other.

    python -m tools.sample --labelled labelled.xlsx --size 300
    python -m tools.sample --labelled labelled.xlsx --size 600 --by topic --output gold.xlsx
    python -m tools.sample --labelled labelled.xlsx --size 250 --for training --without annotated.xlsx
"""

import sys

try:
    from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load
except ModuleNotFoundError:  # started by its path, a tool has Python look for modules in tools/
    print(
        "error: run it as: python -m tools.sample ... (in the folder that holds tools/)",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

# isort: split
import argparse
import shlex
from pathlib import Path

import numpy as np

import prompts
from stance.common import errors, flags, formatting
from stance.corpus import annotations, cleaning, gold_sample, labelled, tables, workbook_writer
from stance.evaluation import prediction_powered, sampling

# ---------------------------------------------------------------- settings
OUTPUT = "gold_sample.xlsx"  # what to annotate
SIZE = 300  # sentences
BY = ()  # headers of columns in whose groups sentences are drawn, so that each has enough
PURPOSES = ("shares", "training")
PURPOSE = "shares"  # what the annotations are for
DRAWS = ("random", "confidence")
DRAW = "random"  # for shares; confidence: sentences that the model doubts more often
SEED = 0  # of the draw
# --------------------------------------------------------------------------

STANCES = ("Pro", "Contra", "Neutral")  # the choices of the list, as prepare_data.py reads them
ANSWER = "model_answer"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags; fail on those that do not go together."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument("--labelled", required=True, help="table that predict.py wrote")
    parser.add_argument("--output", default=OUTPUT, help=".xlsx to annotate (%(default)s)")
    parser.add_argument("--size", type=int, default=SIZE, help="sentences (%(default)s)")
    parser.add_argument(
        "--by", nargs="+", default=BY, metavar="HEADER", help="draw in each group of these columns"
    )
    parser.add_argument(
        "--for", dest="purpose", default=PURPOSE, choices=PURPOSES, help="what for (%(default)s)"
    )
    parser.add_argument("--draw", default=DRAW, choices=DRAWS, help="how, for shares (%(default)s)")
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="FILE", help="leave sentences of these out"
    )
    parser.add_argument(
        "--show-answer", action="store_true", help="show the model's answer: annotators follow it"
    )
    parser.add_argument("--text-column", help="header of the sentences (default: text, ...)")
    parser.add_argument("--topic-column", help="header of the topics (default: topic, ...)")
    parser.add_argument("--seed", type=flags.seed, default=SEED, help="of the draw (%(default)s)")
    args = parser.parse_args(argv)
    if args.size < 2:
        errors.fail(f"--size {args.size} is too small: give 2 sentences at least")
    if args.purpose == "training" and (args.by or args.draw != "random"):
        errors.fail("--for training chooses by itself: leave out --by and --draw")
    if args.purpose == "shares" and args.without:
        errors.fail("--without goes with --for training: a sample for shares is of all sentences")
    return args


def check_new(output: str) -> None:
    """Fail if a sample cannot be written to a path, or would replace one."""
    if not output.lower().endswith(".xlsx"):
        errors.fail(f"{output}: its name must end in .xlsx, which holds the list of stances")
    if Path(output).exists():
        hint = "choose another --output, or delete it"
        errors.fail(f"{output} is there already, perhaps with annotations: {hint}")
    tables.check_output(output, [])


def draw_for_shares(
    table: labelled.LabelledTable, by: list[str], draw: str, size: int, seed: int
) -> sampling.Draw:
    """Return a random draw in each stratum; fail if there are more strata than it can serve."""
    sentences = len(table.pairs)
    names = [[] for _ in range(sentences)]
    for column in by:
        first_of_pair = {}
        for position, value in zip(table.pair_of_row, table.groups[column], strict=True):
            first_of_pair.setdefault(position, value)
        for position in range(sentences):
            names[position].append(f"{column} {first_of_pair[position]}")
    groups = {", ".join(parts) for parts in names}
    least_of_group = min(prediction_powered.MIN_GOLD, size // len(groups))
    spreads = np.ones(sentences)
    bands = 1
    if draw == "confidence":
        probabilities = np.array(table.probabilities)
        spreads = sampling.measure_spread(probabilities)
        for position, confidence in enumerate(probabilities.max(1)):
            names[position].append(sampling.name_band(confidence))
        bands = len(sampling.CONFIDENCE_BANDS)
    strata = [", ".join(parts) or "all" for parts in names]
    different = set(strata)
    if sampling.LEAST_OF_STRATUM * len(different) > size:
        needed = sampling.LEAST_OF_STRATUM * len(different)
        hint = f"give --size {needed} or more, or a column of fewer groups"
        errors.fail(f"--size {size} is too small for {len(different):,} groups: {hint}")
    least = max(least_of_group // bands, sampling.LEAST_OF_STRATUM)
    rng = np.random.default_rng(seed)
    return sampling.draw_stratified(strata, spreads, size, dict.fromkeys(different, least), rng)


def describe_thin(table: labelled.LabelledTable, positions: np.ndarray, by: list[str]) -> str:
    """Return which groups get too few sentences for an interval; "" if none does."""
    least = prediction_powered.MIN_GOLD
    if len(positions) < least:
        return f"tools.shares gives no interval with fewer than {least} sentences"
    drawn = set(positions.tolist())
    thin = []
    for column in by:
        sentences = {}
        for position, value in zip(table.pair_of_row, table.groups[column], strict=True):
            sentences.setdefault(value, set()).add(position)
        for value, members in sentences.items():
            if len(members & drawn) < least:
                thin.append(f"{formatting.quote(value)} ({len(members & drawn)})")
    if not thin:
        return ""
    what = f"tools.shares gives no interval for groups with fewer than {least} sentences"
    return f"{what}: {formatting.list_first(sorted(thin))}: a larger --size draws more of each"


def read_keys(paths: list[str]) -> set[tuple[str, str]]:
    """Return the keys of the pairs of topic and sentence that files hold."""
    keys = set()
    for path in paths:
        needed = {column: annotations.COLUMN_NAMES[column] for column in ("topic", "text")}
        table = tables.open_table(path, needed)
        for _, cells in table.rows:
            topic, text = (cleaning.clean_text(cells[table.columns[name]]) for name in needed)
            keys.add(labelled.make_pair_key(topic, text))
    return keys


def draw_for_training(
    table: labelled.LabelledTable, without: set[tuple[str, str]], size: int, seed: int
) -> np.ndarray:
    """Return the positions of the sentences that teach most, in random order."""
    free = [
        position for key, position in table.position_of_key.items() if key not in without
    ]  # in the order of the table
    if size > len(free):
        what = f"--size {size} is more than the {len(free):,} sentences that are left"
        errors.fail(f"{what}: give {len(free)} or less")
    texts = ["\n".join(table.pairs[position]) for position in free]
    probabilities = np.array(table.probabilities)[free]
    chosen = sampling.choose_informative(texts, probabilities, size, seed)
    return np.random.default_rng(seed).permutation(np.array(free)[chosen])


def write_sample(
    output: str, table: labelled.LabelledTable, positions: np.ndarray, designs: list, answers: bool
) -> None:
    """Write the workbook to annotate; designs: of each row, the cells of gold_sample.DESIGN_COLUMNS,
    or one, of TRAINING_COLUMN."""
    is_for_training = len(designs[0]) == 1
    hidden = (gold_sample.TRAINING_COLUMN,) if is_for_training else gold_sample.DESIGN_COLUMNS
    header = ["topic", "text", "stance", *([ANSWER] if answers else []), *hidden]
    rows = []
    for position, design in zip(positions, designs, strict=True):
        answer = [prompts.LABELS[table.predicted[position]]] if answers else []
        rows.append([*table.pairs[position], None, *answer, *design])
    look = workbook_writer.Look("to annotate", choices={"stance": STANCES}, hidden=hidden)
    tables.write_table(output, header, rows, look)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_new(args.output)
    table = labelled.read_labelled(args.labelled, args.by, args.text_column, args.topic_column)
    sentences = len(table.pairs)
    if args.size > sentences:
        what = f"--size {args.size} is more than the {sentences:,} sentences of the table"
        errors.fail(f"{what}: give {sentences} or less")
    if table.probabilities is None and (args.purpose == "training" or args.draw == "confidence"):
        columns = ", ".join(labelled.PROBABILITY_COLUMNS)
        errors.fail(f"{table.location} has no columns {columns}: draw at random, for shares")
    designs = [[args.purpose]] * args.size
    if args.purpose == "training":
        without = read_keys(args.without)
        positions = draw_for_training(table, without, args.size, args.seed)
    else:
        drawn = draw_for_shares(table, args.by, args.draw, args.size, args.seed)
        positions = drawn.positions
        designs = list(
            zip(drawn.probabilities.tolist(), drawn.strata, drawn.sizes.tolist(), strict=True)
        )
        strata = len(set(drawn.strata))
        where = f" in {strata:,} strata" if strata > 1 else ""
        print(f"drew {args.size:,} of {sentences:,} different sentences at random{where}")
        if note := describe_thin(table, positions, args.by):
            print(f"note: {note}")
    for position in positions:
        row = table.first_rows[position]
        cells = table.pairs[position]
        tables.check_fit(args.output, table.location, row, ("topic", "text"), cells)
    write_sample(args.output, table, positions, designs, args.show_answer)
    print(f"wrote {args.output}: choose a stance in each row")
    if args.purpose == "shares":
        by = f" --by {shlex.join(args.by)}" if args.by else ""
        paths = shlex.join(["--labelled", args.labelled, "--gold", args.output])
        command = f"python -m tools.shares {paths}{by}"
        print(f"then: {command}")


if __name__ == "__main__":
    errors.run_script(main)
