"""Attention of a prefix tree: every node to the prefix, and each row of suffixes to itself.

Registered with transformers by stance/tree/prefix_tree.py, which says what prefix, suffixes and rows are.
"""

import functools
from typing import NamedTuple

import torch
from transformers.models.gemma2.modeling_gemma2 import apply_rotary_pos_emb

try:
    from stance.tree import attention_gpu
except ImportError:  # no Triton, as in PyTorch for CPUs
    attention_gpu = None

# ---------------------------------------------------------------- settings
ROW_LENGTH = 128  # nodes; rows are as long as the longest suffix, in multiples of this
# --------------------------------------------------------------------------


class TreeMask(NamedTuple):
    """Which nodes a node sees; bool, True for visible."""

    prefix: torch.Tensor  # [N, T]
    row: torch.Tensor  # [R, L, L]


def attend(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling,
    softcap=None,
    dropout=0.0,
    sliding_window=None,
    **kwargs,
):
    """Attention of a prefix tree, for transformers' attention interface; the mask is a TreeMask.

    query [1, H, N, D]; key, value [1, G, N, D] with H a multiple of G. Returns ([1, N, H, D], None). Scores are capped
    and exponentiated in float32, as in transformers' eager attention; dropout is not supported.
    """
    if not isinstance(attention_mask, TreeMask) or dropout:
        raise ValueError(
            "tree attention takes a TreeMask and no dropout: run the model by forward_tree"
        )
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    output = attend_nodes(query, key, value, attention_mask, scaling, softcap)
    return output.unflatten(1, (query.shape[1], -1))[None], None


def attend_nodes(query, key, value, mask, scaling, softcap, angles=None):
    """Return the attention output [N, H * D] of query [N, H, D], key and value [N, G, D] under a TreeMask.

    angles: cosine and sine [N, D] of the rotary embedding of query and key; None if they are rotated already.
    """
    if (
        attention_gpu is not None
        and query.is_cuda
        and softcap is not None
        and query.shape[2].bit_count() == 1
    ):
        return attention_gpu.attend_on_gpu(query, key, value, angles, mask, scaling, softcap)
    if angles is not None:
        query, key = apply_rotary_pos_emb(query, key, *angles)
    if softcap is None and not query.is_cuda:
        return attend_by_library(query, key, value, mask, scaling)
    return attend_plainly(query, key, value, mask, scaling, softcap)


def attend_by_library(query, key, value, mask, scaling):
    """Return what attend_nodes does without a soft cap, by PyTorch's own attention: half the time on a CPU."""
    attend_masked = functools.partial(
        torch.nn.functional.scaled_dot_product_attention, scale=scaling, enable_gqa=True
    )
    prefix, (rows, length) = mask.prefix.shape[1], mask.row.shape[:2]
    prefix_query, prefix_key, prefix_value = (
        tensor[None, :prefix].transpose(1, 2) for tensor in (query, key, value)
    )
    row_query, row_key, row_value = (
        tensor[prefix:].unflatten(0, (rows, length)).transpose(1, 2)
        for tensor in (query, key, value)
    )
    seen_key = torch.cat([prefix_key.expand(rows, -1, -1, -1), row_key], 2)  # [R, G, T + L, D]
    seen_value = torch.cat([prefix_value.expand(rows, -1, -1, -1), row_value], 2)
    seen = torch.cat([mask.prefix[prefix:].unflatten(0, (rows, length)), mask.row], 2)
    of_prefix = attend_masked(
        prefix_query, prefix_key, prefix_value, mask.prefix[None, None, :prefix]
    )
    of_rows = attend_masked(row_query, seen_key, seen_value, seen[:, None])
    return torch.cat([of_prefix[0].transpose(0, 1), of_rows.transpose(1, 2).flatten(0, 1)]).flatten(
        1
    )


# Nodes come before heads wherever it is possible: with the only dimension that varies first, indices are cheap.
def attend_plainly(query, key, value, mask, scaling, softcap):
    """Return what attend_nodes does, by tensor operations."""
    prefix, length = mask.prefix.shape[1], mask.row.shape[1]
    length = (
        ROW_LENGTH if length == ROW_LENGTH else length
    )  # for the compiler a constant: its indices are faster
    groups = key.shape[1]
    prefix_query, prefix_key, prefix_value = (
        group_rows(tensor[:prefix], prefix, groups) for tensor in (query, key, value)
    )
    row_query, row_key, row_value = (
        group_rows(tensor[prefix:], length, groups) for tensor in (query, key, value)
    )
    in_prefix = (prefix_key, prefix_value, mask.prefix[None, :prefix])
    row_to_prefix = (prefix_key, prefix_value, mask.prefix[prefix:].unflatten(0, (-1, length)))
    in_row = (row_key, row_value, mask.row)
    output = [
        ungroup_rows(weigh_values(prefix_query, [in_prefix], scaling, softcap), prefix, groups),
        ungroup_rows(
            weigh_values(row_query, [row_to_prefix, in_row], scaling, softcap), length, groups
        ),
    ]
    return torch.cat(output).to(value.dtype)


def group_rows(tensor, length, groups):
    """Return the nodes of rows [R * L, H, X] by group and row: [G * R, H/G * L, X]."""
    tensor = tensor.unflatten(0, (-1, length)).unflatten(2, (groups, -1))  # [R, L, G, H/G, X]
    return tensor.permute(2, 0, 3, 1, 4).flatten(2, 3).flatten(0, 1)


def ungroup_rows(tensor, length, groups):
    """Undo group_rows, with all heads side by side: [R * L, H * X]."""
    tensor = tensor.unflatten(0, (groups, -1)).unflatten(2, (-1, length))  # [G, R, H/G, L, X]
    return tensor.permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)


def weigh_values(query, sources, scaling, softcap):
    """Return the mean [B, M, D] of the values of all sources, weighted by the softmax over all of them together.

    query [B, M, D]; each source has keys and values [B', X, D] and a mask [B", M', X], B and M multiples of those.
    """
    scores = [multiply(query, key.transpose(1, 2)) for key, _, _ in sources]
    masks = [mask for _, _, mask in sources]
    if softcap is None:
        peak = find_peak(scores, masks)
        pairs = [
            exponentiate_below(one, mask, scaling, peak)
            for one, mask in zip(scores, masks, strict=True)
        ]
    else:
        pairs = [
            exponentiate(one, mask, scaling, softcap)
            for one, mask in zip(scores, masks, strict=True)
        ]
    weighted = [
        multiply(weights, value) for (weights, _), (_, value, _) in zip(pairs, sources, strict=True)
    ]
    return functools.reduce(torch.add, weighted) / functools.reduce(
        torch.add, [sums for _, sums in pairs]
    )


def multiply(matrices, others):
    """Return the products [B, M, Y] of matrices [B, M, X] with others [B', X, Y], each for the next B/B' of them."""
    return torch.bmm(matrices.view(others.shape[0], -1, matrices.shape[2]), others).view(
        *matrices.shape[:2], -1
    )


def exponentiate(scores, mask, scaling, softcap):
    """Return (softmax numerators in the scores' dtype, their float32 sums over the last dimension, kept as size 1).

    scores [B, M, T]; the matrices of the mask [B', M', T] repeat, and so do their lines. The soft cap
    bounds the scores (Gemma-2: 50), so float32 and bfloat16, which shares its range, hold the exponentials without
    subtracting a maximum first: one pass over the scores instead of two.
    """
    weights = torch.exp(softcap * torch.tanh(scores.float() * (scaling / softcap))) * repeat_mask(
        mask, scores
    )
    return weights.to(scores.dtype), weights.sum(-1, keepdim=True)


def repeat_mask(mask, scores):
    """Return a mask [B', M', T] repeated to the shape of scores [B, M, T]."""
    return mask.repeat(scores.shape[0] // mask.shape[0], scores.shape[1] // mask.shape[1], 1)


def find_peak(scores, masks):
    """Return the highest visible score of each node, over some scores [B, M, any] of the same nodes: [B, M, 1]."""
    visible = [
        one.detach().float().masked_fill(~repeat_mask(mask, one), -torch.inf)
        for one, mask in zip(scores, masks, strict=True)
    ]
    return torch.cat(visible, 2).amax(2, keepdim=True)


def exponentiate_below(scores, mask, scaling, peak):
    """Return what exponentiate does, for scores without a soft cap: their highest, peak, is subtracted first.

    Every node sees itself, so no peak is infinite.
    """
    weights = torch.exp(
        (scores.float().masked_fill(~repeat_mask(mask, scores), -torch.inf) - peak) * scaling
    )
    return weights.to(scores.dtype), weights.sum(-1, keepdim=True)
