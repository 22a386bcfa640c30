"""What stands beside a training: signals that end it with a checkpoint, losses that are no numbers, its log and lines."""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import torch
import transformers
from tqdm import tqdm

from stance.common import distributed, errors, files

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and how clusters announce that time is up


class Interruption(transformers.TrainerCallback):
    """While it is entered, SIGINT and SIGTERM end the training after this step with a checkpoint; a 2nd SIGINT at once.

    hint: the words that tell how to go on. The exit code is 128 and the number of the signal, as shells count.
    """

    def __init__(self, hint):
        self.hint, self.number = hint, 0

    def __enter__(self):
        self.before = {number: signal.signal(number, self.receive) for number in SIGNALS}
        return self

    def __exit__(self, *problem):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def receive(self, number, frame):
        if self.number and number == signal.SIGINT:
            os._exit(128 + number)
        if self.number:  # clusters may send SIGTERM to a process and to the one that started it, which passes it on
            return
        self.number = number
        os.write(
            2, b"\nstopping after this step with a checkpoint; Ctrl-C stops at once\n"
        )  # print may be busy

    def agree(self):
        """Return the number of the signal that any process received, or 0."""
        self.number = distributed.find_highest(self.number)
        return self.number

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_training_stop or state.epoch % 1 == 0:
            return  # the epoch ends: it is validated and saved anyway, and a checkpoint before that would skip it
        if (
            distributed.get_rank()[1] > 1 and not control.should_log
        ):  # asking the others waits for all GPUs
            return
        control.should_save = bool(self.agree())

    def on_save(self, args, state, control, **kwargs):
        if not self.agree():
            return
        if state.is_world_process_zero:
            print(
                f"\ninterrupted: checkpoint-{state.global_step} is saved; {self.hint}", flush=True
            )
        raise SystemExit(128 + self.number)


class StepWatch:
    """Keeps the losses and gradient norms of the last steps where they were computed, so that no step waits for a GPU.

    check is called when values are read anyway: at log lines and before a checkpoint is saved. It stops the run if one
    is not finite, and writes the rows of the first such step to path.
    """

    def __init__(self, path, rows):
        self.path, self.rows, self.steps = path, rows, []

    def begin_step(self, indices):
        """Note which rows (indices in the training data) the next step has."""
        self.steps.append({"row_indices": indices, "losses": [], "norm": None})

    def add_loss(self, loss):
        self.steps[-1]["losses"].append(loss.detach())

    def add_norm(self, norm):
        self.steps[-1]["norm"] = norm

    def check(self, last, values=()):
        """Stop unless all losses, norms and values are finite; last: the number of the newest step."""
        norms = [step["norm"] for step in self.steps]
        losses = [sum(step["losses"], torch.zeros_like(step["norm"])) for step in self.steps]
        pairs = list(map(torch.stack, zip(losses, norms, strict=True)))
        pairs = torch.stack(pairs).tolist() if pairs else []  # waits for the GPU once
        for index, (loss, norm) in enumerate(pairs):
            if not math.isfinite(loss) or not math.isfinite(norm):
                number = last - len(pairs) + 1 + index
                self.save_rows(
                    {"step": number, "loss": str(loss), "grad_norm": str(norm)},
                    self.steps[index]["row_indices"],
                )
                what = f"loss {loss:g} and gradient norm {norm:g} at step {number}"
                hint = f"look at its rows in {self.path}, lower LEARNING_RATE, start a new run"
                errors.fail_below_bar(f"training stopped, {what}: {hint}")
        if not all(map(math.isfinite, values)):
            hint = "lower LEARNING_RATE and start a new run"
            errors.fail_below_bar(
                f"training stopped, the validation loss is no number at step {last}: {hint}"
            )
        self.steps.clear()

    def save_rows(self, head, indices):
        """Write the rows of a step, which every process knows, each with what is in head (text: JSON has no NaN)."""
        keys = ("id", "topic", "text", "label")
        if distributed.get_rank()[0] == 0:
            rows = ({**head, **{key: self.rows[index][key] for key in keys}} for index in indices)
            files.write_jsonl(self.path, rows)


class JsonlLog(transformers.TrainerCallback):
    """Append every log entry of the trainer to a JSON Lines file, with its step."""

    def __init__(self, path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        if (
            state.is_world_process_zero and self.path.exists()
        ):  # resumed: drop what came after the checkpoint
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            entries = [
                json.loads(line) for line in lines if line.endswith("\n")
            ]  # a kill may cut the last one off
            files.write_jsonl(
                self.path, (entry for entry in entries if entry["step"] <= state.global_step)
            )
        if state.best_global_step:  # the run folder may have moved since the checkpoint was saved
            best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
            state.best_model_checkpoint = str(best) if best.is_dir() else None

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
                file.flush()
                os.fsync(file.fileno())  # before a checkpoint counts, the log up to it is on disk


class TrainingLines(transformers.TrainerCallback):
    """Print a line for each log entry of the trainer, and a progress bar below them on a terminal.

    A line of training has the mean loss since the line before, the learning rate, the rows a second without what
    validation and checkpoints take, and the time that is left with them.
    """

    def __init__(self):
        self.shown = False  # while nothing is trained

    def on_train_begin(self, args, state, control, **kwargs):
        self.shown = state.is_world_process_zero
        self.rows = (
            args.per_device_train_batch_size * args.gradient_accumulation_steps
        )  # a step, of all processes
        self.first_step, self.started = state.global_step, time.monotonic()
        self.begin_pace(state)
        if self.shown:
            steps = {"total": state.max_steps, "initial": state.global_step}
            self.bar = tqdm(
                **steps,
                unit="step",
                leave=False,
                dynamic_ncols=True,
                disable=not sys.stderr.isatty(),
            )

    def begin_pace(self, state):
        """Count the rows a second from this step on."""
        self.pace_step, self.pace_started = state.global_step, time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if self.shown:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not self.shown or not logs:
            return
        if "eval_loss" in logs:
            quality = f"loss {logs['eval_loss']:.4f}, accuracy {logs['eval_accuracy']:.3f}"
            self.print_line(f"epoch {state.epoch:.3g}: validation {quality}")
        elif "loss" in logs:
            now = time.monotonic()
            pace = self.rows * (state.global_step - self.pace_step) / (now - self.pace_started)
            left = (
                (now - self.started)
                / (state.global_step - self.first_step)
                * (state.max_steps - state.global_step)
            )
            step = f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"
            numbers = (
                f"loss {logs['loss']:.4f}   rate {logs['learning_rate']:.1e}   {pace:.1f} rows/s"
            )
            self.print_line(f"{step}   {numbers}   {tqdm.format_interval(left)} left")
            self.begin_pace(state)

    def on_evaluate(self, args, state, control, **kwargs):
        self.begin_pace(state)

    def on_save(self, args, state, control, **kwargs):
        self.begin_pace(state)

    def on_train_end(self, args, state, control, **kwargs):
        if self.shown:
            self.bar.close()

    def print_line(self, line):
        tqdm.write(line)  # above the bar
        sys.stdout.flush()
