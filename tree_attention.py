"""Attention of a prefix tree: every node to the trunk, and each row of chains to itself.

Registered with transformers by prefix_tree.py, which says what trunk, chains and rows are.
"""

from typing import NamedTuple

import torch

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
    trunk, (rows, length) = attention_mask.trunk.shape[1], attention_mask.row.shape[:2]
    length = ROW_LENGTH if length == ROW_LENGTH else length  # for the compiler a constant: its indices are faster
    groups, heads = key.shape[1], query.shape[1] // key.shape[1]
    query, key, value = query[0].unflatten(0, (groups, heads)), key[0], value[0]
    row_query = query[:, :, trunk:].unflatten(2, (rows, length)).transpose(1, 2).flatten(2, 3)  # [G, R, H/G * L, D]
    row_key, row_value = (tensor[:, trunk:].unflatten(1, (rows, length)) for tensor in (key, value))  # [G, R, L, D]

    to_trunk = (query.flatten(1, 2) @ key[:, :trunk].mT).unflatten(1, (heads, -1))  # [G, H/G, N, T]
    to_row = (row_query @ row_key.mT).unflatten(2, (heads, length))  # [G, R, H/G, L, L]
    if softcap is None:
        peak, row_peak = find_peaks(to_trunk.detach(), to_row.detach(), attention_mask)
        to_trunk, trunk_sum = exponentiate_below(to_trunk, attention_mask.trunk, scaling, peak, value.dtype)
        to_row, row_sum = exponentiate_below(to_row, attention_mask.row[:, None], scaling, row_peak, value.dtype)
    else:
        to_trunk, trunk_sum = exponentiate(to_trunk, attention_mask.trunk, scaling, softcap, value.dtype)
        to_row, row_sum = exponentiate(to_row, attention_mask.row[:, None], scaling, softcap, value.dtype)

    output = (to_trunk.flatten(1, 2) @ value[:, :trunk]).unflatten(1, (heads, -1))  # [G, H/G, N, D]
    row_output = (to_row.flatten(2, 3) @ row_value).unflatten(2, (heads, length)).transpose(1, 2).flatten(2, 3)
    row_sum = row_sum.transpose(1, 2).flatten(2, 3)
    output = torch.cat(
        [
            output[:, :, :trunk] / trunk_sum[:, :, :trunk],
            (output[:, :, trunk:] + row_output) / (trunk_sum[:, :, trunk:] + row_sum),
        ],
        2,
    )
    return output.to(value.dtype).flatten(0, 1).transpose(0, 1)[None], None


def exponentiate(scores, mask, scaling, softcap, dtype):
    """Return (softmax numerators in dtype, their float32 sums over the last dimension, kept as size 1).

    The soft cap bounds the scores (Gemma-2: 50), so float32 and bfloat16, which shares its range, hold the exponentials
    without subtracting a maximum first: one pass over the scores instead of two.
    """
    weights = torch.exp(softcap * torch.tanh(scores.float() * (scaling / softcap))) * mask
    return weights.to(dtype), weights.sum(-1, keepdim=True)


def find_peaks(to_trunk, to_row, mask):
    """Return the highest score of each node over trunk and row together: [G, H/G, N, 1], and [G, R, H/G, L, 1]."""
    trunk, (rows, length) = mask.trunk.shape[1], mask.row.shape[:2]
    peak = to_trunk.float().masked_fill(~mask.trunk, -torch.inf).amax(-1, keepdim=True)
    row_peak = to_row.float().masked_fill(~mask.row[:, None], -torch.inf).amax(-1, keepdim=True)
    row_peak = torch.maximum(row_peak, peak[:, :, trunk:].unflatten(2, (rows, length)).transpose(1, 2))
    return torch.cat([peak[:, :, :trunk], row_peak.transpose(1, 2).flatten(2, 3)], 2), row_peak


def exponentiate_below(scores, mask, scaling, peak, dtype):
    """Return what exponentiate does, for scores without a soft cap: their highest, peak, is subtracted first.

    Every node sees itself, so no peak is infinite.
    """
    weights = torch.exp((scores.float().masked_fill(~mask, -torch.inf) - peak) * scaling)
    return weights.to(dtype), weights.sum(-1, keepdim=True)
