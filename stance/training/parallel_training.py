"""Training by the processes of torchrun: each computes its share of a step's micro-batches, then they add gradients up.

Every process walks through all batches as a single one would and skips what is not its share, so that steps, their rows
and checkpoints do not depend on the number of processes, and a run can be resumed with another number of them. trl and
accelerate take each process for the only one: their DistributedDataParallel would deal out other rows, repeat some at
the end of an epoch, and miss gradients that recorded steps leave (cuda_graphs.StepGraphs).
"""

import logging

import torch
import trl

from stance.common import distributed
from stance.training import training


class RankConfig(trl.SFTConfig):
    """SFTConfig of a process that trains on the GPU it has now as if it were alone, and writes only if it is rank 0."""

    def __post_init__(self):
        place = torch.cuda.current_device() if torch.cuda.is_available() and not self.use_cpu else None
        with distributed.hide_ranks():
            logging.getLogger("transformers.training_args").setLevel(logging.ERROR)  # it warns of processes left unused
            super().__post_init__()
        self._n_gpu = min(self._n_gpu, 1)  # the model is on one GPU; the trainer multiplies the batch by all it sees
        if place is not None:
            torch.cuda.set_device(place)  # TrainingArguments sets the first

    @property
    def device(self):
        device = super().device
        return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device

    @property
    def process_index(self):
        return distributed.get_rank()[0]


class RankTrainer(training.TreeTrainer):
    """TreeTrainer for one process or several, which agree except that dropout draws other masks."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.step_loss = torch.zeros((), device=self.args.device)
        if distributed.get_rank()[0] > 0:  # all start from the adapter of rank 0: the sum of it and zeros
            torch._foreach_zero_([weight.data for weight in self.trained])
        distributed.sum_tensors([weight.data for weight in self.trained])

    def get_batch_samples(self, *args):
        """Return the micro-batches of one step, None for those of other processes, and the target tokens of all."""
        batches, items = super().get_batch_samples(*args)
        return self.leave_own(batches), items

    def leave_own(self, batches):
        """Return a step's micro-batches with None for those of other processes."""
        own = set(distributed.take_share(range(len(batches)), 1))
        return [batch if number in own else None for number, batch in enumerate(batches)]

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Return the loss of a micro-batch; of several processes, that of all micro-batches with the last of a step."""
        alone = distributed.get_rank()[1] == 1
        if inputs is not None:
            loss = super().training_step(model, inputs, num_items_in_batch)
            if alone:
                return loss
            self.step_loss += loss
        total = torch.zeros_like(self.step_loss)
        if self.accelerator.sync_gradients:  # the last micro-batch of the step
            for weight in self.trained:
                if weight.grad is None:  # at the end of an epoch a process may have no share of the last step
                    weight.grad = torch.zeros_like(weight)
            distributed.sum_tensors([self.step_loss, *(weight.grad for weight in self.trained)])
            total += self.step_loss
            self.step_loss.zero_()
        return total

    def create_model_card(self, *args, **kwargs):
        """Write none beside the checkpoints: trl's knows nothing of this run, and evaluate.py writes the adapter's."""

    def _save_checkpoint(self, model, trial):
        """Let rank 0 write a checkpoint while the others wait for it, and for which one is the best."""
        self.watch.check(self.state.global_step)  # all processes stop, or none
        if self.args.process_index == 0:
            super()._save_checkpoint(model, trial)
        self.state.best_model_checkpoint = distributed.take_from_first(self.state.best_model_checkpoint)
