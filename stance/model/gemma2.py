"""Gemma-2's decoder layer over a prefix tree: what mixes nodes, and what each node does by itself.

The same function as transformers' layer, in two parts. Layers of one input are joined
(stance/model/lora_linear.py), nodes stay before heads, as stance/tree/attention.py wants them, and
in the last layer only nodes that are asked for go through the second part.
"""

import functools
import types
from collections.abc import Callable

import torch
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer

from stance.model import lora_linear
from stance.tree import attention as tree_attention


def split_layers(
    model: torch.nn.Module, compile_part: Callable[[Callable], Callable]
) -> list[Callable]:
    """Return the forward of each decoder layer of a Gemma-2 model: two parts, each compiled.

    compile_part: returns what to call instead of a part. The last layer's forward takes
    logit_positions too, the nodes [K] whose output is wanted: prefix_tree.forward_tree hands them
    over.
    """
    model.takes_logit_positions = True
    layers = model.get_decoder().layers
    forwards = []
    for layer in layers:
        mix = compile_part(types.MethodType(mix_nodes, layer))
        finish = compile_part(types.MethodType(finish_nodes, layer))
        last = layer is layers[-1]
        forwards.append(functools.partial(run_layer, layer, mix, finish, last))
    return forwards


def can_split(layer: torch.nn.Module) -> bool:
    """Return whether split_layers knows this kind of decoder layer."""
    return isinstance(layer, Gemma2DecoderLayer)


def run_layer(
    layer: Gemma2DecoderLayer,
    mix: Callable,
    finish: Callable,
    last: bool,
    hidden: torch.Tensor,
    attention_mask: tree_attention.TreeMask | torch.Tensor | None,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    logit_positions: torch.Tensor | None = None,
    **options: object,
) -> torch.Tensor:
    """Forward of a decoder layer: hidden [1, N, X] to [1, N, X], or [1, K, X] for logit_positions.

    mix, finish: mix_nodes and finish_nodes of this layer. last: whether it is the model's last.
    Without a TreeMask, as in generation, the forward is that of transformers.
    """
    if not isinstance(attention_mask, tree_attention.TreeMask):
        inputs = {"attention_mask": attention_mask, "position_embeddings": position_embeddings}
        return type(layer).forward(layer, hidden, **inputs, **options)
    heads = mix(hidden, position_embeddings, attention_mask)
    if last and logit_positions is not None:
        hidden = hidden[:, logit_positions]
        heads = heads[logit_positions]
    return finish(hidden, heads)


def mix_nodes(
    layer: Gemma2DecoderLayer,
    hidden: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    mask: tree_attention.TreeMask,
) -> torch.Tensor:
    """Return what attention gives each node [N, H * D], of the layer's input hidden [1, N, X].

    position_embeddings: cosine and sine [1, N, D]. Never returns a view, which would compile the
    second part again.
    """
    attention = layer.self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    projected = lora_linear.apply_layers(projections, layer.input_layernorm(hidden))
    query, key, value = (
        tensor.squeeze(0).unflatten(1, (-1, attention.head_dim)) for tensor in projected
    )
    softcap = attention.attn_logit_softcapping
    angles = [tensor.squeeze(0) for tensor in position_embeddings]
    return tree_attention.attend_nodes(query, key, value, mask, attention.scaling, softcap, angles)


def finish_nodes(
    layer: Gemma2DecoderLayer, hidden: torch.Tensor, heads: torch.Tensor
) -> torch.Tensor:
    """Return the layer's output [1, N, X] of its nodes' inputs and of what mix_nodes gave them.

    hidden [1, N, X], heads [N, H * D]; nodes may have been left out of both.
    """
    mlp = layer.mlp
    hidden = hidden + layer.post_attention_layernorm(layer.self_attn.o_proj(heads[None]))
    gate, up = lora_linear.apply_layers(
        (mlp.gate_proj, mlp.up_proj), layer.pre_feedforward_layernorm(hidden)
    )
    return hidden + layer.post_feedforward_layernorm(mlp.down_proj(mlp.act_fn(gate) * up))
