"""Measure training speed and memory of gemma-2-9b on this GPU: the published recipe, trl at its best, this project.

Builds a random gemma-2-9b in --model if that folder does not exist yet (18.5 GB), or measures the model it holds.
Writes all figures with versions and device to --output; prints the table. With --check it measures no speed, but how
far loss, logits and gradients of the accelerated trainer are from those of the flat batch.

    PYTHONPATH=. python benchmarks/train_throughput.py --tokenizer path/to/gemma-tokenizer
    PYTHONPATH=. python benchmarks/train_throughput.py --model path/to/gemma-2-9b-it --only ours-32 ours-128
    PYTHONPATH=. python benchmarks/train_throughput.py --model path/to/gemma-2-9b-it --check
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import parity
import peft
import torch
import transformers
import trl
import workload

import finetune
import prompts
from stance.common import environment, files, flags, formatting
from stance.model import loading
from stance.training import memory_probe, tree_trainer

# ---------------------------------------------------------------- settings
OUTPUT = "benchmarks/results/train_throughput.json"  # of this run
# By recipe:
WARMUP_STEPS = {"ours": 24, "trl": 3, "published": 5, "unsloth": 5}
MEASURED_STEPS = {"ours": 24, "trl": 5, "published": 15, "unsloth": 15}
WARMUP_ROWS = 2560  # ours, at least: most shapes of batch are recorded by then
# Of the published job, 4,000 x 2 epochs: its rate with compiling, without start and validation.
JOB_ROWS = 8000
SEED = 0  # of the rows
# --------------------------------------------------------------------------


class Setting(NamedTuple):
    """What is measured: a recipe with so many rows a step."""

    recipe: str  # a key of MEASURED_STEPS
    batch: int
    micro_batch: int | None = None  # rows a forward pass, of ours; None: all
    limit_gib: float | None = None  # of GPU memory; None: all there is


SETTINGS = {
    "published-4": Setting("published", 4),
    "trl-128": Setting("trl", 128),
    "unsloth-64": Setting("unsloth", 64),
    "ours-16": Setting("ours", 16),
    "ours-32": Setting("ours", 32),
    "ours-32-8gb": Setting("ours", 32, micro_batch=16, limit_gib=7.5),
    "ours-64": Setting("ours", 64),
    "ours-128": Setting("ours", 128),
    "ours-256": Setting("ours", 256),
    "ours-320": Setting("ours", 320),
}
SMALL_CARD = {  # environment of a setting with a memory limit
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",  # no gaps between tensors
    # As cuBLAS chooses on consumer cards; on Hopper it takes 32 MiB.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:2:16:8",
    "CUBLASLT_WORKSPACE_SIZE": "8192",  # KiB, likewise
}
HEADERS = ["Setting", "samples/s", "with compiling", "s/step", "peak GiB", "flat TFLOP/s", "ratio"]
# Of gemma-2-9b's linear layers, a token; frozen weights, so 1 + 1.
FLOPS = {"forward": 16.65e9, "backward": 16.65e9}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    workload.add_model_flags(parser)
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the figures (%(default)s)")
    parser.add_argument(
        "--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="settings to measure"
    )
    parser.add_argument("--check", action="store_true", help="compare with the flat batch instead")
    # One setting, in this process.
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if importlib.util.find_spec("unsloth") is None:  # optional: it is no dependency of this project
        args.only = [name for name in args.only if SETTINGS[name].recipe != "unsloth"]
    return args


class StepTimer(transformers.TrainerCallback):
    """Time the steps after the warm-up, and stop the training after the last.

    marks: when the warm-up and the last step ended, in seconds as of time.time.
    """

    def __init__(self, warmup: int, measured: int):
        self.warmup = warmup
        self.last = warmup + measured
        self.marks = []

    def on_step_end(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Called by the trainer after each step."""
        # Not at each step: training does not wait for the GPU either.
        if state.global_step in (self.warmup, self.last):
            torch.cuda.synchronize()
            self.marks.append(time.time())
        if state.global_step == self.last:
            control.should_training_stop = True


def build_ours(
    model_dir: str, rows: list[dict], batch: int, folder: str, micro_batch: int | None = None
) -> tree_trainer.StanceTrainer:
    """Return this project's trainer, as finetune.py makes it.

    rows: {topic, text, label}; batch, micro_batch: rows a step and a forward pass (None: all).
    """
    finetune.EFFECTIVE_BATCH_SIZE = batch
    finetune.MICRO_BATCH_SIZE = batch if micro_batch is None else micro_batch
    args = finetune.parse_args(["--base-model", model_dir, "--epochs", "1"])
    trainer = finetune.build_trainer(
        args, Path(folder), loading.load_tokenizer(model_dir), rows, rows[:8]
    )
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.args.load_best_model_at_end = False
    return trainer


def build_trl(
    model_dir: str, rows: list[dict], batch: int, folder: str, recipe: str
) -> trl.SFTTrainer:
    """Return plain trl with the base and an adapter, for a recipe of SETTINGS.

    published: whole sequence, eager, kbit preparation; trl: answer only, flex_attention; unsloth:
    answer only, with a model of that package, whose own layers and kernels it uses.
    rows: {topic, text, label}; batch: rows a step.
    """
    tokenizer = loading.load_tokenizer(model_dir)
    options = {"r": finetune.LORA_R, "lora_alpha": finetune.LORA_ALPHA}
    if recipe == "unsloth":
        import unsloth  # optional; changes transformers and trl when it is imported

        model, _ = unsloth.FastLanguageModel.from_pretrained(
            model_dir, dtype=torch.bfloat16, load_in_4bit=True
        )
        model = unsloth.FastLanguageModel.get_peft_model(model, **options)
        lora = None  # the model has it
    else:
        model = loading.load_base(model_dir)
        model.set_attn_implementation("eager" if recipe == "published" else "flex_attention")
        lora = peft.LoraConfig(
            **options, target_modules=finetune.LORA_TARGETS, task_type="CAUSAL_LM"
        )
    if recipe == "published":
        model = peft.prepare_model_for_kbit_training(model)
    encoded = tree_trainer.encode_rows(tokenizer, rows, whole_sequence=recipe == "published")
    data = datasets.Dataset.from_dict(encoded)
    config = trl.SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        learning_rate=finetune.LEARNING_RATE,
        bf16=True,
        gradient_checkpointing=True,
        report_to="none",
        save_strategy="no",
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return trl.SFTTrainer(
        model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=lora
    )


def accelerate(trainer: tree_trainer.StanceTrainer) -> dict:
    """Make a trainer fast and find the micro-batch that fits, as finetune.py does; return what was
    chosen."""
    plan = trainer.accelerate(finetune.GRADIENT_CHECKPOINTING, dropout=False)
    return {**plan, **memory_probe.probe_memory(trainer)}


def measure(name: str, model_dir: str, tokenizer: transformers.PreTrainedTokenizerBase) -> dict:
    """Return the figures of one setting, by its name in SETTINGS."""
    recipe, batch, micro_batch, limit = SETTINGS[name]
    share = 1.0
    if limit is not None:
        share = limit * 2**30 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    warmup = WARMUP_STEPS[recipe]
    if recipe == "ours":
        warmup = max(warmup, WARMUP_ROWS // batch)
    timer = StepTimer(warmup, MEASURED_STEPS[recipe])
    rows = workload.make_rows(tokenizer, batch * timer.last, SEED)
    with tempfile.TemporaryDirectory() as folder:
        if recipe == "ours":
            trainer = build_ours(model_dir, rows, batch, folder, micro_batch)
        else:
            trainer = build_trl(model_dir, rows, batch, folder, recipe)
        trainer.add_callback(timer)
        torch.cuda.reset_peak_memory_stats()
        started = time.time()
        plan = accelerate(trainer) if recipe == "ours" else None
        trainer.train()
    warm, end = timer.marks
    seconds_until_warm = warm - started
    seconds = (end - warm) / MEASURED_STEPS[recipe]
    job_seconds = seconds_until_warm + (JOB_ROWS / batch - warmup) * seconds
    encoded = tree_trainer.encode_rows(tokenizer, rows)["input_ids"]
    tokens = sum(map(len, encoded)) / len(rows)
    return {
        "samples_per_second": batch / seconds,
        "seconds_per_step": seconds,
        "warmup_steps": warmup,
        "seconds_until_warm": seconds_until_warm,
        "job_samples_per_second": JOB_ROWS / job_seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
        "flat_tokens_per_row": tokens,
        "flat_model_tflops": batch / seconds * tokens * sum(FLOPS.values()) / 1e12,
        "plan": plan,
        "memory_limit_gib": limit,
    }


def format_results(results: dict[str, dict]) -> str:
    """Return the table of {setting: figures}, with ratios to the first.

    "with compiling" is the rate of JOB_ROWS. A tree may exceed the chip's rate of flat tokens.
    """
    baseline = next(iter(results.values()))["samples_per_second"]
    rows = []
    for name, figures in results.items():
        rows.append(
            [
                name,
                f"{figures['samples_per_second']:.1f}",
                f"{figures['job_samples_per_second']:.1f}",
                f"{figures['seconds_per_step']:.3f}",
                f"{figures['peak_gib']:.1f}",
                f"{figures['flat_model_tflops']:.0f}",
                f"{figures['samples_per_second'] / baseline:.1f}x",
            ]
        )
    return formatting.format_table(HEADERS, rows)


def describe() -> dict:
    """Return what a reader needs to repeat a run."""
    return {
        "measured_steps": MEASURED_STEPS,
        "seed": SEED,
        "prompt_version": prompts.PROMPT_VERSION,
        "device": loading.device_name(),
        "environment": environment.describe_environment(),
    }


def check_parity(
    model_dir: str, tokenizer: transformers.PreTrainedTokenizerBase
) -> dict[str, dict[str, float]]:
    """Return and print how far the accelerated trainer is from the flat batch; see
    parity.compare."""
    with tempfile.TemporaryDirectory() as folder:
        rows = workload.make_rows(tokenizer, parity.ROWS, SEED)
        errors = parity.compare(build_ours(model_dir, rows, parity.ROWS, folder))
    cells = []
    for name, numbers in errors.items():
        cells.append([name, *(f"{number:.5g}" for number in numbers.values())])
    header = ["Against the flat batch", "loss", "flat loss", "logits", "gradients"]
    print(formatting.format_table(header, cells))
    return errors


def measure_apart(args: argparse.Namespace) -> dict[str, dict]:
    """Measure each setting in a process of its own, which inherits no memory and nothing compiled.

    Writes what is measured so far after each. Returns {setting: figures}.
    """
    results = {}
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            part = f"{folder}/part.json"
            words = ["--model", args.model, "--output", part, "--only", name, "--here"]
            variables = {**os.environ, **workload.empty_caches(folder)}
            if SETTINGS[name].limit_gib is not None:
                variables.update(SMALL_CARD)
            subprocess.run([sys.executable, __file__, *words], check=True, env=variables)
            record = files.read_json(part, "run the benchmark again")
        results.update(record["results"])
        files.write_json(args.output, {**record, "results": results})
    return results


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    tokenizer = workload.prepare_model(args)
    if args.check:
        files.write_json(args.output, {**describe(), "parity": check_parity(args.model, tokenizer)})
    elif args.here:
        results = {args.only[0]: measure(args.only[0], args.model, tokenizer)}
        files.write_json(args.output, {**describe(), "results": results})
        return
    else:
        print(f"\n{format_results(measure_apart(args))}")
    print(f"\nwrote {args.output}")


if __name__ == "__main__":
    main()
