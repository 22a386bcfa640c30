"""Label tables of any length: distinct pairs of topic and sentence are scored block by block and kept in part files.

A block is the next BLOCK_SIZE distinct pairs in the order of their first rows, and is scored as a whole. Which prompts
share a forward pass, and with it their rounding, so depends on the table alone: a run that was killed and goes on, or
that torchrun spreads over several processes, gives the same answers to the byte.

Each finished block is a line of a part file beside the output, OUTPUT.part-RANK.jsonl, whose first line says what
scored it. Pairs and answers wait in a temporary SQLite database on disk, so that memory does not grow with the table.
"""

import glob
import hashlib
import json
import os
import sqlite3
import sys
from pathlib import Path

import prompts
from stance.common import distributed, errors, files, progress
from stance.corpus import cleaning
from stance.model import fingerprints, precision, scoring

# ---------------------------------------------------------------- settings
BLOCK_SIZE = 1024  # pairs; a killed run loses less than this for each process
CACHE_MIB = 32  # memory for the index of pairs; the rest of it stays on disk
# --------------------------------------------------------------------------

PART_DIGITS = 6  # of the probabilities in part files
SHORT_COUNTS = 100_000  # rows from which on the progress bar rounds its counts
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def read_rows(table, topics):
    """Yield (row number, cells, pairs of topic and text to label) of every row of a tables.Table that is not blank."""
    for number, cells in table.rows:
        if any(map(cleaning.clean_text, cells)):
            values = {
                name: cleaning.clean_text(cells[index]) for name, index in table.columns.items()
            }
            yield number, cells, [(topic, values["text"]) for topic in topics or [values["topic"]]]


class PairStore:
    """The distinct pairs among (topic, text) pairs, in the order they came, and their probabilities once known."""

    def __init__(self, pairs):
        """Store an iterable of pairs of cleaned texts; stop if the disk has no room for them."""
        self.database = sqlite3.connect(
            ""
        )  # no name: a temporary database on disk, gone with the process
        self.database.execute("PRAGMA journal_mode = OFF")
        self.database.execute(f"PRAGMA cache_size = {-1024 * CACHE_MIB}")  # negative: in KiB
        self.database.execute(
            "CREATE TABLE pairs (number INTEGER PRIMARY KEY, key BLOB UNIQUE, topic TEXT, text TEXT)"
        )
        self.database.execute(
            "CREATE TABLE answers (number INTEGER PRIMARY KEY, pro REAL, con REAL, neu REAL)"
        )
        self.rows = 0  # pairs that were given, repeated ones too
        insert = "INSERT OR IGNORE INTO pairs (key, topic, text) VALUES (?, ?, ?)"
        try:
            self.database.executemany(insert, self._make_rows(pairs))
        except sqlite3.OperationalError as problem:
            hint = "let TMPDIR name a folder on a disk with as much room as the input takes"
            errors.fail(f"the temporary file of sentences cannot be written ({problem}): {hint}")
        [(self.size,)] = self.database.execute("SELECT count(*) FROM pairs")

    def _make_rows(self, pairs):
        for topic, text in pairs:
            self.rows += 1
            yield make_key(topic, text), topic, text

    def count_blocks(self):
        """Return the number of blocks, of which the last may be smaller."""
        return -(-self.size // BLOCK_SIZE)

    def read_block(self, block):
        """Return (keys, pairs) of a block, both in the order of the pairs."""
        first = block * BLOCK_SIZE  # numbers start at 1 and have no gaps
        query = (
            "SELECT key, topic, text FROM pairs WHERE number > ? AND number <= ? ORDER BY number"
        )
        rows = self.database.execute(query, (first, first + BLOCK_SIZE)).fetchall()
        return [key.hex() for key, _, _ in rows], [(topic, text) for _, topic, text in rows]

    def read_pairs(self):
        """Yield all pairs in their order."""
        for block in range(self.count_blocks()):
            yield from self.read_block(block)[1]

    def add_answers(self, block, answers):
        """Keep the probabilities of a block's pairs."""
        rows = ((number, *row) for number, row in enumerate(answers, start=block * BLOCK_SIZE + 1))
        self.database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", rows)

    def find_answer(self, topic, text):
        """Return the probabilities of a pair in prompts.LABELS order; None if the pair is not in the store."""
        query = "SELECT pro, con, neu FROM pairs JOIN answers USING (number) WHERE key = ?"
        return self.database.execute(query, (make_key(topic, text),)).fetchone()

    def hash_pairs(self):
        """Return the SHA-256 of all pairs in their order as hex digits."""
        digest = hashlib.sha256()
        for (key,) in self.database.execute("SELECT key FROM pairs ORDER BY number"):
            digest.update(key)
        return digest.hexdigest()


def make_key(topic, text):
    """Return 16 bytes that name a pair of cleaned texts, which hold no NUL."""
    return hashlib.blake2b(f"{topic}\0{text}".encode(), digest_size=16).digest()


# ---------------------------------------------------------------- part files


def list_dependencies(adapter, base, store):
    """Return what answers depend on, {name for messages: value}: answers of runs that differ in any must not mix."""
    adapter_files = [
        Path(adapter) / name for name in ADAPTER_FILES if (Path(adapter) / name).is_file()
    ]
    return {
        "sentences or topics": store.hash_pairs(),
        "compute precision": precision.describe_precision()["compute"],
        "base model": [base, fingerprints.fingerprint_base(base)],
        "adapter": [files.hash_file(path) for path in adapter_files],
        "prompt": prompts.PROMPT_VERSION,
        "batch size": [scoring.SCORE_BATCH_SIZE, BLOCK_SIZE],
    }


def find_parts(output):
    """Return the part files beside an output."""
    return sorted(Path(output).parent.glob(f"{glob.escape(Path(output).name)}.part-[0-9]*.jsonl"))


def read_part_files(output, run, store):
    """Take the answers of all part files into the store; return {block: batch size at its end}.

    Stops on a part file of another run. A last line that a killed run left unfinished is passed over.
    """
    done = {}
    for path in find_parts(output):
        hint = f"delete {path} to label all rows again"
        with files.open_file(path) as file:
            lines = (line for line in file if line.endswith(b"\n"))
            try:
                started = json.loads(next(lines, b"{}")) or run
                if not isinstance(started, dict):
                    raise ValueError("no run")
                changed = [name for name in run if started.get(name) != run[name]]
                for entry in map(json.loads, [] if changed else lines):
                    keys, _ = store.read_block(entry["block"])
                    if entry["keys"] != keys or len(entry["answers"]) != len(keys):
                        raise ValueError("other rows")
                    store.add_answers(entry["block"], entry["answers"])
                    done[entry["block"]] = entry["batch_size"]
            except (ValueError, KeyError, TypeError, sqlite3.Error):
                errors.fail(f"{path} is damaged: {hint}")
        if changed:
            errors.fail(
                f"{path} is of a run that differs in {' and '.join(changed)}: restore that, or {hint}"
            )
    return done


def open_part(output, rank, run):
    """Open the part file of a process to append to it; a half line at its end goes, the first line says what runs."""
    file = open(f"{output}.part-{rank}.jsonl", "a+b")
    file.seek(0)
    whole = sum(len(line) for line in file if line.endswith(b"\n"))
    file.truncate(whole)
    if not whole:
        append_line(file, run)
    return file


def append_line(file, entry):
    """Append a JSON line and wait until it is on disk."""
    file.write(json.dumps(entry).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def remove_parts(output):
    """Delete the part files, once the output is written."""
    for path in find_parts(output):
        path.unlink()


# ---------------------------------------------------------------- labelling


def label_pairs(store, output, run, load_scorer):
    """Score every pair of the store that no part file holds yet; on rank 0, all answers are in the store afterwards.

    load_scorer() returns score(pairs, batch_size=None, bar=None) -> scoring.Scores; it is called if there is work left.
    """
    rank, count = distributed.get_rank()
    with distributed.first_rank_first():
        done = read_part_files(output, run, store)
    distributed.wait_for_ranks()  # until all have read: only then may one append
    blocks = [block for block in range(store.count_blocks()) if block not in done][rank::count]
    if done and rank == 0:
        parts = f"{len(done)} of {store.count_blocks()} blocks are in {output}.part-*.jsonl"
        print(f"going on where a run stopped: {parts}")
    if blocks:
        score = load_scorer()
        try:
            score_blocks(
                store, blocks, open_part(output, rank, run), score, min(done.values(), default=None)
            )
        except KeyboardInterrupt:
            print(
                f"interrupted: the same command goes on from {output}.part-{rank}.jsonl",
                file=sys.stderr,
            )
            raise SystemExit(130) from None  # what shells report after Ctrl-C
    distributed.wait_for_ranks()
    if rank == 0:
        read_part_files(output, run, store)  # also what the other processes have scored


def score_blocks(store, blocks, part, score, batch_size):
    """Score blocks and append each to the part file; once the memory was short, the smaller batch size stays."""
    rank, count = distributed.get_rank()
    total = sum(min(BLOCK_SIZE, store.size - block * BLOCK_SIZE) for block in blocks)
    name = "labelling" if count == 1 else f"labelling, process 1 of {count}"
    short = total >= SHORT_COUNTS  # a bar that counts to 1.00M, but not to 59.0
    with part, progress.open_progress(total, name, "row", short, disable=rank > 0) as bar:
        for block in blocks:
            keys, pairs = store.read_block(block)
            scores = score(pairs, batch_size=batch_size, bar=bar)
            answers = [
                [round(value, PART_DIGITS) for value in row]
                for row in scores.probabilities.tolist()
            ]
            batch_size = scores.batch_size
            append_line(
                part, {"block": block, "batch_size": batch_size, "keys": keys, "answers": answers}
            )
