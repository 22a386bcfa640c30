"""Logits in float32, without the rounding to bfloat16 that makes different labels equally probable.

The output head of a bfloat16 model gives bfloat16 logits: between 16 and 32 these are 0.125 apart,
so labels tie that the model tells apart.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch

# ---------------------------------------------------------------- settings
# Tokens of the vocabulary whose weights are float32 at a time, where there is no GPU.
CHUNK_TOKENS = 16_384
# --------------------------------------------------------------------------


@contextlib.contextmanager
def float32_logits(model: torch.nn.Module) -> Iterator[None]:
    """Let a model, or a PEFT model, give float32 logits while the context lasts.

    They are the last hidden state times the weight of the output head, both as they are, with
    products and sums in float32; then the model's soft cap, if it has one, in float32. An infinite
    one is NaN. For models that do not train in it. Of a model that computes in float32 anyway, no
    bit of finite logits changes.
    """
    head = model.get_output_embeddings()
    head = getattr(head, "base_layer", head)  # the layer itself, where an adapter is on the head
    usual_forward = head.forward
    own_forward = vars(head).get("forward")  # that of a hook, if the head has any
    head.forward = functools.partial(compute_logits, head, usual_forward)
    try:
        yield
    finally:
        del head.forward
        if own_forward is not None:
            head.forward = own_forward


def compute_logits(
    head: torch.nn.Linear, usual_forward: Callable, hidden: torch.Tensor
) -> torch.Tensor:
    """Forward of an output head: hidden [..., X] to float32 logits [..., vocabulary].

    usual_forward: the head's own, for all weights but bfloat16.
    """
    if head.weight.dtype == torch.bfloat16:
        logits = multiply_in_float32(head, hidden)
    else:
        logits = usual_forward(hidden).float()
    # A soft cap would make a number of infinity.
    return logits.masked_fill_(logits.isinf(), torch.nan)


def multiply_in_float32(head: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    """Return the float32 logits [..., vocabulary] of hidden [..., X] and a bfloat16 head."""
    flat = hidden.flatten(0, -2)
    weight = head.weight
    with torch.autocast(hidden.device.type, enabled=False):
        if flat.is_cuda and flat.dtype == weight.dtype:
            # Products of bfloat16 are exact in float32, in which the GPU adds them up.
            logits = torch.mm(flat, weight.T, out_dtype=torch.float32)
        else:
            flat = flat.float()
            logits = flat.new_empty(len(flat), len(weight))
            for start in range(0, len(weight), CHUNK_TOKENS):
                chunk = weight[start : start + CHUNK_TOKENS].float()
                logits[:, start : start + CHUNK_TOKENS] = flat @ chunk.T
        if head.bias is not None:
            logits += head.bias.float()
    return logits.unflatten(0, hidden.shape[:-1])
