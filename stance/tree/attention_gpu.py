"""Attention of a prefix tree on a GPU, from matrix products and the kernels of stance/tree/kernels.py, with its gradient.

For models that cap their scores (Gemma-2): the cap bounds them, so that no maximum is subtracted before exponentials
are taken. The same as attention.attend_plainly, in fewer passes over the memory. Forward and backward are two
operators that the compiler takes as they are, which spares it most of its work.
"""

import torch

from stance.tree import kernels


def attend_on_gpu(query, key, value, angles, mask, scaling, softcap):
    """Return the attention output [N, H * D] of query [N, H, D], key and value [N, G, D] under a TreeMask.

    angles: cosine and sine [N, D] of the rotary embedding of query and key; None if they are rotated already.
    """
    cosine, sine = angles or (None, None)
    return KernelAttention.apply(
        query, key, value, cosine, sine, mask.prefix, mask.row, scaling, softcap
    )


class KernelAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, cosine, sine, prefix_mask, row_mask, scaling, softcap):
        tensors = attend_forward(
            query, key, value, cosine, sine, prefix_mask, row_mask, scaling, softcap
        )
        ctx.save_for_backward(cosine, sine, prefix_mask, row_mask, *tensors)
        ctx.constants = scaling, softcap
        return tensors[0]

    @staticmethod
    def backward(ctx, grad):
        cosine, sine, prefix_mask, row_mask, *tensors = ctx.saved_tensors
        grads = attend_backward(grad, tensors, cosine, sine, prefix_mask, row_mask, *ctx.constants)
        return *grads, None, None, None, None, None, None


@torch.library.custom_op("kernel_attention::attend_forward", mutates_args=(), device_types="cuda")
def attend_forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cosine: torch.Tensor | None,
    sine: torch.Tensor | None,
    prefix_mask: torch.Tensor,
    row_mask: torch.Tensor,
    scaling: float,
    softcap: float,
) -> list[torch.Tensor]:
    """Return the output and what the backward pass needs, as allocate lists it."""
    output, *parts = tensors = allocate(
        query, key, value, cosine, sine, prefix_mask, row_mask, scaling, softcap
    )
    queries, keys, values, (prefix_scores, to_prefix, to_row), weights, sums = group(parts)
    sizes, groups, masks = (
        read_sizes(prefix_mask, row_mask),
        key.shape[1],
        list_masks(prefix_mask, row_mask),
    )
    for nodes, pair, angles in (
        (query, queries, cosine),
        (key, keys, cosine),
        (value, values, None),
    ):
        tensors_of_nodes, rotate = (nodes.contiguous(), cosine, sine, *pair), angles is not None
        kernels.launch_nodes(kernels.split_forward, tensors_of_nodes, nodes, sizes, groups, rotate)
    torch.bmm(queries[0], keys[0].mT, out=prefix_scores)
    torch.bmm(by_group(queries[1], groups), keys[0].mT, out=by_group(to_prefix, groups))
    torch.bmm(queries[1], keys[1].mT, out=to_row)
    for scores, mask, weight, total in zip(
        (prefix_scores, to_prefix, to_row), masks, weights, sums, strict=True
    ):
        tensors_of_scores = scores, mask, weight, total
        kernels.launch_scores(kernels.exponentiate_forward, tensors_of_scores, scaling, softcap)
    sums_of_values = torch.bmm(weights[0], values[0]), torch.bmm(weights[2], values[1])
    by_group(sums_of_values[1], groups).baddbmm_(by_group(weights[1], groups), values[0])
    kernels.launch_nodes(
        kernels.join_forward, (*sums_of_values, *sums, output), query, sizes, groups
    )
    return tensors


@attend_forward.register_fake
def allocate(query, key, value, cosine, sine, prefix_mask, row_mask, scaling, softcap):
    """Return tensors for the output [N, H * D], then queries, keys and values, then scores, weights and sums.

    Queries, keys and values are parted into those of prefix and rows. Scores, weights (softmax numerators) and sums are
    three each: prefix to prefix, row to prefix, row to row.
    """
    (prefix, rows, length), (count, heads, size), groups = (
        read_sizes(prefix_mask, row_mask),
        query.shape,
        key.shape[1],
    )
    members = heads // groups
    tensors = [query.new_empty(count, heads * size)]
    for many in (members, 1, 1):
        tensors += [
            query.new_empty(groups, many * prefix, size),
            query.new_empty(groups * rows, many * length, size),
        ]
    lines = [(groups, members * prefix), *[(groups * rows, members * length)] * 2]
    shapes = [(*line, width) for line, width in zip(lines, (prefix, prefix, length), strict=True)]
    tensors += [query.new_empty(shape) for shape in 2 * shapes]
    return tensors + [query.new_empty(line, dtype=torch.float32) for line in lines]


def group(parts):
    """Return (queries, keys, values, scores, weights, sums) of what allocate lists after the output."""
    return parts[:2], parts[2:4], parts[4:6], parts[6:9], parts[9:12], parts[12:]


def read_sizes(prefix_mask, row_mask):
    """Return T, R and L."""
    return prefix_mask.shape[1], row_mask.shape[0], row_mask.shape[1]


def list_masks(prefix_mask, row_mask):
    """Return the masks of the three kinds of scores."""
    prefix, rows, length = read_sizes(prefix_mask, row_mask)
    return prefix_mask[None, :prefix], prefix_mask[prefix:].view(rows, length, prefix), row_mask


def by_group(tensor, groups):
    """Return the matrices of rows [G * R, M, X] as one matrix for each group [G, R * M, X]."""
    return tensor.view(groups, -1, tensor.shape[2])


@torch.library.custom_op("kernel_attention::attend_backward", mutates_args=(), device_types="cuda")
def attend_backward(
    grad: torch.Tensor,
    tensors: list[torch.Tensor],
    cosine: torch.Tensor | None,
    sine: torch.Tensor | None,
    prefix_mask: torch.Tensor,
    row_mask: torch.Tensor,
    scaling: float,
    softcap: float,
) -> list[torch.Tensor]:
    """Return the gradients of query, key and value; tensors: those of attend_forward."""
    output, *parts = tensors
    queries, keys, values, scores, weights, sums = group(parts)
    sizes, groups, masks = (
        read_sizes(prefix_mask, row_mask),
        keys[0].shape[0],
        list_masks(prefix_mask, row_mask),
    )
    grad_query, grad_key, grad_value = grads = allocate_grads(
        grad, tensors, cosine, sine, prefix_mask, row_mask, 0, 0
    )

    grad_parts = torch.empty_like(queries[0]), torch.empty_like(queries[1])
    grad_sums = torch.empty_like(sums[0]), torch.empty_like(sums[1])
    tensors_of_nodes = grad.contiguous(), output, *sums, *grad_parts, *grad_sums
    kernels.launch_nodes(kernels.join_backward, tensors_of_nodes, grad_query, sizes, groups)
    grad_prefix, grad_row, grad_all = *grad_parts, by_group(grad_parts[1], groups)
    grad_values = torch.bmm(weights[0].mT, grad_prefix), torch.bmm(weights[2].mT, grad_row)
    grad_values[0].baddbmm_(by_group(weights[1], groups).mT, grad_all)

    grad_scores = [
        torch.empty_like(weight) for weight in weights
    ]  # at first, the gradients of the weights
    torch.bmm(grad_prefix, values[0].mT, out=grad_scores[0])
    torch.bmm(grad_all, values[0].mT, out=by_group(grad_scores[1], groups))
    torch.bmm(grad_row, values[1].mT, out=grad_scores[2])
    for score, mask, one, total in zip(
        scores, masks, grad_scores, (*grad_sums, grad_sums[1]), strict=True
    ):
        tensors_of_scores = score, mask, one, total
        kernels.launch_scores(kernels.exponentiate_backward, tensors_of_scores, scaling, softcap)

    to_prefix = by_group(grad_scores[1], groups)
    grad_queries = torch.bmm(grad_scores[0], keys[0]), torch.bmm(grad_scores[2], keys[1])
    by_group(grad_queries[1], groups).baddbmm_(to_prefix, keys[0])
    grad_keys = torch.bmm(grad_scores[0].mT, queries[0]), torch.bmm(grad_scores[2].mT, queries[1])
    grad_keys[0].baddbmm_(to_prefix.mT, by_group(queries[1], groups))
    pairs = (
        (grad_query, grad_queries, cosine),
        (grad_key, grad_keys, cosine),
        (grad_value, grad_values, None),
    )
    for nodes, pair, angles in pairs:
        tensors_of_nodes, rotate = (nodes, cosine, sine, *pair), angles is not None
        kernels.launch_nodes(kernels.split_backward, tensors_of_nodes, nodes, sizes, groups, rotate)
    return grads


@attend_backward.register_fake
def allocate_grads(grad, tensors, cosine, sine, prefix_mask, row_mask, scaling, softcap):
    """Return tensors for the gradients of query [N, H, D], key and value [N, G, D]."""
    size, groups = tensors[1].shape[2], tensors[3].shape[0]
    heads = [grad.shape[1] // size, groups, groups]
    return [grad.new_empty(grad.shape[0], many, size) for many in heads]
