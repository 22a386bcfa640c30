"""Score prompts with a loaded model: label probabilities from one forward pass, or generated replies."""

import contextlib
from typing import NamedTuple

import torch
from tqdm import tqdm

import prompts
from stance.common import errors, progress
from stance.model import chat, cuda_graphs
from stance.tree import prefix_tree

# ---------------------------------------------------------------- settings
SCORE_BATCH_SIZE = 128  # rows a forward pass, if not compilation.COMPILED_BATCH_SIZE; other sizes round differently
GENERATE_BATCH_SIZE = 8  # rows generated together
MAX_NEW_TOKENS = 8  # --mode generate: a label is one token, the rest shows replies that are none
# --------------------------------------------------------------------------


class Scores(NamedTuple):
    """Scores of n prompts."""

    probabilities: (
        torch.Tensor
    )  # [n, 3] float32, softmax over the three labels in prompts.LABELS order
    label_mass: (
        torch.Tensor
    )  # [n] float32, probability of the three labels together among all tokens
    nll: torch.Tensor  # [n, 3] float32, negative log-likelihood of each label among all tokens
    batch_size: int  # rows a forward pass at the end: fewer than at the start if the memory ran out


def pick_label(probabilities):
    """Return the label of highest probability, given in prompts.LABELS order; the first of equals."""
    return prompts.LABELS[max(range(len(prompts.LABELS)), key=probabilities.__getitem__)]


@torch.no_grad()
def score_prompts(model, tokenizer, encoded, batch_size=None, bar=None):
    """Score prompts (lists of token ids) by the log-probabilities of the labels after them. Returns Scores.

    Sorting the prompts puts equal topics side by side, so a batch shares them; the result is in the order given.
    batch_size: rows a forward pass (None: SCORE_BATCH_SIZE), halved if the memory does not hold them.
    bar: progress.open_progress's, which counts the rows; None: one of its own.
    """
    size = batch_size or SCORE_BATCH_SIZE
    label_ids = chat.encode_labels(tokenizer)
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    parts, start = [], 0
    was_training = model.training
    model.eval()
    if bar is None:
        counted = progress.open_progress(len(order), "scoring", "row", disable=len(order) <= size)
    else:
        counted = contextlib.nullcontext(bar)
    with counted as bar:
        while start < len(order):
            sequences = [encoded[row] for row in order[start : start + size]]
            try:
                part = _score_batch(model, tokenizer, sequences, label_ids)
            except torch.OutOfMemoryError:
                part = (
                    None  # the error holds on to what the pass had computed, so go on only after it
                )
            if part is None:
                size = _halve_batch(sequences)
                continue
            parts.append(part)  # stays on the GPU: no waiting in between
            start += len(sequences)
            bar.update(len(sequences))
    model.train(was_training)
    nll = torch.empty(len(encoded), len(label_ids))
    nll[order] = torch.cat(parts).cpu()
    return Scores((-nll).softmax(1), (-nll).exp().sum(1), nll, size)


def _halve_batch(sequences):
    """Return half the size of a batch that the memory does not hold, and say so; stop if it is a single prompt."""
    rows = len(sequences)
    if rows == 1:
        length = len(sequences[0])
        errors.fail(
            f"a prompt of {length:,} tokens does not fit into the memory: shorten or split its sentence"
        )
    torch.cuda.empty_cache()
    less = f"going on from the same row with {rows // 2}"
    tqdm.write(
        f"out of memory with {rows} rows a forward pass: {less}; 4-bit kernels then round a little differently"
    )
    return rows // 2


def _score_batch(model, tokenizer, sequences, label_ids):
    """Return the negative log-likelihood [B, 3] of the labels after each sequence, summed over a label's tokens.

    label_ids: a list of token ids for each label. What comes before a label's last token goes into the tree too; for
    labels of one token that is nothing.
    """
    contexts = sorted({tuple(ids[:position]) for ids in label_ids for position in range(len(ids))})
    endings = [
        one for one in contexts if not any(other[: len(one)] == one != other for other in contexts)
    ]
    homes = [
        next(i for i, ending in enumerate(endings) if ending[: len(one)] == one) for one in contexts
    ]
    extended = [[*ids, *ending] for ids in sequences for ending in endings]
    single = len(extended) == len(contexts) == 1 and len(extended[0]) <= cuda_graphs.ANSWER_NODES
    graph = getattr(model, "answer_graph", None) if single else None
    tree = prefix_tree.merge_prefixes(
        extended, tokenizer.pad_token_id, cuda_graphs.ANSWER_NODES if graph else None
    )
    inputs = {
        name: tensor.to(model.device) for name, tensor in prefix_tree.tree_inputs(tree).items()
    }
    logits_to_keep = [
        tree.nodes[row * len(endings) + home][len(ids) - 1 + len(context)]
        for row, ids in enumerate(sequences)
        for home, context in zip(homes, contexts, strict=True)
    ]
    steps = [
        (contexts.index(tuple(ids[:position])), token)
        for ids in label_ids
        for position, token in enumerate(ids)
    ]
    logits_to_keep, (before, tokens) = (
        torch.tensor(item, device=model.device) for item in (logits_to_keep, list(zip(*steps)))
    )
    with prefix_tree.compute_precision(model):
        logits = (
            graph(inputs, logits_to_keep)
            if graph
            else prefix_tree.forward_tree(model, model.config, inputs, logits_to_keep)
        )
    scores = (
        logits.float()
        .log_softmax(1)
        .unflatten(0, (len(sequences), len(contexts)))[:, before, tokens]
    )
    return -torch.stack(
        [part.sum(1) for part in scores.split([len(ids) for ids in label_ids], 1)], 1
    )


@torch.no_grad()
def generate_replies(model, tokenizer, encoded):
    """Let the model write its answer to each prompt, greedily: the published procedure. Returns decoded replies."""
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")  # decoding token by token has no tree
    stop_ids = [tokenizer.eos_token_id, chat.end_of_turn_id(tokenizer)]
    replies = []
    model.eval()
    with progress.open_progress(len(encoded), "generating", "row") as bar:
        for start in range(0, len(encoded), GENERATE_BATCH_SIZE):
            batch = encoded[start : start + GENERATE_BATCH_SIZE]
            width = max(map(len, batch))
            ids = torch.tensor(
                [[tokenizer.pad_token_id] * (width - len(row)) + row for row in batch]
            )  # left padding
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
            with prefix_tree.compute_precision(model):
                output = model.generate(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    max_new_tokens=MAX_NEW_TOKENS,
                    do_sample=False,
                    eos_token_id=stop_ids,
                    pad_token_id=tokenizer.pad_token_id,
                )
            replies += tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
            bar.update(len(batch))
    model.set_attn_implementation(attention)
    return replies
