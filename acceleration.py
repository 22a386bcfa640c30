"""What makes the GPU fast: NF4 layers as plain tensor operations that torch.compile fuses, and compiled layers.

The numbers stay those of bitsandbytes: dequantised weights are equal to its own, bit by bit. Nothing here is used on
a CPU.
"""

import functools
import inspect
import types

import bitsandbytes
import torch
import torch.utils.checkpoint


def dequantise_nf4(packed, code, absmax, blocksize, shape, dtype):
    """Return the weight that bitsandbytes packed: 4-bit indices into code, scaled by block.

    packed: uint8 [numel / 2, 1], first of two indices in the high bits; code: float32 [16]; absmax: float32
    [numel / blocksize]. Layout: bitsandbytes.functional.QuantState.
    """
    shifts = torch.tensor([4, 0], dtype=torch.uint8, device=packed.device)
    index = (packed.view(-1, 1) >> shifts) & 15
    return (code[index.int()].view(-1, blocksize) * absmax[:, None]).to(dtype).view(shape)


def dequantise_absmax(quantised, code, absmax, blocksize, offset):
    """Return the float32 block scales that double quantisation packed into uint8 indices into code [256]."""
    count = quantised.numel()
    values = torch.nn.functional.pad(code[quantised.int()].view(-1), (0, -count % blocksize))
    return (values.view(-1, blocksize) * absmax[:, None]).view(-1)[:count] + offset


def read_weight(linear):
    """Return the weight of a bitsandbytes Linear4bit in its compute dtype, by plain tensor operations."""
    state = linear.weight.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = dequantise_absmax(
            absmax, state.state2.code, state.state2.absmax, state.state2.blocksize, state.offset
        )
    return dequantise_nf4(linear.weight.data, state.code, absmax, state.blocksize, state.shape, state.dtype)


def packed_forward(linear, x):
    """Linear4bit.forward that dequantises inside the compiled graph."""
    return torch.nn.functional.linear(x, read_weight(linear), linear.bias)


def dense_forward(linear, x):
    """Linear4bit.forward on weights dequantised once."""
    return torch.nn.functional.linear(x, linear.dense_weight, linear.bias)


def fuse_linears(model, keep_dense):
    """Give every 4-bit linear layer a forward of plain tensor operations.

    keep_dense: dequantise once and keep bfloat16 copies (2 bytes a weight), instead of at every use.
    """
    for linear in model.modules():
        if isinstance(linear, bitsandbytes.nn.Linear4bit):
            if keep_dense:
                linear.register_buffer("dense_weight", read_weight(linear), persistent=False)
                linear.forward = types.MethodType(dense_forward, linear)
            else:
                linear.forward = types.MethodType(packed_forward, linear)


def compile_layers(model, checkpoint):
    """Compile each decoder layer; equal layers share one compilation.

    checkpoint: keep only each layer's input in training and compute the layer again in the backward pass.
    """
    torch._dynamo.config.specialize_float = True  # flex_attention cannot take its scale as a symbolic number
    for layer in model.get_decoder().layers:
        forward = inspect.unwrap(type(layer).forward)  # newer transformers wrap it in a checkpoint of their own
        forward = torch.compile(types.MethodType(forward, layer), dynamic=True, fullgraph=True)
        layer.forward = functools.partial(checkpoint_forward, forward) if checkpoint else forward


def checkpoint_forward(forward, hidden, **options):
    """Call a layer so that its activations are computed again in the backward pass."""
    if not torch.is_grad_enabled():
        return forward(hidden, **options)
    return torch.utils.checkpoint.checkpoint(forward, hidden, use_reentrant=False, **options)
