"""Split an annotated corpus into train.jsonl, val.jsonl and test.jsonl, 80/10/10, or as it was published.

Reads the table --corpus (.xlsx, .csv, .tsv, .jsonl and others), or several, with the columns topic, text and stance, or
those of --columns; or the published splits --train, --val and --test.
Writes the three splits and prepare_data.report.json to --output-dir; nothing at all if the corpus has a defect, unless
--skip-bad leaves such rows out and lists them in prepare_data.skipped.csv.
With --check, writes no splits but shows all that is wrong, and marks it in a copy: <name>.checked.xlsx.
With --strict, what is doubtful counts as wrong: numbers and dates in place of texts, cut texts, differing stances.

    python prepare_data.py
    python prepare_data.py --corpus my_annotations.xlsx --check
    python prepare_data.py --corpus my_annotations.xlsx --output-dir data/my-corpus --seed 1
    python prepare_data.py --corpus my_annotations.xlsx --columns Claim "Full text" Code --strict
    python prepare_data.py --corpus coded.csv --labels pro=1 con=-1 neu=0 --split-column set
    python prepare_data.py --hold-out-topic "Vegans are right." --output-dir data/without-vegans
"""

from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load

# isort: split
import argparse
import gc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import prompts
from stance.common import environment, errors, files, flags, formatting
from stance.common.types import AnnotatedRow, Example
from stance.corpus import (
    annotations,
    cleaning,
    corpus_flags,
    dates,
    duplicates,
    grouping,
    marked_copy,
    near_duplicates,
    published_splits,
    splitting,
    tables,
    voting,
)

# ---------------------------------------------------------------- settings
CORPUS = "data/stance_corpus_sample.xlsx"  # annotated file, or several: ("a.csv", "b.csv")
DATA_DIR = "data"  # folder of the splits
LABELS = ()  # words as of --labels: what the stances of the corpus mean
SPLIT_BY = "random"  # time: the newest rows, by --date-column, are the test split
MIN_ROWS = 30  # usable rows; with fewer, val and test would hold one or two
CLEAN_C1 = True  # don\x92t, cp1252 misread, becomes don’t; False: such characters are dropped
UNESCAPE_HTML = True  # &gt; becomes >; False: HTML entities stay as they are
# --------------------------------------------------------------------------

SKIPPED = "prepare_data.skipped.csv"  # rows that --skip-bad left out
SKIPPED_HEADER = ("file", "row", "topic", "text", "stance", "reason")


class SplitPlan(NamedTuple):
    """How a corpus is split; without anything, at random with all topics in all splits."""

    topics: list[str] | None = None  # the test split is these topics, held out
    is_published: bool = False  # rows have a split already
    keeps_leaks: bool = False  # of published splits
    by_time: bool = False  # the newest rows are the test split
    has_groups: bool = False  # rows have values of --group-column


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags; fail on those that do not go together. argv: None for sys.argv."""
    parser = flags.FlagParser(__doc__)
    corpus_flags.add_corpus_flags(parser, CORPUS, LABELS)
    parser.add_argument("--output-dir", default=DATA_DIR, help="folder of the splits (%(default)s)")
    parser.add_argument(
        "--seed",
        type=flags.seed,
        default=splitting.SPLIT_SEED,
        help="random seed of the splits (%(default)s)",
    )
    parser.add_argument(
        "--check", action="store_true", help="mark all that is wrong in a copy, write no splits"
    )
    parser.add_argument(
        "--hold-out-topic",
        nargs="+",
        metavar="TOPIC",
        help="test on this topic, or these, train and validate on the others",
    )
    parser.add_argument(
        "--split-column", help="the published split of each row: train, val (dev) or test"
    )
    parser.add_argument(
        "--train", nargs="+", metavar="FILE", help="file, or files, of the published train split"
    )
    parser.add_argument(
        "--val", nargs="+", metavar="FILE", help="the same of val; without it, val is of train"
    )
    parser.add_argument("--test", nargs="+", metavar="FILE", help="the same of the test split")
    parser.add_argument(
        "--keep-leaks",
        action="store_true",
        help="keep sentences that stand in two published splits, and record them",
    )
    parser.add_argument(
        "--split-by",
        choices=("random", "time"),
        default=SPLIT_BY,
        help="how to split; time: the newest rows are the test split (%(default)s)",
    )
    parser.add_argument("--date-column", help="dates of the rows, for --split-by time")
    args = parser.parse_args(argv)
    corpus_is_given = args.corpus != parser.get_default("corpus")
    check_split_flags(args, corpus_is_given)
    return args


def check_split_flags(args: argparse.Namespace, corpus_is_given: bool) -> None:
    """Fail if the flags that say how to split do not go together."""
    files_given = [f"--{name}" for name in splitting.SPLITS if getattr(args, name)]
    published = bool(files_given or args.split_column)
    ways = {
        "--train, --val and --test": files_given,
        "--split-column": args.split_column,
        "--hold-out-topic": args.hold_out_topic,
        "--split-by time": args.split_by == "time",
    }
    chosen = [way for way, is_given in ways.items() if is_given]
    if len(chosen) > 1:
        errors.fail(f"{' and '.join(chosen)} do not go together: leave one out")
    if files_given and corpus_is_given:
        errors.fail("--corpus and --train, --val, --test do not go together: leave one out")
    if files_given and not (args.train and args.test):
        errors.fail(f"{' and '.join(files_given)}: give --train and --test (and --val, if it is)")
    if args.keep_leaks and not published:
        errors.fail("--keep-leaks is for published splits: give --split-column, or --train --test")
    if args.group_column and published:
        errors.fail("--group-column does not go with published splits: leave it out")
    if args.group_column and args.split_by == "time":
        problem = "a group may have old and new rows"
        errors.fail(f"--group-column does not go with --split-by time: {problem}: leave one out")
    if (args.split_by == "time") != (args.date_column is not None):
        errors.fail("--split-by time and --date-column go together")


def list_sources(args: argparse.Namespace) -> list[tuple[str, str | None]]:
    """Return (file, its split as published or None) of all files to read; fail if one is there
    twice."""
    sources = [(path, None) for path in args.corpus]
    if args.train:
        sources = [(path, name) for name in splitting.SPLITS for path in getattr(args, name) or ()]
    seen = set()
    for path, _ in sources:
        if Path(path).resolve() in seen:
            errors.fail(f"{path} is named twice: name each file once")
        seen.add(Path(path).resolve())
    return sources


def check_corpus(
    scans: list[annotations.Scan], decided: duplicates.Decided, strict: bool, skip_bad: bool
) -> bool:
    """Show all that is wrong with a corpus and mark it in copies of its files; return whether
    splits can be made.

    decided: of the scans; strict: whether differing stances are a problem. skip_bad: whether
    problems leave out their rows alone.
    """
    clashes = marked_copy.find_clashes(decided, strict)
    counts = annotations.count_rows_of_files(scans, decided.rows)
    problems = 0
    for (scan, findings), used in zip(annotations.share_findings(scans, clashes), counts):
        serious = sum(finding.serious for finding in findings)
        usable = f"{used} usable rows"
        print(
            f"{scan.table.location}: {usable}, {serious} problems, {len(findings) - serious} notes"
        )
        if findings:
            print(marked_copy.format_findings(findings))
            print(f"wrote {marked_copy.write_checked(scan.path, scan.table, findings)}")
        problems += serious
    return problems == 0 or skip_bad


def make_splits(
    name: str, rows: list[AnnotatedRow], seed: int, plan: SplitPlan = SplitPlan()
) -> dict[str, list[AnnotatedRow]]:
    """Return {split: its rows}.

    name: of the corpus, for messages. Fails if there are too few rows to split,
    or none of a topic held out.
    """
    if len(rows) < MIN_ROWS:
        errors.fail(f"{name}: only {len(rows)} usable rows, {MIN_ROWS} are needed: annotate more")
    if plan.topics:
        drawn = draw_topics(name, rows, seed, plan.topics)
    elif plan.is_published:
        drawn = splitting.take_published(rows, seed)
    elif plan.by_time:
        check_dates(name, rows)
        drawn = splitting.draw_by_time(rows, seed)
    else:
        drawn = splitting.draw_splits(rows, seed)
    for split, part in drawn.items():
        if not part:
            errors.fail(f"{name}: {explain_empty(split, rows, plan)}")
    splitting.check_splits_disjoint(drawn)
    if plan.by_time:
        print(format_dates(drawn))
    elif plan.has_groups:
        note_large_groups(rows)
    return drawn


def explain_empty(split: str, rows: list[AnnotatedRow], plan: SplitPlan) -> str:
    """Return why a split has no rows, and what to do."""
    if plan.is_published:
        problem = f"no row is left for the {split} split: none is marked so"
        return f"{problem}, or all of their sentences stand in another split: mend the splits"
    largest = max(map(len, grouping.gather_groups(rows).values()))
    if largest > len(rows) * splitting.HELD_OUT_SHARES["val"]:
        what = f"{largest} of {len(rows)} rows belong together and go to one split"
        why = "equal sentences or posts, or one value of --group-column, or linked by both"
        hint = "leave out --group-column, or what repeats"
        return f"the {split} split is empty: {what} ({why}): {hint}"
    return f"the {split} split is empty, there are too few different sentences: annotate more"


def note_large_groups(rows: list[AnnotatedRow]) -> None:
    """Print a note if rows that stay together are too many for splits of their shares."""
    largest = max(map(len, grouping.gather_groups(rows).values()))
    if largest > len(rows) * splitting.HELD_OUT_SHARES["val"]:
        what = f"{largest} of {len(rows)} rows belong together and are in one split"
        print(f"note: {what}: the shares of the splits may differ from 80/10/10")


def draw_topics(
    name: str, rows: list[AnnotatedRow], seed: int, topics: list[str]
) -> dict[str, list[AnnotatedRow]]:
    """Return {split: rows} with some topics as test split; fail if no row has one of them.

    name: of the corpus, for messages. Prints a note on rows that are left out.
    """
    known = {cleaning.normalise_key(row["topic"]) for row in rows}
    for topic in topics:
        if cleaning.normalise_key(topic) not in known:
            shown = formatting.list_first(sorted({formatting.quote(row["topic"]) for row in rows}))
            problem = f"no row has the topic {formatting.quote(topic)}"
            errors.fail(f"{name}: {problem}: hold out one of {shown}")
    splits, left_out = splitting.hold_out_topics(rows, topics, seed)
    if left_out:
        numbers = formatting.count_rows([row["row"] for row in left_out])
        print(f"left out: sentences of other topics that also occur in the test topic, {numbers}")
    return splits


def check_dates(name: str, rows: list[AnnotatedRow]) -> None:
    """Fail if some dates of a corpus are numbers and some are not: they have no order."""
    numbers = [row["row"] for row in rows if isinstance(row["date"], float)]
    if numbers and len(numbers) < len(rows):
        listed = formatting.count_rows(numbers)
        errors.fail(f"{name}: dates are numbers in {listed} and not in others: {dates.DATE_HINT}")


def format_dates(drawn: dict[str, list[AnnotatedRow]]) -> str:
    """Return the line on the dates of splits by time."""
    parts = []
    newest_before = None  # of the split before
    for split, rows in drawn.items():
        found = [row["date"] for row in rows]
        first, last = map(dates.format_date, (min(found), max(found)))
        part = f"{split} {first} to {last}"
        older = sum(newest_before is not None and date < newest_before for date in found)
        if older:
            part += f" ({older} rows of them are older, and repeated by newer ones)"
        newest_before = max(found)
        parts.append(part)
    return f"dates: {', '.join(parts)}"


def make_line(row: AnnotatedRow) -> Example:
    """Return a line of a split file: splitting.SPLIT_KEYS and those of MORE_KEYS that it has."""
    topic = row["topic"]
    text = row["text"]
    line = {
        "id": splitting.make_id(topic, text),
        "topic": topic,
        "text": text,
        "stance": row["stance"],
        "prompt": prompts.build_prompt(topic, text),
        "label": row["label"],
    }
    for key in splitting.MORE_KEYS:
        if key in row:
            line[key] = row[key]
    return line


def make_lines(drawn: dict[str, list[AnnotatedRow]]) -> dict[str, list[Example]]:
    """Return {split: lines of its file}, sorted by id: the order of the corpus does not matter."""
    splits = {}
    for split, rows in drawn.items():
        splits[split] = sorted(map(make_line, rows), key=lambda line: line["id"])
    return splits


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
    sizes = {}  # rows by topic
    for topic in counts[splitting.SPLITS[0]]:
        sizes[topic] = sum(sum(counts[name][topic].values()) for name in splitting.SPLITS)
    shown, others = formatting.choose_largest(sizes)
    groups = [(formatting.cut(topic), [topic]) for topic in shown]
    if others:
        groups.append((formatting.name_others(len(others)), others))
    used_labels = [
        label
        for label in prompts.LABELS
        if any(counts[name][topic][label] for name in splitting.SPLITS for topic in sizes)
    ]
    lines = []
    totals = [0] * (len(splitting.SPLITS) + 1)
    for title, topics in groups:
        for label in used_labels:
            numbers = [
                sum(counts[name][topic][label] for topic in topics) for name in splitting.SPLITS
            ]
            numbers.append(sum(numbers))
            lines.append([title, label, *map(str, numbers)])
            totals = [total + number for total, number in zip(totals, numbers, strict=True)]
    lines.append(["All topics", "all", *map(str, totals)])
    return formatting.format_table(["Topic", "Label", *splitting.SPLITS, "total"], lines)


def format_merging(repeated: list[dict], conflicts: list[dict]) -> str:
    """Return the lines on duplicates and conflicts, with their rows.

    repeated, conflicts: from duplicates.merge_duplicates.
    """
    merged = [f"{row} = {entry['kept']}" for entry in repeated for row in entry["merged"]]
    what = "rows that repeat an earlier one with the same stance; merged"
    lines = [f"duplicates: {len(merged)} ({what})"]
    if merged:
        lines.append(f"  rows {formatting.list_first(merged)}")

    left_out = sum(len(entry["rows"]) for entry in conflicts)
    what = f"sentences with different stances on a topic; {left_out} rows left out"
    lines.append(f"conflicts: {len(conflicts)} ({what})")
    if conflicts:
        lines[-1] += "; of several annotators, --annotator-column(s) counts the votes"
        clashes = []
        for entry in conflicts:
            clashes.append(" / ".join(f"{row['row']} {row['stance']}" for row in entry["rows"]))
        lines.append(f"  rows {formatting.list_first(clashes)}")
    return "\n".join(lines)


def format_near(found: list[dict]) -> str:
    """Return the lines on sentences that are nearly those of another split, with their rows.

    found: from near_duplicates.find_near_duplicates.
    """
    what = "sentences one word away from a sentence of another split"
    lines = [f"near-duplicates: {len(found)} ({what})"]
    if found:
        pairs = [
            f"{entry['row']} {entry['split']} ~ {entry['like']} {entry['like_split']}"
            for entry in found
        ]
        lines.append(f"  rows {formatting.list_first(pairs)}")
    return "\n".join(lines)


def format_leaks(leaks: list[dict], marked: int, are_kept: bool) -> str:
    """Return the lines on sentences that stand in several published splits.

    leaks: of published_splits.separate_splits; marked: rows that it marked as leaked.
    """
    done = "taken out of the split named first"
    if are_kept:
        done = f"kept; {marked} rows of test and val, whose scores they raise, are marked as leaked"
    lines = [f"leaks: {len(leaks)} rows whose sentence another published split holds; {done}"]
    if leaks:
        pairs = [
            f"{one['row']} {one['split']} = {one['like']} {one['like_split']}" for one in leaks
        ]
        lines.append(f"  rows {formatting.list_first(pairs)}")
        counts = Counter(f"{one['split']} = {one['like_split']}" for one in leaks)
        lines.append(f"  {', '.join(f'{pair}: {count}' for pair, count in counts.items())}")
    return "\n".join(lines)


def check_corpus_is_kept(output_dir: Path, sources: list[tuple[str, str | None]]) -> None:
    """Fail if a file of the corpus is one of the files that would be written.

    sources: of list_sources.
    """
    for name in (*(f"{name}.jsonl" for name in splitting.SPLITS), splitting.REPORT, SKIPPED):
        for path, split in sources:
            files.check_not_input(output_dir / name, {f"--{split or 'corpus'}": path})


def list_skipped(scans: list[annotations.Scan]) -> list[list[str]]:
    """Return a line of prepare_data.skipped.csv for each row that cannot be used."""
    lines = []
    for scan in scans:
        reasons = {}  # findings by row number
        for finding in scan.findings:
            if finding.serious:
                reasons.setdefault(finding.row, []).append(f"{finding.what}: {finding.hint}")
        for row, cells in sorted(scan.bad_rows.items()):
            lines.append([str(scan.path), str(row), *cells, "; ".join(reasons[row])])
    return lines


def write_files(
    output_dir: Path,
    splits: dict[str, list[Example]],
    skipped: list[list[str]],
    find_report: Callable[[], dict],
) -> list[Path]:
    """Write the split files, the rows that are left out and, with hashes, the report; return the
    paths.

    find_report: called once the splits are written, so that what it waits for is found meanwhile.
    """
    paths = [output_dir / f"{name}.jsonl" for name in splits]
    try:
        with errors.explain_full_disk(output_dir):
            (output_dir / SKIPPED).unlink(missing_ok=True)  # of an earlier run
            if skipped:
                tables.write_table(output_dir / SKIPPED, SKIPPED_HEADER, skipped)
                paths.append(output_dir / SKIPPED)
            hashes = splitting.write_split_files(output_dir, splits)
            splitting.write_report(output_dir, find_report(), hashes)
    except OSError as problem:
        hint = "choose another --output-dir"
        errors.fail(f"cannot write to {output_dir} ({problem.strerror}): {hint}")
    return [*paths, output_dir / splitting.REPORT]


def read_sources(
    sources: list[tuple[str, str | None]], options: corpus_flags.CorpusOptions
) -> list[annotations.Scan]:
    """Return the scans of (file, its published split or None), with notes on what was repaired."""
    scans = annotations.scan_files([path for path, _ in sources], options)
    for scan, (_, split) in zip(scans, sources, strict=True):
        annotations.note_repairs(scan.table.location, scan.repairs)
        if split is not None:
            for row in scan.rows:
                row["split"] = split
    return scans


def note_unused_columns(scans: list[annotations.Scan]) -> None:
    """Print which columns of the files nothing reads, once for files that have the same."""
    files_of_columns = {}
    for scan in scans:
        unused = tuple(tables.list_unused(scan.table))
        files_of_columns.setdefault(unused, []).append(scan.table.location)
    for unused, locations in files_of_columns.items():
        if unused:
            listed = tables.quote_all(unused)
            print(f"note: {formatting.list_first(locations)}: columns that are not used: {listed}")


def note_repeated_ids(scans: list[annotations.Scan]) -> None:
    """Print a note if ids of --id-column name several rows of a corpus: they do not join back."""
    counts = Counter(row["source_id"] for scan in scans for row in scan.rows)
    repeated = [formatting.quote(name) for name, count in counts.items() if count > 1]
    if repeated:
        listed = formatting.list_first(repeated)
        print(f"note: {len(repeated):,} ids of --id-column name several rows: {listed}")


def report_decisions(decided: duplicates.Decided) -> None:
    """Print what became of rows that repeat others."""
    if decided.votes is not None:
        print(voting.format_agreement(decided))
    else:
        print(format_merging(decided.duplicates, decided.conflicts))


def separate_leaks(
    rows: list[AnnotatedRow], plan: SplitPlan
) -> tuple[list[AnnotatedRow], list[dict]]:
    """Return (rows, leaks) of published splits as published_splits.separate_splits does; of
    others, all rows."""
    if not plan.is_published:
        return rows, []
    return published_splits.separate_splits(rows, plan.keeps_leaks)


def describe_reading(
    scans: list[annotations.Scan],
    options: corpus_flags.CorpusOptions,
    decided: duplicates.Decided,
) -> dict:
    """Return what the report says about how a corpus was read, before it was split."""
    corpus = []
    for scan in scans:
        sha256 = files.hash_file(scan.path)
        corpus.append({"file": Path(scan.path).name, "sha256": sha256, "rows": len(scan.rows)})
    return {
        "corpus": corpus,
        "prompt_version": prompts.PROMPT_VERSION,
        "cleaning_version": cleaning.describe_cleaning(options.repairs),
        "topic": options.topic,
        "labels": options.stances.named,
        "dropped": dict(sum((scan.dropped for scan in scans), Counter())),
        "group_column": options.group_column,
        "repaired_cells": dict(sum((scan.repairs for scan in scans), Counter())),
        "duplicates": decided.duplicates,
        "conflicts": decided.conflicts,
        "agreement": None if decided.votes is None else decided.votes.agreement,
        "ties": None if decided.votes is None else decided.votes.ties,
    }


def describe_way(args: argparse.Namespace) -> str:
    """Return in a word or two how the splits were made."""
    if args.train:
        return "published files"
    if args.split_column:
        return f"column {args.split_column}"
    return "topic" if args.hold_out_topic else args.split_by


def main(argv: list[str] | None = None) -> None:
    """Read the corpus, draw the splits and write them; or, with --check, show what is wrong."""
    args = parse_args(argv)
    output_dir = Path(args.output_dir)
    repairs = cleaning.Cleaning(CLEAN_C1, UNESCAPE_HTML)
    options = corpus_flags.take_options(args, repairs)
    plan = SplitPlan(
        args.hold_out_topic,
        is_published=bool(args.train or args.split_column),
        keeps_leaks=args.keep_leaks,
        by_time=args.split_by == "time",
        has_groups=options.group_column is not None,
    )
    sources = list_sources(args)
    paths = [path for path, _ in sources]
    check_corpus_is_kept(output_dir, sources)
    scans = read_sources(sources, options)
    name = formatting.list_first(paths if len(paths) == 1 else annotations.name_files(paths))
    location = scans[0].table.location if len(scans) == 1 else name
    decided = voting.decide_rows((row for scan in scans for row in scan.rows), options)
    if args.check:
        is_usable = check_corpus(scans, decided, args.strict, args.skip_bad)
        if is_usable:
            kept, _ = separate_leaks(decided.rows, plan)
            make_splits(name, kept, args.seed, plan)  # fails if it cannot
        if decided.votes is not None:
            print(voting.format_agreement(decided))
        raise SystemExit(0 if is_usable else 2)
    skipped = list_skipped(scans) if args.skip_bad else []
    annotations.check_scans(scans, args.skip_bad)
    note_unused_columns(scans)
    if options.id_column is not None and options.annotator_column is None:
        note_repeated_ids(scans)
    if args.strict and not args.skip_bad and decided.conflicts:
        clashes = marked_copy.find_clashes(decided, serious=True)
        annotations.check_rows(location, decided.rows, clashes)
    rows, leaks = separate_leaks(decided.rows, plan)
    read = sum(len(scan.rows) + len(scan.bad_rows) + scan.dropped.total() for scan in scans)
    print(f"{name}: {read} rows, {len(rows)} used")
    if skipped:
        print(f"skipped: {len(skipped)} rows that cannot be used, listed in {SKIPPED}")
    report_decisions(decided)
    marked = sum("leaked" in row for row in rows)
    if plan.is_published:
        print(format_leaks(leaks, marked, plan.keeps_leaks))
        if not any(row["split"] == "val" for row in rows):
            print("note: no row is of val: the val split is drawn from train")
    drawn = make_splits(name, rows, args.seed, plan)
    find_near = near_duplicates.start_search(drawn, rows)
    splits = make_lines(drawn)
    counts = count_labels(splits)
    report = {
        **describe_reading(scans, options, decided),
        "seed": args.seed,
        "split_by": describe_way(args),
        "hold_out_topics": args.hold_out_topic,
        "skipped": len(skipped),
        "counts": counts,
        "leaks": {"are_kept": args.keep_leaks, "marked": marked, "rows": leaks},
        "environment": environment.describe_environment(),
    }
    written = write_files(
        output_dir, splits, skipped, lambda: {**report, "near_duplicates": find_near()}
    )
    # Fails if another run wrote into the folder meanwhile.
    splitting.read_report(output_dir, splits)
    print(format_near(find_near()))
    print(f"\n{format_counts(counts)}\n")
    used = [label for label in prompts.LABELS if any(row["label"] == label for row in rows)]
    if len(used) < len(prompts.LABELS):
        what = f"no row has a label but {' and '.join(used)}"
        print(f"note: {what}: scores will be means over these alone")
    for path in written:
        print(f"wrote {path}")


if __name__ == "__main__":
    # A million rows are no garbage; to look through them again and again takes a fifth of the time.
    gc.disable()
    errors.run_script(main)
