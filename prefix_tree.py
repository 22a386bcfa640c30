"""One prefix tree for training, scoring and predicting: shared prompt text is computed once per batch.

A batch's token sequences are merged into a tree, laid out depth first as one row of N nodes. Node kv is visible to
node q iff kv <= q < end[kv] (end: one past the last node of kv's subtree), and a node's position id is its depth.
Causal hidden states of a shared prefix are equal in every sequence, so outputs and gradients equal those of the
flat batch.
"""

import contextlib
from typing import NamedTuple

import torch

# ---------------------------------------------------------------- settings
PAD_MULTIPLE = 128  # nodes; flex_attention works on blocks of 128, and few distinct lengths mean few recompilations
# --------------------------------------------------------------------------


class PrefixTree(NamedTuple):
    """Token sequences merged by common prefix. N nodes in depth-first order."""

    ids: list  # N token ids
    depth: list  # N depths; the root token has depth 0
    end: list  # N subtree ends: node i's descendants are i+1 .. end[i]-1
    nodes: list  # for each sequence, in the order given, the node of each of its tokens


def merge_prefixes(sequences):
    """Merge token sequences (non-empty lists of int) into a PrefixTree."""
    ids, depth, end, path, previous = [], [], [], [], []
    nodes = [None] * len(sequences)
    for index in sorted(range(len(sequences)), key=sequences.__getitem__):  # sorted: equal prefixes are neighbours
        sequence = sequences[index]
        shared = 0
        while shared < len(previous) and shared < len(sequence) and previous[shared] == sequence[shared]:
            shared += 1
        for node in path[shared:]:
            end[node] = len(ids)
        del path[shared:]
        for token in sequence[shared:]:
            path.append(len(ids))
            depth.append(len(path) - 1)
            ids.append(token)
            end.append(None)
        nodes[index] = list(path)
        previous = sequence
    for node in path:
        end[node] = len(ids)
    return PrefixTree(ids, depth, end, nodes)


def tree_inputs(tree, pad_id, multiple=1):
    """Return the tree as model inputs: input_ids and position_ids [1, N'], subtree_end [N'], longest (int).

    N' is N rounded up to a multiple. A pad node sees only itself: a row without any visible node would be NaN.
    """
    size = len(tree.ids)
    pad = -size % multiple
    return {
        "input_ids": torch.tensor([tree.ids + [pad_id] * pad]),
        "position_ids": torch.tensor([tree.depth + [0] * pad]),
        "subtree_end": torch.tensor(tree.end + list(range(size + 1, size + pad + 1))),
        "longest": max(tree.depth) + 1,
    }


def visible(depth, end, q, kv, window):
    """Whether node kv is visible to node q (index tensors); window None means no sliding window."""
    inside = (kv <= q) & (q < end[kv])
    return inside if window is None else inside & (depth[q] - depth[kv] < window)


def dense_mask(depth, end, window):
    """Return the additive float mask [1, 1, N, N] that eager attention adds to its scores.

    A bool mask would be added too, silently (modeling_gemma2.eager_attention_forward), hence the floats. bfloat16
    holds 0 and its own lowest value, and promotes to the scores' dtype without becoming -inf.
    """
    index = torch.arange(len(depth), device=depth.device)
    hidden = ~visible(depth, end, index[:, None], index[None, :], window)
    mask = torch.zeros(hidden.shape, dtype=torch.bfloat16, device=depth.device)
    return mask.masked_fill(hidden, torch.finfo(mask.dtype).min)[None, None]


def block_mask(depth, end, window):
    """Return the same mask as a flex_attention BlockMask."""
    from torch.nn.attention.flex_attention import create_block_mask

    def mask_mod(batch, head, q, kv):
        return visible(depth, end, q, kv, window)

    return create_block_mask(mask_mod, None, None, len(depth), len(depth), device=depth.device)


def tree_masks(config, inputs):
    """Return the masks of both layer types, {"full_attention": ..., "sliding_attention": ...}, as Gemma-2 takes them."""
    depth, end = inputs["position_ids"][0], inputs["subtree_end"]
    make_mask = block_mask if config._attn_implementation == "flex_attention" else dense_mask
    full = make_mask(depth, end, None)
    window = config.sliding_window
    sliding = full if inputs["longest"] <= window else make_mask(depth, end, window)
    return {"full_attention": full, "sliding_attention": sliding}


def forward_tree(model, config, inputs, keep):
    """Run a causal language model over tree inputs; return its logits [K, vocabulary] at the K nodes of keep."""
    output = model(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        attention_mask=tree_masks(config, inputs),
        logits_to_keep=keep,
        use_cache=False,
    )
    return output.logits[0]


def compute_precision(model):
    """Return the context in which a model computes: bfloat16 autocast for a bfloat16 model, as in training."""
    if model.dtype != torch.bfloat16:
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, dtype=torch.bfloat16)
