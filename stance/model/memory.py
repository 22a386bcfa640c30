"""GPU memory: the bytes that training and scoring need, and one line where it does not suffice."""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from stance.common import errors
from stance.model import lora_linear

if TYPE_CHECKING:
    import transformers

RESERVE_GB = 3.0  # GPU memory that planning leaves free


@contextlib.contextmanager
def explain_memory(action: str, hint: str) -> Iterator[None]:
    """End the script in one line if the GPU memory does not suffice for what the context encloses.

    action: what that is, as it follows "not enough GPU memory to". hint: what to do then.

    While weights load, transformers raises another error and logs this one for each weight: that
    report is held back.
    """
    reports = []
    log = logging.getLogger("transformers.modeling_utils")

    def pass_other(entry: logging.LogRecord) -> bool:
        """Return whether a log entry is not about memory; one that is goes to reports instead."""
        if "out of memory" in entry.getMessage():
            reports.append(entry)
            return False
        return True

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


def count_activation_bytes(config: "transformers.PreTrainedConfig", nodes: int) -> int:
    """Return the bytes that training keeps of a forward pass over so many nodes.

    Without activation checkpoints. Measured for gemma-2-9b with compiled layers: about 170 kB a
    node and layer.
    """
    numbers = 4 * config.intermediate_size + 8 * config.hidden_size  # a node and layer
    return nodes * config.num_hidden_layers * 2 * numbers  # bfloat16: 2 bytes each


def count_logits_bytes(config: "transformers.PreTrainedConfig", count: int) -> int:
    """Return the bytes that the loss at so many nodes takes: four times the logits in float32."""
    return 4 * 4 * config.vocab_size * count


def count_step_bytes(
    config: "transformers.PreTrainedConfig", inputs: dict[str, torch.Tensor]
) -> float:
    """Return the bytes that a training step needs beside what is there before it, and a reserve.

    inputs: of the step, with input_ids [1, N] and loss_positions [K].
    """
    activations = count_activation_bytes(config, inputs["input_ids"].numel())
    logits = count_logits_bytes(config, len(inputs["loss_positions"]))
    return activations + logits + RESERVE_GB * 1e9


def count_validation_bytes(
    config: "transformers.PreTrainedConfig", args: "transformers.TrainingArguments", count: int
) -> float:
    """Return the bytes that validation needs, and a reserve; count: predicting nodes of a row."""
    nodes = count * args.per_device_eval_batch_size
    return count_logits_bytes(config, nodes) + RESERVE_GB * 1e9


def free_memory() -> float:
    """Return the bytes of GPU memory that are free, or held by PyTorch without use."""
    return spare_memory() + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def spare_memory() -> float:
    """Return the bytes of GPU memory that PyTorch does not hold and may take."""
    free, total = torch.cuda.mem_get_info()
    limit = torch.cuda.get_per_process_memory_fraction() * total
    return min(free, limit - torch.cuda.memory_reserved())


def count_dense_bytes(model: torch.nn.Module) -> int:
    """Return the bytes that bfloat16 copies of all 4-bit weights take."""
    weights = sum(
        linear.in_features * linear.out_features for linear in lora_linear.find_linears(model)
    )
    return 2 * weights
