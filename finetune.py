"""Fine-tune the base model for stance detection with QLoRA: 4-bit NF4 base, LoRA on all linear layers.

Reads train.jsonl and val.jsonl of --data-dir (prepare_data.py writes them).
Writes the best adapter of the run by validation accuracy to --run-dir, with run.json (settings, data, versions,
result), log.jsonl, training.png, checkpoints/, and texts/ for what is not to be published: hashes of the sentences; at the
start plan.json, with which --resume compares.

    python finetune.py
    python finetune.py --data-dir data --run-dir outputs/my-run --epochs 3 --seed 1
"""

from stance.common import startup  # first: what follows takes seconds to load

# isort: split
import argparse
import contextlib
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers

import prompts
from stance.common import distributed, environment, errors, files, flags
from stance.common.types import Example, RunRecord
from stance.corpus import splitting
from stance.model import adapters, chat, compilation, loading, memory, precision
from stance.training import (
    augmentation,
    callbacks,
    checkpoints,
    fsdp,
    memory_probe,
    run_folder,
    run_lock,
    trackers,
    tree_trainer,
)

# ---------------------------------------------------------------- settings
# what is trained, on what, and where results go
# instruction-tuned base: hub name (name@commit for one version) or folder
BASE_MODEL = "google/gemma-2-9b-it"
DATA_DIR = "data"  # folder of the splits that prepare_data.py wrote
RUN_DIR = "outputs/gemma-2-9b-it-stance"  # a new folder: adapter, records, checkpoints

# adapter
LORA_R = 16  # rank
LORA_ALPHA = 32  # scale: the update counts alpha / r
LORA_DROPOUT = 0.0  # 0 keeps tree = flat batch: a shared node is dropped for all rows that share it
LORA_TARGETS = "all-linear"  # every linear layer except the output head

# optimisation
RECIPE = None  # None: the settings below; "published": those of PUBLISHED in their place
EPOCHS = 2.0  # passes over train.jsonl
# Peak; linear warm-up to it, then SCHEDULE. Published: 1e-4, which bases of 27B and more should have
# too (QLoRA, https://arxiv.org/abs/2305.14314: 2e-4 for 7B and 13B, 1e-4 for 33B and 65B).
LEARNING_RATE = 2e-4
WARMUP = 0.03  # share of all steps
SCHEDULE = "linear"  # after the warm-up: linear or cosine to 0, or constant_with_warmup
WEIGHT_DECAY = 0.0  # of AdamW, on the adapter's weights
CLASS_WEIGHTS = False  # True: labels count alike, however many rows each has
LABEL_SMOOTHING = 0.0  # share of each answer's target that all three labels have alike
NEGATED_SHARE = 0.0  # negated copies of so many rows are trained on too, with pro and con swapped
EFFECTIVE_BATCH_SIZE = 16  # rows an optimiser step; published: 4
MICRO_BATCH_SIZE = 32  # rows a forward pass at most; a smaller divisor of the above: less memory
MAX_GRAD_NORM = 1.0  # gradient clipping
WHOLE_SEQUENCE_LOSS = False  # True: train on prompt tokens too, as published; False: answer alone
# True: recompute activations, slower but far less memory; None: if memory is short
GRADIENT_CHECKPOINTING = None
SEED = 0  # adapter initialisation and order of rows

# bookkeeping
SELECT_BY = "eval_accuracy"  # epoch that is kept: the best by eval_accuracy or eval_loss; or last
LOG_STEPS = 5  # optimiser steps between log lines
REPORT_TO = "none"  # a tracker too: tensorboard, wandb or mlflow, each a package to install
# --------------------------------------------------------------------------

# The recipe of the published result, where it differs; settings that it did not know are switched
# off with it.
PUBLISHED = {
    "LEARNING_RATE": 1e-4,
    "EFFECTIVE_BATCH_SIZE": 4,
    "MICRO_BATCH_SIZE": 4,
    "WHOLE_SEQUENCE_LOSS": True,
    "SELECT_BY": "last",
}
if RECIPE == "published":
    globals().update({**run_folder.LATER_SETTINGS, **PUBLISHED})

# No settings of the experiment: where something lies (a run record holds base and data with their
# hashes) or is told of, and what other settings are made of.
PLACES = (
    *("BASE_MODEL", "DATA_DIR", "RUN_DIR", "REPORT_TO"),
    *("PLACES", "LARGEST", "RECIPE", "PUBLISHED"),
)
# Values of flags beyond which no training makes sense: more is a slip of the finger.
LARGEST = {"--epochs": 1000, "--learning-rate": 1, "--effective-batch-size": 1_000_000}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of a command line (None: of this process); fail on impossible numbers."""
    parser = flags.FlagParser(__doc__)
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
    parser.add_argument("--seed", type=flags.seed, default=SEED, help="random seed (%(default)s)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last complete checkpoint of --run-dir",
    )
    args = parser.parse_args(argv)
    given = {
        "--epochs": args.epochs,
        "--learning-rate": args.learning_rate,
        "--effective-batch-size": args.effective_batch_size,
    }
    for flag, value in given.items():
        if not 0 < value <= LARGEST[flag]:
            hint = f"give a number above 0, at most {LARGEST[flag]:,}"
            errors.fail(f"{flag} {value} is impossible: {hint}")
    return args


def find_micro_batch_size(effective: int) -> int:
    """Return the rows a forward pass, for so many rows an optimiser step."""
    return min(MICRO_BATCH_SIZE, effective)


def check_settings(effective: int) -> None:
    """Fail on constants that are wrong, or do not go with the processes or the effective batch.

    effective: rows an optimiser step.
    """
    if RECIPE not in (None, "published"):
        errors.fail(f'RECIPE {RECIPE!r} is unknown: write None or "published" in finetune.py')
    count = distributed.get_rank()[1]
    micro = find_micro_batch_size(effective)
    if effective % (micro * count):
        product = f"MICRO_BATCH_SIZE {micro}"
        if count > 1:
            product += f" x {count} processes"
        problem = f"{product} is no divisor of EFFECTIVE_BATCH_SIZE {effective}"
        errors.fail(f"{problem}: edit finetune.py")
    if SELECT_BY not in ("eval_accuracy", "eval_loss", "last"):
        errors.fail(f"SELECT_BY {SELECT_BY} is unknown: write eval_accuracy, eval_loss or last")
    if SCHEDULE not in ("linear", "cosine", "constant_with_warmup"):
        known = "write linear, cosine or constant_with_warmup"
        errors.fail(f"SCHEDULE {SCHEDULE} is unknown: {known}")
    if not WEIGHT_DECAY >= 0:
        errors.fail(f"WEIGHT_DECAY {WEIGHT_DECAY} is impossible: write 0 or more in finetune.py")
    for name, share in (("LABEL_SMOOTHING", LABEL_SMOOTHING), ("NEGATED_SHARE", NEGATED_SHARE)):
        if not 0 <= share <= 1:
            errors.fail(f"{name} {share} is no share: write a number from 0 to 1 in finetune.py")
    if LABEL_SMOOTHING and WHOLE_SEQUENCE_LOSS:
        problem = "LABEL_SMOOTHING would smooth the labels that the prompt names too"
        errors.fail(f"{problem}: set it or WHOLE_SEQUENCE_LOSS to 0 in finetune.py")
    trackers.check_tracker(REPORT_TO)


def load_rows(data_dir: str) -> tuple[list[Example], list[Example]]:
    """Return the rows of train.jsonl and val.jsonl.

    Fails if one is no row or is in both, or if the files are not of one run of prepare_data.py.
    """
    train_rows = splitting.load_split(Path(data_dir) / "train.jsonl")
    val_rows = splitting.load_split(Path(data_dir) / "val.jsonl")
    splitting.read_report(data_dir, ("train", "val"))
    splitting.check_splits_disjoint({"train": train_rows, "val": val_rows})
    return train_rows, val_rows


def make_config(args: argparse.Namespace, run_dir: Path) -> tree_trainer.StanceConfig:
    """Return the trainer's settings: validation and checkpoint each epoch, the best is kept.

    args: those of the command line. SELECT_BY says what the best epoch is.
    """
    on_gpu = torch.cuda.is_available()
    micro = find_micro_batch_size(args.effective_batch_size)
    return tree_trainer.StanceConfig(
        output_dir=str(run_dir / "checkpoints"),
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        lr_scheduler_type=SCHEDULE,
        weight_decay=WEIGHT_DECAY,
        warmup_steps=WARMUP,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=2 * micro,  # without gradients twice the rows fit
        gradient_accumulation_steps=args.effective_batch_size // micro,
        max_grad_norm=MAX_GRAD_NORM,
        # on a GPU, trainer.accelerate does it
        gradient_checkpointing=bool(GRADIENT_CHECKPOINTING) and not on_gpu,
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
        report_to=REPORT_TO,
        run_name=run_dir.name,  # in trackers
        disable_tqdm=True,  # callbacks.TrainingLines shows the progress
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=on_gpu,
        # batches are copied to the GPU while it computes
        accelerator_config={"non_blocking": on_gpu},
    )


def make_lora_config() -> peft.LoraConfig:
    """Return the adapter that is trained, as the constants say."""
    return peft.LoraConfig(
        r=LORA_R,
        lora_alpha=LORA_ALPHA,
        lora_dropout=LORA_DROPOUT,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )


def check_resumed(checkpoint: Path | None, base: str) -> None:
    """Fail if a checkpoint, or the best one before it, holds no adapter of this run and base."""
    if checkpoint is None:
        return
    checkpoints.check_loss(checkpoint, tree_trainer.read_loss_window(checkpoint)["loss"])
    checkpoints.check_tensors(checkpoint)
    for folder in {checkpoint, checkpoints.find_best(checkpoint)} - {None}:
        adapters.check_checkpoint(folder, base, make_lora_config())


def build_trainer(
    args: argparse.Namespace,
    run_dir: Path,
    tokenizer: transformers.PreTrainedTokenizerBase,
    train_rows: list[Example],
    val_rows: list[Example],
    sharded: bool = False,
    base: transformers.PreTrainedModel | None = None,
) -> tree_trainer.StanceTrainer:
    """Load the base model, put a fresh adapter on it, and return the trainer.

    args: those of the command line. sharded: deal the base out to all processes. base: the base
    that they name, if it is loaded already.
    """
    if not sharded:  # layers of a base in parts are not compiled
        compilation.start_compilers()
    train_rows = augmentation.add_negated_rows(train_rows, NEGATED_SHARE, args.seed)
    train_columns = tree_trainer.encode_rows(tokenizer, train_rows, WHOLE_SEQUENCE_LOSS)
    train_columns["row_index"] = list(range(len(train_rows)))
    if CLASS_WEIGHTS:
        train_columns["weight"] = augmentation.weigh_classes(train_rows)
    val_columns = tree_trainer.encode_rows(tokenizer, val_rows)
    row_targets = None
    if not WHOLE_SEQUENCE_LOSS:
        row_targets = tree_trainer.count_targets(train_columns["labels"])
    transformers.set_seed(args.seed)  # some versions of trl put the adapter on before they seed
    if base is None:
        load_base = fsdp.load_sharded_base if sharded else loading.load_base
        base = load_base(args.base_model)
    trainer = tree_trainer.StanceTrainer(
        model=base,
        args=make_config(args, run_dir),
        train_dataset=datasets.Dataset.from_dict(train_columns),
        train_rows=train_rows,
        sharded=sharded,
        eval_dataset=datasets.Dataset.from_dict(val_columns),
        processing_class=tokenizer,
        data_collator=tree_trainer.TreeCollator(
            tokenizer.pad_token_id,
            row_targets,
            [ids[0] for ids in chat.encode_labels(tokenizer)],
            LABEL_SMOOTHING,
        ),
        peft_config=make_lora_config(),
        callbacks=[
            trackers.LastInterval(),
            callbacks.JsonlLog(run_dir / "log.jsonl"),
            callbacks.TrainingLines(),
        ],
    )
    trainer.remove_callback(transformers.PrinterCallback)  # prints log entries as dicts
    return trainer


def collect_experiment_settings() -> dict[str, Any]:
    """Return the settings that make the experiment: all constants but PLACES, which may move."""
    settings = environment.collect_settings(sys.modules[__name__])
    return {name: value for name, value in settings.items() if name not in PLACES}


def make_run_record(
    flag_values: dict[str, Any],
    tokenizer: transformers.PreTrainedTokenizerBase,
    train_rows: list[Example],
    val_rows: list[Example],
) -> RunRecord:
    """Return the run record: what repeats the run, and what evaluate.py and predict.py check.

    flag_values: the value of each flag by its name. What comes out of the run is added later.
    """
    settings = collect_experiment_settings()
    for flag, value in flag_values.items():
        if flag.upper() in settings:
            settings[flag.upper()] = value
    report = splitting.read_report(flag_values["data_dir"], ())  # load_rows compared the files
    data = {}
    for name, rows in (("train", train_rows), ("val", val_rows)):
        data[name] = {"rows": len(rows), "sha256": report["outputs"][f"{name}.jsonl"]}
    return {
        **loading.describe_base(flag_values["base_model"], tokenizer),
        "prompt_version": prompts.PROMPT_VERSION,
        "labels": prompts.LABELS,
        "precision": precision.describe_precision(),
        "flags": flag_values,
        "settings": settings,
        "data": data,
        "cleaning_version": splitting.read_cleaning(report),
        "stances": report.get("labels") or {},
        "kept_leaks": splitting.count_kept_leaks(report),
        "environment": environment.describe_environment(),
        "device": loading.device_name(),
        "processes": distributed.get_rank()[1],
        "demo": loading.read_demo_note(flag_values["base_model"]) is not None,
    }


def count_parameters(model: peft.PeftModel) -> dict[str, int]:
    """Return how many parameters are trainable, and how many there are in total."""
    trainable = model.get_nb_trainable_parameters()[0]
    return {"trainable": trainable, "total": trainable + loading.count_weights(model.config)}


def print_start(record: RunRecord, trained_rows: int) -> None:
    """Print what is trained, on how many rows, and how it is made fast.

    trained_rows: those of an epoch, with negated copies.
    """
    rows = {name: split["rows"] for name, split in record["data"].items()}
    trainable = record["parameters"]["trainable"]
    total = record["parameters"]["total"]
    counts = f"{rows['train']} training rows, {rows['val']} validation rows"
    copies = trained_rows - rows["train"]
    if copies:
        counts += f", {copies} negated copies of training rows"
    print(f"{record['base_model']}: {counts}")
    print(f"trainable parameters: {trainable:,} of {total:,} ({trainable / total:.2%})")
    print(f"acceleration: {record['acceleration'] or 'none without a GPU'}")


def word_hint(argv: list[str] | None, sharded: bool = False) -> str:
    """Return the words that name the command which continues this run.

    argv: the words of the command that started it; None: of this process.
    """
    given = sys.argv[1:] if argv is None else argv
    words = [word for word in given if word != "--resume"]
    count = distributed.get_rank()[1]
    if sharded:
        launcher = f"accelerate launch --config_file tools/fsdp.yaml --num_processes {count}"
    elif count > 1:
        launcher = f"torchrun --nproc-per-node {count}"
    else:
        launcher = "python"
    return f"continue with: {launcher} finetune.py {shlex.join([*words, '--resume'])}"


def train(trainer: tree_trainer.StanceTrainer, checkpoint: Path | None) -> None:
    """Train to the end, from the first step or a checkpoint; fail if the memory is too small."""
    size = max(trainer.args.per_device_train_batch_size // 2, 1)
    settings = f"set MICRO_BATCH_SIZE to {size} and GRADIENT_CHECKPOINTING to True in finetune.py"
    with memory.explain_memory("train", f"{settings} and start a new run"):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    sharded = fsdp.take_over()
    distributed.join_ranks(even_alone=sharded)
    with contextlib.ExitStack() as held:
        run(args, argv, sharded, held)


def run(
    args: argparse.Namespace, argv: list[str] | None, sharded: bool, held: contextlib.ExitStack
) -> None:
    """Check everything, load the base, train its adapter and write it with the run record.

    argv: the words of the command; None: of this process. sharded: whether each process has a part
    of the base. held: takes the lock of the run folder.
    """
    run_dir = Path(args.run_dir)
    is_first = distributed.get_rank()[0] == 0
    with distributed.first_rank_first():
        if is_first:
            held.enter_context(run_lock.hold_run(run_dir))
        check_settings(args.effective_batch_size)
        checkpoint = checkpoints.find_checkpoint(run_dir, args.resume)
        train_rows, val_rows = load_rows(args.data_dir)
        loading.check_base(args.base_model)
        tokenizer = loading.load_tokenizer(args.base_model)
        record = make_run_record(vars(args), tokenizer, train_rows, val_rows)
        record["sharded"] = sharded
        pairs = [(row["topic"], row["text"]) for row in train_rows + val_rows]
        record["shortened_sentences"] = chat.report_long(tokenizer, pairs)
        if args.resume:
            run_folder.check_same_run(run_dir, record)
            check_resumed(checkpoint, args.base_model)
            if (run_dir / "log.jsonl").is_file():
                callbacks.read_log(run_dir / "log.jsonl")
    # All have looked into the run folder: only then may one write to it.
    distributed.wait_for_ranks()
    if is_first:
        run_folder.open_run(run_dir, record, args.resume, checkpoint)

    trackers.name_places(REPORT_TO, run_dir)
    trainer = build_trainer(args, run_dir, tokenizer, train_rows, val_rows, sharded)
    record["acceleration"] = trainer.accelerate(GRADIENT_CHECKPOINTING, dropout=LORA_DROPOUT > 0)
    record["memory_probe"] = memory_probe.probe_memory(trainer)
    if is_first:
        record["parameters"] = count_parameters(trainer.model)
        run_folder.check_disk_space(run_dir, record["parameters"]["trainable"])
        # imports, loading, compiling
        record["start_seconds"] = round(time.time() - startup.BEGAN, 1)
        print_start(record, len(trainer.train_dataset))

    interruption = callbacks.Interruption(word_hint(argv, sharded))
    trainer.add_callback(interruption)
    note = loading.read_demo_note(args.base_model)
    started = time.time()
    with errors.explain_full_disk(run_dir, "free some, then add --resume", below_bar=True):
        with interruption:
            train(trainer, checkpoint)
        distributed.go_on_alone()
        record["result"] = run_folder.describe_result(trainer, checkpoint, time.time() - started)
        checkpoints.save_final_adapter(trainer.model, run_dir, train_rows)
        record["adapter_files"] = adapters.hash_files(run_dir)
        from stance.evaluation import figures  # loads matplotlib, for which no training waits

        figures.plot_training(trainer.state.log_history, run_dir / "training.png", note)
        files.write_json(run_dir / "run.json", record)  # last: with it, the run counts as finished
    kept = record["result"]["kept_validation"]
    quality = f"validation accuracy {kept['eval_accuracy']:.3f}, loss {kept['eval_loss']:.3f}"
    print(f"kept epoch {kept['epoch']:g}: {quality}")
    if note:
        print(note)
    print(f"wrote adapter, run.json, log.jsonl and training.png to {run_dir}")


if __name__ == "__main__":
    errors.run_script(main)
