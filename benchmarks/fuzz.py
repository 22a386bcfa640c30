"""Let a coverage-guided fuzzer write files of each kind, and look how the readers end: in one line, or with clean rows.

Needs atheris, which is no dependency of the project: pip install atheris. Each kind has --minutes in a process of its
own, which is ended over 10 s a file or 1 GiB of memory, and started again on what it has learnt. Files that ended in a
traceback or in anything else than one clean error line are kept in --work-dir; each is one of a kind.
Writes what was found to --output and prints it.

    PYTHONPATH=. nice python benchmarks/fuzz.py
    PYTHONPATH=. nice python benchmarks/fuzz.py --kinds xlsx --minutes 1
"""

import argparse
import contextlib
import hashlib
import io
import json
import re
import resource
import subprocess
import sys
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

from stance.common import environment, errors, files, flags

# ---------------------------------------------------------------- settings
KINDS = ("csv", "xlsx", "jsonl", "run.json")
MINUTES = 10.0  # for each kind
WORK_DIR = "outputs/fuzz"  # what was learnt and found
OUTPUT = "benchmarks/results/fuzz.json"
MOST_SECONDS = 10  # for a file; above, it hangs
MOST_MIB = 1024  # of memory of the whole process
MOST_BYTES = 4096  # of a file
# --------------------------------------------------------------------------

HUNG, SHORT_OF_MEMORY = 70, 71  # exit codes of the fuzzer
SAVE_EVERY = 500  # tries between two writings of the counts
TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
JSONL_NAMES = ("corpus.jsonl", "corpus.json", "train.jsonl", "evaluation.jsonl")
# What terminals obey or hide: control and format characters, halves of characters.
UNCLEAN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

Report = Callable[[str], None]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what to fuzz")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="for each kind (%(default)s)"
    )
    parser.add_argument("--work-dir", default=WORK_DIR, help="of learnt and found files")
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the result (%(default)s)")
    parser.add_argument("--child", choices=KINDS, help="fuzz this kind in this process")
    return parser.parse_args(argv)


# ---------------------------------------------------------------- the files


def make_seeds(kind: str) -> list[bytes]:
    """Return inputs of a kind from which the fuzzer starts; the first byte chooses among forms."""
    if kind == "csv":
        rows = 'topic,text,stance\n"Dogs, too.","He said ""no"".",Pro\nCats.,Ja.,Contra\n'
        return [
            b"\0" + rows.encode(),
            b"\0" + rows.encode("utf-16"),
            b"\1" + rows.replace(",", "\t").encode(),
            b"\2One line.\nAnother line.\r\n",
            b"\0sep=;\n" + rows.replace(",", ";").encode("cp1252"),
        ]
    if kind == "xlsx":
        parts = make_workbook()
        return [bytes([index]) + content for index, content in enumerate(parts.values())]
    if kind == "jsonl":
        row = {"topic": "Dogs.", "text": "Yes.", "stance": "Pro", "id": "1", "label": "pro"}
        record = {**row, "models": {"base": {"prediction": "pro", "probabilities": {"pro": 1.0, "con": 0, "neu": 0}}}}  # fmt: skip
        task = {"data": {"text": "Yes."}, "id": 3, "annotations": [{"id": 1, "result": [{"from_name": "stance", "type": "choices", "value": {"choices": ["Pro"]}}]}]}  # fmt: skip
        values = [row, [row, task], {**row, "prompt": "x"}, record]
        return [bytes([form]) + json.dumps(value).encode() for form, value in enumerate(values)]
    return [bytes([form]) + json.dumps(value).encode() for form, value in enumerate(list_records())]


def make_workbook() -> dict[str, bytes]:
    """Return {part: content} of a small workbook."""
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    for cells in (("topic", "text", "stance"), ("Dogs.", "Yes.", "Pro"), ("Cats.", 3.5, "Contra")):
        sheet.append(cells)
    sheet.append([None, "=1+1", True])
    sheet.merge_cells("A3:A4")
    content = io.BytesIO()
    book.save(content)
    with zipfile.ZipFile(content) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def list_records() -> list[object]:
    """Return a value of each kind of JSON file that the project reads as a whole."""
    digest = "0" * 64
    data = {"train": {"rows": 3, "sha256": digest}, "val": {"rows": 3, "sha256": digest}}
    run = {
        "base_model": "a/b", "prompt_version": "1", "labels": ["pro", "con", "neu"], "data": data,
        "precision": {"quant_type": "nf4", "double_quant": True, "compute": "bfloat16"},
        "demo": False, "settings": {"EPOCHS": 3.0}, "adapter_files": {"a": digest},
        "result": {"kept_validation": {"epoch": 1.0, "eval_accuracy": 0.5}},
    }  # fmt: skip
    return [run] * len(list_kinds())


def list_kinds() -> list[object]:
    """Return the TypedDicts of all JSON files that are read as a whole."""
    from stance.common import types

    # Rows of annotated files are no JSON.
    names = sorted(name for name in vars(types) if name not in ("AnnotatedRow", "TypedDict"))
    kinds = [getattr(types, name) for name in names if not name.startswith("_")]
    return [kind for kind in kinds if hasattr(kind, "__required_keys__")]


# ---------------------------------------------------------------- the readers


def make_reader(kind: str, folder: Path) -> Callable[[bytes], None]:
    """Return a function that writes an input into a folder as a file of a kind, and reads it."""
    if kind == "xlsx":
        parts = make_workbook()
        names = list(parts)

        def read_workbook(content: bytes) -> None:
            path = folder / "corpus.xlsx"
            if content[:1] >= b"\xf0":  # as it is
                path.write_bytes(b"PK\3\4" + content[1:])
            else:
                changed = {**parts, names[content[0] % len(names)]: content[1:]}
                with zipfile.ZipFile(path, "w") as archive:
                    for name, part in changed.items():
                        archive.writestr(name, part)
            read_table(path)

        return read_workbook
    if kind == "csv":
        return lambda content: read_table(
            write_file(
                folder, f"corpus{TEXT_SUFFIXES[content[0] % len(TEXT_SUFFIXES)]}", content[1:]
            )
        )
    if kind == "jsonl":
        return lambda content: read_lines(
            write_file(folder, JSONL_NAMES[content[0] % len(JSONL_NAMES)], content[1:])
        )
    kinds = list_kinds()
    return lambda content: read_record(
        write_file(folder, "run.json", content[1:]), kinds[content[0] % len(kinds)]
    )


def write_file(folder: Path, name: str, content: bytes) -> Path:
    """Write a file into a folder and return its path."""
    (folder / name).write_bytes(content)
    return folder / name


def read_table(path: Path) -> None:
    """Read a table as prepare_data.py --check does, and as predict.py does."""
    from stance.corpus import annotations, cleaning, tables
    from stance.labelling import labeller

    with contextlib.suppress(SystemExit):
        scan = annotations.scan_corpus(path)
        for finding in scan.findings:
            print(finding)
    table = tables.open_table(path, {"text": ("text", "sentence")}, lines_column="text")
    for row in labeller.read_rows(table, ["A topic."], cleaning.ALL_REPAIRS):
        "".join(text for _, text in row.pairs).encode()


def read_lines(path: Path) -> None:
    """Read a JSON Lines file as the scripts do that read files of its name."""
    from stance.corpus import splitting
    from stance.evaluation import analysis, predictions

    if path.name == "train.jsonl":
        splitting.check_splits_disjoint({"train": splitting.load_split(path)})
    elif path.name == "evaluation.jsonl":
        analysis.compute_model_metrics(predictions.read_records(path))
    else:
        read_table(path)


def read_record(path: Path, kind: object) -> None:
    """Read a JSON file as one of a kind; what passes can be written again and compared."""
    from stance.common import records

    value = records.read_typed(path, kind, "file of its kind", "train again")
    json.dumps(value, allow_nan=True)
    print(records.describe_problem(value, kind))


# ---------------------------------------------------------------- the fuzzer


def fuzz_kind(kind: str, folder: Path, seconds: float) -> None:
    """Fuzz a kind in this process, which ends with it; the counts go to counts.json in the folder."""
    import atheris

    with atheris.instrument_imports(include=["stance", "openpyxl", "csv", "prompts"]):
        from stance.common import records  # noqa: F401
        from stance.corpus import annotations, splitting, tables  # noqa: F401
        from stance.evaluation import analysis, predictions  # noqa: F401
    import stance.labelling.labeller  # noqa: F401 - before the first try, which is timed

    reader = make_reader(kind, folder)
    counts_path = folder / "counts.json"
    counts = json.loads(counts_path.read_text()) if counts_path.is_file() else {}
    counts = {"tries": 0, "refused": 0, "read": 0, "found": {}, "slowest_s": 0.0, **counts}

    def try_input(content: bytes) -> None:
        if not content:
            return
        started = time.monotonic()
        counts["tries"] += 1
        problem = run_reader(reader, content, counts)
        counts["slowest_s"] = max(counts["slowest_s"], round(time.monotonic() - started, 2))
        if problem:
            name = hashlib.sha256(problem.encode()).hexdigest()[:12]
            counts["found"].setdefault(name, problem)
            (folder / f"found-{name}").write_bytes(content)
        if counts["tries"] % SAVE_EVERY == 0 or problem:
            counts["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            counts_path.write_text(json.dumps(counts))

    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(make_seeds(kind)):
        (corpus / f"seed-{number}").write_bytes(seed)
    limits = [f"-max_total_time={int(seconds)}", f"-timeout={MOST_SECONDS}"]
    limits += [f"-rss_limit_mb={MOST_MIB}", f"-max_len={MOST_BYTES}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={folder}/", str(corpus)], try_input)
    atheris.Fuzz()


def run_reader(reader: Callable[[bytes], None], content: bytes, counts: dict) -> str | None:
    """Read an input; return in words what went wrong, None if nothing did."""
    out = io.StringIO()
    err = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            reader(content)
        counts["read"] += 1
    except SystemExit as stopped:
        counts["refused"] += 1
        lines = err.getvalue().splitlines()
        if stopped.code != 2 or not lines or not lines[-1].startswith("error: "):
            return f"ends with code {stopped.code} and {len(lines)} lines"
    except Exception as problem:  # what is looked for
        frames = traceback.extract_tb(problem.__traceback__)
        places = [f"{Path(frame.filename).name}:{frame.name}" for frame in frames[-3:]]
        return f"{type(problem).__name__} in {' > '.join(places)}"
    if UNCLEAN.search(out.getvalue() + err.getvalue()):
        return "prints control characters"
    return None


def watch_kind(kind: str, folder: Path, minutes: float) -> dict:
    """Fuzz a kind for so many minutes, in processes that are started again; return the counts."""
    folder.mkdir(parents=True, exist_ok=True)
    counts_path = folder / "counts.json"
    counts_path.unlink(missing_ok=True)
    until = time.monotonic() + 60 * minutes
    ended = {"hangs": 0, "out_of_memory": 0, "other_ends": 0}
    codes = {HUNG: "hangs", SHORT_OF_MEMORY: "out_of_memory"}
    while (left := until - time.monotonic()) > 5:
        words = [sys.executable, __file__, "--child", kind, "--work-dir", str(folder)]
        words += ["--minutes", str(left / 60)]
        with open(folder / "log.txt", "a", encoding="utf-8") as log:
            code = subprocess.run(words, stdout=log, stderr=log).returncode
        if code != 0:
            ended[codes.get(code, "other_ends")] += 1
            time.sleep(1)
    counts = json.loads(counts_path.read_text())
    found = sorted(counts.pop("found").values())
    return {"minutes": minutes, **counts, **ended, "tracebacks": len(found), "found": found}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        import atheris  # noqa: F401
    except ImportError:
        errors.fail("atheris is not installed: pip install atheris")
    if args.child:
        fuzz_kind(args.child, Path(args.work_dir), 60 * args.minutes)
        return
    result = {"environment": environment.describe_environment(), "kinds": {}}
    for kind in args.kinds:
        counts = watch_kind(kind, Path(args.work_dir) / kind, args.minutes)
        result["kinds"][kind] = counts
        print(kind, json.dumps(counts, indent=2))
    files.write_json(args.output, result)


if __name__ == "__main__":
    main()
