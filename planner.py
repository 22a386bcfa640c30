"""Estimate what a training run and a large labelling job need: GPU memory, time, disk.

Reads the measured speeds in benchmarks/results; everything else follows from the shapes of the models. Speeds of other
cards and bases are scaled from one NVIDIA H200 and gemma-2-9b, so take them as orders of magnitude.
Writes nothing: prints two Markdown tables, training and labelling.

    python planner.py
    python planner.py --train-rows 20000 --train-epochs 3 --sentences 5000000 --gpus 2
"""

import startup  # first: what follows takes seconds to load
import argparse
import json
from pathlib import Path

import transformers

import acceleration
import records

# ---------------------------------------------------------------- settings
TRAIN_ROWS = 4000  # annotated sentences to train on
TRAIN_EPOCHS = 2.0  # passes over them
SENTENCES = 1_000_000_000  # to label
GPUS = 8  # that label, one process each
SENTENCE_TOKENS = 26  # mean of a sentence; memory follows it, measured speeds are at 26
ADAPTER_RANK = 16  # of the adapter
TRAIN_BATCHES = (32, 16, 8)  # rows a forward pass that training may choose, the first that fits

CARDS = {  # memory in GiB, dense bfloat16 TFLOP/s with float32 sums; data sheets
    "8 GB (RTX 4060)": (7.5, 30),
    "16 GB (RTX 4080)": (15.5, 98),
    "24 GB (RTX 4090)": (23.5, 165),
    "40 GB (A100)": (39.4, 312),
    "80 GB (H100)": (79.1, 989),
    "141 GB (H200)": (139.8, 989),
}
PARTS = ("gemma-2-27b-it", "16 GB (RTX 4080)", 2)  # a base that no such card holds alone, and how many do (fsdp.yaml)
MEASURED_CARD, MEASURED_BASE = "141 GB (H200)", "gemma-2-9b-it"
BASES = {  # hidden size, width of the MLP, layers, heads, key-value heads, size of a head; published configurations
    "gemma-2-2b-it": (2304, 9216, 26, 8, 4, 256),
    "gemma-2-9b-it": (3584, 14336, 42, 16, 8, 256),
    "gemma-2-27b-it": (4608, 36864, 46, 32, 16, 128),
}
# --------------------------------------------------------------------------

RESULTS = Path(__file__).resolve().parent / "benchmarks" / "results"
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # a weight: 4 bits, a uint8 scale a block of 64, a float32 a block of those
TRAINED_BYTES = 16  # a weight of the adapter: itself, gradient, two moments of Adam, each float32
SHARED_NODES, PROMPT_NODES = 300, 13  # of a tree: shared by all rows; of each row beside its sentence, with padding


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--train-rows", type=int, default=TRAIN_ROWS, help="rows to train on (%(default)s)")
    parser.add_argument("--train-epochs", type=float, default=TRAIN_EPOCHS, help="passes over them (%(default)s)")
    parser.add_argument("--sentences", type=int, default=SENTENCES, help="sentences to label (%(default)s)")
    parser.add_argument("--gpus", type=int, default=GPUS, help="GPUs that label (%(default)s)")
    args = parser.parse_args(argv)
    for name, value in vars(args).items():
        if value <= 0:
            records.stop(f"--{name.replace('_', '-')} {value} is impossible: give a number above 0")
    return args


def make_config(base):
    """Return the configuration of a base of BASES."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return transformers.Gemma2Config(
        vocab_size=256000, head_dim=BASES[base][-1], **dict(zip(names, BASES[base][:-1], strict=True))
    )


def list_linears(config):
    """Return (inputs, outputs) of the linear layers of one decoder layer, which are quantised and adapted."""
    hidden, mlp, size = config.hidden_size, config.intermediate_size, config.head_dim
    query, value = config.num_attention_heads * size, config.num_key_value_heads * size
    attention = [(hidden, query), (hidden, value), (hidden, value), (query, hidden)]
    return [*attention, (hidden, mlp), (hidden, mlp), (mlp, hidden)]


def count_linear_weights(config):
    """Return the number of weights of all linear layers."""
    return config.num_hidden_layers * sum(inputs * outputs for inputs, outputs in list_linears(config))


def estimate_memory(config, batch, dense, checkpoint, parts=1):
    """Return the peak GPU memory of training in GiB.

    batch: rows a forward pass; dense: 16-bit copies of the weights; checkpoint: activations are computed twice; parts:
    GPUs that share the 4-bit layers (sharded_training.py).
    """
    linears, layers = count_linear_weights(config), config.num_hidden_layers
    nodes = SHARED_NODES + (PROMPT_NODES + SENTENCE_TOKENS) * batch
    adapter = ADAPTER_RANK * layers * sum(inputs + outputs for inputs, outputs in list_linears(config))
    weights = NF4_BYTES * linears + 2 * config.vocab_size * config.hidden_size  # embeddings stay in bfloat16
    weights += 2 * linears if dense else 2 * linears / layers  # of weights in 4-bit, those of a layer at a time
    if parts > 1:  # two layers are whole at a time: one at work, the next on its way
        weights += 0.5 * linears * (1 / parts - 1 + 2 / layers)
    activations = acceleration.count_activation_bytes(config, nodes)
    if checkpoint:  # the inputs of all layers, and one layer's own
        activations = activations / layers + 2 * nodes * layers * config.hidden_size
    return (weights + TRAINED_BYTES * adapter + activations) / 2**30


def read_record(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def read_training():
    """Return {setting: figures} of training."""
    names = "h200-train.json", "h200-train-8gb.json"
    return {setting: figures for name in names for setting, figures in read_record(name)["results"].items()}


def plan_card(base, card):
    """Return {"gib", "batch", "dense_weights", "checkpoint", "rows_per_second"} of training on a card, or None.

    As acceleration.plan_training does: fast if it fits, else 4-bit weights and activations computed twice.
    """
    measured, config, (room, speed) = read_training(), make_config(base), CARDS[card]
    size = count_linear_weights(make_config(MEASURED_BASE)) / count_linear_weights(config)
    choices = [(TRAIN_BATCHES[0], True, False, "ours-32")] + [(n, False, True, "ours-32-8gb") for n in TRAIN_BATCHES]
    for batch, dense, checkpoint, record in choices:
        gib = estimate_memory(config, batch, dense, checkpoint)
        if gib + (acceleration.RESERVE_GB * 1e9 / 2**30 if dense else 0) <= room:
            rate = measured[record]["samples_per_second"] * size * speed / CARDS[MEASURED_CARD][1]
            chosen = {"gib": gib, "batch": batch, "dense_weights": dense, "checkpoint": checkpoint}
            return {**chosen, "rows_per_second": rate}
    return None


def format_training(rows, epochs):
    """Return the Markdown table of cards and bases."""
    lines = ["| base | card | GPU memory | MICRO_BATCH_SIZE | weights | minutes |", "| --- " * 6 + "|"]
    for base in BASES:
        for card in CARDS:
            plan = plan_card(base, card)
            if plan is None:
                lines.append(f"| {base} | {card} | does not fit | | | |")
                continue
            kind = "16-bit copies" if plan["dense_weights"] else "4-bit, activations twice"
            minutes = rows * epochs / plan["rows_per_second"] / 60
            lines.append(f"| {base} | {card} | {plan['gib']:.1f} GiB | {plan['batch']} | {kind} | {minutes:.1f} |")
    base, card, parts = PARTS
    batch, kind = TRAIN_BATCHES[0] // parts, "4-bit in parts, activations twice"
    gib = estimate_memory(make_config(base), batch, False, True, parts)
    lines.append(f"| {base} | {parts} x {card} | {gib:.1f} GiB each | {batch} | {kind} | unknown |")
    return "\n".join(lines)


def plan_labelling(sentences, gpus):
    """Return {quantity: (value, unit)} of labelling with gemma-2-9b on H200s, all from benchmarks/results."""
    rate = read_record("h200-score.json")["rows_per_second"][f"score, batch {acceleration.COMPILED_BATCH_SIZE}"]
    run = read_record("predict_throughput.json")["rows"]["1000000"]
    hours = sentences / rate / 3600
    return {
        "sentences a second and GPU": (rate, ""),
        "GPU-hours": (hours, "h"),
        f"days with {gpus} GPUs": (hours / gpus / 24, "d"),
        "processor hours of reading and writing": (sentences * run["cpu_seconds"] / 1e6 / 3600, "h"),
        "input, .csv": (sentences * run["input_mib"] * 2**20 / 1e6 / 1e9, "GB"),
        "output, .csv": (sentences * run["output_mib"] * 2**20 / 1e6 / 1e9, "GB"),
    }


def format_labelling(plan):
    """Return the Markdown table of a labelling plan."""
    rows = [f"| {name} | {value:,.1f} {unit}".rstrip() + " |" for name, (value, unit) in plan.items()]
    return "\n".join(["| labelling | |", "| --- | --- |", *rows])


def main(argv=None):
    args = parse_args(argv)
    job = f"{args.train_rows:,} rows x {args.train_epochs:g} epochs"
    print(f"Training, {job}, start, compiling and validation aside (estimate)\n")
    print(f"{format_training(args.train_rows, args.train_epochs)}\n")
    print(f"Labelling {args.sentences:,} sentences with {MEASURED_BASE} on {MEASURED_CARD} (estimate)\n")
    print(format_labelling(plan_labelling(args.sentences, args.gpus)))


if __name__ == "__main__":
    records.run_script(main)
