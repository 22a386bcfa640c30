"""The check of benchmarks/train_throughput.py: it finds the trees of a trainer equal to flat batches, and faults."""

import parity
import peft
import pytest
import small_models

import finetune
from stance.common import files
from stance.model import loading
from stance.training import tree_trainer


@pytest.fixture
def trainer(tiny_model, data_dir, tmp_path, monkeypatch):
    """The trainer of finetune.py on the tiny model."""
    monkeypatch.setattr(finetune, "EFFECTIVE_BATCH_SIZE", 16)
    monkeypatch.setattr(finetune, "MICRO_BATCH_SIZE", 16)
    rows = files.read_jsonl(f"{data_dir}/train.jsonl", (), "fix the test")
    args = finetune.parse_args(["--base-model", tiny_model])
    return finetune.build_trainer(
        args, tmp_path, loading.load_tokenizer(tiny_model), rows, rows[:6]
    )


@pytest.fixture
def compare(trainer, tiny_model, load_plain, in_float32, allow_rounding):
    """A function that returns parity's errors of the trainer, and the relative tolerances of losses, logits, gradients.

    Flat batches of a plain model with the adapter that parity chose tell how much is rounding.
    """

    def run():
        errors = parity.compare(trainer)
        plain = peft.get_peft_model(load_plain(tiny_model), trainer.model.peft_config["default"])
        for weight, chosen in zip(plain.parameters(), trainer.model.parameters(), strict=True):
            if weight.requires_grad:
                weight.data.copy_(chosen.data)
        rows = [trainer.train_dataset[index] for index in range(parity.ROWS)]
        losses, logits, gradients = zip(
            *small_models.flat_steps(plain, in_float32(plain), rows), strict=True
        )
        relative = small_models.relative
        return errors, (
            allow_rounding(losses, small_models.mean_gap),
            allow_rounding(logits, relative),
            allow_rounding(gradients, relative),
        )

    return run


@pytest.mark.slow
def test_a_trainer_agrees_with_the_flat_batch(compare):
    errors, (loss_tolerance, logits_tolerance, gradient_tolerance) = compare()
    assert set(errors) == {"flat, two halves", "accelerated tree"}
    for error in errors.values():
        assert error["loss"] == pytest.approx(error["reference_loss"], rel=loss_tolerance)
        assert error["logits_error"] <= logits_tolerance
        assert error["gradient_error"] <= gradient_tolerance


@pytest.mark.slow
def test_a_wrong_tree_is_noticed(compare, monkeypatch):
    merge = tree_trainer.prefix_tree.merge_prefixes
    wrong = lambda sequences, pad_id: merge([ids[1:] + ids[:1] for ids in sequences], pad_id)  # noqa: E731
    monkeypatch.setattr(tree_trainer.prefix_tree, "merge_prefixes", wrong)
    errors, (_, logits_tolerance, gradient_tolerance) = compare()
    assert errors["accelerated tree"]["logits_error"] > 2 * logits_tolerance
    assert errors["accelerated tree"]["gradient_error"] > 2 * gradient_tolerance
