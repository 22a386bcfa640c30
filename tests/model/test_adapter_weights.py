"""An adapter whose weights would not land on its base stops every script before the base loads."""

import json
import shutil
import time

import peft
import pytest
import safetensors.torch
import torch
import transformers
from stopping import stop_message

import evaluate
import predict
from stance.common import limits
from stance.model import adapter_weights, adapters, loading
from tools import export

CONFIG = transformers.Gemma2Config(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
)


@pytest.fixture
def folder(tmp_path):
    """The folder of a fresh adapter for a base of CONFIG."""
    base = transformers.AutoModelForCausalLM.from_config(CONFIG)
    lora = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    peft.get_peft_model(base, lora).save_pretrained(tmp_path)
    return tmp_path


def change_tensors(folder, change):
    path = folder / adapter_weights.WEIGHTS
    tensors = change(safetensors.torch.load_file(path))
    safetensors.torch.save_file(tensors, path)


def change_config(folder, **fields):
    path = folder / adapter_weights.CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | fields), encoding="utf-8")


def fail_line(capsys, folder):
    with pytest.raises(SystemExit) as stopped:
        adapter_weights.check_adapter_weights(folder, CONFIG)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and printed.out == ""
    return printed.err


def test_an_adapter_as_it_was_saved_fits(folder, capsys):
    adapter_weights.check_adapter_weights(folder, CONFIG)
    assert capsys.readouterr() == ("", "")


def first(tensors):
    return next(name for name in sorted(tensors) if "lora_B" in name)


def rename(tensors):
    return {name.replace("layers.0", "layers.7"): tensor for name, tensor in tensors.items()}


def rename_all(tensors):
    return {name.replace("base_model.model", "model"): tensor for name, tensor in tensors.items()}


def halve(tensors):
    return dict(sorted(tensors.items())[::2])


def lose_one(tensors):
    return {name: tensor for name, tensor in tensors.items() if name != first(tensors)}


def empty(tensors):
    return {}


def add_one(tensors):
    return tensors | {"base_model.model.score.lora_A.weight": torch.zeros(4, 16)}


def shorten(tensors):
    return tensors | {first(tensors): tensors[first(tensors)][:, :2].contiguous()}


def spoil(value):
    def change(tensors):
        spoiled = tensors[first(tensors)].clone()
        spoiled[0, 0] = value
        return tensors | {first(tensors): spoiled}

    return change


def make_integers(tensors):
    return tensors | {first(tensors): tensors[first(tensors)].to(torch.int8)}


@pytest.mark.parametrize(
    "change, expected",
    [
        (rename, "fit nothing in the base"),
        (rename_all, "are missing"),
        (halve, "are missing"),
        (lose_one, "1 of 28 tensors are missing"),
        (empty, "28 of 28 tensors are missing"),
        (add_one, "1 fit nothing in the base (base_model.model.score.lora_A.weight)"),
        (shorten, "have another shape"),
        (spoil(float("nan")), "not finite"),
        (spoil(float("inf")), "not finite"),
        (make_integers, "int8, not floating-point numbers"),
    ],
)
def test_tensors_that_do_not_fit_stop(folder, capsys, change, expected):
    change_tensors(folder, change)
    assert expected in fail_line(capsys, folder)


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"r": 8}, "have another shape"),
        ({"target_modules": ["q_proj"]}, "fit nothing in the base"),
        ({"target_modules": ["no_such_layer"]}, "does not fit the base"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"a_field_of_a_newer_peft": {"a": 1}}, "a_field_of_a_newer_peft"),
        ({"lora_alpha": None}, "lora_alpha must be a number"),
        ({"lora_alpha": "32"}, "lora_alpha must be a number"),
        ({"r": "4"}, "its r must be a whole number"),
        ({"r": 0}, "does not fit the base"),
        ({"r": 10**30}, "its r must be a whole number"),
        ({"target_modules": 3}, "its target_modules must be"),
        ({"peft_type": "IA3"}, "describes no plain LoRA adapter"),
    ],
)
def test_a_config_that_does_not_fit_stops(folder, capsys, fields, expected):
    change_config(folder, **fields)
    assert expected in fail_line(capsys, folder)


CATASTROPHIC = r"(([a-z0-9_.]+)+)+!"  # as slow as 2 to the length of a name


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": CATASTROPHIC},
        {"exclude_modules": CATASTROPHIC},
        {"rank_pattern": {CATASTROPHIC: 4}},
        {"alpha_pattern": {CATASTROPHIC: 4}},
        {"layers_pattern": CATASTROPHIC, "layers_to_transform": [0], "target_modules": ["q_proj"]},
        {"layers_pattern": [CATASTROPHIC], "layers_to_transform": 0, "target_modules": ["q_proj"]},
        {"target_modules": "("},
        {"target_modules": "a{99999999999}"},
        {"target_modules": "(" * 10_000 + ")" * 10_000},
    ],
)
def test_a_regular_expression_that_cannot_be_used_stops(folder, capsys, monkeypatch, fields):
    monkeypatch.setattr(adapter_weights, "PATTERN_SECONDS", 0.2)
    change_config(folder, **fields)
    started = time.monotonic()
    line = fail_line(capsys, folder)
    assert adapter_weights.CONFIG in line and len(line) < 600
    assert time.monotonic() - started < 10


@pytest.mark.slow
def test_a_regular_expression_is_limited_where_the_process_cannot_limit_itself(
    folder, capsys, monkeypatch
):
    """As on Windows."""
    monkeypatch.setattr(limits, "can_limit", lambda: False)
    monkeypatch.setattr(limits, "START_SECONDS", 3)
    adapter_weights.check_adapter_weights(folder, CONFIG)
    monkeypatch.setattr(adapter_weights, "PATTERN_SECONDS", 0.2)
    change_config(folder, target_modules=CATASTROPHIC)
    assert "takes more than 0.2 seconds" in fail_line(capsys, folder)


def test_a_regular_expression_of_all_layers_passes(folder):
    change_config(folder, target_modules=r".*layers\.\d+\.(self_attn|mlp)\.\w+_proj")
    adapter_weights.check_adapter_weights(folder, CONFIG)


@pytest.mark.parametrize("content", ["[]", "", "[" * 100_000])
def test_a_damaged_config_stops(folder, capsys, content):
    (folder / adapter_weights.CONFIG).write_text(content, encoding="utf-8")
    assert adapter_weights.CONFIG in fail_line(capsys, folder)


def test_a_truncated_file_stops(folder, capsys):
    path = folder / adapter_weights.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path} cannot be read" in fail_line(capsys, folder)


def test_a_checkpoint_is_compared_with_the_run_that_goes_on(folder, capsys):
    """The model that takes the tensors is made with the settings of the run, not of the checkpoint."""
    lora = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapter_weights.check_adapter_weights(folder, CONFIG, lora)
    assert lora.target_modules == "all-linear"
    with pytest.raises(SystemExit):
        adapter_weights.check_adapter_weights(folder, CONFIG, peft.LoraConfig(r=8))
    assert "20 fit nothing" in capsys.readouterr().err


def test_fields_of_other_versions_of_peft_that_say_nothing_pass(folder):
    change_config(folder, a_field_of_a_newer_peft=None, lora_dropout=0.1)
    adapter_weights.check_adapter_weights(folder, CONFIG)


@pytest.mark.parametrize("script", ["evaluate", "predict", "export"])
def test_scripts_stop_before_weights_load(
    trained_run, data_dir, tmp_path, monkeypatch, capsys, script
):
    """Where the bare base would predict, with exit code 0."""
    monkeypatch.setattr(loading, "load_base", None)
    adapter = shutil.copytree(trained_run, tmp_path / "adapter")
    change_tensors(adapter, rename_all)
    main, flags = {
        "evaluate": (evaluate.main, ["--data-dir", data_dir]),
        "predict": (predict.main, ["--topic", "a", "--text", "b"]),
        "export": (export.main, ["--data-dir", data_dir, "--output-dir", str(tmp_path / "new")]),
    }[script]
    message = stop_message(capsys, main, ["--adapter", str(adapter), *flags])
    assert f"{adapter / adapter_weights.WEIGHTS}: " in message and "are missing" in message
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_that_would_not_land_stops(trained_run, tiny_model, tmp_path, capsys):
    """What --resume calls."""
    checkpoint = sorted((trained_run / "checkpoints").glob("checkpoint-*"))[-1]
    adapters.check_checkpoint(checkpoint, tiny_model)
    copied = shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    change_tensors(copied, halve)
    message = stop_message(capsys, adapters.check_checkpoint, copied, tiny_model)
    assert str(copied) in message and "are missing" in message
