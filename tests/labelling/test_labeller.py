"""stance/labelling/labeller.py: a run that is killed, goes on, or is spread over processes gives the same table, to the byte."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from stopping import line_below_bar, stop_message

import predict
import prompts
from stance.common import distributed, files
from stance.corpus import tables
from stance.labelling import labeller
from stance.model import adapters, scoring

ROOT = Path(__file__).resolve().parents[2]
BLOCK_SIZE = 8
TOPICS = ("Vegans are right.", "The minimum wage should be raised.")
WORDS = [
    "yes",
    "good",
    "right",
    "true",
    "no",
    "bad",
    "wrong",
    "never",
    "maybe",
    "who",
    "what",
    "where",
]

# Runs predict.py with small blocks; told to, it kills itself after some of them, in the middle of a line.
WORKER = f"""
import gc, os, signal, sys
gc.disable()  # while libraries load, as in the scripts: stance/common/startup.py
sys.path.insert(0, {str(ROOT)!r})
import predict
from stance.labelling import labeller
gc.enable()
labeller.BLOCK_SIZE = {BLOCK_SIZE}
append_line, lines, last = labeller.append_line, [], int(sys.argv.pop(1))

def append(file, entry):
    append_line(file, entry)
    lines.append(entry)
    if len(lines) == last:
        file.write(b'{{"block": 3, "batch_size": 128, "keys": ["0')
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

labeller.append_line = append
predict.main(sys.argv[1:])
"""


def make_rows(count):
    """(nr, topic, text) of so many rows; every fifth repeats an earlier pair."""
    rows = []
    for number in range(count):
        text = " ".join(
            WORDS[(number * step + step) % len(WORDS)] for step in range(1, 4 + number % 9)
        )
        rows.append([str(number), TOPICS[number % 2], f"{text} {number}"])
        if number % 5 == 4:
            rows[-1][1:] = rows[number // 2][1:]
    return rows


@pytest.fixture
def table(tmp_path):
    """A .csv file of 50 rows, 40 of them different."""
    tables.write_table(tmp_path / "in.csv", ["nr", "topic", "text"], make_rows(50))
    return tmp_path / "in.csv"


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(labeller, "BLOCK_SIZE", BLOCK_SIZE)


@pytest.fixture
def label(trained_run, small_blocks):
    """A function that labels a table with the trained adapter, in this process; returns the bytes of the output."""

    def run(source, output, *flags):
        adapter = [] if "--adapter" in flags else ["--adapter", str(trained_run)]
        predict.main(
            [
                *adapter,
                "--input",
                str(source),
                "--output",
                str(output),
                *map(str, flags),
            ]
        )
        return output.read_bytes()

    return run


@pytest.fixture
def scored(monkeypatch):
    """The batches of pairs that are scored by the model, or by what replaces it."""
    batches, load_scorer = [], predict.load_scorer

    def load(*words):
        score = load_scorer(*words)

        def keep(pairs, **options):
            batches.append(pairs)
            return score(pairs, **options)

        return keep

    monkeypatch.setattr(predict, "load_scorer", load)
    return batches


@pytest.fixture
def quick(monkeypatch):
    """Replaces the model: a pair's probabilities are numbers made from its key."""

    def score(pairs, batch_size=None, bar=None):
        keys = [labeller.make_key(*pair) for pair in pairs]
        weights = torch.tensor(
            [[1 + key[0], 1 + key[1], 1 + key[2]] for key in keys], dtype=torch.float32
        )
        return scoring.Scores(weights / weights.sum(1, keepdim=True), None, None, 128)

    monkeypatch.setattr(predict, "load_scorer", lambda *words: score)


def run_worker(folder, *command):
    """Run WORKER by a command that ends in words for it; return the finished process."""
    (folder / "worker.py").write_text(WORKER)
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        command, env={**os.environ, **threads}, capture_output=True, text=True, timeout=300
    )


def interrupt(monkeypatch, label, source, output, *flags, blocks=2):
    """Label a table, with Ctrl-C after so many blocks."""
    append_line, left = labeller.append_line, [blocks + 1]  # the first line says what runs

    def append(file, entry):
        append_line(file, entry)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(labeller, "append_line", append)
        label(source, output, *flags)
    assert stopped.value.code == 130


# ---------------------------------------------------------------- pairs


def test_pairs_are_kept_once_and_in_order(small_blocks):
    pairs = [(topic, text) for _, topic, text in make_rows(50)]
    store = labeller.PairStore(iter(pairs))
    different = list(dict.fromkeys(pairs))
    assert (store.rows, store.size, store.count_blocks()) == (50, 40, 5) and len(different) == 40
    blocks = [store.read_block(block) for block in range(5)]
    assert [pair for _, block in blocks for pair in block] == different
    assert [key for keys, _ in blocks for key in keys] == [
        labeller.make_key(*pair).hex() for pair in different
    ]


def test_answers_are_found_by_pair(small_blocks):
    pairs = [("a", f"{number}") for number in range(20)]
    store = labeller.PairStore(pairs)
    for block in (1, 0, 2):
        store.add_predictions(
            block,
            [[block / 10, place / 10, 0.5] for place in range(len(store.read_block(block)[1]))],
        )
    assert [store.find_prediction(*pair) for pair in pairs] == [
        (n // 8 / 10, n % 8 / 10, 0.5) for n in range(20)
    ]
    assert store.find_prediction("a", "20") is None


def test_a_full_disk_is_named(monkeypatch, capsys):
    """SQLite is told that the database may have 20 pages."""
    connect = sqlite3.connect

    def connect_small(name):
        database = connect(name)
        database.execute("PRAGMA max_page_count = 20")
        return database

    monkeypatch.setattr(sqlite3, "connect", connect_small)
    message = stop_message(
        capsys, labeller.PairStore, (("topic", f"{number} " * 100) for number in range(10_000))
    )
    assert "disk is full" in message and "TMPDIR" in message


def test_topic_and_text_are_not_run_together():
    assert labeller.make_key("ab", "c") != labeller.make_key("a", "bc")
    assert len(labeller.make_key("a", "b")) == 16


def test_the_hash_of_pairs_knows_their_order():
    hashes = {
        labeller.PairStore(pairs).hash_pairs()
        for pairs in ([("a", "b"), ("c", "d")], [("c", "d"), ("a", "b")])
    }
    assert len(hashes) == 2


# ---------------------------------------------------------------- killed and resumed


@pytest.fixture(scope="module")
def killed(trained_run, tmp_path_factory):
    """Folder of a run that was killed after two of five blocks; the constants are WORKER's."""
    folder = tmp_path_factory.mktemp("killed")
    tables.write_table(folder / "in.csv", ["nr", "topic", "text"], make_rows(50))
    words = [
        "3",
        "--adapter",
        str(trained_run),
        "--input",
        str(folder / "in.csv"),
        "--output",
        str(folder / "out.csv"),
    ]
    done = run_worker(folder, sys.executable, str(folder / "worker.py"), *words)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return folder


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(killed, table, label, scored, tmp_path, capsys):
    expected = label(table, tmp_path / "whole.csv")
    assert [len(batch) for batch in scored] == [8] * 5  # 40 different pairs of 50 rows
    assert sorted(path.name for path in killed.iterdir()) == [
        "in.csv",
        "out.csv.lock",
        "out.csv.part-0.jsonl",
        "worker.py",
    ]
    part = shutil.copy(killed / "out.csv.part-0.jsonl", tmp_path / "out.csv.part-0.jsonl")
    assert not Path(part).read_bytes().endswith(b"\n")  # killed in the middle of a line
    scored.clear()
    assert label(table, tmp_path / "out.csv") == expected
    assert [len(batch) for batch in scored] == [8] * 3
    assert "2 of 5 blocks" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.part-*"))


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(table, label, trained_run, tmp_path):
    expected = label(table, tmp_path / "one.csv")
    words = [
        "0",
        "--adapter",
        str(trained_run),
        "--input",
        str(table),
        "--output",
        str(tmp_path / "two.csv"),
    ]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = run_worker(tmp_path, *torchrun, str(tmp_path / "worker.py"), *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.csv").read_bytes() == expected
    assert done.stdout.count("labelled 50 rows") == 1 and not list(tmp_path.glob("*.part-*"))


@pytest.mark.slow
def test_another_number_of_processes_may_go_on(table, label, scored, tmp_path, monkeypatch):
    """The second of two processes, alone, leaves its share; one process does the rest."""
    expected = label(table, tmp_path / "one.csv")
    scored.clear()
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "get_rank", lambda: (1, 2))
        patch.setattr(distributed, "join_ranks", lambda: None)
        with pytest.raises(FileNotFoundError):  # it writes no output
            label(table, tmp_path / "out.csv")
    assert [path.name for path in tmp_path.glob("*.part-*")] == ["out.csv.part-1.jsonl"]
    assert len(scored) == 2
    assert label(table, tmp_path / "out.csv") == expected and len(scored) == 5


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [0, 1, 4, 5])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".xlsx"])
def test_ctrl_c_at_any_block(table, label, quick, tmp_path, monkeypatch, capsys, blocks, suffix):
    expected = label(table, tmp_path / f"whole{suffix}")
    capsys.readouterr()
    interrupt(monkeypatch, label, table, tmp_path / f"out{suffix}", blocks=blocks)
    assert (
        f"interrupted: the same command goes on from {tmp_path}/out{suffix}.part-0.jsonl"
        in capsys.readouterr().err
    )
    assert label(table, tmp_path / f"out{suffix}") == expected


@pytest.mark.slow
def test_without_resume_all_is_labelled_again(table, label, scored, tmp_path, monkeypatch, capsys):
    expected = label(table, tmp_path / "whole.csv")
    interrupt(monkeypatch, label, table, tmp_path / "out.csv")
    scored.clear()
    capsys.readouterr()
    monkeypatch.setattr(predict, "RESUME", False)
    assert label(table, tmp_path / "out.csv") == expected
    assert len(scored) == 5 and "going on" not in capsys.readouterr().out


def test_what_is_labelled_is_written_without_a_model(table, label, quick, tmp_path, monkeypatch):
    """A run that could not write its output has lost nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_table", None)
        with pytest.raises(TypeError):
            label(table, tmp_path / "out.csv")
    monkeypatch.setattr(predict, "load_scorer", None)
    assert label(table, tmp_path / "out.csv").count(b"\n") == 51


def test_other_columns_may_change_before_a_run_goes_on(table, label, quick, tmp_path, monkeypatch):
    interrupt(monkeypatch, label, table, tmp_path / "out.csv")
    tables.write_table(table, ["nr", "topic", "text"], [["x", *row[1:]] for row in make_rows(50)])
    assert label(table, tmp_path / "out.csv").count(b"\r\nx,") == 50


# ---------------------------------------------------------------- runs that must not mix


def test_changed_sentences_do_not_mix(table, label, quick, tmp_path, monkeypatch, capsys):
    interrupt(monkeypatch, label, table, tmp_path / "out.csv")
    tables.write_table(table, ["nr", "topic", "text"], make_rows(48))
    message = stop_message(capsys, label, table, tmp_path / "out.csv")
    assert (
        f"{tmp_path}/out.csv.part-0.jsonl is of a run that differs in sentences or topics:"
        in message
    )


def test_a_changed_topic_does_not_mix(label, quick, tmp_path, monkeypatch, capsys):
    tables.write_table(tmp_path / "in.csv", ["text"], [[text] for _, _, text in make_rows(50)])
    interrupt(monkeypatch, label, tmp_path / "in.csv", tmp_path / "out.csv", "--topic", "one")
    message = stop_message(
        capsys, label, tmp_path / "in.csv", tmp_path / "out.csv", "--topic", "two"
    )
    assert "differs in sentences or topics" in message and "delete" in message


@pytest.mark.parametrize("module, name, value, expected", [
    (prompts, "PROMPT_VERSION", "0" * 12, "differs in prompt:"),
    (scoring, "SCORE_BATCH_SIZE", 4, "differs in batch size:"),
])  # fmt: skip
def test_changed_constants_do_not_mix(
    table, label, quick, tmp_path, trained_run, monkeypatch, capsys, module, name, value, expected
):
    interrupt(monkeypatch, label, table, tmp_path / "out.csv")
    monkeypatch.setattr(
        predict.adapters, "check_adapter", lambda folder, record=read_record(trained_run): record
    )
    monkeypatch.setattr(module, name, value)
    assert expected in stop_message(capsys, label, table, tmp_path / "out.csv")


def read_record(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_changed_adapter_does_not_mix(
    table, label, quick, trained_run, tmp_path, monkeypatch, capsys, name
):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for file in ("run.json", *labeller.ADAPTER_FILES):
        shutil.copy(trained_run / file, adapter)
    interrupt(monkeypatch, label, table, tmp_path / "out.csv", "--adapter", adapter)
    content = bytearray((adapter / name).read_bytes())
    if name.endswith(".json"):
        content += b" "
    else:
        content[-4] ^= 1  # the last bit of the last weight
    (adapter / name).write_bytes(content)
    record = read_record(adapter)  # as if it were another training: a changed file is refused
    record["adapter_files"] = adapters.hash_files(adapter)
    files.write_json(adapter / "run.json", record)
    message = stop_message(capsys, label, table, tmp_path / "out.csv", "--adapter", adapter)
    assert "differs in adapter:" in message


def test_a_changed_adapter_is_refused(table, label, trained_run, tmp_path, capsys):
    """Numbers changed within the shapes would answer, only wrongly."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for file in ("run.json", *labeller.ADAPTER_FILES):
        shutil.copy(trained_run / file, adapter)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    files.write_json(adapter / "adapter_config.json", config | {"lora_alpha": 3200})
    message = stop_message(capsys, label, table, tmp_path / "out.csv", "--adapter", adapter)
    assert "adapter_config.json is not the file that the training wrote" in message


def test_a_changed_base_does_not_mix(tiny_model, trained_run, tmp_path):
    base = shutil.copytree(tiny_model, tmp_path / "base")
    store = labeller.PairStore([("a", "b")])
    first = labeller.list_dependencies(trained_run, str(base), store)
    weights = next(Path(base).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes() + b" ")
    second = labeller.list_dependencies(trained_run, str(base), store)
    assert [name for name in first if first[name] != second[name]] == ["base model"]


@pytest.mark.parametrize("damage", [
    lambda lines: [lines[0], b"{}\n", *lines[2:]],
    lambda lines: [lines[0], b"\x00\xff\n", *lines[2:]],
    lambda lines: [b"[1]\n", *lines[1:]],
    lambda lines: [lines[0], lines[1].replace(b'"block": 0', b'"block": 1'), *lines[2:]],
    lambda lines: [lines[0], re.sub(rb'"answers": \[\[.*?\], ', b'"answers": [', lines[1]), *lines[2:]],
    lambda lines: [lines[0], lines[1].replace(b'"answers": [[', b'"answers": [['[:-1]), *lines[2:]],
])  # fmt: skip
def test_damaged_part_files_are_not_believed(
    table, label, quick, tmp_path, monkeypatch, capsys, damage
):
    interrupt(monkeypatch, label, table, tmp_path / "out.csv")
    part = tmp_path / "out.csv.part-0.jsonl"
    part.write_bytes(b"".join(damage(part.read_bytes().splitlines(keepends=True))))
    message = stop_message(capsys, label, table, tmp_path / "out.csv")
    assert f"{part} is damaged: delete" in message and not (tmp_path / "out.csv").exists()


def test_a_run_killed_before_its_first_line_starts_anew(table, label, quick, tmp_path):
    expected = label(table, tmp_path / "whole.csv")
    for torn in (b"", b'{"sentences'):
        (tmp_path / "out.csv.part-0.jsonl").write_bytes(torn)
        assert label(table, tmp_path / "out.csv") == expected


def test_part_files_of_other_outputs_are_left_alone(table, label, quick, tmp_path):
    others = ["[out.csv.part-0.jsonl", "o.csv.part-0.jsonl", "out.csv.part-mine.jsonl"]
    for name in others:
        (tmp_path / name).write_text("mine\n")
    label(table, tmp_path / "out.csv")
    label(table, tmp_path / "[out].csv")
    assert all((tmp_path / name).read_text() == "mine\n" for name in others)


# ---------------------------------------------------------------- memory


@pytest.mark.slow
def test_logits_that_are_no_numbers_stop_and_keep_what_is_labelled(
    table, label, scored, trained_run, tmp_path, monkeypatch, capsys
):
    """Not a table that says pro, with probabilities of nan."""
    with monkeypatch.context() as patch:
        score_batch, calls = scoring._score_batch, []

        def score(model, tokenizer, sequences, paths):
            calls.append(sequences)
            found = score_batch(model, tokenizer, sequences, paths)
            return found if len(calls) < 3 else torch.full_like(found, torch.nan)

        patch.setattr(scoring, "_score_batch", score)
        message = line_below_bar(capsys, label, table, tmp_path / "out.csv")
    count = len(scored[-1])
    assert f"{trained_run} on " in message and f"for {count} of {count} prompts" in message
    assert not (tmp_path / "out.csv").exists()
    blocks = len(scored)
    label(table, tmp_path / "out.csv")
    assert "going on where a run stopped: 2 of" in capsys.readouterr().out
    assert len(scored) == blocks + (40 - 2 * BLOCK_SIZE + BLOCK_SIZE - 1) // BLOCK_SIZE


def test_a_batch_size_that_fits_is_kept(table, label, quick, tmp_path, monkeypatch):
    """Once memory was short, later blocks and a run that goes on start with the smaller size."""
    asked, load_scorer = [], predict.load_scorer

    def load(*words):
        def score(pairs, batch_size=None, bar=None):
            asked.append(batch_size)
            return load_scorer()(pairs)._replace(batch_size=4)

        return score

    monkeypatch.setattr(predict, "load_scorer", load)
    interrupt(monkeypatch, label, table, tmp_path / "out.csv")
    label(table, tmp_path / "out.csv")
    assert asked == [None, 4, 4, 4, 4]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_reading_and_writing_take_no_memory_by_the_row(tmp_path, suffix):
    """8 MB pass through; a block of Python's own buffers stays far below 1 MB."""
    rows = ([str(number), "topic", "text " * 80] for number in range(20_000))
    tracemalloc.start()
    tables.write_table(tmp_path / f"in{suffix}", ["nr", "topic", "text"], rows)
    table = tables.open_table(tmp_path / f"in{suffix}", {"text": ("text",)})
    tables.write_table(tmp_path / f"out{suffix}", table.header, (cells for _, cells in table.rows))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / f"out{suffix}").stat().st_size > 8e6 and peak < 1e6


def test_writing_excel_takes_no_memory_by_the_row(tmp_path):
    peaks = []
    for count in (300, 3000):
        tracemalloc.start()
        tables.write_table(
            tmp_path / "out.xlsx", ["text"], ([f"{n} " + "x" * 1000] for n in range(count))
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1e6
