"""The softmax numerators of tree attention as two Triton kernels: one pass over the scores forward, one backward.

For models that cap their scores (Gemma-2), on a GPU; tree_attention.exponentiate_plainly is the same in tensor
operations. Only imported where Triton is installed, which PyTorch for CUDA brings along.
"""

import torch
import triton
import triton.language as tl

BLOCK_ROWS, BLOCK_COLUMNS = 16, 128  # of the scores that a program holds at a time
# Triton compiles a kernel anew for sizes that are 1 or multiples of 16, which may not happen while a step is recorded.
SIZES = ["rows", "columns_16", "mask_matrices", "mask_rows"]


@triton.jit
def load_tile(scores, mask, rows, columns, mask_matrices, mask_rows, start, BLOCK_ROWS, BLOCK_COLUMNS):
    """Return the place of a tile, which of it lies inside, its scores in float32 and what of it is visible."""
    matrix = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = start + tl.arange(0, BLOCK_COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = (matrix * rows + row).to(tl.int64)[:, None] * columns + column[None, :]
    seen = (matrix % mask_matrices * mask_rows + row % mask_rows).to(tl.int64)[:, None] * columns + column[None, :]
    score = tl.load(scores + place, mask=inside, other=0.0).to(tl.float32)
    return place, inside, score, tl.load(mask + seen, mask=inside, other=0) != 0


@triton.jit
def cap(score, RATE: tl.constexpr):
    """Return tanh(score * RATE); Triton's own takes three times as long."""
    return 1.0 - 2.0 / (tl.exp(2.0 * RATE * score) + 1.0)


@triton.jit(do_not_specialize=SIZES)
def exponentiate_forward(
    scores, mask, weights, sums, rows, columns_16, mask_matrices, mask_rows,
    RATE: tl.constexpr, SOFTCAP: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    columns = columns_16 * 16  # tells the compiler that lines of scores are aligned
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    for start in range(0, columns, BLOCK_COLUMNS):
        place, inside, score, visible = load_tile(
            scores, mask, rows, columns, mask_matrices, mask_rows, start, BLOCK_ROWS, BLOCK_COLUMNS
        )
        weight = tl.where(visible, tl.exp(SOFTCAP * cap(score, RATE)), 0.0)
        total += tl.sum(weight, 1)
        tl.store(weights + place, weight.to(weights.dtype.element_ty), mask=inside)
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    tl.store(sums + tl.program_id(1) * rows + row, total, mask=row < rows)


@triton.jit(do_not_specialize=SIZES)
def exponentiate_backward(
    scores, mask, grad_weights, grad_sums, grad_scores, rows, columns_16, mask_matrices, mask_rows,
    RATE: tl.constexpr, SOFTCAP: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    columns = columns_16 * 16
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    grad_sum = tl.load(grad_sums + tl.program_id(1) * rows + row, mask=row < rows, other=0.0)
    for start in range(0, columns, BLOCK_COLUMNS):
        place, inside, score, visible = load_tile(
            scores, mask, rows, columns, mask_matrices, mask_rows, start, BLOCK_ROWS, BLOCK_COLUMNS
        )
        capped = cap(score, RATE)
        grad = tl.load(grad_weights + place, mask=inside, other=0.0).to(tl.float32) + grad_sum[:, None]
        grad *= tl.exp(SOFTCAP * capped) * (1.0 - capped * capped) * (SOFTCAP * RATE)
        tl.store(grad_scores + place, tl.where(visible, grad, 0.0).to(grad_scores.dtype.element_ty), mask=inside)


@torch.library.custom_op("prefix_tree::exponentiate", mutates_args=(), device_types="cuda")
def exponentiate(
    scores: torch.Tensor, mask: torch.Tensor, scaling: float, softcap: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tree_attention.exponentiate's weights [B, M, T] and float32 sums [B, M, 1]; T is a multiple of 16."""
    weights, sums = allocate(scores, mask, scaling, softcap)
    launch(exponentiate_forward, (scores.contiguous(), mask.contiguous(), weights, sums), scaling, softcap)
    return weights, sums


@exponentiate.register_fake
def allocate(scores, mask, scaling, softcap):
    """Return tensors for the result of exponentiate."""
    return scores.new_empty(scores.shape), scores.new_empty((*scores.shape[:2], 1), dtype=torch.float32)


@torch.library.custom_op("prefix_tree::differentiate", mutates_args=(), device_types="cuda")
def differentiate(
    grad_weights: torch.Tensor,
    grad_sums: torch.Tensor,
    scores: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    softcap: float,
) -> torch.Tensor:
    """Return the gradient of exponentiate's scores."""
    grad_scores = scores.new_empty(scores.shape)
    tensors = [tensor.contiguous() for tensor in (scores, mask, grad_weights, grad_sums)]
    launch(exponentiate_backward, (*tensors, grad_scores), scaling, softcap)
    return grad_scores


@differentiate.register_fake
def _(grad_weights, grad_sums, scores, mask, scaling, softcap):
    return scores.new_empty(scores.shape)


def keep_for_backward(ctx, inputs, output):
    scores, mask, *ctx.constants = inputs
    ctx.save_for_backward(scores, mask)


def backward(ctx, grad_weights, grad_sums):
    return differentiate(grad_weights, grad_sums, *ctx.saved_tensors, *ctx.constants), None, None, None


exponentiate.register_autograd(backward, setup_context=keep_for_backward)


def launch(kernel, tensors, scaling, softcap):
    """Run a kernel over all scores, the first of the tensors, under the mask, the second."""
    (matrices, rows, columns), (mask_matrices, mask_rows, _) = tensors[0].shape, tensors[1].shape
    if columns % 16:
        raise ValueError(f"{columns} columns of scores: trunk and rows of a tree must have multiples of 16 nodes")
    grid = (triton.cdiv(rows, BLOCK_ROWS), matrices)
    sizes = rows, columns // 16, mask_matrices, mask_rows
    kernel[grid](*tensors, *sizes, scaling / softcap, softcap, BLOCK_ROWS, BLOCK_COLUMNS)
