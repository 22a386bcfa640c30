"""Merge a trained adapter into its base model, for programs that take one model: vLLM, llama.cpp, Ollama.

Reads the adapter folder that finetune.py wrote, the base model, and val.jsonl of --data-dir to compare answers on.
Writes to --output-dir the merged model in bfloat16 with its tokenizer, Modelfile (Ollama: turn format, no sampling),
prompt.txt (the text to send, with {topic} and {sentence}), export.json (how far answers agree with the adapter's) and
answers.jsonl (those answers, for tools.check_export).

    python -m tools.export
    python -m tools.export --adapter outputs/my-run --merge-into original --output-dir outputs/my-run-merged
"""

import sys

try:
    from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load
except ModuleNotFoundError:  # started by its path, a tool has Python look for modules in tools/
    print(
        "error: run it as: python -m tools.export ... (in the folder that holds tools/)",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

# isort: split
import argparse
import shutil
from pathlib import Path

from stance.common import environment, errors, files, flags, leftovers, locks
from stance.common.types import Example, RunRecord
from stance.corpus import splitting
from stance.evaluation import licences
from stance.model import adapters, chat, loading, merging, scoring

# ---------------------------------------------------------------- settings
ADAPTER = "outputs/gemma-2-9b-it-stance"  # folder that finetune.py wrote
DATA_DIR = "data"  # folder of the splits that prepare_data.py wrote
# rounded: weights as NF4 rounds them, on which the adapter was trained; original: as published
MERGE_INTO = "rounded"
LEAST_AGREEMENT = 0.95  # share of rows with the adapter's label, below which a note warns
CHECK_ROWS = 200  # validation rows answered by adapter and merged model, to compare
# --------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument(
        "--adapter", default=ADAPTER, help="folder that finetune.py wrote (%(default)s)"
    )
    parser.add_argument("--data-dir", default=DATA_DIR, help="folder of the splits (%(default)s)")
    parser.add_argument(
        "--merge-into",
        default=MERGE_INTO,
        choices=merging.KINDS,
        help="which base weights (%(default)s)",
    )
    parser.add_argument(
        "--output-dir", help="a new folder (default: merged in the folder of the adapter)"
    )
    return parser.parse_args(argv)


def check_output_dir(output_dir: Path, base: str) -> None:
    """Fail if the merged model would overwrite something, or the disk has no room for it."""
    if output_dir.exists():
        errors.fail(f"{output_dir} is there already: delete it or choose another --output-dir")
    files.make_folder(output_dir.parent)
    leftovers.remove_leftovers(output_dir.parent)  # a model of a run that was killed is gigabytes
    needed_bytes = 2 * loading.count_weights(loading.load_config(base))  # of bfloat16
    free_bytes = shutil.disk_usage(output_dir.parent).free
    if free_bytes < needed_bytes:
        errors.fail(
            f"{output_dir.parent} has {free_bytes / 1e9:.1f} GB free, the model takes "
            f"{needed_bytes / 1e9:.1f} GB: make room or choose another --output-dir"
        )


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    run = adapters.check_adapter(args.adapter)
    base = run["base_model"]
    output_dir = Path(args.output_dir or Path(args.adapter) / "merged")
    rows = splitting.load_split(Path(args.data_dir) / "val.jsonl")[:CHECK_ROWS]
    loading.check_base(base)
    check_output_dir(output_dir, base)
    lock = output_dir.with_name(f"{output_dir.name}.lock")
    with locks.hold_lock(lock, output_dir, "tools.export", "choose another --output-dir"):
        export(args, run, output_dir, rows)


def export(args: argparse.Namespace, run: RunRecord, output_dir: Path, rows: list[Example]) -> None:
    """Merge the adapter, compare answers on rows, and write the model.

    run: the record of the adapter's training.
    """
    base = run["base_model"]
    tokenizer = loading.load_tokenizer(base)
    adapters.check_same_base(args.adapter, base, tokenizer)
    encoded = chat.encode_examples(tokenizer, [(row["topic"], row["text"]) for row in rows])

    adapted = adapters.load_adapter(loading.load_base(base), args.adapter)
    expected = scoring.score_prompts(adapted, tokenizer, encoded)
    print(f"answers of {len(rows)} validation rows, compared with base in 4-bit and adapter:")
    agreement = {}
    answers = {"adapter": expected.probabilities.tolist()}
    merged = None
    others = [kind for kind in merging.KINDS if kind != args.merge_into]
    for kind in [*others, args.merge_into]:  # the one to write comes last
        del merged  # two are twice the memory
        merged = merging.merge_adapter(adapted, base, kind)
        scores = merging.score_merged(merged, tokenizer, encoded)
        agreement[kind] = merging.compare_scores(scores, expected)
        answers[kind] = scores.probabilities.tolist()
        same = agreement[kind]["same_label"]
        most = agreement[kind]["largest_difference"]
        print(
            f"merged into {kind} weights: {same:.1%} the same label, "
            f"probabilities differ by {most:.4f} at most"
        )
    written_agreement = agreement[args.merge_into]["same_label"]
    if written_agreement < LEAST_AGREEMENT:
        print(
            f"note: the written model gives {written_agreement:.1%} of the rows the adapter's label: "
            "evaluate it before you use it, or merge into the other weights (--merge-into)"
        )
    record = {
        "base_model": run["base_model"],
        "prompt_version": run["prompt_version"],
        "labels": run["labels"],
        "demo": run["demo"],
        "adapter_sha256": files.hash_file(Path(args.adapter) / "adapter_model.safetensors"),
        "merged_into": args.merge_into,
        "agreement": agreement,
        "environment": environment.describe_environment(),
    }
    lines = merging.record_answers([row["id"] for row in rows], encoded, answers)
    licence = licences.find_licence(base)
    texts = {licences.NOTICE_FILE: licence.notice} if licence and licence.notice else {}
    merging.write_model(output_dir, merged, tokenizer, base, record, lines, texts)
    if licence:
        print(
            f"the licence of the base holds for the merged model too: {licence.name}, {licence.link}"
        )
    note = loading.read_demo_note(base)
    if note:
        print(note)
    print(f"wrote the merged model to {output_dir}")


if __name__ == "__main__":
    errors.run_script(main)
