"""Parquet files read: row groups come as lines of cells. No torch."""

import datetime
import decimal
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stance.common import errors, files, formatting
from stance.corpus import workbook_reader

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

# ---------------------------------------------------------------- settings
BATCH_ROWS = 5_000  # held as Python objects at a time
# --------------------------------------------------------------------------

PARQUET_HINT = "write it again, or as .csv or .jsonl"
DATASETS_KEY = b"huggingface"  # of the schema, where the library datasets keeps its own


def open_parquet(path: str | Path) -> Iterator[tuple[str, workbook_reader.Lines]]:
    """Yield the one (location, lines) of a Parquet file: the names of its columns, then its rows.

    The header has the row number 0, the first row 1. Nested values are lists and objects, as those
    of JSON. Fails if the file is damaged.
    """
    files.open_file(path).close()  # fails if it is not there
    yield str(path), files.guard(read_row_groups(path), path, PARQUET_HINT)


def read_row_groups(path: str | Path) -> workbook_reader.Lines:
    """Yield (row number, cells), the header first, with a few thousand rows in memory."""
    from pyarrow import parquet  # takes a while, for which other files need not wait

    with parquet.ParquetFile(path) as file:
        header = list(file.schema_arrow.names)
        classes = find_classes(file)
        named = [formatting.quote(name) for name in header if name in classes]
        if named:
            what = (
                f"numbers are read as the names that the file has for them, in {', '.join(named)}"
            )
            print(f"note: {path}: {what}")
        yield 0, header
        number = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            columns = []
            for name, column in zip(header, batch.columns, strict=True):
                columns.append(list_cells(path, name, column, classes.get(name)))
            for cells in zip(*columns, strict=True):
                number += 1
                yield number, list(cells)


def find_classes(file: "parquet.ParquetFile") -> dict[str, list[str]]:
    """Return {column: names of its classes} for columns that datasets wrote as class numbers."""
    metadata = file.schema_arrow.metadata or {}
    if DATASETS_KEY not in metadata:
        return {}
    features = json.loads(metadata[DATASETS_KEY]).get("info", {}).get("features", {})
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


def list_cells(
    path: str | Path, name: str, column: "pyarrow.Array", names: list[str] | None
) -> list:
    """Return the cells of a column; names: of its classes, None if it holds none."""
    values = column.to_pylist()
    if names is not None:  # datasets writes -1 for a row without a label
        return [None if value is None or value < 0 else names[value] for value in values]
    try:
        return [convert_value(value) for value in values]
    except UnicodeDecodeError:
        hint = "leave the column out of the file"
        errors.fail(f"{path}: the column {formatting.quote(name)} holds no texts but bytes: {hint}")


def convert_value(value: object) -> object:
    """Return a value of pyarrow as a cell: as JSON has it, with times without a zone kept."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # pandas writes a gap as NaN
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {str(key): convert_nested(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [convert_nested(part) for part in value]
    if isinstance(value, decimal.Decimal) and value == value.to_integral_value():
        return int(value)
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        return value
    if isinstance(value, (datetime.date, datetime.time)) and getattr(value, "tzinfo", None) is None:
        return value
    return str(value)


def convert_nested(value: object) -> object:
    """Return a part of a nested value as JSON has it."""
    cell = convert_value(value)
    if cell is None or isinstance(cell, (str, bool, int, float, list, dict)):
        return cell
    return str(cell)
