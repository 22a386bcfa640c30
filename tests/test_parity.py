"""The check of benchmarks/train_throughput.py: it finds the trees of a trainer equal to flat batches, and faults."""

import parity
import pytest

import finetune
import modeling
import records
import training


@pytest.fixture
def trainer(tiny_model, data_dir, tmp_path, monkeypatch):
    """The trainer of finetune.py on the tiny model."""
    monkeypatch.setattr(finetune, "EFFECTIVE_BATCH_SIZE", 16)
    monkeypatch.setattr(finetune, "MICRO_BATCH_SIZE", 16)
    rows = records.read_jsonl(f"{data_dir}/train.jsonl", (), "fix the test")
    args = finetune.parse_args(["--base-model", tiny_model])
    return finetune.build_trainer(args, tmp_path, modeling.load_tokenizer(tiny_model), rows, rows[:6])


def test_a_trainer_agrees_with_the_flat_batch(trainer):
    errors = parity.compare(trainer)
    assert set(errors) == {"flat, two halves", "accelerated tree"}
    for error in errors.values():
        assert error["loss"] == pytest.approx(error["reference_loss"], rel=0.01)
        assert error["logits_error"] < 0.03 and error["gradient_error"] < 0.05


def test_a_wrong_tree_is_noticed(trainer, monkeypatch):
    merge = training.prefix_tree.merge_prefixes
    wrong = lambda sequences, pad_id: merge([ids[1:] + ids[:1] for ids in sequences], pad_id)  # noqa: E731
    monkeypatch.setattr(training.prefix_tree, "merge_prefixes", wrong)
    assert parity.compare(trainer)["accelerated tree"]["gradient_error"] > 0.1
