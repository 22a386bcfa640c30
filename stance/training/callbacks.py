"""What stands beside a training.

Signals that end it with a checkpoint, losses that are no numbers, its log and its lines.
"""

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import transformers
from tqdm import tqdm

from stance.common import distributed, errors, files, records
from stance.common.types import Example, StateLog

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and how clusters announce that time is up


class Interruption(transformers.TrainerCallback):
    """While it is entered, SIGINT and SIGTERM end the training after this step with a checkpoint.

    A second SIGINT ends the process at once. hint: the words that tell how to go on. The exit code
    is 128 and the number of the signal, as shells count.
    """

    def __init__(self, hint: str) -> None:
        self.hint = hint
        self.number = 0  # of the signal that came; 0: none

    def __enter__(self) -> "Interruption":
        self.before = {number: signal.signal(number, self.receive) for number in SIGNALS}
        return self

    def __exit__(self, *problem: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note a signal, for the end of the step. A handler of signal.signal."""
        if self.number and number == signal.SIGINT:
            os._exit(128 + number)
        # Clusters may send SIGTERM to a process and to the one that started it, which passes it on.
        if self.number:
            return
        self.number = number
        with contextlib.suppress(OSError):  # nobody reads on
            # print may be busy
            os.write(2, b"\nstopping after this step with a checkpoint; Ctrl-C stops at once\n")

    def agree(self) -> int:
        """Return the number of the signal that any process received, or 0."""
        self.number = distributed.find_highest(self.number)
        return self.number

    def on_step_end(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Ask for a checkpoint if a signal came."""
        if control.should_training_stop or state.epoch % 1 == 0:
            # The epoch ends: it is validated and saved anyway, and a checkpoint before that would
            # skip it.
            return
        if distributed.get_rank()[1] > 1 and not control.should_log:
            return  # asking the others waits for all GPUs
        control.should_save = bool(self.agree())

    def on_save(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """End the script once the checkpoint is saved, if a signal came."""
        if not self.agree():
            return
        if state.is_world_process_zero:
            saved = f"checkpoint-{state.global_step} is saved"
            print(f"\ninterrupted: {saved}; {self.hint}", flush=True)
        raise SystemExit(128 + self.number)


class StepWatch:
    """Keeps the losses and gradient norms of the last steps where they were computed.

    So no step waits for a GPU. check is called when values are read anyway: at log lines and before
    a checkpoint is saved. It ends the run if one is not finite, and writes the rows of the first
    such step to path. rows: the training data.
    """

    def __init__(self, path: Path, rows: list[Example]) -> None:
        self.path = path
        self.rows = rows
        self.steps = []  # {"row_indices": list, "losses": list of tensors, "norm": tensor}

    def begin_step(self, indices: list[int]) -> None:
        """Note which rows (indices in the training data) the next step has."""
        self.steps.append({"row_indices": indices, "losses": [], "norm": None})

    def add_loss(self, loss: torch.Tensor) -> None:
        """Keep the loss [] of a micro-batch of this step."""
        self.steps[-1]["losses"].append(loss.detach())

    def add_norm(self, norm: torch.Tensor) -> None:
        """Keep the gradient norm [] of this step."""
        self.steps[-1]["norm"] = norm

    def check(self, last: int, values: Iterable[float] = ()) -> None:
        """Fail unless the losses and norms of all kept steps, and other values, are finite.

        Then forget the steps. last: the number of the newest step. values: validation losses.
        """
        numbers = self.read_numbers()
        first = last - len(numbers) + 1
        for index, (loss, norm) in enumerate(numbers):
            if not math.isfinite(loss) or not math.isfinite(norm):
                step = first + index
                head = {"step": step, "loss": str(loss), "grad_norm": str(norm)}
                self.save_rows(head, self.steps[index]["row_indices"])
                what = f"loss {loss:g} and gradient norm {norm:g} at step {step}"
                hint = f"look at its rows in {self.path}, lower LEARNING_RATE, start a new run"
                errors.fail_below_bar(f"training stopped, {what}: {hint}")
        if not all(math.isfinite(value) for value in values):
            what = f"the validation loss is no number at step {last}"
            hint = "lower LEARNING_RATE and start a new run"
            errors.fail_below_bar(f"training stopped, {what}: {hint}")
        self.steps.clear()

    def read_numbers(self) -> list[tuple[float, float]]:
        """Return (loss, gradient norm) of each kept step; waits for the GPU once."""
        if not self.steps:
            return []
        norms = [step["norm"] for step in self.steps]
        losses = [sum(step["losses"], torch.zeros_like(step["norm"])) for step in self.steps]
        table = torch.stack([torch.stack(losses), torch.stack(norms)], dim=1)  # [steps, 2]
        return [(loss, norm) for loss, norm in table.tolist()]

    def save_rows(self, head: dict[str, Any], indices: list[int]) -> None:
        """Write the rows of a step, which every process knows, each with what is in head.

        Numbers in head have to be text if they are not finite: JSON has no NaN.
        """
        if distributed.get_rank()[0] > 0:
            return
        rows = []
        for index in indices:
            row = {key: self.rows[index][key] for key in ("id", "topic", "text", "label")}
            rows.append({**head, **row})
        files.write_jsonl(self.path, rows)


def read_log(path: Path) -> list[StateLog]:
    """Return the entries of a training's log, without a last line that a kill has cut off."""
    entries = []
    with files.open_file(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                entry = files.decode_json(line)
            except (ValueError, RecursionError) as problem:
                errors.fail(f"{path}, line {number} is not valid JSON ({problem}): delete the line")
            problem = records.describe_problem(entry, StateLog)
            if problem:
                errors.fail(f"{path}, line {number} is no log entry, {problem}: delete the line")
            entries.append(entry)
    return entries


class JsonlLog(transformers.TrainerCallback):
    """Append every log entry of the trainer to a JSON Lines file, with its step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Bring log and state to where the checkpoint of a resumed run left them."""
        if state.is_world_process_zero and self.path.exists():
            self.drop_later(state.global_step)
        if state.best_global_step:  # the run folder may have moved since the checkpoint was saved
            best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
            state.best_model_checkpoint = str(best) if best.is_dir() else None

    def drop_later(self, last: int) -> None:
        """Drop the entries of steps after this one, and a line that a kill has cut off."""
        entries = read_log(self.path)
        files.write_jsonl(self.path, [entry for entry in entries if entry["step"] <= last])

    def on_log(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append an entry."""
        if state.is_world_process_zero:
            line = files.encode_line({"step": state.global_step, **logs})
            with files.open_to_append(self.path) as file:
                # On disk before a checkpoint counts.
                files.append_bytes(file, line.encode("utf-8", errors="replace"))


class TrainingLines(transformers.TrainerCallback):
    """Print a line for each log entry of the trainer, and a progress bar below them on a terminal.

    A line of training has the mean loss since the line before, the learning rate, the rows a second
    without what validation and checkpoints take, and the time that is left with them.
    """

    def __init__(self) -> None:
        self.shown = False  # while nothing is trained

    def on_train_begin(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Open the bar, and begin to measure time."""
        self.shown = state.is_world_process_zero
        # rows a step, of all processes
        self.rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
        self.first_step = state.global_step
        self.started = time.monotonic()
        self.begin_pace(state)
        if self.shown:
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                unit="step",
                leave=False,
                dynamic_ncols=True,
                disable=not sys.stderr.isatty(),
            )

    def begin_pace(self, state: transformers.TrainerState) -> None:
        """Count the rows a second from this step on."""
        self.pace_step = state.global_step
        self.pace_started = time.monotonic()

    def on_step_end(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Move the bar on."""
        if self.shown:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print the line of a validation or of the steps since the line before."""
        if not self.shown or not logs:
            return
        if "eval_loss" in logs:
            quality = f"loss {logs['eval_loss']:.4f}, accuracy {logs['eval_accuracy']:.3f}"
            self.print_line(f"epoch {state.epoch:.3g}: validation {quality}")
        elif "loss" in logs:
            now = time.monotonic()
            pace = self.rows * (state.global_step - self.pace_step) / (now - self.pace_started)
            seconds_a_step = (now - self.started) / (state.global_step - self.first_step)
            left = seconds_a_step * (state.max_steps - state.global_step)
            width = len(str(state.max_steps))
            self.print_line(
                f"step {state.global_step:>{width}}/{state.max_steps}"
                f"   loss {logs['loss']:.4f}"
                f"   rate {logs['learning_rate']:.1e}"
                f"   {pace:.1f} rows/s"
                f"   {tqdm.format_interval(left)} left"
            )
            self.begin_pace(state)

    def on_evaluate(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Leave the validation out of the rows a second."""
        self.begin_pace(state)

    def on_save(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Leave the checkpoint out of the rows a second."""
        self.begin_pace(state)

    def on_train_end(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Close the bar."""
        if self.shown:
            self.bar.close()

    def print_line(self, line: str) -> None:
        """Print a line above the bar."""
        tqdm.write(line)
        sys.stdout.flush()
