"""Attention of a prefix tree: every node to the trunk, and each row of chains to itself.

Registered with transformers by prefix_tree.py, which says what trunk, chains and rows are.
"""

from typing import NamedTuple

import torch

try:
    import tree_kernels
except ImportError:  # no Triton, as in PyTorch for CPUs
    tree_kernels = None

# ---------------------------------------------------------------- settings
ROW_LENGTH = 128  # nodes; rows are as long as the longest chain, in multiples of this
# --------------------------------------------------------------------------


class TreeMask(NamedTuple):
    """Which nodes a node sees; bool, True for visible."""

    trunk: torch.Tensor  # [N, T]
    row: torch.Tensor  # [R, L, L]


def attend(
    module, query, key, value, attention_mask, scaling, softcap=None, dropout=0.0, sliding_window=None, **kwargs
):
    """Attention of a prefix tree, for transformers' attention interface; the mask is a TreeMask.

    query [1, H, N, D]; key, value [1, G, N, D] with H a multiple of G. Returns ([1, N, H, D], None). Scores are capped
    and exponentiated in float32, as in transformers' eager attention; dropout is not supported.
    """
    if not isinstance(attention_mask, TreeMask) or dropout:
        raise ValueError("tree attention takes a TreeMask and no dropout: run the model by forward_tree")
    trunk, length = attention_mask.trunk.shape[1], attention_mask.row.shape[1]
    length = ROW_LENGTH if length == ROW_LENGTH else length  # for the compiler a constant: its indices are faster
    groups = key.shape[1]
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [N, H or G, D]
    trunk_key, trunk_value = (repeat_heads(tensor[:trunk], query.shape[1]) for tensor in (key, value))
    row_query, row_key, row_value = (split_rows(tensor[trunk:], length, groups) for tensor in (query, key, value))

    to_trunk = torch.bmm(query.transpose(0, 1), trunk_key.transpose(1, 2))  # [H, N, T]
    to_row = torch.bmm(row_query, row_key.transpose(1, 2))  # [R * G, H/G * L, L]
    trunk_mask, row_mask = attention_mask.trunk[None], attention_mask.row
    if softcap is None:
        peak, row_peak = find_peaks(to_trunk.detach(), to_row.detach(), trunk_mask, row_mask, groups)
        to_trunk, trunk_sum = exponentiate_below(to_trunk, trunk_mask, scaling, peak)
        to_row, row_sum = exponentiate_below(to_row, row_mask, scaling, row_peak)
    else:
        to_trunk, trunk_sum = exponentiate(to_trunk, trunk_mask, scaling, softcap)
        to_row, row_sum = exponentiate(to_row, row_mask, scaling, softcap)

    output = torch.bmm(to_trunk, trunk_value).transpose(0, 1)  # [N, H, D]
    row_output = join_rows(torch.bmm(to_row, row_value), length, groups)
    trunk_sum, row_sum = trunk_sum.transpose(0, 1), join_rows(row_sum, length, groups)
    output = torch.cat(
        [output[:trunk] / trunk_sum[:trunk], (output[trunk:] + row_output) / (trunk_sum[trunk:] + row_sum)]
    )
    return output.to(value.dtype)[None], None


# Nodes come before heads wherever it is possible: with the only dimension that varies first, indices are cheap.
def repeat_heads(tensor, heads):
    """Return keys or values [N, G, D] once for each query head: [H, N, D]."""
    return tensor[:, :, None].expand(-1, -1, heads // tensor.shape[1], -1).flatten(1, 2).transpose(0, 1)


def split_rows(tensor, length, groups):
    """Return the nodes of rows [R * L, H, X] by row and group: [R * G, H/G * L, X]."""
    tensor = tensor.unflatten(0, (-1, length)).unflatten(2, (groups, -1))  # [R, L, G, H/G, X]
    return tensor.permute(0, 2, 3, 1, 4).flatten(2, 3).flatten(0, 1)


def join_rows(tensor, length, groups):
    """Undo split_rows."""
    tensor = tensor.unflatten(0, (-1, groups)).unflatten(2, (-1, length))  # [R, G, H/G, L, X]
    return tensor.permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)


def exponentiate(scores, mask, scaling, softcap):
    """Return (softmax numerators in the scores' dtype, their float32 sums over the last dimension, kept as size 1).

    scores [B, M, T]; of the mask [B', M', T], each matrix serves B/B' in turn, and its lines repeat. The soft cap
    bounds the scores (Gemma-2: 50), so float32 and bfloat16, which shares its range, hold the exponentials without
    subtracting a maximum first: one pass over the scores instead of two.
    """
    if tree_kernels is not None and scores.is_cuda:
        return tree_kernels.exponentiate(scores, mask, scaling, softcap)
    return exponentiate_plainly(scores, mask, scaling, softcap)


def exponentiate_plainly(scores, mask, scaling, softcap):
    """Return what exponentiate does, by tensor operations."""
    weights = torch.exp(softcap * torch.tanh(scores.float() * (scaling / softcap))) * repeat_mask(mask, scores)
    return weights.to(scores.dtype), weights.sum(-1, keepdim=True)


def repeat_mask(mask, scores):
    """Return a mask [B', M', T] repeated to the shape of scores [B, M, T]."""
    matrices, lines = scores.shape[0] // mask.shape[0], scores.shape[1] // mask.shape[1]
    return mask[:, None, None].expand(-1, matrices, lines, -1, -1).reshape(scores.shape)


def find_peaks(to_trunk, to_row, trunk_mask, row_mask, groups):
    """Return the highest score of each node over trunk and row together: [H, N, 1], and [R * G, H/G * L, 1]."""
    trunk, length = to_trunk.shape[2], to_row.shape[2]
    peak = to_trunk.float().masked_fill(~repeat_mask(trunk_mask, to_trunk), -torch.inf).amax(-1, keepdim=True)
    row_peak = to_row.float().masked_fill(~repeat_mask(row_mask, to_row), -torch.inf).amax(-1, keepdim=True)
    peak = peak.transpose(0, 1)
    row_peak = torch.maximum(join_rows(row_peak, length, groups), peak[trunk:])
    return torch.cat([peak[:trunk], row_peak]).transpose(0, 1), split_rows(row_peak, length, groups)


def exponentiate_below(scores, mask, scaling, peak):
    """Return what exponentiate does, for scores without a soft cap: their highest, peak, is subtracted first.

    Every node sees itself, so no peak is infinite.
    """
    weights = torch.exp((scores.float().masked_fill(~repeat_mask(mask, scores), -torch.inf) - peak) * scaling)
    return weights.to(scores.dtype), weights.sum(-1, keepdim=True)
