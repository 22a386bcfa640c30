"""Where the files of a run folder lie: what holds texts of the corpus apart from all else.

Sentences, and what tells which they were, lie in the folder texts/ of the run folder. What lies
beside that folder can be published without the corpus. Earlier versions kept everything beside the
adapter; reading finds both.
"""

from collections.abc import Iterable
from pathlib import Path

from stance.common import errors, files

# ---------------------------------------------------------------- settings
TEXTS = "texts"  # folder of a run folder for what holds texts of the corpus
RECORDS = "evaluation.jsonl"  # test rows with their predictions
VALIDATION_RECORDS = "validation.jsonl"  # the same of the validation split
ROBUSTNESS_RECORDS = "robustness.jsonl"  # test rows asked otherwise
ERRORS = "errors.xlsx"  # rows that some model has wrong
REPORT_PAGE = "report.md"  # the report, with examples
SENTENCES = "train_sentences.txt"  # hashes of the sentences of a training
NUMBERS = "evaluation.json"  # all numbers of an evaluation; beside texts/, names topics alone
# --------------------------------------------------------------------------

README = """\
# Texts of the corpus

These files hold sentences of your corpus with the answers of the models, and `train_sentences.txt` hashes of the
sentences that the adapter was trained on: who has a sentence can tell from them whether it is among those. Publish them
only if you may publish the corpus. The folder above holds no sentence: adapter, `run.json`, `README.md`, numbers (by
topic) and pictures can be passed on without this one.
"""


def place_text(folder: str | Path, name: str) -> Path:
    """Return where a file with texts goes in a run folder, whose folder for them is made."""
    texts = Path(folder) / TEXTS
    texts.mkdir(parents=True, exist_ok=True)
    readme = texts / "README.md"
    if not readme.exists():
        files.write_text(readme, [README])
    return texts / name


def find_text(folder: str | Path, name: str) -> Path:
    """Return where a file with texts is in a run folder: in texts/, or where earlier versions wrote
    it.

    Of a file that is nowhere, where it should be.
    """
    place = Path(folder) / TEXTS / name
    old_place = Path(folder) / name
    return old_place if old_place.is_file() and not place.is_file() else place


def find_folder(path: str | Path) -> Path:
    """Return the run folder of a file with texts, whether it lies in texts/ or beside the rest."""
    folder = Path(path).parent
    is_apart = folder.name == TEXTS and not (folder / NUMBERS).is_file()
    return folder.parent if is_apart else folder


def find_records(given: str | Path) -> Path:
    """Return the evaluation.jsonl that a user means: its path, the old one too, or its folder.

    Fails if there is neither a file nor a folder of that name, or the file is of another kind.
    """
    given = Path(given)
    if given.is_dir():
        return find_text(given, RECORDS)
    if given.suffix != Path(RECORDS).suffix:
        what = "is no .jsonl file" if given.exists() else "not found"
        errors.fail(f"{given} {what}: give the folder that evaluate.py wrote its results to")
    return given if given.exists() else find_text(given.parent, given.name)


def remove_replaced(folder: str | Path, names: Iterable[str]) -> None:
    """Delete files that earlier versions wrote beside the rest, as new ones take their place."""
    for name in names:
        (Path(folder) / name).unlink(missing_ok=True)
