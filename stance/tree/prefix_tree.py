"""One prefix tree for training, scoring and predicting: text that prompts share is computed once per batch.

A batch's token sequences are merged by common prefix and laid out as one row of N nodes: first the prefix (T nodes that
many sequences share: the instruction, the topics), then the suffixes (what each sequence has alone), packed into
R rows of L nodes. A node's position id is its depth. It attends to the prefix nodes on its path and to its own suffix,
so attention needs N x T and R x L x L scores instead of N x N.

Causal hidden states of a shared prefix are equal in every sequence, so outputs and gradients are those of the flat
batch: tests/tree/test_prefix_tree.py compares both.
"""

import contextlib
from typing import NamedTuple

import torch
import transformers

from stance.tree import attention

# ---------------------------------------------------------------- settings
FEW_SHAPES = None  # pad trees to sizes that come again, as a GPU wants, which compiles and records; None: on a GPU
PREFIX_MULTIPLE = 32  # nodes; few distinct shapes, and aligned matrix products
SMALL_MULTIPLE = 16  # nodes; row length if all suffixes fit into one row
SMALL_TREE = 896  # nodes of suffixes, up to which other row lengths are tried: a row half full counts for more there
EVEN_ROWS = 64  # rows of suffixes, from which their number is made even: half as many shapes to record in CUDA graphs
MIN_SHARED = (
    4  # sequences; a prefix that fewer share is cheaper to repeat than to score against every node
)
# --------------------------------------------------------------------------

# Architectures whose tree was compared with the flat batch, by the form in which they take masks.
MASK_BY_LAYER = ("gemma2", "qwen2", "qwen3")  # one for each type of layer
ONE_MASK = ("llama", "mistral")  # one for all layers
ATTENTION = "prefix_tree"  # name of attention.attend among transformers' attention implementations
NO_PREFIX = -1  # anchor of a node without any prefix node on its path


class PrefixTree(NamedTuple):
    """Token sequences merged by common prefix; N = T + R * L nodes, with padding."""

    ids: list  # N token ids
    depth: list  # N depths, the position ids; the first token of a sequence has depth 0
    anchor: list  # N prefix indices: the deepest prefix node on the node's path; its own index for a prefix node
    end: list  # T subtree ends: prefix node i's descendants in the prefix are i+1 .. end[i]-1
    suffix: list  # R lists of L suffix numbers; nodes with equal numbers are one suffix, a padding node's is unique
    nodes: list  # for each sequence, in the order given, the node of each of its tokens


class MaskCarrier(NamedTuple):
    """A TreeMask on its way through transformers' mask creation, which only looks at dimension and shape."""

    mask: attention.TreeMask
    ndim: int = 3  # neither padding (2) nor a finished dense mask (4)
    shape: tuple = (0,)


def merge_prefixes(sequences, pad_id, multiple=None):
    """Merge token sequences (non-empty lists of int) into a PrefixTree.

    multiple: the prefix is padded to a multiple of so many nodes (None: PREFIX_MULTIPLE, or 1 without few shapes).
    """
    few_shapes = torch.cuda.is_available() if FEW_SHAPES is None else FEW_SHAPES
    multiple = multiple or (PREFIX_MULTIPLE if few_shapes else 1)
    order = sorted(
        range(len(sequences)), key=sequences.__getitem__
    )  # equal prefixes become neighbours
    ordered = [sequences[index] for index in order]
    shared = extend_shared(list(map(len, ordered)), count_shared(ordered))
    ids, depth, end, path = [], [], [], []
    paths = {}
    for index, length in zip(order, shared):
        sequence = sequences[index]
        common = count_common([ids[node] for node in path], sequence[:length])
        close_nodes(end, path[common:], len(ids))
        del path[common:]
        for token in sequence[common:length]:
            path.append(len(ids))
            depth.append(len(path) - 1)
            ids.append(token)
            end.append(None)
        paths[index] = list(path)
    close_nodes(end, path, len(ids))
    pad = max(-len(ids) % multiple, multiple - len(ids))
    end += range(
        len(ids) + 1, len(ids) + pad + 1
    )  # a padding node sees itself: a row that sees nothing would be NaN
    ids, depth = ids + [pad_id] * pad, depth + [0] * pad
    prefix = PrefixTree(ids, depth, list(range(len(ids))), end, [], [])
    return add_suffixes(sequences, paths, prefix, pad_id, few_shapes)


def count_shared(ordered):
    """Return for each of the sorted sequences how many of its leading tokens at least MIN_SHARED sequences share."""
    if len(ordered) == 1:
        return [len(ordered[0]) - 1]  # one sequence shares nothing, but is cheapest as prefix
    width = min(MIN_SHARED, len(ordered))
    common = [count_common(first, second) for first, second in zip(ordered, ordered[1:])]
    shared = [0] * len(ordered)
    for start in range(len(ordered) - width + 1):  # sequences with a common prefix are neighbours
        length = min(common[start : start + width - 1])
        for index in range(start, start + width):
            shared[index] = max(shared[index], length)
    return shared


def extend_shared(sizes, shared):
    """Return shared with a few long sequences' heads added, so that what is left of each fits into short rows.

    One long sequence would otherwise make all rows long, whose cost is quadratic. Of many it is cheaper to do so.
    """
    longest, step = max(size - common for size, common in zip(sizes, shared)), attention.ROW_LENGTH
    for length in range(step, longest + step, step):
        extended = [max(common, size - length) for size, common in zip(sizes, shared)]
        if sum(extended) - sum(shared) <= step:
            return extended
    return shared


def count_common(first, second):
    """Return how many leading items two lists share."""
    if first == second:
        return len(first)
    return next(
        (i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second))
    )


def close_nodes(end, nodes, size):
    """Set the subtree end of prefix nodes whose last descendant has been added."""
    for node in nodes:
        end[node] = size


def add_suffixes(sequences, paths, prefix, pad_id, few_shapes):
    """Return the tree of a padded prefix and the sequences' remaining tokens, packed into rows."""
    suffixes = {index: sequence[len(paths[index]) :] for index, sequence in enumerate(sequences)}
    rows, length = pack_rows({index: len(suffix) for index, suffix in suffixes.items()}, few_shapes)
    ids, depth, anchor, numbers = list(prefix.ids), list(prefix.depth), list(prefix.anchor), []
    nodes = [list(paths[index]) for index in range(len(sequences))]
    for row in rows:
        numbers.append([])
        for index in row:
            path, suffix = paths[index], suffixes[index]
            nodes[index] += range(len(ids), len(ids) + len(suffix))
            ids += suffix
            depth += range(len(path), len(path) + len(suffix))
            anchor += [path[-1] if path else NO_PREFIX] * len(suffix)
            numbers[-1] += [index] * len(suffix)
        pad = length - len(numbers[-1])
        ids, depth, anchor = ids + [pad_id] * pad, depth + [0] * pad, anchor + [NO_PREFIX] * pad
        numbers[-1] += range(-1, -pad - 1, -1)
    return PrefixTree(ids, depth, anchor, prefix.end, numbers, nodes)


def pack_rows(sizes, few_shapes):
    """Pack suffixes, a dict of number to size, into rows of one length. Returns (rows, row length)."""
    longest, total, step = max(sizes.values()), sum(sizes.values()), attention.ROW_LENGTH
    if not few_shapes:
        lengths = range(max(longest, 1), max(longest, step) + 1)
    elif total <= step:
        lengths = [-(-max(total, 1) // SMALL_MULTIPLE) * SMALL_MULTIPLE]
    else:
        lengths = [-(-longest // step) * step]
        if lengths == [step] and total <= SMALL_TREE:
            lengths += [
                length
                for length in (step - SMALL_MULTIPLE, step + SMALL_MULTIPLE)
                if length >= longest
            ]
    rows, length = min(
        ((fill_rows(sizes, one), one) for one in lengths), key=lambda pair: len(pair[0]) * pair[1]
    )
    odd = few_shapes and len(rows) >= EVEN_ROWS and len(rows) % 2
    return rows + [[]] * odd, length


def fill_rows(sizes, length):
    """Return rows of suffix numbers, no row's suffixes longer than length together: first fit, longest suffix first."""
    rows, room = [[]], [length]
    for index in sorted(sizes, key=lambda index: (-sizes[index], index)):
        chosen = next((i for i, free in enumerate(room) if free >= sizes[index]), len(rows))
        if chosen == len(rows):
            rows.append([])
            room.append(length)
        rows[chosen].append(index)
        room[chosen] -= sizes[index]
    return rows


def tree_inputs(tree):
    """Return a tree as tensors: input_ids and position_ids [1, N], anchor [N], prefix_end [T], suffix [R, L]."""
    return {
        "input_ids": torch.tensor([tree.ids]),
        "position_ids": torch.tensor([tree.depth]),
        "anchor": torch.tensor(tree.anchor),
        "prefix_end": torch.tensor(tree.end),
        "suffix": torch.tensor(tree.suffix),
    }


def tree_mask(inputs, window=None):
    """Return the TreeMask of tree inputs; with a window, a node sees only the window - 1 tokens before it."""
    depth, end, suffix = inputs["position_ids"][0], inputs["prefix_end"], inputs["suffix"]
    anchor, prefix = inputs["anchor"][:, None], torch.arange(len(end), device=end.device)
    on_path = (prefix <= anchor) & (anchor < end)
    position = torch.arange(suffix.shape[1], device=end.device)
    in_suffix = (suffix[:, :, None] == suffix[:, None, :]) & (
        position[None, :] <= position[:, None]
    )
    if window is not None:
        row_depth = depth[len(end) :].view(suffix.shape)
        on_path &= depth[:, None] - depth[: len(end)] < window
        in_suffix &= row_depth[:, :, None] - row_depth[:, None, :] < window
    return attention.TreeMask(on_path, in_suffix)


def pass_mask(*args, attention_mask=None, **kwargs):
    """Return the TreeMask that forward_tree sent; stop a model set to tree_attention from running on ordinary masks."""
    if not isinstance(attention_mask, MaskCarrier):
        raise ValueError(
            "this model computes prefix trees: run it through forward_tree, or set eager attention"
        )
    return attention_mask.mask


transformers.AttentionInterface.register(ATTENTION, attention.attend)
transformers.AttentionMaskInterface.register(ATTENTION, pass_mask)


def make_masks(config, inputs):
    """Return the masks of tree inputs in the form that models of this config take as their attention_mask."""
    window = getattr(config, "sliding_window", None)
    if config.model_type in ONE_MASK:
        return MaskCarrier(tree_mask(inputs, window))
    return {"full_attention": tree_mask(inputs), "sliding_attention": tree_mask(inputs, window)}


def forward_tree(model, config, inputs, logits_to_keep):
    """Run a causal language model over tree inputs; return its logits [K, vocabulary] at the K nodes of logits_to_keep."""
    early = getattr(
        model, "takes_logit_positions", False
    )  # stance/model/gemma2.py: its last layer leaves the other nodes out
    output = model(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        attention_mask=make_masks(config, inputs),
        use_cache=False,
        **(
            {"logit_positions": logits_to_keep, "logits_to_keep": 0}
            if early
            else {"logits_to_keep": logits_to_keep}
        ),
    )
    return output.logits[0]


def compute_precision(model):
    """Return the context in which a model computes: bfloat16 autocast for a bfloat16 model, as in training."""
    if model.dtype != torch.bfloat16:
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, dtype=torch.bfloat16)
