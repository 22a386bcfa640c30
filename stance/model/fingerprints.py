"""Fingerprints of the base, tokenizer and sentences of a training, and the checks against them.

An adapter on another base of the same shape loads without an error and predicts nonsense; one that
is tested on its own training sentences predicts too well. Fingerprints hold no text of the corpus.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import huggingface_hub.errors

from stance.common import errors, files, formatting, run_files
from stance.common.types import Example
from stance.corpus import cleaning, splitting

if TYPE_CHECKING:
    import transformers

# ---------------------------------------------------------------- settings
# Read of each weight file: all 18 GB would take a minute, and other weights differ everywhere.
SAMPLED_BLOCKS = 64
BLOCK_BYTES = 4096
# --------------------------------------------------------------------------

FILES = "files"  # how the version of a base in a folder begins
# Hex digits of a sentence's hash: 64 bits, no two of a million sentences share one by chance.
HASH_DIGITS = 16


def split_revision(base: str) -> tuple[str, str | None]:
    """Return a base's folder or name on the Hub, and the revision behind its @.

    A revision is a commit, tag or branch; None if there is none.
    """
    if Path(base).is_dir():
        return base, None
    name, _, revision = base.partition("@")
    return name, revision or None


def names_folder(base: str, version: str | None = None) -> bool:
    """Return whether a base is a folder, of this computer or of another, and no name on the Hub.

    version: what fingerprint_base told of it when it was used; None if that is not known.
    """
    if version is not None and version.startswith(FILES):
        return True
    name, _ = split_revision(base)
    try:
        huggingface_hub.utils.validate_repo_id(name)
    except huggingface_hub.errors.HFValidationError:
        return True
    return Path(name).is_dir()


def fingerprint_base(base: str) -> str:
    """Return what tells one version of a base model from another.

    That is the Hub's commit, or a hash of a folder's config and of samples of its weight files.
    """
    name, revision = split_revision(base)
    if not Path(base).is_dir():
        config = huggingface_hub.hf_hub_download(name, "config.json", revision=revision)
        return Path(config).parent.name  # the cache keeps each commit in a folder of its name
    digest = hashlib.sha256()
    for path in sorted([Path(base, "config.json"), *Path(base).glob("*.safetensors")]):
        size = path.stat().st_size
        step = max(BLOCK_BYTES, size // SAMPLED_BLOCKS)
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            for offset in range(0, size, step):
                file.seek(offset)
                digest.update(file.read(BLOCK_BYTES))
    return f"{FILES} {digest.hexdigest()[:40]}"


def fingerprint_tokenizer(tokenizer: "transformers.PreTrainedTokenizerBase") -> str:
    """Return a hash of a tokenizer's vocabulary and chat template, which turn a prompt into ids."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    parts = [vocabulary, tokenizer.chat_template]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def hash_sentence(row: Example) -> str:
    """Return the hash of a row's normalised sentence, whatever its topic, in hex digits."""
    return hash_text(row["text"])


def hash_text(text: str) -> str:
    """Return the hash of a cleaned sentence, normalised, in hex digits."""
    key = cleaning.normalise_key(text)
    return hashlib.sha256(key.encode()).hexdigest()[:HASH_DIGITS]


def write_sentences(folder: str | Path, rows: Iterable[Example]) -> None:
    """Write the hashes of the rows' sentences into the folder of a run, sorted, one a line."""
    hashes = sorted({hash_sentence(row) for row in rows})
    path = run_files.place_text(folder, run_files.SENTENCES)
    files.write_text(path, (f"{value}\n" for value in hashes))


def read_hashes(folder: str | Path) -> set[str] | None:
    """Return the hashes of the sentences that an adapter was trained on; None if it has none.

    folder: of the adapter.
    """
    path = run_files.find_text(folder, run_files.SENTENCES)
    if not path.is_file():
        return None
    return set(files.read_file(path).decode("ascii", "replace").split())


def check_unseen(folder: str | Path, rows: Sequence[Example], source: str | Path) -> bool:
    """End the script if an adapter was trained on a sentence of the rows.

    Returns whether that could be checked. folder: of the adapter. source: the file of the rows, for
    the error line.
    """
    seen = read_hashes(folder)
    if seen is None:
        return False
    known = [formatting.quote(row["text"]) for row in rows if hash_sentence(row) in seen]
    if known:
        errors.fail(
            f"{len(known)} of {len(rows)} sentences of {source} are among those that {folder} was trained on "
            f"({formatting.list_first(known)}): evaluate it on its own splits (--data-dir), or remove them"
        )
    return True


def holds_train_split(data_dir: str | Path, train_hash: str) -> bool:
    """Return whether a folder holds the train.jsonl with this SHA-256."""
    train = Path(data_dir) / "train.jsonl"
    return train.is_file() and files.hash_file(train) == train_hash


def compare_splits(
    data_dir: str | Path,
    adapter: str | Path,
    train_hash: str,
    adapter_cleaning: str,
    test_rows: Sequence[Example],
) -> dict[str, bool]:
    """Return what run records hold of the splits that an adapter is tested on.

    splits_of_adapter: whether they are the adapter's own. unseen_test: whether the test split is
    known to hold no sentence that it was trained on; its own splits have been checked against each
    other. It never is if rows are marked as leaked, which may be so in the adapter's own splits
    alone.

    train_hash: SHA-256 of the train.jsonl that the adapter was trained on. adapter_cleaning: the
    version of the cleaning of its texts; of another version, equal sentences may have other hashes,
    so that it cannot be told whether they were seen. Prints a note if the splits are others, and
    ends the script if the adapter has seen test sentences.
    """
    same = holds_train_split(data_dir, train_hash)
    found_none = same or check_unseen(adapter, test_rows, Path(data_dir) / "test.jsonl")
    cleaning_here = find_cleaning(data_dir)
    leaked = any(row.get("leaked") for row in test_rows)
    unseen = not leaked and (same or (found_none and cleaning_here == adapter_cleaning))
    if not same:
        if found_none and cleaning_here != adapter_cleaning:
            versions = f"cleaned by version {adapter_cleaning}, these by {cleaning_here}"
            finding = f"learnt from texts {versions}: it cannot be told whether it has seen some"
        elif found_none:
            finding = "has seen none of these test sentences"
        else:
            finding = "may have been trained on test sentences"
        print(f"note: {data_dir} does not hold the train.jsonl of {adapter}: the adapter {finding}")
    return {"splits_of_adapter": same, "unseen_test": unseen}


def find_cleaning(data_dir: str | Path) -> str:
    """Return the version of the cleaning of a folder's splits; of today where no report tells
    it."""
    if not (Path(data_dir) / splitting.REPORT).is_file():
        return cleaning.describe_cleaning(cleaning.ALL_REPAIRS)
    return splitting.read_cleaning(splitting.read_report(data_dir, ()))


def describe_splits(run: dict) -> str:
    """Return in a sentence what evaluation.json says about the splits; "" without an adapter."""
    if run.get("splits_of_adapter") is None:
        return ""
    if run["splits_of_adapter"] and run.get("leaked_rows", {}).get("test"):
        return "The test split is that of the training, with rows whose sentence was learnt from."
    if run["splits_of_adapter"]:
        return "The test split is the one that was set aside before the training."
    if run.get("unseen_test"):
        return "The splits are not those of the training, but none of the test sentences was trained on."
    return "**The splits are not those of the training: the adapter may have seen test sentences.**"
