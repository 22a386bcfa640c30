"""Label tables of any length: distinct pairs are scored block by block and kept in part files.

A pair is a topic and a sentence. A block is the next BLOCK_SIZE distinct pairs in the order of
their first rows, and is scored as a whole. Which prompts share a forward pass, and with it their
rounding, so depends on the table alone: a run that was killed and goes on, or that torchrun spreads
over several processes, gives the same probabilities to the byte.

Each finished block is a line of a part file beside the output, OUTPUT.part-RANK.jsonl, whose first
line says what scored it. Pairs and probabilities wait in a temporary SQLite database on disk, so
that memory does not grow with the table.
"""

import contextlib
import glob
import hashlib
import json
import math
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import prompts
from stance.common import distributed, errors, files, full_disk, locks, progress, records
from stance.common.types import PartBlock
from stance.corpus import cleaning, tables
from stance.model import fingerprints, precision, scoring

# ---------------------------------------------------------------- settings
BLOCK_SIZE = 1024  # pairs; a killed run loses less than this for each process
CACHE_MIB = 32  # memory for the index of pairs; the rest of it stays on disk
# --------------------------------------------------------------------------

SHORT_COUNTS = 100_000  # rows from which on the progress bar rounds its counts
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")  # that decide predictions

# score(pairs, batch_size=None, bar=None). pairs: (topic, text) of each; batch_size: rows a forward
# pass, None for as many as were planned; bar: progress.open_progress's, which counts the rows, None
# for one of its own.
Scorer = Callable[..., scoring.Scores]


class TableRow(NamedTuple):
    """A row to label."""

    number: int  # as Excel shows it
    cells: list  # raw, one for each header
    pairs: list[tuple[str, str]]  # topic and text, cleaned: one pair for each topic


def read_rows(
    table: tables.Table, topics: list[str] | None, repairs: cleaning.Cleaning
) -> Iterator[TableRow]:
    """Yield every row of a table that is not blank.

    topics: cleaned topics for every row; None: each row has its own in the column topic. repairs:
    what is repaired in the texts.
    """
    for number, cells in table.rows:
        if not any(map(cleaning.clean_text, cells)):
            continue
        text = cleaning.clean_text(cells[table.columns["text"]], repairs)
        if topics:
            topics_of_row = topics
        else:
            topics_of_row = [cleaning.clean_text(cells[table.columns["topic"]], repairs)]
        yield TableRow(number, cells, [(topic, text) for topic in topics_of_row])


def fail_on_disk(problem: sqlite3.OperationalError) -> NoReturn:
    """Fail with what to do if the temporary database of a PairStore cannot be written."""
    hint = "let TMPDIR name a folder on a disk with as much room as the input takes"
    room = full_disk.describe_temporary()
    errors.fail(f"the temporary file of sentences cannot be written ({problem}; {room}): {hint}")


@contextlib.contextmanager
def explain_store() -> Iterator[None]:
    """Fail with what to do where the temporary database of a PairStore has no room."""
    try:
        yield
    except sqlite3.OperationalError as problem:
        fail_on_disk(problem)


class PairStore:
    """The distinct (topic, text) pairs in the order they came, and their probabilities once known.

    rows: number of pairs that were given, repeated ones too. size: number of distinct pairs.
    """

    @explain_store()
    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Store pairs of cleaned texts; fail if the disk has no room for them."""
        # Without a name, it is a temporary database on disk, gone with the process.
        self.database = sqlite3.connect("")
        self.database.execute("PRAGMA journal_mode = OFF")
        self.database.execute(f"PRAGMA cache_size = {-1024 * CACHE_MIB}")  # negative: in KiB
        self.database.execute(
            "CREATE TABLE pairs "
            "(number INTEGER PRIMARY KEY, key BLOB UNIQUE, topic TEXT, text TEXT)"
        )
        self.database.execute(
            "CREATE TABLE predictions (number INTEGER PRIMARY KEY, pro REAL, con REAL, neu REAL)"
        )
        self.rows = 0
        insert = "INSERT OR IGNORE INTO pairs (key, topic, text) VALUES (?, ?, ?)"
        self.database.executemany(insert, self._make_rows(pairs))
        self.size = self.database.execute("SELECT count(*) FROM pairs").fetchone()[0]

    def _make_rows(self, pairs):
        """Yield a row of the table pairs for each pair, and count them."""
        for topic, text in pairs:
            self.rows += 1
            yield make_key(topic, text), topic, text

    def count_blocks(self) -> int:
        """Return the number of blocks, of which the last may be smaller."""
        return math.ceil(self.size / BLOCK_SIZE)

    @explain_store()  # to read a page, one that waits in memory may have to be written
    def read_block(self, block: int) -> tuple[list[str], list[tuple[str, str]]]:
        """Return (keys as hex digits, pairs) of a block, both in the order of the pairs."""
        first = block * BLOCK_SIZE  # numbers start at 1 and have no gaps
        query = (
            "SELECT key, topic, text FROM pairs WHERE number > ? AND number <= ? ORDER BY number"
        )
        rows = self.database.execute(query, (first, first + BLOCK_SIZE)).fetchall()
        keys = [key.hex() for key, _, _ in rows]
        pairs = [(topic, text) for _, topic, text in rows]
        return keys, pairs

    def read_pairs(self) -> Iterator[tuple[str, str]]:
        """Yield all pairs in their order."""
        for block in range(self.count_blocks()):
            _, pairs = self.read_block(block)
            yield from pairs

    @explain_store()
    def add_predictions(self, block: int, probabilities: list[list[float]]) -> None:
        """Keep the probabilities of a block's pairs: three for each, in prompts.LABELS order."""
        first = block * BLOCK_SIZE + 1
        rows = ((number, *row) for number, row in enumerate(probabilities, start=first))
        self.database.executemany("INSERT OR REPLACE INTO predictions VALUES (?, ?, ?, ?)", rows)

    @explain_store()
    def find_prediction(self, topic: str, text: str) -> tuple[float, float, float] | None:
        """Return the probabilities of a pair in prompts.LABELS order.

        None if the pair is not in the store, or has no probabilities yet.
        """
        query = "SELECT pro, con, neu FROM pairs JOIN predictions USING (number) WHERE key = ?"
        return self.database.execute(query, (make_key(topic, text),)).fetchone()

    @explain_store()
    def hash_pairs(self) -> str:
        """Return the SHA-256 of all pairs in their order as hex digits."""
        digest = hashlib.sha256()
        for (key,) in self.database.execute("SELECT key FROM pairs ORDER BY number"):
            digest.update(key)
        return digest.hexdigest()


def make_key(topic: str, text: str) -> bytes:
    """Return 16 bytes that name a pair of cleaned texts, which hold no NUL."""
    return hashlib.blake2b(f"{topic}\0{text}".encode(), digest_size=16).digest()


# ---------------------------------------------------------------- part files


def list_dependencies(
    adapter: str | Path, base: str, store: PairStore
) -> dict[str, str | list[str] | list[int]]:
    """Return what probabilities depend on, {name for messages: value}.

    Probabilities of runs that differ in any of it must not mix. adapter: its folder; base: hub name
    or folder.
    """
    adapter_paths = [Path(adapter) / name for name in ADAPTER_FILES]
    return {
        "sentences or topics": store.hash_pairs(),
        "compute precision": precision.describe_precision()["compute"],
        "base model": [base, fingerprints.fingerprint_base(base)],
        "adapter": [files.hash_file(path) for path in adapter_paths if path.is_file()],
        "prompt": prompts.PROMPT_VERSION,
        "batch size": [scoring.SCORE_BATCH_SIZE, BLOCK_SIZE],
        "digits of probabilities": "all",  # older part files hold six
    }


def hold_output(output: str | Path) -> contextlib.AbstractContextManager[None]:
    """Return a context in which no other predict.py labels the same output: OUTPUT.lock says so."""
    hint = "choose another --output"
    return locks.hold_lock(Path(f"{output}.lock"), output, "predict.py", hint)


def find_parts(output: str | Path) -> list[Path]:
    """Return the part files beside an output."""
    output = Path(output)
    paths = output.parent.glob(f"{glob.escape(output.name)}.part-[0-9]*.jsonl")
    return sorted(path for path in paths if not path.is_fifo())  # open_part fails on that


def read_part_files(output: str | Path, dependencies: dict, store: PairStore) -> dict[int, int]:
    """Take the probabilities of all part files into the store; return {block: its batch size}.

    dependencies: what list_dependencies returned; fails on a part file of a run that differs in
    them. A last line that a killed run left unfinished is passed over.
    """
    batch_sizes = {}
    for path in find_parts(output):
        hint = f"delete {path} to label all rows again"
        with files.open_file(path) as file:
            whole_lines = (line for line in file if line.endswith(b"\n"))
            try:
                changed = _find_changes(next(whole_lines, b"{}"), dependencies)
                if not changed:
                    for line in whole_lines:
                        entry = files.decode_json(line)
                        _add_entry(store, entry)
                        batch_sizes[entry["block"]] = entry["batch_size"]
            except (ValueError, KeyError, TypeError, RecursionError, sqlite3.Error):
                errors.fail(f"{path} is damaged: {hint}")
        if changed:
            names = " and ".join(changed)
            errors.fail(f"{path} is of a run that differs in {names}: restore that, or {hint}")
    return batch_sizes


def _find_changes(first_line, dependencies):
    """Return the names of what differs between a part file's run and this one.

    first_line: of the part file; b"{}" if its run was killed before a whole line was written.
    """
    written = files.decode_json(first_line)
    if not written:
        return []
    if not isinstance(written, dict):
        raise ValueError("no run")
    return [name for name, value in dependencies.items() if written.get(name) != value]


def _add_entry(store, entry):
    """Take a block of a part file into the store; raise ValueError if it is of other pairs."""
    problem = records.describe_problem(entry, PartBlock)
    if problem or entry["batch_size"] < 1 or not 0 <= entry["block"] < store.count_blocks():
        raise ValueError("no block")
    keys, _ = store.read_block(entry["block"])
    if entry["keys"] != keys or len(entry["answers"]) != len(keys):
        raise ValueError("other rows")
    for row in entry["answers"]:
        is_valid = len(row) == len(prompts.LABELS) and all(
            type(value) in (int, float) and 0 <= value <= 1 for value in row
        )
        if not is_valid or abs(sum(row) - 1) > 1e-3:  # they were float32
            raise ValueError("no probabilities")
    store.add_predictions(entry["block"], entry["answers"])


def open_part(output: str | Path, rank: int, dependencies: dict) -> BinaryIO:
    """Return the part file of a process, opened to append to it.

    A half line at its end is cut off. A file without lines gets its first: the dependencies.
    """
    file = files.open_to_append(f"{output}.part-{rank}.jsonl")
    file.seek(0)
    with os.fdopen(os.dup(file.fileno()), "rb") as lines:
        whole_bytes = sum(len(line) for line in lines if line.endswith(b"\n"))
    file.truncate(whole_bytes)
    if whole_bytes == 0:
        append_line(file, dependencies)
    return file


def append_line(file: BinaryIO, entry: dict) -> None:
    """Append a JSON line and wait until it is on disk."""
    files.append_bytes(file, json.dumps(entry).encode() + b"\n")


def remove_parts(output: str | Path) -> None:
    """Delete the part files, once the output is written."""
    for path in find_parts(output):
        path.unlink()


# ---------------------------------------------------------------- labelling


def label_pairs(
    store: PairStore, output: str | Path, dependencies: dict, load_scorer: Callable[[], Scorer]
) -> None:
    """Score every pair of the store that no part file holds yet.

    On rank 0, the probabilities of all pairs are in the store afterwards. dependencies: what
    list_dependencies returned. load_scorer is called only if there is work left.
    """
    rank, count = distributed.get_rank()
    with distributed.first_rank_first():
        batch_sizes = read_part_files(output, dependencies, store)
    distributed.wait_for_ranks()  # until all have read: only then may one append
    if batch_sizes and rank == 0:
        parts = f"{len(batch_sizes)} of {store.count_blocks()} blocks are in {output}.part-*.jsonl"
        print(f"going on where a run stopped: {parts}")
    left = [block for block in range(store.count_blocks()) if block not in batch_sizes]
    blocks = left[rank::count]
    if blocks:
        score = load_scorer()
        batch_size = min(batch_sizes.values(), default=None)
        part_path = Path(f"{output}.part-{rank}.jsonl")
        hint = f"{errors.MAKE_ROOM}, which goes on from that file"
        try:
            with errors.explain_full_disk(part_path, hint):
                part = open_part(output, rank, dependencies)
                score_blocks(store, blocks, part, score, batch_size)
        except KeyboardInterrupt:
            print(f"interrupted: the same command goes on from {part_path}", file=sys.stderr)
            raise SystemExit(130) from None  # what shells report after Ctrl-C
    distributed.wait_for_ranks()
    if rank == 0:
        read_part_files(output, dependencies, store)  # also what other processes have scored


def score_blocks(
    store: PairStore, blocks: list[int], part: BinaryIO, score: Scorer, batch_size: int | None
) -> None:
    """Score blocks, append each to the part file, and close it.

    batch_size: rows a forward pass, None for as many as were planned. Once the memory was short,
    the smaller size stays.
    """
    rank, count = distributed.get_rank()
    total = sum(min(BLOCK_SIZE, store.size - block * BLOCK_SIZE) for block in blocks)
    name = "labelling" if count == 1 else f"labelling, process 1 of {count}"
    short = total >= SHORT_COUNTS  # a bar that counts to 1.00M, but not to 59.0
    with part, progress.open_progress(total, name, "row", short, disable=rank > 0) as bar:
        for block in blocks:
            keys, pairs = store.read_block(block)
            scores = score(pairs, batch_size=batch_size, bar=bar)
            batch_size = scores.batch_size
            entry = {
                "block": block,
                "batch_size": batch_size,
                "keys": keys,
                # Not rounded: of two that are rounded to the same, the larger is the answer.
                "answers": scores.probabilities.tolist(),
            }
            append_line(part, entry)
