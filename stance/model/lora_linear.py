"""4-bit linear layers and their adapters in forms that can be compiled, with few memory passes.

What an adapter adds is where the matrix product with the weight starts from, so that it is never
written and read by itself. A weight that is kept in 4-bit is unpacked by bitsandbytes for one
matrix product at a time.

In shapes, a linear layer takes I numbers and returns O, for N tokens; an adapter's matrices are
A [r, I] and B [O, r].
"""

import types
from collections.abc import Sequence

import bitsandbytes
import peft
import torch

from stance.common import errors

dequantise_4bit = torch.ops.bitsandbytes.dequantize_4bit.default
dequantise_blockwise = torch.ops.bitsandbytes.dequantize_blockwise.default
# As bitsandbytes quantises:
WEIGHT_BLOCK = 64  # weights that share a scale
SCALE_BLOCK = 256  # scales that share a scale of their own


def find_linears(model: torch.nn.Module) -> list[bitsandbytes.nn.Linear4bit]:
    """Return the 4-bit linear layers of a model."""
    return [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]


def read_weight(linear: bitsandbytes.nn.Linear4bit) -> torch.Tensor:
    """Return the weight of a 4-bit linear layer [O, I] in its compute dtype."""
    return bitsandbytes.functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state)


def packed_forward(linear: bitsandbytes.nn.Linear4bit, x: torch.Tensor) -> torch.Tensor:
    """Linear4bit.forward that can be compiled; uncompiled, that of bitsandbytes."""
    if torch.compiler.is_compiling():
        return apply_joined([linear], x)[0]
    return type(linear).forward(linear, x)


def dense_forward(linear: bitsandbytes.nn.Linear4bit, x: torch.Tensor) -> torch.Tensor:
    """Linear4bit.forward on weights dequantised once."""
    return torch.nn.functional.linear(x, linear.dense_weight, linear.bias)


def fuse_linears(model: torch.nn.Module, keep_dense: bool) -> None:
    """Give every 4-bit linear layer a forward that can be compiled.

    keep_dense: dequantise all of them now, once. Fails where check_quantisation does.
    """
    for linear in find_linears(model):
        check_quantisation(linear.weight.quant_state)
        if keep_dense:
            linear.register_buffer("dense_weight", read_weight(linear), persistent=False)
        linear.forward = types.MethodType(dense_forward if keep_dense else packed_forward, linear)


def check_quantisation(state: bitsandbytes.functional.QuantState) -> None:
    """Fail unless weights are quantised as restore unpacks them: to nf4, in these blocks."""
    scale_block = state.state2.blocksize if state.nested else SCALE_BLOCK
    blocks = [state.blocksize, scale_block]
    if state.quant_type != "nf4" or blocks != [WEIGHT_BLOCK, SCALE_BLOCK]:
        found = f"{state.quant_type} in blocks of {blocks[0]}"
        hint = "quantise to nf4 (QUANT_TYPE in stance/model/precision.py)"
        errors.fail(f"weights in {found} are not supported: {hint}")


def fuse_adapters(model: torch.nn.Module) -> None:
    """Give every LoRA layer of a PEFT model the short forward.

    Its result may differ by a rounding of bfloat16.
    """
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.forward = types.MethodType(adapted_forward, module)


def adapted_forward(layer: peft.tuners.lora.LoraLayer, x: torch.Tensor) -> torch.Tensor:
    """LoRA forward without PEFT's copies and casts.

    The base layer's output + B(scaling * A(dropout(x))).
    """
    if can_join([layer]):
        return apply_joined([layer], x)[0]
    output = layer.base_layer(x)
    if layer.disable_adapters:
        return output
    for name in layer.active_adapters:
        update = layer.lora_A[name](layer.lora_dropout[name](x))
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            output = output + layer.lora_B[name](update * layer.scaling[name])
        else:  # an uncompiled forward pass waits for the CPU, so the fewest operations
            weight = layer.lora_B[name].weight.to(output.dtype)
            output.flatten(0, -2).addmm_(update.flatten(0, -2), weight.T, alpha=layer.scaling[name])
    return output


def apply_layers(layers: Sequence[torch.nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    """Return the outputs [..., O] of linear layers that all take x [..., I]."""
    if can_join(layers):
        return apply_joined(layers, x)
    return [layer(x) for layer in layers]


def can_join(layers: Sequence[torch.nn.Module]) -> bool:
    """Return whether apply_joined may compute these layers: compiled, adapters scaled equally."""
    if not torch.compiler.is_compiling():
        return False
    if not all(has_plain_adapter(layer) for layer in layers):
        return False
    return len({layer.scaling[layer.active_adapters[0]] for layer in layers}) == 1


def has_plain_adapter(layer: torch.nn.Module) -> bool:
    """Return whether a layer is 4-bit with one active adapter, without dropout and bias."""
    if not isinstance(layer, peft.tuners.lora.LoraLayer) or layer.disable_adapters:
        return False
    if not isinstance(layer.base_layer, bitsandbytes.nn.Linear4bit):
        return False
    if len(layer.active_adapters) != 1:
        return False
    name = layer.active_adapters[0]
    return not drops_out(layer.lora_dropout[name]) and layer.lora_B[name].bias is None


def drops_out(dropout: torch.nn.Module) -> bool:
    """Return whether an adapter's dropout does anything."""
    # Without dropout, PEFT has an identity here.
    return dropout.training and getattr(dropout, "p", 0) > 0


def apply_joined(layers: Sequence[torch.nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    """Return the outputs [..., O] of 4-bit linear layers that all take x [..., I].

    Each has one adapter, or there is one layer without any.
    """
    bases = [getattr(layer, "base_layer", layer) for layer in layers]
    weights = [tensor for base in bases for tensor in list_tensors(base)]
    if isinstance(layers[0], peft.tuners.lora.LoraLayer):
        name = layers[0].active_adapters[0]
        down = torch.cat([layer.lora_A[name].weight for layer in layers]).to(x.dtype)
        ups = [layer.lora_B[name].weight.to(x.dtype) for layer in layers]
        adapters = len(layers)
        scaling = layers[0].scaling[name]
        tensors = [down, *ups, *weights]
    else:
        adapters = 0
        scaling = 0.0
        tensors = weights
    flat = x.flatten(0, -2)
    if torch.is_grad_enabled():
        outputs = JoinedProducts.apply(flat, adapters, scaling, *tensors)
    else:  # not by way of the class: the compiler loses its context for some numbers of tensors
        outputs, _ = compute_products(flat, adapters, scaling, tensors)
    pairs = zip(outputs, bases, strict=True)
    outputs = [output if base.bias is None else output + base.bias for output, base in pairs]
    return [output.unflatten(0, x.shape[:-1]) for output in outputs]


def list_tensors(linear: bitsandbytes.nn.Linear4bit) -> list[torch.Tensor]:
    """Return what restore takes for the weight of a 4-bit layer.

    The weight, if the layer keeps it dequantised; or its bytes, block scales, and what unpacks
    these, where they are quantised too.
    """
    if hasattr(linear, "dense_weight"):
        return [linear.dense_weight]
    state = linear.weight.quant_state
    tensors = [linear.weight.data, state.absmax]
    if state.nested:
        tensors += [state.offset, state.state2.absmax, state.state2.code]
    return tensors


def restore(tensors: Sequence[torch.Tensor], width: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the weight [O, I] that list_tensors listed, unpacked by bitsandbytes; width: I."""
    if len(tensors) == 1:
        return tensors[0]
    packed, scales, *nested = tensors
    if nested:
        offset, absmax, code = nested
        scales = dequantise_blockwise(scales, absmax, code, SCALE_BLOCK, torch.float32) + offset
    shape = (2 * packed.numel() // width, width)
    return dequantise_4bit(packed, scales, WEIGHT_BLOCK, "nf4", shape, dtype)


class JoinedProducts(torch.autograd.Function):
    """x W^T + scaling * x A^T B^T for one x and several frozen weights W, each with its A and B.

    x [N, I]; adapters: how many weights there are, k; tensors: the A of all, one below the other
    [k * r, I], and k B [O, r]; then what list_tensors lists for each W. With k = 0 there is one W
    and no A. Weights are unpacked again in the backward pass, not kept.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: torch.Tensor,
        adapters: int,
        scaling: float,
        *tensors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Return the products [N, O], one for each W."""
        outputs, update = compute_products(x, adapters, scaling, tensors)
        ctx.save_for_backward(x, update, *tensors)
        ctx.adapters = adapters
        ctx.scaling = scaling
        return tuple(outputs)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *grads: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        """Return a gradient for each input of forward: of x, of the A and of each B."""
        x, update, *tensors = ctx.saved_tensors
        down, ups, weights = part_tensors(ctx.adapters, tensors)
        if not ctx.adapters:
            grad_x = multiply_back(list(grads), update, list(weights), x[:0])
            return grad_x, None, None, *[None] * len(weights)
        parts = update.split([up.shape[1] for up in ups], 1)
        grad_ups = [grad.T @ part for grad, part in zip(grads, parts, strict=True)]
        grad_parts = [grad @ up for grad, up in zip(grads, ups, strict=True)]
        grad_update = ctx.scaling * torch.cat(grad_parts, 1)
        grad_x = multiply_back(list(grads), grad_update, list(weights), down)
        return grad_x, None, None, grad_update.T @ x, *grad_ups, *[None] * len(weights)


def compute_products(
    x: torch.Tensor, adapters: int, scaling: float, tensors: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return what JoinedProducts does, and the updates scaling * x A^T side by side [N, k * r]."""
    down, ups, weights = part_tensors(adapters, tensors)
    update = scaling * (x @ down.T) if adapters else x[:, :0]
    return multiply_joined(x, update, list(ups), list(weights)), update


def part_tensors(
    adapters: int, tensors: Sequence[torch.Tensor]
) -> tuple[torch.Tensor | None, Sequence[torch.Tensor], Sequence[torch.Tensor]]:
    """Return (A of all or None, the B, what list_tensors lists for each W) of JoinedProducts."""
    if not adapters:
        return None, (), tensors
    return tensors[0], tensors[1 : adapters + 1], tensors[adapters + 1 :]


# As operators of their own: the compiler would copy the first summand of a sum of matrix products,
# and keep weights. PyTorch reads their schemas from their parameters: names, order and types.
@torch.library.custom_op("linear_layers::multiply_joined", mutates_args=())
def multiply_joined(
    x: torch.Tensor, update: torch.Tensor, ups: list[torch.Tensor], weights: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Return x W_i^T + update_i B_i^T [N, O_i] for each i.

    update [N, k * r] has the update_i side by side; ups: the B_i; weights: what list_tensors lists
    for each W_i. Without ups there is one W.
    """
    if not ups:
        return [x @ restore(weights, x.shape[1], x.dtype).T]
    parts = update.split([up.shape[1] for up in ups], 1)
    outputs = [part @ up.T for part, up in zip(parts, ups, strict=True)]
    for output, tensors in zip(outputs, deal(weights, len(ups)), strict=True):
        output.addmm_(x, restore(tensors, x.shape[1], x.dtype).T)
    return outputs


@multiply_joined.register_fake
def _(x, update, ups, weights):
    if ups:
        return [x.new_empty(x.shape[0], up.shape[0]) for up in ups]
    if len(weights) == 1:
        height = weights[0].shape[0]
    else:  # packed: two weights in a byte
        height = 2 * weights[0].numel() // x.shape[1]
    return [x.new_empty(x.shape[0], height)]


@torch.library.custom_op("linear_layers::multiply_back", mutates_args=())
def multiply_back(
    grads: list[torch.Tensor],
    grad_update: torch.Tensor,
    weights: list[torch.Tensor],
    down: torch.Tensor,
) -> torch.Tensor:
    """Return the gradient of x [N, I] from those of the outputs [N, O_i] and of update [N, k * r].

    weights: what list_tensors lists for each W_i; down: the A of all, one below the other.
    """
    grad_x = grad_update @ down  # zeros without adapters
    for grad, tensors in zip(grads, deal(weights, len(grads)), strict=True):
        grad_x.addmm_(grad, restore(tensors, down.shape[1], grad.dtype))
    return grad_x


@multiply_back.register_fake
def _(grads, grad_update, weights, down):
    return grad_update.new_empty(grad_update.shape[0], down.shape[1])


def deal(tensors: list[torch.Tensor], count: int) -> list[list[torch.Tensor]]:
    """Return the tensors in so many equal parts."""
    size = len(tensors) // count
    return [tensors[start : start + size] for start in range(0, len(tensors), size)]
