"""4-bit linear layers and their adapters in forms that torch.compile can fuse, with few passes over the memory.

Dequantised weights equal those of bitsandbytes bit by bit. What an adapter adds is where the matrix product with the
weight starts from, so that it is never read nor written by itself.
"""

import logging
import types

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # asks for a package that is not needed
import bitsandbytes
import peft
import torch


def find_linears(model):
    """Return the 4-bit linear layers of a model."""
    return [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]


def dequantise_nf4(packed, code, absmax, blocksize, shape, dtype):
    """Return the weight that bitsandbytes packed: 4-bit indices into code, scaled by block.

    packed: uint8 [numel / 2, 1], first of two indices in the high bits; code: float32 [16]; absmax: float32
    [numel / blocksize]. Layout: bitsandbytes.functional.QuantState.
    """
    packed = packed.view(-1, 1)
    high = torch.arange(2, device=packed.device) == 0  # no bit operations: the compiler would keep what they return
    index = torch.where(high, packed.div(16, rounding_mode="floor"), packed % 16)
    return (code[index.int()].view(-1, blocksize) * absmax[:, None]).to(dtype).view(shape)


def dequantise_absmax(quantised, code, absmax, blocksize, offset):
    """Return the float32 block scales that double quantisation packed into uint8 indices into code [256]."""
    count = quantised.numel()
    values = torch.nn.functional.pad(code[quantised.int()].view(-1), (0, -count % blocksize))
    return (values.view(-1, blocksize) * absmax[:, None]).view(-1)[:count] + offset


def read_weight(linear):
    """Return the weight of a bitsandbytes Linear4bit in its compute dtype, by plain tensor operations."""
    state, absmax = linear.weight.quant_state, linear.weight.quant_state.absmax
    if state.nested:
        second = state.state2
        absmax = dequantise_absmax(absmax, second.code, second.absmax, second.blocksize, state.offset)
    return dequantise_nf4(linear.weight.data, state.code, absmax, state.blocksize, state.shape, state.dtype)


def packed_forward(linear, x):
    """Linear4bit.forward that dequantises inside a compiled graph; outside of one, that of bitsandbytes."""
    if not torch.compiler.is_compiling():
        return type(linear).forward(linear, x)
    return torch.nn.functional.linear(x, read_weight(linear), linear.bias)


def dense_forward(linear, x):
    """Linear4bit.forward on weights dequantised once."""
    return torch.nn.functional.linear(x, linear.dense_weight, linear.bias)


def fuse_linears(model, keep_dense):
    """Give every 4-bit linear layer a forward that can be compiled; keep_dense: dequantise all of them now, once."""
    for linear in find_linears(model):
        if keep_dense:
            linear.register_buffer("dense_weight", read_weight(linear), persistent=False)
        linear.forward = types.MethodType(dense_forward if keep_dense else packed_forward, linear)


def fuse_adapters(model):
    """Give every LoRA layer of a PEFT model the short forward; its result may differ by a rounding of bfloat16."""
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.forward = types.MethodType(adapted_forward, module)


def adapted_forward(layer, x):
    """LoRA forward without PEFT's copies and casts: the base layer's output + B(scaling * A(dropout(x)))."""
    if can_join([layer]):
        return apply_joined([layer], x)[0]
    output = layer.base_layer(x)
    if layer.disable_adapters:
        return output
    for name in layer.active_adapters:
        update = layer.lora_A[name](layer.lora_dropout[name](x))
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            output = output + layer.lora_B[name](update * layer.scaling[name])
        else:  # uncompiled answers wait for the CPU, so the fewest operations
            weight = layer.lora_B[name].weight.to(output.dtype)
            output.flatten(0, -2).addmm_(update.flatten(0, -2), weight.T, alpha=layer.scaling[name])
    return output


def apply_layers(layers, x):
    """Return the outputs of linear layers that all take x."""
    return apply_joined(layers, x) if can_join(layers) else [layer(x) for layer in layers]


def can_join(layers):
    """Return whether layers are being compiled that have one adapter each, without dropout and equally scaled."""
    return (
        torch.compiler.is_compiling()
        and all(isinstance(layer, peft.tuners.lora.LoraLayer) and not layer.disable_adapters for layer in layers)
        and all(isinstance(layer.base_layer, bitsandbytes.nn.Linear4bit) for layer in layers)
        and all(len(layer.active_adapters) == 1 for layer in layers)
        and not any(drops_out(layer.lora_dropout[layer.active_adapters[0]]) for layer in layers)
        and len({layer.scaling[layer.active_adapters[0]] for layer in layers}) == 1
    )


def drops_out(dropout):
    return dropout.training and getattr(dropout, "p", 0) > 0  # without dropout, PEFT has an identity here


def apply_joined(layers, x):
    """Return the outputs of 4-bit linear layers with one adapter each that all take x."""
    name, bases = layers[0].active_adapters[0], [layer.base_layer for layer in layers]
    down = torch.cat([layer.lora_A[name].weight for layer in layers]).to(x.dtype)
    ups = [layer.lora_B[name].weight.to(x.dtype) for layer in layers]
    weights = [base.dense_weight if hasattr(base, "dense_weight") else read_weight(base) for base in bases]
    outputs = AdaptedProducts.apply(x.flatten(0, -2), down, layers[0].scaling[name], *weights, *ups)
    pairs = zip(outputs, bases, strict=True)
    outputs = [output if base.bias is None else output + base.bias for output, base in pairs]
    return [output.unflatten(0, x.shape[:-1]) for output in outputs]


class AdaptedProducts(torch.autograd.Function):
    """x W^T + scaling * x A^T B^T for several frozen weights W [O, I], each with its own A and B, and one x [N, I].

    down: the A of all, one below the other [k * r, I]; matrices: the k W, then the k B [O, r].
    """

    @staticmethod
    def forward(ctx, x, down, scaling, *matrices):
        count = len(matrices) // 2
        update = scaling * (x @ down.T)
        ctx.save_for_backward(x, down, update, *matrices)
        ctx.scaling = scaling
        return tuple(multiply_adapted(x, update, list(matrices[:count]), list(matrices[count:])))

    @staticmethod
    def backward(ctx, *grads):
        x, down, update, *matrices = ctx.saved_tensors
        weights, ups = matrices[: len(grads)], matrices[len(grads) :]
        ranks = [up.shape[1] for up in ups]
        parts = update.split(ranks, 1)
        grad_ups = [grad.T @ part for grad, part in zip(grads, parts, strict=True)]
        grad_update = ctx.scaling * torch.cat([grad @ up for grad, up in zip(grads, ups, strict=True)], 1)
        grad_x = multiply_back(list(grads), grad_update, weights, down)
        return grad_x, grad_update.T @ x, None, *[None] * len(weights), *grad_ups


# As operators of their own, because the compiler would copy the first summand of a sum of matrix products.
@torch.library.custom_op("linear_layers::multiply_adapted", mutates_args=())
def multiply_adapted(
    x: torch.Tensor, update: torch.Tensor, weights: list[torch.Tensor], ups: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Return update_i B_i^T + x W_i^T [N, O_i] for each i; update [N, k * r] has the update_i side by side."""
    parts = update.split([up.shape[1] for up in ups], 1)
    return [(part @ up.T).addmm_(x, weight.T) for part, up, weight in zip(parts, ups, weights, strict=True)]


@multiply_adapted.register_fake
def _(x, update, weights, ups):
    return [x.new_empty(x.shape[0], weight.shape[0]) for weight in weights]


@torch.library.custom_op("linear_layers::multiply_back", mutates_args=())
def multiply_back(
    grads: list[torch.Tensor], grad_update: torch.Tensor, weights: list[torch.Tensor], down: torch.Tensor
) -> torch.Tensor:
    """Return the gradient of x [N, I] from those of the outputs [N, O_i] and of the update [N, k * r]."""
    grad_x = grad_update @ down
    for grad, weight in zip(grads, weights, strict=True):
        grad_x.addmm_(grad, weight)
    return grad_x


@multiply_back.register_fake
def _(grads, grad_update, weights, down):
    return grad_update.new_empty(grad_update.shape[0], down.shape[1])
