"""What llama.cpp's converter reads of a tokenizer beside tokenizer.json: its SentencePiece model, and its added tokens.

Without them the converter refuses a Gemma 2, or takes its turn markers for ordinary text.
"""

import json
import shutil
from pathlib import Path

import huggingface_hub
import transformers
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_format

from stance.common import files
from stance.model import chat, fingerprints

# ---------------------------------------------------------------- settings
SENTENCEPIECE_FILE = "tokenizer.model"  # as the converter looks for it
# --------------------------------------------------------------------------

# Gemma's normalizer in tokenizer.json: the only kind of tokenizer that is rebuilt here.
GEMMA_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
# tokenizer.json has a tab in its place.
TAB_BYTE = "<0x09>"
# Of pieces that no merge makes, below those of all merges.
UNMERGED_SCORE = -1e6


def write_converter_files(
    folder: Path, tokenizer: transformers.PreTrainedTokenizerBase, base: str
) -> None:
    """Write beside a saved tokenizer what llama.cpp's converter reads.

    That is tokenizer.model, the base's own or else one built from a Gemma's vocabulary, and the
    added tokens with their kinds in tokenizer_config.json, where transformers 4 wrote them.
    """
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["added_tokens_decoder"] = {
        str(id): describe_token(token) for id, token in tokenizer.added_tokens_decoder.items()
    }
    files.write_json(config_file, config)
    original = find_sentencepiece(base)
    if original is not None:
        shutil.copyfile(original, folder / SENTENCEPIECE_FILE)
        return
    built = build_sentencepiece(tokenizer)
    if built is not None:
        (folder / SENTENCEPIECE_FILE).write_bytes(built)


def describe_token(token: transformers.AddedToken) -> dict[str, str | bool]:
    """Return an added token as tokenizer_config.json holds it."""
    return {
        "content": token.content,
        "lstrip": token.lstrip,
        "normalized": token.normalized,
        "rstrip": token.rstrip,
        "single_word": token.single_word,
        "special": token.special,
    }


def find_sentencepiece(base: str) -> Path | None:
    """Return the path of a base's own tokenizer.model, a folder's or the Hub's; None if it has none."""
    name, revision = fingerprints.split_revision(base)
    if Path(base).is_dir():
        path = Path(base, SENTENCEPIECE_FILE)
        return path if path.is_file() else None
    try:
        return Path(huggingface_hub.hf_hub_download(name, SENTENCEPIECE_FILE, revision=revision))
    except OSError:  # no such file there, or no network; both are subclasses
        return None


def build_sentencepiece(tokenizer: transformers.PreTrainedTokenizerBase) -> bytes | None:
    """Return a SentencePiece model of a Gemma's tokenizer; None for tokenizers of other kinds.

    A piece is merged before another if its score is higher: scores are the order of the merges in
    tokenizer.json, which came from scores like these.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    bpe = described["model"]
    if not bpe.get("byte_fallback") or described["normalizer"] != GEMMA_NORMALIZER:
        return None
    scores: dict[str, float] = {}
    for rank, (left, right) in enumerate(bpe["merges"]):
        scores.setdefault(left + right, -float(rank))
    control = chat.control_tokens(tokenizer)
    added = tokenizer.get_added_vocab()

    model = sentencepiece_format.ModelProto()
    kinds = sentencepiece_format.ModelProto.SentencePiece
    vocabulary = tokenizer.get_vocab()
    for text in sorted(vocabulary, key=vocabulary.get):
        if text == "\t" and TAB_BYTE not in vocabulary:
            text = TAB_BYTE
        if text == tokenizer.unk_token:
            kind = kinds.UNKNOWN
        elif text in control:
            kind = kinds.CONTROL
        elif text in added:
            kind = kinds.USER_DEFINED
        elif len(text) == 6 and text.startswith("<0x"):
            kind = kinds.BYTE
        else:
            kind = kinds.NORMAL
        score = scores.get(text, UNMERGED_SCORE) if kind == kinds.NORMAL else 0.0
        model.pieces.add(piece=text, score=score, type=kind)
    model.trainer_spec.model_type = sentencepiece_format.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.unk_id = tokenizer.unk_token_id
    model.trainer_spec.bos_id = tokenizer.bos_token_id
    model.trainer_spec.eos_id = tokenizer.eos_token_id
    model.trainer_spec.pad_id = tokenizer.pad_token_id
    model.trainer_spec.unk_piece = tokenizer.unk_token
    model.trainer_spec.bos_piece = tokenizer.bos_token
    model.trainer_spec.eos_piece = tokenizer.eos_token
    model.trainer_spec.pad_piece = tokenizer.pad_token
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    return model.SerializeToString()
