"""GPU memory: the bytes that training and scoring need, and one line where it does not suffice."""

import contextlib
import logging

import torch

from stance.common import errors
from stance.model import lora_linear


@contextlib.contextmanager
def explain_memory(action, hint):
    """Stop in one line if the GPU memory does not suffice for an action.

    While weights load, transformers raises another error and logs this one for each weight: that report is held back.
    """
    reports, log = [], logging.getLogger("transformers.modeling_utils")

    def pass_other(entry):
        short = "out of memory" in entry.getMessage()
        reports.extend([entry] if short else [])
        return not short

    log.addFilter(pass_other)
    try:
        yield
    except RuntimeError as problem:
        # What went wrong in the recording of a CUDA graph is the context of the error that ends it.
        short = any(
            isinstance(error, torch.OutOfMemoryError) for error in (problem, problem.__context__)
        )
        if not reports and not short:
            raise
        errors.fail_below_bar(f"not enough GPU memory to {action}: {hint}")
    finally:
        log.removeFilter(pass_other)


RESERVE_GB = 3.0  # GPU memory that planning leaves free


def count_activation_bytes(config, nodes):
    """Return the bytes that training keeps of the forward pass over so many nodes, without checkpoints.

    Measured for gemma-2-9b with compiled layers: about 170 kB a node and layer.
    """
    return (
        nodes
        * config.num_hidden_layers
        * 2
        * (4 * config.intermediate_size + 8 * config.hidden_size)
    )


def count_logits_bytes(config, count):
    """Return the bytes that the loss at so many nodes takes: four times the logits in float32."""
    return 4 * 4 * config.vocab_size * count


def count_step_bytes(config, inputs):
    """Return the bytes that a training step needs beside what is there before it, and a reserve."""
    kept = count_activation_bytes(config, inputs["input_ids"].numel())
    return kept + count_logits_bytes(config, len(inputs["loss_positions"])) + RESERVE_GB * 1e9


def count_validation_bytes(config, args):
    """Return the bytes that validation needs, with two predicting nodes a row, and a reserve."""
    return count_logits_bytes(config, 2 * args.per_device_eval_batch_size) + RESERVE_GB * 1e9


def free_memory():
    """Return the bytes of GPU memory that are free, or held by PyTorch without use."""
    return spare_memory() + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def spare_memory():
    """Return the bytes of GPU memory that PyTorch does not hold and may take."""
    free, total = torch.cuda.mem_get_info()
    return min(
        free, torch.cuda.get_per_process_memory_fraction() * total - torch.cuda.memory_reserved()
    )


def count_dense_bytes(model):
    """Return the bytes that bfloat16 copies of all 4-bit weights take."""
    return sum(
        2 * linear.in_features * linear.out_features for linear in lora_linear.find_linears(model)
    )
