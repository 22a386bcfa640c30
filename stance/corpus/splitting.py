"""Rows to splits, and splits back from disk. No torch.

A row is an AnnotatedRow of stance/common/types.py, a line of a split file an Example.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import prompts
from stance.common import errors, files, formatting, leftovers, records
from stance.common.types import AnnotatedRow, Example, SplitReport
from stance.corpus import cleaning, grouping

# ---------------------------------------------------------------- settings
SPLIT_SEED = 0  # another seed draws other splits
SPLITS = ("train", "val", "test")  # names of the split files
HELD_OUT_SHARES = {"val": 0.1, "test": 0.1}  # of the rows; train gets the rest
SPLIT_KEYS = ("id", "topic", "text", "stance", "prompt", "label")  # of a line
MORE_KEYS = ("source_id", "agreement", "leaked")  # that some lines have after them
# --------------------------------------------------------------------------

REPORT = "prepare_data.report.json"  # written last: it says which split files belong together
ROUNDING = 1e-6  # rows; a share of 0.1 is not exact in binary
HINT = "run prepare_data.py again"
MISSING_HINT = "run prepare_data.py first"  # where a split may not be there yet


def draw_splits(
    rows: Iterable[AnnotatedRow], seed: int, shares: dict[str, float] | None = None
) -> dict[str, list[AnnotatedRow]]:
    """Return {split: rows}, drawn by stratified systematic sampling.

    A group is all rows with one normalised sentence, whatever their topics, and others that belong to
    it (grouping.gather_groups), so that no sentence is in two splits. Groups are lined up by size,
    stratum (topic and label; of several, the smallest) and a hash of seed and sentence, which
    shuffles a stratum. A walk along the line counts rows, and a held-out split takes a group as soon as its share of the rows so far has room for all of
    it. Of single-row groups, each block of 10 so gives one to val and, half a block away, one to
    test: the totals are exact and each stratum is within one row of its share. Larger groups come
    last, each size in proportion: drawn by rows, a sentence of five topics would be held out too
    often. The splits are the same for any order of the rows.

    shares: those of the held-out splits, if not HELD_OUT_SHARES.
    """
    if shares is None:
        shares = HELD_OUT_SHARES
    groups = grouping.gather_groups(rows)
    strata = {}  # (digest, key of the sentence) of the groups of each stratum
    for key, group in groups.items():
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        strata.setdefault(rank_stratum(group), []).append((digest, key))

    # Where a held-out split begins to take, as a part of the interval between two of its rows: two
    # splits are half an interval apart.
    takers = [
        (name, share, index / len(shares)) for index, (name, share) in enumerate(shares.items())
    ]
    splits = {name: [] for name in SPLITS}
    walked = 0  # rows
    for stratum in sorted(strata):
        size, _ = stratum
        for _, key in sorted(strata[stratum]):
            walked += size
            home = "train"
            for name, share, start in takers:
                due = walked * share + start  # rows that the split should have by now
                room = due - len(splits[name])
                if room > size - ROUNDING:
                    home = name  # of two due at once, the last; the other waits for the next group
            splits[home] += groups[key]
    return splits


def rank_stratum(group: list[AnnotatedRow]) -> tuple[int, tuple[str, str]]:
    """Return the sort key of a group's stratum: (size of the group, (topic, label))."""
    if len(group) == 1:  # most by far
        [row] = group
        return 1, (cleaning.normalise_key(row["topic"]), row["label"])
    return len(group), min((cleaning.normalise_key(row["topic"]), row["label"]) for row in group)


def hold_out_topics(
    rows: Iterable[AnnotatedRow], topics: Iterable[str], seed: int
) -> tuple[dict[str, list[AnnotatedRow]], list[AnnotatedRow]]:
    """Return ({split: rows}, rows left out): test is some topics, train and val are the others.

    Left out are rows of other topics that belong to a group (grouping.gather_groups) with rows of the
    topics held out, such as equal sentences.
    """
    topic_keys = set(map(cleaning.normalise_key, topics))
    test = []
    kept = []
    left_out = []
    for group in grouping.gather_groups(rows).values():
        tested = [row for row in group if cleaning.normalise_key(row["topic"]) in topic_keys]
        others = [row for row in group if cleaning.normalise_key(row["topic"]) not in topic_keys]
        test += tested
        if tested:
            left_out += others
        else:
            kept += others
    splits = draw_splits(kept, seed, {"val": HELD_OUT_SHARES["val"]})
    return {**splits, "test": test}, left_out


def draw_by_time(rows: Iterable[AnnotatedRow], seed: int) -> dict[str, list[AnnotatedRow]]:
    """Return {split: rows} by their dates: test has the newest, val the next, train the oldest.

    Groups (grouping.gather_groups) stay together and have the newest of their dates, so that no row
    of train is newer than those of val, but for older repetitions. Groups of one date are drawn by seed.
    """
    line = []  # (newest date, digest, rows) of each group
    for key, group in grouping.gather_groups(rows).items():
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        line.append((max(row["date"] for row in group), digest, group))
    line.sort(key=lambda item: item[:2], reverse=True)
    total = sum(len(group) for _, _, group in line)
    splits = {name: [] for name in SPLITS}
    waiting = [(name, HELD_OUT_SHARES[name] * total) for name in ("val", "test")]
    for _, _, group in line:
        while waiting and len(splits[waiting[-1][0]]) + len(group) / 2 > waiting[-1][1]:
            waiting.pop()  # the split is as full as it gets
        splits[waiting[-1][0] if waiting else "train"] += group
    return splits


def take_published(rows: Iterable[AnnotatedRow], seed: int) -> dict[str, list[AnnotatedRow]]:
    """Return {split: rows} as published; without any row of val, it is drawn from train."""
    splits = {name: [] for name in SPLITS}
    for row in rows:
        splits[row["split"]].append(row)
    if not splits["val"]:
        drawn = draw_splits(splits["train"], seed, {"val": HELD_OUT_SHARES["val"]})
        splits |= {"train": drawn["train"], "val": drawn["val"]}
    return splits


def make_id(topic: str, text: str) -> str:
    """Return 16 hex digits that name a pair of topic and sentence by its keys, in any file."""
    pair = f"{cleaning.normalise_key(topic)}\n{cleaning.normalise_key(text)}"
    return hashlib.sha256(pair.encode()).hexdigest()[:16]


def load_split(path: str | Path) -> list[Example]:
    """Read a split file back.

    Fails if it is missing, damaged, or made with another prompt or other labels.
    """
    rows = []
    for number, row in records.iterate_typed(path, Example, "row of a split", MISSING_HINT):
        if row["label"] not in prompts.LABELS:
            problem = f"label {row['label']!r} is not in {prompts.LABELS}"
            errors.fail(f"{path}, line {number}: {problem}: {HINT}")
        if row["prompt"] != prompts.build_prompt(row["topic"], row["text"]):
            problem = "not the prompt of prompts.py, the file is stale or edited"
            errors.fail(f"{path}, line {number}: {problem}: {HINT}")
        rows.append(row)
    return rows


def read_report(data_dir: str | Path, names: Iterable[str]) -> SplitReport:
    """Return the report of a folder of splits; fail unless the named splits are those it tells of.

    Files of two runs of prepare_data.py, or files that were edited, do not belong together: a
    sentence may then be in train and in test.
    """
    report_path = Path(data_dir) / REPORT
    report = records.read_typed(report_path, SplitReport, "report of prepare_data.py", HINT)
    hashes = report["outputs"]
    for name in names:
        path = Path(data_dir) / f"{name}.jsonl"
        if not path.is_file():
            errors.fail(f"{path} not found: {HINT}")
        if files.hash_file(path) != hashes.get(path.name):
            problem = f"is not the file that {report_path} tells of (of another run, or edited)"
            errors.fail(f"{path} {problem}: {HINT}")
    return report


def read_cleaning(report: dict) -> str:
    """Return the version of the cleaning with which a report's splits were made."""
    return str(report.get("cleaning_version", cleaning.FIRST_VERSION))


def count_kept_leaks(report: dict) -> int:
    """Return how many rows of a report's splits are marked as leaked, as --keep-leaks does."""
    return (report.get("leaks") or {}).get("marked", 0)


def write_splits(data_dir: str | Path, splits: dict[str, list[Example]], report: dict) -> None:
    """Write split files and then the report with their hashes.

    Where this is broken off, there is no report, and read_report fails.
    """
    write_report(data_dir, report, write_split_files(data_dir, splits))


def write_split_files(data_dir: str | Path, splits: dict[str, list[Example]]) -> dict[str, str]:
    """Write split files; return their hashes by name, which write_report needs.

    What killed processes left unfinished in the folder is deleted.
    """
    data_dir = Path(data_dir)
    leftovers.remove_leftovers(data_dir)
    (data_dir / REPORT).unlink(missing_ok=True)
    hashes = {}
    for name, lines in splits.items():
        hashes[f"{name}.jsonl"] = files.write_jsonl(data_dir / f"{name}.jsonl", lines)
    return hashes


def write_report(data_dir: str | Path, report: dict, hashes: dict[str, str]) -> None:
    """Write the report on split files; hashes: what write_split_files returned."""
    files.write_json(Path(data_dir) / REPORT, {**report, "outputs": hashes})


def check_splits_disjoint(splits: Mapping[str, Sequence[AnnotatedRow | Example]]) -> None:
    """Fail if a normalised sentence is in two of the splits, {split: its rows, or lines of its file}.

    Rows that are marked as leaked are left aside: --keep-leaks has kept them.
    """
    homes = {}  # the first split of each sentence
    leaks = []
    for name, rows in splits.items():
        for row in rows:
            if row.get("leaked"):
                continue
            home = homes.setdefault(cleaning.normalise_key(row["text"]), name)
            if home != name:
                leaks.append(f"{formatting.quote(row['text'])} in {home} and {name}")
    if leaks:
        listed = formatting.list_first(leaks)
        errors.fail(f"{len(leaks)} rows have their sentence in two splits: {listed}: {HINT}")
