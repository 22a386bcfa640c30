"""Training of a base that no single GPU holds.

FSDP 2 deals its 4-bit decoder layers out, and gathers one at a time. Switched on by
`accelerate launch --config_file tools/fsdp.yaml finetune.py`. Only frozen weights are sharded. The
adapter, its gradients and moments (about 1 % of the weights) stay whole in float32 on each GPU, so
that checkpoints and the final adapter are the same as ever. The packed bytes of bitsandbytes pass
for bfloat16, as with bnb_4bit_quant_storage.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import bitsandbytes
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from stance.common import distributed, errors
from stance.model import compilation, loading, lora_linear

# Type as which packed bytes are dealt out: FSDP 2 of torch before 2.13 takes no integers.
STORAGE = torch.bfloat16
# What tools/fsdp.yaml sets, as accelerate hands it on, and this module does.
LAUNCH_OPTIONS = {
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def take_over() -> bool:
    """Return whether accelerate was asked for FSDP, and hide that from libraries.

    Fails on options of FSDP, or settings of this project, that do not go with it.
    """
    sharded = distributed.hide_launch_options()
    rank = distributed.get_rank()[0]
    if sharded and rank == 0:  # whose end the launcher answers with that of the others
        check_options()
    return sharded


def check_options() -> None:
    """Fail on options of FSDP, or settings of this project, that do not go with training."""
    for name, value in LAUNCH_OPTIONS.items():
        found = os.environ.get(name, value).lower()
        if found != value:
            key = name.lower()
            hint = f"write {key}: {value}, or take the file tools/fsdp.yaml as it is"
            errors.fail(f"{key} {found} is not supported: {hint}")
    if compilation.DENSE_WEIGHTS:
        hint = "set DENSE_WEIGHTS in stance/model/compilation.py to None"
        errors.fail(f"16-bit copies of weights do not go with FSDP: {hint}")


@contextlib.contextmanager
def quantise_on_gpu() -> Iterator[None]:
    """Let bitsandbytes quantise on the GPU what is loaded to the CPU.

    The CPU would take half an hour for 27B.
    """
    quantise = bitsandbytes.functional.quantize_4bit

    def quantise_there(
        weight: torch.Tensor, **options: Any
    ) -> tuple[torch.Tensor, bitsandbytes.functional.QuantState]:
        packed, state = quantise(weight.cuda(), **options)
        return packed.cpu(), state

    if torch.cuda.is_available():
        bitsandbytes.functional.quantize_4bit = quantise_there
    try:
        yield
    finally:
        bitsandbytes.functional.quantize_4bit = quantise


def load_sharded_base(base: str) -> torch.nn.Module:
    """Load a base model as loading.load_base does, but by way of the CPU and dealt out.

    Each process has a part of it.
    """
    with quantise_on_gpu():
        return loading.load_base(base, shard_base)


def shard_base(model: torch.nn.Module) -> None:
    """Deal the decoder layers of a base on the CPU out to the devices of all processes.

    The rest gets whole to each: the embeddings, which Gemma uses at both ends of the model, would
    have to be gathered for the whole pass anyway.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
    else:
        device = torch.device("cpu")
    mesh = init_device_mesh(device.type, (distributed.get_rank()[1],))
    decoder = model.get_decoder()
    linears = lora_linear.find_linears(model)
    kinds = [(linear.weight.compress_statistics, linear.weight.quant_type) for linear in linears]
    for linear in linears:
        # What bitsandbytes needs beside the bytes (2 % of them) is whole, at the layer.
        linear.quant_state.to(device)
        packed = linear.weight.data.view(1, -1).view(STORAGE).view(-1, 1)
        linear.quant_storage = STORAGE
        linear.weight = torch.nn.Parameter(packed, requires_grad=False)
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh)
    whole = [weight for weight in model.parameters() if not isinstance(weight, DTensor)]
    # The root: layers are gathered while others compute.
    fully_shard(decoder, mesh=mesh, ignored_params=set(whole))
    for tensor in (*whole, *model.buffers()):
        tensor.data = tensor.data.to(device)
    for linear, (compress_statistics, quant_type) in zip(linears, kinds, strict=True):
        # peft asks for them.
        linear.weight.compress_statistics = compress_statistics
        linear.weight.quant_type = quant_type
    if device.type == "cuda":
        model.hf_device_map = {"": device.index}  # accelerate and peft look there for the device
