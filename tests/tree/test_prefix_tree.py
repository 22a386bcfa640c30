"""The prefix tree computes what the flat batch computes: structure, masks, logits and gradients."""

import random

import pytest
import small_models
import torch

from stance.tree import attention, prefix_tree


def slow(value):
    """Return a parameter's value that only the whole suite takes."""
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(autouse=True, params=[True, False], ids=["few shapes", "little padding"])
def layout(request, monkeypatch):
    """Each test of this file has trees as a GPU wants them, and as a CPU does."""
    monkeypatch.setattr(prefix_tree, "FEW_SHAPES", request.param)


@pytest.fixture
def few_shapes(monkeypatch):
    monkeypatch.setattr(prefix_tree, "FEW_SHAPES", True)


def spoil_mask(monkeypatch, wrong):
    """Let trees show siblings to each other, or forget the sliding window."""
    right = prefix_tree.tree_mask

    def wrong_mask(inputs, window=None):
        if wrong == "window":
            return right(inputs)
        mask = right(inputs, window)
        return mask._replace(prefix=torch.ones_like(mask.prefix))

    monkeypatch.setattr(prefix_tree, "tree_mask", wrong_mask)


def test_tree_structure_by_hand(monkeypatch, few_shapes):
    monkeypatch.setattr(prefix_tree, "MIN_SHARED", 2)
    monkeypatch.setattr(prefix_tree, "PREFIX_MULTIPLE", 4)
    monkeypatch.setattr(prefix_tree, "SMALL_MULTIPLE", 4)
    tree = prefix_tree.merge_prefixes([[1, 2, 3, 3], [1, 2, 4, 5], [1, 6]], pad_id=0)
    assert tree.ids == [1, 2, 0, 0, 3, 3, 4, 5, 6, 0, 0, 0]
    assert tree.depth == [0, 1, 0, 0, 2, 3, 2, 3, 1, 0, 0, 0]
    assert tree.anchor == [0, 1, 2, 3, 1, 1, 1, 1, 0, -1, -1, -1]
    assert tree.end == [2, 2, 3, 4]
    assert tree.suffix == [[0, 0, 1, 1], [2, -1, -2, -3]]
    assert tree.nodes == [[0, 1, 4, 5], [0, 1, 6, 7], [0, 8]]


def test_equal_sequences_are_all_prefix(monkeypatch):
    monkeypatch.setattr(prefix_tree, "MIN_SHARED", 2)
    tree = prefix_tree.merge_prefixes([[1, 2, 3], [1], [1, 2, 3]], pad_id=0)
    assert tree.nodes == [[0, 1, 2], [0], [0, 1, 2]]


def test_many_long_suffixes_make_long_rows(few_shapes):
    tree = prefix_tree.merge_prefixes([[1] * 300, [2] * 300, [3] * 300, [4] * 90], pad_id=0)
    assert [len(row) for row in tree.suffix] == [384, 384, 384, 384]
    assert tree.nodes[0][0] >= len(tree.end)


def test_the_head_of_one_long_suffix_goes_into_the_prefix(few_shapes):
    tree = prefix_tree.merge_prefixes([[1] * 200, [2] * 100, [3] * 100, [4] * 90], pad_id=0)
    assert [len(row) for row in tree.suffix] == [128] * 4
    assert [node < len(tree.end) for node in tree.nodes[0]] == [True] * 72 + [False] * 128


@pytest.mark.parametrize("seed", range(40))
def test_every_node_sees_exactly_its_own_path(seed, monkeypatch):
    rng = random.Random(seed)
    monkeypatch.setattr(prefix_tree, "MIN_SHARED", rng.choice((2, 3, 8)))
    longest = rng.choice((3, 8, 200))
    sequences = [
        [rng.randrange(3) for _ in range(rng.randrange(1, longest))]
        for _ in range(rng.randrange(1, 12))
    ]
    tree = prefix_tree.merge_prefixes(sequences, pad_id=0)
    assert [[tree.ids[node] for node in nodes] for nodes in tree.nodes] == sequences
    seen = dense_visibility(tree)
    for nodes in tree.nodes:
        assert [tree.depth[node] for node in nodes] == list(range(len(nodes)))
        for position, node in enumerate(nodes):
            assert seen[node].nonzero().flatten().tolist() == sorted(nodes[: position + 1])
    used = {node for nodes in tree.nodes for node in nodes}
    for node in set(range(len(tree.ids))) - used:
        assert seen[node].nonzero().flatten().tolist() == [node]


@pytest.mark.parametrize("seed", range(40))
def test_branches_see_their_sequence_and_themselves(seed, monkeypatch):
    rng = random.Random(seed)
    monkeypatch.setattr(prefix_tree, "MIN_SHARED", rng.choice((2, 3, 8)))
    longest = rng.choice((3, 8, 150))
    draw = lambda least, most: [rng.randrange(3) for _ in range(rng.randrange(least, most))]  # noqa: E731
    sequences = [draw(1, longest) for _ in range(rng.randrange(1, 12))]
    most = rng.choice((2, 5))
    branches = [[draw(0, 4) for _ in range(rng.randrange(most))] for _ in sequences]
    tree = prefix_tree.merge_prefixes(sequences, pad_id=0, branches=branches)
    inputs = prefix_tree.tree_inputs(tree)
    several = any(
        len({tuple(branch[: end + 1]) for branch in lists for end in range(len(branch))})
        > max(map(len, lists), default=0)
        for lists in branches
    )
    assert ("branch_end" in inputs) is several
    seen = dense_visibility(tree)
    used = set()
    for sequence, nodes, lists, grown in zip(
        sequences, tree.nodes, branches, tree.branches, strict=True
    ):
        for branch, branch_nodes in zip(lists, grown, strict=True):
            path = nodes + branch_nodes
            assert [tree.ids[node] for node in path] == sequence + branch
            assert [tree.depth[node] for node in path] == list(range(len(path)))
            for position, node in enumerate(path):
                assert seen[node].nonzero().flatten().tolist() == sorted(path[: position + 1])
            used.update(path)
        used.update(nodes)
    for node in set(range(len(tree.ids))) - used:
        assert seen[node].nonzero().flatten().tolist() == [node]


def test_branches_share_their_beginnings_by_hand(monkeypatch):
    monkeypatch.setattr(prefix_tree, "FEW_SHAPES", False)
    tree = prefix_tree.merge_prefixes([[1, 2]], 0, branches=[[[7, 8], [7, 9], [6]]])
    assert tree.ids == [1, 2, 6, 7, 8, 9]
    assert tree.depth == [0, 1, 2, 2, 3, 3]
    assert tree.nodes == [[0, 1]] and tree.branches == [[[3, 4], [3, 5], [2]]]
    assert tree.suffix == [[0] * 5] and tree.branch_end == [[5, 2, 5, 4, 5]]


def dense_visibility(tree):
    """Return the [N, N] visibility that a tree's masks stand for."""
    mask = prefix_tree.tree_mask(prefix_tree.tree_inputs(tree))
    size, prefix = mask.prefix.shape
    seen = torch.zeros(size, size, dtype=torch.bool)
    seen[:, :prefix] = mask.prefix
    for row, block in enumerate(mask.row):
        start = prefix + row * len(block)
        seen[start : start + len(block), start : start + len(block)] = block
    return seen


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
@pytest.mark.parametrize("count", [1, 9, slow(60)])
def test_fp32_logits_and_gradients_equal_the_flat_batch(seed, count):
    model, rows = small_models.build_model(), small_models.random_rows(seed, count)
    expected, expected_logits = small_models.flat_loss(model, rows)
    expected_gradients = small_models.gradients(model, expected)
    loss, logits = small_models.tree_loss(model, rows)
    assert (logits - expected_logits).abs().max() <= 1e-5
    assert abs(loss.item() - expected.item()) <= 1e-6
    assert small_models.relative(small_models.gradients(model, loss), expected_gradients) <= 1e-5


def test_whole_sequence_loss_equals_the_flat_batch():
    model, rows = small_models.build_model(), small_models.random_rows(5)
    for row in rows:
        row["labels"] = [-100] + row["input_ids"][1:]
    expected = small_models.flat_loss(model, rows)[0]
    expected_gradients = small_models.gradients(model, expected)
    loss = small_models.tree_loss(model, rows)[0]
    assert abs(loss.item() - expected.item()) <= 1e-5
    assert small_models.relative(small_models.gradients(model, loss), expected_gradients) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_nf4_bf16_is_within_rounding_of_the_flat_batch(
    tmp_path, monkeypatch, in_float32, allow_rounding, seed
):
    """bfloat16 keeps 8 bits, and scores summed in another order, or in float32, round differently."""
    model, rows = (
        small_models.build_model(quantised=True, folder=tmp_path, sharpness=1),
        small_models.random_rows(seed),
    )
    _, logits, gradient = zip(*small_models.flat_steps(model, in_float32(model), rows), strict=True)
    tolerances = (
        allow_rounding(logits, small_models.relative),
        allow_rounding(gradient, small_models.relative),
    )

    def compare():
        with prefix_tree.compute_precision(model):
            loss, found = small_models.tree_loss(model, rows)
        return small_models.relative(found.float(), logits[0]), small_models.relative(
            small_models.gradients(model, loss), gradient[0]
        )

    for difference, tolerance in zip(compare(), tolerances, strict=True):
        assert difference <= tolerance
    for wrong in ("siblings", "window"):
        with monkeypatch.context() as patch:
            spoil_mask(patch, wrong)
            assert all(
                difference > 2 * tolerance
                for difference, tolerance in zip(compare(), tolerances, strict=True)
            )


def test_a_sibling_does_not_change_a_row():
    model, rows = small_models.build_model(), small_models.random_rows(2)
    before = small_models.tree_loss(model, rows)[1][0]
    rows[1]["input_ids"] = rows[1]["input_ids"][:9] + [60] * 6 + rows[1]["input_ids"][-4:]
    rows[1]["labels"] = [-100] * (len(rows[1]["input_ids"]) - 2) + rows[1]["input_ids"][-2:]
    assert (small_models.tree_loss(model, rows)[1][0] - before).abs().max() <= 1e-5


@pytest.mark.parametrize("wrong", ["siblings", "window"])
def test_the_checks_notice_a_wrong_mask(monkeypatch, wrong):
    """A mask that shows siblings, or forgets the sliding window, must fail the comparison above."""
    model, rows = small_models.build_model(), small_models.random_rows(0)
    expected = small_models.flat_loss(model, rows)[1]
    spoil_mask(monkeypatch, wrong)
    assert (small_models.tree_loss(model, rows)[1] - expected).abs().max() > 1e-3


def test_an_ordinary_call_of_a_tree_model_is_refused():
    model = small_models.build_model()
    model.set_attn_implementation(prefix_tree.ATTENTION)
    with pytest.raises(ValueError, match="forward_tree"):
        model(input_ids=torch.tensor([[1, 2, 3]]))


def test_without_few_shapes_padding_is_the_least(monkeypatch):
    monkeypatch.setattr(prefix_tree, "FEW_SHAPES", False)
    monkeypatch.setattr(prefix_tree, "MIN_SHARED", 2)
    tree = prefix_tree.merge_prefixes([[1, 2, 3, 3], [1, 2, 4, 5], [1, 6]], pad_id=0)
    assert tree.ids == [1, 2, 3, 3, 4, 5, 6]
    assert tree.end == [2, 2] and tree.suffix == [[0, 0, 1, 1, 2]]
    assert prefix_tree.pack_rows({0: 50, 1: 40, 2: 30, 3: 60}, few_shapes=False) == (
        [[3, 2], [0, 1]],
        90,
    )
    assert prefix_tree.pack_rows(dict.fromkeys(range(65), 120), few_shapes=False)[1] == 120
    assert prefix_tree.pack_rows({0: 130, 1: 10}, few_shapes=False) == ([[0], [1]], 130)


@pytest.mark.parametrize("sharp", [1, 5])
def test_attention_of_the_library_is_that_of_the_project(sharp):
    """Values and small_models.gradients, with several rows, groups of heads, and nodes that see little."""
    rows = [row["input_ids"] for row in small_models.random_rows(3, 60)]
    mask = prefix_tree.tree_mask(
        prefix_tree.tree_inputs(prefix_tree.merge_prefixes(rows, pad_id=0))
    )
    generator, count = torch.Generator().manual_seed(0), len(mask.prefix)
    tensors = [sharp * torch.randn(count, heads, 16, generator=generator) for heads in (6, 2, 2)]
    results = []
    for attend in (attention.attend_plainly, attention.attend_by_library):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        output = attend(
            *inputs, mask, 0.25, *([None] if attend is attention.attend_plainly else [])
        )
        results.append([output, *torch.autograd.grad(output.square().sum(), inputs)])
    for expected, found in zip(*results, strict=True):
        assert found.shape == expected.shape and small_models.relative(found, expected) <= 1e-5


def test_scores_without_a_soft_cap_keep_their_precision_in_bfloat16():
    """Scores of Qwen2, whose keys have large biases, were rounded: its logits were 25 % off."""
    rows = [row["input_ids"] for row in small_models.random_rows(3, 20)]
    mask = prefix_tree.tree_mask(
        prefix_tree.tree_inputs(prefix_tree.merge_prefixes(rows, pad_id=0))
    )
    generator, count = torch.Generator().manual_seed(0), len(mask.prefix)
    tensors = [torch.randn(count, heads, 32, generator=generator) for heads in (4, 2, 2)]
    tensors[0] += 10
    tensors[1] += 10  # as a bias: scores of 3,200, which bfloat16 holds to 16
    tensors = [tensor.bfloat16() for tensor in tensors]
    exact = attention.attend_by_library(*(tensor.double() for tensor in tensors), mask, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention.attend_plainly(*tensors, mask, 0.1, None)
    assert found.dtype == torch.bfloat16
    assert small_models.relative(found.double(), exact) < 0.01


def test_rows_of_few_suffixes_get_the_length_that_leaves_least_empty():
    full, half = {0: 100, 1: 100, 2: 100}, dict.fromkeys(range(6), 56)
    assert prefix_tree.pack_rows(full, few_shapes=True) == ([[0], [1], [2]], 112)
    assert prefix_tree.pack_rows(half, few_shapes=True) == ([[0, 1], [2, 3], [4, 5]], 112)
    assert prefix_tree.pack_rows(dict.fromkeys(range(6), 72), few_shapes=True)[1] == 144
    assert prefix_tree.pack_rows({0: 128, 1: 128}, few_shapes=True)[1] == 128
    assert prefix_tree.pack_rows({0: 120, 1: 40}, few_shapes=True)[1] == 128  # 112 is too short
    many = dict.fromkeys(range(11), 100)
    assert prefix_tree.pack_rows(many, few_shapes=True)[1] == 128  # many nodes: one length for all
    assert prefix_tree.pack_rows({0: 130, 1: 10}, few_shapes=True)[1] == 256


def test_of_many_rows_the_number_is_even():
    """Each number of rows is a shape of batch, which costs time to record."""
    for suffixes in (1, 3, 63, 64, 65, 101):
        rows, length = prefix_tree.pack_rows(dict.fromkeys(range(suffixes), 120), few_shapes=True)
        assert len(rows) == suffixes + (suffixes in (65, 101)) and length == 128
        assert sum(rows, []) == list(range(suffixes))


def test_several_suffixes_never_lie_in_a_single_row():
    """Code for a single row is compiled by itself, which takes long; small batches would have both."""
    rng = random.Random(0)
    for _ in range(200):
        count = rng.randrange(2, 8)
        sizes = {index: rng.randrange(0, 130) for index in range(count)}
        rows, length = prefix_tree.pack_rows(sizes, few_shapes=True)
        assert len(rows) >= 2 and length % prefix_tree.SMALL_MULTIPLE == 0
        assert sorted(sum(rows, [])) == list(range(count))
        assert max(sum(sizes[index] for index in row) for row in rows) <= length
    assert prefix_tree.pack_rows({0: 40, 1: 40, 2: 30, 3: 20}, few_shapes=True)[1] == 80
