"""Attention by Triton kernels is that by tensor operations, and the kernels compile for other GPUs."""

import random

import pytest
import torch
from transformers.models.gemma2.modeling_gemma2 import apply_rotary_pos_emb

from stance.tree import attention, prefix_tree

SCALING, SOFTCAP = 32**-0.5, 20.0
SIZES = ("prefix", "rows", "length", "columns_16", "mask_matrices", "mask_rows")


def make_case(sentences, heads, groups, rotated, dtype):
    """Return (query, key, value, angles, mask) of a tree of so many sentences, on the GPU."""
    rng, generator = random.Random(sentences), torch.Generator("cuda").manual_seed(sentences)
    draw = lambda *shape: 3 * torch.randn(shape, generator=generator, device="cuda")  # noqa: E731
    head = [1, 2, 3] * 12
    rows = [
        [*head, 4 + i % 2, *rng.choices(range(6, 60), k=rng.randint(4, 40))]
        for i in range(sentences)
    ]
    inputs = prefix_tree.tree_inputs(prefix_tree.merge_prefixes(rows, 0))
    mask = prefix_tree.tree_mask({name: tensor.cuda() for name, tensor in inputs.items()})
    count = inputs["input_ids"].numel()
    tensors = [draw(count, many, 32).to(dtype).requires_grad_() for many in (heads, groups, groups)]
    half = draw(count, 16)
    angles = [torch.cat([one, one], 1).to(dtype) for one in (half.cos(), half.sin())]
    return *tensors, angles if rotated else None, mask


@pytest.mark.gpu
@pytest.mark.parametrize(
    "sentences, heads, groups, rotated, dtype",
    [
        (9, 4, 2, True, torch.float32),
        (1, 4, 2, True, torch.float32),
        (30, 4, 4, False, torch.float32),  # several rows of the tree
        (60, 8, 2, True, torch.bfloat16),
    ],
)
def test_kernels_equal_tensor_operations(sentences, heads, groups, rotated, dtype):
    query, key, value, angles, mask = make_case(sentences, heads, groups, rotated, dtype)
    found = attention.attend_nodes(query, key, value, mask, SCALING, SOFTCAP, angles)
    turned = apply_rotary_pos_emb(query, key, *angles) if rotated else (query, key)
    expected = attention.attend_plainly(*turned, value, mask, SCALING, SOFTCAP)
    assert "KernelAttention" in type(found.grad_fn).__name__
    seed = torch.randn_like(expected)
    pairs = [[found, expected]]
    pairs += zip(
        *(torch.autograd.grad(one, (query, key, value), seed) for one in (found, expected)),
        strict=True,
    )
    for result, reference in pairs:
        assert result.dtype == reference.dtype
        error = (result.double() - reference.double()).norm() / reference.double().norm()
        assert error < (1e-5 if dtype == torch.float32 else 5e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("rotated", [True, False])
def test_torch_accepts_the_operators(rotated):
    """Their shapes for the compiler are declared as PyTorch wants them, and they change none of their inputs."""
    query, key, value, angles, mask = make_case(9, 4, 2, rotated, torch.float32)
    operators, angles = attention.attention_gpu, angles or (None, None)
    nodes = [tensor.detach() for tensor in (query, key, value)]
    constants = (*angles, mask.prefix, mask.row, SCALING, SOFTCAP)
    torch.library.opcheck(operators.attend_forward, (*nodes, *constants))
    tensors = operators.attend_forward(*nodes, *constants)
    torch.library.opcheck(
        operators.attend_backward, (torch.randn_like(tensors[0]), tensors, *constants)
    )


@pytest.mark.parametrize(
    "capability", [80, 86, 89, 90, 120], ids=["A100", "RTX 30", "RTX 40", "H100", "RTX 50"]
)
@pytest.mark.parametrize("name", ["exponentiate", "split", "join"])
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_kernels_compile_for_a_card_that_is_not_here(name, way, capability):
    """Triton compiles without a GPU; lines are known to be aligned, so that 16 bytes are read at a time."""
    pytest.importorskip("triton", reason="Triton is not installed, as with PyTorch for CPUs")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from stance.tree import kernels

    kernel = getattr(kernels, f"{name}_{way}")
    constants = {
        "RATE": SCALING / SOFTCAP,
        "SOFTCAP": SOFTCAP,
        "ROTATE": True,
        "HEADS": 16,
        "GROUPS": 8,
        "SIZE": 256,
    }
    constants |= {
        size: getattr(kernels, size) for size in ("BLOCK_ROWS", "BLOCK_COLUMNS", "BLOCK_NODES")
    }
    constants = {word: value for word, value in constants.items() if word in kernel.arg_names}
    kinds = {"mask": "*i1", **dict.fromkeys(constants, "constexpr")}
    kinds |= {word: "*fp32" for word in kernel.arg_names if "sum" in word} | dict.fromkeys(
        SIZES, "i32"
    )
    signature = {word: kinds.get(word, "*bf16") for word in kernel.arg_names}
    places = {word: (place,) for place, word in enumerate(kernel.arg_names)}
    aligned = {
        places[word]: [["tt.divisibility", 16]]
        for word, kind in signature.items()
        if kind.startswith("*")
    }
    source = ASTSource(
        kernel, signature, {places[word]: value for word, value in constants.items()}, aligned
    )
    built = compile(source, target=GPUTarget("cuda", capability, 32))
    assert built.metadata.shared < 99 * 1024  # bytes: what a block of threads has on an RTX 4090
    assert "ld.global.v4" in built.asm["ptx"] and "ld.global.b16" not in built.asm["ptx"]
