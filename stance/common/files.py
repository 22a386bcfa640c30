"""Files that every script reads and writes: JSON, JSON Lines, whole-or-nothing writes, hashes."""

import hashlib
import json
import os
from pathlib import Path

from stance.common import errors, formatting


def make_folder(path):
    """Make a folder for results, with its parents; stop, before any work is done, if that is impossible."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        errors.fail(
            f"cannot make the folder {path} ({problem.strerror}): choose another place for the results"
        )
    if not os.access(path, os.W_OK):
        errors.fail(f"cannot write into {path}: choose another place for the results")


def write_text(path, chunks):
    """Write strings to a file whole or not at all: a temporary file beside it takes its place once it is on disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # the disk is full, or a signal came
        temporary.unlink(missing_ok=True)
        raise


def write_json(path, value):
    """Write one JSON document, indented."""
    write_text(path, [json.dumps(value, indent=2, ensure_ascii=False), "\n"])


def read_json(path, hint):
    """Read one JSON document; stop with the hint if the file is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        errors.fail(f"{path} not found: {hint}")
    except OSError as problem:
        errors.fail(f"{path} cannot be read ({problem.strerror}): {hint}")
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        errors.fail(f"{path} is not valid JSON ({problem}): {hint}")


def write_jsonl(path, rows):
    """Write an iterable of dicts, one JSON object a line, whole or not at all."""
    encode = json.JSONEncoder(
        ensure_ascii=False, default=str
    ).encode  # json.dumps makes one for every row
    write_text(path, (encode(row) + "\n" for row in rows))


def read_jsonl(path, required, hint):
    """Read a JSON Lines file into a list; see iterate_jsonl."""
    return list(iterate_jsonl(path, required, hint))


def iterate_jsonl(path, required, hint):
    """Yield the dicts of a JSON Lines file, which all hold the required keys; stop with the line otherwise."""
    number = 0
    try:
        with open(path, "rb") as file:  # bytes: a line that is not UTF-8 must not hide its number
            for number, line in enumerate(file, start=1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    errors.fail(f"{path}, line {number} is no JSON object: {hint}")
                missing = [key for key in required if key not in row]
                if missing:
                    errors.fail(f"{path}, line {number}: no {', '.join(missing)}: {hint}")
                yield row
    except FileNotFoundError:
        errors.fail(f"{path} not found: {hint}")
    except OSError as problem:
        errors.fail(f"{path} cannot be read ({problem.strerror}): {hint}")
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        errors.fail(f"{path}, line {number} is not valid JSON ({problem}): {hint}")
    if not number:
        errors.fail(f"{path} is empty: {hint}")


def read_file(path):
    """Return the bytes of a file: in memory, so that Excel on Windows may keep the file open."""
    with open_file(path) as file:
        return file.read()


def open_file(path):
    """Return a file opened to read its bytes; stop if that is impossible."""
    try:
        return open(path, "rb")
    except FileNotFoundError:
        errors.fail(f"{path} not found: check its path")
    except OSError as problem:
        errors.fail(
            f"{path} cannot be opened ({problem.strerror}): close it in other programs and check the path"
        )


def guard(items, path):
    """Pass items on; stop if the library that yields them finds the file damaged (openpyxl has no error of its own)."""
    last = None
    try:
        for last in items:
            yield last
    except UnicodeDecodeError:
        errors.fail(f"{path} is not UTF-8: save it in Excel as .xlsx or as 'CSV UTF-8'")
    except Exception as problem:
        where = (
            f" after row {last[0]}" if isinstance(last, tuple) and isinstance(last[0], int) else ""
        )
        hint = "open it in Excel, check it from there on, save it as .xlsx"
        cause = formatting.quote(f"{type(problem).__name__}: {problem}")
        errors.fail(f"{path} is damaged or incomplete{where} ({cause}): {hint}")


def hash_file(path):
    """Return the SHA-256 of a file as hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
