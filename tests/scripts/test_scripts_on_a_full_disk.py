"""On a disk that is really full, a script ends in one line and leaves nothing half written.

The disk is a small tmpfs in a mount namespace of its own, which Linux grants without rights on most computers; its size
goes from too small for anything to large enough. tests/full_disk_trial.py does it.
"""

import csv
import functools
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRIAL = ROOT / "tests" / "full_disk_trial.py"
LABELS = ("pro", "con", "neu")


@functools.cache
def can_mount():
    """Whether a tmpfs can be mounted here."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(tmp_path):
    """A function that runs a script on disks of some sizes (KiB); returns {size: what came out}."""
    if not can_mount():
        pytest.skip("needs Linux, where unshare -rm may mount a tmpfs")
    folder = tmp_path / "disk"
    folder.mkdir()

    def run(script, *words, sizes, on_temporary=False, **more):
        task = {"script": script, "words": list(map(str, words)), "folder": str(folder)}
        if on_temporary:
            task["tmpdir"] = str(folder)
        ended = subprocess.run(
            ["unshare", "-rm", sys.executable, str(TRIAL)],
            input=json.dumps({**task, "sizes": sizes, **more}),
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert ended.returncode == 0, ended.stderr
        results = json.loads(ended.stdout.splitlines()[-1])
        return {result["size"]: result for result in results}

    run.folder = folder
    return run


def check_one_line(result):
    """The run ended on a full disk, in one line that says what to do; nothing temporary is left."""
    lines = [line for line in result["err"].splitlines() if line]
    assert result["code"] == 2 and len(lines) == 1, result
    assert lines[0].startswith("error: ") and "disk is full" in lines[0] and "free some" in lines[0]
    names = list(result["files"])
    assert not any(name.endswith(".tmp") or "xlsx-" in name for name in names), names


def write_corpus(path, count=600):
    """A corpus; of each fourth row, the stance is none."""
    words = [*LABELS, "huh?"]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["topic", "text", "stance"])
        for number in range(count):
            text = f"Sentence {number} says something else with word{number} and word{7 * number}."
            writer.writerow([f"Topic {number % 3}", text, words[number % 4]])
    return path


@pytest.mark.slow
def test_splits_on_a_full_disk(disk):
    results = disk("prepare_data", "--output-dir", disk.folder / "data", sizes=[4, 64, 512, 4096])
    for size in (4, 64, 512):
        check_one_line(results[size])
    assert "prepare_data.report.json" not in results[512]["files"]
    assert results[4096]["code"] == 0 and len(results[4096]["files"]) == 4
    for name, length in results[512]["files"].items():  # those that are there are whole
        assert length == results[4096]["files"][name]


@pytest.mark.slow
@pytest.mark.parametrize("on_temporary", [False, True])
def test_a_marked_copy_on_a_full_disk(disk, tmp_path, on_temporary):
    corpus = write_corpus(tmp_path / "corpus.csv")
    before = {}
    if not on_temporary:
        before = {"corpus.csv": corpus.read_text(encoding="utf-8")}
        corpus = disk.folder / "corpus.csv"
    results = disk(
        "prepare_data",
        "--corpus",
        corpus,
        "--check",
        sizes=[56, 4096],
        on_temporary=on_temporary,
        before=before,
    )
    check_one_line(results[56])
    assert results[56]["files"] == {}
    if on_temporary:  # written once: of the run that had room
        assert [path.name for path in tmp_path.glob("*.checked*")] == ["corpus.checked.xlsx"]
        assert zipfile.is_zipfile(tmp_path / "corpus.checked.xlsx")
    else:
        assert results[4096]["files"]["corpus.checked.xlsx"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".xlsx", ".jsonl"])
def test_a_labelled_table_on_a_full_disk(disk, trained_run, tmp_path, suffix):
    corpus = write_corpus(tmp_path / "corpus.csv", 2000)
    output = disk.folder / f"out{suffix}"
    words = ["--adapter", trained_run, "--input", corpus, "--output", output]
    results = disk("predict", *words, sizes=[4, 64, 220, 4096], stub=True)
    for size in (4, 64, 220):
        check_one_line(results[size])
        assert set(results[size]["files"]) <= {f"{output.name}.part-0.jsonl"}
    assert results[4096]["code"] == 0
    assert set(results[4096]["files"]) == {output.name, "out.stances.png"}


@pytest.mark.slow
def test_sentences_on_stdin_without_room_for_temporary_files(disk, trained_run, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"Sentence {number} is one.\n" for number in range(20_000)))
    words = ["--adapter", trained_run, "--topic", "T", "--input", "-"]
    words += ["--output", tmp_path / "out.xlsx"]
    sizes = [4, 64, 600, 65536]
    options = {"stub": True, "stdin": str(lines)}
    results = disk("predict", *words, sizes=sizes, on_temporary=True, **options)
    for size in (4, 64, 600):
        check_one_line(results[size])
        assert results[size]["files"] == {}
    assert "stdin" in results[4]["err"] and str(disk.folder) in results[4]["err"]
    assert results[65536]["code"] == 0 and zipfile.is_zipfile(tmp_path / "out.xlsx")


@pytest.mark.slow
def test_a_report_on_a_full_disk(disk, trained_run, data_dir, tmp_path):
    words = ["--adapter", trained_run, "--data-dir", data_dir, "--robustness-rows", 0]
    results = disk(
        "evaluate", *words, "--output-dir", disk.folder / "results", sizes=[8, 160, 4096]
    )
    check_one_line(results[8])
    assert set(results[8]["files"]) <= {"README.md"}  # of the folder texts
    check_one_line(results[160])
    whole = results[4096]
    assert whole["code"] == 0
    for name, length in results[160]["files"].items():  # a picture is whole or not there
        assert length == whole["files"][name] or name == "evaluation.json"


@pytest.mark.slow
def test_a_merged_model_on_a_full_disk(disk, trained_run, data_dir):
    words = ["--adapter", trained_run, "--data-dir", data_dir]
    words += ["--output-dir", disk.folder / "merged"]
    constants = {"tools.export.CHECK_ROWS": 4}
    results = disk("tools.export", *words, sizes=[3920, 65536], constants=constants)
    check_one_line(results[3920])
    assert results[3920]["files"] == {}
    assert results[65536]["code"] == 0 and "model.safetensors" in results[65536]["files"]


@pytest.mark.slow
def test_a_training_on_a_full_disk_says_how_to_go_on(disk, tiny_model, data_dir):
    words = ["--base-model", tiny_model, "--data-dir", data_dir, "--epochs", "1"]
    words += ["--run-dir", disk.folder / "run"]
    constants = {"stance.training.run_folder.OTHER_BYTES": -(10**9)}  # it is not looked at before
    results = disk("finetune", *words, sizes=[4, 12, 500], constants=constants)
    for result in results.values():
        check_one_line(result)
    assert "start the same command again" in results[4]["err"] and results[4]["files"] == {}
    assert "--resume" in results[12]["err"] and "--resume" in results[500]["err"]
    assert "complete.json" not in results[500]["files"]
