"""A pipe as input is refused or read as a stream, never waited for; a second run on one output says so."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate
import predict
import prepare_data
from stance.common import files, locks
from stance.corpus import tables
from tools import export, study

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def refuse(capsys):
    """A function that calls the main of a script, which has to end in one line; returns that."""

    def call(main, *words):
        with pytest.raises(SystemExit) as stopped:
            main(list(map(str, words)))
        assert stopped.value.code == 2
        [line] = [part for part in capsys.readouterr().err.splitlines() if part]
        assert line.startswith("error: ")
        return line

    return call


@pytest.mark.parametrize("suffix", tables.READ_SUFFIXES)
def test_a_pipe_as_corpus_is_refused(refuse, tmp_path, suffix):
    path = tmp_path / f"corpus{suffix}"
    os.mkfifo(path)
    assert f"{path} is a pipe" in refuse(
        prepare_data.main, "--corpus", path, "--output-dir", tmp_path / "data"
    )
    assert not (tmp_path / "data").exists()


def test_a_device_as_corpus_is_refused(refuse, tmp_path):
    path = tmp_path / "corpus.csv"
    path.symlink_to("/dev/zero")
    assert "device" in refuse(prepare_data.main, "--corpus", path, "--output-dir", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".jsonl"])
def test_a_pipe_as_table_to_label_or_to_write_is_refused(
    refuse, trained_run, tmp_path, monkeypatch, suffix
):
    monkeypatch.setattr(predict, "load_scorer", None)
    pipe, table = tmp_path / f"pipe{suffix}", tmp_path / "table.csv"
    os.mkfifo(pipe)
    table.write_text("topic,text\nT,one\n")
    words = ["--adapter", trained_run]
    output = tmp_path / "out.csv"
    line = refuse(predict.main, *words, "--input", pipe, "--output", output)
    assert f"{pipe} is a pipe" in line
    line = refuse(predict.main, *words, "--input", table, "--output", pipe)
    assert f"{pipe} is a pipe" in line and pipe.is_fifo()


def test_pipes_as_records_are_refused(refuse, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    os.mkfifo(folder / "run.json")
    assert "is a pipe" in refuse(predict.main, "--adapter", folder, "--topic", "T", "--text", "t")
    os.mkfifo(tmp_path / "evaluation.jsonl")
    assert "is a pipe" in refuse(evaluate.main, "--predictions", tmp_path / "evaluation.jsonl")


@pytest.mark.slow
def test_topics_are_read_from_a_stream(trained_run, tmp_path):
    """As <(...) of a shell gives them; and sentences from stdin."""
    command = (
        f"printf 'one\\ntwo\\n' | {sys.executable} predict.py --adapter {trained_run} --input - "
        f"--topics-file <(printf 'A topic.\\nAnother one.\\n') --output {tmp_path}/out.jsonl"
    )
    subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, capture_output=True)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4


def hold_until_killed(path, ready):
    with locks.hold_lock(path, path, "it", ""):
        ready.set()
        multiprocessing.Event().wait(600)


@pytest.fixture
def other():
    """A function that lets another process hold a lock."""
    context = multiprocessing.get_context("spawn")
    processes = []

    def hold(path):
        ready = context.Event()
        process = context.Process(target=hold_until_killed, args=(path, ready))
        process.start()
        processes.append(process)
        assert ready.wait(300)
        return process

    yield hold
    for process in processes:
        process.kill()
        process.join()


@pytest.mark.slow
def test_a_second_predict_on_one_output_says_so_and_goes_on_after_a_kill(
    refuse, trained_run, tmp_path, other, capsys
):
    table, output = tmp_path / "table.csv", tmp_path / "out.csv"
    table.write_text("topic,text\nT,one\n")
    words = ["--adapter", trained_run, "--input", table, "--output", output]
    first = other(tmp_path / "out.csv.lock")
    line = refuse(predict.main, *words)
    assert f"{output} is in use by another predict.py, process {first.pid}" in line
    assert "choose another --output" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv.lock", "table.csv"]
    first.kill()
    first.join()
    predict.main(list(map(str, words)))
    assert "is taken over" in capsys.readouterr().out
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["out.csv", "out.stances.png", "table.csv"]


@pytest.mark.slow
def test_a_second_export_says_so(refuse, trained_run, data_dir, tmp_path, other):
    other(tmp_path / "merged.lock")
    words = ["--adapter", trained_run, "--data-dir", data_dir, "--output-dir", tmp_path / "merged"]
    assert "in use by another tools.export" in refuse(export.main, *words)


@pytest.mark.slow
def test_a_second_evaluate_in_one_folder_says_so_and_goes_on_after_a_kill(
    refuse, trained_run, data_dir, tmp_path, other, capsys, monkeypatch
):
    folder = tmp_path / "results"
    words = ["--adapter", trained_run, "--data-dir", data_dir, "--robustness-rows", 0]
    words += ["--output-dir", folder]
    evaluate.main(list(map(str, words)))
    shutil.copytree(folder, tmp_path / "other")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    first = other(folder / evaluate.LOCK_FILE)
    monkeypatch.setattr(evaluate.loading, "load_base", None)  # no weights load
    again = ["--predictions", folder]
    runs = ["--runs", folder, tmp_path / "other", "--output-dir", folder]
    for given in (words, again, runs):
        line = refuse(evaluate.main, *given)
        assert f"{folder} is in use by another evaluate.py, process {first.pid}" in line
        assert "choose another --output-dir" in line
    lock = folder / evaluate.LOCK_FILE
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path for path in after if path != lock} == set(before)
    assert all(after[path] == before[path] for path in before)
    left = []
    for place in (folder, folder / "texts"):
        left.append(place / f"report.md.{files.name_computer()}-{first.pid}-0a1b2c3d.tmp")
        left[-1].write_text("half")
    first.kill()
    first.join()
    evaluate.main(list(map(str, again)))
    assert "is taken over" in capsys.readouterr().out
    assert not lock.exists() and not any(path.exists() for path in left)


@pytest.mark.slow
def test_a_second_study_says_so(refuse, tmp_path, other, monkeypatch):
    first = other(tmp_path / study.LOCK_FILE)
    monkeypatch.setattr(study, "do_runs", None)
    line = refuse(study.main, "--study-dir", tmp_path)
    assert f"{tmp_path} is in use by another tools.study, process {first.pid}" in line
