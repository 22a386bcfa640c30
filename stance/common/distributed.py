"""The processes that torchrun starts for one run, called ranks: joining, waiting, sharing work and adding up."""

import contextlib
import datetime
import os

import torch

from stance.common import errors

TIMEOUT = datetime.timedelta(
    days=7
)  # ranks wait for the slowest; torchrun ends all of them if one fails
LAUNCH_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
)  # by which libraries find out about ranks
SHARD_VARIABLE = "ACCELERATE_USE_FSDP"  # set by accelerate launch if its settings ask for FSDP
DEVICE_VARIABLE = "ACCELERATE_TORCH_DEVICE"  # names a GPU other than the first to accelerate


def get_rank():
    """Return (number of this process, number of processes), as torchrun sets them; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def join_ranks(even_alone=False):
    """Join the processes that torchrun started, each with a GPU of its own if there are any.

    even_alone: with a single process too, which then needs torchrun all the same.
    """
    if os.environ.get(SHARD_VARIABLE) == "true":
        errors.fail(
            "FSDP is for finetune.py: start other scripts with python or torchrun, or on a larger GPU"
        )
    if get_rank()[1] == 1 and not even_alone:
        return
    if torch.cuda.is_available():
        local_rank = int(os.environ["LOCAL_RANK"])
        if local_rank >= torch.cuda.device_count():
            hint = f"give torchrun --nproc-per-node {torch.cuda.device_count()}"
            errors.fail(f"process {local_rank + 1} has no GPU of its own: {hint}")
        torch.cuda.set_device(local_rank)
    torch.distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT
    )


def wait_for_ranks():
    """Return once every process is here."""
    if torch.distributed.is_initialized():
        on_gpu = torch.distributed.get_backend() == "nccl"
        torch.distributed.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


@contextlib.contextmanager
def first_rank_first():
    """Let rank 0 do something alone before the others do, silently: the user reads notes and errors once."""
    rank = get_rank()[0]
    if rank > 0:
        try:
            wait_for_ranks()
        except RuntimeError as problem:
            if "by peer" not in str(problem):
                raise
            raise SystemExit(
                1
            ) from None  # gloo, on CPUs: rank 0 has closed the connection, and said why
    with contextlib.redirect_stdout(None) if rank > 0 else contextlib.nullcontext():
        yield
    if rank == 0:
        wait_for_ranks()


def shard(items, size):
    """Return the items of this process: every n-th block of so many items, so that blocks are the same for any n."""
    rank, count = get_rank()
    return [
        item
        for start in range(rank * size, len(items), count * size)
        for item in items[start : start + size]
    ]


def join_lists(items):
    """Return the lists of all processes as one, on every process."""
    if get_rank()[1] == 1:
        return items
    lists = [None] * get_rank()[1]
    torch.distributed.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def sum_tensors(tensors):
    """Replace float32 tensors by their sums over all processes, in one exchange."""
    if get_rank()[1] == 1:
        return
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(joined)
    for tensor, total in zip(
        tensors, joined.split([tensor.numel() for tensor in tensors]), strict=True
    ):
        tensor.copy_(total.view_as(tensor))


def find_highest(number):
    """Return the highest of the integers that the processes have."""
    if get_rank()[1] == 1:
        return number
    highest = torch.tensor(
        number, device="cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    )
    torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
    return highest.item()


def take_from_first(value):
    """Return what rank 0 has as this value; any object that can be pickled."""
    if get_rank()[1] == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


@contextlib.contextmanager
def hide_ranks():
    """Let libraries take this process for the only one, on the GPU that it has now."""
    hidden = {name: os.environ.pop(name) for name in LAUNCH_VARIABLES if name in os.environ}
    if hidden and torch.cuda.is_available():
        os.environ[DEVICE_VARIABLE] = f"cuda:{torch.cuda.current_device()}"
    try:
        yield
    finally:
        os.environ.pop(DEVICE_VARIABLE, None)
        os.environ.update(hidden)


def leave_ranks():
    """Part from the other processes."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def go_on_alone():
    """Part from the other processes, which end here without an error; rank 0 goes on."""
    leave_ranks()
    if get_rank()[0] > 0:
        raise SystemExit(0)
