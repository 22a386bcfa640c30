"""Attention of a prefix tree on a GPU with its gradient, by the kernels of stance/tree/kernels.py.

For models that cap their scores (Gemma-2): the cap bounds them, so that no maximum is subtracted
before exponentials are taken. The same as attention.attend_plainly, in fewer passes over the
memory. Forward and backward are two operators that the compiler takes as they are, which spares it
most of its work. Operators take and return flat lists of tensors: name_tensors gives them names.

In shapes, N = T + R * L nodes are T of the prefix and R rows of L; there are H heads of size D for
queries and G, of which H is a multiple, for keys and values.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from stance.tree import kernels

if TYPE_CHECKING:
    from stance.tree.attention import TreeMask


class TreeSizes(NamedTuple):
    """The sizes of a tree, in nodes and rows; in shapes T, R and L."""

    prefix: int
    rows: int
    length: int


class Parts(NamedTuple):
    """Queries, keys or values by group of heads: those of the prefix, and those of rows.

    In a group, M = H/G heads of queries adjoin, of keys and values M = 1.
    """

    prefix: torch.Tensor  # [G, M * T, D]
    rows: torch.Tensor  # [G * R, M * L, D]


class Kinds(NamedTuple):
    """What there is of each kind of scores: scores, weights, their sums, or masks.

    Scores and weights have shapes [G, H/G * T, T], [G * R, H/G * L, T] and [G * R, H/G * L, L];
    sums lack the last dimension; of masks, list_masks has the shapes.
    """

    prefix_to_prefix: torch.Tensor
    row_to_prefix: torch.Tensor
    row_to_row: torch.Tensor


class ForwardTensors(NamedTuple):
    """What attend_forward returns, with names: the output, and what the backward pass needs."""

    output: torch.Tensor  # [N, H * D]
    queries: Parts  # rotated, as the keys
    keys: Parts
    values: Parts
    scores: Kinds  # neither scaled nor capped
    weights: Kinds  # the softmax numerators
    sums: Kinds  # of the weights, in float32


def attend_on_gpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    angles: list[torch.Tensor] | None,
    mask: "TreeMask",
    scaling: float,
    softcap: float,
) -> torch.Tensor:
    """Return the attention output [N, H * D] of query [N, H, D], key and value [N, G, D].

    angles: cosine and sine [N, D] of the rotary embedding of query and key; None if they are
    rotated already.
    """
    cosine, sine = angles or (None, None)
    return KernelAttention.apply(
        query, key, value, cosine, sine, mask.prefix, mask.row, scaling, softcap
    )


class KernelAttention(torch.autograd.Function):
    """attend_forward, with the gradients of query, key and value by attend_backward."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cosine: torch.Tensor | None,
        sine: torch.Tensor | None,
        prefix_mask: torch.Tensor,
        row_mask: torch.Tensor,
        scaling: float,
        softcap: float,
    ) -> torch.Tensor:
        """Return the attention output [N, H * D]."""
        tensors = attend_forward(
            query, key, value, cosine, sine, prefix_mask, row_mask, scaling, softcap
        )
        ctx.save_for_backward(cosine, sine, prefix_mask, row_mask, *tensors)
        ctx.constants = scaling, softcap
        return tensors[0]

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        """Return a gradient for each input of forward; there are some of the first three."""
        cosine, sine, prefix_mask, row_mask, *tensors = ctx.saved_tensors
        grads = attend_backward(grad, tensors, cosine, sine, prefix_mask, row_mask, *ctx.constants)
        return *grads, None, None, None, None, None, None


# PyTorch reads an operator's schema from its parameters: their names, order and types are its own.
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
    """Return the output and what the backward pass needs, as name_tensors names it."""
    tensors = allocate(query, key, value, cosine, sine, prefix_mask, row_mask, scaling, softcap)
    output, queries, keys, values, scores, weights, sums = name_tensors(tensors)
    sizes = read_sizes(prefix_mask, row_mask)
    groups = key.shape[1]

    rotated = cosine is not None
    for nodes, parts, rotate in (
        (query, queries, rotated),
        (key, keys, rotated),
        (value, values, False),
    ):
        tensors_of_nodes = (nodes.contiguous(), cosine, sine, *parts)
        kernels.launch_nodes(kernels.split_forward, tensors_of_nodes, nodes, sizes, groups, rotate)

    queries_by_group = by_group(queries.rows, groups)
    torch.bmm(queries.prefix, keys.prefix.mT, out=scores.prefix_to_prefix)
    torch.bmm(queries_by_group, keys.prefix.mT, out=by_group(scores.row_to_prefix, groups))
    torch.bmm(queries.rows, keys.rows.mT, out=scores.row_to_row)

    masks = list_masks(prefix_mask, row_mask)
    for tensors_of_scores in zip(scores, masks, weights, sums, strict=True):
        kernels.launch_scores(kernels.exponentiate_forward, tensors_of_scores, scaling, softcap)

    sums_of_values = Parts(
        torch.bmm(weights.prefix_to_prefix, values.prefix),
        torch.bmm(weights.row_to_row, values.rows),
    )
    by_group(sums_of_values.rows, groups).baddbmm_(
        by_group(weights.row_to_prefix, groups), values.prefix
    )
    tensors_of_nodes = (*sums_of_values, *sums, output)
    kernels.launch_nodes(kernels.join_forward, tensors_of_nodes, query, sizes, groups)
    return tensors


@attend_forward.register_fake
def allocate(
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
    """Return tensors for what attend_forward returns, in the order of name_tensors."""
    prefix, rows, length = read_sizes(prefix_mask, row_mask)
    count, heads, size = query.shape
    groups = key.shape[1]
    members = heads // groups
    tensors = [query.new_empty(count, heads * size)]
    for adjoining in (members, 1, 1):  # queries, keys and values
        tensors += [
            query.new_empty(groups, adjoining * prefix, size),
            query.new_empty(groups * rows, adjoining * length, size),
        ]
    prefix_lines = (groups, members * prefix)
    row_lines = (groups * rows, members * length)
    shapes = [(*prefix_lines, prefix), (*row_lines, prefix), (*row_lines, length)]
    tensors += [query.new_empty(shape) for shape in shapes]  # scores
    tensors += [query.new_empty(shape) for shape in shapes]  # weights
    for lines in (prefix_lines, row_lines, row_lines):  # sums
        tensors.append(query.new_empty(lines, dtype=torch.float32))
    return tensors


def name_tensors(tensors: list[torch.Tensor]) -> ForwardTensors:
    """Return the 16 tensors of attend_forward with their names."""
    return ForwardTensors(
        output=tensors[0],
        queries=Parts(*tensors[1:3]),
        keys=Parts(*tensors[3:5]),
        values=Parts(*tensors[5:7]),
        scores=Kinds(*tensors[7:10]),
        weights=Kinds(*tensors[10:13]),
        sums=Kinds(*tensors[13:16]),
    )


def read_sizes(prefix_mask: torch.Tensor, row_mask: torch.Tensor) -> TreeSizes:
    """Return the sizes of the tree of a TreeMask's two masks."""
    return TreeSizes(prefix=prefix_mask.shape[1], rows=row_mask.shape[0], length=row_mask.shape[1])


def list_masks(prefix_mask: torch.Tensor, row_mask: torch.Tensor) -> Kinds:
    """Return the masks of the three kinds of scores: [1, T, T], [R, L, T] and [R, L, L]."""
    prefix, rows, length = read_sizes(prefix_mask, row_mask)
    return Kinds(
        prefix_to_prefix=prefix_mask[None, :prefix],
        row_to_prefix=prefix_mask[prefix:].view(rows, length, prefix),
        row_to_row=row_mask,
    )


def by_group(tensor: torch.Tensor, groups: int) -> torch.Tensor:
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
    """Return the gradients of query [N, H, D], key and value [N, G, D].

    grad: of the output [N, H * D]; tensors: those of attend_forward.
    """
    output, queries, keys, values, scores, weights, sums = name_tensors(tensors)
    sizes = read_sizes(prefix_mask, row_mask)
    groups = keys.prefix.shape[0]
    grads = allocate_grads(grad, tensors, cosine, sine, prefix_mask, row_mask, 0, 0)
    grad_query, grad_key, grad_value = grads

    # Of what join_forward divided: the sums of weighted values, and the sums of weights. Those of
    # rows are two, with one gradient.
    grad_prefix = torch.empty_like(queries.prefix)
    grad_rows = torch.empty_like(queries.rows)
    grad_prefix_sum = torch.empty_like(sums.prefix_to_prefix)
    grad_row_sum = torch.empty_like(sums.row_to_prefix)
    tensors_of_nodes = (
        grad.contiguous(),
        output,
        *sums,
        grad_prefix,
        grad_rows,
        grad_prefix_sum,
        grad_row_sum,
    )
    kernels.launch_nodes(kernels.join_backward, tensors_of_nodes, grad_query, sizes, groups)
    grad_rows_by_group = by_group(grad_rows, groups)
    grad_values = Parts(
        torch.bmm(weights.prefix_to_prefix.mT, grad_prefix),
        torch.bmm(weights.row_to_row.mT, grad_rows),
    )
    grad_values.prefix.baddbmm_(by_group(weights.row_to_prefix, groups).mT, grad_rows_by_group)

    # At first the gradients of the weights, of which the kernel makes those of the scores.
    grad_scores = Kinds(*(torch.empty_like(weight) for weight in weights))
    grad_to_prefix = by_group(grad_scores.row_to_prefix, groups)
    torch.bmm(grad_prefix, values.prefix.mT, out=grad_scores.prefix_to_prefix)
    torch.bmm(grad_rows_by_group, values.prefix.mT, out=grad_to_prefix)
    torch.bmm(grad_rows, values.rows.mT, out=grad_scores.row_to_row)
    masks = list_masks(prefix_mask, row_mask)
    grad_sums = Kinds(grad_prefix_sum, grad_row_sum, grad_row_sum)
    for tensors_of_scores in zip(scores, masks, grad_scores, grad_sums, strict=True):
        kernels.launch_scores(kernels.exponentiate_backward, tensors_of_scores, scaling, softcap)

    grad_queries = Parts(
        torch.bmm(grad_scores.prefix_to_prefix, keys.prefix),
        torch.bmm(grad_scores.row_to_row, keys.rows),
    )
    by_group(grad_queries.rows, groups).baddbmm_(grad_to_prefix, keys.prefix)
    grad_keys = Parts(
        torch.bmm(grad_scores.prefix_to_prefix.mT, queries.prefix),
        torch.bmm(grad_scores.row_to_row.mT, queries.rows),
    )
    grad_keys.prefix.baddbmm_(grad_to_prefix.mT, by_group(queries.rows, groups))

    rotated = cosine is not None
    for nodes, parts, rotate in (
        (grad_query, grad_queries, rotated),
        (grad_key, grad_keys, rotated),
        (grad_value, grad_values, False),
    ):
        tensors_of_nodes = (nodes, cosine, sine, *parts)
        kernels.launch_nodes(kernels.split_backward, tensors_of_nodes, nodes, sizes, groups, rotate)
    return grads


@attend_backward.register_fake
def allocate_grads(
    grad: torch.Tensor,
    tensors: list[torch.Tensor],
    cosine: torch.Tensor | None,
    sine: torch.Tensor | None,
    prefix_mask: torch.Tensor,
    row_mask: torch.Tensor,
    scaling: float,
    softcap: float,
) -> list[torch.Tensor]:
    """Return tensors for the gradients of query [N, H, D], key and value [N, G, D]."""
    named = name_tensors(tensors)
    size = named.queries.prefix.shape[2]
    groups = named.keys.prefix.shape[0]
    heads = grad.shape[1] // size
    return [grad.new_empty(grad.shape[0], many, size) for many in (heads, groups, groups)]
