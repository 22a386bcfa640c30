"""Merge a trained adapter into its base model, for programs that take one model: vLLM, llama.cpp, Ollama.

Reads the adapter folder that finetune.py wrote, the base model, and val.jsonl of --data-dir to compare answers on.
Writes to --output-dir the merged model in bfloat16 with its tokenizer, Modelfile (Ollama: turn format, no sampling),
prompt.txt (the text to send, with {topic} and {sentence}) and export.json (how far answers agree with the adapter's).

    python -m tools.export
    python -m tools.export --adapter outputs/my-run --merge-into original --output-dir outputs/my-run-merged
"""

from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load

# isort: split
import argparse
import shutil
from pathlib import Path

import transformers

from stance.common import environment, errors, files
from stance.corpus import splitting
from stance.model import (
    adapters,
    chat,
    loading,
    merging,
    scoring,
)

# ---------------------------------------------------------------- settings
ADAPTER = "outputs/gemma-2-9b-it-stance"  # folder that finetune.py wrote
DATA_DIR = "data"  # folder of the splits that prepare_data.py wrote
MERGE_INTO = "rounded"  # rounded: weights as NF4 rounds them, on which the adapter was trained; original: as published
CHECK_ROWS = 200  # validation rows answered by adapter and merged model, to compare
# --------------------------------------------------------------------------


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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


def check_place(output_dir, base):
    """Stop if the merged model would overwrite something, or the disk has no room for it."""
    if output_dir.exists():
        errors.fail(f"{output_dir} is there already: delete it or choose another --output-dir")
    files.make_folder(output_dir.parent)
    config = loading.load_pretrained(transformers.AutoConfig.from_pretrained, base)
    need = 2 * loading.count_weights(config)  # bytes of bfloat16
    free = shutil.disk_usage(output_dir.parent).free
    if free < need:
        size = f"{free / 1e9:.1f} GB free, the model takes {need / 1e9:.1f} GB"
        errors.fail(f"{output_dir.parent} has {size}: make room or choose another --output-dir")


def main(argv=None):
    args = parse_args(argv)
    run = adapters.check_adapter(args.adapter)
    base, output_dir = run["base_model"], Path(args.output_dir or Path(args.adapter) / "merged")
    rows = splitting.load_split(Path(args.data_dir) / "val.jsonl")[:CHECK_ROWS]
    loading.check_base(base)
    check_place(output_dir, base)
    tokenizer = loading.load_tokenizer(base)
    adapters.check_same_base(args.adapter, base, tokenizer)
    encoded = chat.encode_examples(tokenizer, [(row["topic"], row["text"]) for row in rows])

    adapted = adapters.load_adapter(loading.load_base(base), args.adapter)
    expected, agreement, merged = scoring.score_prompts(adapted, tokenizer, encoded), {}, None
    print(f"answers of {len(rows)} validation rows, compared with base in 4-bit and adapter:")
    for kind in sorted(
        merging.KINDS, key=lambda kind: kind == args.merge_into
    ):  # the one to write comes last
        del merged  # two are twice the memory
        merged = merging.merge_adapter(adapted, base, kind)
        agreement[kind] = merging.compare_scores(
            merging.score_merged(merged, tokenizer, encoded), expected
        )
        same, most = agreement[kind]["same_label"], agreement[kind]["largest_difference"]
        print(
            f"merged into {kind} weights: {same:.1%} the same label, probabilities differ by {most:.4f} at most"
        )
    record = {
        **{key: run[key] for key in ("base_model", "prompt_version", "labels", "demo")},
        "adapter_sha256": files.hash_file(Path(args.adapter) / "adapter_model.safetensors"),
        "merged_into": args.merge_into,
        "agreement": agreement,
        "environment": environment.describe_environment(),
    }
    merging.write_model(output_dir, merged, tokenizer, base, record)
    note = loading.read_demo_note(base)
    print(f"{note}\n" if note else "", f"wrote the merged model to {output_dir}", sep="")


if __name__ == "__main__":
    errors.run_script(main)
