"""4-bit linear layers and their adapters in forms that can be compiled, with few passes over the memory.

What an adapter adds is where the matrix product with the weight starts from, so that it is never written and read by
itself. A weight that is kept in 4-bit is unpacked by bitsandbytes for one matrix product at a time.
"""

import types

import bitsandbytes
import peft
import torch

from stance.common import errors

dequantise_4bit = torch.ops.bitsandbytes.dequantize_4bit.default
dequantise_blockwise = torch.ops.bitsandbytes.dequantize_blockwise.default
WEIGHT_BLOCK, SCALE_BLOCK = (
    64,
    256,
)  # weights, and their scales, that share a scale: as bitsandbytes quantises


def find_linears(model):
    """Return the 4-bit linear layers of a model."""
    return [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]


def read_weight(linear):
    """Return the weight of a 4-bit linear layer [O, I] in its compute dtype."""
    return bitsandbytes.functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state)


def packed_forward(linear, x):
    """Linear4bit.forward that can be compiled; uncompiled, that of bitsandbytes."""
    return (
        apply_joined([linear], x)[0]
        if torch.compiler.is_compiling()
        else type(linear).forward(linear, x)
    )


def dense_forward(linear, x):
    """Linear4bit.forward on weights dequantised once."""
    return torch.nn.functional.linear(x, linear.dense_weight, linear.bias)


def fuse_linears(model, keep_dense):
    """Give every 4-bit linear layer a forward that can be compiled; keep_dense: dequantise all of them now, once."""
    for linear in find_linears(model):
        check_quantisation(linear.weight.quant_state)
        if keep_dense:
            linear.register_buffer("dense_weight", read_weight(linear), persistent=False)
        linear.forward = types.MethodType(dense_forward if keep_dense else packed_forward, linear)


def check_quantisation(state):
    """Stop on weights that restore would unpack wrongly."""
    blocks = [state.blocksize, state.state2.blocksize if state.nested else SCALE_BLOCK]
    if state.quant_type != "nf4" or blocks != [WEIGHT_BLOCK, SCALE_BLOCK]:
        found = f"{state.quant_type} in blocks of {blocks[0]}"
        errors.fail(
            f"weights in {found} are not supported: quantise to nf4 (QUANT_TYPE in stance/model/precision.py)"
        )


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
        and all(
            isinstance(layer, peft.tuners.lora.LoraLayer) and not layer.disable_adapters
            for layer in layers
        )
        and all(isinstance(layer.base_layer, bitsandbytes.nn.Linear4bit) for layer in layers)
        and all(len(layer.active_adapters) == 1 for layer in layers)
        and not any(drops_out(layer.lora_dropout[layer.active_adapters[0]]) for layer in layers)
        and all(layer.lora_B[layer.active_adapters[0]].bias is None for layer in layers)
        and len({layer.scaling[layer.active_adapters[0]] for layer in layers}) == 1
    )


def drops_out(dropout):
    return (
        dropout.training and getattr(dropout, "p", 0) > 0
    )  # without dropout, PEFT has an identity here


def apply_joined(layers, x):
    """Return the outputs of 4-bit linear layers that all take x, with one adapter each; or of one without adapter."""
    bases = [getattr(layer, "base_layer", layer) for layer in layers]
    weights = [tensor for base in bases for tensor in list_tensors(base)]
    k, scaling, tensors = 0, 0.0, weights
    if isinstance(layers[0], peft.tuners.lora.LoraLayer):
        name = layers[0].active_adapters[0]
        down = torch.cat([layer.lora_A[name].weight for layer in layers]).to(x.dtype)
        ups = [layer.lora_B[name].weight.to(x.dtype) for layer in layers]
        k, scaling, tensors = len(layers), layers[0].scaling[name], [down, *ups, *weights]
    flat = x.flatten(0, -2)
    if torch.is_grad_enabled():
        outputs = JoinedProducts.apply(flat, k, scaling, *tensors)
    else:  # not by way of the class: the compiler loses its context for some numbers of tensors
        outputs, _ = compute_products(flat, k, scaling, tensors)
    pairs = zip(outputs, bases, strict=True)
    outputs = [output if base.bias is None else output + base.bias for output, base in pairs]
    return [output.unflatten(0, x.shape[:-1]) for output in outputs]


def list_tensors(linear):
    """Return what restore takes: the weight of a 4-bit layer, or its bytes, block scales, and what unpacks those."""
    if hasattr(linear, "dense_weight"):
        return [linear.dense_weight]
    state = linear.weight.quant_state
    nested = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
    return [linear.weight.data, state.absmax, *nested]


def restore(tensors, width, dtype):
    """Return the weight [O, I] that list_tensors listed, unpacked by bitsandbytes; width: I."""
    if len(tensors) == 1:
        return tensors[0]
    packed, scales, *nested = tensors
    if nested:
        offset, absmax, code = nested
        scales = dequantise_blockwise(scales, absmax, code, SCALE_BLOCK, torch.float32) + offset
    return dequantise_4bit(
        packed, scales, WEIGHT_BLOCK, "nf4", (2 * packed.numel() // width, width), dtype
    )


class JoinedProducts(torch.autograd.Function):
    """x W^T + scaling * x A^T B^T for several frozen weights W [O, I], each with its own A and B, and one x [N, I].

    tensors: the A of all, one below the other [k * r, I], and k B [O, r]; then what list_tensors lists for each W. With
    k = 0 there is one W and no A. Weights are unpacked again in the backward pass, not kept.
    """

    @staticmethod
    def forward(ctx, x, k, scaling, *tensors):
        outputs, update = compute_products(x, k, scaling, tensors)
        ctx.save_for_backward(x, update, *tensors)
        ctx.k, ctx.scaling = k, scaling
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *grads):
        x, update, *tensors = ctx.saved_tensors
        down, ups, weights = part_tensors(ctx.k, tensors)
        if not ctx.k:
            grad_x = multiply_back(list(grads), update, list(weights), x[:0])
            return grad_x, None, None, *[None] * len(weights)
        parts = update.split([up.shape[1] for up in ups], 1)
        grad_ups = [grad.T @ part for grad, part in zip(grads, parts, strict=True)]
        grad_update = ctx.scaling * torch.cat(
            [grad @ up for grad, up in zip(grads, ups, strict=True)], 1
        )
        grad_x = multiply_back(list(grads), grad_update, list(weights), down)
        return grad_x, None, None, grad_update.T @ x, *grad_ups, *[None] * len(weights)


def compute_products(x, k, scaling, tensors):
    """Return (what JoinedProducts returns, the updates scaling * x A^T side by side [N, k * r])."""
    down, ups, weights = part_tensors(k, tensors)
    update = scaling * (x @ down.T) if k else x[:, :0]
    return multiply_joined(x, update, list(ups), list(weights)), update


def part_tensors(k, tensors):
    """Return (down, ups, weights) of JoinedProducts' tensors."""
    return (tensors[0], tensors[1 : k + 1], tensors[k + 1 :]) if k else (None, (), tensors)


# As operators of their own: the compiler would copy the first summand of a sum of matrix products, and keep weights.
@torch.library.custom_op("linear_layers::multiply_joined", mutates_args=())
def multiply_joined(
    x: torch.Tensor, update: torch.Tensor, ups: list[torch.Tensor], weights: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Return x W_i^T + update_i B_i^T [N, O_i] for each i; update [N, k * r] has the update_i side by side."""
    if not ups:
        return [x @ restore(weights, x.shape[1], x.dtype).T]
    outputs = [
        part @ up.T
        for part, up in zip(update.split([up.shape[1] for up in ups], 1), ups, strict=True)
    ]
    for output, tensors in zip(outputs, deal(weights, len(ups)), strict=True):
        output.addmm_(x, restore(tensors, x.shape[1], x.dtype).T)
    return outputs


@multiply_joined.register_fake
def _(x, update, ups, weights):
    if not ups:
        packed, width = weights[0], x.shape[1]
        return [
            x.new_empty(
                x.shape[0], packed.shape[0] if len(weights) == 1 else 2 * packed.numel() // width
            )
        ]
    return [x.new_empty(x.shape[0], up.shape[0]) for up in ups]


@torch.library.custom_op("linear_layers::multiply_back", mutates_args=())
def multiply_back(
    grads: list[torch.Tensor],
    grad_update: torch.Tensor,
    weights: list[torch.Tensor],
    down: torch.Tensor,
) -> torch.Tensor:
    """Return the gradient of x [N, I] from those of the outputs [N, O_i] and of update [N, k * r]."""
    grad_x = grad_update @ down  # zeros without adapters
    for grad, tensors in zip(grads, deal(weights, len(grads)), strict=True):
        grad_x.addmm_(grad, restore(tensors, down.shape[1], grad.dtype))
    return grad_x


@multiply_back.register_fake
def _(grads, grad_update, weights, down):
    return grad_update.new_empty(grad_update.shape[0], down.shape[1])


def deal(tensors, count):
    """Return the tensors in so many equal parts."""
    size = len(tensors) // count
    return [tensors[start : start + size] for start in range(0, len(tensors), size)]
