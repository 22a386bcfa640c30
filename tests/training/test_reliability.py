"""Training that loses nothing: kills, full disks, short memory, bad numbers, signals, changed runs, secrets."""

import json
import logging
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import bitsandbytes
import pytest
import safetensors.torch
import torch
import transformers
from stopping import line_below_bar, stop_message

import evaluate
import finetune
from stance.common import distributed, environment, errors, files, run_files
from stance.corpus import splitting, tables
from stance.model import adapters, compilation, fingerprints, loading, lora_linear
from stance.training import callbacks, checkpoints, memory_probe, run_folder, tree_trainer
from stance.tree import prefix_tree
from tools import child_runs

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hf_ThisIsAMarkerAndNoToken0123456789"
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """A run of 2 epochs of 9 steps in one go. Tests must not write to it."""
    return train(tmp_path_factory.mktemp("whole") / "run", "--epochs", "2", LOG_STEPS=4)


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of that run as a kill after the last checkpoint would have left it."""
    shutil.copytree(whole, tmp_path / "run")
    for name in ("run.json", "adapter_model.safetensors", "adapter_config.json", "training.png"):
        (tmp_path / "run" / name).unlink()
    return tmp_path / "run"


@pytest.fixture
def resume(train):
    """A function that resumes a run of 2 epochs, with other flags and constants if they are given."""
    usual = {"LOG_STEPS": 4}
    return lambda run_dir, *flags, **words: train(
        run_dir, "--epochs", "2", "--resume", *flags, **{**usual, **words}
    )


@pytest.fixture
def build(tiny_model, data_dir, tmp_path, monkeypatch):
    """A function that returns the trainer of finetune.py for the tiny model, with the constants that are given."""

    def run(**constants):
        for name, value in {"EFFECTIVE_BATCH_SIZE": 8, "MICRO_BATCH_SIZE": 8, **constants}.items():
            monkeypatch.setattr(finetune, name, value)
        rows = files.read_jsonl(f"{data_dir}/train.jsonl", (), "fix the test")
        args = finetune.parse_args(["--base-model", tiny_model, "--epochs", "0.5"])
        return finetune.build_trainer(
            args, tmp_path, loading.load_tokenizer(tiny_model), rows, rows[:6]
        )

    return run


def read_log(run_dir):
    """The entries of log.jsonl, without the line that has times."""
    return [
        entry
        for entry in files.read_jsonl(run_dir / "log.jsonl", (), "")
        if "train_runtime" not in entry
    ]


def assert_equal_runs(one, other):
    """Equal to the bit: the adapter, and every line of the log."""
    assert (one / "adapter_model.safetensors").read_bytes() == (
        other / "adapter_model.safetensors"
    ).read_bytes()
    assert read_log(one) == read_log(other)


def list_names(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir() if path.is_dir())


# ---------------------------------------------------------------- kills


@pytest.mark.slow
def test_killed_runs_go_on_as_if_nothing_had_happened(tiny_model, data_dir, tmp_path):
    """SIGKILL and SIGTERM at random places, many of them while saving; in processes of their own."""
    command = [
        sys.executable,
        "benchmarks/chaos.py",
        "--base-model",
        tiny_model,
        "--data-dir",
        data_dir,
    ]
    command += [
        "--parts",
        "trainings",
        "prepare_data",
        "predict",
        "--moments",
        "2",
        "--kills",
        "3",
        "--rows",
        "40",
        "--seed",
        "3",
        "--output",
        str(tmp_path / "chaos.json"),
    ]
    settings = {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    record = files.read_json(tmp_path / "chaos.json", "fix the test")
    for name in ("prepare_data", "predict"):
        counts = record[name]
        assert counts["problems"] == [] and counts["tracebacks"] == counts["failed"] == 0
        assert counts["kills"] == counts["tries"] == counts["renames"] + 2
        assert counts["half"] == counts["unequal"] == 0
    result = record["trainings"]
    assert result["failed"] == []
    assert result["kills"] >= 3 and result["stops"] >= 1
    assert result["bit_equal_adapters"] == result["equal_loss_curves"] == result["runs"]


# ---------------------------------------------------------------- complete checkpoints


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
             tree_trainer.LOSS_WINDOW, checkpoints.MARKER]
)  # fmt: skip
@pytest.mark.parametrize("damage", ["missing", "cut off", "one byte"])
def test_a_checkpoint_that_lacks_anything_does_not_count(copy, name, damage):
    path = copy / "checkpoints" / "checkpoint-18" / name
    assert checkpoints.is_complete(path.parent)
    if damage == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(
            content[: len(content) // 2] if damage == "cut off" else b"x" + content[1:]
        )
    assert not checkpoints.is_complete(path.parent)
    assert checkpoints.find_checkpoint(copy, resume=True).name == "checkpoint-9"


def test_an_incomplete_checkpoint_is_set_aside_and_the_one_before_resumed(
    whole, copy, resume, capsys
):
    broken = copy / "checkpoints" / "checkpoint-18"
    (broken / "optimizer.pt").unlink()
    (broken / "trainer_state.json").write_text("mine")
    (broken.with_name("incomplete-checkpoint-18")).mkdir()  # from an earlier kill
    resume(copy)
    printed = capsys.readouterr().out
    assert "checkpoint-18 is incomplete: set aside as" in printed and "resuming from" in printed
    assert (
        copy / "checkpoints" / "incomplete-checkpoint-18-2" / "trainer_state.json"
    ).read_text() == "mine"
    assert_equal_runs(copy, whole)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", ["2", "0.5"])
def test_a_run_killed_after_its_last_checkpoint_is_only_finished(
    train, tmp_path, epochs, monkeypatch
):
    """Also if the run folder has moved: paths in checkpoints are those of the old place."""
    whole = train(tmp_path / "whole", "--epochs", epochs)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            checkpoints,
            "save_final_adapter",
            lambda *words: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        train(tmp_path / "killed", "--epochs", epochs)
    run = (tmp_path / "killed").rename(tmp_path / "moved")
    train(run, "--epochs", epochs, "--resume")
    assert_equal_runs(run, whole)
    results = [files.read_json(folder / "run.json", "")["result"] for folder in (run, whole)]
    for key in ("steps", "kept", "kept_validation", "validation"):
        assert results[0][key] == results[1][key]


@pytest.fixture
def disk_events(monkeypatch):
    """What goes to disk, as it comes: inodes of the files and folders that are synced, names that files take."""
    events, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda place: events.append(os.fstat(place).st_ino) or sync(place)
    )
    monkeypatch.setattr(
        os, "replace", lambda source, name: events.append(str(name)) or replace(source, name)
    )
    return events


def test_a_file_is_on_disk_before_it_takes_its_name(tmp_path, disk_events):
    files.write_json(tmp_path / "a.json", {})
    assert disk_events == [(tmp_path / "a.json").stat().st_ino, str(tmp_path / "a.json")]


def test_a_checkpoint_is_on_disk_before_it_is_marked_and_its_marker_before_it_counts(
    tmp_path, disk_events
):
    folder = tmp_path / "checkpoint-9"
    (folder / "sub").mkdir(parents=True)
    for name in ("optimizer.pt", "sub/rng_state.pth"):
        (folder / name).write_text(name)
    checkpoints.mark_complete(folder)
    inodes = {
        name: (folder / name).stat().st_ino
        for name in ("optimizer.pt", "sub/rng_state.pth", checkpoints.MARKER)
    }
    marked = disk_events.index(str(folder / checkpoints.MARKER))
    assert set(inodes.values()) == set(disk_events[:marked])
    assert disk_events[marked + 1 :] == [folder.stat().st_ino, tmp_path.stat().st_ino]


def test_the_final_adapter_is_on_disk_before_it_takes_its_name(tmp_path, disk_events, monkeypatch):
    def save(model, folder):
        folder.mkdir(exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / name).write_text(name)

    monkeypatch.setattr(adapters, "save_adapter", save)
    checkpoints.save_final_adapter(None, tmp_path, [])
    expected = []
    for path in (tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"):
        expected += [path.stat().st_ino, str(path)]
    expected.append(tmp_path.stat().st_ino)
    assert disk_events[-len(expected) :] == expected
    assert run_files.find_text(tmp_path, run_files.SENTENCES).is_file()


def make_checkpoints(run_dir, *steps, best=None):
    """Complete checkpoints with next to nothing in them."""
    for step in steps:
        folder = run_dir / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        state = {}
        if best and best <= step:
            state["best_global_step"] = best
            state["best_model_checkpoint"] = f"elsewhere/checkpoint-{best}"
            state["log_history"] = [{"step": best, "eval_loss": 0.5, "eval_accuracy": 0.5}]
        files.write_json(folder / "trainer_state.json", state)
        checkpoints.mark_complete(folder)
    return run_dir / "checkpoints"


@pytest.mark.parametrize(
    "best, kept", [(10, [10, 40]), (40, [30, 40]), (None, [30, 40])], ids=["old", "newest", "none"]
)
def test_old_checkpoints_go_but_not_the_newest_or_the_best(tmp_path, best, kept):
    folder = make_checkpoints(tmp_path, 10, 20, 30, 40)
    (folder / "deleting-checkpoint-5").mkdir()
    (folder / "checkpoint-50").mkdir()  # not complete yet: it neither counts nor goes
    checkpoints.remove_old(tmp_path, best and f"elsewhere/checkpoint-{best}")
    assert list_names(tmp_path) == [f"checkpoint-{step}" for step in [*kept, 50]]


@pytest.mark.slow
def test_old_checkpoints_stay_until_the_new_one_is_complete(train, tmp_path, monkeypatch):
    """Killed before the third of three is marked: both before it are still there, whole."""
    mark = checkpoints.mark_complete

    def mark_two(folder):
        if folder.name == "checkpoint-27":
            raise KeyboardInterrupt
        mark(folder)

    monkeypatch.setattr(checkpoints, "mark_complete", mark_two)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", "--epochs", "3")
    folders = checkpoints.list_checkpoints(tmp_path / "run")
    assert [(folder.name, checkpoints.is_complete(folder)) for folder in folders] == [
        ("checkpoint-9", True), ("checkpoint-18", True), ("checkpoint-27", False)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"log_history": []},
        {"log_history": [{"step": 9, "eval_loss": 0.5}]},
        {"log_history": [{"step": 9, "eval_loss": 0.5, "eval_accuracy": "a"}]},
        {"log_history": [{"step": 8, "eval_loss": 0.5, "eval_accuracy": 0.5}]},
        {"best_model_checkpoint": "checkpoint-8"},
        {"best_model_checkpoint": None},
        {"stateful_callbacks": {}},
    ],
)
def test_a_state_that_lacks_what_the_end_needs_is_one_line(tmp_path, capsys, change):
    """At once, and not where a checkpoint or the run record is written, after the training."""
    folder = make_checkpoints(tmp_path, 9, best=9) / "checkpoint-9"
    state = checkpoints.read_state(folder)
    files.write_json(folder / "trainer_state.json", state | change)
    message = stop_message(capsys, checkpoints.read_state, folder)
    assert f"{folder / 'trainer_state.json'}" in message and "start a new run" in message


@pytest.mark.parametrize("loss", [-1e308, 1e39, float("nan")])
def test_a_sum_of_losses_that_is_none_is_one_line(tmp_path, capsys, loss):
    checkpoints.check_loss(tmp_path, 1e38)
    assert "sum of losses" in stop_message(capsys, checkpoints.check_loss, tmp_path, loss)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_tensors_that_cannot_be_read_are_one_line(whole, tmp_path, capsys, name):
    """Where somebody has declared them whole; before any weights load."""
    folder = shutil.copytree(whole / "checkpoints" / "checkpoint-18", tmp_path / "checkpoint-18")
    checkpoints.check_tensors(folder)
    content = (folder / name).read_bytes()
    for damaged in (content[:-100], b"", b"pickle", content[: len(content) // 2]):
        (folder / name).write_bytes(damaged)
        message = stop_message(capsys, checkpoints.check_tensors, folder)
        assert f"{folder / name} cannot be read" in message and "start a new run" in message


def test_a_run_does_not_go_on_from_a_checkpoint_whose_best_is_lost(tmp_path):
    folder = make_checkpoints(tmp_path, 9, 18, 27, best=18)
    files.write_json(tmp_path / "plan.json", {})
    assert checkpoints.find_checkpoint(tmp_path, resume=True).name == "checkpoint-27"
    (folder / "checkpoint-18" / "trainer_state.json").write_text("{}")
    found = checkpoints.find_checkpoint(tmp_path, resume=True)
    assert found.name == "checkpoint-9"
    checkpoints.set_aside(tmp_path, found)
    assert list_names(tmp_path) == [
        "checkpoint-9",
        "incomplete-checkpoint-18",
        "incomplete-checkpoint-27",
    ]


# ---------------------------------------------------------------- the same run


def test_a_finished_run_is_not_resumed(whole, resume, capsys):
    assert "is finished" in line_below_bar(capsys, resume, whole)


def test_all_that_differs_is_named(whole, resume, capsys):
    message = line_below_bar(capsys, resume, whole, "--seed", "1", LORA_R=8)
    assert "SEED was 0, now it is 1" in message and "LORA_R was 16, now it is 8" in message


def test_other_data_are_refused(copy, resume, data_dir, tmp_path, capsys):
    splits = {name: splitting.load_split(f"{data_dir}/{name}.jsonl") for name in ("train", "val")}
    splits["train"] = splits["train"][1:]
    splitting.write_splits(tmp_path / "data", splits, {})
    message = line_below_bar(capsys, resume, copy, "--data-dir", str(tmp_path / "data"))
    assert "data train rows was 72, now it is 71" in message and "data train sha256 was" in message


def test_another_base_of_the_same_name_is_refused(
    copy, resume, tiny_model, tmp_path, capsys, monkeypatch
):
    """All weights differ."""
    shutil.copytree(tiny_model, tmp_path / "base")
    before = fingerprints.fingerprint_base(str(tmp_path / "base"))
    assert before == fingerprints.fingerprint_base(tiny_model)
    weights = safetensors.torch.load_file(tmp_path / "base" / "model.safetensors")
    weights = {name: weight + 1 for name, weight in weights.items()}
    safetensors.torch.save_file(
        weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"}
    )
    changed = fingerprints.fingerprint_base(str(tmp_path / "base"))
    monkeypatch.setattr(fingerprints, "fingerprint_base", lambda base: changed)
    assert "base_revision was" in line_below_bar(capsys, resume, copy)


@pytest.mark.parametrize("key", ["base_model", "base_revision", "tokenizer", "prompt_version"])
def test_a_run_with_another_of_these_is_refused(copy, resume, capsys, key):
    plan = files.read_json(copy / "plan.json", "")
    files.write_json(copy / "plan.json", {**plan, key: "another"})
    assert f"{key} was another, now it is" in line_below_bar(capsys, resume, copy)


def test_a_run_of_another_precision_is_refused(copy, resume, capsys):
    plan = files.read_json(copy / "plan.json", "")
    plan["precision"]["compute"] = "another"
    files.write_json(copy / "plan.json", plan)
    assert "precision compute was another, now it is" in line_below_bar(capsys, resume, copy)


def test_other_versions_are_noted(whole, copy, resume, capsys):
    plan = files.read_json(copy / "plan.json", "")
    plan["environment"]["versions"]["peft"] = "0.1.0"
    files.write_json(copy / "plan.json", plan)
    resume(copy)
    now = environment.describe_environment()["versions"]["peft"]
    assert f"note: environment versions peft was 0.1.0, now it is {now};" in capsys.readouterr().out
    assert_equal_runs(copy, whole)


# ---------------------------------------------------------------- numbers that are not finite


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_bad_step_stops_the_run_and_its_rows_are_saved(
    train, data_dir, tmp_path, capsys, monkeypatch, where
):
    """At step 3; log lines come every 5 steps, so it is noticed at step 5, and nothing is saved."""
    steps = []

    class Noting(callbacks.JsonlLog):
        def on_step_begin(self, args, state, control, **kwargs):
            steps.append(state.global_step + 1)

    compute_loss, places = tree_trainer.StanceTrainer.compute_loss, {}

    def spoil(self, *words, **options):
        loss = compute_loss(self, *words, **options)
        places[steps[-1]] = list(self.watch.steps[-1]["row_indices"])
        if steps[-1] == 3 and where == "loss":
            return loss * float("nan")
        if steps[-1] == 3:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    monkeypatch.setattr(callbacks, "JsonlLog", Noting)
    monkeypatch.setattr(tree_trainer.StanceTrainer, "compute_loss", spoil)
    message = line_below_bar(capsys, train, tmp_path / "run", "--epochs", "2", LOG_STEPS=5)
    assert (
        "at step 3" in message and "non_finite_rows.jsonl" in message and "LEARNING_RATE" in message
    )
    assert steps == [1, 2, 3, 4, 5]
    rows = files.read_jsonl(f"{data_dir}/train.jsonl", (), "")
    saved = files.read_jsonl(tmp_path / "run" / "non_finite_rows.jsonl", (), "")
    assert len(saved) == 8
    assert [row["id"] for row in saved] == [rows[place]["id"] for place in places[3]]
    assert all(row["step"] == 3 and row["text"] and row["topic"] and row["label"] for row in saved)
    assert list_names(tmp_path / "run") == []


def test_a_bad_step_is_noticed_before_a_checkpoint_between_two_log_lines(tmp_path, capsys):
    """As a signal asks for one: the watch is read before anything is saved."""
    rows = [{"id": number, "topic": "t", "text": "x", "label": "pro"} for number in range(4)]
    watch = callbacks.StepWatch(tmp_path / "rows.jsonl", rows)
    for places, loss in (([0, 1], 1.0), ([3, 2], float("inf"))):
        watch.begin_step(places)
        watch.add_loss(torch.tensor(loss) / 2)
        watch.add_loss(torch.tensor(loss) / 2)
        watch.add_norm(torch.tensor(1.0))
    assert "at step 7" in line_below_bar(capsys, watch.check, 7)
    assert [row["id"] for row in files.read_jsonl(tmp_path / "rows.jsonl", (), "")] == [3, 2]
    json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail)


def test_a_bad_step_is_not_saved_if_the_run_is_interrupted_in_it(
    train, tmp_path, capsys, monkeypatch
):
    class Stopping(callbacks.JsonlLog):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    compute_loss = tree_trainer.StanceTrainer.compute_loss

    def spoil(self, *words, **options):
        return compute_loss(self, *words, **options) * (
            float("nan") if self.state.global_step == 2 else 1
        )

    monkeypatch.setattr(callbacks, "JsonlLog", Stopping)
    monkeypatch.setattr(tree_trainer.StanceTrainer, "compute_loss", spoil)
    assert "at step 3" in line_below_bar(
        capsys, train, tmp_path / "run", "--epochs", "2", LOG_STEPS=5
    )
    assert list_names(tmp_path / "run") == []


def test_finite_steps_are_forgotten_once_they_are_checked(tmp_path):
    watch = callbacks.StepWatch(tmp_path / "rows.jsonl", [])
    watch.begin_step([0])
    watch.add_loss(torch.tensor(1.0))
    watch.add_norm(torch.tensor(1.0))
    watch.check(1, [1.0])
    assert watch.steps == [] and not (tmp_path / "rows.jsonl").exists()


def test_a_validation_loss_that_is_no_number_stops_the_run(train, tmp_path, capsys, monkeypatch):
    forward = prefix_tree.forward_tree

    def spoil(model, *words):
        validating = hasattr(model, "peft_config") and not model.training
        return forward(model, *words) * (float("nan") if validating else 1)

    monkeypatch.setattr(prefix_tree, "forward_tree", spoil)
    message = line_below_bar(capsys, train, tmp_path / "run", "--epochs", "1")
    assert "validation loss" in message and "step 9" in message
    assert list_names(tmp_path / "run") == []


# ---------------------------------------------------------------- rows


def test_the_trainer_refuses_to_lose_a_row(build, monkeypatch):
    """As trl does with rows that it cuts to their prompt."""
    assert len(build().train_dataset) == 72
    prepare = tree_trainer.trl.SFTTrainer.__init__

    def drop(self, *words, **options):
        prepare(self, *words, **options)
        self.train_dataset = self.train_dataset.select(range(70))

    monkeypatch.setattr(tree_trainer.trl.SFTTrainer, "__init__", drop)
    with pytest.raises(AssertionError, match="2 training rows are lost"):
        build()


# ---------------------------------------------------------------- memory


@pytest.fixture
def limited(build, monkeypatch):
    """A function that returns (trainer, its probe's record), as if a GPU had memory for this many rows at a time."""

    def run(most, **constants):
        trainer, tried = build(**constants), []
        compute_loss = trainer.compute_loss

        def compute(model, inputs, **options):
            rows = int(inputs["target_weights"].sum()) // 2  # two targets a row
            tried.append((rows, inputs["position_ids"].max().item()))
            loss = compute_loss(model, inputs, **options)
            if rows > most:
                raise torch.OutOfMemoryError("simulated")
            return loss

        with monkeypatch.context() as on_gpu:
            on_gpu.setattr(torch.cuda, "is_available", lambda: True)
            on_gpu.setattr(trainer, "compute_loss", compute)
            record = memory_probe.probe_memory(trainer)
        return trainer, record, tried

    return run


def test_the_probe_halves_the_micro_batch_and_keeps_the_effective_batch(limited, capsys):
    trainer, record, tried = limited(3, MICRO_BATCH_SIZE=8)
    assert record == {"micro_batch_size": 2, "too_large": [8, 4]}
    assert [rows for rows, _ in tried] == [
        8,
        4,
        2,
        2,
    ]  # both of the largest: by their longest row, and by all rows
    args = trainer.args
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (2, 4)
    assert trainer.get_total_train_batch_size(args) == 8
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(lines) == 2 and "now 2 rows, batch of 8 rows unchanged" in lines[1]
    places = {
        place for batch in memory_probe.list_batches(trainer) for place in batch
    }  # of a part of an epoch
    longest = max(len(trainer.train_dataset[place]["input_ids"]) for place in places)
    assert {depth for _, depth in tried[:3]} == {
        longest - 2
    }  # the last token needs no node; depths start at 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "epochs, count", [(2.0, 36), (1.5, 28), (0.5, 10)]
)  # whole steps of two micro-batches
def test_the_largest_batches_are_found_among_those_of_the_training(
    build, monkeypatch, epochs, count
):
    """A micro-batch of the longest rows of all would need several times the memory that training does."""
    trainer = build(MICRO_BATCH_SIZE=4)
    trainer.args.num_train_epochs = epochs
    batches = memory_probe.list_batches(trainer)
    longest, largest = memory_probe.find_largest_batches(trainer)
    seen, trained = [], tree_trainer.TreeCollator.__call__

    def collate(self, rows):
        inputs = trained(self, rows)
        seen.append(
            (
                inputs.get("row_indices"),
                inputs["input_ids"].numel(),
                max(len(row["input_ids"]) for row in rows),
            )
        )
        return inputs

    monkeypatch.setattr(tree_trainer.TreeCollator, "__call__", collate)
    trainer.train()
    seen = [batch for batch in seen if batch[0] is not None]  # not those of the validation
    assert len(seen) == count + (
        epochs % 1 > 0
    )  # of a part of an epoch, the batch after its last is made ready too
    seen = seen[:count]
    assert [places for places, _, _ in seen] == batches and len(batches) == count
    second = batches[18:]
    assert not second or batches[: len(second)] != second  # another order in each epoch
    counts = {tuple(places): (nodes, length) for places, nodes, length in seen}
    assert counts[tuple(largest)][0] == max(nodes for nodes, _ in counts.values())
    assert counts[tuple(longest)][1] == max(length for _, length in counts.values())


def test_of_several_processes_one_alone_says_what_the_probe_found(limited, capsys, monkeypatch):
    monkeypatch.setattr(
        distributed, "get_rank", lambda: (1, 1)
    )  # not the first, though nobody else is there to ask
    _, record, _ = limited(3, MICRO_BATCH_SIZE=8)
    assert record["too_large"] == [8, 4] and "note: micro" not in capsys.readouterr().out


def test_the_probe_tries_a_micro_batch_that_fits_once_and_keeps_odd_batches_whole(limited):
    _, record, tried = limited(99)
    assert record == {"micro_batch_size": 8, "too_large": []} and len(tried) == 2
    trainer, record, _ = limited(2, MICRO_BATCH_SIZE=9, EFFECTIVE_BATCH_SIZE=9)
    assert record == {"micro_batch_size": 1, "too_large": [9, 3]}
    assert trainer.args.gradient_accumulation_steps == 9


@pytest.mark.slow
def test_the_probe_leaves_weights_gradients_and_random_state_alone(limited, build):
    untouched = build(MICRO_BATCH_SIZE=2, LORA_DROPOUT=0.1)
    states = [torch.get_rng_state()]
    trainer, _, _ = limited(3, LORA_DROPOUT=0.1)
    states.append(torch.get_rng_state())
    assert torch.equal(*states)
    for one, other in zip(trainer.model.parameters(), untouched.model.parameters(), strict=True):
        assert torch.equal(one, other) and one.grad is None
    curves = []
    for each in (trainer, untouched):
        torch.manual_seed(0)  # of dropout
        each.train()
        shutil.rmtree(each.args.output_dir)
        curves.append([entry for entry in each.state.log_history if "loss" in entry])
    assert curves[0] == curves[1] and curves[0]


def test_a_single_row_that_does_not_fit_stops_the_run(limited, capsys):
    assert "GRADIENT_CHECKPOINTING" in line_below_bar(capsys, limited, 0)


def test_recorded_steps_are_compiled_again_after_a_probe_that_failed(build, monkeypatch):
    """What ran out of memory was not compiled to its end, and recording needs compiled code."""

    class Graphs:
        forgotten, calls = 0, []

        def release(self):
            self.calls.append("released")

        def __call__(self, inputs):
            self.calls.append(set(inputs))
            if len(self.calls) == 2:
                raise torch.OutOfMemoryError("simulated")

        def forget(self):
            self.forgotten += 1

    trainer = build()
    trainer.step_graphs = Graphs()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert memory_probe.probe_memory(trainer)["micro_batch_size"] == 4
    assert trainer.step_graphs.forgotten == 1
    broken, first, second = (
        trainer.step_graphs.calls[start:end] for start, end in ((0, 2), (2, 5), (5, 8))
    )
    assert (
        len(first) == len(second) == len(trainer.step_graphs.calls) - 5 == 3
    )  # compiled, then recorded: two batches
    assert broken[0] == first[0] == second[0] == "released" and "released" not in [
        broken[1],
        *first[1:],
        *second[1:],
    ]
    assert "items" in broken[1] and "row_indices" not in broken[1]


def run_out(*words, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def reports():
    """What transformers logs while weights load."""
    found, handler, log = [], logging.Handler(), logging.getLogger("transformers.modeling_utils")
    handler.emit = lambda entry: found.append(entry.getMessage())
    log.addHandler(handler)
    yield found
    log.removeHandler(handler)


@pytest.mark.parametrize("place", ["weights", "first forward pass"])
def test_a_base_that_does_not_fit_is_one_line(tiny_model, capsys, monkeypatch, reports, place):
    """transformers turns the error into a report of all weights and another error."""
    target = (
        (bitsandbytes.functional, "quantize_4bit")
        if place == "weights"
        else (loading, "check_tree")
    )
    monkeypatch.setattr(*target, run_out)
    message = line_below_bar(capsys, loading.load_base, tiny_model)
    assert message == f"error: not enough GPU memory to load {tiny_model}: {loading.MEMORY_HINT}\n"
    assert reports == []


def test_an_adapter_that_does_not_fit_is_one_line(tiny_model, trained_run, capsys, monkeypatch):
    model = loading.load_base(tiny_model)
    monkeypatch.setattr(adapters.peft.PeftModel, "from_pretrained", run_out)
    message = line_below_bar(capsys, adapters.load_adapter, model, trained_run)
    assert f"not enough GPU memory to load {trained_run}: " in message


def test_other_errors_while_weights_load_are_no_lack_of_memory(tiny_model, monkeypatch, reports):
    def fail(*words, **options):
        raise RuntimeError("something else")

    monkeypatch.setattr(bitsandbytes.functional, "quantize_4bit", fail)
    with pytest.raises(RuntimeError):
        loading.load_base(tiny_model)
    assert "something else" in reports[0]


def test_training_that_does_not_fit_is_one_line(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tree_trainer.StanceTrainer, "compute_loss", run_out)
    message = line_below_bar(capsys, train, tmp_path / "run")
    assert (
        "not enough GPU memory to train: set MICRO_BATCH_SIZE to 4 and GRADIENT_CHECKPOINTING"
        in message
    )
    assert not (tmp_path / "run" / "run.json").exists() and list_names(tmp_path / "run") == []


def test_generating_that_does_not_fit_is_one_line(
    tiny_model, data_dir, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(transformers.Gemma2ForCausalLM, "generate", run_out)
    words = [
        "--adapter",
        "none",
        "--base-model",
        tiny_model,
        "--data-dir",
        data_dir,
        "--mode",
        "generate",
    ]
    message = line_below_bar(capsys, evaluate.main, [*words, "--output-dir", str(tmp_path)])
    assert (
        "not enough GPU memory to generate: lower GENERATE_BATCH_SIZE in stance/model/scoring.py"
        in message
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_nothing_is_compiled_after_the_memory_probe(build, monkeypatch):
    """A recorded step that finds its layers not compiled fails, on a GPU; here steps are compiled but not recorded."""
    torch._dynamo.reset()  # it counts how often a function is compiled, over all tests
    monkeypatch.setattr(
        prefix_tree, "SMALL_TREE", 0
    )  # without kernels, another row length is another kind of step
    graphs, compile_ = [], torch.compile
    count = {"backend": lambda graph, inputs: graphs.append(graph) or graph}
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compile_(function, **{**options, **count})
    )
    trainer = build()
    trainer.model.train()
    lora_linear.fuse_linears(trainer.model, keep_dense=True)
    lora_linear.fuse_adapters(trainer.model)
    trainer.model.enable_input_require_grads()
    compilation.compile_layers(trainer.model.get_base_model())
    trainer.step_graphs = Steps(trainer.run_step)
    assert memory_probe.fits_memory(trainer, range(8))
    probed = len(graphs)
    trainer.args.max_steps = 6
    trainer.args.eval_strategy, trainer.args.eval_steps = transformers.IntervalStrategy.STEPS, 3
    trainer.train()
    assert probed and len(graphs) == probed


class Steps:
    """StepGraphs without recording."""

    def __init__(self, run_step):
        self.run_step, self.make_room, self.release = run_step, lambda size: None, lambda: None

    def __call__(self, inputs):
        return self.run_step(inputs)


def test_there_is_no_probe_without_a_gpu(whole):
    assert files.read_json(whole / "run.json", "")["memory_probe"] is None


# ---------------------------------------------------------------- disk


def test_a_disk_without_room_for_the_checkpoints_is_refused_before_training(
    train, tmp_path, capsys, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=120_000_000))
    message = line_below_bar(capsys, train, tmp_path / "run")
    assert "0.12 GB of disk space left" in message and "--run-dir" in message
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_space_that_a_resumed_run_already_has_counts(tmp_path, monkeypatch, capsys):
    folder = make_checkpoints(tmp_path, 9)
    (folder / "checkpoint-9" / "optimizer.pt").write_bytes(bytes(60_000_000))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000_000))
    run_folder.check_disk_space(tmp_path, 1000)
    (folder / "checkpoint-9" / "optimizer.pt").unlink()
    assert "checkpoints need 0.15" in line_below_bar(
        capsys, run_folder.check_disk_space, tmp_path, 1000
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", [20_000, 150_000])
def test_a_disk_that_fills_up_while_saving_ends_in_one_line(
    train, resume, whole, tmp_path, capsys, size
):
    """Simulated by the largest size that a file may have; which library meets it first depends on that size."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        message = line_below_bar(capsys, train, tmp_path / "run", "--epochs", "2", LOG_STEPS=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the disk is full" in message and "--resume" in message
    assert not any(map(checkpoints.is_complete, checkpoints.list_checkpoints(tmp_path / "run")))
    resume(tmp_path / "run")
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_final_adapter_that_is_broken_off_does_not_count(
    copy, whole, resume, capsys, monkeypatch
):
    """Broken off between its two files: evaluate.py and predict.py refuse the folder, --resume finishes it."""
    replace, moved = os.replace, []

    def replace_one(source, target):
        if "adapter.partial" in str(source):
            if moved:
                raise KeyboardInterrupt
            moved.append(source)
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", replace_one)
        resume(copy)
    assert len(moved) == 1
    assert "run.json" in line_below_bar(capsys, adapters.check_adapter, copy)
    resume(copy)
    assert adapters.check_adapter(copy)["result"]["kept"]
    assert_equal_runs(copy, whole)
    assert not list(copy.glob("adapter.partial"))


# ---------------------------------------------------------------- signals


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("step", [6, 9])
def test_a_signal_ends_the_run_with_a_checkpoint(
    train, whole, resume, tmp_path, capfd, monkeypatch, number, code, step
):
    """In the middle of an epoch, and in its last step, whose validation must not be skipped."""

    class Stopping(callbacks.JsonlLog):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == step - 1:
                os.kill(os.getpid(), number)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(callbacks, "JsonlLog", Stopping)
        train(tmp_path / "run", "--epochs", "2", LOG_STEPS=4)
    assert stopped.value.code == code
    printed = capfd.readouterr().out
    line = re.search(
        rf"interrupted: checkpoint-{step} is saved; continue with: python finetune.py (.*)", printed
    )
    assert line[1].endswith("--epochs 2 --resume")
    assert checkpoints.is_complete(tmp_path / "run" / "checkpoints" / f"checkpoint-{step}")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resume(tmp_path / "run")
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal, time\n"
        "from stance.training import callbacks\n"
        "with callbacks.Interruption('x'):\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('one', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(60); print('two')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stdout == "one\n" and "stopping after this step" in done.stderr


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_sigterm_does_not_stop_what_the_first_began(second):
    """Clusters may send it to a process and to the one that started it, which passes it on."""
    codes = []
    with pytest.MonkeyPatch.context() as patch, callbacks.Interruption("x") as interruption:
        patch.setattr(os, "_exit", codes.append)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), second)
    assert (
        codes == ([130] if second == signal.SIGINT else [])
        and interruption.number == signal.SIGTERM
    )


@pytest.fixture
def run_script(monkeypatch):
    """A function that runs a script as python does; the handlers of signals are afterwards those of before."""
    handlers = {number: signal.getsignal(number) for number in callbacks.SIGNALS}

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        runpy.run_path(str(ROOT / f"{name}.py"), run_name="__main__")

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "name", ["finetune", "evaluate", "predict", "predict a table", "tools/export"]
)
def test_a_signal_while_weights_load_is_one_line(
    run_script, tiny_model, trained_run, data_dir, tmp_path, capfd, monkeypatch, name, number, code
):
    table, output = tmp_path / "in.csv", tmp_path / "out"
    table.write_text("topic,text\nVegans are right.,Yes.\n")
    adapter, data = ["--adapter", trained_run], ["--data-dir", data_dir]
    words = {
        "finetune": ["--base-model", tiny_model, *data, "--run-dir", output],
        "evaluate": [*adapter, *data, "--output-dir", output],
        "predict": [*adapter, "--topic", "Vegans are right.", "--text", "Yes."],
        "predict a table": [*adapter, "--input", table, "--output", output / "out.xlsx"],
        "tools/export": [*adapter, *data, "--output-dir", output],
    }[name]
    monkeypatch.setattr(
        loading, "load_base", lambda base: os.kill(os.getpid(), number) or time.sleep(9)
    )
    with pytest.raises(
        (SystemExit, KeyboardInterrupt)
    ) as stopped:  # the latter would end all tests
        run_script(name.split()[0], *words)
    assert repr(stopped.value) == f"SystemExit({code})"
    assert capfd.readouterr().err == "\ninterrupted: no file is half written; start again\n"
    assert [path.name for path in output.rglob("*") if path.is_file()] == (
        ["plan.json"] if name == "finetune" else []
    )


@pytest.mark.parametrize("rank, handled", [(None, True), ("0", True), ("1", False)])
def test_a_process_that_waits_for_the_first_ends_at_once(run_script, monkeypatch, rank, handled):
    """A handler would only run after the waiting: torchrun would kill the process half a minute later."""
    monkeypatch.setenv("RANK", rank) if rank else monkeypatch.delenv("RANK", raising=False)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    errors.run_script(lambda: None)
    assert signal.getsignal(signal.SIGTERM) == (errors.interrupt if handled else signal.SIG_DFL)


def test_a_signal_while_a_file_is_written_leaves_the_old_one_alone(tmp_path):
    """And no other: neither JSON nor tables."""
    files.write_json(tmp_path / "a.json", ["old"])
    for write, path in (
        (files.write_jsonl, "a.json"),
        *((tables.write_table, f"a{end}") for end in tables.SUFFIXES),
    ):

        def rows():
            yield {"a": 1} if path == "a.json" else [1]
            raise SystemExit(143)

        with pytest.raises(SystemExit) as stopped:
            write(tmp_path / path, *([["a"]] if path != "a.json" else []), rows())
        assert stopped.value.code == 143
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert files.read_json(tmp_path / "a.json", "") == ["old"]


@pytest.mark.parametrize(
    "number, ending", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_study_waits_for_the_script_that_it_interrupts(
    run_script, tmp_path, monkeypatch, number, ending
):
    """The script, which has half a second to do after the signal, is asked to stop by SIGTERM and by Ctrl-C."""
    monkeypatch.setattr(child_runs, "SCRIPTS_HOME", tmp_path)
    (tmp_path / "slow.py").write_text(
        "import os, signal, sys, time\n"
        "def end(*words): time.sleep(0.5); print('saved', flush=True); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "os.kill(os.getppid(), int(sys.argv[1]))\n"
        "end() if int(sys.argv[1]) == signal.SIGINT else time.sleep(60)\n"
    )
    signal.signal(signal.SIGTERM, errors.interrupt)
    with pytest.raises(ending):
        child_runs.call_script("slow.py", int(number), log=tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_text() == "saved\n"


def test_the_command_to_continue_is_the_one_that_was_started():
    words = ["--run-dir", "my runs/one", "--epochs", "2", "--resume"]
    command = "python finetune.py --run-dir 'my runs/one' --epochs 2 --resume"
    assert finetune.word_hint(words) == f"continue with: {command}"


# ---------------------------------------------------------------- secrets


def test_no_token_is_written_anywhere(train, tmp_path, capfd, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, SECRET)
    train(tmp_path / "run", "--epochs", "0.3")
    captured = capfd.readouterr()
    assert SECRET not in captured.out + captured.err
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"run.json", "plan.json", "log.jsonl", "training_args.bin", "optimizer.pt"} <= {
        path.name for path in files
    }
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []


def test_a_checkpoint_whose_adapter_does_not_fit_is_refused(copy, resume, capsys):
    """Its files are whole, so only its tensors tell."""
    folder = max((copy / "checkpoints").glob("checkpoint-*"), key=checkpoints.count_steps)
    path = folder / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    renamed = {name.replace("lora_A", "lora_C"): tensor for name, tensor in tensors.items()}
    safetensors.torch.save_file(renamed, path)
    checkpoints.mark_complete(folder)
    assert "tensors are missing" in line_below_bar(capsys, resume, copy)
