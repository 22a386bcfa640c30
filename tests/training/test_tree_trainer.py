"""finetune.py and the trainer: no row lost, one loss for any micro-batch, a run resumed, the best epoch kept."""

import dataclasses
import importlib.util
import json
import math
import os
import random
import shutil
from pathlib import Path

import datasets
import pytest
import safetensors.torch
import small_models
import torch
import transformers
import trl
from stopping import stop_message

import finetune
import prompts
from stance.common import environment, files
from stance.corpus import splitting
from stance.model import chat, compilation, loading
from stance.training import callbacks, run_lock, tree_trainer
from stance.tree import prefix_tree

END_OF_TURN = 107
# Equal batches give equal adapters on a CPU; a GPU adds up in any order, and Adam enlarges the difference.
RUN_TOLERANCE = 0.05 if torch.cuda.is_available() else 0
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return loading.load_tokenizer(tiny_model)


@pytest.fixture
def rows(data_dir):
    return files.read_jsonl(f"{data_dir}/train.jsonl", (), "fix the test")


@pytest.fixture
def build(tiny_model, tokenizer, rows, tmp_path, monkeypatch):
    """A function that returns the trainer of finetune.py for the tiny model, with other constants if they are given."""

    def run(train_rows=rows, flags=(), **constants):
        for name, value in {"EFFECTIVE_BATCH_SIZE": 8, "MICRO_BATCH_SIZE": 8, **constants}.items():
            monkeypatch.setattr(finetune, name, value)
        args = finetune.parse_args(["--base-model", tiny_model, *flags])
        return finetune.build_trainer(args, tmp_path, tokenizer, train_rows, rows[:6])

    return run


def read_adapter(folder):
    """The weights of a saved adapter, one vector."""
    weights = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


def join_trainable(model):
    return torch.cat(
        [weight.detach().flatten() for weight in model.parameters() if weight.requires_grad]
    ).clone()


def distance(one, other):
    """How far two adapters are apart, relative to the size of the second."""
    return ((one - other).norm() / other.norm()).item()


def set_trainable(model, vector):
    """Give a model the trainable weights that join_trainable returned."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    torch.nn.utils.vector_to_parameters(vector.clone(), weights)


def answer_losses(logits, sequences):
    """Return the losses of label and end of turn, from the logits [n, 3, vocabulary] at the end of n sequences."""
    answers = torch.tensor([ids[-2:] for ids in sequences])
    return torch.nn.functional.cross_entropy(
        logits[:, :2].flatten(0, 1), answers.flatten(), reduction="none"
    )


def relative_gap(values, reference):
    return (values / reference - 1).abs().max().item()


def read_run(folder):
    return files.read_json(folder / "run.json", "fix the test")


def read_log(folder, key):
    """{step: value} of a key in log.jsonl."""
    return {
        entry["step"]: entry[key]
        for entry in files.read_jsonl(folder / "log.jsonl", (), "")
        if key in entry
    }


# ---------------------------------------------------------------- what is trained on


def test_rows_end_with_their_label_and_the_end_of_turn(tokenizer, rows):
    columns = tree_trainer.encode_rows(tokenizer, rows)
    label_ids = dict(zip(prompts.LABELS, tokenizer.convert_tokens_to_ids(list(prompts.LABELS))))
    assert len(columns["input_ids"]) == len(columns["labels"]) == len(rows)
    for row, ids, labels in zip(rows, columns["input_ids"], columns["labels"]):
        answer = [label_ids[row["label"]], END_OF_TURN]
        assert ids == chat.encode_example(tokenizer, row["topic"], row["text"]) + answer
        assert labels == [-100] * (len(ids) - 2) + answer


def test_whole_sequences_are_trained_on_if_asked(tokenizer, rows):
    columns = tree_trainer.encode_rows(tokenizer, rows, whole_sequence=True)
    assert columns["input_ids"] == tree_trainer.encode_rows(tokenizer, rows)["input_ids"]
    assert columns["labels"] == [[-100, *ids[1:]] for ids in columns["input_ids"]]


def test_validation_looks_at_answers_even_if_whole_sequences_are_trained_on(build):
    trainer = build(WHOLE_SEQUENCE_LOSS=True)
    assert all(labels.count(-100) == 1 for labels in trainer.train_dataset["labels"])
    assert all(len(labels) - labels.count(-100) == 2 for labels in trainer.eval_dataset["labels"])


def test_an_epoch_has_every_row_once_and_uncut(build, rows, tokenizer):
    """Among them a row of more tokens than trl's default length, and two rows that are equal."""
    long = {**rows[0], "text": "yes good " * 700}
    rows = [*rows[1:20], long, rows[1]]
    trainer = build(rows)
    seen = []
    for batch in trainer.get_train_dataloader():
        depth, suffixes = batch["position_ids"][0], batch["suffix"].shape
        assert depth.shape == (len(batch["prefix_end"]) + suffixes[0] * suffixes[1],)
        for node, target, weight in zip(
            batch["loss_positions"], batch["target_ids"], batch["target_weights"]
        ):
            seen += [(depth[node].item(), target.item())] * int(weight)
    expected = []
    for row in rows:
        ids = chat.encode_example(tokenizer, row["topic"], row["text"], row["label"])
        expected += [(len(ids) - 3, ids[-2]), (len(ids) - 2, END_OF_TURN)]
    assert (
        max(expected)[0] >= 1024
    )  # a depth: the row has 1,026 tokens, since prompts.MAX_PROMPT_TOKENS cuts it
    assert sorted(seen) == sorted(expected)


def test_only_the_adapter_is_trained_and_in_float32(build):
    model = build().model
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trainable) == 2 * 7 * model.config.num_hidden_layers
    assert all(".lora_A." in name or ".lora_B." in name for name in trainable)
    assert {weight.dtype for weight in trainable.values()} == {torch.float32}
    packed = [
        weight for weight in model.parameters() if weight.dtype == torch.uint8
    ]  # two weights a byte
    assert len(packed) == 7 * model.config.num_hidden_layers
    assert {(weight.quant_state.quant_type, weight.quant_state.nested) for weight in packed} == {
        ("nf4", True)
    }


# ---------------------------------------------------------------- what training does


def test_acceleration_leaves_the_model_as_the_trainer_needs_it(build, monkeypatch):
    """As on a GPU, without compiling: everything is in training mode from the start, and no parameter is missing."""
    trainer = build()
    names = [name for name, _ in trainer.model.named_parameters()]
    plan = {"dense_weights": False, "checkpoint": False, "compiled": False, "graphs": False}
    monkeypatch.setattr(compilation, "plan_training", lambda *options: plan)
    with monkeypatch.context() as on_gpu:
        on_gpu.setattr(torch.cuda, "is_available", lambda: True)
        assert trainer.accelerate(None, dropout=False) == plan
    assert all(module.training for module in trainer.model.modules())
    assert len(list(trainer.model.parameters())) == len(names)
    before = join_trainable(trainer.model)
    trainer.train()
    assert not torch.equal(join_trainable(trainer.model), before)


@pytest.mark.slow
def test_losses_are_those_of_plain_trl(
    build, tiny_model, tokenizer, rows, tmp_path, load_plain, flat_ways, allow_rounding
):
    """The same batches in the same order from the same start, padded and eager: the curves lie on each other.

    Two plain runs of other micro-batches may round alike, so the losses before training tell too how much is rounding.
    """
    flags = ("--epochs", "1", "--learning-rate")
    ours = build(flags=(*flags, "3e-3"), LOG_STEPS=1)
    start = join_trainable(ours.model)

    def build_plain(micro):
        model = loading.load_base(tiny_model)
        model.set_attn_implementation("eager")
        changes = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": 8 // micro}
        folder = str(tmp_path / f"plain-{micro}")
        plain = trl.SFTTrainer(
            model=model,
            args=dataclasses.replace(
                ours.args, output_dir=folder, metric_for_best_model="eval_loss", **changes
            ),
            train_dataset=ours.train_dataset,
            eval_dataset=ours.eval_dataset,
            processing_class=tokenizer,
            peft_config=ours.model.peft_config["default"],
        )
        set_trainable(plain.model, start)
        return plain

    def record_curve(trainer):
        trainer.train()
        return torch.tensor(
            [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        )

    curve, plain, halved = (
        record_curve(trainer) for trainer in (ours, build_plain(8), build_plain(4))
    )
    sequences = ours.train_dataset["input_ids"][:24]
    before = [
        answer_losses(logits, sequences)
        for logits in flat_ways(load_plain(tiny_model), sequences, last=3)
    ]
    tolerance = max(
        allow_rounding([plain, halved], relative_gap, factor=4),  # the roundings of steps add up
        allow_rounding(before, small_models.mean_gap, factor=4),
    )
    assert len(curve) == math.ceil(len(rows) / 8)
    assert curve.max() - curve.min() > 1  # something is learnt, so that a wrong gradient would show
    assert relative_gap(curve, plain) <= tolerance
    faster = build(flags=(*flags, "3.3e-3"), LOG_STEPS=1)
    set_trainable(faster.model, start)
    assert relative_gap(record_curve(faster), plain) > 2 * tolerance


def test_no_form_of_a_library_passes_for_a_model_card(trained_run):
    assert (trained_run / "adapter_model.safetensors").is_file() and any(
        trained_run.glob("checkpoints/checkpoint-*")
    )
    assert (
        not (trained_run / "README.md").exists()
        and not (trained_run / "checkpoints" / "README.md").exists()
    )


def test_loss_falls_and_validation_accuracy_rises(trained_run):
    losses, record = read_log(trained_run, "loss"), read_run(trained_run)
    values = list(losses.values())
    assert list(losses) == list(range(1, 55))  # 6 epochs of 72 rows, 8 a step
    assert sum(values[-5:]) < 0.7 * sum(values[:5])
    losses, accuracies = read_log(trained_run, "eval_loss"), read_log(trained_run, "eval_accuracy")
    assert list(losses) == list(accuracies) == [9, 18, 27, 36, 45, 54]
    assert losses[54] < 0.9 * losses[9]
    assert max(accuracies.values()) > 0.6  # the most frequent label has 0.375 of the rows
    assert record["result"]["steps"] == 54
    assert [entry["eval_loss"] for entry in record["result"]["validation"]] == list(losses.values())


def test_validation_is_that_of_a_plain_forward_of_the_kept_adapter(
    trained_run, tiny_model, data_dir, tokenizer, load_plain, flat_ways, allow_rounding, count_ties
):
    """The accuracy but for ties, which rounding decides."""
    rows = files.read_jsonl(f"{data_dir}/val.jsonl", (), "")
    label_ids = tokenizer.convert_tokens_to_ids(list(prompts.LABELS))
    sequences = [
        chat.encode_example(tokenizer, row["topic"], row["text"], row["label"]) for row in rows
    ]
    ways = flat_ways(load_plain(tiny_model, trained_run), sequences, last=3)
    losses = [answer_losses(logits, sequences) for logits in ways]
    probabilities = [logits[:, 0, label_ids].softmax(1) for logits in ways]
    gold = torch.tensor([prompts.LABELS.index(row["label"]) for row in rows])
    right = (probabilities[0].argmax(1) == gold).sum().item()
    kept = read_run(trained_run)["result"]["kept_validation"]
    tolerance = allow_rounding(losses, small_models.mean_gap)
    assert kept["eval_loss"] == pytest.approx(losses[0].mean().item(), rel=tolerance)
    assert kept["eval_accuracy"] == pytest.approx(
        right / len(rows), abs=(count_ties(probabilities) + 0.01) / len(rows)
    )
    base = answer_losses(flat_ways(load_plain(tiny_model), sequences, last=3)[0], sequences)
    assert relative_gap(base.mean(), losses[0].mean()) > 2 * tolerance  # without the adapter


def test_validation_sees_the_float32_logits_that_predictions_are_made_of(build, monkeypatch):
    trainer = build()
    trainer.model.to(torch.bfloat16)
    weigh_losses = tree_trainer.weigh_losses
    seen = []
    monkeypatch.setattr(
        tree_trainer,
        "weigh_losses",
        lambda logits, inputs: seen.append(logits.dtype) or weigh_losses(logits, inputs),
    )
    trainer.evaluate()
    assert set(seen) == {torch.float32}
    assert trainer.model.get_output_embeddings().weight.dtype == torch.bfloat16


def test_equal_validation_rows_count_each(build, rows, tokenizer):
    """They share a node of the tree. Of the three labels one is the answer, three times out of three."""
    trainer = build()
    accuracies = []
    for label in prompts.LABELS:
        columns = tree_trainer.encode_rows(tokenizer, [{**rows[0], "label": label}] * 3)
        trainer.eval_dataset = datasets.Dataset.from_dict(columns)
        accuracies.append(trainer.evaluate()["eval_accuracy"])
    assert sorted(accuracies) == [0, 0, 1]


@pytest.mark.parametrize("whole_sequence", [False, True])
def test_micro_batches_add_up_to_their_effective_batch(
    build, rows, tiny_model, tmp_path, monkeypatch, whole_sequence
):
    """In float32: 14 rows, so that the second step has micro-batches of 4 and 2 rows."""

    def load_float32(base):
        options = {"dtype": torch.float32, "attn_implementation": "eager"}
        model = transformers.AutoModelForCausalLM.from_pretrained(base, **options)
        model.set_attn_implementation(prefix_tree.ATTENTION)
        return model

    make_config = finetune.make_config
    monkeypatch.setattr(loading, "load_base", load_float32)
    monkeypatch.setattr(
        finetune, "make_config", lambda *words: dataclasses.replace(make_config(*words), bf16=False)
    )
    outcomes = {}
    for micro in (8, 4, 2):
        trainer = build(
            rows[:14], ["--epochs", "2"], MICRO_BATCH_SIZE=micro, WHOLE_SEQUENCE_LOSS=whole_sequence, LOG_STEPS=1,
            WARMUP=0.0, LEARNING_RATE=1e-3
        )  # fmt: skip
        start = join_trainable(trainer.model)
        trainer.train()
        shutil.rmtree(tmp_path / "checkpoints")
        steps = [entry for entry in trainer.state.log_history if "loss" in entry]
        outcomes[micro] = (join_trainable(trainer.model) - start, steps)
    update, steps = outcomes[8]
    assert len(steps) == 4 and update.norm() > 0.1
    for micro in (4, 2):
        for key, tolerance in (("loss", 1e-5), ("grad_norm", 1e-3)):
            values = [[entry[key] for entry in entries] for entries in (outcomes[micro][1], steps)]
            assert values[0] == pytest.approx(values[1], rel=tolerance)
        assert (
            distance(outcomes[micro][0], update) <= 1e-2
        )  # Adam enlarges what rounding leaves of a gradient of 0


def test_recomputing_activations_changes_nothing(train, tmp_path):
    plain = train(tmp_path / "plain", "--epochs", "0.3", GRADIENT_CHECKPOINTING=False)
    again = train(tmp_path / "recomputed", "--epochs", "0.3", GRADIENT_CHECKPOINTING=True)
    assert distance(read_adapter(again), read_adapter(plain)) <= RUN_TOLERANCE


def test_the_seed_decides_the_run(train, tmp_path):
    one, same, other = (
        read_adapter(train(tmp_path / name, "--epochs", "0.3", "--seed", seed))
        for name, seed in (("one", "1"), ("same", "1"), ("other", "2"))
    )
    assert distance(same, one) <= RUN_TOLERANCE
    assert distance(other, one) > 0.1


# ---------------------------------------------------------------- the epoch that is kept


@pytest.mark.slow
@pytest.mark.parametrize("select_by", ["eval_accuracy", "eval_loss", "last"])
def test_the_epoch_best_in_validation_is_kept(train, data_dir, tmp_path, select_by):
    """Validation labels are swapped, so validation gets worse as training goes on."""
    folder = tmp_path / "data"
    wrong = {"pro": "con", "con": "neu", "neu": "pro"}
    splits = {name: splitting.load_split(f"{data_dir}/{name}.jsonl") for name in ("train", "val")}
    splits["val"] = [{**row, "label": wrong[row["label"]]} for row in splits["val"]]
    splitting.write_splits(folder, splits, {})
    run = train(tmp_path / "run", "--data-dir", str(folder), SELECT_BY=select_by)

    result = read_run(run)["result"]
    assert [entry["step"] for entry in result["validation"]] == [9, 18, 27, 36, 45, 54]
    key = "eval_loss" if select_by == "eval_loss" else "eval_accuracy"
    values = [entry[key] for entry in result["validation"]]
    best = {"eval_accuracy": max(values), "eval_loss": min(values), "last": values[-1]}[select_by]
    assert select_by == "last" or values[-1] != best  # or keeping the last would be as good
    place = 5 if select_by == "last" else values.index(best)
    assert result["kept"] == f"checkpoint-{9 * (place + 1)}"
    assert result["kept_validation"] == result["validation"][place]
    assert torch.equal(read_adapter(run), read_adapter(run / "checkpoints" / result["kept"]))
    if select_by != "last":
        assert not torch.equal(
            read_adapter(run), read_adapter(run / "checkpoints" / "checkpoint-54")
        )


def test_half_an_epoch_is_validated_and_kept(train, tmp_path):
    run = train(tmp_path / "run", "--epochs", "0.5")
    assert read_run(run)["result"]["kept"] == "checkpoint-5"
    assert torch.equal(read_adapter(run), read_adapter(run / "checkpoints" / "checkpoint-5"))


# ---------------------------------------------------------------- resuming


@pytest.fixture(scope="module")
def resumed(train, tmp_path_factory):
    """Folder of two runs of 2 epochs: one in one go, one interrupted in the second epoch and resumed."""
    folder, steps = tmp_path_factory.mktemp("resumed"), []

    class Counting(callbacks.JsonlLog):
        def on_step_begin(self, args, state, control, **kwargs):
            steps.append(state.global_step + 1)

    class Interrupting(callbacks.JsonlLog):
        def on_log(self, args, state, control, **kwargs):
            super().on_log(args, state, control, **kwargs)
            if state.global_step == 12:  # the checkpoint is of step 9
                raise KeyboardInterrupt

    train(folder / "whole", "--epochs", "2")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(callbacks, "JsonlLog", Interrupting)
        train(folder / "resumed", "--epochs", "2")
    assert not (folder / "resumed" / "run.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "JsonlLog", Counting)
        train(folder / "resumed", "--epochs", "2", "--resume")
    assert steps == list(range(10, 19))  # and not all of them again
    return folder


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(resumed):
    """On a CPU the weights are equal to the bit."""
    whole, again = read_run(resumed / "whole"), read_run(resumed / "resumed")
    assert again["result"]["steps"] == whole["result"]["steps"] == 18
    for name in (".", "checkpoints/checkpoint-18"):
        one, other = (read_adapter(resumed / run / name) for run in ("resumed", "whole"))
        assert distance(one, other) <= RUN_TOLERANCE
    for key in ("eval_loss", "eval_accuracy"):
        values = [[entry[key] for entry in run["result"]["validation"]] for run in (again, whole)]
        assert values[0] == pytest.approx(values[1], rel=RUN_TOLERANCE)
    assert again["result"]["kept"] == whole["result"]["kept"]


def test_the_log_of_a_resumed_run_has_each_step_once(resumed):
    steps = [
        [
            entry["step"]
            for entry in files.read_jsonl(resumed / name / "log.jsonl", (), "")
            if "loss" in entry
        ]
        for name in ("whole", "resumed")
    ]
    assert steps[0] == list(range(1, 19))
    assert steps[1] == steps[0]


def test_speed_of_a_resumed_run_counts_the_rows_since_the_checkpoint(resumed):
    result = read_run(resumed / "resumed")["result"]  # of one epoch of two
    assert result["train_samples_per_second"] * result["train_seconds"] == pytest.approx(
        72, rel=0.2
    )


def test_a_run_stopped_before_its_first_checkpoint_starts_over(
    train, resumed, tmp_path, capsys, monkeypatch
):
    """The command that the message names works, and the log has no step twice, not even one that was cut off."""

    class Interrupting(callbacks.JsonlLog):
        def on_log(self, *args, **kwargs):
            super().on_log(*args, **kwargs)
            with open(self.path, "a") as file:
                file.write('{"step": 1, "lo')
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(callbacks, "JsonlLog", Interrupting)
        train(tmp_path / "run", "--epochs", "2")
    message = stop_message(capsys, train, tmp_path / "run", "--epochs", "2")
    assert "not empty" in message and "--resume" in message
    train(tmp_path / "run", "--epochs", "2", "--resume")
    assert "resuming from the first step" in capsys.readouterr().out
    assert list(read_log(tmp_path / "run", "loss")) == list(range(1, 19))
    assert (
        distance(read_adapter(tmp_path / "run"), read_adapter(resumed / "whole")) <= RUN_TOLERANCE
    )


# ---------------------------------------------------------------- refusals


def list_files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_run_folder_in_use_is_not_touched(train, trained_run, capsys):
    before = list_files(trained_run)
    message = stop_message(capsys, train, trained_run)
    assert "not empty" in message and str(trained_run) in message and "--resume" in message
    assert list_files(trained_run) == before


def test_resuming_needs_a_checkpoint(train, tmp_path, capsys):
    assert "holds no run" in stop_message(capsys, train, tmp_path / "run", "--resume")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert "holds no run" in stop_message(capsys, train, tmp_path / "run", "--resume")
    assert len(list_files(tmp_path)) == 2


@pytest.mark.parametrize(
    "flags, constants, named",
    [
        (["--learning-rate", "1e-3"], {}, "LEARNING_RATE was 0.004, now it is 0.001"),
        (["--seed", "1"], {}, "SEED was 0, now it is 1"),
        ([], {"LORA_R": 8}, "LORA_R was 16, now it is 8"),
    ],
    ids=["rate", "seed", "rank"],
)
def test_resuming_with_other_settings_is_refused(train, resumed, capsys, flags, constants, named):
    before = list_files(resumed / "resumed")
    message = stop_message(
        capsys, train, resumed / "resumed", "--epochs", "2", "--resume", *flags, **constants
    )
    assert named in message
    assert list_files(resumed / "resumed") == before


def test_an_unknown_way_to_choose_the_epoch_is_refused(train, tmp_path, capsys):
    assert "SELECT_BY accuracy" in stop_message(
        capsys, train, tmp_path / "run", SELECT_BY="accuracy"
    )
    assert list_files(tmp_path) == {}


def test_an_empty_run_folder_is_used(train, tmp_path):
    (tmp_path / "run").mkdir()
    assert (train(tmp_path / "run", "--epochs", "0.2") / "run.json").is_file()


def test_micro_batches_must_divide_the_batch(train, tmp_path, capsys):
    message = stop_message(
        capsys, train, tmp_path / "run", EFFECTIVE_BATCH_SIZE=32, MICRO_BATCH_SIZE=12
    )
    assert (
        message
        == "error: MICRO_BATCH_SIZE 12 is no divisor of EFFECTIVE_BATCH_SIZE 32: edit finetune.py\n"
    )
    assert list_files(tmp_path) == {}


@pytest.mark.parametrize("missing", ["train.jsonl", "val.jsonl"])
def test_missing_data_is_named(train, data_dir, tmp_path, capsys, missing):
    (tmp_path / "data").mkdir()
    for name in {"train.jsonl", "val.jsonl"} - {missing}:
        shutil.copy(f"{data_dir}/{name}", tmp_path / "data")
    message = stop_message(capsys, train, tmp_path / "run", "--data-dir", str(tmp_path / "data"))
    assert missing in message and "prepare_data.py" in message
    assert not (tmp_path / "run").exists()


def test_leaky_splits_are_refused(train, data_dir, rows, tmp_path, capsys):
    text = rows[5]["text"].upper() + "!"
    leak = {**rows[5], "text": text, "prompt": prompts.build_prompt(rows[5]["topic"], text)}
    splits = {name: splitting.load_split(f"{data_dir}/{name}.jsonl") for name in ("train", "val")}
    splits["val"].append(leak)
    splitting.write_splits(tmp_path / "data", splits, {})
    message = stop_message(capsys, train, tmp_path / "run", "--data-dir", str(tmp_path / "data"))
    assert "1 rows have their sentence in two splits" in message and "train and val" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ("--epochs", "0"),
        ("--epochs", "-1"),
        ("--epochs", "1e308"),
        ("--learning-rate", "nan"),
        ("--learning-rate", "inf"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(train, tmp_path, capsys, flags):
    assert flags[0] in stop_message(capsys, train, tmp_path / "run", *flags)
    assert list_files(tmp_path) == {}


def test_one_edit_brings_the_published_recipe_back(tmp_path):
    """RECIPE takes the place of the settings that PUBLISHED names, and of their flags' defaults."""
    source = Path(finetune.__file__).read_text(encoding="utf-8")
    edited = tmp_path / "edited_finetune.py"
    source = source.replace("RECIPE = None", 'RECIPE = "published"', 1)
    source = source.replace("NEGATED_SHARE = 0.0", "NEGATED_SHARE = 0.25", 1)  # not published
    edited.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("edited_finetune", edited)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, value in finetune.PUBLISHED.items():
        assert getattr(script, name) == value
    args = script.parse_args([])
    assert (args.learning_rate, args.effective_batch_size) == (1e-4, 4)
    script.check_settings(args.effective_batch_size)
    others = set(environment.collect_settings(finetune)) - {"RECIPE", *finetune.PUBLISHED}
    assert all(getattr(script, name) == getattr(finetune, name) for name in others)


def test_an_unknown_recipe_is_refused_before_anything_is_written(train, tmp_path, capsys):
    message = stop_message(capsys, train, tmp_path / "run", RECIPE="Published")
    assert "RECIPE 'Published' is unknown" in message
    assert list_files(tmp_path) == {}


@pytest.mark.parametrize("seed", ["-1", str(1 << 32)])
def test_impossible_seeds_are_refused_before_anything_is_written(train, tmp_path, capsys, seed):
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path / "run", "--seed", seed)
    assert stopped.value.code == 2 and f"{seed} is no seed from 0 to" in capsys.readouterr().err
    assert list_files(tmp_path) == {}


def test_a_file_in_place_of_the_run_folder(train, tmp_path, capsys):
    (tmp_path / "run").write_text("mine")
    assert str(tmp_path / "run") in stop_message(capsys, train, tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_log_entries_are_one_json_object_a_line(tmp_path):
    log = callbacks.JsonlLog(tmp_path / "log.jsonl")
    state = transformers.TrainerState(global_step=3)
    for loss in (1.5, random.Random(0).random()):
        log.on_log(None, state, None, logs={"loss": loss})
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {"step": 3, "loss": 1.5} and len(lines) == 2


# ---------------------------------------------------------------- splits that belong together


@pytest.fixture
def two_runs(data_dir, tmp_path):
    """The splits of one run of prepare_data.py, and those of another seed."""
    import prepare_data

    folders = [tmp_path / "one", tmp_path / "other"]
    for seed, folder in enumerate(folders):
        words = ["--corpus", f"{data_dir}/corpus.csv", "--output-dir", str(folder)]
        prepare_data.main([*words, "--seed", str(seed)])
    return folders


@pytest.mark.parametrize("name", ["train.jsonl", "val.jsonl"])
def test_splits_of_two_runs_are_refused(train, two_runs, tmp_path, capsys, name):
    one, other = two_runs
    shutil.copy(other / name, one / name)
    message = stop_message(capsys, train, tmp_path / "run", "--data-dir", str(one))
    assert f"{name} is not the file that" in message or "their sentence in two splits" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [None, "[]", "{}", '{"outputs": [1]}', "{"])
def test_splits_without_their_report_are_refused(train, two_runs, tmp_path, capsys, content):
    report = two_runs[0] / splitting.REPORT
    if content is None:
        report.unlink()  # as where prepare_data.py was killed
    else:
        report.write_text(content)
    message = stop_message(capsys, train, tmp_path / "run", "--data-dir", str(two_runs[0]))
    assert splitting.REPORT in message and message.rstrip().endswith("run prepare_data.py again")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_trainings_never_share_a_run_folder(train, tmp_path, capsys, monkeypatch):
    """The second stops while the first trains, with --resume or without; the first is not disturbed."""
    lines = []

    def start_another(*words):
        lines.append(stop_message(capsys, train, tmp_path / "run", *words))

    usual = tree_trainer.StanceTrainer.train

    def train_disturbed(self, **options):
        start_another()
        start_another("--resume")
        return usual(self, **options)

    monkeypatch.setattr(tree_trainer.StanceTrainer, "train", train_disturbed)
    run = train(tmp_path / "run", "--epochs", "1")
    assert len(lines) == 2 and all(f"process {os.getpid()}" in line for line in lines)
    assert read_run(run)["result"]["validation"]
    assert not (run / run_lock.LOCK_FILE).exists()


@pytest.mark.parametrize("whole_sequence", [False, True])
def test_with_few_shapes_the_loss_is_the_same_in_few_sizes(
    build, rows, tokenizer, monkeypatch, whole_sequence
):
    """A step is recorded for each size: one of its own for almost every batch would take minutes."""
    columns = tree_trainer.encode_rows(tokenizer, rows, whole_sequence)
    batches = []
    for start in range(0, 32, 4):
        chosen = range(start, start + 4)
        batches.append([{name: columns[name][index] for name in columns} for index in chosen])
    collator = tree_trainer.TreeCollator(tokenizer.pad_token_id)
    model = build().model
    losses, counts = {}, {}
    for few in (False, True):
        monkeypatch.setattr(prefix_tree, "FEW_SHAPES", few)
        inputs = [collator(batch) for batch in batches]
        counts[few] = {len(one["loss_positions"]) for one in inputs}
        with torch.no_grad():
            found = [tree_trainer.target_losses(model, model.config, one).sum() for one in inputs]
        losses[few] = torch.stack(found).float()
    assert all(count % tree_trainer.LOSS_MULTIPLE == 0 for count in counts[True])
    assert len(counts[True]) <= len(counts[False])
    assert torch.allclose(losses[True], losses[False], rtol=2e-2)


def test_weights_and_smoothing_are_in_the_loss_as_cross_entropy_has_them(
    build, rows, tokenizer, monkeypatch
):
    """Against torch's own cross-entropy with label smoothing over the three labels."""
    columns = tree_trainer.encode_rows(tokenizer, rows)
    weights = [0.5, 2.0, 1.0, 1.5]
    batch = []
    for index, weight in enumerate(weights):
        batch.append({name: columns[name][index] for name in columns} | {"weight": weight})
    label_ids = [ids[0] for ids in chat.encode_labels(tokenizer)]
    model = build().model
    inputs = tree_trainer.TreeCollator(tokenizer.pad_token_id, label_ids, 0.3)(batch)
    with torch.no_grad():
        found = tree_trainer.target_losses(model, model.config, inputs).sum()
        expected = torch.zeros(())
        for row, weight in zip(batch, weights, strict=True):
            one = tree_trainer.TreeCollator(tokenizer.pad_token_id)([{**row, "weight": 1}])
            tree_logits = prefix_tree.forward_tree(
                model, model.config, one, one["loss_positions"]
            ).float()
            log_probabilities = tree_logits.log_softmax(-1)
            for logs, target in zip(log_probabilities, one["target_ids"].tolist(), strict=True):
                loss = -logs[target]
                if target in label_ids:
                    loss = 0.7 * loss - 0.3 * logs[label_ids].mean()
                expected += weight * loss
    assert float(found) == pytest.approx(float(expected), rel=2e-2)


def test_negated_copies_are_trained_on_and_said(train, rows, tmp_path, capsys):
    train(tmp_path / "run", NEGATED_SHARE=0.5)
    copies = round(0.5 * len(rows))
    assert f"{copies} negated copies of training rows" in capsys.readouterr().out
    record = read_run(tmp_path / "run")
    assert record["data"]["train"]["rows"] == len(rows)  # those of the file
    assert record["settings"]["NEGATED_SHARE"] == 0.5
    epochs = record["flags"]["epochs"]
    assert record["result"]["steps"] == epochs * math.ceil((len(rows) + copies) / 8)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("SCHEDULE", "sine", "SCHEDULE sine is unknown"),
        ("LABEL_SMOOTHING", 2, "LABEL_SMOOTHING 2 is no share"),
        ("NEGATED_SHARE", -0.5, "NEGATED_SHARE -0.5 is no share"),
        ("WEIGHT_DECAY", -0.1, "WEIGHT_DECAY -0.1 is impossible"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(
    monkeypatch, capsys, name, value, part
):
    monkeypatch.setattr(finetune, name, value)
    assert part in stop_message(capsys, finetune.check_settings, 16)


def test_smoothing_does_not_go_with_a_loss_on_whole_sequences(monkeypatch, capsys):
    monkeypatch.setattr(finetune, "LABEL_SMOOTHING", 0.1)
    monkeypatch.setattr(finetune, "WHOLE_SEQUENCE_LOSS", True)
    assert "the labels that the prompt names" in stop_message(capsys, finetune.check_settings, 16)
