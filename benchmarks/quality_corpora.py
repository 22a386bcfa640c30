"""Make the splits of benchmarks/quality.py from two public corpora, as their publishers distribute them.

Reads the folder of the UKP Sentential Argument Mining corpus (Stab et al., EMNLP 2018; annotations CC BY-NC; a
tab file a topic) and that of ArgKP-2021 (Bar-Haim et al.; Apache 2.0; arguments_*.csv).
Writes a folder of splits for each corpus to --output-dir, by prepare_data.py with seed 0: ukp (as many rows of each
topic and stance) and argkp; for each topic of UKP ukp-without-TOPIC, where the test split is that topic; ukp-natural,
whose labels are as frequent as in UKP; and ukp-rest, the train and validation rows of ukp with all rows that ukp has
not as test split. None of it may be published.

    PYTHONPATH=. python benchmarks/quality_corpora.py --ukp path/to/ukp --argkp path/to/argkp
"""

import argparse
import csv
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import prepare_data
from stance.common import errors, files, flags
from stance.corpus import cleaning, splitting

# ---------------------------------------------------------------- settings
OUTPUT_DIR = "outputs/quality/data"  # folder of the folders of splits
ROWS = 5000  # of a corpus, before prepare_data.py splits it 80/10/10
UKP_ROWS_PER_GROUP = 209  # of a topic and stance, which balances UKP
DRAW_SEED = 0  # of the rows
# --------------------------------------------------------------------------

UKP_STANCES = {"Argument_for": "Pro", "Argument_against": "Contra", "NoArgument": "Neutral"}
ARGKP_STANCES = {"1": "Pro", "-1": "Contra"}


class Row(NamedTuple):
    """A row of a corpus, as prepare_data.py reads it."""

    topic: str
    text: str
    stance: str


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument("--ukp", help="folder of UKP's .tsv files (default: without UKP)")
    parser.add_argument("--argkp", help="folder of ArgKP's .csv files (default: without ArgKP)")
    parser.add_argument(
        "--output-dir", default=OUTPUT_DIR, help="folder of the folders of splits (%(default)s)"
    )
    args = parser.parse_args(argv)
    if not args.ukp and not args.argkp:
        errors.fail("no corpus is named: give --ukp or --argkp")
    return args


def read_ukp(folder: str) -> list[Row]:
    """Return the rows of UKP's tab files, which quote nothing, each (topic, text) once."""
    rows = []
    for path in list_corpus_files(folder, "*.tsv"):
        with open(path, encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                rows.append(Row(line["topic"], line["sentence"], UKP_STANCES[line["annotation"]]))
    return drop_repeated(rows)


def read_argkp(folder: str) -> list[Row]:
    """Return the arguments of ArgKP's files, each (topic, text) once."""
    rows = []
    for path in list_corpus_files(folder, "arguments_*.csv"):
        with open(path, encoding="utf-8-sig", newline="") as file:
            for line in csv.DictReader(file):
                rows.append(Row(line["topic"], line["argument"], ARGKP_STANCES[line["stance"]]))
    return drop_repeated(rows)


def list_corpus_files(folder: str, pattern: str) -> list[Path]:
    """Return the files of a corpus by name; fail if there are none."""
    paths = sorted(Path(folder).glob(pattern))
    if not paths:
        errors.fail(f"{folder} holds no {pattern}: download the corpus there")
    return paths


def drop_repeated(rows: list[Row]) -> list[Row]:
    """Return rows without those whose topic and text, in small letters, came before."""
    first = {}
    for row in rows:
        first.setdefault((row.topic, row.text.casefold()), row)
    return list(first.values())


def draw_balanced(rows: list[Row]) -> list[Row]:
    """Return ROWS rows with about as many of each topic and stance."""
    rng = random.Random(DRAW_SEED)
    groups = {}
    for row in rows:
        groups.setdefault((row.topic, row.stance), []).append(row)
    drawn = []
    for key in sorted(groups):
        group = groups[key]
        rng.shuffle(group)
        drawn += group[:UKP_ROWS_PER_GROUP]
    rng.shuffle(drawn)
    return drawn[:ROWS]


def draw_as_they_are(rows: list[Row]) -> list[Row]:
    """Return ROWS rows drawn at random."""
    shuffled = sorted(rows)
    random.Random(DRAW_SEED).shuffle(shuffled)
    return shuffled[:ROWS]


def write_corpus(rows: list[Row], path: Path) -> None:
    """Write rows as the .csv file that prepare_data.py reads."""
    files.make_folder(path.parent)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)


def split_corpus(path: Path, folder: Path, topic: str | None = None) -> None:
    """Write the splits of a .csv file by prepare_data.py; topic: the one that is held out."""
    held_out = [] if topic is None else ["--hold-out-topic", topic]
    prepare_data.main(["--corpus", str(path), "--output-dir", str(folder), *held_out])


def split_rest(rows: list[Row], used: list[Row], home: Path) -> None:
    """Write ukp-rest: the train and validation rows of ukp, and all rows but those used to test."""
    known = {(row.topic, row.text.casefold()) for row in used}
    rest = [row for row in rows if (row.topic, row.text.casefold()) not in known]
    write_corpus(rest, home / "ukp-rest.csv")
    folder = home / "ukp-rest"
    split_corpus(home / "ukp-rest.csv", folder)
    lines = []
    for name in splitting.SPLITS:
        lines += (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    files.write_text(folder / "test.jsonl", lines)
    for name in ("train.jsonl", "val.jsonl"):
        shutil.copyfile(home / "ukp" / name, folder / name)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    home = Path(args.output_dir)
    if args.ukp:
        everything = read_ukp(args.ukp)
        rows = draw_balanced(everything)
        write_corpus(rows, home / "ukp.csv")
        split_corpus(home / "ukp.csv", home / "ukp")
        for topic in sorted({row.topic for row in rows}):
            name = cleaning.normalise_key(topic).replace(" ", "-")
            split_corpus(home / "ukp.csv", home / f"ukp-without-{name}", topic)
        write_corpus(draw_as_they_are(everything), home / "ukp-natural.csv")
        split_corpus(home / "ukp-natural.csv", home / "ukp-natural")
        split_rest(everything, rows, home)
    if args.argkp:
        write_corpus(draw_as_they_are(read_argkp(args.argkp)), home / "argkp.csv")
        split_corpus(home / "argkp.csv", home / "argkp")


if __name__ == "__main__":
    errors.run_script(main)
