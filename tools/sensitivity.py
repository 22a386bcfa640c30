"""See how far conclusions hang on the model: shares and differences between groups by several specifications.

A specification is whatever labels: a base, a seed, a prompt. Reads --labelled, tables of predict.py of the same rows, one
a specification; or --runs, folders of evaluations on one test split, each with its usual prompt and the prompts of its
robustness table (stance/evaluation/prompt_variants.py), whose rows alone then count. Groups are --by, a column.
Prints, and writes to --output as JSON: how often a conclusion flips (which label is the largest in a group; whether its
share is higher in one group than in another), and intervals that are wide enough for all specifications. With --runs,
whose rows have labels of people, also how many conclusions are not those of people's labels.
Nothing here removes bias that all specifications share: tools.shares corrects by a sample of people's labels.

    python -m tools.sensitivity --labelled labelled-seed0.xlsx labelled-seed1.xlsx --by topic
    python -m tools.sensitivity --runs outputs/seed-0 outputs/seed-1 --variants all
"""

import sys

try:
    from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load
except ModuleNotFoundError:  # started by its path, a tool has Python look for modules in tools/
    print(
        "error: run it as: python -m tools.sensitivity ... (in the folder that holds tools/)",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

# isort: split
import argparse
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

import prompts
from stance.common import errors, files, flags, formatting, run_files, text_width
from stance.corpus import annotations, cleaning, reading, tables
from stance.corpus import labelled as labelled_reader
from stance.evaluation import analysis, predictions, result_tables, sensitivity

# ---------------------------------------------------------------- settings
BY = "topic"  # header of the groups to compare
STANCE_COLUMN = None  # header of the labels; None: the last stance column that predict.py added
TEXT_COLUMN = None  # header of the sentences; None: any of annotations.COLUMN_NAMES
# Of --runs. prompts: other wordings of the prompt; all: other spellings and topics too; none
VARIANTS = "prompts"
MIN_ROWS = 10  # of a group; smaller ones are left out
MAX_GROUPS = 10  # compared, those with most rows
SHEET = None  # name of the sheet to read; None: the only one with these headers
OUTPUT = "outputs/sensitivity.json"  # all numbers
# --------------------------------------------------------------------------

STANCE_HEADERS = re.compile(r"(predicted_)?stance(_\d+)?")  # headers of predict.py
GROUP_WIDTH = 30  # columns of the name of a group on the screen
TRADE = (
    "A correction by a sample of people's labels trades one error for the other (arXiv 2509.08825, where good models led "
    "to wrong conclusions on about 31 % of the hypotheses): it finds fewer differences that are not there, and misses more "
    "that are. Report the wider interval, and how many specifications agree."
)  # fmt: skip


class Labelled(NamedTuple):
    """The same rows as labelled by several specifications."""

    names: list[str]  # of the specifications
    labels: list[list[str]]  # a list of labels for each of them
    groups: list[str]  # one a row
    gold: list[str] | None  # labels of people


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags; fail on those that do not go together."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument("--labelled", nargs="+", help="tables of predict.py, of the same rows")
    parser.add_argument("--runs", nargs="+", help="folders of evaluations on one test split")
    parser.add_argument("--by", default=BY, help="header of the groups (%(default)s)")
    parser.add_argument(
        "--stance-column", default=STANCE_COLUMN, help="header of the labels (default: the last)"
    )
    parser.add_argument(
        "--text-column", default=TEXT_COLUMN, help="header of the sentences (default: text, ...)"
    )
    parser.add_argument(
        "--variants",
        default=VARIANTS,
        choices=("prompts", "all", "none"),
        help="of --runs: other prompts, other spellings and topics too, or none (%(default)s)",
    )
    parser.add_argument(
        "--min-rows", type=int, default=MIN_ROWS, help="of a group at least (%(default)s)"
    )
    parser.add_argument(
        "--max-groups", type=int, default=MAX_GROUPS, help="groups at most (%(default)s)"
    )
    reading.add_file_flags(parser, SHEET)
    parser.add_argument("--output", default=OUTPUT, help="JSON file to write (%(default)s)")
    args = parser.parse_args(argv)
    if bool(args.labelled) == bool(args.runs):
        errors.fail("give --labelled or --runs")
    if args.runs and args.by != BY:
        errors.fail(f"--by {args.by} goes with --labelled: evaluations are grouped by topic")
    if args.min_rows < 1 or args.max_groups < 1:
        errors.fail("--min-rows and --max-groups take numbers from 1")
    given = args.labelled or args.runs
    twice = [name for name, count in Counter(given).items() if count > 1]
    if twice:
        errors.fail(f"{twice[0]} is named twice: name each specification once")
    for path in given:
        files.check_not_input(args.output, {"--labelled": path})
    return args


# ---------------------------------------------------------------- labelled tables


def read_specifications(
    paths: list[str],
    by: str,
    text_column: str | None,
    stance_column: str | None,
    how: reading.Reading,
) -> Labelled:
    """Return the labels of tables of predict.py; fail unless they have the same rows."""
    labels = []
    first = None
    for path in paths:
        keys, own, groups = read_labelled_table(path, by, text_column, stance_column, how)
        if first is None:
            first = (keys, groups)
        if len(keys) != len(first[0]):
            problem = f"{path} has {len(keys)} rows, {paths[0]} has {len(first[0])}"
            errors.fail(f"{problem}: label the same table with both")
        for number, (key, other) in enumerate(zip(keys, first[0], strict=True), start=1):
            if key != other:
                problem = f"{path}: the {number}. row is another one than in {paths[0]}"
                errors.fail(f"{problem}: label the same table with both")
        labels.append(own)
    return Labelled(list(paths), labels, first[1], None)


def read_labelled_table(
    path: str, by: str, text_column: str | None, stance_column: str | None, how: reading.Reading
) -> tuple[list[tuple[str, ...]], list[str], list[str]]:
    """Return (what names each row, its labels, its groups) of a table of predict.py."""
    texts = (cleaning.clean_text(text_column),) if text_column else annotations.COLUMN_NAMES["text"]
    needed = {"text": texts, "group": (cleaning.clean_text(by),)}
    rename = "name the groups by --by and the sentences by --text-column"
    table = tables.open_table(path, needed, how, "name one with --sheet", rename, {})
    column = find_stance_column(table, stance_column)
    topic_columns = find_topic_columns(table)
    keys = []
    labels = []
    groups = []
    for number, cells in table.rows:
        text = cleaning.clean_text(cells[table.columns["text"]])
        group = cleaning.clean_text(cells[table.columns["group"]])
        label = cleaning.clean_text(cells[column])
        if not (text or group or label):
            continue
        where = f"{table.location}, row {number}"
        if label not in prompts.LABELS:
            shown = formatting.quote(label)
            known = ", ".join(prompts.LABELS)
            errors.fail(f"{where}: {shown} is none of {known}: give a table that predict.py wrote")
        if not group:
            errors.fail(f"{where}: no {by}: fill it in")
        topics = [
            cleaning.normalise_key(cleaning.clean_text(cells[index])) for index in topic_columns
        ]
        keys.append((cleaning.normalise_key(text), group, *topics))
        labels.append(label)
        groups.append(group)
    if not keys:
        errors.fail(f"{table.location}: no rows: give a table that predict.py wrote")
    return keys, labels, groups


def find_stance_column(table: tables.Table, given: str | None) -> int:
    """Return the index of the column of labels: the one given, or the last that predict.py
    added."""
    folded = [tables.fold_header(name) for name in table.header]
    if given is not None:
        wanted = tables.fold_header(given)
        fitting = [index for index, name in enumerate(folded) if name == wanted]
    else:
        fitting = [index for index, name in enumerate(folded) if STANCE_HEADERS.fullmatch(name)]
    if not fitting:
        name = given or "stance"
        errors.fail(f"{table.location} has no column {name}: name it by --stance-column")
    return fitting[-1]


def find_topic_columns(table: tables.Table) -> list[int]:
    """Return the indices of the columns of topics: one sentence may have a stance on several."""
    names = annotations.COLUMN_NAMES["topic"]
    folded = [tables.fold_header(name) for name in table.header]
    return [
        index
        for index, name in enumerate(folded)
        if name in names or name.startswith(labelled_reader.GIVEN_TOPIC)
    ]


# ---------------------------------------------------------------- evaluations


def read_evaluations(folders: list[str], variants: str) -> Labelled:
    """Return the labels of evaluations by run and prompt; fail unless their test rows are the same.

    Of each run its last model answers. variants: VARIANTS.
    """
    answers = {}  # {specification: {id: label}}
    truth = None  # {id: (label of people, topic)}
    for folder in folders:
        parts, _ = predictions.read_parts(run_files.find_records(folder))
        found = {row["id"]: (row["label"], row["topic"]) for row in parts["evaluation"]}
        if truth is not None and found != truth:
            errors.fail(f"{folders[0]} and {folder} hold other test rows: evaluate both again")
        truth = found
        answers |= list_answers_of_run(folder, parts, variants)
    if len(answers) < 2:
        problem = f"{folders[0]} has answers to one prompt alone"
        errors.fail(f"{problem}: give several --runs, or evaluate with --robustness-rows")
    common = [row for row in truth if all(row in found for found in answers.values())]
    if not common:
        errors.fail("the prompt variants of these runs have no row in common: give --variants none")
    if len(common) < len(truth):
        counted = f"{len(common)} of {len(truth)} test rows, those that all prompts have"
        print(f"note: {counted}; --variants none takes all")
    labels = [[found[row] for row in common] for found in answers.values()]
    groups = [truth[row][1] for row in common]
    return Labelled(list(answers), labels, groups, [truth[row][0] for row in common])


def list_answers_of_run(
    folder: str, parts: predictions.Parts, variants: str
) -> dict[str, dict[str, str]]:
    """Return {specification: {id: label}} of a run: its usual prompt first.

    A variant with a negated topic has its labels flipped back.
    """
    usual = {row["id"]: row for row in parts["evaluation"]}
    model = list(parts["evaluation"][0]["models"])[-1]
    asked = {"usual prompt": parts["evaluation"]}
    for row in parts["robustness"] if variants != "none" else []:
        asked.setdefault(row["variant"], []).append(row)
    answers = {}
    for variant, rows in asked.items():
        is_wording = all(
            (row["topic"], row["text"]) == (usual[row["id"]]["topic"], usual[row["id"]]["text"])
            for row in rows
        )
        if variants != "all" and not is_wording:
            continue
        found = answers.setdefault(f"{folder}, {variant}", {})
        for row in rows:
            label = row["models"][model]["prediction"]
            found[row["id"]] = prompts.FLIPPED_LABELS[label] if row.get("swaps") else label
    for found in answers.values():
        if None in found.values():
            errors.fail(f"{folder} has replies that are no label: evaluate with --mode score")
    return answers


# ---------------------------------------------------------------- numbers


def choose_groups(labelled: Labelled, min_rows: int, max_groups: int) -> Labelled:
    """Return the rows of the groups that are large enough, at most so many; notes the others."""
    sizes = {
        group: rows for group, rows in sorted(Counter(labelled.groups).items()) if rows >= min_rows
    }
    if not sizes:
        errors.fail(f"no group has {min_rows} rows: give fewer by --min-rows, or another --by")
    chosen, _ = formatting.choose_largest(sizes, max_groups)
    left = len(set(labelled.groups)) - len(chosen)
    if left:
        print(
            f"note: groups left out by --min-rows {min_rows} and --max-groups {max_groups}: {left}"
        )
    kept = [index for index, group in enumerate(labelled.groups) if group in chosen]
    return Labelled(
        labelled.names,
        [[labels[index] for index in kept] for labels in labelled.labels],
        [labelled.groups[index] for index in kept],
        None if labelled.gold is None else [labelled.gold[index] for index in kept],
    )


def format_result(result: dict) -> str:
    """Return the tables and sentences of sensitivity.compare_specifications for the screen."""
    count = result["specifications"]
    parts = [f"{count} specifications, {result['rows']:,} rows", ""]
    parts.append(formatting.format_blocks(*tabulate_shares(result)))
    if any(set(one["counts"]) != {sensitivity.UNCLEAR} for one in result["differences"]):
        parts += ["", "differences of two groups"]
        parts.append(formatting.format_blocks(*tabulate_differences(result)))
    parts += ["", describe_flips(result)]
    return "\n".join(parts)


def tabulate_shares(result: dict) -> tuple[list[str], list[tuple[str, list[list[str]]]]]:
    """Return (header, blocks) of the shares of each label, a block a group."""
    blocks = []
    with_gold = any(group["largest_by_gold"] for group in result["shares"])
    for group in result["shares"]:
        rows = []
        for label, part in group["labels"].items():
            largest = group["largest"].get(label, 0)
            cells = [label]
            cells.append(
                f"{result_tables.format_value(part['values'][0])} "
                f"{result_tables.format_interval(part['first_interval'])}"
            )
            ends = [min(part["values"]), max(part["values"])]
            cells += map(result_tables.format_interval, (ends, part["union"], part["interval"]))
            cells.append(f"{largest} of {result['specifications']}")
            cells += [result_tables.format_value(part["gold"])] if with_gold else []
            rows.append(cells)
        name = text_width.cut_text(group["group"], GROUP_WIDTH)
        blocks.append((f"{name} ({group['rows']:,} rows)", rows))
    header = ["Label", "First", "Lowest, highest", "Union", "With variance between", "Largest"]
    return [*header, *(["People"] if with_gold else [])], blocks


def tabulate_differences(result: dict) -> tuple[list[str], list[tuple[str, list[list[str]]]]]:
    """Return (header, blocks) of the differences that some specification finds, a block for two
    groups."""
    rows_of = {}
    with_gold = any(difference["gold"] for difference in result["differences"])
    for difference in result["differences"]:
        if set(difference["counts"]) == {sensitivity.UNCLEAR}:
            continue
        names = [text_width.cut_text(name, GROUP_WIDTH - 2) for name in difference["groups"]]
        counts = [f"{number} {name}" for name, number in difference["counts"].items()]
        cells = [difference["label"]]
        for key in ("first_interval", "union", "interval"):
            cells.append(result_tables.format_interval(difference[key], signed=True))
        cells.append(", ".join(counts))
        cells += [difference["gold"]] if with_gold else []
        rows_of.setdefault(tuple(difference["groups"]), (" - ".join(names), []))[1].append(cells)
    header = ["Label", "First", "Union", "With variance between", "Conclusions"]
    return [*header, *(["People"] if with_gold else [])], list(rows_of.values())


def describe_flips(result: dict) -> str:
    """Return in sentences how often conclusions flip, and what that means."""
    summary = result["summary"]
    sentences = [
        f"The largest label is not the same for all specifications in {summary['largest_flips']} of "
        f"{summary['groups']} groups."
    ]
    if summary["differences"]:
        sentences.append(
            f"Of {summary['differences']} differences, {summary['flips']} change their conclusion with the "
            f"specification, {summary['opposite']} of them into the opposite; two specifications disagree on "
            f"{100 * summary['disagreement']:.1f} % of them. With the variance between, {summary['lost']} "
            "differences that the first specification finds are no longer clear."
        )
        if all(set(one["counts"]) == {sensitivity.UNCLEAR} for one in result["differences"]):
            sentences.append(
                "No specification finds a difference: with few rows in a group that does not mean that there is none."
            )
    found = summary["errors"]
    if found:
        wrong = found["false_positive"] + found["missed"] + found["opposite"]
        sentences.append(
            f"Against people's labels of the same rows, {wrong} of {found['conclusions']} conclusions are "
            f"others: {found['false_positive']} differences that they do not show, {found['missed']} "
            f"missed, {found['opposite']} the other way round."
        )
    guide = (
        f"Brackets: {result_tables.LEVEL_TEXT} intervals; union: of those of all specifications; with variance "
        "between: Rubin's rules. They do not know of errors that all specifications share."
    )
    return "\n".join([*sentences, guide, TRADE])


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    files.make_folder(Path(args.output).parent)
    if args.labelled:
        if len(args.labelled) < 2:
            errors.fail("--labelled names one table: give two specifications or more")
        how = reading.take_reading(args)
        labelled = read_specifications(
            args.labelled, args.by, args.text_column, args.stance_column, how
        )
    else:
        labelled = read_evaluations(args.runs, args.variants)
    labelled = choose_groups(labelled, args.min_rows, args.max_groups)
    labels = np.array([analysis.index_labels(row) for row in labelled.labels])
    gold = None if labelled.gold is None else analysis.index_labels(labelled.gold)
    result = sensitivity.compare_specifications(labels, labelled.groups, gold)
    files.write_json(args.output, {"names": labelled.names, "by": args.by, **result})
    print(format_result(result))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    errors.run_script(main)
