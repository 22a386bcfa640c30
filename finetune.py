"""Fine-tune the base model for stance detection with QLoRA: 4-bit NF4 base, LoRA on all linear layers.

Reads train.jsonl and val.jsonl of --data-dir (prepare_data.py writes them).
Writes the best adapter of the run by validation accuracy to --run-dir, with run.json (settings, data, versions,
result), log.jsonl, training.png and checkpoints/; and at the start plan.json, with which --resume compares.

    python finetune.py
    python finetune.py --data-dir data --run-dir outputs/my-run --epochs 3 --seed 1
"""

from stance.common import startup  # first: what follows takes seconds to load

# isort: split
import argparse
import shlex
import sys
import time
from pathlib import Path

import datasets
import peft
import torch
import transformers

import prompts
from stance.common import distributed, environment, errors, files
from stance.corpus import splitting
from stance.evaluation import figures
from stance.model import chat, compilation, loading, memory, precision
from stance.training import callbacks, checkpoints, fsdp, memory_probe, run_folder, tree_trainer

# ---------------------------------------------------------------- settings
# what is trained, on what, and where results go
BASE_MODEL = "google/gemma-2-9b-it"  # hub name (name@commit for one version) or folder of the instruction-tuned base
DATA_DIR = "data"  # folder of the splits that prepare_data.py wrote
RUN_DIR = "outputs/gemma-2-9b-it-stance"  # a new folder: adapter, records, checkpoints

# adapter
LORA_R = 16  # rank
LORA_ALPHA = 32  # scale: the update counts alpha / r
LORA_DROPOUT = (
    0.0  # a dropped shared node is dropped for all rows of the batch, so 0 keeps tree = flat batch
)
LORA_TARGETS = "all-linear"  # every linear layer except the output head

# optimisation
EPOCHS = 2.0  # passes over train.jsonl
LEARNING_RATE = 1e-4  # peak; linear warm-up, then linear decay to 0
WARMUP = 0.03  # share of all steps
EFFECTIVE_BATCH_SIZE = 32  # rows an optimiser step; published: 4
MICRO_BATCH_SIZE = (
    32  # rows a forward pass at most; a smaller divisor of EFFECTIVE_BATCH_SIZE needs less memory
)
MAX_GRAD_NORM = 1.0  # gradient clipping
WHOLE_SEQUENCE_LOSS = (
    False  # True: train on prompt tokens too, as published; False: on the answer alone
)
GRADIENT_CHECKPOINTING = (
    None  # True: recompute activations, slower but far less memory; None: if memory is short
)
SEED = 0  # adapter initialisation and order of rows

# bookkeeping
SELECT_BY = (
    "eval_accuracy"  # which epoch is kept: the best by eval_accuracy or eval_loss; or the last
)
LOG_STEPS = 5  # optimiser steps between log lines
# --------------------------------------------------------------------------

PLACES = (
    "BASE_MODEL",
    "DATA_DIR",
    "RUN_DIR",
    "PLACES",
)  # a run record holds base and data with their hashes


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--base-model", default=BASE_MODEL, help="hub name or folder (%(default)s)")
    parser.add_argument("--data-dir", default=DATA_DIR, help="folder of the splits (%(default)s)")
    parser.add_argument("--run-dir", default=RUN_DIR, help="where results go (%(default)s)")
    parser.add_argument(
        "--epochs", type=float, default=EPOCHS, help="passes over the data (%(default)s)"
    )
    parser.add_argument(
        "--learning-rate", type=float, default=LEARNING_RATE, help="peak rate (%(default)s)"
    )
    size = "rows an optimiser step (%(default)s)"
    parser.add_argument("--effective-batch-size", type=int, default=EFFECTIVE_BATCH_SIZE, help=size)
    parser.add_argument("--seed", type=int, default=SEED, help="random seed (%(default)s)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last complete checkpoint of --run-dir",
    )
    args = parser.parse_args(argv)
    numbers = {
        "--epochs": args.epochs,
        "--learning-rate": args.learning_rate,
        "--effective-batch-size": args.effective_batch_size,
    }
    for flag, value in numbers.items():
        if not 0 < value < float("inf"):
            errors.fail(f"{flag} {value} is impossible: give a number above 0")
    return args


def find_micro_batch_size(effective):
    """Return the rows a forward pass, for so many rows an optimiser step."""
    return min(MICRO_BATCH_SIZE, effective)


def check_settings(effective):
    """Stop on constants that cannot be meant, or do not go with the processes or the rows an optimiser step."""
    count, micro = distributed.get_rank()[1], find_micro_batch_size(effective)
    if effective % (micro * count):
        product = f"MICRO_BATCH_SIZE {micro}" + (f" x {count} processes" if count > 1 else "")
        errors.fail(
            f"{product} is no divisor of EFFECTIVE_BATCH_SIZE {effective}: edit finetune.py"
        )
    if SELECT_BY not in ("eval_accuracy", "eval_loss", "last"):
        errors.fail(f"SELECT_BY {SELECT_BY} is unknown: write eval_accuracy, eval_loss or last")


def load_rows(data_dir):
    """Return the checked rows of train.jsonl and val.jsonl."""
    splits = {
        name: splitting.load_split(Path(data_dir) / f"{name}.jsonl") for name in ("train", "val")
    }
    splitting.check_splits_disjoint(splits)
    return splits["train"], splits["val"]


def make_config(args, run_dir):
    """Return the trainer's settings. Validation and checkpoint each epoch; the best epoch is loaded at the end."""
    on_gpu, micro = torch.cuda.is_available(), find_micro_batch_size(args.effective_batch_size)
    return tree_trainer.StanceConfig(
        output_dir=str(run_dir / "checkpoints"),
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=2 * micro,  # without gradients twice the rows fit
        gradient_accumulation_steps=args.effective_batch_size // micro,
        max_grad_norm=MAX_GRAD_NORM,
        gradient_checkpointing=bool(GRADIENT_CHECKPOINTING)
        and not on_gpu,  # on a GPU, trainer.accelerate does it
        bf16=precision.compute_dtype() == torch.bfloat16,
        use_cpu=not on_gpu,
        optim="adamw_torch_fused" if on_gpu else "adamw_torch",
        seed=args.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=None,  # checkpoints.remove_old deletes, once the new one is complete
        load_best_model_at_end=SELECT_BY != "last",
        metric_for_best_model=None if SELECT_BY == "last" else SELECT_BY,
        greater_is_better=SELECT_BY == "eval_accuracy",
        logging_steps=LOG_STEPS,
        logging_nan_inf_filter=False,  # the filter waits for the GPU at every step
        report_to="none",
        disable_tqdm=True,  # callbacks.TrainingLines shows the progress
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=on_gpu,
        accelerator_config={
            "non_blocking": on_gpu
        },  # batches are copied to the GPU while it computes
    )


def build_trainer(args, run_dir, tokenizer, train_rows, val_rows, sharded=False):
    """Load the base model, put a fresh adapter on it, and return the trainer."""
    if not sharded:  # whose layers are not compiled
        compilation.start_compilers()
    columns = tree_trainer.encode_rows(tokenizer, train_rows, WHOLE_SEQUENCE_LOSS) | {
        "row_index": list(range(len(train_rows)))
    }
    transformers.set_seed(args.seed)  # some versions of trl put the adapter on before they seed
    load_base = fsdp.load_sharded_base if sharded else loading.load_base
    trainer = tree_trainer.StanceTrainer(
        model=load_base(args.base_model),
        args=make_config(args, run_dir),
        train_dataset=datasets.Dataset.from_dict(columns),
        train_rows=train_rows,
        sharded=sharded,
        eval_dataset=datasets.Dataset.from_dict(tree_trainer.encode_rows(tokenizer, val_rows)),
        processing_class=tokenizer,
        data_collator=tree_trainer.TreeCollator(tokenizer.pad_token_id),
        peft_config=peft.LoraConfig(
            r=LORA_R,
            lora_alpha=LORA_ALPHA,
            lora_dropout=LORA_DROPOUT,
            target_modules=LORA_TARGETS,
            task_type="CAUSAL_LM",
        ),
        callbacks=[callbacks.JsonlLog(run_dir / "log.jsonl"), callbacks.TrainingLines()],
    )
    trainer.remove_callback(transformers.PrinterCallback)  # prints log entries as dicts
    return trainer


def collect_experiment_settings():
    """Return the settings that make the experiment: the constants but for places, which may move."""
    settings = environment.collect_settings(sys.modules[__name__])
    return {name: value for name, value in settings.items() if name not in PLACES}


def make_run_record(args, tokenizer, train_rows, val_rows):
    """Return the run record: what a reader needs to repeat the run, and what evaluate.py and predict.py check."""
    settings = collect_experiment_settings()
    settings |= {
        name: value for flag, value in vars(args).items() if (name := flag.upper()) in settings
    }
    return {
        **loading.describe_base(args.base_model, tokenizer),
        "prompt_version": prompts.PROMPT_VERSION,
        "labels": prompts.LABELS,
        "precision": precision.describe_precision(),
        "flags": vars(args),
        "settings": settings,
        "data": {
            name: {
                "rows": len(rows),
                "sha256": files.hash_file(Path(args.data_dir) / f"{name}.jsonl"),
            }
            for name, rows in (("train", train_rows), ("val", val_rows))
        },
        "environment": environment.describe_environment(),
        "device": loading.device_name(),
        "processes": distributed.get_rank()[1],
        "demo": loading.read_demo_note(args.base_model) is not None,
    }


def print_start(trainer, run_dir, record):
    """Print what is trained; add its size and how long the start took to the run record; stop if the disk is full."""
    trainable = trainer.model.get_nb_trainable_parameters()[0]
    total = trainable + loading.count_weights(trainer.model.config)
    run_folder.check_disk_space(run_dir, trainable)
    record["parameters"] = {"trainable": trainable, "total": total}
    record["start_seconds"] = round(time.time() - startup.BEGAN, 1)  # imports, loading, compiling
    training_rows, validation_rows = (record["data"][name]["rows"] for name in ("train", "val"))
    print(
        f"{record['base_model']}: {training_rows} training rows, {validation_rows} validation rows"
    )
    print(f"trainable parameters: {trainable:,} of {total:,} ({trainable / total:.2%})")
    print(f"acceleration: {record['acceleration'] or 'none without a GPU'}")


def word_hint(argv, sharded=False):
    """Return the words that name the command which continues this run."""
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--resume"]
    count = distributed.get_rank()[1]
    launcher = "python" if count == 1 else f"torchrun --nproc-per-node {count}"
    launcher = (
        f"accelerate launch --config_file tools/fsdp.yaml --num_processes {count}"
        if sharded
        else launcher
    )
    return f"continue with: {launcher} finetune.py {shlex.join([*words, '--resume'])}"


def train(trainer, checkpoint):
    """Train to the end; stop with one line if the GPU memory does not suffice."""
    size = max(trainer.args.per_device_train_batch_size // 2, 1)
    hint = f"set MICRO_BATCH_SIZE to {size} and GRADIENT_CHECKPOINTING to True in finetune.py and start a new run"
    with memory.explain_memory("train", hint):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def main(argv=None):
    args = parse_args(argv)
    run_dir = Path(args.run_dir)
    sharded = fsdp.take_over()
    distributed.join_ranks(even_alone=sharded)
    with distributed.first_rank_first():
        check_settings(args.effective_batch_size)
        checkpoint = checkpoints.find_checkpoint(run_dir, args.resume)
        train_rows, val_rows = load_rows(args.data_dir)
        loading.check_base(args.base_model)
        tokenizer = loading.load_tokenizer(args.base_model)
        record = make_run_record(args, tokenizer, train_rows, val_rows)
        pairs = [(row["topic"], row["text"]) for row in train_rows + val_rows]
        record.update(sharded=sharded, shortened_sentences=chat.report_long(tokenizer, pairs))
        if args.resume:
            run_folder.check_same_run(run_dir, record)
    distributed.wait_for_ranks()  # until all have looked into the run folder: only then may one write to it
    if distributed.get_rank()[0] == 0:
        run_folder.open_run(run_dir, record, args.resume, checkpoint)

    trainer = build_trainer(args, run_dir, tokenizer, train_rows, val_rows, sharded)
    record["acceleration"] = trainer.accelerate(GRADIENT_CHECKPOINTING, dropout=LORA_DROPOUT > 0)
    record["memory_probe"] = memory_probe.probe_memory(trainer)
    if distributed.get_rank()[0] == 0:
        print_start(trainer, run_dir, record)

    interruption, started = callbacks.Interruption(word_hint(argv, sharded)), time.time()
    trainer.add_callback(interruption)
    note = loading.read_demo_note(args.base_model)
    with run_folder.explain_full_disk(run_dir):
        with interruption:
            train(trainer, checkpoint)
        distributed.go_on_alone()
        record["result"] = run_folder.describe_result(trainer, checkpoint, time.time() - started)
        checkpoints.save_final_adapter(trainer.model, run_dir, train_rows)
        figures.plot_training(trainer.state.log_history, run_dir / "training.png", note)
        files.write_json(run_dir / "run.json", record)  # last: with it, the run counts as finished
    kept = record["result"]["kept_validation"]
    quality = f"validation accuracy {kept['eval_accuracy']:.3f}, loss {kept['eval_loss']:.3f}"
    print(f"kept epoch {kept['epoch']:g}: {quality}")
    print(
        f"{note}\n" if note else "",
        f"wrote adapter, run.json, log.jsonl and training.png to {run_dir}",
        sep="",
    )


if __name__ == "__main__":
    errors.run_script(main)
