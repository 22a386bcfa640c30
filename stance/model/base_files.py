"""The files of a base model, looked at before any of them is loaded.

A base comes from strangers. Its config may name code, pickles, another quantisation or files
elsewhere, which the libraries would fetch and load, and which the fingerprint of the base would not
see. Here it may only describe a model; weights come from the *.safetensors files beside it.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import transformers

from stance.common import errors, formatting, records
from stance.common.types import BaseConfig, WeightIndex

BASE_CONFIG = "config.json"
INDEX = "model.safetensors.index.json"  # of a base in several weight files
# transformers would load another base in its place, or the adapter on top of it.
ADAPTER_CONFIG = "adapter_config.json"
WEIGHT_NAME = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)

# What a config may say of the attention; this project takes its own. Other names are of code on
# the Hub.
ATTENTION_KEYS = ("attn_implementation", "experts_implementation")
ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
# Keys of a config, at any depth, that choose what is loaded; with what to do about them.
REFUSED_KEYS = {
    "quantization_config": "take the base as it was published, before anybody quantised it",
    "transformers_weights": "take the base as it was published",
}
# Above that a config is nonsense, and an empty model of it would take all memory or days.
MOST_LAYERS = 1000
LARGEST_SIZE = 1 << 24
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
DOWNLOAD_AGAIN = "download the base again, from where it was published"


def check_base_files(name: str, revision: str | None = None) -> None:
    """Fail if a base's config or its index of weight files names anything but its own weights.

    name: a folder, or a name on the Hub; revision: of it there. Raises what transformers raises
    where the Hub cannot be reached.
    """
    path = find_file(name, BASE_CONFIG, revision)
    if path is not None:  # else the loader says what is wrong
        check_config(path, records.read_typed(path, BaseConfig, "config of a base", DOWNLOAD_AGAIN))
    adapter = find_file(name, ADAPTER_CONFIG, revision)
    if adapter is not None:
        hint = "give the base itself; an adapter of finetune.py goes to --adapter"
        errors.fail(f"{name} holds an adapter ({ADAPTER_CONFIG}), so it is no base: {hint}")
    path = find_file(name, INDEX, revision)
    if path is not None:
        check_index(path, is_folder=Path(name).is_dir())


def find_file(name: str, file: str, revision: str | None) -> Path | None:
    """Return the path of a file of a base, in its folder or the Hub's cache; None if it has none."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.exists() else None
    found = transformers.utils.cached_file(
        name,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        # Only the config is needed. Offline, it cannot be told whether there are others.
        _raise_exceptions_for_connection_errors=file == BASE_CONFIG,
    )
    return None if found is None else Path(found)


def check_config(path: Path, config: BaseConfig) -> None:
    """Fail if a config names code, other weights or a quantisation, or describes no real model."""
    for key, value in walk_keys(config):
        if key in REFUSED_KEYS and value:
            errors.fail(f"{path} has a {key}: {REFUSED_KEYS[key]}")
        plain_key = key.removeprefix("_").removesuffix("_internal")
        if plain_key in ATTENTION_KEYS and value and value not in ATTENTIONS:
            found = formatting.quote(str(value))
            errors.fail(f"{path}: {key} {found} would run code of others: {DOWNLOAD_AGAIN}")
        if key == "num_hidden_layers" and not _is_size(value, MOST_LAYERS):
            errors.fail(
                f"{path}: {key} must be a number from 1 to {MOST_LAYERS:,}: {DOWNLOAD_AGAIN}"
            )
        if key in SIZES and value is not None and not _is_size(value, LARGEST_SIZE):
            errors.fail(
                f"{path}: {key} must be a number from 1 to {LARGEST_SIZE:,}: {DOWNLOAD_AGAIN}"
            )


def walk_keys(value: object) -> Iterator[tuple[str, object]]:
    """Yield every (key, value) of a value of JSON, at any depth."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _is_size(value, most):
    return type(value) is int and 1 <= value <= most


def check_index(path: Path, is_folder: bool) -> None:
    """Fail if an index names anything but *.safetensors files of the folder that it lies in.

    They may be links, as in the Hub's cache. is_folder: whether all of them have to be there.
    """
    index: WeightIndex = records.read_typed(
        path, WeightIndex, "index of weight files", DOWNLOAD_AGAIN
    )
    for name in sorted(set(index["weight_map"].values())):
        if not WEIGHT_NAME.fullmatch(name):
            found = formatting.quote(name)
            problem = f"{path} names the weights {found}, which is no .safetensors file beside it"
            hint = "pickles (.bin, .pt) can run code, and files elsewhere may change unseen"
            errors.fail(f"{problem} ({hint}): {DOWNLOAD_AGAIN}")
        if is_folder and not (path.parent / name).is_file():
            errors.fail(f"{path} names {name}, which is not there: {DOWNLOAD_AGAIN}")
