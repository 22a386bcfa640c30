"""Kinds of JSON files x kinds of damage: each is read, or refused in one line that names the file."""

import copy
import json
import math

import pytest
from stopping import stop_message

import prompts
from stance.common import files, locks, records, types
from stance.evaluation import predictions
from stance.model import adapter_weights, adapters, base_files, loading
from stance.training import callbacks, checkpoints, tree_trainer

HASH = "0" * 64
RUN = {
    "base_model": "a/b",
    "prompt_version": prompts.PROMPT_VERSION,
    "labels": list(prompts.LABELS),
    "precision": {"quant_type": "nf4", "double_quant": True, "compute": "bfloat16"},
    "data": {"train": {"rows": 3, "sha256": HASH}, "val": {"rows": 3, "sha256": HASH}},
    "demo": False,
    "base_revision": "files 1",
    "settings": {"EPOCHS": 3.0, "LORA_TARGETS": "all-linear"},
    "environment": {"python": "3", "versions": {"torch": "2"}, "git": {"commit": "a"}},
    "result": {"kept_validation": {"epoch": 1.0, "eval_accuracy": 0.5}},
    "adapter_files": {"adapter_config.json": HASH},
}
STATE = {
    "epoch": 1.0,
    "global_step": 3,
    "max_steps": 6,
    "log_history": [
        {"step": 1, "loss": 0.5},
        {"step": 3, "eval_loss": 0.5, "eval_accuracy": 0.5},
    ],
    "best_global_step": 3,
    "best_model_checkpoint": "checkpoints/checkpoint-3",
    "stateful_callbacks": {"TrainerControl": {"args": {"should_log": False}, "attributes": {}}},
}
EVALUATION = {
    "adapter": None,
    "base_model": "a/b",
    "environment": {"python": "3", "versions": {"torch": "2"}, "git": {"commit": "a"}},
    "leaked_rows": {"test": 0},
    "mode": "score",
    "note": None,
    "records": {"validation.jsonl": HASH},
    "splits_of_adapter": True,
    "test_sha256": HASH,
}
BLOCK = {"block": 0, "batch_size": 8, "keys": ["ab"], "answers": [[0.5, 0.25, 0.25]]}
ROW = {"id": "1", "topic": "A.", "text": "B.", "stance": "Pro", "label": "pro"}
ROW["prompt"] = prompts.build_prompt("A.", "B.")
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
MARKER = {"files": {"a.pt": {"bytes": 3, "sha256": HASH}}}
HELD = {"host": "here", "pid": 1, "started": 1.5}

# By file: what it holds, the type that it is read as, and what reads it; of a folder.
KINDS = {
    "run.json": (RUN, types.RunRecord, adapters.read_record),
    "trainer_state.json": (STATE, types.CheckpointState, checkpoints.read_state),
    "loss_window.json": (
        {"loss": 0.5, "logged_step": 3},
        types.LossWindow,
        tree_trainer.read_loss_window,
    ),
    "adapter_config.json": (CONFIG, types.AdapterConfig, adapter_weights.check_adapter_config),
    "demo_model.json": ({"note": "DEMO"}, types.DemoNote, loading.read_demo_note),
    "config.json": ({"model_type": "gemma2", "num_hidden_layers": 2}, types.BaseConfig, None),
    base_files.INDEX: (
        {"metadata": {}, "weight_map": {"a": "a.safetensors"}},
        types.WeightIndex,
        lambda folder: base_files.check_index(folder / base_files.INDEX, is_folder=False),
    ),
    "evaluation.json": (
        EVALUATION,
        types.EvaluationRun,
        lambda folder: predictions._read_run(folder / "evaluation.json"),
    ),
    "prepare_data.report.json": (
        {"outputs": {"train.jsonl": HASH}, "labels": {"1": "pro"}, "leaks": {"marked": 0}},
        types.SplitReport,
        lambda folder: predictions.splitting.read_report(folder, ()),
    ),
    "plan.json": (RUN, types.RunRecord, None),
    "train.jsonl": (
        ROW,
        types.Example,
        lambda folder: predictions.splitting.load_split(folder / "train.jsonl"),
    ),
    "log.jsonl": (
        {"step": 1, "loss": 0.5},
        types.StateLog,
        lambda folder: callbacks.read_log(folder / "log.jsonl"),
    ),
    "part.jsonl": (BLOCK, types.PartBlock, None),
    "complete.json": (MARKER, types.CheckpointMarker, None),
    "finetune.lock": (HELD, types.RunLock, None),
}
DAMAGE = {
    "brackets": b"[" * 200_000,
    "braces": b'{"a":' * 200_000,
    "nested lists": b"[" * 900 + b"]" * 900,
    "huge integer": b"1" * 5000,
    "infinite": b"1e999",
    "not a number": b"NaN",
    "empty": b"",
    "no bytes but zero": b"\0" * 100,
    "not UTF-8": b'{"base_model": "\xff\xfe"}',
    "UTF-16": '{"note": "a"}'.encode("utf-16"),
    "a text": b'"text"',
    "null": b"null",
}
VALUES = [
    None, True, 3, -1, 10**30, 1.5, math.inf, "text", "\ud800", "\x1b[31m", [], ["a"], [[]], {},
    {"a": {"b": 1}},
]  # fmt: skip


def read(folder, name):
    """Read a file as the scripts do."""
    _, kind, reader = KINDS[name]
    if reader is None:
        return records.read_typed(folder / name, kind, "file of its kind", "train again")
    return reader(folder)


def write_value(folder, name, value):
    """Write a value of JSON, with NaN and Infinity as Python writes them."""
    (folder / name).write_text(json.dumps(value) + "\n", encoding="utf-8")


def walk_places(value, place=()):
    """Yield the keys and positions that lead to each part of a value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in parts:
        yield (*place, key)
        if isinstance(part, (dict, list)):
            yield from walk_places(part, (*place, key))


def replace_at(value, place, part):
    changed = copy.deepcopy(value)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = part
    return changed


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_file_is_read(tmp_path, name):
    write_value(tmp_path, name, KINDS[name][0])
    read(tmp_path, name)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", KINDS)
def test_damage_is_one_line_that_names_the_file(tmp_path, capsys, name, damage):
    (tmp_path / name).write_bytes(DAMAGE[damage] + b"\n")
    message = stop_message(capsys, read, tmp_path, name)
    assert name in message and message.isprintable() or message[:-1].isprintable()
    assert len(message) < 1000


@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_breaks_off_is_one_line(tmp_path, capsys, name):
    whole = json.dumps(KINDS[name][0]).encode()
    for size in range(1, len(whole) - 1, 7):
        (tmp_path / name).write_bytes(whole[:size] + b"\n")
        assert name in stop_message(capsys, read, tmp_path, name)


@pytest.mark.parametrize("name", KINDS)
def test_a_value_of_each_type_at_each_place_is_read_or_one_line(tmp_path, capsys, name):
    content, kind, _ = KINDS[name]
    refused = 0
    for place in walk_places(content):
        for value in VALUES:
            write_value(tmp_path, name, replace_at(content, place, value))
            try:
                read(tmp_path, name)
            except SystemExit as stopped:
                refused += 1
                assert stopped.code == 2
                message = capsys.readouterr().err
                assert message.count("\n") == 1 and name in message and "\x1b" not in message
    assert refused > 5


@pytest.mark.parametrize("name", ["complete.json", "finetune.lock"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_where_damage_counts_as_missing_it_is_no_error(tmp_path, name, damage):
    """A checkpoint that is not whole is set aside, a lock asked about."""
    (tmp_path / name).write_bytes(DAMAGE[damage])
    assert records.find_typed(tmp_path / name, KINDS[name][1]) is None
    assert not checkpoints.is_complete(tmp_path)
    if name == "finetune.lock":
        assert locks.read_lock(tmp_path / name) == {}


@pytest.mark.parametrize(
    "value, kind, problem",
    [
        ({"loss": True, "logged_step": 1}, types.LossWindow, "its loss must be a number, not true"),
        ({"loss": 1}, types.LossWindow, "it lacks logged_step"),
        ({"a": [1, "2"]}, dict[str, list[int]], 'its "a" item 2 must be a whole number, not "2"'),
        ([], dict[str, str], "it must be an object, not a list"),
        (1.5, str | None, "it must be a text or null, not 1.5"),
        ({"a": math.nan}, dict[str, float], 'its "a" must be a number, not nan'),
        ({"a": 10**5000}, dict[str, int], "its \"a\" must be a whole number, not a number of many digits"),
    ],
)  # fmt: skip
def test_a_problem_says_where_and_what(value, kind, problem):
    assert records.describe_problem(value, kind).startswith(problem)


def test_every_type_of_the_library_has_a_check():
    kinds = [
        kind for name, kind in vars(types).items()
        if hasattr(kind, "__required_keys__") and name != "AnnotatedRow" and name != "_AnnotatedRow"
    ]  # fmt: skip
    assert len(kinds) > 20
    for kind in kinds:
        records.make_check(kind)({})


def test_numbers_that_json_does_not_know_are_gaps(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": NaN, "b": [-Infinity]}')
    assert files.read_json(path, "x") == {"a": None, "b": [None]}
