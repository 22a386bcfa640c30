"""Without a GPU, models compute in the precision that the CPU multiplies natively, or in the one that CPU_DTYPE names."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from stopping import stop_message

import finetune
import predict
import prompts
from stance.labelling import labeller
from stance.model import chat, loading, lora_linear, precision, scoring
from stance.training import run_folder


@pytest.fixture
def cpu(monkeypatch):
    """A function that lets PyTorch see a CPU with these instructions, and no GPU."""
    monkeypatch.setattr(precision, "CPU_DTYPE", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def pretend(*instructions, onednn=True):
        monkeypatch.setattr(
            torch.cpu,
            "get_capabilities",
            lambda: {**dict.fromkeys(instructions, True), "avx2": True},
        )
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)

    return pretend


@pytest.mark.parametrize("instruction", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bfloat16_where_the_cpu_multiplies_it(cpu, instruction):
    cpu(instruction)
    assert precision.compute_dtype() == torch.bfloat16
    assert precision.describe_precision()["compute"] == "bfloat16"


@pytest.mark.parametrize("instructions", [(), ("avx512_f", "avx512_bw", "avx512_vnni")])
def test_float32_where_it_would_be_emulated(cpu, instructions):
    cpu(*instructions)
    assert precision.compute_dtype() == torch.float32
    assert precision.describe_precision()["compute"] == "float32"


def test_float32_where_pytorch_does_not_use_the_instructions(cpu):
    """As on macOS, whose builds of PyTorch have no oneDNN."""
    cpu("bf16", onednn=False)
    assert precision.compute_dtype() == torch.float32


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_the_constant_decides(cpu, monkeypatch, name):
    cpu(*(["avx512_bf16"] if name == "float32" else []))
    monkeypatch.setattr(precision, "CPU_DTYPE", name)
    assert precision.compute_dtype() == getattr(torch, name)


def test_an_unknown_constant_is_one_line(cpu, monkeypatch, capsys):
    cpu()
    monkeypatch.setattr(precision, "CPU_DTYPE", "float16")
    assert "CPU_DTYPE 'float16' is unknown" in stop_message(capsys, precision.compute_dtype)


def test_a_gpu_computes_in_bfloat16_whatever_the_constant(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(precision, "CPU_DTYPE", "float32")
    assert precision.compute_dtype() == torch.bfloat16


# ---------------------------------------------------------------- weights and use


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_base_is_loaded_to_compute_in_it(cpu, monkeypatch, tiny_model, name):
    cpu()
    monkeypatch.setattr(precision, "CPU_DTYPE", name)
    model = loading.load_base(tiny_model)
    assert model.dtype == getattr(torch, name)
    for linear in lora_linear.find_linears(model):
        assert linear.weight.quant_state.dtype == linear.dense_weight.dtype == getattr(torch, name)
        assert torch.equal(linear.dense_weight, lora_linear.read_weight(linear))


def test_unpacked_weights_answer_as_packed_ones(cpu, monkeypatch, tiny_model):
    """They are kept if the main memory has room, and change nothing but the time."""
    cpu()
    monkeypatch.setattr(precision, "CPU_DTYPE", "float32")
    unpacked = loading.load_base(tiny_model)
    monkeypatch.setattr(loading.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    packed = loading.load_base(tiny_model)
    assert not any(hasattr(linear, "dense_weight") for linear in lora_linear.find_linears(packed))
    tokenizer = loading.load_tokenizer(tiny_model)
    encoded = chat.encode_examples(
        tokenizer, [("Vegans are right.", "It is so."), ("No.", "Not at all, I say.")]
    )
    found, expected = (
        scoring.score_prompts(model, tokenizer, encoded).nll for model in (unpacked, packed)
    )
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def moved_run(trained_run, tmp_path):
    """A copy of a run that says it was trained on a machine of the other precision."""
    run = tmp_path / "run"
    run.mkdir()
    for path in trained_run.iterdir():
        if path.is_file():
            shutil.copy(path, run)
    other = {"float32": "bfloat16", "bfloat16": "float32"}[
        precision.describe_precision()["compute"]
    ]
    for name in ("run.json", "plan.json"):
        record = json.loads((run / name).read_text(encoding="utf-8"))
        record["precision"]["compute"] = other
        (run / name).write_text(json.dumps(record), encoding="utf-8")
    return run, other


def test_an_adapter_of_another_compute_precision_is_used_with_a_note(moved_run, capsys):
    run, other = moved_run
    here = precision.describe_precision()["compute"]
    predict.main(["--adapter", str(run), "--topic", "Vegans are right.", "--text", "It is so."])
    note, answer, *_ = capsys.readouterr().out.splitlines()
    assert (
        note
        == f"note: {run} was trained in {other}, this machine computes in {here}: probabilities differ a little"
    )
    assert answer.startswith(prompts.LABELS)


def test_a_run_of_another_compute_precision_is_not_resumed(moved_run, capsys):
    run, other = moved_run
    (run / "run.json").unlink()
    record = {
        **json.loads((run / "plan.json").read_text(encoding="utf-8")),
        "precision": precision.describe_precision(),
    }
    message = stop_message(capsys, run_folder.check_same_run, run, record)
    assert f"compute was {other}" in message


def test_answers_of_another_compute_precision_do_not_mix(cpu, monkeypatch, trained_run, tiny_model):
    cpu()
    store = labeller.PairStore([("Vegans are right.", "It is so.")])
    described = []
    for name in ("float32", "bfloat16"):
        monkeypatch.setattr(precision, "CPU_DTYPE", name)
        described.append(labeller.list_dependencies(trained_run, tiny_model, store))
    assert described[0] != described[1]


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_the_trainer_computes_in_it(cpu, monkeypatch, tmp_path, name):
    cpu()
    monkeypatch.setattr(precision, "CPU_DTYPE", name)
    assert finetune.make_config(finetune.parse_args([]), tmp_path).bf16 == (name == "bfloat16")
