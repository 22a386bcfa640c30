"""stance/common/distributed.py where there is one process, or GPUs too few. Two processes at work: test_labelling.py."""

import pytest
import torch

from stance.common import distributed


def test_one_process_waits_for_nobody(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    done = []
    assert distributed.get_rank() == (0, 1)
    distributed.join_ranks()
    with distributed.first_rank_first():
        done.append(torch.distributed.is_initialized())
    distributed.wait_for_ranks()
    distributed.leave_ranks()
    assert done == [False]


@pytest.mark.parametrize("rank, order", [("0", ["work", "wait"]), ("1", ["wait", "work"])])
def test_the_first_works_before_the_others(monkeypatch, rank, order):
    monkeypatch.setenv("RANK", rank)
    events = []
    monkeypatch.setattr(distributed, "wait_for_ranks", lambda: events.append("wait"))
    with distributed.first_rank_first():
        events.append("work")
    assert events == order


@pytest.mark.parametrize("reason, ending", [
    ("Connection closed by peer [127.0.0.1]:1438", SystemExit), ("something else", RuntimeError),
])  # fmt: skip
def test_a_process_that_waits_for_one_that_stopped_ends_without_a_traceback(
    monkeypatch, reason, ending
):
    def lose_the_first():
        raise RuntimeError(reason)

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(distributed, "wait_for_ranks", lose_the_first)
    with pytest.raises(ending) as stopped, distributed.first_rank_first():
        raise AssertionError("it went on")
    assert stopped.value.args[0] in (1, reason)


@pytest.fixture
def two_processes(monkeypatch):
    """Settings of torchrun for the second of two processes; returns what they do on a machine with so many GPUs."""
    events = []
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "set_device", lambda place: events.append(f"GPU {place}"))
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, timeout: events.append(backend)
    )

    def join(gpus):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        distributed.join_ranks()
        return events

    return join


@pytest.mark.parametrize("gpus, expected", [(0, ["gloo"]), (2, ["GPU 1", "nccl"])])
def test_each_process_has_a_gpu_of_its_own(two_processes, gpus, expected):
    assert two_processes(gpus) == expected


def test_more_processes_than_gpus_stop(two_processes, capsys):
    with pytest.raises(SystemExit) as stopped:
        two_processes(1)
    assert stopped.value.code == 2
    assert (
        capsys.readouterr().err
        == "error: process 2 has no GPU of its own: give torchrun --nproc-per-node 1\n"
    )
