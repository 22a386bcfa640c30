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

import datasets
import parity
import peft
import torch
import transformers
import trl
import workload

import finetune
import prompts
from stance.common import environment, files, formatting
from stance.model import loading
from stance.training import memory_probe, tree_trainer

# ---------------------------------------------------------------- settings
OUTPUT = "benchmarks/results/train_throughput.json"  # of this run
WARMUP_STEPS = {"ours": 24, "trl": 3, "published": 5, "unsloth": 5}
WARMUP_ROWS = 2560  # ours, at least: most shapes of batch are recorded by then
MEASURED_STEPS = {"ours": 24, "trl": 5, "published": 15, "unsloth": 15}
JOB_ROWS = 8000  # of the published job, 4,000 x 2 epochs: its rate with compiling, without start and validation
SEED = 0  # of the rows
# --------------------------------------------------------------------------

SETTINGS = {  # name: (recipe, rows a step, options)
    "published-4": ("published", 4, {}),
    "trl-128": ("trl", 128, {}),
    "unsloth-64": ("unsloth", 64, {}),
    "ours-16": ("ours", 16, {}),
    "ours-32": ("ours", 32, {}),
    "ours-32-8gb": ("ours", 32, {"micro": 16, "limit_gib": 7.5}),
    "ours-64": ("ours", 64, {}),
    "ours-128": ("ours", 128, {}),
    "ours-256": ("ours", 256, {}),
    "ours-320": ("ours", 320, {}),
}
SMALL_CARD = {  # environment of a setting with a memory limit
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",  # no gaps between tensors
    "CUBLAS_WORKSPACE_CONFIG": ":4096:2:16:8",  # as cuBLAS chooses on consumer cards; on Hopper it takes 32 MiB
    "CUBLASLT_WORKSPACE_SIZE": "8192",  # KiB, likewise
}
HEADERS = ["Setting", "samples/s", "with compiling", "s/step", "peak GiB", "flat TFLOP/s", "ratio"]
FLOPS = {
    "forward": 16.65e9,
    "backward": 16.65e9,
}  # of gemma-2-9b's linear layers, a token; frozen weights, so 1 + 1


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    workload.add_model_flags(parser)
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the figures (%(default)s)")
    parser.add_argument(
        "--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="settings to measure"
    )
    parser.add_argument("--check", action="store_true", help="compare with the flat batch instead")
    parser.add_argument(
        "--here", action="store_true", help=argparse.SUPPRESS
    )  # one setting, in this process
    args = parser.parse_args(argv)
    if importlib.util.find_spec("unsloth") is None:  # optional: it is no dependency of this project
        args.only = [name for name in args.only if SETTINGS[name][0] != "unsloth"]
    return args


class StepTimer(transformers.TrainerCallback):
    """Time the steps after the warm-up, and stop the training after the last; started: set by who starts it."""

    def __init__(self, warmup, measured):
        self.warmup, self.last = warmup, warmup + measured
        self.marks = []

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in (
            self.warmup,
            self.last,
        ):  # not at each step: training does not wait for the GPU either
            torch.cuda.synchronize()
            self.marks.append(time.time())
        if state.global_step == self.last:
            control.should_training_stop = True


def build_ours(model_dir, rows, batch, folder, micro=None):
    """Return this project's trainer, as finetune.py makes it."""
    finetune.EFFECTIVE_BATCH_SIZE, finetune.MICRO_BATCH_SIZE = batch, micro or batch
    args = finetune.parse_args(["--base-model", model_dir, "--epochs", "1"])
    trainer = finetune.build_trainer(
        args, Path(folder), loading.load_tokenizer(model_dir), rows, rows[:8]
    )
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.args.load_best_model_at_end = False
    return trainer


def build_trl(model_dir, rows, batch, folder, recipe):
    """Return plain trl: as published (whole sequence, eager, kbit preparation), or answer only with flex_attention.

    unsloth: trl with a model of that package, whose own layers and kernels it uses; answer only.
    """
    tokenizer = loading.load_tokenizer(model_dir)
    options = {"r": finetune.LORA_R, "lora_alpha": finetune.LORA_ALPHA}
    if recipe == "unsloth":
        import unsloth  # optional; changes transformers and trl when it is imported

        model, _ = unsloth.FastLanguageModel.from_pretrained(
            model_dir, dtype=torch.bfloat16, load_in_4bit=True
        )
        model, lora = unsloth.FastLanguageModel.get_peft_model(model, **options), None
    else:
        model = loading.load_base(model_dir)
        model.set_attn_implementation("eager" if recipe == "published" else "flex_attention")
        lora = peft.LoraConfig(
            **options, target_modules=finetune.LORA_TARGETS, task_type="CAUSAL_LM"
        )
    if recipe == "published":
        model = peft.prepare_model_for_kbit_training(model)
    data = datasets.Dataset.from_dict(
        tree_trainer.encode_rows(tokenizer, rows, whole_sequence=recipe == "published")
    )
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


def accelerate(trainer):
    """Make a trainer fast and find the micro-batch that fits, as finetune.py does; return what was chosen."""
    plan = trainer.accelerate(finetune.GRADIENT_CHECKPOINTING, dropout=False)
    return {**plan, **memory_probe.probe_memory(trainer)}


def measure(name, model_dir, tokenizer):
    """Return the figures of one setting."""
    recipe, batch, options = SETTINGS[name]
    limit, device = options.get("limit_gib"), torch.cuda.get_device_properties(0)
    torch.cuda.set_per_process_memory_fraction(
        limit * 2**30 / device.total_memory if limit else 1.0
    )
    warmup = max(WARMUP_STEPS[recipe], WARMUP_ROWS // batch if recipe == "ours" else 0)
    timer = StepTimer(warmup, MEASURED_STEPS[recipe])
    rows = workload.make_rows(tokenizer, batch * timer.last, SEED)
    build, option = (build_ours, options.get("micro")) if recipe == "ours" else (build_trl, recipe)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(model_dir, rows, batch, folder, option)
        trainer.add_callback(timer)
        torch.cuda.reset_peak_memory_stats()
        timer.started = time.time()
        plan = accelerate(trainer) if recipe == "ours" else None
        trainer.train()
    seconds, warm = (
        (timer.marks[-1] - timer.marks[0]) / MEASURED_STEPS[recipe],
        timer.marks[0] - timer.started,
    )
    tokens = sum(map(len, tree_trainer.encode_rows(tokenizer, rows)["input_ids"])) / len(rows)
    return {
        "samples_per_second": batch / seconds,
        "seconds_per_step": seconds,
        "warmup_steps": warmup,
        "seconds_until_warm": warm,
        "job_samples_per_second": JOB_ROWS / (warm + (JOB_ROWS / batch - warmup) * seconds),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
        "flat_tokens_per_row": tokens,
        "flat_model_tflops": batch / seconds * tokens * sum(FLOPS.values()) / 1e12,
        "plan": plan,
        "memory_limit_gib": limit,
    }


def format_results(results):
    """Return the table; "with compiling" is the rate of JOB_ROWS; a tree may exceed the chip's rate of flat tokens."""
    baseline = next(iter(results.values()))["samples_per_second"]
    rows = [
        [
            name,
            f"{r['samples_per_second']:.1f}",
            f"{r['job_samples_per_second']:.1f}",
            f"{r['seconds_per_step']:.3f}",
            f"{r['peak_gib']:.1f}",
            f"{r['flat_model_tflops']:.0f}",
            f"{r['samples_per_second'] / baseline:.1f}x",
        ]
        for name, r in results.items()
    ]
    return formatting.format_table(HEADERS, rows)


def describe():
    """Return what a reader needs to repeat a run."""
    return {
        "measured_steps": MEASURED_STEPS,
        "seed": SEED,
        "prompt_version": prompts.PROMPT_VERSION,
        "device": loading.device_name(),
        "environment": environment.describe_environment(),
    }


def check_parity(model_dir, tokenizer):
    """Return and print how far the accelerated trainer is from the flat batch."""
    with tempfile.TemporaryDirectory() as folder:
        rows = workload.make_rows(tokenizer, parity.ROWS, SEED)
        errors = parity.compare(build_ours(model_dir, rows, parity.ROWS, folder))
    cells = [
        [name, *(f"{value:.5g}" for value in numbers.values())] for name, numbers in errors.items()
    ]
    print(
        formatting.format_table(
            ["Against the flat batch", "loss", "flat loss", "logits", "gradients"], cells
        )
    )
    return errors


def measure_apart(args):
    """Measure each setting in a process of its own, which inherits no memory and nothing compiled; return all."""
    results = {}
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            part = f"{folder}/part.json"
            words = ["--model", args.model, "--output", part, "--only", name, "--here"]
            variables = {**os.environ, **workload.empty_caches(folder)}
            if "limit_gib" in SETTINGS[name][2]:
                variables.update(SMALL_CARD)
            subprocess.run([sys.executable, __file__, *words], check=True, env=variables)
            record = files.read_json(part, "run the benchmark again")
        record["results"] = results = {**results, **record["results"]}
        files.write_json(args.output, record)
    return results


def main(argv=None):
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
