"""Measure training speed and memory of gemma-2-9b on this GPU: the published recipe, trl at its best, this project.

Builds a random gemma-2-9b in --model if that folder does not exist yet (18.5 GB), or measures the model it holds.
Writes all figures with versions and device to --output; prints the table.

    PYTHONPATH=. python benchmarks/train_throughput.py --tokenizer path/to/gemma-tokenizer
    PYTHONPATH=. python benchmarks/train_throughput.py --model path/to/gemma-2-9b-it --only ours-32 ours-128
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import datasets
import peft
import torch
import transformers
import trl
import workload

import acceleration
import finetune
import metrics
import modeling
import prompts
import records
import training

# ---------------------------------------------------------------- settings
MODEL = "/tmp/random-gemma-2-9b"  # folder of the model; built at random if it does not exist
OUTPUT = "benchmarks/results/train_throughput.json"  # of this run
WARMUP_STEPS = {"ours": 16, "trl": 3, "published": 5}  # ours: all shapes of batch have come up and are recorded
MEASURED_STEPS = {"ours": 24, "trl": 5, "published": 15}
SEED = 0  # of the rows
# --------------------------------------------------------------------------

SETTINGS = {  # name: (recipe, rows a step, options)
    "published-4": ("published", 4, {}),
    "trl-128": ("trl", 128, {}),
    "ours-16": ("ours", 16, {}),
    "ours-32": ("ours", 32, {}),
    "ours-32-8gb": ("ours", 32, {"micro": 16, "dense": False, "checkpoint": True, "limit_gib": 7.5}),
    "ours-64": ("ours", 64, {}),
    "ours-128": ("ours", 128, {}),
    "ours-256": ("ours", 256, {}),
}
FLOPS = {"forward": 16.65e9, "backward": 16.65e9}  # of gemma-2-9b's linear layers, a token; frozen weights, so 1 + 1


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", default=MODEL, help="folder of the model (%(default)s)")
    parser.add_argument("--tokenizer", help="folder of Gemma's tokenizer, to build a random model with")
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the figures (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="settings to measure")
    return parser.parse_args(argv)


class StepTimer(transformers.TrainerCallback):
    """Time the steps after the warm-up, and stop the training after the last."""

    def __init__(self, warmup, measured):
        self.warmup, self.last = warmup, warmup + measured
        self.started = time.time()
        self.marks = []

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self.warmup:
            torch.cuda.synchronize()
            self.marks.append(time.time())
        if state.global_step == 1:
            torch.cuda.synchronize()
            self.first_step = time.time() - self.started
        if state.global_step == self.last:
            control.should_training_stop = True


def build_ours(model_dir, rows, batch, folder, micro=None, dense=None, checkpoint=None):
    """Return this project's trainer, as finetune.py makes it."""
    finetune.EFFECTIVE_BATCH_SIZE, finetune.MICRO_BATCH_SIZE = batch, micro or batch
    acceleration.DENSE_WEIGHTS = dense
    args = finetune.parse_args(["--base-model", model_dir, "--epochs", "1"])
    trainer = finetune.build_trainer(args, Path(folder), modeling.load_tokenizer(model_dir), rows, rows[:8])
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.args.load_best_model_at_end = False
    return trainer, trainer.accelerate(checkpoint, dropout=False)


def build_trl(model_dir, rows, batch, folder, published=False):
    """Return plain trl: as published (whole sequence, eager, kbit preparation), or answer only with flex_attention."""
    tokenizer = modeling.load_tokenizer(model_dir)
    model = modeling.load_base(model_dir)
    model.set_attn_implementation("eager" if published else "flex_attention")
    if published:
        model = peft.prepare_model_for_kbit_training(model)
    columns = training.encode_rows(tokenizer, rows, whole_sequence=published)
    config = trl.SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        learning_rate=1e-4,
        bf16=True,
        gradient_checkpointing=True,
        report_to="none",
        save_strategy="no",
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    data = datasets.Dataset.from_dict(columns)
    return trl.SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=lora), None


def measure(name, model_dir, tokenizer):
    """Return the figures of one setting."""
    recipe, batch, options = SETTINGS[name]
    options = dict(options)
    limit = options.pop("limit_gib", None)
    device_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    torch.cuda.set_per_process_memory_fraction(limit / device_gib if limit else 1.0)
    timer = StepTimer(WARMUP_STEPS[recipe], MEASURED_STEPS[recipe])
    rows = workload.make_rows(tokenizer, batch * timer.last, SEED)
    with tempfile.TemporaryDirectory() as folder:
        if recipe == "ours":
            trainer, plan = build_ours(model_dir, rows, batch, folder, **options)
        else:
            trainer, plan = build_trl(model_dir, rows, batch, folder, published=recipe == "published")
        trainer.add_callback(timer)
        torch.cuda.reset_peak_memory_stats()
        trainer.train()
    seconds = (timer.marks[-1] - timer.marks[0]) / (len(timer.marks) - 1)
    tokens = sum(map(len, training.encode_rows(tokenizer, rows)["input_ids"])) / len(rows)
    return {
        "samples_per_second": batch / seconds,
        "seconds_per_step": seconds,
        "first_step_seconds": timer.first_step,
        "seconds_until_warm": timer.marks[0] - timer.started,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
        "flat_tokens_per_row": tokens,
        "flat_model_tflops": batch / seconds * tokens * sum(FLOPS.values()) / 1e12,
        "plan": plan,
        "memory_limit_gib": limit,
    }


def format_results(results):
    """Return the table; model TFLOP/s count the flat batch's tokens, so a tree may exceed the chip's rate."""
    baseline = next(iter(results.values()))["samples_per_second"]
    rows = [
        [
            name,
            f"{r['samples_per_second']:.1f}",
            f"{r['seconds_per_step']:.3f}",
            f"{r['peak_gib']:.1f}",
            f"{r['flat_model_tflops']:.0f}",
            f"{r['samples_per_second'] / baseline:.1f}x",
        ]
        for name, r in results.items()
    ]
    return metrics.format_table(["Setting", "samples/s", "s/step", "peak GiB", "flat TFLOP/s", "ratio"], rows)


def main(argv=None):
    args = parse_args(argv)
    if not Path(args.model).is_dir():
        if not args.tokenizer:
            records.stop(f"{args.model} does not exist: give --tokenizer to build a random model there")
        workload.build_gemma(args.model, transformers.AutoTokenizer.from_pretrained(args.tokenizer))
    tokenizer = modeling.load_tokenizer(args.model)
    if len(args.only) > 1:  # each in a process of its own, so that none inherits another's memory
        results = {}
        for name in args.only:
            words = ["--model", args.model, "--output", args.output, "--only", name]
            subprocess.run([sys.executable, __file__, *words], check=True)
            record = records.read_json(args.output, "run the benchmark again")
            record["results"] = results = {**results, **record["results"]}
            records.write_json(args.output, record)
    else:
        record = {
            "warmup_steps": WARMUP_STEPS,
            "measured_steps": MEASURED_STEPS,
            "seed": SEED,
            "prompt_version": prompts.PROMPT_VERSION,
            "device": modeling.device_name(),
            "environment": records.describe_environment(),
            "results": {args.only[0]: measure(args.only[0], args.model, tokenizer)},
        }
        records.write_json(args.output, record)
    print(f"\n{format_results(record['results'])}\n\nwrote {args.output}")


if __name__ == "__main__":
    main()
