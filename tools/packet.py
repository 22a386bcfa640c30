"""Write the reviewer's packet of a finished run: all that is known of it in one file, and a data statement to fill in.

Reads --run, the folder that finetune.py wrote and evaluate.py evaluated; and --data-dir, the report on its splits, if
they are still those that it was trained on.
Writes --output: Markdown with the hashes of data and adapter, base and revision, the prompt to the byte, splits and leak
check, agreement of the annotators, numbers with intervals, errors by topic, calibration, robustness, cost, versions,
licence. No sentence of the corpus is in it. Of what the records do not tell it says "not recorded".

    python -m tools.packet
    python -m tools.packet --run outputs/my-run --output my-run-packet.md
"""

import sys

try:
    from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load
except ModuleNotFoundError:  # started by its path, a tool has Python look for modules in tools/
    print(
        "error: run it as: python -m tools.packet ... (in the folder that holds tools/)",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

# isort: split
import argparse
from pathlib import Path

from stance.common import errors, files, flags, records, run_files, types
from stance.corpus import splitting
from stance.evaluation import packet, predictions

# ---------------------------------------------------------------- settings
RUN = "outputs/gemma-2-9b-it-stance"  # folder that finetune.py wrote
# --------------------------------------------------------------------------

NAME = "packet.md"  # of the file, in the folder of the run


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument("--run", default=RUN, help="folder of the run (%(default)s)")
    parser.add_argument(
        "--data-dir", help="folder of its splits (default: the one that it was trained on)"
    )
    parser.add_argument("--output", help=f"file to write (default: {NAME} in the folder)")
    args = parser.parse_args(argv)
    if args.output and Path(args.output).suffix.lower() != ".md":
        errors.fail(f"--output {args.output}: its name must end in .md")
    return args


def hash_adapter(folder: Path, record: types.RunRecord) -> dict[str, str | None]:
    """Return {name: SHA-256} of the files that a run recorded of its adapter; None: not there."""
    found = {}
    for name in record.get("adapter_files", {}):
        path = folder / Path(name).name
        found[name] = files.hash_file(path) if path.is_file() else None
    return found


def read_splits_report(given: str | None, record: types.RunRecord) -> dict | None:
    """Return the report on the splits of a run; None if it is not at hand, with a note.

    given: --data-dir. Fails if that folder was named and holds other splits.
    """
    folder = given or record.get("flags", {}).get("data_dir")
    path = Path(str(folder)) / splitting.REPORT
    if not path.is_file():
        if given:
            errors.fail(f"{path} not found: name the folder of the splits of the run")
        print(f"note: {path} not found: what it tells is left out; name it by --data-dir")
        return None
    hint = "name the folder of the splits of the run"
    found = records.read_typed(path, types.PacketReport, "report of prepare_data.py", hint)
    for name in ("train", "val"):
        own = record["data"].get(name, {}).get("sha256")
        if found["outputs"].get(f"{name}.jsonl") != own:
            problem = f"{path} is of other splits than those of the run ({name}.jsonl)"
            if given:
                errors.fail(f"{problem}: {hint}")
            print(f"note: {problem}: what it tells is left out; name it by --data-dir")
            return None
    return found


def read_evaluation(folder: Path) -> tuple[dict | None, dict]:
    """Return (records by part, evaluation.json) of a run; (None, {}) with a note if it has none."""
    path = run_files.find_text(folder, run_files.RECORDS)
    if not path.is_file():
        print(f"note: {path} not found: no numbers; evaluate the run (evaluate.py --adapter)")
        return None, {}
    return predictions.read_parts(path)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    folder = Path(args.run)
    hint = "give the folder of a finished run, which finetune.py wrote (--run)"
    record = records.read_typed(folder / "run.json", types.RunRecord, "run record", hint)
    output = Path(args.output) if args.output else folder / NAME
    files.make_folder(output.parent)
    splits = read_splits_report(args.data_dir, record)
    parts, evaluation = read_evaluation(folder)
    sources = packet.Sources(
        record=record,
        adapter_files=hash_adapter(folder, record),
        splits=splits,
        test_sha256=None if splits is None else splits["outputs"].get("test.jsonl"),
        parts=parts,
        evaluation=evaluation,
    )
    page = packet.build_packet(sources)
    files.write_text(output, [page])
    missing = page.count(packet.NOT_RECORDED) - 1  # which the page itself explains once
    print(
        f"wrote {output}; {missing} items are not recorded; fill in the data statement at its end"
    )


if __name__ == "__main__":
    errors.run_script(main)
