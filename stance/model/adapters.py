"""Trained adapters: checked against the base and the prompt, saved, put on a loaded base."""

from pathlib import Path
from typing import TYPE_CHECKING

import peft
import safetensors

import prompts
from stance.common import distributed, errors, files, records
from stance.common.types import RunRecord
from stance.model import (
    adapter_weights,
    fingerprints,
    loading,
    lora_linear,
    memory,
    precision,
)

if TYPE_CHECKING:
    import transformers


def check_same_base(
    folder: str | Path, base: str, tokenizer: "transformers.PreTrainedTokenizerBase"
) -> None:
    """End the script if an adapter does not belong to a base: before the weights of the base load.

    That is, if it was trained on another version of the base or its tokenizer, or if its weights
    would not land on this base. folder: what finetune.py wrote. Another compute precision, as that
    of a GPU is on many CPUs, is only a note.
    """
    found = loading.describe_base(base, tokenizer)
    record = read_record(folder)
    for key in ("base_revision", "tokenizer"):
        was = record.get(key)
        now = found[key]
        if was == now:
            continue
        hint = "restore it or train again"
        # A commit of the Hub, unlike the hash of a folder's files, can be loaded again by its name.
        was_commit = was is not None and not was.startswith(fingerprints.FILES)
        if key == "base_revision" and was_commit and not Path(base).is_dir():
            pinned = f"{base.partition('@')[0]}@{was}"
            hint = f'to load that version, write "base_model": "{pinned}" into {folder}/run.json; or train again'
        errors.fail(f"{folder} was trained with {key} {was} of {base}, here it is {now}: {hint}")
    adapter_weights.check_adapter_weights(folder, loading.load_config(base))
    check_files(folder, record)

    was = record["precision"].get("compute")
    now = precision.describe_precision()["compute"]
    if was != now and distributed.get_rank()[0] == 0:
        print(
            f"note: {folder} was trained in {was}, this machine computes in {now}: probabilities differ a little"
        )


def hash_files(folder: str | Path) -> dict[str, str]:
    """Return {name: SHA-256} of the files that make an adapter."""
    names = (adapter_weights.CONFIG, adapter_weights.WEIGHTS)
    return {name: files.hash_file(Path(folder) / name) for name in names}


def check_files(folder: str | Path, record: RunRecord) -> None:
    """End the script if the files of an adapter are not those that its training wrote.

    Numbers that were changed within the shapes would answer, only wrongly. Run records of earlier
    versions name no hashes.
    """
    was = record.get("adapter_files")
    if was is None:
        return
    now = hash_files(folder)
    for name, digest in now.items():
        if was.get(name) != digest:
            errors.fail(
                f"{Path(folder) / name} is not the file that the training wrote: "
                f"{adapter_weights.COPY_AGAIN}"
            )


def read_record(folder: str | Path) -> RunRecord:
    """Return the run record of an adapter folder; end the script if it is none."""
    path = Path(folder) / "run.json"
    return records.read_typed(path, RunRecord, "run record", adapter_weights.FOLDER_HINT)


def check_adapter(folder: str | Path) -> RunRecord:
    """Return the run record of an adapter folder.

    Ends the script if it is no finished adapter of this prompt, these labels and this precision,
    or if it holds files that could run code.
    """
    record = read_record(folder)
    if (Path(folder) / "adapter_model.bin").exists():
        errors.fail(
            f"{folder} holds adapter_model.bin, a pickle, which can run code when it is loaded: delete it"
        )
    if not (Path(folder) / "adapter_model.safetensors").is_file():
        errors.fail(f"{folder} holds no adapter_model.safetensors: the training run did not finish")
    adapter_weights.check_adapter_config(folder)
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


def check_checkpoint(
    folder: str | Path, base: str, lora_config: peft.LoraConfig | None = None
) -> None:
    """End the script if the adapter in a checkpoint would not land on the base that is trained.

    folder: with adapter_config.json and adapter_model.safetensors. lora_config: that of the run
    which goes on; None: that of the checkpoint. Loads no weights of the base.
    """
    adapter_weights.check_adapter_weights(folder, loading.load_config(base), lora_config)


def save_adapter(model: peft.PeftModel, folder: str | Path) -> None:
    """Write an adapter into a folder."""
    model.save_pretrained(folder, safe_serialization=True)
    # peft's empty form of a model card: evaluate.py writes one.
    (Path(folder) / "README.md").unlink(missing_ok=True)


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
    adapted.adapter_folder = str(folder)  # for messages
    return adapted
