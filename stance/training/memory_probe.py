"""The largest micro-batches of a training, tried before its first step, and the micro-batch size that the memory takes."""

import math

import torch

from stance.common import distributed, errors
from stance.tree import prefix_tree

COUNTED_BATCHES = (
    16  # micro-batches whose nodes are counted to find the largest: those with most tokens
)


def list_batches(trainer):
    """Return all micro-batches of a training in their order, each as the indices of its rows in the training data."""
    loader, epochs, batches = trainer.get_train_dataloader(), trainer.args.num_train_epochs, []
    for epoch in range(math.ceil(epochs)):
        loader.set_epoch(epoch)  # which alone, with the seed, decides about the order
        order, size = list(loader.batch_sampler), trainer.args.gradient_accumulation_steps
        steps = math.ceil(
            len(order) / size
        )  # an epoch; of a last epoch that is only a part, the trainer makes fewer
        batches += order[: size * (math.ceil(epochs * steps) - epoch * steps)]
    return batches


def find_largest_batches(trainer):
    """Return the micro-batch with the longest row and, last, the one with most nodes, as indices in the training data.

    Of many micro-batches only those with most tokens are merged into trees to count their nodes.
    """
    lengths, batches = (
        [len(ids) for ids in trainer.train_dataset["input_ids"]],
        list_batches(trainer),
    )
    longest = max(batches, key=lambda indices: max(lengths[index] for index in indices))
    batches.sort(key=lambda indices: sum(lengths[index] for index in indices), reverse=True)
    return longest, max(
        batches[:COUNTED_BATCHES], key=lambda indices: count_nodes(trainer, indices)
    )


def count_nodes(trainer, indices):
    """Return the nodes of the tree of these training rows."""
    return trainer.data_collator(list(trainer.train_dataset.select(indices)))["input_ids"].numel()


def probe_memory(trainer):
    """Run the largest micro-batches forward and backward once; while they do not fit, make micro-batches smaller.

    Call it after trainer.accelerate. The effective batch, the weights and the random state stay as they are. Returns a
    part of the run record; None on a CPU, and if the base is sharded: what breaks off while it gathers cannot go on.
    """
    if not torch.cuda.is_available() or trainer.sharded:
        return None
    args, too_large = trainer.args, []
    while not all(fits_memory(trainer, indices) for indices in find_largest_batches(trainer)):
        size = args.per_device_train_batch_size
        if size == 1:
            errors.fail(
                "not enough GPU memory for a single row: set GRADIENT_CHECKPOINTING to True in finetune.py"
            )
        too_large.append(size)
        smaller = next(part for part in range(size // 2, 0, -1) if size % part == 0)
        args.gradient_accumulation_steps *= size // smaller
        args.per_device_train_batch_size = trainer._train_batch_size = smaller
        args.per_device_eval_batch_size = 2 * smaller
        batch = f"batch of {smaller * args.gradient_accumulation_steps} rows unchanged"
        if distributed.get_rank()[0] == 0:
            print(
                f"note: micro-batches of {size} rows need more GPU memory than there is: now {smaller} rows, {batch}"
            )
    return {"micro_batch_size": args.per_device_train_batch_size, "too_large": too_large}


def fits_memory(trainer, indices):
    """Return whether these training rows fit into the memory as one micro-batch; of several processes, in all."""
    rows = [
        {key: trainer.train_dataset[index][key] for key in ("input_ids", "labels")}
        for index in indices
    ]
    inputs = trainer._prepare_inputs(
        {**trainer.data_collator(rows), "items": torch.tensor(float(len(rows)))}
    )
    weights, fits = [weight for weight in trainer.model.parameters() if weight.requires_grad], True
    with torch.random.fork_rng(
        [trainer.args.device] if trainer.args.device.type == "cuda" else []
    ):  # dropout draws
        try:
            if trainer.step_graphs is not None:
                trainer.step_graphs.release()  # what the batch before this one left is not there in training either
            moments = [
                torch.empty_like(weight) for weight in 2 * weights
            ]  # Adam's, which come at the first step
            if trainer.step_graphs is not None:
                for _ in range(
                    2
                ):  # compiles what the first steps need, then records the largest of them
                    trainer.step_graphs(inputs)
            else:
                with prefix_tree.compute_precision(trainer.model):
                    trainer.compute_loss(trainer.model, inputs).backward()
        except torch.OutOfMemoryError:
            fits = False
    moments = None  # noqa: F841  outside of the handler, whose exception would keep the tensors alive
    trainer.model.zero_grad()
    total = torch.tensor(float(fits), device=trainer.args.device)
    distributed.sum_tensors([total])
    fits = total.item() == distributed.get_rank()[1]
    if not fits:
        if trainer.step_graphs is not None:
            trainer.step_graphs.forget()  # what was broken off is not compiled
        torch.cuda.empty_cache()
    return fits
