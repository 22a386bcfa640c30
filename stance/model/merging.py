"""A trained adapter merged into its base model, and the folder that other programs load."""

import copy
import os
import shutil
from pathlib import Path
from typing import TypedDict

import peft
import torch
import transformers

import prompts
from stance.common import errors, files, formatting
from stance.model import (
    chat,
    converter_files,
    loading,
    lora_linear,
    memory,
    precision,
    scoring,
)
from stance.tree import prefix_tree

KINDS = ("rounded", "original")
# In a Modelfile they end the string of a template, or begin and end a command in it.
MODELFILE_SIGNS = ('"""', "{{", "}}")
ANSWERS_FILE = "answers.jsonl"  # of an export: what a server is compared with


class ExportedAnswer(TypedDict):
    """A line of answers.jsonl: the answers to a validation row; no text of the corpus."""

    id: str  # of the row
    prompt_tokens: int  # of its prompt, with the control tokens of the chat template
    # By who answered, "adapter" or one of KINDS: of each label in prompts.LABELS order
    probabilities: dict[str, list[float]]


@torch.no_grad()
def merge_adapter(adapted: peft.PeftModel, base: str, kind: str) -> transformers.PreTrainedModel:
    """Return the base in bfloat16, on the CPU, with an adapter added to its weights.

    adapted: the base in 4-bit with the adapter on it, as adapters.load_adapter returns it.
    kind: one of KINDS. original: the base's weights are as published. rounded: they are those that
    bitsandbytes computes with, so that only the sum is rounded anew, to bfloat16.
    """
    merged = loading.load_weights(base, dtype=torch.bfloat16)
    for name, layer in adapted.get_base_model().named_modules():
        if not isinstance(layer, peft.tuners.lora.LoraLayer):
            continue
        weight = merged.get_submodule(name).weight
        start = lora_linear.read_weight(layer.base_layer) if kind == "rounded" else weight
        update = layer.get_delta_weight(layer.active_adapters[0])
        weight.copy_(start.float().cpu() + update.float().cpu())
    merged.adapter_folder = adapted.adapter_folder
    return merged


def score_merged(
    merged: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    encoded: list[list[int]],
) -> scoring.Scores:
    """Return the scores of a merged model on prompts (lists of token ids).

    They are computed on the GPU if the model fits there, without one as the CPU computes fastest.
    The model's weights are bfloat16 again afterwards. Ends the script if scores are not finite.
    """
    if torch.cuda.is_available() and memory.free_memory() > merged.get_memory_footprint() + 2e9:
        merged.to(torch.cuda.current_device())
    elif not torch.cuda.is_available():
        # float32 holds what bfloat16 does, so nothing is lost on the way back.
        merged.to(precision.compute_dtype())
    merged.set_attn_implementation(prefix_tree.ATTENTION)
    scores = scoring.score_prompts(merged, tokenizer, encoded)
    merged.set_attn_implementation("eager")
    merged.to(torch.bfloat16)
    return scores


def compare_scores(scores: scoring.Scores, expected: scoring.Scores) -> dict[str, int | float]:
    """Return how far two scorings of the same rows agree.

    rows: how many they are. same_label: share of them with the same label. largest_difference: of
    a probability.
    """
    labels = [scoring.pick_label(row) for row in scores.probabilities.tolist()]
    expected_labels = [scoring.pick_label(row) for row in expected.probabilities.tolist()]
    same = sum(one == other for one, other in zip(labels, expected_labels, strict=True))
    difference = (scores.probabilities - expected.probabilities).abs().max().item()
    return {
        "rows": len(labels),
        "same_label": same / len(labels),
        "largest_difference": round(difference, 6),
    }


def is_quotable(text: str) -> bool:
    """Return whether a text can stand between quotation marks in a Modelfile."""
    return text.isprintable() and '"' not in text and "\\" not in text


def format_modelfile(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """Return an Ollama Modelfile with the turns of the tokenizer's chat template.

    It leaves out <bos> where the tokenizer puts one before every text, as llama.cpp then does too.
    Ends the script if the template holds what would end its string in the Modelfile, or be a
    command there.
    """
    frame = chat.chat_frame(tokenizer)
    turn = "".join((*frame.head, *frame.tail))
    stop = frame.ending[-1]
    if any(sign in turn for sign in MODELFILE_SIGNS) or turn.endswith('"') or not is_quotable(stop):
        errors.fail(
            "the chat template of the base cannot stand in a Modelfile of Ollama "
            f"({formatting.quote(turn)}): merge with another base, or write its Modelfile by hand"
        )
    turn = turn.replace(chat.USER_SLOT, "{{ .Prompt }}")
    if tokenizer("")["input_ids"]:  # Qwen has no <bos>; SmolLM2's is <|im_start|>, never put first
        turn = turn.removeprefix(tokenizer.bos_token)
    return (
        f'FROM ./model.gguf\nTEMPLATE """{turn}"""\nPARAMETER stop "{stop}"\n'
        f"PARAMETER temperature 0\nPARAMETER repeat_penalty 1\n"  # Ollama's is 1.1
        f"PARAMETER num_predict {scoring.MAX_NEW_TOKENS}\n"
    )


def record_answers(
    ids: list[str], encoded: list[list[int]], answers: dict[str, list[list[float]]]
) -> list[ExportedAnswer]:
    """Return the lines of answers.jsonl.

    ids, encoded: id and token ids of the prompt of each row. answers: the probabilities of all
    rows, by who answered.
    """
    lines: list[ExportedAnswer] = []
    for index, (id, tokens) in enumerate(zip(ids, encoded, strict=True)):
        probabilities = {
            name: [round(value, 6) for value in rows[index]] for name, rows in answers.items()
        }
        lines.append({"id": id, "prompt_tokens": len(tokens), "probabilities": probabilities})
    return lines


def write_model(
    output_dir: Path,
    merged: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    base: str,
    record: dict,
    answers: list[ExportedAnswer],
    texts: dict[str, str],
) -> None:
    """Write a merged model with all that belongs to it into a folder, whole or not at all.

    Everything goes into a folder beside it that then takes its name, so that a half model has
    none. The chat template is written with the options of training fixed, see chat.fix_template;
    the generation config without settings of sampling.
    record: the content of export.json. answers: of answers.jsonl.
    texts: further files by their names.
    """
    unfinished = files.name_temporary(output_dir)
    try:
        with errors.explain_full_disk(output_dir):
            unfinished.mkdir()  # new, so that no link of that name is followed
            _write_model_files(unfinished, merged, tokenizer, base, record, answers)
            for name, text in texts.items():
                files.write_text(unfinished / name, [text])
            for path in unfinished.iterdir():
                files.flush_file(path)
        os.replace(unfinished, output_dir)
    finally:
        # Still there if a signal came or the disk is full.
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_model_files(folder, merged, tokenizer, base, record, answers):
    """Write what write_model writes into a folder."""
    # Published ones have settings of sampling, which servers take for their own: Qwen's punishes
    # words of the prompt, and the labels are such.
    given = merged.generation_config
    merged.generation_config = transformers.GenerationConfig(
        bos_token_id=given.bos_token_id,
        eos_token_id=given.eos_token_id,
        pad_token_id=given.pad_token_id,
    )
    merged.save_pretrained(folder)
    served = copy.deepcopy(tokenizer)
    served.chat_template = chat.fix_template(tokenizer)
    served.save_pretrained(folder)
    converter_files.write_converter_files(folder, tokenizer, base)
    files.write_text(folder / "Modelfile", [format_modelfile(tokenizer)])
    files.write_text(folder / "prompt.txt", [prompts.PROMPT_TEMPLATE])
    files.write_json(folder / "export.json", record)
    files.write_jsonl(folder / ANSWERS_FILE, answers)
    if record["demo"]:
        shutil.copy(Path(base) / loading.DEMO_FILE, folder)
