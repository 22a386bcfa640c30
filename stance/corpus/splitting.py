"""Rows to splits, and splits back from disk. No torch.

A row is what stance/corpus/annotations.py reads.
"""

import hashlib

import prompts
from stance.common import errors, files, formatting
from stance.corpus import cleaning

# ---------------------------------------------------------------- settings
SPLIT_SEED = 0  # another seed draws other splits
SPLITS = ("train", "val", "test")  # names of the split files
HELD_OUT_SHARES = {"val": 0.1, "test": 0.1}  # of the rows; train gets the rest
SPLIT_KEYS = (
    "id",
    "topic",
    "text",
    "stance",
    "prompt",
    "label",
)  # of a line in a split file, in this order
# --------------------------------------------------------------------------

HINT = "run prepare_data.py again"


def draw_splits(rows, seed, shares=None):
    """Return {split: rows}, the held-out shares drawn systematically; the same splits for any order of the rows.

    A group is all rows with one normalised sentence, whatever their topics, so that no sentence is in two splits.
    Groups are lined up by size, stratum (topic and label; of several, the smallest) and a hash of seed and sentence,
    which shuffles a stratum. A walk along the line counts rows, and a held-out split takes a group as soon as its
    share of the rows so far has room for all of it. Of single-row groups, each block of 10 so gives one to val and,
    half a block away, one to test: the totals are exact and each stratum is within one row of its share. Larger
    groups come last, each size in proportion: drawn by rows, a sentence of five topics would be held out too often.
    shares: those of the held-out splits, if not HELD_OUT_SHARES.
    """
    shares = HELD_OUT_SHARES if shares is None else shares
    groups, strata, splits, walked = {}, {}, {name: [] for name in SPLITS}, 0
    for row in rows:
        groups.setdefault(cleaning.normalise_key(row["text"]), []).append(row)
    for key, group in groups.items():
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        strata.setdefault(rank_stratum(group), []).append((digest, key))
    for size, key in (
        (stratum[0], key) for stratum in sorted(strata) for _, key in sorted(strata[stratum])
    ):
        walked += size
        home = "train"
        for i, (name, share) in enumerate(
            shares.items()
        ):  # of two due at once, val waits for the next group
            room = walked * share + i / len(shares) - len(splits[name])
            if room > size - 1e-6:  # the margin absorbs rounding: 0.1 is not exact in binary
                home = name
        splits[home] += groups[key]
    return splits


def rank_stratum(group):
    """Return the sort key of a group's stratum: (size of the group, (topic, label))."""
    return len(group), min((cleaning.normalise_key(row["topic"]), row["label"]) for row in group)


def hold_out_topic(rows, topic, seed):
    """Return ({split: rows}, rows left out): test is one topic, train and val are the other topics.

    Left out are rows of other topics whose sentence also occurs under the held-out one. None if no row has the topic.
    """
    test = [
        row for row in rows if cleaning.normalise_key(row["topic"]) == cleaning.normalise_key(topic)
    ]
    rest = [
        row for row in rows if cleaning.normalise_key(row["topic"]) != cleaning.normalise_key(topic)
    ]
    if not test:
        return None
    seen = {cleaning.normalise_key(row["text"]) for row in test}
    kept = [row for row in rest if cleaning.normalise_key(row["text"]) not in seen]
    left_out = [row for row in rest if cleaning.normalise_key(row["text"]) in seen]
    return {**draw_splits(kept, seed, {"val": HELD_OUT_SHARES["val"]}), "test": test}, left_out


def make_id(topic, text):
    """Return 16 hex digits that name a pair of topic and sentence by its keys, in any file and any order."""
    return hashlib.sha256(
        f"{cleaning.normalise_key(topic)}\n{cleaning.normalise_key(text)}".encode()
    ).hexdigest()[:16]


def load_split(path):
    """Read a split file back; stop if it is missing, damaged, or made with another prompt or other labels."""
    rows = files.read_jsonl(path, SPLIT_KEYS, "run prepare_data.py first")
    for number, row in enumerate(rows, start=1):
        if row["label"] not in prompts.LABELS:
            errors.fail(
                f"{path}, line {number}: label {row['label']!r} is not in {prompts.LABELS}: {HINT}"
            )
        if row["prompt"] != prompts.build_prompt(str(row["topic"]), str(row["text"])):
            errors.fail(
                f"{path}, line {number}: not the prompt of prompts.py, the file is stale or edited: {HINT}"
            )
    return rows


def check_splits_disjoint(splits):
    """Stop if a normalised sentence is in two of the splits, a dict of split to rows."""
    homes, leaks = {}, []
    for name, rows in splits.items():
        for row in rows:
            home = homes.setdefault(cleaning.normalise_key(row["text"]), name)
            if home != name:
                leaks.append(f"{formatting.quote(row['text'])} in {home} and {name}")
    if leaks:
        errors.fail(
            f"{len(leaks)} rows have their sentence in two splits: {formatting.list_first(leaks)}: {HINT}"
        )
