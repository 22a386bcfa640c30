"""A trained adapter merged into its base model, and the folder that other programs load."""

import os
import shutil
from pathlib import Path

import peft
import torch
import transformers

import prompts
from stance.common import files
from stance.model import (
    chat,
    loading,
    lora_linear,
    memory,
    precision,
    scoring,
)
from stance.tree import prefix_tree

KINDS = ("rounded", "original")


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
    if torch.cuda.is_available() and memory.free_memory() > merged.get_memory_footprint() + 2e9:
        merged.to(torch.cuda.current_device())
    elif not torch.cuda.is_available():
        merged.to(
            precision.compute_dtype()
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
