"""Parquet files: each type as the cell that it stands for, in rows whose number does not grow memory."""

import datetime
import decimal
import json

import pyarrow as pa
import pytest
from pyarrow import parquet
from stopping import stop_message

from stance.corpus import annotations, parquet_reader, tables

UTC = datetime.timezone.utc


def write(path, columns, metadata=None):
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata(metadata)
    parquet.write_table(table, path)
    return path


def read(path):
    [(_, lines)] = parquet_reader.open_parquet(path)
    return list(lines)


@pytest.mark.parametrize(
    "value, cell",
    [
        ("=1+1 ü 👍", "=1+1 ü 👍"),
        (1, 1),
        (0.5, 0.5),
        (float("nan"), None),
        (None, None),
        (True, True),
        (b"as bytes \xc3\xbc", "as bytes ü"),
        (decimal.Decimal("2.00"), 2),
        (decimal.Decimal("2.50"), "2.50"),
        (datetime.date(2024, 1, 5), datetime.date(2024, 1, 5)),
        (datetime.datetime(2024, 1, 5, 13, 30), datetime.datetime(2024, 1, 5, 13, 30)),
        (datetime.datetime(2024, 1, 5, 13, 30, tzinfo=UTC), "2024-01-05 13:30:00+00:00"),
        (["a", None, "b"], ["a", None, "b"]),
        ({"k": [1, b"x"][0], "t": datetime.date(2024, 1, 5)}, {"k": 1, "t": "2024-01-05"}),
    ],
)
def test_a_value_is_the_cell_that_it_stands_for(tmp_path, value, cell):
    path = write(tmp_path / "a.parquet", {"x": pa.array([value])})
    assert read(path) == [(0, ["x"]), (1, [cell])]


def test_every_type_can_be_written_again(tmp_path):
    path = write(
        tmp_path / "a.parquet",
        {
            "text": ["x"],
            "zone": pa.array([datetime.datetime(2024, 1, 5, tzinfo=UTC)]),
            "nested": pa.array([[{"a": b"b", "c": decimal.Decimal("1.5")}]]),
            "span": pa.array([datetime.timedelta(days=2)]),
        },
    )
    table = tables.open_table(path, {"text": ("text",)})
    rows = [cells for _, cells in table.rows]
    for suffix in tables.SUFFIXES:
        tables.write_table(tmp_path / f"b{suffix}", table.header, rows)
    assert json.loads((tmp_path / "b.jsonl").read_text())["nested"] == [{"a": "b", "c": "1.5"}]


def test_class_numbers_of_datasets_are_read_by_their_names(tmp_path, capsys):
    features = {
        "label": {"names": ["against", "favor"], "_type": "ClassLabel"},
        "text": {"dtype": "string", "_type": "Value"},
    }
    info = json.dumps({"info": {"features": features}})
    path = write(
        tmp_path / "a.parquet",
        {"topic": ["G"] * 3, "text": ["a", "b", "c"], "label": [1, 0, -1]},
        {"huggingface": info},
    )
    assert [cells[2] for _, cells in read(path)] == ["label", "favor", "against", None]
    assert 'read as the names that the file has for them, in "label"' in capsys.readouterr().out


def test_a_defect_is_named_by_its_row(tmp_path, capsys):
    path = write(
        tmp_path / "a.parquet",
        {"topic": ["G", "G"], "text": ["a", None], "stance": ["pro", "con"]},
    )
    assert "text is empty in row 2" in stop_message(capsys, annotations.read_corpus, path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"topic,text\n"])
def test_what_is_damaged_is_said_in_one_line(tmp_path, capsys, content):
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    message = stop_message(capsys, annotations.read_corpus, path)
    assert "a.parquet is damaged or incomplete" in message and message.count("\n") == 1


def test_bytes_that_are_no_text_are_named(tmp_path, capsys):
    path = write(tmp_path / "a.parquet", {"topic": ["G"], "text": ["a"], "image": [b"\xff\xd8"]})
    message = stop_message(capsys, lambda: list(parquet_reader.read_row_groups(path)))
    assert 'the column "image" holds no texts but bytes' in message


def test_a_missing_file_is_said(tmp_path, capsys):
    message = stop_message(capsys, annotations.read_corpus, tmp_path / "no.parquet")
    assert "not found" in message


def test_memory_does_not_grow_with_the_rows(tmp_path):
    texts = [f"A sentence that is some words long, number {n}." for n in range(400_000)]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": texts}), path, row_group_size=20_000)
    before = pa.total_allocated_bytes()
    most = 0
    for number, _ in tables.open_table(path, {"text": ("text",)}).rows:
        if number % 10_000 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert number == 400_000 and most < 15e6  # bytes; the texts alone are 20e6
