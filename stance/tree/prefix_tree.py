"""One prefix tree for training, scoring and predicting: shared text is computed once per batch.

A batch's token sequences are merged by common prefix and laid out as one row of N nodes: first the
shared prefix (T nodes that many sequences share: the instruction, the topics), then the suffixes
(what each sequence has alone), packed into R rows of L nodes. A node's position id is its depth. It
attends to the prefix nodes on its path and to its own suffix, so attention needs N x T and
R x L x L scores instead of N x N. A suffix may end in branches, which do not see each other: the
labels of a prompt, where they are several tokens long.

Causal hidden states of a shared prefix are equal in every sequence, so outputs and gradients are
those of the flat batch: tests/tree/test_prefix_tree.py compares both.
"""

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import torch
import transformers

from stance.tree import attention

# ---------------------------------------------------------------- settings
# Pad trees to sizes that come again, as a GPU wants, which compiles and records; None: on a GPU.
FEW_SHAPES = None
PREFIX_MULTIPLE = 32  # nodes; few distinct shapes, and aligned matrix products
SMALL_MULTIPLE = 16  # nodes; row length of a few short suffixes
# Nodes of suffixes, up to which other row lengths are tried: a row half full counts for more there.
SMALL_TREE = 896
# Rows, from which their number is made even: half as many shapes to record in CUDA graphs.
EVEN_ROWS = 64
# Sequences; a prefix that fewer share is cheaper to repeat than to score against every node.
MIN_SHARED = 4
# --------------------------------------------------------------------------

# Architectures whose tree was compared with the flat batch, by the form in which they take masks.
MASK_BY_LAYER = ("gemma2", "qwen2", "qwen3")  # one for each type of layer
ONE_MASK = ("llama", "mistral")  # one for all layers
ATTENTION = "prefix_tree"  # name of attention.attend among transformers' attention implementations
NO_PREFIX = -1  # anchor of a node without any prefix node on its path


class PrefixTree(NamedTuple):
    """Token sequences merged by common prefix; N = T + R * L nodes, with padding."""

    # N token ids
    ids: list[int]
    # N depths, the position ids; the first token of a sequence has depth 0
    depth: list[int]
    # N prefix indices: the deepest prefix node on a node's path; of a prefix node, its own index
    anchor: list[int]
    # T subtree ends: the descendants in the prefix of its node i are i + 1 .. end[i] - 1
    end: list[int]
    # R lists of L suffix numbers: nodes with equal ones are one suffix, a padding node's is unique
    suffix: list[list[int]]
    # for each sequence, in the order given, the node of each of its tokens
    nodes: list[list[int]]
    # for each sequence, for each of its branches, the node of each of its tokens
    branches: list[list[list[int]]]
    # R lists of L subtree ends: in its row, the descendants of place i in its suffix are i + 1 ..
    # branch_end[i] - 1; None where no suffix has several branches, so that all after it are its
    # descendants
    branch_end: list[list[int]] | None


class MergedHeads(NamedTuple):
    """Token sequences merged by common beginnings, without padding; merge_heads makes it.

    Each node comes before its descendants, and these follow it without a gap.
    """

    # token ids
    ids: list[int]
    # depths; the first token of a sequence has depth 0
    depth: list[int]
    # subtree ends: the descendants of node i are i + 1 .. end[i] - 1
    end: list[int]
    # for each sequence, in the order given, the node of each of its tokens
    paths: list[list[int]]


class Suffix(NamedTuple):
    """What a sequence has alone, and its branches: the nodes of a row that see each other."""

    # token ids
    ids: list[int]
    # depths, in the whole tree
    depth: list[int]
    # subtree ends, in the suffix
    end: list[int]
    # nodes that are the sequence's own: the first ones
    own: int
    # for each branch, the nodes of its tokens in the suffix
    branches: list[list[int]]


class MaskCarrier(NamedTuple):
    """A TreeMask on its way through transformers' mask creation, which looks at ndim and shape."""

    mask: attention.TreeMask
    ndim: int = 3  # neither padding (2) nor a finished dense mask (4)
    shape: tuple = (0,)


def merge_prefixes(
    sequences: list[list[int]],
    pad_id: int,
    multiple: int | None = None,
    branches: list[list[list[int]]] | None = None,
) -> PrefixTree:
    """Merge token sequences (non-empty lists of int) into a PrefixTree.

    pad_id: the token of padding nodes. multiple: the prefix is padded to a multiple of so many
    nodes (None: PREFIX_MULTIPLE, or 1 without few shapes). branches: for each sequence, the token
    lists that go on from its end, each as if it were alone (None: there are none).
    """
    few_shapes = has_few_shapes()
    if not multiple:
        multiple = PREFIX_MULTIPLE if few_shapes else 1
    forks = []
    for lists in branches or [[]] * len(sequences):
        forks.append(merge_heads(lists, sort_indices(lists)))
    # Sorted, sequences with a common prefix are neighbours.
    order = sort_indices(sequences)
    sizes = [len(sequences[index]) + len(forks[index].ids) for index in order]
    shared = extend_shared(sizes, count_shared([sequences[index] for index in order]))
    heads = [[]] * len(sequences)  # of each sequence, its tokens in the prefix
    for index, length in zip(order, shared):
        heads[index] = sequences[index][:length]
    merged = merge_heads(heads, order)
    ids = merged.ids
    end = merged.end
    # At least one multiple, also where no sequences share anything.
    pad = max(-len(ids) % multiple, multiple - len(ids))
    # A padding node sees itself: a row of scores that sees nothing would be NaN.
    end += range(len(ids) + 1, len(ids) + pad + 1)
    ids += [pad_id] * pad
    depth = merged.depth + [0] * pad
    anchor = list(range(len(ids)))
    prefix = PrefixTree(ids, depth, anchor, end, suffix=[], nodes=[], branches=[], branch_end=None)
    suffixes = []
    for sequence, path, fork in zip(sequences, merged.paths, forks, strict=True):
        suffixes.append(make_suffix(sequence, len(path), fork))
    return add_suffixes(suffixes, merged.paths, prefix, pad_id, few_shapes)


def sort_indices(lists: list[list[int]]) -> list[int]:
    """Return the indices of token lists in the order of the lists."""
    return sorted(range(len(lists)), key=lists.__getitem__)


def merge_heads(heads: list[list[int]], order: list[int]) -> MergedHeads:
    """Merge token lists, which may be empty, with the beginning of the list before.

    order: the indices of the lists in the order in which they are merged.
    """
    ids = []
    depth = []
    end = []
    path = []  # the nodes of the list before, from the first token on
    paths = [[]] * len(heads)
    for index in order:
        head = heads[index]
        common = count_common([ids[node] for node in path], head)
        close_nodes(end, path[common:], len(ids))
        del path[common:]
        for token in head[common:]:
            path.append(len(ids))
            depth.append(len(path) - 1)
            ids.append(token)
            end.append(None)  # until close_nodes sets it
        paths[index] = list(path)
    close_nodes(end, path, len(ids))
    return MergedHeads(ids, depth, end, paths)


def make_suffix(sequence: list[int], shared: int, fork: MergedHeads) -> Suffix:
    """Return the suffix of a sequence whose first shared tokens are in the prefix.

    fork: the branches that go on from its end.
    """
    own = len(sequence) - shared
    size = own + len(fork.ids)
    return Suffix(
        ids=sequence[shared:] + fork.ids,
        depth=list(range(shared, len(sequence))) + [len(sequence) + depth for depth in fork.depth],
        end=[size] * own + [own + end for end in fork.end],
        own=own,
        branches=[[own + node for node in path] for path in fork.paths],
    )


def has_few_shapes() -> bool:
    """Return whether trees are padded to sizes that come again, as FEW_SHAPES says."""
    return torch.cuda.is_available() if FEW_SHAPES is None else FEW_SHAPES


def count_shared(ordered: list[list[int]]) -> list[int]:
    """Return for each of the sorted sequences how many of its leading tokens enough others share.

    Enough are MIN_SHARED sequences, itself among them; all of them, where there are fewer.
    """
    if len(ordered) == 1:
        # One sequence shares nothing, but is cheapest as prefix.
        return [len(ordered[0]) - 1]
    width = min(MIN_SHARED, len(ordered))
    common = [count_common(first, second) for first, second in zip(ordered, ordered[1:])]
    shared = [0] * len(ordered)
    # Sequences with a common prefix are neighbours: what a window of them shares, each shares.
    for start in range(len(ordered) - width + 1):
        length = min(common[start : start + width - 1])
        for index in range(start, start + width):
            shared[index] = max(shared[index], length)
    return shared


def extend_shared(sizes: list[int], shared: list[int]) -> list[int]:
    """Return shared with a few long sequences' heads added, so that the rest fits into short rows.

    sizes, shared: tokens of each sequence, and how many of them go into the prefix. One long
    sequence would otherwise make all rows long, whose cost is quadratic. If many are long, their
    heads in the prefix would cost more than long rows, and shared is returned as it is.
    """
    step = attention.ROW_LENGTH
    longest = max(size - common for size, common in zip(sizes, shared))
    for length in range(step, longest + step, step):
        extended = [max(common, size - length) for size, common in zip(sizes, shared)]
        if sum(extended) - sum(shared) <= step:
            return extended
    return shared


def count_common(first: list[int], second: list[int]) -> int:
    """Return how many leading items two lists share."""
    if first == second:
        return len(first)
    for index, (one, other) in enumerate(zip(first, second)):
        if one != other:
            return index
    return min(len(first), len(second))


def close_nodes(end: list[int | None], nodes: Iterable[int], size: int) -> None:
    """Set the subtree end of prefix nodes whose last descendant has been added."""
    for node in nodes:
        end[node] = size


def add_suffixes(
    suffixes: list[Suffix],
    paths: list[list[int]],
    prefix: PrefixTree,
    pad_id: int,
    few_shapes: bool,
) -> PrefixTree:
    """Return the tree of a padded prefix and the suffixes of the sequences, packed into rows.

    paths: the prefix nodes of each sequence. prefix: a tree without suffixes.
    """
    sizes = {index: len(suffix.ids) for index, suffix in enumerate(suffixes)}
    rows, length = pack_rows(sizes, few_shapes)
    ids = list(prefix.ids)
    depth = list(prefix.depth)
    anchor = list(prefix.anchor)
    numbers = []
    ends = []
    nodes = [list(path) for path in paths]
    branches = [[] for _ in paths]
    for row in rows:
        numbers_of_row = []
        ends_of_row = []
        for index in row:
            path = paths[index]
            suffix = suffixes[index]
            start = len(ids)
            place = len(ends_of_row)
            nodes[index] += range(start, start + suffix.own)
            branches[index] = [[start + node for node in branch] for branch in suffix.branches]
            ids += suffix.ids
            depth += suffix.depth
            anchor += [path[-1] if path else NO_PREFIX] * len(suffix.ids)
            ends_of_row += [place + end for end in suffix.end]
            numbers_of_row += [index] * len(suffix.ids)
        pad = length - len(numbers_of_row)
        ids += [pad_id] * pad
        depth += [0] * pad
        anchor += [NO_PREFIX] * pad
        ends_of_row += range(len(ends_of_row) + 1, length + 1)
        numbers_of_row += range(-1, -pad - 1, -1)
        numbers.append(numbers_of_row)
        ends.append(ends_of_row)
    several = any(min(suffix.end, default=0) < len(suffix.ids) for suffix in suffixes)
    return PrefixTree(
        ids, depth, anchor, prefix.end, numbers, nodes, branches, ends if several else None
    )


def pack_rows(sizes: dict[int, int], few_shapes: bool) -> tuple[list[list[int]], int]:
    """Pack suffixes into rows of one length, of the lengths allowed that with the fewest nodes.

    sizes: tokens of each suffix, by its number. Returns the suffix numbers of each row and the row
    length. few_shapes: only lengths that come again are allowed.
    """
    step = attention.ROW_LENGTH
    longest = max(sizes.values())
    total = sum(sizes.values())
    if not few_shapes:
        lengths = list(range(max(longest, 1), max(longest, step) + 1))
    elif len(sizes) == 1:
        lengths = [round_up(max(longest, 1), SMALL_MULTIPLE if longest <= step else step)]
    elif total <= 2 * step and longest <= step:
        lengths = [find_length_of_two(sizes)]
    else:
        lengths = [round_up(longest, step)]
        if lengths == [step] and total <= SMALL_TREE:
            others = (step - SMALL_MULTIPLE, step + SMALL_MULTIPLE)
            lengths += [length for length in others if length >= longest]
    packings = [(fill_rows(sizes, length), length) for length in lengths]
    rows, length = min(packings, key=lambda packing: len(packing[0]) * packing[1])
    if few_shapes and len(rows) >= EVEN_ROWS and len(rows) % 2 == 1:
        rows.append([])
    if few_shapes and len(rows) == 1 and len(sizes) > 1:
        rows.append([])  # code for a single row is compiled by itself
    return rows, length


def find_length_of_two(sizes: dict[int, int]) -> int:
    """Return the shortest row length, a multiple of SMALL_MULTIPLE, with which two rows suffice.

    sizes: tokens of each of two or more suffixes, by its number.
    """
    longest = max(sizes.values())
    length = round_up(max(longest, -(-sum(sizes.values()) // 2), 1), SMALL_MULTIPLE)
    while len(fill_rows(sizes, length)) > 2:
        length += SMALL_MULTIPLE
    return length


def round_up(count: int, multiple: int) -> int:
    """Return the lowest multiple that is not below a count."""
    return -(-count // multiple) * multiple


def fill_rows(sizes: dict[int, int], length: int) -> list[list[int]]:
    """Return rows of suffix numbers, no row's suffixes longer than length together.

    First fit, longest suffix first; there is always a row.
    """
    rows = [[]]
    room = [length]  # nodes that are left in each row
    for index in sorted(sizes, key=lambda index: (-sizes[index], index)):
        size = sizes[index]
        row = next((row for row, free in enumerate(room) if free >= size), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(length)
        rows[row].append(index)
        room[row] -= size
    return rows


def tree_inputs(tree: PrefixTree) -> dict[str, torch.Tensor]:
    """Return a tree as tensors of int64.

    input_ids and position_ids [1, N], anchor [N], prefix_end [T], suffix [R, L]; where a suffix has
    several branches, branch_end [R, L].
    """
    inputs = {
        "input_ids": torch.tensor([tree.ids]),
        "position_ids": torch.tensor([tree.depth]),
        "anchor": torch.tensor(tree.anchor),
        "prefix_end": torch.tensor(tree.end),
        "suffix": torch.tensor(tree.suffix),
    }
    if tree.branch_end is not None:
        inputs["branch_end"] = torch.tensor(tree.branch_end)
    return inputs


def tree_mask(inputs: dict[str, torch.Tensor], window: int | None = None) -> attention.TreeMask:
    """Return the TreeMask of tree inputs.

    With a window, a node sees only itself and the window - 1 tokens before it.
    """
    depth = inputs["position_ids"][0]
    anchor = inputs["anchor"][:, None]
    end = inputs["prefix_end"]
    suffix = inputs["suffix"]
    prefix = torch.arange(len(end), device=end.device)
    on_path = (prefix <= anchor) & (anchor < end)
    position = torch.arange(suffix.shape[1], device=end.device)
    same_suffix = suffix[:, :, None] == suffix[:, None, :]
    in_suffix = same_suffix & (position[None, :] <= position[:, None])
    if "branch_end" in inputs:
        in_suffix &= position[:, None] < inputs["branch_end"][:, None, :]
    if window is not None:
        row_depth = depth[len(end) :].view(suffix.shape)
        on_path &= depth[:, None] - depth[: len(end)] < window
        in_suffix &= row_depth[:, :, None] - row_depth[:, None, :] < window
    return attention.TreeMask(on_path, in_suffix)


def pass_mask(*args: object, attention_mask: object = None, **kwargs: object) -> attention.TreeMask:
    """Return the TreeMask that forward_tree sent, for transformers' mask interface.

    Any other mask raises ValueError: a model that is set to ATTENTION computes trees only.
    """
    if not isinstance(attention_mask, MaskCarrier):
        raise ValueError(
            "this model computes prefix trees: run it through forward_tree, or set eager attention"
        )
    return attention_mask.mask


transformers.AttentionInterface.register(ATTENTION, attention.attend)
transformers.AttentionMaskInterface.register(ATTENTION, pass_mask)


def make_masks(
    config: transformers.PreTrainedConfig, inputs: dict[str, torch.Tensor]
) -> MaskCarrier | dict[str, attention.TreeMask]:
    """Return the masks of tree inputs as models of this config take them for attention_mask."""
    window = getattr(config, "sliding_window", None)
    if config.model_type in ONE_MASK:
        return MaskCarrier(tree_mask(inputs, window))
    return {"full_attention": tree_mask(inputs), "sliding_attention": tree_mask(inputs, window)}


def forward_tree(
    model: torch.nn.Module,
    config: transformers.PreTrainedConfig,
    inputs: dict[str, torch.Tensor],
    logits_to_keep: torch.Tensor,
) -> torch.Tensor:
    """Run a causal language model over the tensors of tree_inputs.

    Returns its logits [K, vocabulary] at the K nodes of logits_to_keep.
    """
    # A layer of stance/model/gemma2.py takes these nodes too: the last leaves all others out.
    if getattr(model, "takes_logit_positions", False):
        positions = {"logit_positions": logits_to_keep, "logits_to_keep": 0}
    else:
        positions = {"logits_to_keep": logits_to_keep}
    output = model(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        attention_mask=make_masks(config, inputs),
        use_cache=False,
        **positions,
    )
    return output.logits[0]


def compute_precision(model: torch.nn.Module) -> contextlib.AbstractContextManager:
    """Return the context in which a model computes, in training too.

    bfloat16 autocast for a bfloat16 model, nothing for any other.
    """
    if model.dtype != torch.bfloat16:
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, dtype=torch.bfloat16)
