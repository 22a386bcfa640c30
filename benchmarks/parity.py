"""Compare the accelerated trainer with the flat batch on one model: loss, logits and gradients of
the adapter.

The flat batch is the plain model: eager attention, every row padded, bitsandbytes' and PEFT's own
layers. How far two flat batches of different size are apart says how much of an error is rounding.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from stance.tree import prefix_tree

if TYPE_CHECKING:
    from stance.training import tree_trainer

# ---------------------------------------------------------------- settings
ROWS = 16  # of the batch
# Standard deviation of the adapter's B weights: at 0, as training starts, the adapter would not
# show.
SCALE = 0.01
# --------------------------------------------------------------------------


class StepResult(NamedTuple):
    """What a training step of B rows gives, with a vocabulary of V tokens."""

    loss: float  # summed over answer tokens
    logits: torch.Tensor  # [B, 2, V] float32 on the CPU: before label and end of turn
    gradients: torch.Tensor  # of the adapter: one float32 vector on the CPU


def flat_step(model: torch.nn.Module, rows: list[dict], pad_id: int) -> tuple[float, torch.Tensor]:
    """Run B rows ({input_ids}) forward and backward as a flat batch; adds to the gradients.

    Returns loss and logits as in StepResult.
    """
    width = max(len(row["input_ids"]) for row in rows)
    padded = []
    masks = []
    for row in rows:
        padding = width - len(row["input_ids"])  # on the left, so that the answers line up
        padded.append([pad_id] * padding + row["input_ids"])
        masks.append([0] * padding + [1] * len(row["input_ids"]))
    ids = torch.tensor(padded, device=model.device)
    mask = torch.tensor(masks)
    with prefix_tree.compute_precision(model):
        output = model(
            input_ids=ids,
            attention_mask=mask.to(model.device),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(model.device),
            logits_to_keep=3,
            use_cache=False,
        )
        logits = output.logits[:, :2].float()
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, -2:].flatten(), reduction="sum"
        )
    loss.backward()
    return loss.item(), logits.detach().cpu()


def take_gradients(model: torch.nn.Module) -> torch.Tensor:
    """Return the gradients of the adapter as one float32 vector on the CPU, and clear them."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    vector = torch.cat([weight.grad.float().flatten().cpu() for weight in trained])
    model.zero_grad()
    return vector


def compare(trainer: "tree_trainer.StanceTrainer") -> dict[str, dict[str, float]]:
    """Accelerate a trainer and compare its step with flat batches of the same rows.

    Returns {comparison: what measure_error says}, against the flat batch of all rows: of two flat
    batches with half of the rows each, and of the accelerated trainer.
    """
    model = trainer.model
    pad_id = trainer.data_collator.pad_id
    rows = [trainer.train_dataset[index] for index in range(ROWS)]
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.copy_(SCALE * torch.randn(weight.shape, generator=generator))
    model.set_attn_implementation("eager")
    loss, logits = flat_step(model, rows, pad_id)
    flat = StepResult(loss, logits, take_gradients(model))
    first_loss, first_logits = flat_step(model, rows[: ROWS // 2], pad_id)
    second_loss, second_logits = flat_step(model, rows[ROWS // 2 :], pad_id)
    halved = StepResult(
        loss=first_loss + second_loss,
        logits=torch.cat([first_logits, second_logits]),
        gradients=take_gradients(model),
    )
    model.set_attn_implementation(prefix_tree.ATTENTION)
    trainer.accelerate(None, dropout=False)
    tree = tree_step(trainer, rows)
    return {
        "flat, two halves": measure_error(halved, flat),
        "accelerated tree": measure_error(tree, flat),
    }


def tree_step(trainer: "tree_trainer.StanceTrainer", rows: list[dict]) -> StepResult:
    """Return the result of the trainer's step on rows ({input_ids, labels}); a step that is
    recorded, if the trainer records steps."""
    model = trainer.model
    step = trainer.run_step if trainer.step_graphs is None else trainer.step_graphs
    batch = trainer.data_collator(
        [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows]
    )
    inputs = trainer._prepare_inputs({**batch, "items": torch.tensor(1.0)})
    for _ in range(2):  # StepGraphs runs the first, and records and replays the second
        model.zero_grad()
        loss = step(inputs)
    gradients = take_gradients(model)
    sequences = [row["input_ids"][:-1] for row in rows]
    tree = prefix_tree.merge_prefixes(sequences, trainer.data_collator.pad_id)
    logits_to_keep = []
    for nodes in tree.nodes:
        logits_to_keep.extend(nodes[-2:])
    with torch.no_grad(), prefix_tree.compute_precision(model):
        logits = prefix_tree.forward_tree(
            model, model.config, inputs, torch.tensor(logits_to_keep, device=model.device)
        )
    logits = logits.float().unflatten(0, (len(rows), 2)).cpu()
    return StepResult(loss.item(), logits, gradients)


def measure_error(result: StepResult, reference: StepResult) -> dict[str, float]:
    """Return the losses and the relative errors (Euclidean norm) of logits and gradients."""
    return {
        "loss": result.loss,
        "reference_loss": reference.loss,
        "logits_error": measure_distance(result.logits, reference.logits),
        "gradient_error": measure_distance(result.gradients, reference.gradients),
    }


def measure_distance(tensor: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the Euclidean norm of a difference, relative to that of the reference."""
    return ((tensor - reference).norm() / reference.norm()).item()
