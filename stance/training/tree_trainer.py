"""The trainer: trl's SFTTrainer over prefix trees, on one GPU or several, with the base whole or in parts.

Batches are merged into trees, the loss is on chosen tokens, and validation answers as evaluate.py does. Of several
processes each walks through all batches as a single one would and skips what is not its share; then they add gradients
up. So steps, their rows and checkpoints do not depend on the number of processes, and a run can be resumed with another
number of them. trl and accelerate take each process for the only one: their DistributedDataParallel would deal out other
rows, repeat some at the end of an epoch, and miss gradients that recorded steps leave (cuda_graphs.StepGraphs).
"""

import collections
import functools
import logging
from pathlib import Path

import accelerate
import torch
import trl

from stance.common import distributed, files
from stance.model import chat, compilation, cuda_graphs, lora_linear, memory, scoring
from stance.training import callbacks, checkpoints, memory_probe
from stance.tree import prefix_tree

LOSS_WINDOW = "loss_window.json"  # of a checkpoint: what the next log line has to average beside the steps to come
IGNORED = -100  # transformers' label of a token without loss


def encode_rows(tokenizer, rows, whole_sequence=False):
    """Return training columns for split rows: input_ids, and labels that are IGNORED outside the answer.

    The answer is the label and the end of the turn. With whole_sequence every token but the first is trained on.
    """
    pairs = [(row["topic"], row["text"]) for row in rows]
    prompt_ids = chat.encode_examples(tokenizer, pairs)
    full_ids = chat.encode_examples(tokenizer, pairs, [row["label"] for row in rows])
    starts = [1 if whole_sequence else len(ids) for ids in prompt_ids]
    masked = [[IGNORED] * start + ids[start:] for start, ids in zip(starts, full_ids, strict=True)]
    return {"input_ids": full_ids, "labels": masked}


class TreeCollator:
    """Merge a batch of rows into one prefix tree with the targets of its loss.

    Adds to prefix_tree.tree_inputs: loss_positions [K] the nodes whose next token is predicted, target_ids [K] that token,
    target_weights [K] how many rows share the prediction. Rows with a row_index (in their file) give the list row_indices.
    """

    def __init__(self, pad_id):
        self.pad_id = pad_id

    def __call__(self, rows):
        # The last token predicts nothing, so it needs no node.
        tree = prefix_tree.merge_prefixes([row["input_ids"][:-1] for row in rows], self.pad_id)
        shared = collections.Counter(
            (node, label)
            for row, nodes in zip(rows, tree.nodes, strict=True)
            for node, label in zip(nodes, row["labels"][1:], strict=True)
            if label != IGNORED
        )
        inputs = prefix_tree.tree_inputs(tree)
        inputs["loss_positions"] = torch.tensor([node for node, _ in shared])
        inputs["target_ids"] = torch.tensor([label for _, label in shared])
        inputs["target_weights"] = torch.tensor(list(shared.values()), dtype=torch.float32)
        if "row_index" in rows[0]:
            inputs["row_indices"] = [row["row_index"] for row in rows]
        return inputs


class StanceConfig(trl.SFTConfig):
    """SFTConfig of a process that trains on the GPU it has now as if it were alone, and writes only if it is rank 0."""

    def __post_init__(self):
        gpu = (
            torch.cuda.current_device() if torch.cuda.is_available() and not self.use_cpu else None
        )
        with distributed.hide_ranks():
            logging.getLogger("transformers.training_args").setLevel(
                logging.ERROR
            )  # it warns of processes left unused
            super().__post_init__()
        self._n_gpu = min(
            self._n_gpu, 1
        )  # the model is on one GPU; the trainer multiplies the batch by all it sees
        if gpu is not None:
            torch.cuda.set_device(gpu)  # TrainingArguments sets the first

    @property
    def device(self):
        device = super().device
        return (
            torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
        )

    @property
    def process_index(self):
        return distributed.get_rank()[0]


class StanceTrainer(trl.SFTTrainer):
    """SFTTrainer whose batches are prefix trees, for one process or several, which agree but for dropout's masks.

    Evaluation reports eval_loss (the mean over answer tokens) and eval_accuracy (the most probable of the three labels,
    as evaluate.py answers). sharded: whether each process holds only a part of the base (fsdp.py), so that all have to
    make every pass over the model at the same time.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole effective batch

    def __init__(self, *args, train_rows, sharded=False, **kwargs):
        super().__init__(*args, **kwargs)
        lost = len(train_rows) - len(self.train_dataset)
        assert not lost, (
            f"{lost} training rows are lost"
        )  # trl drops rows without a word, if it finds nothing to learn
        self.sharded = sharded
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        for (
            weight
        ) in self.trained:  # SFTTrainer makes 4-bit adapters bfloat16, where small updates vanish
            weight.data = weight.data.float()
        # As in run_step: else layers compile again once training has started, while a step is recorded, which fails.
        self.accelerator.autocast_handler = accelerate.utils.AutocastKwargs(
            enabled=True, cache_enabled=False
        )
        self.step_graphs = None
        self.watch = callbacks.StepWatch(
            Path(self.args.output_dir).parent / "non_finite_rows.jsonl", train_rows
        )
        self.loss_window = None
        self.step_loss = torch.zeros((), device=self.args.device)
        if (
            distributed.get_rank()[0] > 0
        ):  # all start from the adapter of rank 0: the sum of it and zeros
            torch._foreach_zero_([weight.data for weight in self.trained])
        distributed.sum_tensors([weight.data for weight in self.trained])

    # ---------------------------------------------------------------- speed and memory

    def accelerate(self, checkpoint, dropout):
        """Make the training fast on a GPU; return what was chosen, for the run record. None on a CPU.

        checkpoint: True or False, or None to decide by the free memory. dropout: whether the adapter has any.
        """
        if not torch.cuda.is_available():
            lora_linear.fuse_adapters(self.model)
            return None
        nodes = memory_probe.count_nodes(self, memory_probe.find_largest_batches(self)[-1])
        self.model.train()  # all modules: a loaded base is in evaluation mode, and a later change would compile again
        parameters = list(
            self.model.parameters()
        )  # the trainer walks over them, longer than a step takes on the GPU
        self.model.parameters = lambda recurse=True: iter(parameters)
        plan = self.plan_training(nodes, checkpoint, dropout)
        if plan["dense_weights"] or plan["compiled"]:
            lora_linear.fuse_linears(self.model, plan["dense_weights"])
        lora_linear.fuse_adapters(self.model)
        self.model.enable_input_require_grads()  # the first layer compiles like the others, and checkpoints need it
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

    def plan_training(self, nodes, checkpoint, dropout):
        """Return what compilation.plan_training does for the base; for one in parts, what needs least memory.

        Compiling layers in parts did not end within minutes (torch 2.13, on a CPU), and CUDA graphs cannot hold weights
        that come and go. checkpoint=False keeps the activations all the same.
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

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Return the micro-batches of one step, None for those of other processes, and the target tokens of all."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.watch.begin_step([index for batch in batches for index in batch.pop("row_indices")])
        target_tokens = sum(batch["target_weights"].sum() for batch in batches)
        return self.leave_own(batches), target_tokens

    def leave_own(self, batches):
        """Return a step's micro-batches with None for those of other processes.

        With a base in parts, a process that has fewer than others gets one without weight: all gather each layer.
        """
        rank, count = distributed.get_rank()
        own = set(distributed.shard(range(len(batches)), 1))
        left = [batch if number in own else None for number, batch in enumerate(batches)]
        if self.sharded and 0 < len(batches) % count <= rank:
            left[-1] = {
                **batches[-1],
                "target_weights": torch.zeros_like(batches[-1]["target_weights"]),
            }
        return left

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Return the loss of a micro-batch; of several processes, that of all micro-batches with the last of a step.

        inputs: None for a micro-batch of another process.
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
                if (
                    weight.grad is None
                ):  # at the end of an epoch a process may have no share of the last step
                    weight.grad = torch.zeros_like(weight)
            distributed.sum_tensors([self.step_loss, *(weight.grad for weight in self.trained)])
            total += self.step_loss
            self.step_loss.zero_()
        return total

    def compute_gradients(self, model, inputs, num_items_in_batch):
        """Return the loss of a micro-batch, its gradients added to those of the effective batch."""
        if self.step_graphs is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            if not model.training:
                model.train()
            loss = self.step_graphs(self._prepare_inputs({**inputs, "items": num_items_in_batch}))
        self.watch.add_loss(loss)
        return loss

    def run_step(self, inputs):
        """Forward and backward of one micro-batch without a synchronisation, so that it can be recorded."""
        # Weights cast for autocast are not cached: a recorded step must cast the current ones at each replay.
        precision = {"dtype": torch.bfloat16, "enabled": self.args.bf16, "cache_enabled": False}
        with torch.autocast(self.args.device.type, **precision):
            loss = target_losses(self.model, self.model.config, inputs).sum() / inputs["items"]
        loss.backward()
        return loss.detach()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return this batch's share of the effective batch's mean cross-entropy a target token."""
        losses = target_losses(model, self.model.config, inputs)
        return losses.sum() / (
            inputs["target_weights"].sum() if num_items_in_batch is None else num_items_in_batch
        )

    def floating_point_ops(self, inputs):
        """Return 0: the trainer's count would take no notice of trees, and walks over all parameters."""
        return 0

    def _get_grad_norm(self, model, grad_norm=None):
        """Return the gradient norm of a step, and keep it to be checked."""
        norm = super()._get_grad_norm(model, grad_norm)
        self.watch.add_norm(norm)
        return norm

    def log(self, logs, *args, **kwargs):
        """Log values, then stop if one of them is not finite."""
        super().log(logs, *args, **kwargs)
        self.watch.check(
            self.state.global_step, [logs[key] for key in ("loss", "eval_loss") if key in logs]
        )

    # ---------------------------------------------------------------- validation

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Compute, log and return loss and accuracy of the validation rows, whose labels must be answers alone."""
        answers = chat.encode_labels(self.processing_class)
        label_ids = torch.tensor([ids[0] for ids in answers], device=self.args.device)
        loss, tokens, right = torch.zeros(3, device=self.args.device)
        was_training = self.model.training
        self.model.eval()
        if self.step_graphs is not None:
            self.step_graphs.make_room(memory.count_validation_bytes(self.model.config, self.args))
        with (
            compilation.run_uncompiled(len(self.eval_dataset)),
            prefix_tree.compute_precision(self.model),
        ):
            indices, size = (
                self.share_rows(range(len(self.eval_dataset))),
                self.args.per_device_eval_batch_size,
            )
            for start in range(0, len(indices), size):
                columns = self.eval_dataset[indices[start : start + size]]
                rows = [
                    dict(zip(columns, values, strict=True))
                    for values in zip(*columns.values(), strict=True)
                ]
                inputs = self._prepare_inputs(self.data_collator(rows))
                logits = prefix_tree.forward_tree(
                    self.model, self.model.config, inputs, inputs["loss_positions"]
                )
                weights, best = inputs["target_weights"], label_ids[logits[:, label_ids].argmax(1)]
                loss += weigh_losses(logits, inputs).sum()
                tokens += weights.sum()
                right += (
                    weights * (best == inputs["target_ids"])
                ).sum()  # an end of turn is never the best
        self.model.train(was_training)
        if any(
            len(ids) > 1 for ids in answers
        ):  # a label's first token does not say which label it is
            right = torch.tensor(float(self.count_right(answers)), device=self.args.device)
        sums = torch.stack(
            [loss, tokens, right, torch.tensor(float(len(indices)), device=self.args.device)]
        )
        distributed.sum_tensors([sums])
        loss, tokens, right, rows = sums.tolist()
        metrics = {
            f"{metric_key_prefix}_loss": loss / tokens,
            f"{metric_key_prefix}_accuracy": right / rows,
        }
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def share_rows(self, indices):
        """Return which of these validation rows this process answers, in whole batches; with a base in parts, all."""
        return (
            list(indices)
            if self.sharded
            else distributed.shard(indices, self.args.per_device_eval_batch_size)
        )

    def count_right(self, answers):
        """Return how many of this process's rows get their label by the log-probabilities of all its tokens."""
        columns = self.eval_dataset[:]
        rows = []  # (token ids of the prompt, of the answer)
        for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True):
            start = labels.count(IGNORED)
            rows.append((ids[:start], ids[start:]))
        own = self.share_rows(
            sorted(rows)
        )  # score_prompts puts them into that order: batches are those of one process
        if not own:
            return 0
        asked, given = zip(*own, strict=True)
        with compilation.run_uncompiled(len(rows)):
            size = self.args.per_device_eval_batch_size
            scores = scoring.score_prompts(self.model, self.processing_class, asked, size)
        picked = [answers[index] for index in scores.nll.argmin(1).tolist()]
        return sum(ids[: len(label)] == label for ids, label in zip(given, picked, strict=True))

    # ---------------------------------------------------------------- runs and checkpoints

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Train from the first step, or on from a checkpoint, as if there had been no interruption."""
        if resume_from_checkpoint:
            self.loss_window = files.read_json(
                Path(resume_from_checkpoint) / LOSS_WINDOW, "start a new run"
            )
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _run_epoch(self, *args, **kwargs):
        """Train for an epoch, or what is left of it."""
        if self.state.global_step >= self.state.max_steps:
            return  # resumed from the last checkpoint: the trainer would make a step more than max_steps
        if self.loss_window:
            self._tr_loss.fill_(self.loss_window["loss"])
            self._globalstep_last_logged = self.loss_window["logged_step"]
            self.loss_window = None
        super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model, trial):
        """Save a checkpoint on rank 0 and mark it complete, while the others wait; only then may older ones go."""
        self.watch.check(self.state.global_step)  # all processes stop, or none
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

    def create_model_card(self, *args, **kwargs):
        """Write none beside the checkpoints: trl's knows nothing of this run, and evaluate.py writes the adapter's."""


def target_losses(model, config, inputs):
    """Return the cross-entropy [K] of each target token, weighted by the rows that share it."""
    return weigh_losses(
        prefix_tree.forward_tree(model, config, inputs, inputs["loss_positions"]), inputs
    )


def weigh_losses(logits, inputs):
    """Return the cross-entropy [K] of logits [K, vocabulary] for the targets, times the rows that share each."""
    losses = torch.nn.functional.cross_entropy(
        logits.float(), inputs["target_ids"], reduction="none"
    )
    return losses * inputs["target_weights"]
