"""Files every script reads and writes: JSON Lines, JSON, run records; how a script ends on bad input and on signals.

Standard library only.
"""

import gc
import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

# ---------------------------------------------------------------- settings
SHOWN = 10  # rows or spellings that a message lists before it only counts them
SHOWN_LENGTH = 60  # characters of a topic or sentence in messages and in tables on the screen
# --------------------------------------------------------------------------

RECORDED_PACKAGES = (
    "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "scikit-learn", "numpy", "scipy",
    "openpyxl", "xlsxwriter",
)  # fmt: skip


def stop(message):
    """End the script on something the user can mend: one line on stderr, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def stop_below_bar(message):
    """Stop with an error line of its own, below the progress bar."""
    print(file=sys.stderr)
    stop(message)


def run_script(main):
    """Run the main of a script; Ctrl-C and SIGTERM (a cluster ends a job) stop it in one line, exit code 130 or 143.

    Both are raised as exceptions, so that what is open is closed and temporary files go. If torchrun's first process
    fails, it ends the others by SIGTERM: these wait for the first where no handler would run, so they have none.
    Garbage is collected from here on, but never what was there before: the libraries.
    """
    gc.freeze()
    gc.enable()  # until here, stance/common/startup.py had it off, and another handler for Ctrl-C
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("RANK", "0") == "0":
        signal.signal(signal.SIGTERM, interrupt)
    try:
        main()
    except KeyboardInterrupt:
        interrupt(signal.SIGINT)


def interrupt(number, frame=None):
    """End the script on a signal, with the exit code that shells report for it. A handler of signal.signal."""
    os.write(
        2, b"\ninterrupted: no file is half written; start again\n"
    )  # print may be busy: signals come anywhere
    raise SystemExit(128 + number)


def list_first(items):
    """Return the first SHOWN items as text, and how many more there are."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(map(str, items[:SHOWN])) + more


def count_rows(numbers):
    """Return row numbers as text: their count and the first of them."""
    return (
        f"{len(numbers)} rows ({list_first(numbers)})" if len(numbers) > 1 else f"row {numbers[0]}"
    )


def cut(text):
    """Return a text, or the start of one that is longer than SHOWN_LENGTH."""
    return text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 3] + "..."


def quote(text):
    """Return a text in quotation marks, cut and on one line, for a message."""
    return json.dumps(cut(text), ensure_ascii=False)


def make_folder(path):
    """Make a folder for results, with its parents; stop, before any work is done, if that is impossible."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        stop(
            f"cannot make the folder {path} ({problem.strerror}): choose another place for the results"
        )
    if not os.access(path, os.W_OK):
        stop(f"cannot write into {path}: choose another place for the results")


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


def read_json(path, remedy):
    """Read one JSON document; stop with the remedy if the file is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        stop(f"{path} not found: {remedy}")
    except OSError as problem:
        stop(f"{path} cannot be read ({problem.strerror}): {remedy}")
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        stop(f"{path} is not valid JSON ({problem}): {remedy}")


def write_jsonl(path, rows):
    """Write an iterable of dicts, one JSON object a line, whole or not at all."""
    encode = json.JSONEncoder(
        ensure_ascii=False, default=str
    ).encode  # json.dumps makes one for every row
    write_text(path, (encode(row) + "\n" for row in rows))


def read_jsonl(path, required, remedy):
    """Read a JSON Lines file into a list; see iterate_jsonl."""
    return list(iterate_jsonl(path, required, remedy))


def iterate_jsonl(path, required, remedy):
    """Yield the dicts of a JSON Lines file, which all hold the required keys; stop with the line otherwise."""
    number = 0
    try:
        with open(path, "rb") as file:  # bytes: a line that is not UTF-8 must not hide its number
            for number, line in enumerate(file, start=1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    stop(f"{path}, line {number} is no JSON object: {remedy}")
                missing = [key for key in required if key not in row]
                if missing:
                    stop(f"{path}, line {number}: no {', '.join(missing)}: {remedy}")
                yield row
    except FileNotFoundError:
        stop(f"{path} not found: {remedy}")
    except OSError as problem:
        stop(f"{path} cannot be read ({problem.strerror}): {remedy}")
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        stop(f"{path}, line {number} is not valid JSON ({problem}): {remedy}")
    if not number:
        stop(f"{path} is empty: {remedy}")


def read_file(path):
    """Return the bytes of a file: in memory, so that Excel on Windows may keep the file open."""
    with open_file(path) as file:
        return file.read()


def open_file(path):
    """Return a file opened to read its bytes; stop if that is impossible."""
    try:
        return open(path, "rb")
    except FileNotFoundError:
        stop(f"{path} not found: check its path")
    except OSError as problem:
        stop(
            f"{path} cannot be opened ({problem.strerror}): close it in other programs and check the path"
        )


def guard(items, path):
    """Pass items on; stop if the library that yields them finds the file damaged (openpyxl has no error of its own)."""
    last = None
    try:
        for last in items:
            yield last
    except UnicodeDecodeError:
        stop(f"{path} is not UTF-8: save it in Excel as .xlsx or as 'CSV UTF-8'")
    except Exception as problem:
        where = (
            f" after row {last[0]}" if isinstance(last, tuple) and isinstance(last[0], int) else ""
        )
        remedy = "open it in Excel, check it from there on, save it as .xlsx"
        cause = quote(f"{type(problem).__name__}: {problem}")
        stop(f"{path} is damaged or incomplete{where} ({cause}): {remedy}")


def hash_file(path):
    """Return the SHA-256 of a file as hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def collect_settings(module):
    """Return the UPPERCASE constants of a script or module, for the run record."""
    return {name: value for name, value in vars(module).items() if name.isupper()}


def describe_environment():
    """Return versions, platform and git commit: what a reader needs to repeat a run. Holds no paths or variables."""
    versions = {}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "git": describe_commit(),
    }


def describe_commit():
    """Return the checkout's commit and whether files differ from it; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]

    def run(*words):
        return subprocess.run(("git", *words), cwd=root, capture_output=True, text=True)

    try:
        commit = run("rev-parse", "HEAD")
    except FileNotFoundError:  # git is not installed
        return None
    if commit.returncode != 0:
        return None
    return {
        "commit": commit.stdout.strip(),
        "changed": bool(run("status", "--porcelain", "-uno").stdout.strip()),
    }
