"""The Triton kernels compute what tree_attention computes by tensor operations, and compile for other GPUs."""

import pytest
import torch

import tree_attention

SCALING, SOFTCAP = 256**-0.5, 50.0
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="to run, Triton kernels need a GPU")


@on_gpu
@pytest.mark.parametrize(
    "scores_shape, mask_shape, dtype",
    [
        ((8, 74, 96), (1, 37, 96), torch.float32),  # of the trunk: lines repeat
        ((12, 64, 32), (6, 32, 32), torch.float32),  # of rows: matrices repeat, and lines
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


@on_gpu
def test_torch_accepts_the_operator():
    """Its shapes for the compiler and its gradient are declared as PyTorch wants them."""
    scores = torch.randn(4, 20, 48, device="cuda", requires_grad=True)
    mask = torch.rand(2, 10, 48, device="cuda") < 0.6
    torch.library.opcheck(tree_attention.tree_kernels.exponentiate, (scores, mask, SCALING, SOFTCAP))


@pytest.mark.parametrize("capability", [80, 86, 89, 90, 120], ids=["A100", "RTX 30", "RTX 40", "H100", "RTX 50"])
@pytest.mark.parametrize("name", ["exponentiate_forward", "exponentiate_backward"])
def test_kernels_compile_for_a_card_that_is_not_here(name, capability):
    """Triton compiles without a GPU; lines of scores are known to be aligned, so 16 bytes are read at a time."""
    pytest.importorskip("triton", reason="Triton is not installed, as with PyTorch for CPUs")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kernel, constants = getattr(tree_attention.tree_kernels, name), {"RATE": SCALING / SOFTCAP, "SOFTCAP": SOFTCAP}
    constants |= {size: getattr(tree_attention.tree_kernels, size) for size in ("BLOCK_ROWS", "BLOCK_COLUMNS")}
    kinds = {"mask": "*i1", "sums": "*fp32", "grad_sums": "*fp32", **dict.fromkeys(constants, "constexpr")}
    kinds |= dict.fromkeys(tree_attention.tree_kernels.SIZES, "i32")
    signature = {word: kinds.get(word, "*bf16") for word in kernel.arg_names}
    places = {word: (place,) for place, word in enumerate(kernel.arg_names)}
    aligned = {places[word]: [["tt.divisibility", 16]] for word, kind in signature.items() if kind.startswith("*")}
    source = ASTSource(kernel, signature, {places[word]: value for word, value in constants.items()}, aligned)
    built = compile(source, target=GPUTarget("cuda", capability, 32))
    assert built.metadata.shared < 99 * 1024  # bytes: what a block of threads has on an RTX 4090
    assert "ld.global.v4" in built.asm["ptx"] and "ld.global.b16" not in built.asm["ptx"]
