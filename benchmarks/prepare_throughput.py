"""Measure prepare_data.py: seconds by stage and peak memory over sizes of corpus, as .csv and as .xlsx.

Sentences are shuffled words of the sample corpus, 20 on average. The workbooks are like Excel's: all texts in one table
of shared strings. Each measurement runs in a process of its own; on a busy machine, trust its processor time.
Writes all figures with versions and seed to --output;
prints the table.

    PYTHONPATH=. python benchmarks/prepare_throughput.py
    PYTHONPATH=. python benchmarks/prepare_throughput.py --output /tmp/prepare.json
"""

import argparse
import concurrent.futures
import csv
import gc
import io
import math
import multiprocessing
import random
import resource
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import openpyxl
from openpyxl.xml.constants import SHARED_STRINGS, SHEET_MAIN_NS

import prepare_data
from stance.common import environment, files, flags, formatting
from stance.corpus import annotations, duplicates, near_duplicates

# ---------------------------------------------------------------- settings
OUTPUT = "benchmarks/results/prepare.json"  # of this run
ROWS = (10_000, 100_000, 1_000_000)  # of the corpora
SUFFIXES = (".csv", ".xlsx")  # kinds of files
WORDS = 20  # of a sentence, median; log-normal
SEED = 0  # of the corpora and the splits
# --------------------------------------------------------------------------

SAMPLE = Path(__file__).parent.parent / prepare_data.CORPUS
STAGES = ("read", "merge", "split", "near", "write")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the figures (%(default)s)")
    return parser.parse_args(argv)


def run_fresh(function: Callable[..., Any], *words: object) -> Any:
    """Return function(*words) of a fresh process, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *words).result()


def make_corpus(folder: str, count: int) -> None:
    """Write a corpus of count rows as .csv and as .xlsx."""
    rng = random.Random(SEED)
    sample = annotations.read_corpus(SAMPLE)
    words = [word for row in sample for word in row["text"].split()]
    topics = sorted({row["topic"] for row in sample})
    stances = sorted({row["stance"] for row in sample})
    rows = [("topic", "text", "stance")]
    for _ in range(count):
        length = max(2, round(rng.lognormvariate(math.log(WORDS), 0.5)))
        topic = rng.choice(topics)
        text = " ".join(rng.choices(words, k=length))
        rows.append((topic, text, rng.choice(stances)))
    with open(Path(folder) / f"{count}.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    write_workbook(Path(folder) / f"{count}.xlsx", rows)


def write_workbook(path: Path, rows: list[tuple[str, str, str]]) -> None:
    """Write rows of texts as Excel would, with all texts in one table of shared strings.

    openpyxl puts them into the cells, which is faster to read.
    """
    frame = io.BytesIO()
    openpyxl.Workbook().save(frame)
    positions = {}  # of each text in the table
    with zipfile.ZipFile(frame) as empty, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name in set(empty.namelist()) - {"xl/worksheets/sheet1.xml", "[Content_Types].xml"}:
            book.writestr(name, empty.read(name))
        override = (
            f'<Override PartName="/xl/sharedStrings.xml" ContentType="{SHARED_STRINGS}" /></Types>'
        )
        types = empty.read("[Content_Types].xml").decode()
        book.writestr("[Content_Types].xml", types.replace("</Types>", override))
        with book.open("xl/worksheets/sheet1.xml", "w") as part:
            part.write(f'<worksheet xmlns="{SHEET_MAIN_NS}"><sheetData>'.encode())
            for number, row in enumerate(rows, start=1):
                cells = []
                for column, text in zip("ABC", row, strict=True):
                    position = positions.setdefault(text, len(positions))
                    cells.append(f'<c r="{column}{number}" t="s"><v>{position}</v></c>')
                part.write(f'<row r="{number}">{"".join(cells)}</row>'.encode())
            part.write(b"</sheetData></worksheet>")
        with book.open("xl/sharedStrings.xml", "w") as part:
            part.write(f'<sst xmlns="{SHEET_MAIN_NS}">'.encode())
            for text in positions:
                part.write(f'<si><t xml:space="preserve">{escape(text)}</t></si>'.encode())
            part.write(b"</sst>")


def measure(path: str, folder: str) -> dict:
    """Prepare a corpus in this process, into a folder; return the figures of the record.

    seconds: by stage; total: their sum; processor_seconds: of all stages; peak_gib: of memory.
    """
    gc.disable()  # as prepare_data.py does
    began = time.process_time()
    times = [time.perf_counter()]  # before the first stage, and after each
    rows = annotations.read_corpus(path)
    times.append(time.perf_counter())
    kept, repeated, conflicts, _ = duplicates.merge_duplicates(rows)
    times.append(time.perf_counter())
    drawn = prepare_data.make_splits(path, kept, SEED)
    splits = prepare_data.make_lines(drawn)
    counts = prepare_data.count_labels(splits)
    times.append(time.perf_counter())
    near = near_duplicates.find_near_duplicates(drawn, kept)
    times.append(time.perf_counter())
    report = {
        "counts": counts,
        "duplicates": repeated,
        "conflicts": conflicts,
        "near_duplicates": near,
    }
    prepare_data.write_files(Path(folder), splits, [], lambda: report)
    times.append(time.perf_counter())
    busy = time.process_time() - began
    seconds = {}
    for index, stage in enumerate(STAGES):
        seconds[stage] = times[index + 1] - times[index]
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return {
        "seconds": seconds,
        "total": sum(seconds.values()),
        "processor_seconds": busy,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30,
    }


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    results = []
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for count in ROWS:
            run_fresh(make_corpus, folder, count)
            for suffix in SUFFIXES:
                figures = run_fresh(measure, f"{folder}/{count}{suffix}", folder)
                results.append({"rows": count, "file": suffix, **figures})
                numbers = [
                    *figures["seconds"].values(),
                    figures["total"],
                    figures["processor_seconds"],
                    figures["peak_gib"],
                ]
                table.append([f"{count:,}", suffix, *(f"{number:.2f}" for number in numbers)])
    record = {"results": results, "seed": SEED, "environment": environment.describe_environment()}
    files.write_json(args.output, record)
    header = ["Rows", "file", *STAGES, "total", "processor", "peak GiB"]
    print(formatting.format_table(header, table))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
