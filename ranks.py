"""The processes that torchrun starts for one run, called ranks: joining, waiting, and which of them this is."""

import contextlib
import datetime
import os

import torch

import records

TIMEOUT = datetime.timedelta(days=7)  # ranks wait for the slowest; torchrun ends all of them if one fails


def get_rank():
    """Return (number of this process, number of processes), as torchrun sets them; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def join_ranks():
    """Join the processes that torchrun started, each with a GPU of its own if there are any."""
    if get_rank()[1] == 1:
        return
    if torch.cuda.is_available():
        place = int(os.environ["LOCAL_RANK"])
        if place >= torch.cuda.device_count():
            remedy = f"give torchrun --nproc-per-node {torch.cuda.device_count()}"
            records.stop(f"process {place + 1} has no GPU of its own: {remedy}")
        torch.cuda.set_device(place)
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)


def wait_for_ranks():
    """Return once every process is here."""
    if torch.distributed.is_initialized():
        on_gpu = torch.distributed.get_backend() == "nccl"
        torch.distributed.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


@contextlib.contextmanager
def first_rank_first():
    """Let rank 0 do something alone before the others do: if it stops with an error, the user reads it once."""
    rank = get_rank()[0]
    if rank > 0:
        wait_for_ranks()
    yield
    if rank == 0:
        wait_for_ranks()


def leave_ranks():
    """Part from the other processes."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
