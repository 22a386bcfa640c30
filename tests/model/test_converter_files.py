"""stance/model/converter_files.py: llama.cpp's converter is told of the very tokens that a model was trained on."""

import json

import pytest
import sentencepiece
import tiny_model
import transformers
from sentencepiece import sentencepiece_model_pb2

from stance.model import chat, converter_files

KINDS = sentencepiece_model_pb2.ModelProto.SentencePiece
TEXTS = [
    "There should be more gun control.",
    "two  blanks,   three, a\ttab\n\nand lines \n \n",
    "Ünïcödé, 日本語 テスト, नमस्ते, 👍🏽 \U000f0000",
    "don't ``` <b>bold</b> https://x.org/?q=1&b=2 1234.5 {}[]()",
]


@pytest.fixture(scope="module")
def tokenizer():
    """The tiny Gemma's tokenizer."""
    return tiny_model.train_tokenizer([("Vegans are right.", "They are kind to animals.")])


def read_pieces(built):
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(built)
    return model.pieces


def test_every_piece_has_the_id_and_kind_of_its_token(tokenizer):
    """A turn marker of another kind than control is ordinary text to llama.cpp."""
    pieces = read_pieces(converter_files.build_sentencepiece(tokenizer))
    assert [piece.piece for piece in pieces] == tokenizer.convert_ids_to_tokens(range(len(pieces)))
    assert len(pieces) == len(tokenizer)
    by_text = {piece.piece: piece.type for piece in pieces}
    assert by_text["<start_of_turn>"] == by_text["<end_of_turn>"] == by_text["<bos>"]
    assert by_text["<bos>"] == KINDS.CONTROL and by_text["<unk>"] == KINDS.UNKNOWN
    assert by_text["<0x41>"] == KINDS.BYTE and by_text["▁are"] == KINDS.NORMAL
    assert sum(piece.type == KINDS.BYTE for piece in pieces) == 256


def test_pieces_are_merged_in_the_order_of_the_merges(tokenizer):
    scores = {
        piece.piece: piece.score
        for piece in read_pieces(converter_files.build_sentencepiece(tokenizer))
    }
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    made = list(dict.fromkeys(left + right for left, right in merges))
    assert sorted(made, key=scores.get, reverse=True) == made and len(made) > 5


@pytest.mark.slow
def test_the_real_vocabulary_gives_the_ids_of_the_tokenizer(gemma_tokenizer):
    built = converter_files.build_sentencepiece(gemma_tokenizer)
    processor = sentencepiece.SentencePieceProcessor(model_proto=built)
    options = {"add_special_tokens": False, "split_special_tokens": True}
    for text in TEXTS:
        assert processor.encode(text) == gemma_tokenizer(text, **options)["input_ids"]
    kinds = {piece.piece: piece.type for piece in read_pieces(built)}
    assert kinds["<start_of_turn>"] == KINDS.CONTROL and kinds["\n\n"] == KINDS.USER_DEFINED
    assert kinds["<0x09>"] == KINDS.BYTE and "\t" not in kinds  # a tab in tokenizer.json


def test_a_model_folder_with_its_own_sentencepiece_file_keeps_it(tokenizer, tmp_path):
    base, folder = tmp_path / "base", tmp_path / "merged"
    for place in (base, folder):
        tokenizer.save_pretrained(place)
    (base / "tokenizer.model").write_bytes(b"the published one")
    converter_files.write_converter_files(folder, tokenizer, str(base))
    assert (folder / "tokenizer.model").read_bytes() == b"the published one"


def test_the_tokenizer_is_read_as_before_and_its_added_tokens_have_their_kinds(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    converter_files.write_converter_files(tmp_path, tokenizer, str(tmp_path))
    assert (tmp_path / "tokenizer.model").is_file()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    described = config["added_tokens_decoder"]
    special = {token["content"]: int(id) for id, token in described.items() if token["special"]}
    assert special == chat.control_tokens(tokenizer) and special["<end_of_turn>"] == 107
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(again) is type(tokenizer) and again.get_vocab() == tokenizer.get_vocab()
    assert chat.control_tokens(again) == special
    for text in [*TEXTS, "<start_of_turn>user\n", "<unused3>"]:
        for options in ({}, {"split_special_tokens": True}):
            assert again(text, **options)["input_ids"] == tokenizer(text, **options)["input_ids"]


@pytest.mark.parametrize("reason", ["RemoteEntryNotFoundError", "LocalEntryNotFoundError"])
def test_a_base_of_the_hub_without_the_file_or_a_network_gets_one_built(
    tokenizer, tmp_path, monkeypatch, reason
):
    asked = []

    def refuse(*words, **options):
        asked.append((*words, options["revision"]))
        kind = getattr(converter_files.huggingface_hub.errors, reason)
        raise kind.__new__(kind)

    monkeypatch.setattr(converter_files.huggingface_hub, "hf_hub_download", refuse)
    tokenizer.save_pretrained(tmp_path)
    converter_files.write_converter_files(tmp_path, tokenizer, "google/gemma-2-9b-it@abc")
    assert asked == [("google/gemma-2-9b-it", "tokenizer.model", "abc")]
    built = converter_files.build_sentencepiece(tokenizer)
    assert (tmp_path / "tokenizer.model").read_bytes() == built


def test_other_kinds_of_tokenizers_get_no_sentencepiece_file(tmp_path):
    from byte_tokenizer import make_byte_tokenizer

    tokenizer = make_byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    converter_files.write_converter_files(tmp_path, tokenizer, str(tmp_path))
    assert not (tmp_path / "tokenizer.model").exists()
