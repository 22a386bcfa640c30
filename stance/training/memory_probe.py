"""The largest micro-batches of a training, tried before its first step.

So the micro-batch size that the memory takes is found before anything is trained.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from stance.common import distributed, errors
from stance.tree import prefix_tree

if TYPE_CHECKING:
    import transformers

# micro-batches whose nodes are counted to find the largest: those with most tokens
COUNTED_BATCHES = 16


class LargestBatches(NamedTuple):
    """The micro-batches that need most memory, each as the indices of its training rows."""

    longest: list[int]  # has the longest row
    largest: list[int]  # has the tree with most nodes


def list_batches(trainer: "transformers.Trainer") -> list[list[int]]:
    """Return all micro-batches of a training in their order.

    Each is a list of the indices of its rows in the training data.
    """
    loader = trainer.get_train_dataloader()
    size = trainer.args.gradient_accumulation_steps  # micro-batches a step
    epochs = trainer.args.num_train_epochs
    batches = []
    for epoch in range(math.ceil(epochs)):
        loader.set_epoch(epoch)  # which alone, with the seed, decides about the order
        order = list(loader.batch_sampler)
        steps = math.ceil(len(order) / size)  # of a whole epoch
        steps_left = math.ceil(epochs * steps) - epoch * steps  # fewer in a part of an epoch
        batches += order[: size * steps_left]
    return batches


def find_largest_batches(trainer: "transformers.Trainer") -> LargestBatches:
    """Return the micro-batch with the longest row and the one with most nodes.

    Of many micro-batches only those with most tokens are merged into trees to count their nodes.
    """
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]

    def find_longest_row(indices: list[int]) -> int:
        return max(lengths[index] for index in indices)

    def count_tokens(indices: list[int]) -> int:
        return sum(lengths[index] for index in indices)

    batches = list_batches(trainer)
    longest = max(batches, key=find_longest_row)
    batches.sort(key=count_tokens, reverse=True)
    counted = batches[:COUNTED_BATCHES]
    largest = max(counted, key=lambda indices: count_nodes(trainer, indices))
    return LargestBatches(longest, largest)


def count_nodes(trainer: "transformers.Trainer", indices: list[int]) -> int:
    """Return the nodes of the tree of these training rows."""
    rows = list(trainer.train_dataset.select(indices))
    return trainer.data_collator(rows)["input_ids"].numel()


def probe_memory(trainer: "transformers.Trainer") -> dict[str, Any] | None:
    """Run the largest micro-batches forward and backward once, smaller ones while they do not fit.

    Call it after accelerate of this tree_trainer.StanceTrainer. The effective batch, the weights
    and the random state stay as they are. Returns a part of the run record: the micro_batch_size
    and those that were too_large; None on a CPU, and if the base is sharded: what breaks off while
    it gathers cannot go on.
    """
    if not torch.cuda.is_available() or trainer.sharded:
        return None
    args = trainer.args
    too_large = []
    while not all(fits_memory(trainer, indices) for indices in find_largest_batches(trainer)):
        size = args.per_device_train_batch_size
        if size == 1:
            hint = "set GRADIENT_CHECKPOINTING to True in finetune.py"
            errors.fail(f"not enough GPU memory for a single row: {hint}")
        too_large.append(size)
        smaller = find_smaller_divisor(size)
        args.gradient_accumulation_steps *= size // smaller
        args.per_device_train_batch_size = smaller
        trainer._train_batch_size = smaller
        args.per_device_eval_batch_size = 2 * smaller
        if distributed.get_rank()[0] == 0:
            need = f"micro-batches of {size} rows need more GPU memory than there is"
            batch = f"batch of {smaller * args.gradient_accumulation_steps} rows unchanged"
            print(f"note: {need}: now {smaller} rows, {batch}")
    return {"micro_batch_size": args.per_device_train_batch_size, "too_large": too_large}


def find_smaller_divisor(size: int) -> int:
    """Return the largest divisor of a size (2 or more) that is smaller than it."""
    return next(part for part in range(size // 2, 0, -1) if size % part == 0)


def fits_memory(trainer: "transformers.Trainer", indices: list[int]) -> bool:
    """Return whether these training rows fit into the memory as one micro-batch.

    Of several processes: into that of all. trainer: a tree_trainer.StanceTrainer.
    """
    rows = []
    for index in indices:
        row = trainer.train_dataset[index]
        rows.append({"input_ids": row["input_ids"], "labels": row["labels"]})
    items = torch.tensor(float(len(rows)))
    inputs = trainer._prepare_inputs({**trainer.data_collator(rows), "items": items})
    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    device = trainer.args.device
    fits = True
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # dropout draws
        try:
            if trainer.step_graphs is not None:
                # What the batch before this one left is not there in training either.
                trainer.step_graphs.release()
            # Adam's, which come at the first step.
            moments = [torch.empty_like(weight) for weight in 2 * weights]
            if trainer.step_graphs is not None:
                # Compiles what the first steps need, then records the largest of them.
                for _ in range(2):
                    trainer.step_graphs(inputs)
            else:
                with prefix_tree.compute_precision(trainer.model):
                    trainer.compute_loss(trainer.model, inputs).backward()
        except torch.OutOfMemoryError:
            fits = False
    # Outside of the handler, whose exception would keep the tensors alive.
    moments = None  # noqa: F841
    trainer.model.zero_grad()
    fitting = torch.tensor(float(fits), device=device)  # processes where it fits
    distributed.sum_tensors([fitting])
    fits_all = fitting.item() == distributed.get_rank()[1]
    if not fits_all:
        if trainer.step_graphs is not None:
            trainer.step_graphs.forget()  # what was broken off is not compiled
        torch.cuda.empty_cache()
    return fits_all
