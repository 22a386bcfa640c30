"""A base's config and index name nothing but its own weights: no code, no pickles, no files elsewhere."""

import json
import pickle
import shutil
import sys

import pytest
import torch
import transformers
from stopping import stop_message

from stance.model import base_files, fingerprints, loading

SHARDS = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture(scope="session")
def sharded_source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    config = transformers.Gemma2Config(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Gemma2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=80_000)
    return folder


@pytest.fixture
def base(sharded_source, tmp_path):
    """A base in two weight files, which a test may damage."""
    folder = tmp_path / "base"
    folder.mkdir()
    for path in sharded_source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change_json(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def rename_shard(base, name):
    """Let the index name another file for one of the weight files."""
    path = base / base_files.INDEX
    index = json.loads(path.read_text(encoding="utf-8"))
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"] = {
        key: name if file == files[-1] else file for key, file in index["weight_map"].items()
    }
    path.write_text(json.dumps(index), encoding="utf-8")
    return base / files[-1]


def test_a_base_as_published_loads(base):
    assert loading.load_config(str(base)).num_hidden_layers == 2
    assert loading.load_base(str(base)).config.model_type == "gemma2"


def test_weight_files_may_be_links_as_in_the_cache_of_the_hub(base, tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in list(base.glob("*.safetensors")):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    before = fingerprints.fingerprint_base(str(base))
    loading.load_base(str(base))
    changed = sorted(blobs.iterdir())[-1]
    changed.write_bytes(changed.read_bytes()[:-2] + b"??")
    assert fingerprints.fingerprint_base(str(base)) != before


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_experts_implementation"])  # fmt: skip
@pytest.mark.parametrize("value", ["kernels-community/evil", "evil/x@main:y", {"": "a/b"}, ["a"], 1])  # fmt: skip
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_config_cannot_name_a_kernel(base, capsys, key, value, is_nested):
    def change(config):
        (config.setdefault("text_config", {}) if is_nested else config)[key] = value

    change_json(base / "config.json", change)
    message = stop_message(capsys, loading.load_config, str(base))
    assert "config.json" in message and key in message and "run code of others" in message


def test_an_attention_of_transformers_in_the_config_is_not_taken(base, monkeypatch):
    change_json(
        base / "config.json", lambda config: config.update(_attn_implementation="flash_attention_2")
    )
    asked = []
    check = transformers.PreTrainedModel._check_and_adjust_attn_implementation
    monkeypatch.setattr(
        transformers.PreTrainedModel,
        "_check_and_adjust_attn_implementation",
        lambda self, name, *rest, **more: asked.append(name) or check(self, name, *rest, **more),
    )
    config = loading.load_config(str(base))
    loading.count_weights(config)
    loading.load_base(str(base))
    assert asked and set(asked) <= {"eager", "prefix_tree", loading.prefix_tree.ATTENTION}


@pytest.mark.parametrize(
    "value",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "compressed-tensors"},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "gptq",
    ],
    ids=str,
)
def test_a_config_cannot_choose_another_quantisation(base, capsys, value):
    change_json(base / "config.json", lambda config: config.update(quantization_config=value))
    message = stop_message(capsys, loading.load_config, str(base))
    assert "quantization_config" in message and "as it was published" in message


@pytest.mark.parametrize("value", ["adapter_model.bin", "other.safetensors", "sub/x.safetensors"])
def test_a_config_cannot_name_other_weights(base, capsys, value):
    change_json(base / "config.json", lambda config: config.update(transformers_weights=value))
    assert "transformers_weights" in stop_message(capsys, loading.load_base, str(base))


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "../model.safetensors",
        "sub/model.safetensors",
        "/etc/model.safetensors",
        "..\\model.safetensors",
        ".model.safetensors",
        "model.safetensors/",
        "model.SAFETENSORS",
        "model.safetensors\n",
        "",
    ],
)
def test_an_index_names_only_safetensors_beside_it(base, capsys, name):
    rename_shard(base, name)
    message = stop_message(capsys, loading.load_base, str(base))
    assert base_files.INDEX in message and "pickles" in message


class Bomb:
    def __reduce__(self):
        return exec, ("import sys; sys.modules['ran_a_pickle'] = 1",)


def test_a_pickle_that_the_index_names_is_not_read(base, capsys):
    (base / "weights.bin").write_bytes(pickle.dumps(Bomb()))
    rename_shard(base, "weights.bin")
    stop_message(capsys, loading.load_base, str(base))
    assert "ran_a_pickle" not in sys.modules


def test_weights_elsewhere_are_not_read_though_they_are_whole(base, tmp_path, capsys):
    moved = rename_shard(base, "../moved.safetensors")
    moved.rename(tmp_path / "moved.safetensors")
    assert "moved" in stop_message(capsys, loading.load_base, str(base))


def test_a_shard_that_is_missing_is_named(base, capsys):
    missing = rename_shard(base, "model-00009-of-00009.safetensors")
    assert missing.is_file()
    assert "model-00009" in stop_message(capsys, loading.load_base, str(base))


def test_a_folder_with_an_adapter_is_no_base(base, capsys):
    (base / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    assert "holds an adapter" in stop_message(capsys, loading.load_config, str(base))


def test_weights_that_are_missing_are_not_made_up(base, capsys):
    """transformers would fill them with random numbers, and only log it."""
    path = base / base_files.INDEX
    files = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    change_json(
        path,
        lambda index: index.update(
            weight_map={k: v for k, v in index["weight_map"].items() if v != files[-1]}
        ),
    )
    assert "lack" in stop_message(capsys, loading.load_base, str(base))


@pytest.mark.parametrize("key", ["num_hidden_layers", *base_files.SIZES])
@pytest.mark.parametrize("value", [10**9, 10**30, 0, -1, "2", 2.5, True, []], ids=str)
def test_a_config_of_absurd_sizes_ends_at_once(base, capsys, key, value):
    change_json(base / "config.json", lambda config: config.update({key: value}))
    message = stop_message(capsys, loading.load_config, str(base))
    assert "config.json" in message and key in message


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_activation": "no such function"},
        {"rope_parameters": "x"},
        {"rope_parameters": {"rope_type": "nothing"}},
        {"layer_types": ["x"]},
        {"rms_norm_eps": "x"},
        {"architectures": "x"},
        {"model_type": 3},
        {"model_type": None},
        {"dtype": "no_such_type"},
        {"sliding_window": "x"},
        {"final_logit_softcapping": {}},
        {"pad_token_id": 10**20},
    ],
    ids=str,
)
def test_a_config_that_describes_no_model_is_one_line(base, capsys, change):
    change_json(base / "config.json", lambda config: config.update(change))

    def load():
        loading.count_weights(loading.load_config(str(base)))

    stop_message(capsys, load)


def test_an_unknown_key_of_a_tokenizer_does_not_reach_the_terminal_raw(tiny_model, tmp_path, capfd):
    """The tokenizers library prints it straight to the descriptor."""
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    described = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    described["added_tokens"][0]["\x1b[31mkey"] = 1
    (base / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    loading.load_tokenizer(str(base))
    shown = capfd.readouterr().out
    assert "\\x1b[31mkey" in shown and "\x1b" not in shown
