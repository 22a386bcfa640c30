"""What an adapter was trained on - base model, tokenizer, sentences - as fingerprints, and the checks against them.

An adapter on another base of the same shape loads without an error and answers nonsense; one that is tested on its own
training sentences answers too well. Fingerprints hold no text of the corpus.
"""

import hashlib
import json
from pathlib import Path

import huggingface_hub

from stance.common import errors, files, formatting
from stance.corpus import cleaning

# ---------------------------------------------------------------- settings
SENTENCES_FILE = (
    "train_sentences.txt"  # beside the adapter: hashes of the sentences that it was trained on
)
SAMPLED_BLOCKS = 64  # read of each weight file: all 18 GB would take a minute, and other weights differ everywhere
BLOCK_BYTES = 4096
# --------------------------------------------------------------------------

HASH_DIGITS = 16  # hex digits of a sentence's hash: 64 bits, no two of a million sentences share one by chance


def split_revision(base):
    """Return (folder or name on the Hub, the commit, tag or branch behind its @, else None) of a base model."""
    name, _, revision = (base, "", "") if Path(base).is_dir() else base.partition("@")
    return name, revision or None


def fingerprint_base(base):
    """Return what tells one version of a base model from another: the Hub's commit, or a hash of a folder's files."""
    name, revision = split_revision(base)
    if not Path(base).is_dir():  # the cache keeps each commit in a folder of its name
        return Path(
            huggingface_hub.hf_hub_download(name, "config.json", revision=revision)
        ).parent.name
    digest = hashlib.sha256()
    for path in sorted([Path(base, "config.json"), *Path(base).glob("*.safetensors")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            for offset in range(0, size, max(BLOCK_BYTES, size // SAMPLED_BLOCKS)):
                file.seek(offset)
                digest.update(file.read(BLOCK_BYTES))
    return f"files {digest.hexdigest()[:40]}"


def fingerprint_tokenizer(tokenizer):
    """Return a hash of a tokenizer's vocabulary and chat template, which together turn a prompt into ids."""
    parts = sorted(tokenizer.get_vocab().items()), tokenizer.chat_template
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def hash_sentence(row):
    """Return the hash of a row's normalised sentence, whatever its topic."""
    return hashlib.sha256(cleaning.normalise_key(row["text"]).encode()).hexdigest()[:HASH_DIGITS]


def write_sentences(folder, rows):
    """Write the hashes of the rows' sentences beside an adapter, sorted, one a line."""
    hashes = sorted({hash_sentence(row) for row in rows})
    files.write_text(Path(folder) / SENTENCES_FILE, (f"{value}\n" for value in hashes))


def check_unseen(folder, rows, source):
    """Stop if an adapter was trained on a sentence of the rows; return whether that could be checked."""
    path = Path(folder) / SENTENCES_FILE
    if not path.is_file():
        return False
    seen = set(files.read_file(path).decode("ascii", "replace").split())
    known = [formatting.quote(row["text"]) for row in rows if hash_sentence(row) in seen]
    if known:
        errors.fail(
            f"{len(known)} of {len(rows)} sentences of {source} are among those that {folder} was trained on "
            f"({formatting.list_first(known)}): evaluate it on its own splits (--data-dir), or remove them"
        )
    return True


def compare_splits(data_dir, adapter, train_hash, test_rows):
    """Return what run records hold of splits: whether they are the adapter's own, and known to hold no training row.

    train_hash: SHA-256 of the train.jsonl that it was trained on. Prints a note if the splits are others, and stops if
    the adapter has seen test sentences; its own splits have been checked against each other.
    """
    train = Path(data_dir) / "train.jsonl"
    same = train.is_file() and files.hash_file(train) == train_hash
    unseen = same or check_unseen(adapter, test_rows, Path(data_dir) / "test.jsonl")
    if not same:
        finding = (
            "has seen none of these test sentences"
            if unseen
            else "may have been trained on test sentences"
        )
        print(f"note: {data_dir} does not hold the train.jsonl of {adapter}: it {finding}")
    return {"splits_of_adapter": same, "unseen_test": unseen}


def describe_splits(run):
    """Return in a sentence what evaluation.json says about the splits; empty without an adapter."""
    if run.get("splits_of_adapter") is None:
        return ""
    if run["splits_of_adapter"]:
        return "The test split is the one that was set aside before the training."
    if run.get("unseen_test"):
        return "The splits are not those of the training, but none of the test sentences was trained on."
    return "**The splits are not those of the training: the adapter may have seen test sentences.**"
