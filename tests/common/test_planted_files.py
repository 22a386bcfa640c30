"""In a folder that others may write to, nothing that they put there is followed, waited for or overwritten."""

import os
import secrets

import pytest
from stopping import stop_message

from stance.common import files, locks
from stance.corpus import tables
from stance.labelling import labeller
from stance.model import adapters, merging
from stance.training import checkpoints


@pytest.fixture
def victim(tmp_path):
    """A file of somebody else, which has to stay as it is."""
    path = tmp_path / "victim"
    path.write_text("precious")
    yield path
    assert path.read_text() == "precious"


@pytest.fixture
def guessed(monkeypatch):
    """Temporary names are known beforehand."""
    monkeypatch.setattr(secrets, "token_hex", lambda count: "0" * 2 * count)
    return lambda path: files.name_temporary(path)


@pytest.mark.parametrize("suffix", [*tables.SUFFIXES, ".json"])
def test_a_link_at_a_temporary_name(tmp_path, victim, guessed, suffix):
    output = tmp_path / f"out{suffix}"
    guessed(output).symlink_to(victim)
    with pytest.raises((FileExistsError, SystemExit)):
        if suffix == ".json":
            files.write_json(output, {})
        else:
            tables.write_table(output, ["a"], [["b"]])
    assert not output.exists()


def test_a_link_at_the_output_is_replaced(tmp_path, victim):
    for suffix in tables.SUFFIXES:
        output = tmp_path / f"out{suffix}"
        output.symlink_to(victim)
        tables.write_table(output, ["a"], [["b"]])
        assert output.is_file() and not output.is_symlink()


def test_a_link_at_the_part_file(tmp_path, victim, capsys):
    part = tmp_path / "out.csv.part-0.jsonl"
    part.symlink_to(victim)
    message = stop_message(capsys, labeller.open_part, tmp_path / "out.csv", 0, {})
    assert f"{part} is a link" in message
    part.unlink()
    part.symlink_to(tmp_path / "new")  # which would be made
    stop_message(capsys, labeller.open_part, tmp_path / "out.csv", 0, {})
    assert not (tmp_path / "new").exists()


def test_a_pipe_at_the_part_file_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "out.csv.part-0.jsonl")
    assert labeller.find_parts(tmp_path / "out.csv") == []
    message = stop_message(capsys, labeller.open_part, tmp_path / "out.csv", 0, {})
    assert "is no plain file" in message


def test_a_link_at_the_lock(tmp_path, victim, capsys):
    path = tmp_path / "out.csv.lock"
    path.symlink_to(victim)

    def hold():
        with locks.hold_lock(path, "out.csv", "predict.py", "choose another"):
            pass

    assert "is damaged" in stop_message(capsys, hold)
    path.unlink()
    path.symlink_to(tmp_path / "new")
    assert "is damaged" in stop_message(capsys, hold)
    assert not (tmp_path / "new").exists()


def test_a_link_at_the_unfinished_adapter(tmp_path, monkeypatch):
    run_dir, other = tmp_path / "run", tmp_path / "other"
    run_dir.mkdir()
    other.mkdir()
    (run_dir / "adapter.partial").symlink_to(other)
    monkeypatch.setattr(
        adapters, "save_adapter", lambda model, folder: (folder / "a").write_text("a")
    )
    checkpoints.save_final_adapter(None, run_dir, [])
    assert list(other.iterdir()) == [] and (run_dir / "a").is_file()
    assert not os.path.lexists(run_dir / "adapter.partial")


def test_a_link_at_the_unfinished_model(tmp_path, guessed):
    (tmp_path / "other").mkdir()
    guessed(tmp_path / "merged").symlink_to(tmp_path / "other")

    class Merged:
        def save_pretrained(self, folder):
            raise AssertionError("nothing is written there")

    with pytest.raises(FileExistsError):
        merging.write_model(tmp_path / "merged", Merged(), None, "base", {"demo": False}, [], {})
    assert list((tmp_path / "other").iterdir()) == []
