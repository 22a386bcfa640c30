"""Compare the accelerated trainer with the flat batch on one model: loss, logits and gradients of the adapter.

The flat batch is the plain model: eager attention, every row padded, bitsandbytes' and PEFT's own layers. How far two
flat batches of different size are apart says how much of an error is rounding.
"""

import torch

from stance.tree import prefix_tree

# ---------------------------------------------------------------- settings
ROWS = 16  # of the batch
SCALE = 0.01  # standard deviation of the adapter's B weights: at 0, as training starts, the adapter would not show
# --------------------------------------------------------------------------


def flat_step(model, rows, pad_id):
    """Return (loss summed over answer tokens, logits before label and end of turn [B, 2, V]); adds gradients."""
    width = max(len(row["input_ids"]) for row in rows)
    padded = [
        [pad_id] * (width - len(row["input_ids"])) + row["input_ids"] for row in rows
    ]  # the answers line up
    ids = torch.tensor(padded, device=model.device)
    mask = torch.tensor(
        [[0] * (width - len(row["input_ids"])) + [1] * len(row["input_ids"]) for row in rows]
    )
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


def take_gradients(model):
    """Return the gradients of the adapter as one float32 vector on the CPU, and clear them."""
    vector = torch.cat(
        [
            weight.grad.float().flatten().cpu()
            for weight in model.parameters()
            if weight.requires_grad
        ]
    )
    model.zero_grad()
    return vector


def compare(trainer):
    """Return {comparison: {loss, reference loss, relative errors of logits and gradients}}; accelerates the trainer."""
    model, pad_id = trainer.model, trainer.data_collator.pad_id
    rows = [trainer.train_dataset[index] for index in range(ROWS)]
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.copy_(SCALE * torch.randn(weight.shape, generator=generator))
    model.set_attn_implementation("eager")
    flat = (*flat_step(model, rows, pad_id), take_gradients(model))
    halves = [flat_step(model, rows[start : start + ROWS // 2], pad_id) for start in (0, ROWS // 2)]
    halved = (
        sum(loss for loss, _ in halves),
        torch.cat([logits for _, logits in halves]),
        take_gradients(model),
    )
    model.set_attn_implementation(prefix_tree.ATTENTION)
    trainer.accelerate(None, dropout=False)
    tree = tree_step(trainer, rows)
    return {
        "flat, two halves": measure_error(halved, flat),
        "accelerated tree": measure_error(tree, flat),
    }


def tree_step(trainer, rows):
    """Return (loss, logits, gradients) of the trainer's step, recorded if it records steps."""
    model, step = trainer.model, trainer.step_graphs or trainer.run_step
    tree = trainer.data_collator(
        [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows]
    )
    inputs = trainer._prepare_inputs({**tree, "items": torch.tensor(1.0)})
    for _ in range(2):  # StepGraphs runs the first, and records and replays the second
        model.zero_grad()
        loss = step(inputs)
    gradients = take_gradients(model)
    tree = prefix_tree.merge_prefixes(
        [row["input_ids"][:-1] for row in rows], trainer.data_collator.pad_id
    )
    logits_to_keep = torch.tensor(
        [node for nodes in tree.nodes for node in nodes[-2:]], device=model.device
    )
    with torch.no_grad(), prefix_tree.compute_precision(model):
        logits = prefix_tree.forward_tree(model, model.config, inputs, logits_to_keep)
    return loss.item(), logits.float().unflatten(0, (len(rows), 2)).cpu(), gradients


def measure_error(result, reference):
    """Return the losses and the relative errors (Euclidean norm) of logits and gradients."""
    pairs = zip(result[1:], reference[1:], strict=True)
    logits, gradients = (((one - other).norm() / other.norm()).item() for one, other in pairs)
    losses = {"loss": result[0], "reference_loss": reference[0]}
    return {**losses, "logits_error": logits, "gradient_error": gradients}
