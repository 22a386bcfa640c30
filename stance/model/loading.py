"""The base model, its tokenizer and its adapter: loading, checking, counting. The only module that loads weights."""

import os
import random
import sys
import warnings
from pathlib import Path

import peft
import psutil
import safetensors
import torch
import transformers

import prompts
from stance.common import distributed, errors, files
from stance.model import chat, fingerprints, lora_linear, memory
from stance.tree import prefix_tree

# ---------------------------------------------------------------- settings
CPU_DTYPE = None  # "float32" or "bfloat16": what is computed in without a GPU; None: what the CPU multiplies natively

# precision: QLoRA as published, and the only precision an adapter of this project is trained or used in
QUANT_TYPE = "nf4"  # 4-bit NormalFloat
DOUBLE_QUANT = True  # quantise the quantisation constants too: 0.4 bits less per weight

# checks
CHECKED_TOKENS = 24  # of the two prompts on which a loaded base is compared with itself
TREE_TOLERANCE = 0.25  # relative difference of their logits: bfloat16 rounds by some percent, a wrong mask changes all
CPU_PARAMETER_LIMIT = 200_000_000  # without a GPU a larger base would crawl for days: refuse it
UNPACKED_SHARE = 0.5  # of the free main memory that unpacked copies of 4-bit weights may take
# --------------------------------------------------------------------------

warnings.filterwarnings(
    "ignore", category=FutureWarning, module="transformers"
)  # addressed to the libraries' authors
DEMO_FILE = "demo_model.json"  # in the folder of a model that is there to try the scripts; tools/demo_model.py writes it
MEMORY_HINT = "end other programs on the GPU (nvidia-smi lists them), or take a larger GPU (docs/performance.md has measured sizes)"
ACCESS_STEPS = (
    "1. accept the licence on the model's page at huggingface.co, 2. run `hf auth login`, 3. start again "
    "(or pass the folder of a downloaded copy)"
)


def read_demo_note(base):
    """Return what every output says of a base that is there to try the scripts; None for any other base.

    Numbers of such a model must never pass for results.
    """
    file = Path(base) / DEMO_FILE
    if not file.is_file():
        return None
    described = files.read_json(file, f"make {base} again")
    return described.get(
        "note", "DEMO: a model to try the scripts with: do not report these numbers."
    )


def load_tokenizer(base):
    """Load the tokenizer of a base model; stop with what to do if it cannot be had or cannot ask the question."""
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


def describe_base(base, tokenizer):
    """Return what run records hold of a base: its name, its version, and the tokenizer that it is used with."""
    version = {"base_revision": fingerprints.fingerprint_base(base)}
    return {
        "base_model": base,
        **version,
        "tokenizer": fingerprints.fingerprint_tokenizer(tokenizer),
    }


def check_base(base):
    """Stop before any weights load if this machine cannot run the base: model not accessible, no GPU, GPU too old."""
    config = load_pretrained(transformers.AutoConfig.from_pretrained, base)
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


def check_same_base(folder, base, tokenizer):
    """Stop if an adapter was trained on another version of the base than this, or with another tokenizer.

    Another compute precision, as that of a GPU is on many CPUs, is only a note.
    """
    found = describe_base(base, tokenizer)
    record = files.read_json(
        Path(folder) / "run.json", "give the folder that finetune.py wrote (--adapter)"
    )
    for key in ("base_revision", "tokenizer"):
        was, now, hint = record.get(key), found[key], "restore it or train again"
        if was == now:
            continue
        if (
            key == "base_revision"
            and was
            and not was.startswith("files")
            and not Path(base).is_dir()
        ):
            pinned = f"{base.partition('@')[0]}@{record['base_revision']}"
            hint = f'to load that version, write "base_model": "{pinned}" into {folder}/run.json; or train again'
        errors.fail(f"{folder} was trained with {key} {was} of {base}, here it is {now}: {hint}")
    was, now = record.get("precision", {}).get("compute"), describe_precision()["compute"]
    if was != now and distributed.get_rank()[0] == 0:
        print(
            f"note: {folder} was trained in {was}, this machine computes in {now}: probabilities differ a little"
        )


def count_weights(config):
    """Return the number of weights of a model of this config, without allocating them."""
    with torch.device("meta"):
        return sum(
            weight.numel()
            for weight in transformers.AutoModelForCausalLM.from_config(config).parameters()
        )


def compute_dtype():
    """Return the dtype in which models compute: bfloat16 on a GPU, on a CPU CPU_DTYPE or what it multiplies natively."""
    if torch.cuda.is_available():
        return torch.bfloat16
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if CPU_DTYPE is None:
        return torch.bfloat16 if multiplies_bfloat16() else torch.float32
    if CPU_DTYPE not in dtypes:
        errors.fail(
            f'CPU_DTYPE {CPU_DTYPE!r} is unknown: write "float32", "bfloat16" or None in stance/model/loading.py'
        )
    return dtypes[CPU_DTYPE]


def multiplies_bfloat16():
    """Return whether the CPU has instructions that multiply bfloat16 and PyTorch's oneDNN uses them.

    Without such instructions PyTorch emulates them, at a small part of the speed of float32.
    """
    capabilities = torch.cpu.get_capabilities()
    native = ("avx512_bf16", "amx_bf16", "bf16")  # the last is Arm's
    return torch.backends.mkldnn.is_available() and any(
        capabilities.get(name, False) for name in native
    )


def load_base(base, shard=None):
    """Load a base model in 4-bit NF4, on the GPU if there is one, to compute in compute_dtype().

    shard: a function that takes the model, then loaded on the CPU, and deals its weights out to several GPUs. Source of
    the precision: QLoRA, https://arxiv.org/abs/2305.14314.
    """
    on_gpu = torch.cuda.is_available()
    quantisation = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=QUANT_TYPE,
        bnb_4bit_use_double_quant=DOUBLE_QUANT,
        bnb_4bit_compute_dtype=compute_dtype(),
    )
    with memory.explain_memory(f"load {base}", MEMORY_HINT):
        model = load_pretrained(
            transformers.AutoModelForCausalLM.from_pretrained,
            base,
            dtype=compute_dtype(),
            use_safetensors=True,  # other weight files are pickles, which can run code
            quantization_config=quantisation,
            device_map={"": torch.cuda.current_device() if on_gpu and shard is None else "cpu"},
            attn_implementation="eager",  # sdpa lacks the soft cap of Gemma-2
        )
        for linear in lora_linear.find_linears(model):
            # On CPUs with AVX512-BF16 bitsandbytes would round the weights' scales to bfloat16 at the first inference,
            # for good: training would go on from other weights after a validation than a resumed run does.
            linear.support_avx512bf16_for_cpu = False
        if shard is not None:
            shard(model)
        elif not on_gpu:
            unpack_weights(model)
        check_tree(model, base)
    return model


def unpack_weights(model):
    """Keep unpacked copies of the 4-bit weights of a model on a CPU, if the main memory has room for them.

    The copies hold the same numbers that bitsandbytes would unpack at each pass.
    """
    element = torch.finfo(model.dtype).bits // 8
    size = element * sum(
        linear.in_features * linear.out_features for linear in lora_linear.find_linears(model)
    )
    if size <= UNPACKED_SHARE * psutil.virtual_memory().available:
        lora_linear.fuse_linears(model, keep_dense=True)


@torch.no_grad()
def check_tree(model, base):
    """Give a loaded base the attention of prefix trees; stop if two prompts then get other logits than before."""
    rng = random.Random(0)
    ids = [
        [rng.randrange(model.config.vocab_size) for _ in range(CHECKED_TOKENS)] for _ in range(2)
    ]
    ids[1][: CHECKED_TOKENS // 2] = ids[0][: CHECKED_TOKENS // 2]
    tree = prefix_tree.merge_prefixes(ids, pad_id=0)
    inputs = {
        name: tensor.to(model.device) for name, tensor in prefix_tree.tree_inputs(tree).items()
    }
    last = torch.tensor([nodes[-1] for nodes in tree.nodes], device=model.device)
    with prefix_tree.compute_precision(model):
        flat = model(
            input_ids=torch.tensor(ids, device=model.device), logits_to_keep=1, use_cache=False
        ).logits[:, 0]
        model.set_attn_implementation(prefix_tree.ATTENTION)
        logits = prefix_tree.forward_tree(model, model.config, inputs, last)
    flat, logits = (
        values.float() - values.float().mean(1, keepdim=True) for values in (flat, logits)
    )
    difference = ((logits - flat).norm() / flat.norm()).item()
    if not difference <= TREE_TOLERANCE:  # NaN neither
        errors.fail(
            f"{base}: prefix trees give logits {difference:.0%} away from the model's own, so this version of "
            "transformers computes another attention: install the versions of requirements.txt, or choose another base"
        )


def describe_precision():
    """Return the precision of the base as run records hold it."""
    compute = str(compute_dtype()).removeprefix("torch.")
    return {"quant_type": QUANT_TYPE, "double_quant": DOUBLE_QUANT, "compute": compute}


def check_adapter(folder):
    """Return the run record of an adapter folder; stop if it is no finished adapter of this prompt and precision."""
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
    here = describe_precision()
    same_compute = {
        **record["precision"],
        "compute": here["compute"],
    }  # another rounds otherwise: check_same_base's note
    for key, was, now in (
        ("labels", record["labels"], list(prompts.LABELS)),
        ("precision", same_compute, here),
    ):
        if was != now:
            errors.fail(
                f"{folder} was trained with {key} {was}, now they are {now}: restore them or train again"
            )
    return record


def save_adapter(model, folder, train_rows):
    """Write an adapter, and hashes of the sentences that it was trained on, into a folder."""
    model.save_pretrained(folder, safe_serialization=True)
    (Path(folder) / "README.md").unlink(
        missing_ok=True
    )  # peft's empty form of a model card: evaluate.py writes one
    fingerprints.write_sentences(folder, train_rows)


def load_adapter(model, folder):
    """Put a trained adapter on a loaded base; its weights stay float32."""
    try:
        with memory.explain_memory(f"load {folder}", MEMORY_HINT):
            model = peft.PeftModel.from_pretrained(model, folder)
    except (OSError, ValueError, safetensors.SafetensorError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        errors.fail(f"cannot load the adapter {folder} ({reason}): copy it again, or train again")
    lora_linear.fuse_adapters(model)
    return model


def device_name():
    """Return the name of the device that models run on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def peak_gpu_gib():
    """Return the most GPU memory that tensors took in this process, in GiB (2^30 bytes); None without a GPU."""
    return (
        round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else None
    )


def load_pretrained(loader, base, **options):
    """Call a transformers loader; turn a model that is missing, gated or out of reach into one clear line."""
    if os.sep in base and base.startswith((".", os.sep)) and not Path(base).is_dir():
        errors.fail(f"base model folder {base} not found")
    name, revision = fingerprints.split_revision(base)
    if revision:
        options["revision"] = revision
    if not sys.stderr.isatty():  # a bar in a log file is hundreds of lines
        transformers.utils.logging.disable_progress_bar()
    try:
        return loader(name, trust_remote_code=False, **options)
    except (OSError, ValueError, safetensors.SafetensorError) as problem:
        reason = str(problem).strip().splitlines()[0]
        if not Path(base).is_dir():
            hint = f"check its name and the network; to get a gated model, {ACCESS_STEPS}"
        elif "use_safetensors" in options and not any(Path(base).glob("*.safetensors")):
            hint = "download its .safetensors files: pickles (.bin, .pt) can run code and are not loaded"
        else:
            hint = "download it again"
        errors.fail(f"cannot load {base} ({reason}): {hint}")
