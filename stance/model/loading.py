"""The base model and its tokenizer: loading, checking, counting."""

import copy
import os
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil
import torch
import transformers

from stance.common import errors, formatting, records, streams
from stance.common.types import DemoNote
from stance.model import base_files, chat, fingerprints, lora_linear, memory, precision
from stance.tree import prefix_tree

# ---------------------------------------------------------------- settings
CHECKED_TOKENS = 24  # of the two prompts on which a loaded base is compared with itself
# Relative difference of their logits: bfloat16 rounds by some percent, a wrong mask changes all.
TREE_TOLERANCE = 0.25
CPU_PARAMETER_LIMIT = 200_000_000  # without a GPU a larger base would crawl for days: refuse it
UNPACKED_SHARE = 0.5  # of the free main memory that unpacked copies of 4-bit weights may take
# --------------------------------------------------------------------------

PLAIN_ATTENTION = "eager"  # of a base without prefix trees: sdpa lacks the soft cap of Gemma-2

# These warnings are addressed to the libraries' authors.
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")

# In the folder of a model that is there to try the scripts; tools/demo_model.py writes it.
DEMO_FILE = "demo_model.json"
MEMORY_HINT = (
    "end other programs on the GPU (nvidia-smi lists them), or take a larger GPU "
    "(docs/performance.md has measured sizes)"
)
ACCESS_STEPS = (
    "1. accept the licence on the model's page at huggingface.co, 2. run `hf auth login`, 3. start again "
    "(or pass the folder of a downloaded copy)"
)


def read_demo_note(base: str) -> str | None:
    """Return what every output says of a base that is there to try the scripts, else None.

    Numbers of such a model must never pass for results, so a damaged note ends the script.
    """
    file = Path(base) / DEMO_FILE
    if not file.is_file():
        return None
    hint = f"make {base} again"
    described = records.read_typed(file, DemoNote, "note on a demo model", hint)
    return described.get(
        "note", "DEMO: a model to try the scripts with: do not report these numbers."
    )


def load_tokenizer(base: str) -> transformers.PreTrainedTokenizerBase:
    """Load the tokenizer of a base model, a folder or a name on the Hub (NAME or NAME@REVISION).

    Ends the script with what to do if it cannot be had, or if its chat template cannot ask the
    question.
    """
    with streams.spell_native_output():
        tokenizer = load_pretrained(transformers.AutoTokenizer.from_pretrained, base)
    try:
        chat.check_chat(tokenizer)
    except ValueError as problem:
        reason = str(problem).strip().partition("\n")[0]
        errors.fail(
            f"{base} cannot be used ({reason}): choose an instruction-tuned model (docs/bases.md)"
        )
    if tokenizer.pad_token_id is None:  # nothing sees padding, so any token will do
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def describe_base(base: str, tokenizer: transformers.PreTrainedTokenizerBase) -> dict[str, str]:
    """Return what run records hold of a base.

    base_model is its name, base_revision its version, tokenizer a hash of the tokenizer that it is
    used with.
    """
    return {
        "base_model": base,
        "base_revision": fingerprints.fingerprint_base(base),
        "tokenizer": fingerprints.fingerprint_tokenizer(tokenizer),
    }


def check_base(base: str) -> None:
    """End the script before any weights load if this machine cannot run the base.

    Reasons: the model cannot be had, its architecture is unknown, the GPU is too old, or there is
    none and the model is large.
    """
    config = load_config(base)
    known = (*prefix_tree.MASK_BY_LAYER, *prefix_tree.ONE_MASK)
    if config.model_type not in known:
        errors.fail(
            f"{base} is a {config.model_type} model: choose one of the architectures {', '.join(known)}"
        )
    if torch.cuda.is_available():
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            errors.fail(
                f"{torch.cuda.get_device_name()} has no bfloat16: use a GPU of the Ampere generation or newer"
            )
        return
    size = count_weights(config)
    if size > CPU_PARAMETER_LIMIT:
        errors.fail(
            f"no CUDA GPU found and {base} has {size:,} parameters: run on a GPU (16 GB for gemma-2-9b), or try the "
            "scripts on a small model with `make demo`"
        )


def load_config(base: str) -> transformers.PreTrainedConfig:
    """Return the config of a base; end the script with what to do if it cannot be had."""
    config = load_pretrained(transformers.AutoConfig.from_pretrained, base)
    config._attn_implementation = PLAIN_ATTENTION  # whatever it says itself
    return config


def count_weights(config: transformers.PreTrainedConfig) -> int:
    """Return the number of weights of a model of this config, without allocating them."""
    return sum(weight.numel() for weight in build_empty(config).parameters())


def build_empty(config: transformers.PreTrainedConfig) -> transformers.PreTrainedModel:
    """Return a model of a config with weights that take no memory and hold no numbers.

    Ends the script if the config describes no model.
    """
    try:
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(
                copy.deepcopy(config),  # it may be that of a loaded model, and is written into
                attn_implementation=PLAIN_ATTENTION,
            )
    except Exception as problem:  # each architecture fails in its own way on a senseless config
        reason = formatting.quote(f"{type(problem).__name__}: {problem}")
        errors.fail(
            f"the config of {config.name_or_path} describes no {config.model_type} model ({reason}): "
            f"{base_files.DOWNLOAD_AGAIN}"
        )


def load_base(
    base: str, shard: Callable[[transformers.PreTrainedModel], object] | None = None
) -> transformers.PreTrainedModel:
    """Load a base model in 4-bit NF4, on the GPU if there is one.

    It computes in precision.compute_dtype(), over prefix trees. Source of the precision: QLoRA,
    https://arxiv.org/abs/2305.14314.

    shard: a function that takes the model, then loaded on the CPU, and deals its weights out to
    several GPUs.

    Ends the script if the weights cannot be had or do not fit into the memory.
    """
    on_gpu = torch.cuda.is_available()
    quantisation = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=precision.QUANT_TYPE,
        bnb_4bit_use_double_quant=precision.DOUBLE_QUANT,
        bnb_4bit_compute_dtype=precision.compute_dtype(),
    )
    with memory.explain_memory(f"load {base}", MEMORY_HINT):
        device = torch.cuda.current_device() if on_gpu and shard is None else "cpu"
        model = load_weights(
            base,
            dtype=precision.compute_dtype(),
            quantization_config=quantisation,
            device_map={"": device},
        )
        for linear in lora_linear.find_linears(model):
            # On CPUs with AVX512-BF16 bitsandbytes would round the weights' scales to bfloat16 at
            # the first inference, for good: training would go on from other weights after a
            # validation than a resumed run does.
            linear.support_avx512bf16_for_cpu = False
        if shard is not None:
            shard(model)
        elif not on_gpu:
            unpack_weights(model)
        check_tree(model, base)
    return model


def load_weights(base: str, **options: object) -> transformers.PreTrainedModel:
    """Return a base with all of its weights; options: what transformers takes beside its name.

    Ends the script if a weight is missing or has another shape: transformers would only log it, and
    put random numbers there.
    """
    model, found = load_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained,
        base,
        config=load_config(base),
        use_safetensors=True,  # other weight files are pickles, which can run code
        attn_implementation=PLAIN_ATTENTION,
        output_loading_info=True,
        **options,
    )
    wrong = sorted(found["missing_keys"]) or sorted(found["mismatched_keys"])
    if wrong:
        errors.fail(
            f"cannot load {base} (its weight files lack {len(wrong)} weights that its config asks for, such as "
            f"{formatting.quote(str(wrong[0]))}): {base_files.DOWNLOAD_AGAIN}"
        )
    return model


def unpack_weights(model: transformers.PreTrainedModel) -> None:
    """Keep unpacked copies of the 4-bit weights of a model on a CPU, if the main memory has room.

    The copies hold the same numbers that bitsandbytes would unpack at each pass.
    """
    weight_count = sum(
        linear.in_features * linear.out_features for linear in lora_linear.find_linears(model)
    )
    bytes_per_weight = torch.finfo(model.dtype).bits // 8
    size = bytes_per_weight * weight_count
    if size <= UNPACKED_SHARE * psutil.virtual_memory().available:
        lora_linear.fuse_linears(model, keep_dense=True)


@torch.no_grad()
def check_tree(model: transformers.PreTrainedModel, base: str) -> None:
    """Give a loaded base the attention of prefix trees, and check it against the model's own.

    Ends the script if two random prompts with a common beginning then get other logits than
    before, by more than TREE_TOLERANCE.
    """
    rng = random.Random(0)
    sequences = []
    for _ in range(2):
        sequences.append([rng.randrange(model.config.vocab_size) for _ in range(CHECKED_TOKENS)])
    shared = CHECKED_TOKENS // 2
    sequences[1][:shared] = sequences[0][:shared]

    tree = prefix_tree.merge_prefixes(sequences, pad_id=0)
    inputs = {
        name: tensor.to(model.device) for name, tensor in prefix_tree.tree_inputs(tree).items()
    }
    last_nodes = torch.tensor([nodes[-1] for nodes in tree.nodes], device=model.device)
    input_ids = torch.tensor(sequences, device=model.device)
    with prefix_tree.compute_precision(model):
        output = model(input_ids=input_ids, logits_to_keep=1, use_cache=False)
        model.set_attn_implementation(prefix_tree.ATTENTION)
        tree_logits = prefix_tree.forward_tree(model, model.config, inputs, last_nodes)

    flat_logits = _center_logits(output.logits[:, 0])
    tree_logits = _center_logits(tree_logits)
    difference = ((tree_logits - flat_logits).norm() / flat_logits.norm()).item()
    if not difference <= TREE_TOLERANCE:  # NaN neither
        errors.fail(
            f"{base}: prefix trees give logits {difference:.0%} away from the model's own, so this version of "
            "transformers computes another attention: install the versions of requirements.txt, or choose another base"
        )


def _center_logits(logits):
    """Return logits [B, vocabulary] in float32, less each row's mean: it changes no probability."""
    logits = logits.float()
    return logits - logits.mean(1, keepdim=True)


def device_name() -> str:
    """Return the name of the device that models run on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def peak_gpu_gib() -> float | None:
    """Return the most GPU memory that tensors took in this process, in GiB (2^30 bytes).

    None without a GPU.
    """
    if not torch.cuda.is_available():
        return None
    return round(torch.cuda.max_memory_allocated() / 2**30, 2)


def load_pretrained(loader: Callable[..., Any], base: str, **options: object) -> Any:
    """Return what a transformers loader, a from_pretrained method, makes of a base.

    options: what the loader takes beside the name and the revision. Code that comes with a model
    never runs, and weights come from its own *.safetensors files alone; see base_files. Ends the
    script in one clear line if the model is missing, gated, damaged or out of reach.
    """
    if os.sep in base and base.startswith((".", os.sep)) and not Path(base).is_dir():
        errors.fail(f"base model folder {base} not found")
    name, revision = fingerprints.split_revision(base)
    if revision and Path(name).is_dir():
        errors.fail(f"{base}: {name} is a folder, which has one version: leave out @{revision}")
    if revision:
        options["revision"] = revision
    if not sys.stderr.isatty():  # a bar in a log file is hundreds of lines
        transformers.utils.logging.disable_progress_bar()
    # Else weights of another commit, which somebody converted, would be loaded where there are none.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    loads_weights = "use_safetensors" in options
    hint = f"{errors.MAKE_ROOM}, or let HF_HOME name a folder on another disk"
    try:
        with errors.explain_full_disk(f"the files of {base}", hint):  # they are downloaded
            base_files.check_base_files(name, revision)
            return loader(name, trust_remote_code=False, **options)
    except Exception as problem:  # damaged files: the readers raise what their libraries do
        is_memory = isinstance(problem, RuntimeError) and not isinstance(problem, RecursionError)
        if loads_weights and is_memory:  # the caller explains it
            raise
        explain_failure(base, problem, loads_weights)


def explain_failure(base: str, problem: Exception, loads_weights: bool) -> NoReturn:
    """End the script because a base could not be loaded; problem: what was raised."""
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    reason = " ".join(lines[0].split())
    if not Path(base).is_dir():
        hint = f"check its name and the network; to get a gated model, {ACCESS_STEPS}"
    elif loads_weights and not any(Path(base).glob("*.safetensors")):
        hint = (
            "download its .safetensors files: pickles (.bin, .pt) can run code and are not loaded"
        )
    else:
        hint = "download it again"
    errors.fail(f"cannot load {base} ({reason}): {hint}")
