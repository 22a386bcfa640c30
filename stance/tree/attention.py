"""Attention of a prefix tree: every node to the prefix, and each row of suffixes to itself.

Registered with transformers by stance/tree/prefix_tree.py, which says what prefix, suffixes and
rows are. In shapes, N = T + R * L nodes are T of the prefix and R rows of L; there are H heads of
size D for queries and G, of which H is a multiple, for keys and values.
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
# Rows, from which code is compiled for rows of that length alone; fewer share code with others.
FAST_ROWS = 8
# --------------------------------------------------------------------------


class TreeMask(NamedTuple):
    """Which nodes a node sees; bool, True for visible."""

    prefix: torch.Tensor  # [N, T]
    row: torch.Tensor  # [R, L, L]


class Source(NamedTuple):
    """Nodes that queries attend to, as weigh_values takes them."""

    key: torch.Tensor  # [B', X, D]
    value: torch.Tensor  # [B', X, D]
    mask: torch.Tensor  # [B", M', X]; bool, True for visible


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: TreeMask,
    scaling: float,
    softcap: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attention of a prefix tree, for transformers' attention interface.

    query [1, H, N, D]; key, value [1, G, N, D]. Returns ([1, N, H, D], None): there are no
    attention weights to return. Scores are capped and exponentiated in float32, as in transformers'
    eager attention. The mask has the sliding window in it. Another mask, or dropout, raises
    ValueError.
    """
    if not isinstance(attention_mask, TreeMask) or dropout:
        raise ValueError(
            "tree attention takes a TreeMask and no dropout: run the model by forward_tree"
        )
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    output = attend_nodes(query, key, value, attention_mask, scaling, softcap)
    return output.unflatten(1, (query.shape[1], -1))[None], None


def attend_nodes(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: TreeMask,
    scaling: float,
    softcap: float | None,
    angles: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the attention output [N, H * D] of query [N, H, D], key and value [N, G, D].

    scaling: what scores are multiplied by. softcap: the bound of the scaled scores, None for none.
    angles: cosine and sine [N, D] of the rotary embedding of query and key; None if they are
    rotated already.
    """
    # The kernels are for capped scores, and for a head size that is a power of two.
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


def attend_by_library(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: TreeMask,
    scaling: float,
) -> torch.Tensor:
    """Return what attend_nodes does without a soft cap, by PyTorch's own attention.

    On a CPU it takes half the time of attend_plainly.
    """
    attend_masked = functools.partial(
        torch.nn.functional.scaled_dot_product_attention, scale=scaling, enable_gqa=True
    )
    prefix = mask.prefix.shape[1]
    rows, length = mask.row.shape[:2]
    prefix_query, prefix_key, prefix_value = (
        tensor[None, :prefix].transpose(1, 2) for tensor in (query, key, value)
    )
    row_query, row_key, row_value = (
        tensor[prefix:].unflatten(0, (rows, length)).transpose(1, 2)
        for tensor in (query, key, value)
    )
    # Nodes of rows see those of the prefix and of their row: [R, G, T + L, D].
    seen_key = torch.cat([prefix_key.expand(rows, -1, -1, -1), row_key], 2)
    seen_value = torch.cat([prefix_value.expand(rows, -1, -1, -1), row_value], 2)
    seen = torch.cat([mask.prefix[prefix:].unflatten(0, (rows, length)), mask.row], 2)
    of_prefix = attend_masked(
        prefix_query, prefix_key, prefix_value, mask.prefix[None, None, :prefix]
    )
    of_rows = attend_masked(row_query, seen_key, seen_value, seen[:, None])
    of_prefix = of_prefix[0].transpose(0, 1)  # [T, H, D]
    of_rows = of_rows.transpose(1, 2).flatten(0, 1)  # [R * L, H, D]
    return torch.cat([of_prefix, of_rows]).flatten(1)


# Nodes come before heads wherever it is possible: with the only dimension that varies first,
# indices are cheap.
def attend_plainly(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: TreeMask,
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    """Return what attend_nodes does, by tensor operations; query and key are rotated already."""
    prefix = mask.prefix.shape[1]
    rows, length = mask.row.shape[:2]
    if rows >= FAST_ROWS and length == ROW_LENGTH:
        length = ROW_LENGTH  # for the compiler a constant: its indices are faster
    groups = key.shape[1]
    prefix_query, prefix_key, prefix_value = (
        group_rows(tensor[:prefix], 1, prefix, groups) for tensor in (query, key, value)
    )
    row_query, row_key, row_value = (
        group_rows(tensor[prefix:], rows, length, groups) for tensor in (query, key, value)
    )
    prefix_to_prefix = Source(prefix_key, prefix_value, mask.prefix[None, :prefix])
    row_to_prefix_mask = mask.prefix[prefix:].unflatten(0, (rows, length))
    row_to_prefix = Source(prefix_key, prefix_value, row_to_prefix_mask)
    row_to_row = Source(row_key, row_value, mask.row)
    of_prefix = weigh_values(prefix_query, [prefix_to_prefix], scaling, softcap)
    of_prefix = ungroup_rows(of_prefix, 1, prefix, groups)
    of_rows = weigh_values(row_query, [row_to_prefix, row_to_row], scaling, softcap)
    of_rows = ungroup_rows(of_rows, rows, length, groups)
    return torch.cat([of_prefix, of_rows]).to(value.dtype)


def group_rows(tensor: torch.Tensor, rows: int, length: int, groups: int) -> torch.Tensor:
    """Return the nodes of rows [R * L, H, X] by group and row: [G * R, H/G * L, X]."""
    members = tensor.shape[1] // groups
    parts = tensor.reshape(rows, length, groups, members, tensor.shape[2])
    parts = parts.permute(2, 0, 3, 1, 4)
    return parts.reshape(groups * rows, members * length, tensor.shape[2])


def ungroup_rows(tensor: torch.Tensor, rows: int, length: int, groups: int) -> torch.Tensor:
    """Undo group_rows, with all heads side by side: [R * L, H * X]."""
    members = tensor.shape[1] // length
    parts = tensor.view(groups, rows, members, length, tensor.shape[2])
    parts = parts.permute(1, 3, 0, 2, 4)
    return parts.reshape(rows * length, groups * members * tensor.shape[2])


def weigh_values(
    query: torch.Tensor, sources: list[Source], scaling: float, softcap: float | None
) -> torch.Tensor:
    """Return the mean of the values of all sources, weighted by one softmax over all of them.

    query and what is returned: [B, M, D]; B and M are multiples of the sources' B', B" and M'.
    """
    keys = [source.key.transpose(1, 2) for source in sources]
    masks = [source.mask for source in sources]
    if softcap is None:
        scores = [score_exactly(query, key) for key in keys]
        peak = find_peak(scores, masks)
        pairs = [
            exponentiate_below(one, mask, scaling, peak, query.dtype)
            for one, mask in zip(scores, masks, strict=True)
        ]
    else:
        scores = [multiply(query, key) for key in keys]
        pairs = [
            exponentiate(one, mask, scaling, softcap)
            for one, mask in zip(scores, masks, strict=True)
        ]
    weighted = [
        multiply(weights, source.value) for (weights, _), source in zip(pairs, sources, strict=True)
    ]
    sums = [sums_of_weights for _, sums_of_weights in pairs]
    return functools.reduce(torch.add, weighted) / functools.reduce(torch.add, sums)


def multiply(matrices: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the products [B, M, Y] of matrices [B, M, X] with others [B', X, Y].

    Each of the others is for the next B/B' matrices.
    """
    stacked = matrices.view(others.shape[0], -1, matrices.shape[2])  # [B', B/B' * M, X]
    return torch.bmm(stacked, others).view(*matrices.shape[:2], -1)


def score_exactly(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return multiply(query, key) in float32, whatever autocast says.

    Without a soft cap scores of some bases (Qwen2, whose keys have large biases) reach hundreds.
    bfloat16 would hold them to one or two units, and the softmax over them be off by factors.
    """
    with torch.autocast(query.device.type, enabled=False):
        return multiply(query.float(), key.float())


def exponentiate(
    scores: torch.Tensor, mask: torch.Tensor, scaling: float, softcap: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the softmax numerators [B, M, T] of scores [B, M, T], and their sums [B, M, 1].

    Numerators have the dtype of the scores, sums are float32. The matrices of the mask [B', M', T]
    repeat, and so do their lines. The soft cap bounds the scores (Gemma-2: 50), so float32 and
    bfloat16, which shares its range, hold the exponentials without subtracting a maximum first:
    one pass over the scores instead of two.
    """
    weights = torch.exp(softcap * torch.tanh(scores.float() * (scaling / softcap)))
    weights = weights * repeat_mask(mask, scores)
    return weights.to(scores.dtype), weights.sum(-1, keepdim=True)


def repeat_mask(mask: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return a mask [B', M', T] repeated to the shape of scores [B, M, T]."""
    return mask.repeat(scores.shape[0] // mask.shape[0], scores.shape[1] // mask.shape[1], 1)


def find_peak(scores: list[torch.Tensor], masks: list[torch.Tensor]) -> torch.Tensor:
    """Return the highest visible score [B, M, 1] of each node.

    scores: some [B, M, any] of the same nodes, each with its mask.
    """
    visible = [
        one.detach().masked_fill(~repeat_mask(mask, one), -torch.inf)
        for one, mask in zip(scores, masks, strict=True)
    ]
    return torch.cat(visible, 2).amax(2, keepdim=True)


def exponentiate_below(
    scores: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    peak: torch.Tensor,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what exponentiate does, for float32 scores without a soft cap; numerators of dtype.

    Their highest, peak [B, M, 1], is subtracted first. Every node sees itself, so no peak is
    infinite.
    """
    visible = scores.masked_fill(~repeat_mask(mask, scores), -torch.inf)
    weights = torch.exp((visible - peak) * scaling)
    return weights.to(dtype), weights.sum(-1, keepdim=True)
