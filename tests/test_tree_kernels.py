"""The Triton kernels compute what tree_attention computes by tensor operations. On a GPU alone."""

import pytest
import torch

import tree_attention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="Triton kernels need a GPU")
SCALING, SOFTCAP = 256**-0.5, 50.0


@pytest.mark.parametrize(
    "scores_shape, mask_shape, dtype",
    [
        ((8, 74, 96), (1, 37, 96), torch.float32),  # as of the trunk: lines repeat
        ((12, 64, 32), (6, 32, 32), torch.float32),  # as of rows: each matrix serves two, and lines repeat
        ((4, 40, 272), (1, 20, 272), torch.bfloat16),  # more columns than a program holds at a time
        ((2, 1, 16), (1, 1, 16), torch.bfloat16),
    ],
)
def test_kernels_equal_tensor_operations(scores_shape, mask_shape, dtype):
    torch.manual_seed(0)
    scores = (100 * torch.randn(scores_shape, device="cuda")).to(dtype).requires_grad_()
    mask = torch.rand(mask_shape, device="cuda") < 0.6
    found = tree_attention.exponentiate(scores, mask, SCALING, SOFTCAP)
    expected = tree_attention.exponentiate_plainly(scores, mask, SCALING, SOFTCAP)
    seeds = [torch.randn_like(tensor) for tensor in expected]
    pairs = [*zip(found, expected), [torch.autograd.grad(one, scores, seeds)[0] for one in (found, expected)]]
    for value, reference in pairs:
        assert value.dtype == reference.dtype
        error = (value.double() - reference.double()).norm() / reference.double().norm()
        assert error < (1e-5 if value.dtype == torch.float32 else 1e-2)


def test_torch_accepts_the_operator():
    """Its shapes for the compiler and its gradient are declared as PyTorch wants them."""
    scores = torch.randn(4, 20, 48, device="cuda", requires_grad=True)
    mask = torch.rand(2, 10, 48, device="cuda") < 0.6
    torch.library.opcheck(tree_attention.tree_kernels.exponentiate, (scores, mask, SCALING, SOFTCAP))
