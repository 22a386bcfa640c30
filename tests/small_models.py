"""A Gemma-2 of two small layers, rows for it, and its losses and gradients over flat batches and over trees."""

import random

import peft
import torch
import transformers

from stance.model import lora_linear
from stance.training import tree_trainer
from stance.tree import prefix_tree

WINDOW = 12  # shorter than the test sequences, so that sliding layers differ from full ones


def build_model(quantised=False, folder=None, sharpness=8):
    """Return a small random Gemma-2 with LoRA; sharpness enlarges attention scores, so that the soft caps bend them."""
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
            weight.data *= sharpness
    if quantised:
        model.to(torch.bfloat16).save_pretrained(folder)
        four_bit = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        options = {
            "quantization_config": four_bit,
            "dtype": torch.bfloat16,
            "attn_implementation": "eager",
        }
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, device_map={"": "cpu"}, **options
        )
        for linear in lora_linear.find_linears(model):
            linear.support_avx512bf16_for_cpu = (
                False  # as loading.load_base does: its kernel rounds the weights
            )
    model = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    )
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at the start: the adapter would not show
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def build_qwen():
    """Return a small random Qwen2 with LoRA: a base without soft caps."""
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=61,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=prefix_tree.ATTENTION,
        use_cache=False,
        pad_token_id=0,
    )
    model = transformers.Qwen2ForCausalLM(config)
    return peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    )


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


def flat_losses(model, rows, size=1):
    """Return the losses of all answer tokens and the logits before the answers, without a tree, so many rows at a time.

    Rows of unequal length are padded and masked.
    """
    model.set_attn_implementation("eager")
    losses, logits = [], []
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        ids = [torch.tensor(row["input_ids"], device=model.device) for row in batch]
        padded, mask = (
            torch.nn.utils.rnn.pad_sequence(one, batch_first=True)
            for one in (ids, [torch.ones_like(i) for i in ids])
        )
        outputs = model(input_ids=padded, attention_mask=mask, use_cache=False).logits.float()
        for row, output in zip(batch, outputs, strict=True):
            labels = torch.tensor(row["labels"][1:], device=model.device)
            output = output[: len(row["labels"])]
            answers = labels != tree_trainer.IGNORED
            losses.append(
                torch.nn.functional.cross_entropy(
                    output[:-1][answers], labels[answers], reduction="none"
                )
            )
            logits.append(output[-3])
    return torch.cat(losses), torch.stack(logits)


def flat_loss(model, rows):
    """Return the mean loss over answer tokens and the logits before the answers, row by row, without a tree."""
    losses, logits = flat_losses(model, rows)
    return losses.mean(), logits


def flat_steps(model, exact, rows):
    """Return [(losses of the answer tokens, logits, gradients)] of flat batches that only rounding tells apart.

    Each row alone, all in one padded batch, and each alone in float32, by exact: two sizes may happen to round alike.
    """
    ways = []
    for one, size in ((model, 1), (model, len(rows)), (exact, 1)):
        with prefix_tree.compute_precision(one):
            losses, logits = flat_losses(one, rows, size)
        ways.append((losses.detach(), logits.detach(), gradients(one, losses.mean())))
    return ways


def tree_loss(model, rows):
    """Return the same through the collator and the tree."""
    model.set_attn_implementation(prefix_tree.ATTENTION)
    inputs = tree_trainer.TreeCollator(pad_id=0)(rows)
    losses = tree_trainer.target_losses(model, model.config, inputs)
    tree = prefix_tree.merge_prefixes([row["input_ids"][:-1] for row in rows], pad_id=0)
    last = torch.tensor([nodes[-2] for nodes in tree.nodes])
    return losses.sum() / inputs["target_weights"].sum(), prefix_tree.forward_tree(
        model, model.config, inputs, last
    )


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat(
        [weight.grad.flatten() for weight in model.parameters() if weight.requires_grad]
    )


def relative(value, reference):
    value, reference = value.float(), reference.float()
    return ((value - reference).norm() / reference.norm()).item()


def mean_gap(losses, reference):
    """The mean difference of losses, relative; the difference of their means is less, and may be 0 by chance."""
    return ((losses - reference).abs().mean() / reference.mean()).item()
