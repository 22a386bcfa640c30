"""Rows of a split to folds, for cross-validation: each row is held out once. No torch."""

import hashlib
from collections.abc import Sequence

from stance.common.types import Example
from stance.corpus import grouping, splitting


def deal_folds(rows: Sequence[Example], count: int, seed: int) -> list[int]:
    """Return the fold, from 0 to below count, of each row of a split.

    Rows with one sentence, or equal posts (grouping.gather_groups), are in one fold. Groups are
    lined up by size, stratum (splitting.rank_stratum) and a hash of seed and sentence, and dealt in
    turn: folds have about as many rows of each topic and label. The same for any order of the rows.
    """
    line = []
    for key, group in grouping.gather_groups(rows).items():
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        line.append((splitting.rank_stratum(group), digest, [row["id"] for row in group]))
    fold_of_id = {}
    for position, (_, _, ids) in enumerate(sorted(line)):
        for row_id in ids:
            fold_of_id[row_id] = position % count
    return [fold_of_id[row["id"]] for row in rows]
