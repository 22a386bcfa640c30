"""Gemma-2's decoder layer over a prefix tree, in two parts: what mixes nodes, and what each node does by itself.

The same function as transformers' layer. Layers of one input are joined (stance/model/lora_linear.py), nodes stay before heads, as
stance/tree/attention.py wants them, and in the last layer only nodes that are asked for go through the second part.
"""

import functools
import types

from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer

from stance.model import lora_linear
from stance.tree import attention as tree_attention


def split_layers(model, compile_part):
    """Return the forward of each decoder layer of a Gemma-2 model as two functions that compile_part has seen.

    The last takes logit_positions, the nodes [K] whose output is wanted: prefix_tree.forward_tree hands them over.
    """
    model.takes_logit_positions = True
    layers = model.get_decoder().layers
    parts = [
        [compile_part(types.MethodType(part, layer)) for part in (mix_nodes, finish_nodes)]
        for layer in layers
    ]
    return [
        functools.partial(run_layer, layer, *two, layer is layers[-1])
        for layer, two in zip(layers, parts, strict=True)
    ]


def can_split(layer):
    """Return whether split_layers knows this kind of decoder layer."""
    return isinstance(layer, Gemma2DecoderLayer)


def run_layer(
    layer,
    mix,
    finish,
    last,
    hidden,
    attention_mask,
    position_embeddings,
    logit_positions=None,
    **options,
):
    """Forward of a decoder layer; hidden [1, N, X]. Without a TreeMask, as in generation, that of transformers."""
    if not isinstance(attention_mask, tree_attention.TreeMask):
        inputs = {"attention_mask": attention_mask, "position_embeddings": position_embeddings}
        return type(layer).forward(layer, hidden, **inputs, **options)
    heads = mix(hidden, position_embeddings, attention_mask)
    if last and logit_positions is not None:
        hidden, heads = hidden[:, logit_positions], heads[logit_positions]
    return finish(hidden, heads)


def mix_nodes(layer, hidden, position_embeddings, mask):
    """Return what attention gives each node [N, H * D]. Never a view, which would compile the second part again."""
    attention = layer.self_attn
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    projected = lora_linear.apply_layers(projections, layer.input_layernorm(hidden))
    query, key, value = (
        tensor.squeeze(0).unflatten(1, (-1, attention.head_dim)) for tensor in projected
    )
    softcap, angles = (
        attention.attn_logit_softcapping,
        [tensor.squeeze(0) for tensor in position_embeddings],
    )
    return tree_attention.attend_nodes(query, key, value, mask, attention.scaling, softcap, angles)


def finish_nodes(layer, hidden, heads):
    """Return the layer's output [1, N, X] for nodes with these inputs [1, N, X] and this of attention [N, H * D]."""
    mlp = layer.mlp
    hidden = hidden + layer.post_attention_layernorm(layer.self_attn.o_proj(heads[None]))
    gate, up = lora_linear.apply_layers(
        (mlp.gate_proj, mlp.up_proj), layer.pre_feedforward_layernorm(hidden)
    )
    return hidden + layer.post_feedforward_layernorm(mlp.down_proj(mlp.act_fn(gate) * up))
