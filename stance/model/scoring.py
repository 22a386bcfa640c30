"""Scores of prompts by a loaded model: label probabilities from one pass, or generated replies."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import transformers
from tqdm import tqdm

import prompts
from stance.common import errors, progress
from stance.model import chat, cuda_graphs, output_head
from stance.tree import prefix_tree

# ---------------------------------------------------------------- settings
# Rows a forward pass, if not compilation.COMPILED_BATCH_SIZE; other sizes round differently.
SCORE_BATCH_SIZE = 128
GENERATE_BATCH_SIZE = 8  # rows generated together
MAX_NEW_TOKENS = 8  # --mode generate: a label is one token, the rest shows replies that are none
# --------------------------------------------------------------------------


class Scores(NamedTuple):
    """Scores of n prompts, in the order of the prompts and of prompts.LABELS."""

    # [n, 3] float32, softmax over the three labels
    probabilities: torch.Tensor
    # [n] float32, probability of the three labels together among all tokens
    label_mass: torch.Tensor
    # [n, 3] float32, negative log-likelihood of each label among all tokens
    nll: torch.Tensor
    # rows a forward pass at the end: fewer than at the start if the memory ran out
    batch_size: int


class LabelPaths(NamedTuple):
    """Where the tokens of the labels are predicted after a prompt; find_label_paths builds it.

    A context is what precedes a token of a label within the label: () for its first token, (5,)
    for the 7 of a label [5, 7]. Where each label is one token, () is the only context.
    """

    # The tokens of all labels, one label after the other in prompts.LABELS order
    tokens: list[int]
    # For each of them, the index of its context
    token_contexts: list[int]
    # For each label, how many of the tokens are its own
    sizes: list[int]
    # The different contexts
    contexts: list[tuple[int, ...]]
    # The contexts that are no beginning of another: as branches of a prompt, they bring all contexts
    # into its tree; none where each label is one token
    endings: list[list[int]]
    # For each context but the first, which is (), the index of an ending that begins with it
    context_endings: list[int]


def pick_label(probabilities: Sequence[float]) -> str:
    """Return the label of highest probability, the first of equals.

    probabilities: of each label in prompts.LABELS order.
    """
    best = max(range(len(prompts.LABELS)), key=probabilities.__getitem__)
    return prompts.LABELS[best]


def find_label_paths(label_ids: list[list[int]]) -> LabelPaths:
    """Return the paths of labels, given their token ids as chat.encode_labels returns them."""
    found = set()
    for ids in label_ids:
        found.update(tuple(ids[:position]) for position in range(len(ids)))
    contexts = sorted(found)

    endings = []
    for context in contexts[1:]:
        longer = [other for other in contexts if len(other) > len(context)]
        if not any(_starts_with(other, context) for other in longer):
            endings.append(context)

    context_endings = []
    for context in contexts[1:]:
        fitting = [_starts_with(ending, context) for ending in endings]
        context_endings.append(fitting.index(True))

    tokens = []
    token_contexts = []
    for ids in label_ids:
        for position, token in enumerate(ids):
            tokens.append(token)
            token_contexts.append(contexts.index(tuple(ids[:position])))

    return LabelPaths(
        tokens=tokens,
        token_contexts=token_contexts,
        sizes=[len(ids) for ids in label_ids],
        contexts=contexts,
        endings=[list(ending) for ending in endings],
        context_endings=context_endings,
    )


def _starts_with(ids, beginning):
    return ids[: len(beginning)] == beginning


@torch.no_grad()
def score_prompts(
    model: torch.nn.Module,
    tokenizer: transformers.PreTrainedTokenizerBase,
    encoded: list[list[int]],
    batch_size: int | None = None,
    bar: tqdm | progress.ProgressLines | None = None,
) -> Scores:
    """Score prompts (lists of token ids) by the log-probabilities of the labels after them.

    Sorting the prompts puts equal topics side by side, so a batch shares them; the result is in
    the order given.

    model: with the attention of prefix trees, as loading.load_base returns it, or an adapter on it.
    batch_size: rows a forward pass (None: SCORE_BATCH_SIZE), halved if the memory does not hold
    them. bar: progress.open_progress's, which counts the rows; None: one of its own.

    Ends the script if a single prompt does not fit into the memory, or if the model gives no
    finite number for a label.
    """
    size = batch_size or SCORE_BATCH_SIZE
    paths = find_label_paths(chat.encode_labels(tokenizer))
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    was_training = model.training
    model.eval()
    if bar is None:
        opened = progress.open_progress(len(order), "scoring", "row", disable=len(order) <= size)
    else:
        opened = contextlib.nullcontext(bar)  # whoever opened it closes it
    parts = []
    start = 0
    with opened as counter:
        while start < len(order):
            sequences = [encoded[row] for row in order[start : start + size]]
            try:
                part = _score_batch(model, tokenizer, sequences, paths)
            except torch.OutOfMemoryError:
                # The error holds on to what the pass had computed, so go on only after it.
                part = None
            if part is None:
                size = _halve_batch(sequences)
                continue
            parts.append(part)  # stays on the GPU: no waiting in between
            start += len(sequences)
            counter.update(len(sequences))
    model.train(was_training)

    nll = torch.empty(len(encoded), len(prompts.LABELS))
    nll[order] = torch.cat(parts).cpu()
    check_finite(model, nll.isfinite().all(1).tolist(), below_bar=bar is not None)
    return Scores(
        probabilities=(-nll).softmax(1),
        label_mass=(-nll).exp().sum(1),
        nll=nll,
        batch_size=size,
    )


def record_single_answers(
    model: torch.nn.Module, tokenizer: transformers.PreTrainedTokenizerBase
) -> None:
    """Record on a GPU how single prompts are scored; see cuda_graphs.record_predictions."""
    paths = find_label_paths(chat.encode_labels(tokenizer))
    cuda_graphs.record_predictions(model, paths.endings, len(paths.contexts))


def check_finite(model: torch.nn.Module, finite: Sequence[bool], below_bar: bool) -> None:
    """Stop if a model's predictions are not finite numbers: any label would be a wrong answer.

    finite: for each prompt, whether they are. below_bar: whether a progress bar is open.
    """
    count = len(finite) - sum(finite)
    if count == 0:
        return
    base = model.config._name_or_path or "the base"
    folder = getattr(model, "adapter_folder", None)
    if folder is None:
        where = base
        hint = "its weights are damaged or too large for the precision: download it again"
    else:
        where = f"{folder} on {base}"
        hint = "train again with a lower learning rate, or if evaluate.py --adapter none fails too, download the base again"
    fail = errors.fail_below_bar if below_bar else errors.fail
    fail(f"{where} predicts no finite numbers for {count} of {len(finite)} prompts: {hint}")


def _halve_batch(sequences):
    """Return half the size of a batch that the memory does not hold, and say so.

    Ends the script if the batch is a single prompt.
    """
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


def _score_batch(model, tokenizer, sequences, paths):
    """Return the negative log-likelihood [B, 3] of the labels after each of B lists of token ids.

    paths: the LabelPaths of the labels.
    """
    graph = None  # recorded for one short prompt: see record_single_answers
    multiple = None
    if len(sequences) == 1 and len(sequences[0]) <= cuda_graphs.PREDICTION_NODES:
        graph = getattr(model, "prediction_graph", None)
    if graph is not None:
        multiple = cuda_graphs.PREDICTION_NODES
    if paths.endings:
        branches = [paths.endings] * len(sequences)
    else:
        branches = None
    tree = prefix_tree.merge_prefixes(
        sequences, pad_id=tokenizer.pad_token_id, multiple=multiple, branches=branches
    )
    nodes = []
    for row in range(len(sequences)):
        nodes += _find_context_nodes(tree, row, paths)
    log_probabilities = _predict_tokens(model, tree, nodes, graph=graph)
    places = torch.arange(len(nodes), device=model.device).view(len(sequences), -1)
    return _add_up_labels(log_probabilities, places, paths)


def _find_context_nodes(tree, row, paths):
    """Return the node of the last token of each context of a row's labels."""
    nodes = [tree.nodes[row][-1]]
    for context, ending in zip(paths.contexts[1:], paths.context_endings, strict=True):
        nodes.append(tree.branches[row][ending][len(context) - 1])
    return nodes


def _add_up_labels(log_probabilities, context_places, paths):
    """Return the negative log-likelihood [B, 3] of the labels: that of their tokens, added up.

    log_probabilities [K, vocabulary], of which context_places [B, contexts] are those after each
    context.
    """
    device = log_probabilities.device
    tokens = _copy_to(device, paths.tokens)
    token_places = context_places[:, _copy_to(device, paths.token_contexts)]
    scores = log_probabilities[token_places, tokens]  # [B, tokens of all labels]
    if not paths.endings:
        return -scores
    return -torch.stack([part.sum(1) for part in scores.split(paths.sizes, 1)], 1)


def _copy_to(device, numbers):
    """Return whole numbers as a tensor on a device, without waiting for what it computes."""
    return torch.tensor(numbers).to(device, non_blocking=True)


@torch.no_grad()
def score_answers(
    model: torch.nn.Module,
    tokenizer: transformers.PreTrainedTokenizerBase,
    encoded: list[list[int]],
    answers: list[list[int]],
    paths: LabelPaths,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score prompts and the answers that they have, in one forward pass.

    encoded: token ids of each prompt, as many as fit into the memory. answers: those after it, with
    the end of the turn. paths: of labels of several tokens.

    Returns tensors on the model's device, without waiting for it: the negative log-likelihood
    [B, 3] of each label among all tokens, and that of each answer [B].
    """
    branches = [[*paths.endings, answer[:-1]] for answer in answers]
    tree = prefix_tree.merge_prefixes(encoded, pad_id=tokenizer.pad_token_id, branches=branches)
    places = {}  # of each predicting node, where it is among them
    context_places = []
    rows = []  # of each token of all answers
    answer_places = []
    answer_tokens = []
    for row, answer in enumerate(answers):
        nodes = _find_context_nodes(tree, row, paths)
        context_places.append([places.setdefault(node, len(places)) for node in nodes])
        answer_nodes = [tree.nodes[row][-1], *tree.branches[row][-1]]
        for node, token in zip(answer_nodes, answer, strict=True):
            rows.append(row)
            answer_places.append(places.setdefault(node, len(places)))
            answer_tokens.append(token)
    log_probabilities = _predict_tokens(model, tree, list(places))
    device = log_probabilities.device
    nll = _add_up_labels(log_probabilities, _copy_to(device, context_places), paths)
    given = log_probabilities[_copy_to(device, answer_places), _copy_to(device, answer_tokens)]
    losses = torch.zeros(len(answers), device=device)
    losses.index_add_(0, _copy_to(device, rows), -given)
    return nll, losses


def _predict_tokens(model, tree, nodes, graph=None):
    """Return the float32 log-probabilities [K, vocabulary] of the token after each of K nodes.

    graph: a cuda_graphs.PredictionGraph that computes the forward pass; None: the model itself.
    """
    inputs = {}
    for name, tensor in prefix_tree.tree_inputs(tree).items():
        inputs[name] = tensor.to(model.device, non_blocking=True)
    logits_to_keep = _copy_to(model.device, nodes)
    with prefix_tree.compute_precision(model), output_head.float32_logits(model):
        if graph is None:
            logits = prefix_tree.forward_tree(model, model.config, inputs, logits_to_keep)
        else:
            logits = graph(inputs, logits_to_keep)
    return logits.log_softmax(1)


class FiniteWatch:
    """A logits processor for generate, which notes whether the logits are finite numbers."""

    def __init__(self) -> None:
        self.finite = None  # [B] on the model's device; None before a step

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Take the logits [B, vocabulary] of a step, and return them as they are."""
        finite = scores.isfinite().all(1)
        self.finite = finite if self.finite is None else self.finite & finite
        return scores

    def finish(self) -> list[bool]:
        """Return, for each prompt of a batch, whether all logits were finite; then start anew."""
        finite = self.finite.tolist()
        self.finite = None
        return finite


@torch.no_grad()
def generate_replies(
    model: torch.nn.Module,
    tokenizer: transformers.PreTrainedTokenizerBase,
    encoded: list[list[int]],
) -> list[str]:
    """Return what the model writes after each prompt, a list of token ids, as text.

    It decodes greedily, MAX_NEW_TOKENS at most: the published procedure, whatever the base's
    generation_config.json says. Tokens are chosen from the float32 logits that score_prompts reads.

    Ends the script if the model gives no finite number for a token.
    """
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")  # decoding token by token has no tree
    given = model.generation_config
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, chat.end_of_turn_id(tokenizer)],
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
    )
    replies = []
    watch = FiniteWatch()
    model.eval()
    with progress.open_progress(len(encoded), "generating", "row") as bar:
        for start in range(0, len(encoded), GENERATE_BATCH_SIZE):
            batch = encoded[start : start + GENERATE_BATCH_SIZE]
            width = max(len(row) for row in batch)
            ids = []
            mask = []
            for row in batch:
                padding = width - len(row)  # on the left, so that all replies start at one position
                ids.append([tokenizer.pad_token_id] * padding + row)
                mask.append([0] * padding + [1] * len(row))
            with prefix_tree.compute_precision(model), output_head.float32_logits(model):
                output = model.generate(
                    input_ids=torch.tensor(ids, device=model.device),
                    attention_mask=torch.tensor(mask, device=model.device),
                    logits_processor=transformers.LogitsProcessorList([watch]),
                )
            check_finite(model, watch.finish(), below_bar=True)
            replies += tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
            bar.update(len(batch))
    model.generation_config = given
    model.set_attn_implementation(attention)
    return replies
