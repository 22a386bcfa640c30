"""What killed processes left is deleted; what may be in use, or is not ours, stays."""

import multiprocessing
import os
import signal

import psutil
import pytest

from stance.common import files, leftovers, locks


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    process = multiprocessing.get_context("spawn").Process()
    process.start()
    process.join()
    return process.pid


def name_leftover(folder, pid, name="run.json", computer=None):
    computer = computer or files.name_computer()
    return folder / f"{name}.{computer}-{pid}-0a1b2c3d.tmp"


def write_leftover(folder, pid, **parts):
    path = name_leftover(folder, pid, **parts)
    path.write_text("half")
    return path


def be_killed_while_writing(path):
    with files.replace_whole(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_what_a_killed_process_left_goes_at_the_next_lock(tmp_path):
    process = multiprocessing.get_context("spawn").Process(
        target=be_killed_while_writing, args=(tmp_path / "out.csv",)
    )
    process.start()
    process.join()
    [left] = tmp_path.iterdir()
    assert left.suffix == ".tmp"
    with locks.hold_lock(tmp_path / "it.lock", tmp_path, "it", ""):
        assert [path.name for path in tmp_path.iterdir()] == ["it.lock"]


def test_leftovers_go_with_what_is_in_them(tmp_path, gone):
    write_leftover(tmp_path, gone)
    folder = name_leftover(tmp_path, gone, "merged")
    folder.mkdir()
    (folder / "model-00001-of-00003.safetensors").write_text("half")
    leftovers.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_being_written_stays(tmp_path):
    with files.replace_whole(tmp_path / "out.csv") as temporary:
        leftovers.remove_leftovers(tmp_path)
        assert temporary.is_file()
    assert (tmp_path / "out.csv").is_file()


@pytest.mark.parametrize(
    "name",
    [
        "out.csv.tmp",
        "out.csv.{pid}-0a1b2c3d.tmp",  # names no computer
        "out.csv.{computer}-{pid}-0a1b2c3d.csv",
        "out.csv.{computer}-{pid}-0a1b2c3.tmp",
        "out.csv.{computer}-+{pid}-0a1b2c3d.tmp",
        ".{computer}-{pid}-0a1b2c3d.tmp",
        "out.csv.ffff-{pid}-0a1b2c3d.tmp",  # another computer
    ],
)
def test_files_of_other_names_stay(tmp_path, gone, monkeypatch, name):
    monkeypatch.setattr(files, "name_computer", lambda: "0123")
    path = tmp_path / name.format(pid=gone, computer="0123")
    path.write_text("precious")
    leftovers.remove_leftovers(tmp_path)
    assert path.read_text() == "precious"


def test_links_pipes_and_files_of_other_users_stay(tmp_path, gone, monkeypatch):
    (tmp_path / "precious").write_text("precious")
    link = name_leftover(tmp_path, gone, "link")
    link.symlink_to(tmp_path / "precious")
    pipe = name_leftover(tmp_path, gone, "pipe")
    os.mkfifo(pipe)
    leftovers.remove_leftovers(tmp_path)
    assert link.is_symlink() and pipe.is_fifo()
    foreign = write_leftover(tmp_path, gone)
    monkeypatch.setattr(os, "getuid", lambda: foreign.stat().st_uid + 1)
    leftovers.remove_leftovers(tmp_path)
    assert foreign.is_file()


def test_the_number_of_a_process_may_have_been_given_to_another_since(tmp_path):
    path = write_leftover(tmp_path, os.getpid())
    started = psutil.Process().create_time()
    os.utime(path, (started, started))
    assert leftovers.list_leftovers(tmp_path) == []
    before = started - 2 * leftovers.CLOCK_DIFFERENCE
    os.utime(path, (before, before))
    assert leftovers.list_leftovers(tmp_path) == [path]


def test_a_folder_that_is_not_there_has_none(tmp_path):
    assert leftovers.list_leftovers(tmp_path / "nothing") == []


def test_a_name_of_now_is_known(tmp_path):
    path = files.name_temporary(tmp_path / "out.csv")
    assert leftovers.TEMPORARY.fullmatch(path.name)[1] == "out.csv"
