"""Triton kernels of tree attention: nodes into rows and back, and the softmax numerators.

Each forward and backward, for models that cap their scores (Gemma-2), on a GPU;
stance/tree/attention_gpu.py puts them together and says what the letters in shapes are. Only
imported where Triton is installed, which PyTorch for CUDA brings along. The prefix and each row
have a multiple of 16 nodes (stance/tree/prefix_tree.py).

Shapes in docstrings are those of whole tensors, of which a program of a kernel handles a block.
Parameters of kernels have no annotations: Triton takes them from the arguments, except constants.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

# Rows and columns of the scores that a program holds at a time.
BLOCK_ROWS, BLOCK_COLUMNS = 16, 128
# Nodes that a program moves: all of the prefix, or all of one row.
BLOCK_NODES = 16
# Parameters for which kernels are not specialised: Triton compiles a kernel anew for sizes that are
# 1 or multiples of 16, which may not happen while a step is recorded.
SCORE_SIZES = ["rows", "columns_16", "mask_matrices", "mask_rows"]
TREE_SIZES = ["prefix", "rows", "length"]


@triton.jit
def load_tile(
    scores, mask, rows, columns, mask_matrices, mask_rows, start, BLOCK_ROWS, BLOCK_COLUMNS
):
    """Return four things of a tile of scores [B, M, T], each [BLOCK_ROWS, BLOCK_COLUMNS].

    Its offsets, which of it lies inside, its scores in float32, and what of it is visible.
    """
    matrix = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = start + tl.arange(0, BLOCK_COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    offset = (matrix * rows + row).to(tl.int64)[:, None] * columns + column[None, :]
    mask_row = (matrix % mask_matrices * mask_rows + row % mask_rows).to(tl.int64)
    seen = mask_row[:, None] * columns + column[None, :]
    score = tl.load(scores + offset, mask=inside, other=0.0).to(tl.float32)
    return offset, inside, score, tl.load(mask + seen, mask=inside, other=0) != 0


@triton.jit
def cap(score, RATE: tl.constexpr):
    """Return tanh(score * RATE); Triton's own takes three times as long."""
    return 1.0 - 2.0 / (tl.exp(2.0 * RATE * score) + 1.0)


@triton.jit(do_not_specialize=SCORE_SIZES)
def exponentiate_forward(
    scores, mask, weights, sums, rows, columns_16, mask_matrices, mask_rows,
    RATE: tl.constexpr, SOFTCAP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write softmax numerators [B, M, T] into weights, and their sums [B, M], of scores [B, M, T].

    SOFTCAP: the bound of the scaled scores; RATE: scaling / SOFTCAP.
    """
    columns = columns_16 * 16  # tells the compiler that lines of scores are aligned
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    for start in range(0, columns, BLOCK_COLUMNS):
        offset, inside, score, visible = load_tile(
            scores, mask, rows, columns, mask_matrices, mask_rows, start, BLOCK_ROWS, BLOCK_COLUMNS
        )
        weight = tl.where(visible, tl.exp(SOFTCAP * cap(score, RATE)), 0.0)
        total += tl.sum(weight, 1)
        tl.store(weights + offset, weight.to(weights.dtype.element_ty), mask=inside)
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    tl.store(sums + tl.program_id(1) * rows + row, total, mask=row < rows)


@triton.jit(do_not_specialize=SCORE_SIZES)
def exponentiate_backward(
    scores, mask, grads, grad_sums, rows, columns_16, mask_matrices, mask_rows,
    RATE: tl.constexpr, SOFTCAP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Turn the gradients of the weights [B, M, T], in grads, into those of the scores, in place.

    grad_sums [B, M]: the gradients of the sums of the weights.
    """
    columns = columns_16 * 16
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    grad_sum = tl.load(grad_sums + tl.program_id(1) * rows + row, mask=row < rows, other=0.0)
    for start in range(0, columns, BLOCK_COLUMNS):
        offset, inside, score, visible = load_tile(
            scores, mask, rows, columns, mask_matrices, mask_rows, start, BLOCK_ROWS, BLOCK_COLUMNS
        )
        capped = cap(score, RATE)
        grad = tl.load(grads + offset, mask=inside, other=0.0).to(tl.float32) + grad_sum[:, None]
        grad *= tl.exp(SOFTCAP * capped) * (1.0 - capped * capped) * (SOFTCAP * RATE)
        tl.store(
            grads + offset, tl.where(visible, grad, 0.0).to(grads.dtype.element_ty), mask=inside
        )


@triton.jit
def place_block(
    prefix, rows, length, HEADS: tl.constexpr, GROUPS: tl.constexpr, BLOCK_NODES: tl.constexpr
):
    """Return where a program's block of nodes is, as three things.

    The offsets of its nodes in [N, H], whether they are of the prefix, and their lines: of the
    vectors that split_forward writes to prefix_part or row_part.
    """
    first, head = tl.program_id(0) * BLOCK_NODES, tl.program_id(1)
    number = tl.arange(0, BLOCK_NODES)
    members: tl.constexpr = HEADS // GROUPS
    group, member = head // members, head % members
    row, start = (first - prefix) // length, (first - prefix) % length
    in_prefix = first < prefix
    of_prefix = head * prefix + first
    of_rows = ((group * rows + row) * members + member) * length + start
    line = tl.where(in_prefix, of_prefix, of_rows) + number
    return ((first + number) * HEADS + head).to(tl.int64), in_prefix, line.to(tl.int64)


@triton.jit
def swap_halves(column, SIZE: tl.constexpr):
    """Return the offset of the other element of the pair that rotary embeddings turn together."""
    return (column + SIZE // 2) % SIZE


@triton.jit(do_not_specialize=TREE_SIZES)
def split_forward(
    nodes, cosine, sine, prefix_part, row_part, prefix, rows, length,
    ROTATE: tl.constexpr, HEADS: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_NODES: tl.constexpr,
):  # fmt: skip
    """Write nodes [N, H, D] into prefix_part [G, M * T, D] and row_part [G * R, M * L, D].

    HEADS and GROUPS: H and G; of queries M = H/G, of keys and values M = 1; SIZE: D. ROTATE: turn
    the vectors by the rotary embedding, of cosine and sine [N, D], first.
    """
    node, in_prefix, line = place_block(prefix, rows, length, HEADS, GROUPS, BLOCK_NODES)
    column = tl.arange(0, SIZE)[None, :]
    value = tl.load(nodes + node[:, None] * SIZE + column).to(tl.float32)
    if ROTATE:
        other = tl.load(nodes + node[:, None] * SIZE + swap_halves(column, SIZE)).to(tl.float32)
        angle = (node // HEADS)[:, None] * SIZE + column
        other = tl.where(column < SIZE // 2, -other, other)
        value = value * tl.load(cosine + angle).to(tl.float32) + other * tl.load(sine + angle).to(
            tl.float32
        )
    offset = line[:, None] * SIZE + column
    if in_prefix:
        tl.store(prefix_part + offset, value.to(prefix_part.dtype.element_ty))
    else:
        tl.store(row_part + offset, value.to(row_part.dtype.element_ty))


@triton.jit(do_not_specialize=TREE_SIZES)
def split_backward(
    grad_nodes, cosine, sine, grad_prefix, grad_row, prefix, rows, length,
    ROTATE: tl.constexpr, HEADS: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_NODES: tl.constexpr,
):  # fmt: skip
    """Write the gradients of split_forward's nodes [N, H, D] from those of its two parts."""
    node, in_prefix, line = place_block(prefix, rows, length, HEADS, GROUPS, BLOCK_NODES)
    column = tl.arange(0, SIZE)[None, :]
    offset = line[:, None] * SIZE + column
    swapped = line[:, None] * SIZE + swap_halves(column, SIZE)
    if in_prefix:
        grad, other = tl.load(grad_prefix + offset), tl.load(grad_prefix + swapped)
    else:
        grad, other = tl.load(grad_row + offset), tl.load(grad_row + swapped)
    grad, other = grad.to(tl.float32), other.to(tl.float32)
    if ROTATE:
        angle = (node // HEADS)[:, None] * SIZE
        other *= tl.load(sine + angle + swap_halves(column, SIZE)).to(tl.float32)
        grad = grad * tl.load(cosine + angle + column).to(tl.float32) + tl.where(
            column < SIZE // 2, other, -other
        )
    tl.store(grad_nodes + node[:, None] * SIZE + column, grad.to(grad_nodes.dtype.element_ty))


@triton.jit
def load_sums(in_prefix, line, prefix_sum, row_sum, other_sum):
    """Return the softmax denominators of a block of nodes; those of rows are two sums."""
    if in_prefix:
        total = tl.load(prefix_sum + line)
    else:
        total = tl.load(row_sum + line) + tl.load(other_sum + line)
    return total


@triton.jit(do_not_specialize=TREE_SIZES)
def join_forward(
    prefix_part, row_part, prefix_sum, row_sum, other_sum, nodes, prefix, rows, length,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr, BLOCK_NODES: tl.constexpr,
):  # fmt: skip
    """Write into nodes [N, H, D] prefix_part and row_part, divided by the sums of their weights.

    The parts are laid out as those that split_forward writes; sums have a number for each vector.
    """
    node, in_prefix, line = place_block(prefix, rows, length, HEADS, GROUPS, BLOCK_NODES)
    column = tl.arange(0, SIZE)[None, :]
    if in_prefix:
        value = tl.load(prefix_part + line[:, None] * SIZE + column).to(tl.float32)
    else:
        value = tl.load(row_part + line[:, None] * SIZE + column).to(tl.float32)
    value /= load_sums(in_prefix, line, prefix_sum, row_sum, other_sum)[:, None]
    tl.store(nodes + node[:, None] * SIZE + column, value.to(nodes.dtype.element_ty))


@triton.jit(do_not_specialize=TREE_SIZES)
def join_backward(
    grad_nodes, nodes, prefix_sum, row_sum, other_sum,
    grad_prefix, grad_row, grad_prefix_sum, grad_row_sum, prefix, rows, length,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr, BLOCK_NODES: tl.constexpr,
):  # fmt: skip
    """Write the gradients of join_forward's two parts and of their sums.

    grad_nodes, nodes: the gradients of what join_forward wrote, and what it wrote. Of nodes in rows
    one gradient is that of both sums.
    """
    node, in_prefix, line = place_block(prefix, rows, length, HEADS, GROUPS, BLOCK_NODES)
    column = tl.arange(0, SIZE)[None, :]
    grad = tl.load(grad_nodes + node[:, None] * SIZE + column).to(tl.float32)
    value = tl.load(nodes + node[:, None] * SIZE + column).to(tl.float32)
    total = load_sums(in_prefix, line, prefix_sum, row_sum, other_sum)
    grad_sum = -tl.sum(grad * value, 1) / total
    grad /= total[:, None]
    offset = line[:, None] * SIZE + column
    if in_prefix:
        tl.store(grad_prefix + offset, grad.to(grad_prefix.dtype.element_ty))
        tl.store(grad_prefix_sum + line, grad_sum)
    else:
        tl.store(grad_row + offset, grad.to(grad_row.dtype.element_ty))
        tl.store(grad_row_sum + line, grad_sum)


def launch_scores(
    kernel: triton.runtime.JITFunction,
    tensors: Sequence[torch.Tensor],
    scaling: float,
    softcap: float,
) -> None:
    """Run a kernel over all scores [B, M, T] under their mask [B', M', T].

    tensors: those that the kernel takes, scores first, mask second. The matrices of the mask
    repeat, and so do their lines.
    """
    matrices, rows, columns = tensors[0].shape
    mask_matrices, mask_rows, _ = tensors[1].shape
    grid = (triton.cdiv(rows, BLOCK_ROWS), matrices)
    sizes = (rows, columns // 16, mask_matrices, mask_rows)
    kernel[grid](*tensors, *sizes, scaling / softcap, softcap, BLOCK_ROWS, BLOCK_COLUMNS)


def launch_nodes(
    kernel: triton.runtime.JITFunction,
    tensors: Sequence[torch.Tensor | None],
    nodes: torch.Tensor,
    sizes: Sequence[int],
    groups: int,
    *options: bool,
) -> None:
    """Run a kernel over all nodes [N, H, D] of a tree.

    tensors: those that the kernel takes. sizes: T, R and L. groups: G. options: ROTATE, where the
    kernel takes it.
    """
    count, heads, size = nodes.shape
    grid = (count // BLOCK_NODES, heads)
    kernel[grid](*tensors, *sizes, *options, heads, groups, size, BLOCK_NODES)
