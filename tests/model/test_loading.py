"""Parameter counts of the real architecture, and the checks that come before any weights load."""

import json
import shutil

import huggingface_hub
import peft
import pytest
import torch
import transformers
import workload
from stopping import stop_message

import finetune
import prompts
from stance.model import adapters, loading, precision


@pytest.fixture(scope="module")
def gemma_config():
    return workload.gemma_config()


def test_parameter_counts_of_gemma_2_9b(gemma_config):
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(gemma_config)
        model = peft.get_peft_model(
            model,
            peft.LoraConfig(
                r=finetune.LORA_R,
                lora_alpha=finetune.LORA_ALPHA,
                target_modules=finetune.LORA_TARGETS,
                task_type="CAUSAL_LM",
            ),
        )
    assert model.get_nb_trainable_parameters() == (54_018_048, 9_295_724_032)
    assert {name.split(".")[-4] for name, weight in model.named_parameters() if weight.requires_grad} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip


def test_count_weights_allocates_nothing_and_counts_tied_weights_once(gemma_config):
    assert loading.count_weights(gemma_config) == 9_241_705_984


def test_large_base_without_gpu_stops_before_loading(gemma_config, tmp_path, monkeypatch, capsys):
    gemma_config.save_pretrained(tmp_path)  # a folder with a config and no weights
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        loading.check_base(str(tmp_path))
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "no CUDA GPU found" in message and "9,241,705,984" in message and "make demo" in message


def test_other_architecture_stops(tmp_path, capsys):
    transformers.GPT2Config(n_layer=1).save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        loading.check_base(str(tmp_path))
    assert stopped.value.code == 2
    assert "is a gpt2 model: choose one of the architectures gemma2" in capsys.readouterr().err


def test_missing_base_names_the_hint(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        loading.load_tokenizer(str(tmp_path / "nothing-here"))
    assert stopped.value.code == 2
    assert "nothing-here not found" in capsys.readouterr().err


def test_hub_model_out_of_reach_names_the_steps(monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit) as stopped:
        loading.load_tokenizer("google/a-model-that-is-not-in-any-cache")
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "accept the licence" in message and "hf auth login" in message


@pytest.mark.parametrize(
    "content, problem",
    [
        ([], "it must be an object, not a list"),
        ({"note": ["DEMO"]}, "its note must be a text, not a list"),
        ({"note": None}, "its note must be a text, not null"),
    ],
    ids=["a list", "a list as note", "null as note"],
)
def test_a_damaged_demo_note_is_one_line(tmp_path, capsys, content, problem):
    file = tmp_path / loading.DEMO_FILE
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        loading.read_demo_note(str(tmp_path))
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert str(file) in message and problem in message and f"make {tmp_path} again" in message


def test_only_a_demo_base_has_a_note(tmp_path):
    assert loading.read_demo_note(str(tmp_path)) is None
    (tmp_path / loading.DEMO_FILE).write_text("{}", encoding="utf-8")
    assert loading.read_demo_note(str(tmp_path)).startswith("DEMO")


def test_a_folder_has_no_version(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    for load in (loading.load_tokenizer, loading.load_config):
        message = stop_message(capsys, load, "base@main")
        assert "base is a folder" in message and "leave out @main" in message


def test_a_generation_config_of_brackets_is_one_line(tiny_model, tmp_path, capsys):
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "generation_config.json").write_text("[" * 200_000)
    assert f"cannot load {base}" in stop_message(capsys, loading.load_base, str(base))


def write_adapter(folder, **changes):
    record = {
        "base_model": "x",
        "prompt_version": prompts.PROMPT_VERSION,
        "labels": list(prompts.LABELS),
        "precision": precision.describe_precision(),
        "data": {"train": {"sha256": "0" * 64}},
        "demo": False,
        **changes,
    }
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 32}')


def test_adapter_of_another_prompt_is_refused(tmp_path, capsys):
    write_adapter(tmp_path, prompt_version="000000000000")
    with pytest.raises(SystemExit) as stopped:
        adapters.check_adapter(tmp_path)
    assert stopped.value.code == 2
    assert "000000000000" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [{"labels": ["con", "pro", "neu"]}, {"precision": {"quant_type": "fp4"}}],
    ids=["labels", "precision"],
)
def test_adapter_of_other_labels_or_precision_is_refused(tmp_path, capsys, change):
    write_adapter(tmp_path, **change)
    with pytest.raises(SystemExit) as stopped:
        adapters.check_adapter(tmp_path)
    assert stopped.value.code == 2
    assert next(iter(change)) in capsys.readouterr().err


def test_a_run_record_without_its_keys_is_refused(tmp_path, capsys):
    write_adapter(tmp_path)
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        adapters.check_adapter(tmp_path)
    assert stopped.value.code == 2
    assert "base_model" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"', "[" * 100_000])
@pytest.mark.parametrize("name", ["run.json", "adapter_config.json"])
def test_records_of_another_type_are_refused(tmp_path, capsys, name, content):
    write_adapter(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert name in stop_message(capsys, adapters.check_adapter, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bfloat16"},
        {"precision": [1]},
        {"base_model": 9},
        {"labels": {"pro": 1}},
        {"data": []},
        {"data": {"train": "abc"}},
        {"data": {"train": {}}},
        {"prompt_version": None},
        {"demo": "no"},
    ],
    ids=str,
)
def test_values_of_another_type_are_refused(tmp_path, capsys, change):
    write_adapter(tmp_path, **change)
    message = stop_message(capsys, adapters.check_adapter, tmp_path)
    assert "is no run record" in message and f" {next(iter(change))} " in message


@pytest.mark.parametrize("revision", [None, "files"])
def test_a_missing_version_is_another_version(tmp_path, tiny_model, capsys, monkeypatch, revision):
    write_adapter(tmp_path, base_model=tiny_model, base_revision=revision)
    tokenizer = loading.load_tokenizer(tiny_model)
    for folder in (tiny_model, "a/name-on-the-hub"):
        monkeypatch.setattr(loading.fingerprints, "fingerprint_base", lambda base: "files-1")
        message = stop_message(capsys, adapters.check_same_base, tmp_path, folder, tokenizer)
        assert "trained with base_revision" in message


def test_unfinished_adapter_is_refused(tmp_path, capsys):
    write_adapter(tmp_path)
    assert adapters.check_adapter(tmp_path)["base_model"] == "x"
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(SystemExit):
        adapters.check_adapter(tmp_path)
    assert "did not finish" in capsys.readouterr().err
