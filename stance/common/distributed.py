"""The processes that torchrun starts for one run, called ranks: how they join, wait and share."""

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from stance.common import errors

# Ranks wait for the slowest; torchrun ends all of them if one fails.
TIMEOUT = datetime.timedelta(days=7)
# By which libraries find out about ranks.
LAUNCH_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
SHARD_VARIABLE = "ACCELERATE_USE_FSDP"  # set by accelerate launch if its settings ask for FSDP
PRECISION_VARIABLE = "ACCELERATE_MIXED_PRECISION"  # always set by accelerate launch
DEVICE_VARIABLE = "ACCELERATE_TORCH_DEVICE"  # names a GPU other than the first to accelerate


def get_rank() -> tuple[int, int]:
    """Return (number of this process, number of processes), as torchrun sets them.

    Without torchrun it is (0, 1).
    """
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def hide_launch_options() -> bool:
    """Return whether accelerate launch was asked for FSDP, and hide its options from libraries.

    They would shard the adapter too, and compute in the launcher's precision, which is for the base
    to decide.
    """
    os.environ.pop(PRECISION_VARIABLE, None)
    return os.environ.pop(SHARD_VARIABLE, "false") == "true"


def join_ranks(even_alone: bool = False) -> None:
    """Join the processes that torchrun started, each with a GPU of its own if there are any.

    even_alone: with a single process too, which then needs torchrun all the same.
    Fails if FSDP is asked for, and if there are fewer GPUs than processes.
    """
    if os.environ.get(SHARD_VARIABLE) == "true":
        hint = "start other scripts with python or torchrun, or on a larger GPU"
        errors.fail(f"FSDP is for finetune.py: {hint}")
    if get_rank()[1] == 1 and not even_alone:
        return
    if torch.cuda.is_available():
        local_rank = int(os.environ["LOCAL_RANK"])
        if local_rank >= torch.cuda.device_count():
            hint = f"give torchrun --nproc-per-node {torch.cuda.device_count()}"
            errors.fail(f"process {local_rank + 1} has no GPU of its own: {hint}")
        torch.cuda.set_device(local_rank)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, timeout=TIMEOUT)


def wait_for_ranks() -> None:
    """Return once every process is here."""
    if torch.distributed.is_initialized():
        on_gpu = torch.distributed.get_backend() == "nccl"
        torch.distributed.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


@contextlib.contextmanager
def first_rank_first() -> Iterator[None]:
    """Let rank 0 do something alone before the others do it, silently.

    So the user reads notes and errors once.
    """
    rank = get_rank()[0]
    if rank > 0:
        try:
            wait_for_ranks()
        except RuntimeError as problem:
            if "by peer" not in str(problem):
                raise
            # gloo, on CPUs: rank 0 has closed the connection, and said why.
            raise SystemExit(1) from None
    output = contextlib.redirect_stdout(None) if rank > 0 else contextlib.nullcontext()
    with output:
        yield
    if rank == 0:
        wait_for_ranks()


def shard(items: Sequence, size: int) -> list:
    """Return the items of this process: every n-th block of size items, for n processes.

    So the blocks are the same for any number of processes.
    """
    rank, count = get_rank()
    own = []
    for start in range(rank * size, len(items), count * size):
        own.extend(items[start : start + size])
    return own


def join_lists(items: list) -> list:
    """Return the lists of all processes as one, in the order of their ranks, on every process."""
    count = get_rank()[1]
    if count == 1:
        return items
    lists = [None] * count
    torch.distributed.all_gather_object(lists, items)
    joined = []
    for part in lists:
        joined.extend(part)
    return joined


def sum_tensors(tensors: Sequence[torch.Tensor]) -> None:
    """Replace float32 tensors by their sums over all processes, in one exchange."""
    if get_rank()[1] == 1:
        return
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(joined)
    totals = joined.split([tensor.numel() for tensor in tensors])
    for tensor, total in zip(tensors, totals, strict=True):
        tensor.copy_(total.view_as(tensor))


def find_highest(number: int) -> int:
    """Return the highest of the integers that the processes have."""
    if get_rank()[1] == 1:
        return number
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    highest = torch.tensor(number, device=device)
    torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
    return highest.item()


def take_from_first(value: Any) -> Any:
    """Return what rank 0 has as this value; any object that can be pickled."""
    if get_rank()[1] == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


@contextlib.contextmanager
def hide_ranks() -> Iterator[None]:
    """Let libraries take this process for the only one, on the GPU that it has now."""
    hidden = {name: os.environ.pop(name) for name in LAUNCH_VARIABLES if name in os.environ}
    if hidden and torch.cuda.is_available():
        os.environ[DEVICE_VARIABLE] = f"cuda:{torch.cuda.current_device()}"
    try:
        yield
    finally:
        os.environ.pop(DEVICE_VARIABLE, None)
        os.environ.update(hidden)


def leave_ranks() -> None:
    """Part from the other processes."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def go_on_alone() -> None:
    """Part from the other processes, which end here with exit code 0; rank 0 goes on."""
    leave_ranks()
    if get_rank()[0] > 0:
        raise SystemExit(0)
