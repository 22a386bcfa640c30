"""The trainer: trl's SFTTrainer over prefix trees, on one GPU or several.

The base is whole on each GPU, or in parts. Batches are merged into trees, the loss is on chosen
tokens, and validation predicts as evaluate.py does. Of several processes each walks through all
batches as a single one would and skips what is not its share; then they add gradients up. So steps,
their rows and checkpoints do not depend on the number of processes, and a run can be resumed with
another number of them. trl and accelerate take each process for the only one: their
DistributedDataParallel would deal out other rows, repeat some at the end of an epoch, and miss
gradients that recorded steps leave (cuda_graphs.StepGraphs).
"""

import collections
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import accelerate
import torch
import trl

from stance.common import distributed, files, records
from stance.common.types import Example, LossWindow
from stance.model import chat, compilation, cuda_graphs, lora_linear, memory, output_head, scoring
from stance.training import callbacks, checkpoints, memory_probe
from stance.tree import prefix_tree

if TYPE_CHECKING:
    import datasets
    import transformers

# ---------------------------------------------------------------- settings
# Predictions of a batch, where a GPU records steps: losses on whole sequences would give almost
# every batch a number, and so a recording, of its own. (For labels of several tokens there is one
# number for all batches: see TreeCollator.)
LOSS_MULTIPLE = 32
# --------------------------------------------------------------------------

# Of a checkpoint: what the next log line has to average beside the steps to come.
LOSS_WINDOW = "loss_window.json"
IGNORED = -100  # transformers' label of a token without loss


def encode_rows(
    tokenizer: "transformers.PreTrainedTokenizerBase",
    rows: list[Example],
    whole_sequence: bool = False,
) -> dict[str, list[list[int]]]:
    """Return training columns for split rows: input_ids, and labels, IGNORED outside the answer.

    The answer is the label and the end of the turn. whole_sequence: every token but the first is
    trained on.
    """
    pairs = [(row["topic"], row["text"]) for row in rows]
    prompt_ids = chat.encode_examples(tokenizer, pairs)
    full_ids = chat.encode_examples(tokenizer, pairs, [row["label"] for row in rows])
    masked = []
    for prompt, ids in zip(prompt_ids, full_ids, strict=True):
        start = 1 if whole_sequence else len(prompt)
        masked.append([IGNORED] * start + ids[start:])
    return {"input_ids": full_ids, "labels": masked}


def find_label(answer: list[int], label_ids: list[list[int]]) -> int:
    """Return the index of the longest label that an answer begins with; both are token ids."""
    fitting = [index for index, label in enumerate(label_ids) if answer[: len(label)] == label]
    return max(fitting, key=lambda index: len(label_ids[index]))


def count_targets(labels: list[list[int]]) -> int | None:
    """Return the most target tokens that a row has, or None if all rows have as many.

    labels: of each row, as encode_rows returns them.
    """
    counts = {len(row) - row.count(IGNORED) for row in labels}
    return max(counts) if len(counts) > 1 else None


class TreeCollator:
    """Merge a batch of rows into one prefix tree with the targets of its loss.

    Adds to prefix_tree.tree_inputs: loss_positions [K] the nodes whose next token is predicted,
    target_ids [K] that token, target_weights [K] how many rows share the prediction. With few
    shapes, K is filled up by predictions of weight 0. Rows with a row_index (in their file) give
    the list row_indices; those with a weight count so much.

    pad_id: the token of padding nodes. row_targets: the most targets of a row; K is filled up to so
    many for each row, so that it does not change with the labels of a batch (None: to a multiple of
    LOSS_MULTIPLE). label_ids: first token of each label. smoothing: the share of a label's weight
    that is dealt out to all of them alike.
    """

    def __init__(
        self,
        pad_id: int,
        row_targets: int | None = None,
        label_ids: Sequence[int] = (),
        smoothing: float = 0.0,
    ) -> None:
        self.pad_id = pad_id
        self.row_targets = row_targets
        if row_targets is not None and smoothing:
            self.row_targets += len(label_ids) - 1
        self.label_ids = label_ids
        self.smoothing = smoothing

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        # The last token predicts nothing, so it needs no node.
        tree = prefix_tree.merge_prefixes([row["input_ids"][:-1] for row in rows], self.pad_id)
        sharing = collections.Counter()  # rows by (node, label of its next token)
        for row, nodes in zip(rows, tree.nodes, strict=True):
            weight = row.get("weight", 1)
            for node, label in zip(nodes, row["labels"][1:], strict=True):
                if label == IGNORED:
                    continue
                if self.smoothing and label in self.label_ids:
                    sharing[node, label] += weight * (1 - self.smoothing)
                    for other in self.label_ids:
                        sharing[node, other] += weight * self.smoothing / len(self.label_ids)
                else:
                    sharing[node, label] += weight
        targets = [(node, label, count) for (node, label), count in sharing.items()]
        if prefix_tree.has_few_shapes():
            if self.row_targets is None:
                missing = -len(targets) % LOSS_MULTIPLE
            else:
                missing = self.row_targets * len(rows) - len(targets)
            targets += [(0, self.pad_id, 0)] * missing
        positions, target_ids, weights = zip(*targets)
        inputs = prefix_tree.tree_inputs(tree)
        inputs["loss_positions"] = torch.tensor(positions)
        inputs["target_ids"] = torch.tensor(target_ids)
        inputs["target_weights"] = torch.tensor(weights, dtype=torch.float32)
        if "row_index" in rows[0]:
            inputs["row_indices"] = [row["row_index"] for row in rows]
        return inputs


class StanceConfig(trl.SFTConfig):
    """SFTConfig of a process that trains as if it were alone, on the GPU that it has now.

    It writes only if it is rank 0.
    """

    def __post_init__(self) -> None:
        gpu = None
        if torch.cuda.is_available() and not self.use_cpu:
            gpu = torch.cuda.current_device()
        with distributed.hide_ranks():
            # It warns of processes left unused.
            logging.getLogger("transformers.training_args").setLevel(logging.ERROR)
            super().__post_init__()
        # The model is on one GPU; the trainer multiplies the batch by all it sees.
        self._n_gpu = min(self._n_gpu, 1)
        if gpu is not None:
            torch.cuda.set_device(gpu)  # TrainingArguments sets the first

    @property
    def device(self) -> torch.device:
        """The GPU that this process has now, or the CPU."""
        device = super().device
        if device.type == "cuda":
            return torch.device("cuda", torch.cuda.current_device())
        return device

    @property
    def process_index(self) -> int:
        """The rank, by which the trainer decides who writes."""
        return distributed.get_rank()[0]


class ValidationSums(NamedTuple):
    """What validation adds up over rows.

    Numbers, or tensors [] on the device: of a batch, of a process, and at last of all processes.
    """

    loss: torch.Tensor | float  # cross-entropy of the answer tokens
    tokens: torch.Tensor | float  # answer tokens
    right: torch.Tensor | float  # rows that get their label
    rows: torch.Tensor | float


class StanceTrainer(trl.SFTTrainer):
    """SFTTrainer whose batches are prefix trees, for one process or several.

    These agree but for dropout's masks. Evaluation reports eval_loss (the mean over answer tokens)
    and eval_accuracy (the most probable of the three labels, as evaluate.py predicts). sharded:
    whether each process holds only a part of the base (fsdp.py), so that all have to make every
    pass over the model at the same time.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole effective batch

    def __init__(
        self, *args: Any, train_rows: list[Example], sharded: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        # trl drops rows without a word, if it finds nothing to learn.
        lost = len(train_rows) - len(self.train_dataset)
        assert not lost, f"{lost} training rows are lost"
        self.sharded = sharded
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        # SFTTrainer makes 4-bit adapters bfloat16, where small updates vanish.
        for weight in self.trained:
            weight.data = weight.data.float()
        # As in run_step: else layers compile again once training has started, while a step is
        # recorded, which fails.
        self.accelerator.autocast_handler = accelerate.utils.AutocastKwargs(
            enabled=True, cache_enabled=False
        )
        self.step_graphs = None
        self.watch = callbacks.StepWatch(
            Path(self.args.output_dir).parent / "non_finite_rows.jsonl", train_rows
        )
        self.loss_window = None
        self.step_loss = torch.zeros((), device=self.args.device)
        # All start from the adapter of rank 0: the sum of it and zeros.
        if distributed.get_rank()[0] > 0:
            torch._foreach_zero_([weight.data for weight in self.trained])
        distributed.sum_tensors([weight.data for weight in self.trained])

    # ---------------------------------------------------------------- speed and memory

    def accelerate(self, checkpoint: bool | None, dropout: bool) -> dict[str, bool] | None:
        """Make the training fast on a GPU; return the plan, for the run record. None on a CPU.

        checkpoint: whether to recompute activations; None to decide by the free memory.
        dropout: whether the adapter has any.
        """
        if not torch.cuda.is_available():
            lora_linear.fuse_adapters(self.model)
            return None
        largest = memory_probe.find_largest_batches(self).largest
        nodes = memory_probe.count_nodes(self, largest)
        # All modules: a loaded base is in evaluation mode, and a later change would compile again.
        self.model.train()
        # The trainer walks over them, longer than a step takes on the GPU.
        parameters = list(self.model.parameters())
        self.model.parameters = lambda recurse=True: iter(parameters)
        plan = self.plan_training(nodes, checkpoint, dropout)
        if plan["dense_weights"] or plan["compiled"]:
            lora_linear.fuse_linears(self.model, plan["dense_weights"])
        lora_linear.fuse_adapters(self.model)
        # The first layer compiles like the others, and checkpoints need it.
        self.model.enable_input_require_grads()
        if plan["compiled"]:
            compilation.compile_layers(
                self.model.get_base_model(), plan["checkpoint"], preserve_rng=dropout
            )
        elif plan["checkpoint"]:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        if plan["graphs"]:
            count_bytes = functools.partial(memory.count_step_bytes, self.model.config)
            self.step_graphs = cuda_graphs.StepGraphs(self.run_step, self.trained, count_bytes)
        return plan

    def plan_training(self, nodes: int, checkpoint: bool | None, dropout: bool) -> dict[str, bool]:
        """Return what compilation.plan_training does for the base.

        For a base in parts, what needs least memory: compiling layers in parts did not end within
        minutes (torch 2.13, on a CPU), and CUDA graphs cannot hold weights that come and go.
        checkpoint=False keeps the activations all the same.
        """
        if self.sharded:
            return {
                "dense_weights": False,
                "checkpoint": checkpoint is not False,
                "compiled": False,
                "graphs": False,
            }
        return compilation.plan_training(self.model.get_base_model(), nodes, checkpoint, dropout)

    # ---------------------------------------------------------------- steps

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict | None], torch.Tensor | int]:
        """Return the micro-batches of one step and the target tokens of all of them.

        None stands for the micro-batches of other processes.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        row_indices = []
        for batch in batches:
            row_indices += batch.pop("row_indices")
        self.watch.begin_step(row_indices)
        target_tokens = sum(batch["target_weights"].sum() for batch in batches)
        return self.leave_own(batches), target_tokens

    def leave_own(self, batches: list[dict]) -> list[dict | None]:
        """Return a step's micro-batches with None for those of other processes.

        With a base in parts, a process that has fewer than others gets one without weight: all
        gather each layer.
        """
        rank, count = distributed.get_rank()
        own = set(distributed.shard(range(len(batches)), 1))
        left = [batch if index in own else None for index, batch in enumerate(batches)]
        extra = len(batches) % count  # so many processes, the first ones, have one more
        if self.sharded and 0 < extra <= rank:
            last = batches[-1]
            left[-1] = {**last, "target_weights": torch.zeros_like(last["target_weights"])}
        return left

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict | None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the loss [] of a micro-batch, its gradients added to those of the step.

        Of several processes: 0, but with the last micro-batch of a step the loss of all of them,
        and the gradients of all processes are added up. inputs: None for a micro-batch of another
        process.
        """
        alone = distributed.get_rank()[1] == 1
        if inputs is not None:
            loss = self.compute_gradients(model, inputs, num_items_in_batch)
            if alone:
                return loss
            self.step_loss += loss
        total = torch.zeros_like(self.step_loss)
        if self.accelerator.sync_gradients:  # the last micro-batch of the step
            for weight in self.trained:
                # At the end of an epoch a process may have no share of the last step.
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
            distributed.sum_tensors([self.step_loss, *(weight.grad for weight in self.trained)])
            total += self.step_loss
            self.step_loss.zero_()
        return total

    def compute_gradients(
        self,
        model: torch.nn.Module,
        inputs: dict,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """Return the loss [] of a micro-batch, its gradients added to those of the step."""
        if self.step_graphs is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            if not model.training:
                model.train()
            loss = self.step_graphs(self._prepare_inputs({**inputs, "items": num_items_in_batch}))
        self.watch.add_loss(loss)
        return loss

    def run_step(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss [] of a micro-batch, its gradients added to those of the step.

        Without a synchronisation, so that it can be recorded. inputs: those of TreeCollator, with
        items, the target tokens of the step.
        """
        # Weights cast for autocast are not cached: a recorded step must cast the current ones at
        # each replay.
        precision = {"dtype": torch.bfloat16, "enabled": self.args.bf16, "cache_enabled": False}
        with torch.autocast(self.args.device.type, **precision):
            loss = target_losses(self.model, self.model.config, inputs).sum() / inputs["items"]
        loss.backward()
        return loss.detach()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return this batch's share [] of the effective batch's mean cross-entropy a target token.

        num_items_in_batch: the target tokens of the effective batch; None: this batch is alone.
        """
        losses = target_losses(model, self.model.config, inputs)
        if num_items_in_batch is None:
            num_items_in_batch = inputs["target_weights"].sum()
        return losses.sum() / num_items_in_batch

    def floating_point_ops(self, inputs: dict) -> int:
        """Return 0: the trainer's count takes no notice of trees, and walks over all parameters."""
        return 0

    def _get_grad_norm(self, model, grad_norm=None):
        """Return the gradient norm of a step, and keep it to be checked."""
        norm = super()._get_grad_norm(model, grad_norm)
        self.watch.add_norm(norm)
        return norm

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log values; then fail if one of them, or a number of the steps before, is not finite."""
        super().log(logs, *args, **kwargs)
        losses = [logs[key] for key in ("loss", "eval_loss") if key in logs]
        self.watch.check(self.state.global_step, losses)

    # ---------------------------------------------------------------- validation

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: "datasets.Dataset | None" = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Compute, log and return loss and accuracy of the validation rows.

        These are self.eval_dataset, and their labels must be answers alone.
        """
        label_ids = chat.encode_labels(self.processing_class)
        was_training = self.model.training
        self.model.eval()
        if self.step_graphs is not None:
            contexts = scoring.find_label_paths(label_ids).contexts
            self.step_graphs.make_room(
                # The end of the turn is predicted after the whole label.
                memory.count_validation_bytes(self.model.config, self.args, len(contexts) + 1)
            )
        with (
            compilation.run_uncompiled(len(self.eval_dataset)),
            prefix_tree.compute_precision(self.model),
            output_head.float32_logits(self.model),
        ):
            sums = self.add_up_validation(label_ids)
        self.model.train(was_training)
        stacked = torch.stack(sums)
        distributed.sum_tensors([stacked])
        totals = ValidationSums(*stacked.tolist())
        metrics = {
            f"{metric_key_prefix}_loss": totals.loss / totals.tokens,
            f"{metric_key_prefix}_accuracy": totals.right / totals.rows,
        }
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def add_up_validation(self, label_ids: list[list[int]]) -> ValidationSums:
        """Return the sums over the validation rows of this process, without waiting for the GPU.

        label_ids: the token ids of each label, as chat.encode_labels returns them. A row is right
        if the most probable of them is its label.
        """
        device = self.args.device
        if all(len(ids) == 1 for ids in label_ids):
            label_tokens = torch.tensor([ids[0] for ids in label_ids], device=device)
            add_up_batch = functools.partial(self.add_up_short, label_tokens)
        else:
            add_up_batch = functools.partial(self.add_up_longer, label_ids)
        loss = torch.zeros((), device=device)
        tokens = torch.zeros((), device=device)
        right = torch.zeros((), device=device)
        own = self.share_rows(range(len(self.eval_dataset)))
        size = self.args.per_device_eval_batch_size
        for start in range(0, len(own), size):
            columns = self.eval_dataset[own[start : start + size]]
            sums = add_up_batch(columns["input_ids"], columns["labels"])
            loss += sums.loss
            tokens += sums.tokens
            right += sums.right
        return ValidationSums(loss, tokens, right, torch.tensor(float(len(own)), device=device))

    def add_up_short(
        self, label_tokens: torch.Tensor, input_ids: list[list[int]], labels: list[list[int]]
    ) -> ValidationSums:
        """Return the sums over a batch, where each label is one of the label_tokens [3].

        input_ids, labels: of each row, as encode_rows returns them.
        """
        rows = [
            {"input_ids": ids, "labels": targets}
            for ids, targets in zip(input_ids, labels, strict=True)
        ]
        collator = TreeCollator(self.processing_class.pad_token_id)  # validation has no smoothing
        inputs = self._prepare_inputs(collator(rows))
        logits = prefix_tree.forward_tree(
            self.model, self.model.config, inputs, inputs["loss_positions"]
        )
        weights = inputs["target_weights"]
        predicted = label_tokens[logits[:, label_tokens].argmax(1)]
        # At the end of a label the target is the end of the turn, which no label begins with.
        right = (weights * (predicted == inputs["target_ids"])).sum()
        return ValidationSums(weigh_losses(logits, inputs).sum(), weights.sum(), right, len(rows))

    def add_up_longer(
        self, label_ids: list[list[int]], input_ids: list[list[int]], labels: list[list[int]]
    ) -> ValidationSums:
        """Return the sums over a batch, where a label has several tokens: its first does not tell.

        label_ids: the token ids of each label. input_ids, labels: as for add_up_short.
        """
        prompts = []
        answers = []
        given = []  # the index of each row's label
        for ids, targets in zip(input_ids, labels, strict=True):
            start = targets.count(IGNORED)
            answer = ids[start:]
            prompts.append(ids[:start])
            answers.append(answer)
            given.append(find_label(answer, label_ids))
        paths = scoring.find_label_paths(label_ids)
        nll, losses = scoring.score_answers(
            self.model, self.processing_class, prompts, answers, paths
        )
        right = nll.argmin(1) == torch.tensor(given).to(nll.device, non_blocking=True)
        tokens = sum(len(answer) for answer in answers)
        return ValidationSums(losses.sum(), tokens, right.sum(), len(answers))

    def share_rows(self, indices: Sequence) -> list:
        """Return which of these validation rows this process predicts, in whole batches.

        With a base in parts, all of them.
        """
        if self.sharded:
            return list(indices)
        return distributed.shard(indices, self.args.per_device_eval_batch_size)

    # ---------------------------------------------------------------- runs and checkpoints

    def train(
        self, resume_from_checkpoint: str | None = None, **kwargs: Any
    ) -> "transformers.trainer_utils.TrainOutput":
        """Train from the first step, or on from a checkpoint as if nothing had interrupted it."""
        if resume_from_checkpoint:
            self.loss_window = read_loss_window(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _run_epoch(self, *args, **kwargs):
        """Train for an epoch, or what is left of it."""
        if self.state.global_step >= self.state.max_steps:
            # Resumed from the last checkpoint: the trainer would make a step more than max_steps.
            return
        if self.loss_window:
            self._tr_loss.fill_(self.loss_window["loss"])
            self._globalstep_last_logged = self.loss_window["logged_step"]
            self.loss_window = None
        super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model, trial):
        """Save a checkpoint on rank 0 and mark it complete, while the others wait.

        Only then may older ones go.
        """
        self.watch.check(self.state.global_step)  # all processes fail, or none
        if self.args.process_index == 0:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            window = {"loss": self._tr_loss.item(), "logged_step": self._globalstep_last_logged}
            super()._save_checkpoint(model, trial)
            files.write_json(folder / LOSS_WINDOW, window)
            checkpoints.mark_complete(folder)
            checkpoints.remove_old(folder.parent.parent, self.state.best_model_checkpoint)
        self.state.best_model_checkpoint = distributed.take_from_first(
            self.state.best_model_checkpoint
        )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none beside the checkpoints.

        trl's knows nothing of this run, and evaluate.py writes the adapter's.
        """


def read_loss_window(folder: Path) -> LossWindow:
    """Return the losses since the last log line that lie beside a checkpoint."""
    return records.read_typed(folder / LOSS_WINDOW, LossWindow, "sum of losses", "start a new run")


def target_losses(
    model: torch.nn.Module,
    config: "transformers.PretrainedConfig",
    inputs: dict[str, torch.Tensor],
) -> torch.Tensor:
    """Return the cross-entropy [K] of each target token, times the rows that share it.

    inputs: those of TreeCollator.
    """
    logits = prefix_tree.forward_tree(model, config, inputs, inputs["loss_positions"])
    return weigh_losses(logits, inputs)


def weigh_losses(logits: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the cross-entropy [K] of logits [K, vocabulary] for the targets.

    Each is times the rows that share it.
    """
    losses = torch.nn.functional.cross_entropy(
        logits.float(), inputs["target_ids"], reduction="none"
    )
    return losses * inputs["target_weights"]
