"""Split an annotated corpus into train.jsonl, val.jsonl and test.jsonl, 80/10/10.

Reads the .xlsx, .csv, .tsv or .jsonl file --corpus with the columns topic, text and stance, or those of --columns.
Writes the three splits and prepare_data.report.json to --output-dir; nothing at all if the corpus has a defect.
With --check, writes no splits but shows all that is wrong, and marks it in a copy: <name>.checked.xlsx.
With --strict, what is doubtful counts as wrong: numbers and dates in place of texts, cut texts, differing stances.

    python prepare_data.py
    python prepare_data.py --corpus my_annotations.xlsx --check
    python prepare_data.py --corpus my_annotations.xlsx --output-dir data/my-corpus --seed 1
    python prepare_data.py --corpus my_annotations.xlsx --columns Claim "Full text" Code --strict
    python prepare_data.py --hold-out-topic "Vegans are right." --output-dir data/without-vegans
"""

from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load

# isort: split
import argparse
import gc
from collections import Counter
from pathlib import Path

import prompts
from stance.common import environment, errors, files, flags, formatting
from stance.common.types import AnnotatedRow, Example
from stance.corpus import (
    annotations,
    cleaning,
    labels,
    marked_copy,
    near_duplicates,
    reading,
    splitting,
    tables,
)

# ---------------------------------------------------------------- settings
CORPUS = "data/stance_corpus_sample.xlsx"  # annotated file: .xlsx, .csv, .tsv, .jsonl or .json
DATA_DIR = "data"  # folder of the splits
LABELS = ()  # words as of --labels: what the stances of the corpus mean
MIN_ROWS = 30  # usable rows; with fewer, val and test would hold one or two
CLEAN_C1 = True  # don\x92t, cp1252 misread, becomes don’t; False: such characters are dropped
UNESCAPE_HTML = True  # &gt; becomes >; False: HTML entities stay as they are
# --------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags; fail unless --columns names three headers. argv: None for sys.argv."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument("--corpus", default=CORPUS, help="annotated file (%(default)s)")
    parser.add_argument("--output-dir", default=DATA_DIR, help="folder of the splits (%(default)s)")
    parser.add_argument(
        "--seed",
        type=flags.seed,
        default=splitting.SPLIT_SEED,
        help="random seed of the splits (%(default)s)",
    )
    reading.add_file_flags(parser)
    parser.add_argument(
        "--columns",
        nargs=3,
        metavar=("TOPIC", "TEXT", "STANCE"),
        help="their headers (default: those of stance/corpus/annotations.py)",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL=STANCE,...",
        default=LABELS,
        help="what stances mean: pro=1 con=-1 neu=0 drop=unrelated (default: built-in spellings)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="doubtful cells and differing stances are errors"
    )
    parser.add_argument(
        "--check", action="store_true", help="mark all that is wrong in a copy, write no splits"
    )
    parser.add_argument(
        "--hold-out-topic", help="test on this topic, train and validate on the others"
    )
    args = parser.parse_args(argv)
    if args.columns:
        headers = {tables.fold_header(cleaning.clean_text(header)) for header in args.columns}
        if "" in headers or len(headers) < 3:
            given = " ".join(map(formatting.quote, args.columns))
            errors.fail(f"--columns {given}: give three different headers")
    return args


def check_corpus(
    path: str | Path, scan: annotations.Scan, merged: annotations.MergedRows, strict: bool
) -> bool:
    """Show all that is wrong with a corpus and mark it in a copy; return whether splits can be
    made.

    scan, merged: of the corpus; strict: whether differing stances are a problem.
    """
    clashes = marked_copy.find_clashes(merged.duplicates, merged.conflicts, strict)
    findings = scan.findings + clashes
    problems = sum(finding.serious for finding in findings)
    notes = len(findings) - problems
    usable = len(merged.rows)
    print(f"{scan.table.location}: {usable} usable rows, {problems} problems, {notes} notes")
    if findings:
        print(marked_copy.format_findings(findings))
        print(f"wrote {marked_copy.write_checked(path, scan.table, findings)}")
    return problems == 0


def make_splits(
    path: str | Path, rows: list[AnnotatedRow], seed: int, topic: str | None = None
) -> dict[str, list[Example]]:
    """Return {split: lines of its file}, sorted by id.

    path: of the corpus, for messages. topic: the one to hold out; None: the splits share all
    topics. Fails if there are too few rows to split, or none of the topic.
    """
    if len(rows) < MIN_ROWS:
        errors.fail(f"{path}: only {len(rows)} usable rows, {MIN_ROWS} are needed: annotate more")
    if topic is None:
        drawn = splitting.draw_splits(rows, seed)
    else:
        drawn = draw_topic(path, rows, seed, topic)
    splits = {name: [make_line(row) for row in part] for name, part in drawn.items()}
    for name, lines in splits.items():
        if not lines:
            problem = f"the {name} split is empty, there are too few different sentences"
            errors.fail(f"{path}: {problem}: annotate more")
        lines.sort(key=lambda line: line["id"])  # so that the order of the corpus does not matter
    splitting.check_splits_disjoint(splits)
    return splits


def draw_topic(
    path: str | Path, rows: list[AnnotatedRow], seed: int, topic: str
) -> dict[str, list[AnnotatedRow]]:
    """Return {split: rows} with one topic as test split; fail if no row has it.

    path: of the corpus, for messages. Prints a note on rows that are left out.
    """
    held_out = splitting.hold_out_topic(rows, topic, seed)
    if held_out is None:
        known = formatting.list_first(sorted({formatting.quote(row["topic"]) for row in rows}))
        problem = f"no row has the topic {formatting.quote(topic)}"
        errors.fail(f"{path}: {problem}: hold out one of {known}")
    splits, left_out = held_out
    if left_out:
        numbers = formatting.count_rows([row["row"] for row in left_out])
        print(f"left out: sentences of other topics that also occur in the test topic, {numbers}")
    return splits


def make_line(row: AnnotatedRow) -> Example:
    """Return a line of a split file: the keys of splitting.SPLIT_KEYS in their order."""
    topic = row["topic"]
    text = row["text"]
    line = {
        **row,
        "id": splitting.make_id(topic, text),
        "prompt": prompts.build_prompt(topic, text),
    }
    return {key: line[key] for key in splitting.SPLIT_KEYS}


def count_labels(splits: dict[str, list[Example]]) -> dict[str, dict[str, dict[str, int]]]:
    """Return {split: {topic: {label: rows}}}, with zeros, topics in alphabetical order."""
    topics = sorted({line["topic"] for lines in splits.values() for line in lines})
    counts = {}
    for name, lines in splits.items():
        found = Counter((line["topic"], line["label"]) for line in lines)
        counts[name] = {
            topic: {label: found[topic, label] for label in prompts.LABELS} for topic in topics
        }
    return counts


def format_counts(counts: dict[str, dict[str, dict[str, int]]]) -> str:
    """Return the table of what count_labels counts: a line a topic and label, and totals."""
    lines = []
    totals = [0] * (len(splitting.SPLITS) + 1)
    for topic in counts[splitting.SPLITS[0]]:
        for label in prompts.LABELS:
            numbers = [counts[name][topic][label] for name in splitting.SPLITS]
            numbers.append(sum(numbers))
            lines.append([formatting.cut(topic), label, *map(str, numbers)])
            totals = [total + number for total, number in zip(totals, numbers, strict=True)]
    lines.append(["All topics", "all", *map(str, totals)])
    return formatting.format_table(["Topic", "Label", *splitting.SPLITS, "total"], lines)


def format_merging(duplicates: list[dict], conflicts: list[dict]) -> str:
    """Return the lines on duplicates and conflicts, with their Excel rows.

    duplicates, conflicts: from annotations.merge_duplicates.
    """
    merged = [f"{row} = {entry['kept']}" for entry in duplicates for row in entry["merged"]]
    what = "rows that repeat an earlier one with the same stance; merged"
    lines = [f"duplicates: {len(merged)} ({what})"]
    if merged:
        lines.append(f"  Excel rows {formatting.list_first(merged)}")

    left_out = sum(len(entry["rows"]) for entry in conflicts)
    what = f"sentences with different stances on a topic; {left_out} rows left out"
    lines.append(f"conflicts: {len(conflicts)} ({what})")
    if conflicts:
        clashes = []
        for entry in conflicts:
            clashes.append(" / ".join(f"{row['row']} {row['stance']}" for row in entry["rows"]))
        lines.append(f"  Excel rows {formatting.list_first(clashes)}")
    return "\n".join(lines)


def format_near(found: list[dict]) -> str:
    """Return the lines on sentences that are nearly those of another split, with their Excel rows.

    found: from near_duplicates.find_near_duplicates.
    """
    what = "sentences one word away from a sentence of another split"
    lines = [f"near-duplicates: {len(found)} ({what})"]
    if found:
        pairs = [
            f"{entry['row']} {entry['split']} ~ {entry['like']} {entry['like_split']}"
            for entry in found
        ]
        lines.append(f"  Excel rows {formatting.list_first(pairs)}")
    return "\n".join(lines)


def check_corpus_is_kept(output_dir: Path, corpus: str) -> None:
    """Fail if the corpus is one of the files that would be written."""
    for name in (*(f"{name}.jsonl" for name in splitting.SPLITS), splitting.REPORT):
        files.check_not_input(output_dir / name, {"--corpus": corpus})


def write_files(output_dir: Path, splits: dict[str, list[Example]], report: dict) -> list[Path]:
    """Write the split files and, with their hashes, the report; return the paths."""
    try:
        splitting.write_splits(output_dir, splits, report)
    except OSError as problem:
        hint = "choose another --output-dir"
        errors.fail(f"cannot write to {output_dir} ({problem.strerror}): {hint}")
    return [*(output_dir / f"{name}.jsonl" for name in splits), output_dir / splitting.REPORT]


def main(argv: list[str] | None = None) -> None:
    """Read the corpus, draw the splits and write them; or, with --check, show what is wrong."""
    args = parse_args(argv)
    output_dir = Path(args.output_dir)
    repairs = cleaning.Cleaning(CLEAN_C1, UNESCAPE_HTML)
    check_corpus_is_kept(output_dir, args.corpus)
    stances = labels.read_stances(args.labels)
    scan = annotations.scan_corpus(
        args.corpus, reading.take_reading(args), args.columns, args.strict, repairs, stances
    )
    annotations.note_repairs(scan.table.location, scan.repairs)
    table, rows = scan.table, scan.rows
    merged = annotations.merge_duplicates(rows)
    kept, duplicates, conflicts = merged
    if args.check:
        is_usable = check_corpus(args.corpus, scan, merged, args.strict)
        if is_usable:
            make_splits(args.corpus, kept, args.seed, args.hold_out_topic)  # fails if it cannot
        raise SystemExit(0 if is_usable else 2)
    annotations.check_rows(table.location, rows, scan.findings)
    tables.note_unused(table)
    if args.strict:
        clashes = marked_copy.find_clashes([], conflicts, serious=True)
        annotations.check_rows(table.location, kept, clashes)
    print(f"{args.corpus}: {len(rows)} rows, {len(kept)} used")
    print(format_merging(duplicates, conflicts))
    splits = make_splits(args.corpus, kept, args.seed, args.hold_out_topic)
    near = near_duplicates.find_near_duplicates(splits, kept)
    print(format_near(near))
    counts = count_labels(splits)
    report = {
        "corpus": {
            "file": Path(args.corpus).name,
            "sha256": files.hash_file(args.corpus),
            "rows": len(rows),
        },
        "seed": args.seed,
        "hold_out_topic": args.hold_out_topic,
        "prompt_version": prompts.PROMPT_VERSION,
        "cleaning_version": cleaning.describe_cleaning(repairs),
        "labels": stances.named,
        "repaired_cells": dict(scan.repairs),
        "counts": counts,
        "duplicates": duplicates,
        "conflicts": conflicts,
        "near_duplicates": near,
        "environment": environment.describe_environment(),
    }
    paths = write_files(output_dir, splits, report)
    splitting.read_report(
        output_dir, splits
    )  # fails if another run wrote into the folder meanwhile
    print(f"\n{format_counts(counts)}\n")
    used = [label for label in prompts.LABELS if any(row["label"] == label for row in kept)]
    if len(used) < len(prompts.LABELS):
        print(f"note: no row has a label but {' and '.join(used)}")
    for path in paths:
        print(f"wrote {path}")


if __name__ == "__main__":
    # A million rows are no garbage; to look through them again and again takes a fifth of the time.
    gc.disable()
    errors.run_script(main)
