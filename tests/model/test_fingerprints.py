"""An adapter is loaded on the base, with the tokenizer and for the sentences that it may be used with; or one line."""

import json
import pickle
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from stopping import stop_message

import evaluate
import predict
from stance.common import files, run_files
from stance.corpus import cleaning, splitting
from stance.model import adapters, fingerprints, loading
from tools import export


@pytest.fixture
def adapter(trained_run, tmp_path):
    """A copy of a trained adapter that a test may spoil."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in (
        "run.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        run_files.SENTENCES,
    ):
        shutil.copy(run_files.find_text(trained_run, name), folder)
    return folder


def change_record(folder, **changes):
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**record, **changes}), encoding="utf-8")


@pytest.fixture
def no_weights(monkeypatch):
    monkeypatch.setattr(loading, "load_base", None)


# ---------------------------------------------------------------- nothing that can run code


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickled_adapter_is_refused(adapter, tmp_path, capsys, no_weights):
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for has_both in (True, False):
        message = stop_message(
            capsys, predict.main, ["--adapter", str(adapter), "--topic", "a", "--text", "b"]
        )
        assert "adapter_model.bin" in message and "pickle" in message
        if has_both:
            (adapter / "adapter_model.safetensors").unlink()
    assert not (tmp_path / "ran").exists()


def test_a_pickled_base_is_refused(tiny_model, tmp_path, capsys):
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "model.safetensors").unlink()
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    torch.save(model.state_dict(), base / "pytorch_model.bin")
    message = stop_message(capsys, loading.load_base, str(base))
    assert "pickles" in message and ".safetensors" in message


def test_code_beside_a_base_never_runs(tiny_model, tmp_path):
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    config = json.loads((base / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    (base / "config.json").write_text(json.dumps(config))
    loading.check_base(str(base))
    assert type(loading.load_base(str(base))).__name__ == "Gemma2ForCausalLM"
    assert not (tmp_path / "ran").exists()


def test_loaders_are_told_to_run_no_code(tiny_model):
    seen = []
    loading.load_pretrained(lambda base, **options: seen.append(options), tiny_model)
    assert seen == [{"trust_remote_code": False}]


@pytest.mark.parametrize(
    "change", [{"peft_type": "LOHA"}, {"megatron_config": {"a": 1}}], ids=lambda c: next(iter(c))
)
def test_an_adapter_that_is_no_plain_lora_is_refused(adapter, capsys, change):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
    assert "no plain LoRA adapter" in stop_message(capsys, adapters.check_adapter, adapter)


def test_a_cut_adapter_is_one_line(adapter, tiny_model, capsys):
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    message = stop_message(capsys, adapters.load_adapter, loading.load_base(tiny_model), adapter)
    assert str(adapter) in message and "copy it again" in message


# ---------------------------------------------------------------- the base of the training


@pytest.fixture
def moved_base(adapter, tiny_model, tmp_path):
    """A copy of the base, which the adapter's record names; nothing has changed yet."""
    base = shutil.copytree(tiny_model, tmp_path / "base")
    change_record(adapter, base_model=str(base))
    return base


def check_same_base(adapter, base):
    """The check of evaluate.py and predict.py."""
    adapters.check_same_base(adapter, base, loading.load_tokenizer(base))


def test_a_copied_base_is_the_same_base(adapter, moved_base):
    check_same_base(adapter, str(moved_base))


@pytest.mark.parametrize("script", ["evaluate", "predict"])
def test_a_base_with_other_weights_is_refused(
    adapter, moved_base, data_dir, capsys, no_weights, script
):
    """Of the same shape, which would load without an error."""
    weights = moved_base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    was = fingerprints.fingerprint_base(str(moved_base))
    for place in range(len(content) // 2, len(content)):  # a part of the weights
        content[place] ^= 1
    weights.write_bytes(content)
    now = fingerprints.fingerprint_base(str(moved_base))
    flags = {"evaluate": ["--data-dir", data_dir], "predict": ["--topic", "a", "--text", "b"]}[
        script
    ]
    call = {"evaluate": evaluate.main, "predict": predict.main}[script]
    message = stop_message(capsys, call, ["--adapter", str(adapter), *flags])
    assert was != now and was in message and now in message and str(moved_base) in message


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_another_tokenizer_is_refused(adapter, moved_base, capsys, name):
    path = moved_base / name
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("<unused7>", "<other7>") if name == "tokenizer.json" else text + " ",
        encoding="utf-8",
    )
    message = stop_message(capsys, check_same_base, adapter, str(moved_base))
    assert "trained with tokenizer" in message and "here it is" in message


def test_a_record_without_a_version_of_the_base_is_refused(adapter, tiny_model, capsys):
    change_record(adapter, base_revision=None)
    assert "base_revision None" in stop_message(capsys, check_same_base, adapter, tiny_model)


COMMITS = "1" * 40, "2" * 40


@pytest.fixture
def hub(tiny_model, tmp_path, monkeypatch):
    """A hub cache with two commits of one model, the second of them current, and no network."""
    home = tmp_path / "hub" / "models--someone--gemma"
    for commit in COMMITS:
        shutil.copytree(tiny_model, home / "snapshots" / commit)
    with open(
        home / "snapshots" / COMMITS[1] / "chat_template.jinja", "a", encoding="utf-8"
    ) as file:
        file.write(" ")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMITS[1])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for module in (huggingface_hub.constants, transformers.utils.hub.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return "someone/gemma"


def test_a_base_on_the_hub_is_known_by_its_commit(hub):
    bases = hub, f"{hub}@{COMMITS[0]}"
    current, pinned = (loading.describe_base(base, loading.load_tokenizer(base)) for base in bases)
    assert (current["base_revision"], pinned["base_revision"]) == (COMMITS[1], COMMITS[0])
    assert current["tokenizer"] != pinned["tokenizer"]


def test_another_commit_is_refused_and_the_hint_works(hub, adapter, capsys):
    change_record(adapter, base_model=hub, base_revision=COMMITS[0])
    message = stop_message(capsys, check_same_base, adapter, hub)
    assert COMMITS[0] in message and COMMITS[1] in message
    pinned = f"{hub}@{COMMITS[0]}"
    assert f'"base_model": "{pinned}"' in message
    check_same_base(adapter, pinned)


def test_an_adapter_of_a_pinned_commit_is_merged_into_that_commit(
    hub, adapter, data_dir, tmp_path, monkeypatch
):
    """The commit is not the current one, which a name without it would load."""
    pinned = f"{hub}@{COMMITS[0]}"
    change_record(adapter, base_model=pinned, base_revision=COMMITS[0], demo=False)
    weights = f"models--someone--gemma/snapshots/{COMMITS[1]}/model.safetensors"
    (tmp_path / "hub" / weights).write_bytes(b"no weights")
    words = [
        "--adapter",
        str(adapter),
        "--data-dir",
        data_dir,
        "--output-dir",
        str(tmp_path / "merged"),
    ]
    export.main(words)
    assert files.read_json(tmp_path / "merged" / "export.json", "")["base_model"] == pinned


# ---------------------------------------------------------------- models out of reach


@pytest.mark.parametrize("problem", [
    OSError("You are trying to access a gated repo.\nMake sure to have access to it at https://huggingface.co/x"),
    OSError("x/y is not a local folder and is not a valid model identifier listed on 'https://huggingface.co'\n"),
])  # fmt: skip
def test_a_model_out_of_reach_is_one_line_with_steps(capsys, monkeypatch, problem):
    def load(base, **options):
        raise problem

    # It would ask the Hub, which takes a minute without a network.
    monkeypatch.setattr(loading.base_files, "check_base_files", lambda name, revision: None)
    message = stop_message(capsys, loading.load_pretrained, load, "x/y")
    assert str(problem).splitlines()[0] in message
    assert (
        "check its name" in message
        and "1. accept the licence" in message
        and "3. start again" in message
    )


# ---------------------------------------------------------------- sentences seen in training

CLEANING = cleaning.describe_cleaning(cleaning.ALL_REPAIRS)


def copy_splits(data_dir, folder, test_rows):
    """Write splits that are not the adapter's: its validation split as train split, and other test rows."""
    splits = {"train": splitting.load_split(Path(data_dir, "val.jsonl")), "test": test_rows}
    splitting.write_splits(folder, splits, {"cleaning_version": CLEANING})
    return str(folder)


def test_sentences_of_the_training_are_no_test(adapter, data_dir, tmp_path, capsys, no_weights):
    """Even with other case and punctuation, which hide nothing from a model."""
    rows = files.read_jsonl(Path(data_dir, "test.jsonl"), (), "fix the test")
    known = files.read_jsonl(Path(data_dir, "train.jsonl"), (), "fix the test")[0]
    text = known["text"].upper() + "!!"
    known = {**known, "text": text, "prompt": evaluate.prompts.build_prompt(known["topic"], text)}
    splits = copy_splits(data_dir, tmp_path / "data", [*rows, known])
    words = ["--adapter", str(adapter), "--data-dir", splits, "--output-dir", str(tmp_path / "out")]
    message = stop_message(capsys, evaluate.main, words)
    assert "1 of 25 sentences" in message and text[:40] in message and "was trained on" in message


def test_unseen_sentences_are_said_to_be_so(adapter, data_dir, tmp_path, capsys):
    rows = list(files.read_jsonl(Path(data_dir, "test.jsonl"), (), "fix the test"))
    splits = copy_splits(data_dir, tmp_path / "data", rows)
    found = fingerprints.compare_splits(splits, adapter, "another hash", CLEANING, rows)
    assert found == {"splits_of_adapter": False, "unseen_test": True}
    assert "the adapter has seen none of these test sentences" in capsys.readouterr().out
    found = fingerprints.compare_splits(splits, adapter, "another hash", "1", rows)
    assert found == {"splits_of_adapter": False, "unseen_test": False}
    printed = capsys.readouterr().out
    assert f"cleaned by version 1, these by {CLEANING}: it cannot be told" in printed
    (adapter / run_files.SENTENCES).unlink()
    found = fingerprints.compare_splits(splits, adapter, "another hash", CLEANING, rows)
    assert found == {"splits_of_adapter": False, "unseen_test": False}
    assert "may have been trained on test sentences" in capsys.readouterr().out


def test_leaked_rows_stop_nothing_in_the_adapters_own_splits_and_are_never_unseen(
    adapter, data_dir, tmp_path, capsys
):
    """In other splits they stop the script, as all sentences of the training do."""
    rows = files.read_jsonl(Path(data_dir, "test.jsonl"), (), "fix the test")
    train = files.read_jsonl(Path(data_dir, "train.jsonl"), (), "fix the test")
    rows = [*rows, {**train[0], "leaked": True}]
    train_hash = files.hash_file(Path(data_dir, "train.jsonl"))
    found = fingerprints.compare_splits(data_dir, adapter, train_hash, CLEANING, rows)
    assert found == {"splits_of_adapter": True, "unseen_test": False}
    assert capsys.readouterr().out == ""
    splits = copy_splits(data_dir, tmp_path / "data", rows)
    words = (splits, adapter, "another hash", CLEANING, rows)
    message = stop_message(capsys, fingerprints.compare_splits, *words)
    assert "1 of 25 sentences" in message


def test_a_report_never_calls_leaked_rows_unseen():
    run = {"splits_of_adapter": True, "leaked_rows": {"test": 1}}
    assert "set aside" not in fingerprints.describe_splits(run)
    run["leaked_rows"]["test"] = 0
    assert "set aside" in fingerprints.describe_splits(run)


def test_hashes_hold_every_sentence_and_no_text(trained_run, data_dir):
    lines = run_files.find_text(trained_run, run_files.SENTENCES).read_text().splitlines()
    rows = files.read_jsonl(Path(data_dir, "train.jsonl"), (), "fix the test")
    assert lines == sorted({fingerprints.hash_sentence(row) for row in rows}) and len(lines) > 60
    assert all(len(line) == 16 and set(line) <= set("0123456789abcdef") for line in lines)
