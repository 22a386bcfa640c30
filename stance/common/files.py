"""Files that every script reads and writes: JSON, JSON Lines, whole-or-nothing writes, hashes."""

import codecs
import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import socket
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from stance.common import errors, formatting

# A file of that name is ours: a link is not followed, and a pipe not waited for.
OWN_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
# One encoder for all rows: json.dumps makes one for every row.
LINE_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str, allow_nan=False)


def make_folder(path: str | Path) -> None:
    """Make a folder for results, with its parents; fail, before any work is done, if that is
    impossible."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        errors.fail(
            f"cannot make the folder {path} ({problem.strerror}): choose another place for the results"
        )
    if not os.access(path, os.W_OK):
        errors.fail(f"cannot write into {path}: choose another place for the results")


@contextlib.contextmanager
def replace_whole(path: str | Path) -> Iterator[Path]:
    """Yield an empty file beside another, which takes its place once written: whole or not at all.

    That happens once the block has ended and the content is on disk. Makes the folder of path. An
    error of a full disk then names path, and not the file beside it, which is gone.
    """
    path = Path(path)
    temporary = name_temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # New, so that what somebody has put there, such as a link to another file, is not used.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OWN_FILE, 0o666))
        yield temporary
        flush_file(temporary)
        os.replace(temporary, path)
    except BaseException as problem:  # the disk is full, or a signal came
        if isinstance(problem, OSError) and problem.filename in (None, str(temporary)):
            problem.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def flush_file(path: str | Path) -> None:
    """Return once a file, or the entries of a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, chunks: Iterable[str]) -> str:
    """Write strings to a file whole or not at all; makes its folder; return its SHA-256."""
    # Half a character, as a text cut inside an emoji holds, has no bytes.
    return write_bytes(path, (chunk.encode("utf-8", errors="replace") for chunk in chunks))


def write_bytes(path: str | Path, chunks: Iterable[bytes]) -> str:
    """Write bytes to a file whole or not at all; makes its folder; return their SHA-256."""
    digest = hashlib.sha256()
    with replace_whole(path) as temporary, open(temporary, "wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def open_to_append(path: str | Path) -> BinaryIO:
    """Return a file opened to append bytes to it, made if it is not there; without a buffer.

    Fails if there is a link or a pipe of that name: somebody else may have put it there, so that
    another file is changed.
    """
    hint = "delete it, or choose another name"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | OWN_FILE, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            errors.fail(f"{path} is no plain file: {hint}")
        return os.fdopen(descriptor, "a+b", buffering=0)
    except OSError as problem:
        if problem.errno == errno.ELOOP:
            errors.fail(f"{path} is a link, which is not followed: {hint}")
        raise


def append_bytes(file: BinaryIO, content: bytes) -> None:
    """Append bytes to a file of open_to_append whole or not at all; wait until they are on disk."""
    size = os.fstat(file.fileno()).st_size
    left = memoryview(content)
    try:
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except BaseException:  # the disk is full, or a signal came
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), size)
        raise


def check_not_input(output: str | Path, inputs: dict[str, str | Path | None]) -> None:
    """Fail if a file to write is one of the files to read, {flag: path or None}."""
    for flag, path in inputs.items():
        if path is None:
            continue
        is_same = Path(path).resolve() == Path(output).resolve()
        if Path(path).exists() and Path(output).exists():  # links and other spellings of the name
            is_same = is_same or Path(path).samefile(output)
        if is_same:
            errors.fail(f"{output} would replace the file of {flag}: give it another name")


def name_temporary(path: str | Path) -> Path:
    """Return a new name beside a file, for what takes its place: no other process has the same.

    It tells which process of which computer made it, so that what a kill leaves can be told from
    what is being written: leftovers.list_leftovers.
    """
    path = Path(path)
    maker = f"{name_computer()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{path.name}.{maker}.tmp")


def name_computer() -> str:
    """Return four hex digits that tell this computer from most others that share a folder."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]


def write_json(path: str | Path, value: object) -> str:
    """Write one JSON document, indented, whole or not at all; return its SHA-256."""
    encoder = json.JSONEncoder(indent=2, ensure_ascii=False, allow_nan=False)
    return write_text(path, [_encode(encoder, value), "\n"])


def _encode(encoder, value):
    """Return a value as JSON text; numbers that JSON has no form for, NaN and infinity, as null."""
    try:
        return encoder.encode(value)
    except ValueError:  # there is such a number
        return encoder.encode(_replace_non_finite(value))


def _replace_non_finite(value):
    """Return a value of dicts and lists with None for each number that is not finite."""
    if isinstance(value, dict):
        return {key: _replace_non_finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_non_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def check_plain(path: str | Path) -> None:
    """Fail if a path is a pipe, socket or device: it would be waited for, and cannot be read twice.

    Whoever opens it says what is wrong with a folder, or if there is nothing.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # not there
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        hint = "save what it gives in a file, and name that"
        errors.fail(f"{path} is a pipe or a device, which cannot be read twice: {hint}")


def read_json(path: str | Path, hint: str) -> Any:
    """Read one JSON document; fail with the hint if the file is missing or damaged."""
    check_plain(path)
    try:
        return decode_json(Path(path).read_bytes())
    except FileNotFoundError:
        errors.fail(f"{path} not found: {hint}")
    except OSError as problem:
        errors.fail(f"{path} cannot be read ({problem.strerror}): {hint}")
    except (ValueError, RecursionError) as problem:  # of JSON, of UTF-8, of a number's length
        errors.fail(f"{path} is not valid JSON ({problem}): {hint}")


def decode_json(content: bytes) -> Any:
    """Return what JSON in UTF-8 holds; NaN and Infinity, which JSON does not know, as None.

    Raises ValueError (of JSON, of UTF-8, of a number of too many digits) or RecursionError.
    """
    text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    return json.loads(text, parse_constant=lambda name: None)


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> str:
    """Write dicts, one JSON object a line, whole or not at all; return the file's SHA-256."""
    return write_text(path, map(encode_line, rows))


def encode_line(row: dict) -> str:
    """Return a dict as a line of a JSON Lines file; what JSON has no type for as text."""
    return _encode(LINE_ENCODER, row) + "\n"


def read_jsonl(path: str | Path, required: Collection[str], hint: str) -> list[dict]:
    """Read a JSON Lines file into a list; see iterate_jsonl."""
    return list(iterate_jsonl(path, required, hint))


def iterate_jsonl(path: str | Path, required: Collection[str], hint: str) -> Iterator[dict]:
    """Yield the dicts of a JSON Lines file, which all hold the required keys.

    Blank lines don't count; NaN and Infinity are read as None, as null is. Fails with the hint if
    the file is missing or empty, and with the line that is damaged or lacks a key.
    """
    for _, row in iterate_numbered_jsonl(path, required, hint):
        yield row


def iterate_numbered_jsonl(
    path: str | Path, required: Collection[str], hint: str
) -> Iterator[tuple[int, dict]]:
    """Yield (line number, dict) of a JSON Lines file; see iterate_jsonl."""
    check_plain(path)
    number = 0
    is_empty = True
    try:
        with open(path, "rb") as file:  # bytes: a line that is not UTF-8 must not hide its number
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                is_empty = False
                row = decode_json(line)
                if not isinstance(row, dict):
                    errors.fail(f"{path}, line {number} is no JSON object: {hint}")
                missing = [key for key in required if key not in row]
                if missing:
                    errors.fail(f"{path}, line {number}: no {', '.join(missing)}: {hint}")
                yield number, row
    except FileNotFoundError:
        errors.fail(f"{path} not found: {hint}")
    except OSError as problem:
        errors.fail(f"{path} cannot be read ({problem.strerror}): {hint}")
    except (ValueError, RecursionError) as problem:
        errors.fail(f"{path}, line {number} is not valid JSON ({problem}): {hint}")
    if is_empty:
        errors.fail(f"{path} is empty: {hint}")


def read_file(path: str | Path) -> bytes:
    """Return the bytes of a file: in memory, so that Excel on Windows may keep the file open."""
    with open_file(path) as file:
        return file.read()


def open_file(path: str | Path) -> BinaryIO:
    """Return a file opened to read its bytes; fail if that is impossible."""
    try:
        return open(path, "rb")
    except FileNotFoundError:
        errors.fail(f"{path} not found: check its path")
    except OSError as problem:
        errors.fail(
            f"{path} cannot be opened ({problem.strerror}): close it in other programs and check the path"
        )


def guard(
    items: Iterable,
    path: str | Path,
    hint: str = "open it in Excel, check it from there on, save it as .xlsx",
) -> Iterator:
    """Pass items on; fail with the hint if the library that yields them finds the file damaged.

    Any exception counts as that: openpyxl has none of its own. Of items like (row number, cells),
    the message names the last row that could be read.
    """
    last = None
    try:
        for last in items:
            yield last
    except UnicodeDecodeError:
        errors.fail(f"{path} is not UTF-8: save it in Excel as .xlsx or as 'CSV UTF-8'")
    except Exception as problem:
        where = ""
        if isinstance(last, tuple) and isinstance(last[0], int):
            where = f" after row {last[0]}"
        cause = formatting.quote(f"{type(problem).__name__}: {problem}")
        errors.fail(f"{path} is damaged or incomplete{where} ({cause}): {hint}")


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
