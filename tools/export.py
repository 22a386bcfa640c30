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
import os
import shutil
from pathlib import Path

import peft
import torch
import transformers

import prompts
from stance.common import environment, errors, files
from stance.corpus import corpus
from stance.model import chat, compilation, loading, lora_linear, scoring
from stance.tree import prefix_tree

# ---------------------------------------------------------------- settings
ADAPTER = "outputs/gemma-2-9b-it-stance"  # folder that finetune.py wrote
DATA_DIR = "data"  # folder of the splits that prepare_data.py wrote
MERGE_INTO = "rounded"  # rounded: weights as NF4 rounds them, on which the adapter was trained; original: as published
CHECK_ROWS = 200  # validation rows answered by adapter and merged model, to compare
# --------------------------------------------------------------------------

KINDS = ("rounded", "original")


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
        "--merge-into", default=MERGE_INTO, choices=KINDS, help="which base weights (%(default)s)"
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


@torch.no_grad()
def merge_adapter(adapted, base, kind):
    """Return the base in bfloat16 with the adapter of a loaded 4-bit model added to its weights; kind: one of KINDS.

    rounded: weights are those that bitsandbytes computes with, so that only the sum is rounded anew, to bfloat16.
    """
    options = {"dtype": torch.bfloat16, "use_safetensors": True, "attn_implementation": "eager"}
    merged = loading.load_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained, base, **options
    )
    for name, layer in adapted.get_base_model().named_modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            weight = merged.get_submodule(name).weight
            start = lora_linear.read_weight(layer.base_layer) if kind == "rounded" else weight
            weight.copy_(
                start.float().cpu() + layer.get_delta_weight(layer.active_adapters[0]).float().cpu()
            )
    return merged


def score_merged(merged, tokenizer, encoded):
    """Return the scores of a merged model, on the GPU if it fits there, else as the CPU computes fastest."""
    if (
        torch.cuda.is_available()
        and compilation.free_memory() > merged.get_memory_footprint() + 2e9
    ):
        merged.to(torch.cuda.current_device())
    elif not torch.cuda.is_available():
        merged.to(
            loading.compute_dtype()
        )  # float32 holds what bfloat16 does, so nothing is lost on the way back
    merged.set_attn_implementation(prefix_tree.ATTENTION)
    scores = scoring.score_prompts(merged, tokenizer, encoded)
    merged.set_attn_implementation("eager")
    merged.to(torch.bfloat16)
    return scores


def compare_scores(scores, expected):
    """Return how far two scorings of the same rows agree: equal labels, and the largest difference of a probability."""
    labels = [
        list(map(scoring.pick_label, part.probabilities.tolist())) for part in (scores, expected)
    ]
    same = sum(one == other for one, other in zip(*labels, strict=True))
    difference = (scores.probabilities - expected.probabilities).abs().max().item()
    return {
        "rows": len(labels[0]),
        "same_label": same / len(labels[0]),
        "largest_difference": round(difference, 6),
    }


def format_modelfile(tokenizer):
    """Return an Ollama Modelfile with the turns of the tokenizer's chat template. llama.cpp puts <bos> before it."""
    head, tail, ending = chat.chat_frame(tokenizer)
    turn = (
        "".join((*head, *tail))
        .removeprefix(tokenizer.bos_token)
        .replace(chat.USER_SLOT, "{{ .Prompt }}")
    )
    return (
        f'FROM ./model.gguf\nTEMPLATE """{turn}"""\nPARAMETER stop "{ending[-1]}"\n'
        f"PARAMETER temperature 0\nPARAMETER num_predict {scoring.MAX_NEW_TOKENS}\n"
    )


def write_model(output_dir, merged, tokenizer, base, record):
    """Write everything into a folder beside it that then takes its name, so that a half model has none."""
    unfinished = output_dir.with_name(output_dir.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    try:
        merged.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        files.write_text(unfinished / "Modelfile", [format_modelfile(tokenizer)])
        files.write_text(unfinished / "prompt.txt", [prompts.PROMPT_TEMPLATE])
        files.write_json(unfinished / "export.json", record)
        if record["demo"]:
            shutil.copy(Path(base) / loading.DEMO_FILE, unfinished)
        os.replace(unfinished, output_dir)
    finally:
        shutil.rmtree(
            unfinished, ignore_errors=True
        )  # still there if a signal came or the disk is full


def main(argv=None):
    args = parse_args(argv)
    run = loading.check_adapter(args.adapter)
    base, output_dir = run["base_model"], Path(args.output_dir or Path(args.adapter) / "merged")
    rows = corpus.load_split(Path(args.data_dir) / "val.jsonl")[:CHECK_ROWS]
    loading.check_base(base)
    check_place(output_dir, base)
    tokenizer = loading.load_tokenizer(base)
    loading.check_same_base(args.adapter, base, tokenizer)
    encoded = chat.encode_examples(tokenizer, [(row["topic"], row["text"]) for row in rows])

    adapted = loading.load_adapter(loading.load_base(base), args.adapter)
    expected, agreement, merged = scoring.score_prompts(adapted, tokenizer, encoded), {}, None
    print(f"answers of {len(rows)} validation rows, compared with base in 4-bit and adapter:")
    for kind in sorted(
        KINDS, key=lambda kind: kind == args.merge_into
    ):  # the one to write comes last
        del merged  # two are twice the memory
        merged = merge_adapter(adapted, base, kind)
        agreement[kind] = compare_scores(score_merged(merged, tokenizer, encoded), expected)
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
    write_model(output_dir, merged, tokenizer, base, record)
    note = loading.read_demo_note(base)
    print(f"{note}\n" if note else "", f"wrote the merged model to {output_dir}", sep="")


if __name__ == "__main__":
    errors.run_script(main)
