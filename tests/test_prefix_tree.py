"""The prefix tree computes what the flat batch computes: structure, masks, logits and gradients."""

import random

import peft
import pytest
import torch
import transformers

import prefix_tree
import training

WINDOW = 12  # shorter than the test sequences, so that sliding layers differ from full ones


def build_model(quantised=False, folder=None):
    """Return a small random Gemma-2 with LoRA, its weights enlarged so that the soft caps bend the result."""
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=61,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=WINDOW,
        query_pre_attn_scalar=32,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
        attn_implementation="eager",
        use_cache=False,
        pad_token_id=0,
    )
    model = transformers.Gemma2ForCausalLM(config)
    for name, weight in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            weight.data *= 20
    if quantised:
        model.to(torch.bfloat16).save_pretrained(folder)
        four_bit = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=four_bit, dtype=torch.bfloat16, attn_implementation="eager"
        )
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at the start: the adapter would not show
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def random_rows(seed, count=9):
    """Return rows that share an instruction and some topics, of unequal length, with answers of two tokens."""
    rng = random.Random(seed)
    instruction = [rng.randrange(1, 61) for _ in range(8)]
    topics = [[rng.randrange(1, 61) for _ in range(rng.randrange(2, 5))] for _ in range(3)]
    rows = []
    for _ in range(count):
        sentence = [rng.randrange(1, 61) for _ in range(rng.randrange(1, 9))]
        ids = instruction + rng.choice(topics) + sentence + [7, 8] + [rng.choice((11, 12, 13)), 9]
        rows.append({"input_ids": ids, "labels": [-100] * (len(ids) - 2) + ids[-2:]})
    return rows


def flat_loss(model, rows):
    """Return the mean loss over answer tokens and the logits before the answers, row by row, without a tree."""
    losses, logits = [], []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0].float()
        labels = torch.tensor(row["labels"])
        losses.append(torch.nn.functional.cross_entropy(output[:-1], labels[1:], reduction="none", ignore_index=-100))
        logits.append(output[-3])
    tokens = sum(sum(label != -100 for label in row["labels"][1:]) for row in rows)
    return sum(loss.sum() for loss in losses) / tokens, torch.stack(logits)


def tree_loss(model, rows, multiple=1):
    """Return the same through the collator and the tree."""
    inputs = training.TreeCollator(pad_id=0, multiple=multiple)(rows)
    losses = training.target_losses(model, model.config, inputs)
    tree = prefix_tree.merge_prefixes([row["input_ids"][:-1] for row in rows])
    last = torch.tensor([nodes[-2] for nodes in tree.nodes])
    return losses.sum() / inputs["target_weights"].sum(), prefix_tree.forward_tree(model, model.config, inputs, last)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.requires_grad])


def relative(value, reference):
    return ((value - reference).norm() / reference.norm()).item()


def test_tree_structure_by_hand():
    tree = prefix_tree.merge_prefixes([[1, 2, 3], [1, 2, 4, 5], [1, 2, 3]])
    assert tree.ids == [1, 2, 3, 4, 5]
    assert tree.depth == [0, 1, 2, 2, 3]
    assert tree.end == [5, 5, 3, 5, 5]
    assert tree.nodes == [[0, 1, 2], [0, 1, 3, 4], [0, 1, 2]]


def test_sequence_that_ends_inside_another():
    tree = prefix_tree.merge_prefixes([[1, 2, 3], [1]])
    assert tree.ids == [1, 2, 3]
    assert tree.nodes == [[0, 1, 2], [0]]
    assert tree.end == [3, 3, 3]


@pytest.mark.parametrize("seed", range(20))
def test_every_node_sees_exactly_its_own_path(seed):
    rng = random.Random(seed)
    sequences = [[rng.randrange(3) for _ in range(rng.randrange(1, 8))] for _ in range(rng.randrange(1, 12))]
    tree = prefix_tree.merge_prefixes(sequences)
    assert [[tree.ids[node] for node in nodes] for nodes in tree.nodes] == sequences
    index = torch.arange(len(tree.ids))
    seen = prefix_tree.visible(
        torch.tensor(tree.depth), torch.tensor(tree.end), index[:, None], index[None, :], window=None
    )
    for nodes in tree.nodes:
        for position, node in enumerate(nodes):
            assert seen[node].nonzero().flatten().tolist() == nodes[: position + 1]


def test_pad_nodes_see_only_themselves():
    tree = prefix_tree.merge_prefixes([[1, 2, 3], [1, 4]])
    inputs = prefix_tree.tree_inputs(tree, pad_id=0, multiple=8)
    assert inputs["input_ids"].shape == (1, 8)
    mask = prefix_tree.dense_mask(inputs["position_ids"][0], inputs["subtree_end"], None)[0, 0]
    for row in range(4, 8):
        assert (mask[row] == 0).nonzero().flatten().tolist() == [row]
    assert mask.dtype == torch.bfloat16
    assert torch.isfinite(mask).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("multiple", [1, 128])
def test_fp32_logits_and_gradients_equal_the_flat_batch(seed, multiple):
    model, rows = build_model(), random_rows(seed)
    expected, expected_logits = flat_loss(model, rows)
    expected_gradients = gradients(model, expected)
    loss, logits = tree_loss(model, rows, multiple)
    assert (logits - expected_logits).abs().max() <= 1e-5
    assert abs(loss.item() - expected.item()) <= 1e-6
    assert relative(gradients(model, loss), expected_gradients) <= 1e-5


def test_whole_sequence_loss_equals_the_flat_batch():
    model, rows = build_model(), random_rows(5)
    for row in rows:
        row["labels"] = [-100] + row["input_ids"][1:]
    expected = flat_loss(model, rows)[0]
    expected_gradients = gradients(model, expected)
    loss = tree_loss(model, rows)[0]
    assert abs(loss.item() - expected.item()) <= 1e-5
    assert relative(gradients(model, loss), expected_gradients) <= 1e-5


def test_nf4_bf16_is_within_rounding_of_the_flat_batch(tmp_path):
    """Tolerance 2e-2: bfloat16 keeps 8 bits, and a sum over another order of tokens rounds differently."""
    model, rows = build_model(quantised=True, folder=tmp_path), random_rows(1)
    with prefix_tree.compute_precision(model):
        expected, expected_logits = flat_loss(model, rows)
        expected_gradients = gradients(model, expected)
        loss, logits = tree_loss(model, rows)
        assert relative(logits.float(), expected_logits) <= 2e-2
        assert relative(gradients(model, loss), expected_gradients) <= 2e-2


def test_a_sibling_does_not_change_a_row():
    model, rows = build_model(), random_rows(2)
    before = tree_loss(model, rows)[1][0]
    rows[1]["input_ids"] = rows[1]["input_ids"][:9] + [60] * 6 + rows[1]["input_ids"][-4:]
    rows[1]["labels"] = [-100] * (len(rows[1]["input_ids"]) - 2) + rows[1]["input_ids"][-2:]
    assert (tree_loss(model, rows)[1][0] - before).abs().max() <= 1e-5


def test_the_checks_notice_a_wrong_mask(monkeypatch):
    """A mask that ignores branches, or the sliding window, must fail the comparison above."""
    model, rows = build_model(), random_rows(0)
    expected = flat_loss(model, rows)[1]
    right = prefix_tree.visible
    causal_only = lambda depth, end, q, kv, window: kv <= q  # noqa: E731
    no_window = lambda depth, end, q, kv, window: right(depth, end, q, kv, None)  # noqa: E731
    for wrong in (causal_only, no_window):
        monkeypatch.setattr(prefix_tree, "visible", wrong)
        assert (tree_loss(model, rows)[1] - expected).abs().max() > 1e-3
