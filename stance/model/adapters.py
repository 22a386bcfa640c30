"""Trained adapters: checked against the base and the prompt, saved, put on a loaded base."""

from pathlib import Path
from typing import TYPE_CHECKING

import peft
import safetensors

import prompts
from stance.common import distributed, errors, files
from stance.common.types import Example, RunRecord
from stance.model import fingerprints, loading, lora_linear, memory, precision

if TYPE_CHECKING:
    import transformers


def check_same_base(
    folder: str | Path, base: str, tokenizer: "transformers.PreTrainedTokenizerBase"
) -> None:
    """End the script if an adapter was trained on another version of the base or its tokenizer.

    folder: what finetune.py wrote. Another compute precision, as that of a GPU is on many CPUs, is
    only a note.
    """
    found = loading.describe_base(base, tokenizer)
    record = files.read_json(
        Path(folder) / "run.json", "give the folder that finetune.py wrote (--adapter)"
    )
    for key in ("base_revision", "tokenizer"):
        was = record.get(key)
        now = found[key]
        if was == now:
            continue
        hint = "restore it or train again"
        # A commit of the Hub, unlike the hash of a folder's files, can be loaded again by its name.
        was_commit = was and not was.startswith("files")
        if key == "base_revision" and was_commit and not Path(base).is_dir():
            pinned = f"{base.partition('@')[0]}@{was}"
            hint = f'to load that version, write "base_model": "{pinned}" into {folder}/run.json; or train again'
        errors.fail(f"{folder} was trained with {key} {was} of {base}, here it is {now}: {hint}")

    was = record.get("precision", {}).get("compute")
    now = precision.describe_precision()["compute"]
    if was != now and distributed.get_rank()[0] == 0:
        print(
            f"note: {folder} was trained in {was}, this machine computes in {now}: probabilities differ a little"
        )


def check_adapter(folder: str | Path) -> RunRecord:
    """Return the run record of an adapter folder.

    Ends the script if it is no finished adapter of this prompt, these labels and this precision,
    or if it holds files that could run code.
    """
    hint = "give the folder that finetune.py wrote (--adapter)"
    record = files.read_json(Path(folder) / "run.json", hint)
    missing = {"base_model", "prompt_version", "labels", "precision", "data", "demo"} - set(record)
    if missing:
        errors.fail(
            f"{folder}/run.json is no run record, it lacks {', '.join(sorted(missing))}: {hint}"
        )
    if (Path(folder) / "adapter_model.bin").exists():
        errors.fail(
            f"{folder} holds adapter_model.bin, a pickle, which can run code when it is loaded: delete it"
        )
    if not (Path(folder) / "adapter_model.safetensors").is_file():
        errors.fail(f"{folder} holds no adapter_model.safetensors: the training run did not finish")
    config = Path(folder) / "adapter_config.json"
    if config.is_file():  # fields with which peft would import or build something else
        fields = files.read_json(config, "copy it again from where the adapter was trained")
        if fields.get("peft_type") != "LORA" or fields.get("megatron_config"):
            errors.fail(f"{config} describes no plain LoRA adapter: {hint}")
    if record["prompt_version"] != prompts.PROMPT_VERSION:
        errors.fail(
            f"{folder} was trained with prompt version {record['prompt_version']}, prompts.py now builds "
            f"{prompts.PROMPT_VERSION}: restore prompts.py or train again"
        )
    here = precision.describe_precision()
    # Another compute dtype only rounds otherwise: check_same_base has a note on it.
    trained_precision = {**record["precision"], "compute": here["compute"]}
    trained = {"labels": record["labels"], "precision": trained_precision}
    expected = {"labels": list(prompts.LABELS), "precision": here}
    for key, now in expected.items():
        was = trained[key]
        if was != now:
            errors.fail(
                f"{folder} was trained with {key} {was}, now they are {now}: restore them or train again"
            )
    return record


def save_adapter(model: peft.PeftModel, folder: str | Path, train_rows: list[Example]) -> None:
    """Write an adapter, and hashes of the sentences that it was trained on, into a folder."""
    model.save_pretrained(folder, safe_serialization=True)
    # peft's empty form of a model card: evaluate.py writes one.
    (Path(folder) / "README.md").unlink(missing_ok=True)
    fingerprints.write_sentences(folder, train_rows)


def load_adapter(
    model: "transformers.PreTrainedModel | peft.PeftModel", folder: str | Path
) -> peft.PeftModel:
    """Return a loaded base with a trained adapter on it; the adapter's weights stay float32.

    Ends the script if the adapter is damaged or does not fit into the memory.
    """
    try:
        with memory.explain_memory(f"load {folder}", loading.MEMORY_HINT):
            adapted = peft.PeftModel.from_pretrained(model, folder)
    except (OSError, ValueError, safetensors.SafetensorError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        errors.fail(f"cannot load the adapter {folder} ({reason}): copy it again, or train again")
    lora_linear.fuse_adapters(adapted)
    return adapted
