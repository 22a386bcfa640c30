"""Whether the weights of an adapter fit its base, looked at before the weights of the base load.

Loading by name is forgiving: a tensor whose name or shape does not fit is left out with a warning
at most, and the bare base would answer as if it were the adapter.
"""

import copy
import re
from pathlib import Path

import peft
import safetensors
import torch
import transformers

from stance.common import errors, formatting, limits, records
from stance.common.types import AdapterConfig
from stance.model import loading, untrusted

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
# Fields of CONFIG that a LoRA adapter of this project may have in any form: those that decide which
# tensors it has, are checked by these; another function of the tensors is in all other fields.
FREE_FIELDS = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "peft_version",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
}
# What matching its regular expressions with the names of the base's layers may take; honest ones
# take milliseconds.
PATTERN_SECONDS = 5
PATTERN_BYTES = 1 << 30
FOLDER_HINT = "give the folder that finetune.py wrote (--adapter)"
COPY_AGAIN = "copy the adapter again from where it was trained, or train again"


def check_adapter_config(folder: str | Path) -> None:
    """Stop unless adapter_config.json describes a plain LoRA adapter, as finetune.py trains it.

    A field that only another version of peft knows must be empty: this one would pass over it.
    """
    path = Path(folder) / CONFIG
    fields = records.read_typed(path, AdapterConfig, "config of an adapter", COPY_AGAIN)
    if fields.get("peft_type") != "LORA":
        errors.fail(f"{path} describes no plain LoRA adapter: {FOLDER_HINT}")
    plain = peft.LoraConfig().to_dict()
    for name, value in fields.items():
        if name not in FREE_FIELDS and value and value != plain.get(name):
            found = formatting.quote(str(value))
            errors.fail(
                f"{path} describes no plain LoRA adapter ({name} is {found}): {FOLDER_HINT}"
            )
    if "lora_alpha" not in fields:
        errors.fail(f"{path}: lora_alpha must be a number: {COPY_AGAIN}")


def check_adapter_weights(
    folder: str | Path,
    base_config: transformers.PreTrainedConfig,
    lora_config: peft.LoraConfig | None = None,
) -> None:
    """Stop unless an adapter's file has the tensors that its config asks for, in finite numbers.

    folder: with adapter_config.json and adapter_model.safetensors, of an adapter or a checkpoint.
    base_config: of the base that it is loaded on. lora_config: what the model is made with that
    takes the tensors; None: adapter_config.json.
    """
    path = Path(folder) / WEIGHTS
    check_adapter_config(folder)
    expected = list_expected(folder, base_config, lora_config)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            compare_tensors(path, found, expected)
            for name in names:
                check_numbers(path, name, file.get_tensor(name))
    except (OSError, safetensors.SafetensorError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        errors.fail(f"{path} cannot be read ({reason}): {COPY_AGAIN}")


def check_numbers(path: Path, name: str, tensor: torch.Tensor) -> None:
    """Stop unless a tensor of an adapter holds finite floating-point numbers."""
    if not tensor.is_floating_point():
        dtype = str(tensor.dtype).removeprefix("torch.")
        errors.fail(f"{path}: {name} holds {dtype}, not floating-point numbers: {COPY_AGAIN}")
    # Faster than to look at each number. By way of float32, as PyTorch adds up no float8, to
    # float64, in which a sum of float32 numbers cannot overflow.
    if not tensor.float().sum(dtype=torch.float64).isfinite():
        hint = "train again with a lower learning rate"
        errors.fail(f"{path}: {name} holds numbers that are not finite: {hint}")


def list_expected(
    folder: str | Path,
    base_config: transformers.PreTrainedConfig,
    lora_config: peft.LoraConfig | None = None,
) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of the tensors that an adapter has on a base. Allocates no weights.

    Arguments are those of check_adapter_weights.
    """
    try:
        if lora_config is None:
            lora_config = peft.LoraConfig.from_pretrained(str(folder))
        with torch.device("meta"):
            base = loading.build_empty(base_config)
            check_patterns(Path(folder) / CONFIG, lora_config, base)
            # A copy: peft writes into it.
            adapted = peft.get_peft_model(base, copy.deepcopy(lora_config))
    except (
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        RuntimeError,
        OverflowError,
        re.error,
    ) as problem:
        reason = str(problem).strip().partition("\n")[0]
        errors.fail(f"{Path(folder) / CONFIG} does not fit the base ({reason}): {COPY_AGAIN}")
    state = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def check_patterns(path: Path, lora_config: peft.LoraConfig, base: torch.nn.Module) -> None:
    """Stop if the regular expressions of an adapter's config take too long on the base's names.

    path: of the config, for messages.
    """
    patterns = [*(lora_config.rank_pattern or ()), *(lora_config.alpha_pattern or ())]
    for names in (lora_config.target_modules, lora_config.exclude_modules):
        patterns += [names] if isinstance(names, str) else []
    layers = lora_config.layers_pattern or ()
    patterns += [layers] if isinstance(layers, str) else layers
    # As peft puts them together, see its get_pattern_key.
    patterns += [rf"(.*\.)?({pattern})" for pattern in patterns]
    names = [name for name, _ in base.named_modules()]
    try:
        limits.try_out(untrusted.match_names, [patterns, names], PATTERN_SECONDS, PATTERN_BYTES)
    except (re.error, OverflowError, RecursionError, TimeoutError, MemoryError) as problem:
        reason = formatting.quote(str(problem))
        errors.fail(
            f"{path}: its names of layers cannot be matched with those of the base ({reason}): "
            f"{COPY_AGAIN}"
        )


def compare_tensors(
    path: Path, found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> None:
    """Stop if names or shapes of an adapter's tensors are not the expected ones."""
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    other_shape = sorted(
        name for name in found.keys() & expected.keys() if found[name] != expected[name]
    )
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(expected)} tensors are missing ({missing[0]})")
    if unexpected:
        parts.append(f"{len(unexpected)} fit nothing in the base ({unexpected[0]})")
    if other_shape:
        name = other_shape[0]
        parts.append(
            f"{len(other_shape)} have another shape ({name}: {list(found[name])}, needed is {list(expected[name])})"
        )
    if parts:
        errors.fail(f"{path}: {'; '.join(parts)}: {COPY_AGAIN}")
