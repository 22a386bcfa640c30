"""Files are written whole or not at all; a damaged one ends in one clear line."""

import hashlib
import json
import os

import pytest
from stopping import read_stop

from stance.common import files

ODD = 'ümlaut 核 👍🏽 "quoted" back\\slash \u2028 line\nend \t'


READERS = [
    pytest.param(lambda path: files.read_jsonl(path, ("id",), "do X"), id="jsonl"),
    pytest.param(lambda path: files.read_json(path, "do X"), id="json"),
]


# ---------------------------------------------------------------- writing


def test_rows_come_back_as_written(tmp_path):
    path = tmp_path / "new" / "folder" / "rows.jsonl"
    rows = [{"text": ODD, "n": 1}, {"text": "", "n": None}, {"text": "x", "n": [0.1, True]}]
    files.write_jsonl(path, iter(rows))
    assert files.read_jsonl(path, ("text", "n"), "hint") == rows
    assert path.read_bytes().count(b"\n") == 3  # a line a row, whatever the texts hold
    assert path.read_bytes().endswith(b"\n") and b"\r" not in path.read_bytes()
    assert "核".encode() in path.read_bytes()  # readable, not \u escapes


def test_json_comes_back_as_written(tmp_path):
    path = tmp_path / "new" / "value.json"
    files.write_json(path, {"b": ODD, "a": [1, 2.5, None]})
    assert files.read_json(path, "hint") == {"b": ODD, "a": [1, 2.5, None]}
    assert path.read_text(encoding="utf-8").startswith('{\n  "b": ')


def test_writing_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    files.write_jsonl(path, [{"a": 1}] * 3)
    files.write_jsonl(path, [{"a": 2}])
    assert path.read_text() == '{"a": 2}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def crash_after(count):
    """Rows of a computation that breaks down."""
    for number in range(count):
        yield {
            "number": number,
            "text": "x" * 10_000,
        }  # more than a buffer, so that some reaches the disk
    raise RuntimeError("out of memory")


def test_a_crash_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    files.write_jsonl(path, [{"old": True}])
    with pytest.raises(RuntimeError):
        files.write_jsonl(path, crash_after(50))
    assert path.read_text() == '{"old": true}\n'
    files.write_jsonl(path, [{"new": True}])  # and does not stand in the way of the next try
    assert path.read_text() == '{"new": true}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_crash_leaves_no_half_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(RuntimeError):
        files.write_jsonl(path, crash_after(50))
    assert not path.exists()


def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    files.write_json(path, {"old": True})
    with pytest.raises(TypeError):
        files.write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": True}


def test_the_file_is_on_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *args: (calls.append("fsync"), fsync(*args)))
    monkeypatch.setattr(os, "replace", lambda *args: (calls.append("replace"), replace(*args)))
    files.write_jsonl(tmp_path / "rows.jsonl", [{"a": 1}])
    assert calls == ["fsync", "replace"]


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'{"id": 1, "text": "a"}\n{"id": 2}\n', "line 2: no text"),
        (b'{"id": 1, "text": "a"}\n{}\n', "line 2: no id, text"),
        (b'{"id": 1, "text": "a"}\n["id", "text"]\n', "line 2 is no JSON object"),
        (b'"id text"\n', "line 1 is no JSON object"),
        (b"null\n", "line 1 is no JSON object"),
        (b'{"id": 1, "text": "a"}\n{"id": 2, "te', "line 2 is not valid JSON"),
        (b'{"id": 1, "text": "a"}\n\n{"id": 2, "text": b}\n', "line 3 is not valid JSON"),
        (b"[" * 100_000 + b"\n", "line 1 is not valid JSON"),
        (b'{"id": ' + b"9" * 5000 + b"}\n", "line 1 is not valid JSON"),
        (b"id,text\n1,a\n", "line 1 is not valid JSON"),
        (
            b'{"id": 1, "text": "a"}\n{"id": 2, "text": "b"}\n{"id": 3, "text": "\xff"}\n',
            "line 3 is not valid JSON",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path, capsys, content, place):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    message = read_stop(capsys, files.read_jsonl, path, ("id", "text"), "run prepare_data.py again")
    assert message.startswith(f"{path}, {place}")
    assert message.endswith(": run prepare_data.py again")


def test_an_empty_file_of_rows(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"")
    message = read_stop(capsys, files.read_jsonl, path, ("id",), "run prepare_data.py again")
    assert message == f"{path} is empty: run prepare_data.py again"


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file(tmp_path, capsys, read):
    path = tmp_path / "missing" / "file"
    assert read_stop(capsys, read, path) == f"{path} not found: do X"


@pytest.mark.parametrize("read", READERS)
def test_a_folder_in_place_of_the_file(tmp_path, capsys, read):
    message = read_stop(capsys, read, tmp_path)
    assert str(tmp_path) in message and message.endswith(": do X")


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"a: 1", b'{"a": "\xff"}'])
def test_damaged_json(tmp_path, capsys, content):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    message = read_stop(capsys, files.read_json, path, "train again")
    assert message.startswith(f"{path} is not valid JSON (") and message.endswith("): train again")


@pytest.mark.parametrize("size", [0, 3, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_hash_file(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * (size // 3) + b"x" * (size % 3))
    assert files.hash_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_hash_file_of_known_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")  # the example of FIPS 180-2
    assert (
        files.hash_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_blank_lines_and_nan_in_rows(tmp_path):
    """JSON knows no NaN; other programs write it for an empty cell."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": NaN}\n\n  \r\n{"id": -Infinity}\n\n')
    assert files.read_jsonl(path, ("id",), "") == [{"id": None}, {"id": None}]
    numbered = list(files.iterate_numbered_jsonl(path, (), ""))
    assert numbered == [(1, {"id": None}), (4, {"id": None})]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_written_is_json_whatever_the_numbers(tmp_path, number):
    value = {"a": [1.5, number, {"b": (number, "text")}], "c": True}
    path = tmp_path / "value.json"
    files.write_json(path, value)
    files.write_jsonl(tmp_path / "rows.jsonl", [value])

    def refuse(name):
        raise AssertionError(name)

    expected = {"a": [1.5, None, {"b": [None, "text"]}], "c": True}
    for text in (path.read_text(), (tmp_path / "rows.jsonl").read_text()):
        assert json.loads(text, parse_constant=refuse) == expected


def test_two_processes_never_write_to_the_same_temporary_file(tmp_path):
    names = {files.name_temporary(tmp_path / "a.json") for _ in range(100)}
    assert len(names) == 100 and {path.parent for path in names} == {tmp_path}


def test_what_is_written_is_hashed(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert files.write_jsonl(path, [{"text": "ü"}, {"text": "b"}]) == files.hash_file(path)


@pytest.mark.parametrize("output", ["a.csv", "./a.csv", "link.csv", "sub/../a.csv"])
def test_an_input_is_not_overwritten(tmp_path, capsys, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "link.csv").symlink_to("a.csv")
    message = read_stop(
        capsys, files.check_not_input, output, {"--other": None, "--input": "a.csv"}
    )
    assert message == f"{output} would replace the file of --input: give it another name"
    files.check_not_input("b.csv", {"--input": "a.csv"})
