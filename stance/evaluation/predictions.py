"""The records that evaluate.py writes, one line a row with its predictions, made and read back.

Files, in texts/ of the folder of results: evaluation.jsonl (test split), validation.jsonl
(validation split), robustness.jsonl (test rows asked otherwise). No torch.
"""

from pathlib import Path
from typing import Any

import prompts
from stance.common import errors, files, records, run_files
from stance.common.types import EvaluationRecord, EvaluationRun, Example, Prediction
from stance.corpus import splitting
from stance.evaluation import prompt_variants

ROW_KEYS = ("id", "topic", "text", "label")  # of a record, as the split has them
RECORD_KEYS = (*ROW_KEYS, "models")  # that every record has; models: {name: {"prediction", ...}}
FILE_OF_PART = {
    "evaluation": run_files.RECORDS,
    "validation": run_files.VALIDATION_RECORDS,
    "robustness": run_files.ROBUSTNESS_RECORDS,
}
SIDE_RECORDS = ("validation", "robustness")  # parts that belong to an evaluation.jsonl
# Keys of evaluation.json in which runs to be compared agree, as messages call them.
SAME_IN_RUNS = {
    "test_sha256": "the test split",
    "mode": "the mode",
    "prompt_version": "the prompt",
}

Parts = dict[str, list[EvaluationRecord]]  # by "evaluation", "validation", "robustness"
Questions = dict[str, tuple[list[Example], prompt_variants.Variant]]  # by part or variant

RUN_KIND = "record of evaluate.py"  # as messages call an evaluation.json


def make_records(
    rows: list[Example], predicted: dict[str, list[Prediction]], **more: Any
) -> list[EvaluationRecord]:
    """Return records of rows; predicted: {model: one prediction a row}, more: further keys."""
    made = []
    for index, row in enumerate(rows):
        record = {key: row[key] for key in (*ROW_KEYS, *splitting.MORE_KEYS) if key in row}
        record["models"] = {name: by_row[index] for name, by_row in predicted.items()}
        made.append({**record, **more})
    return made


def collect_parts(
    questions: Questions,
    predicted: dict[str, dict[str, list[Prediction]]],
    baselines: dict[str, list[str]],
) -> Parts:
    """Return {"evaluation", "validation", "robustness": records}.

    The records of robustness hold the texts as they were asked.

    questions: {part: (rows, variant)}, where a part is one of these or the name of a variant.
    predicted: {part: {model: one prediction a row}}.
    baselines: {baseline: one label a test row}; empty if there are none.
    """
    parts = {"evaluation": [], "validation": [], "robustness": []}
    for part, (rows, variant) in questions.items():
        if part in parts:
            parts[part] = make_records(rows, predicted[part])
        else:
            asked = [
                {**row, "topic": topic, "text": text}
                for row, (topic, text) in zip(rows, variant.pairs, strict=True)
            ]
            parts["robustness"] += make_records(
                asked, predicted[part], variant=part, swaps=variant.swaps
            )
    if baselines:
        for index, record in enumerate(parts["evaluation"]):
            record["baselines"] = {name: labels[index] for name, labels in baselines.items()}
    return parts


def write_parts(folder: Path, parts: Parts, run: dict) -> list[str]:
    """Write the records of parts that have any into a folder of results; return their paths in it.

    Puts {name: SHA-256} of the side records into run, as its "records".
    """
    hashes = {}
    for part, rows in parts.items():
        if rows:
            name = FILE_OF_PART[part]
            hashes[name] = files.write_jsonl(run_files.place_text(folder, name), rows)
    written = [f"{run_files.TEXTS}/{name}" for name in hashes]
    run["evaluation_sha256"] = hashes.pop(run_files.RECORDS)
    run["records"] = hashes
    run_files.remove_replaced(folder, FILE_OF_PART.values())
    return written


def read_records(path: str | Path) -> list[EvaluationRecord]:
    """Return the records of a file; fail if it is no file of evaluate.py."""
    hint = "give an evaluation.jsonl that evaluate.py wrote"
    table = []
    line_of_row = {}
    for number, record in files.iterate_numbered_jsonl(path, RECORD_KEYS, hint):
        if "floors" in record:  # the name in files of earlier versions
            record["baselines"] = record.pop("floors")
        table.append(record)
        problem = find_problem(record, table[0])
        if problem:
            errors.fail(f"{path}, line {number}: {problem}: evaluate again")
        row = (record["id"], record.get("variant"))
        if row in line_of_row:
            problem = f"the id {record['id']} of line {line_of_row[row]} again"
            errors.fail(f"{path}, line {number}: {problem}: evaluate again")
        line_of_row[row] = number
    return table


def find_problem(record: dict, first: dict) -> str | None:
    """Return what is wrong with a line of records; None if it is one that evaluate.py writes.

    first: the first line of its file, which has the same models and baselines.
    """
    models = record["models"]
    if not isinstance(models, dict) or not models or models.keys() != first["models"].keys():
        return "not the models of the first line"
    if not all(isinstance(record[key], str) for key in ("topic", "text")):
        return "topic and text must be texts"
    if not all(isinstance(record.get(key), str | int | None) for key in ("id", "variant")):
        return "its id or variant is no name"
    problem = find_row_problem(record)
    if problem:
        return problem
    labels = ", ".join(prompts.LABELS)
    if record["label"] not in prompts.LABELS:
        return f"labels must be {labels}"
    for name, prediction in models.items():
        if not is_prediction(prediction):
            return (
                f"no prediction of {name}: labels must be {labels}, and their probabilities "
                "numbers from 0 to 1 that add up to 1, the highest that of the label"
            )
    scored = has_probabilities(record)
    if scored is None or scored != has_probabilities(first):
        return "not all lines and models have probabilities"
    if not is_baselines(record.get("baselines", {}), first.get("baselines", {})):
        return f"not the baselines of the first line, or their labels are not {labels}"
    return records.describe_problem(record, EvaluationRecord)


def find_row_problem(record: dict) -> str | None:
    """Return what is wrong with what a record says about its row in the source; None if nothing.

    These keys may all be missing: records of earlier versions have none of them.
    """
    source = record.get("source_id", "")
    names = source if isinstance(source, list) else [source]
    if not all(isinstance(name, str) for name in names):
        return "source_id must be a text or a list of texts"
    agreement = record.get("agreement", 1)
    if type(agreement) not in (int, float) or not 0 < agreement <= 1:
        return "agreement must be a share of votes, above 0 and up to 1"
    if not isinstance(record.get("leaked", False), bool):
        return "leaked must be true or false"
    return None


def is_prediction(value: Any) -> bool:
    """Whether a value is a prediction of evaluate.py.

    With probabilities its label is the most probable of prompts.LABELS, without them it may also be
    None.
    """
    if not isinstance(value, dict) or "prediction" not in value:
        return False
    if "probabilities" not in value:
        return value["prediction"] in (*prompts.LABELS, None)
    probabilities = value["probabilities"]
    if value["prediction"] not in prompts.LABELS or not is_distribution(probabilities):
        return False
    # Rounded alike, so that the answer still has the highest one.
    return probabilities[value["prediction"]] == max(probabilities.values())


def is_distribution(value: Any) -> bool:
    """Whether a value is {label: probability} of all labels, which add up to 1."""
    if not isinstance(value, dict) or set(value) != set(prompts.LABELS):
        return False
    for probability in value.values():
        if type(probability) not in (int, float) or not 0 <= probability <= 1:
            return False
    return abs(sum(value.values()) - 1) < 1e-3  # records are rounded to 6 significant digits


def is_baselines(value: Any, first: dict) -> bool:
    """Whether a value is {baseline: label}, with the baselines of the first line."""
    if not isinstance(value, dict) or value.keys() != first.keys():
        return False
    return all(label in prompts.LABELS for label in value.values())


def has_probabilities(record: dict) -> bool | None:
    """Whether the predictions of a record have probabilities; None if only some have them."""
    found = {"probabilities" in prediction for prediction in record["models"].values()}
    return found.pop() if len(found) == 1 else None


def read_parts(path: str | Path) -> tuple[Parts, dict]:
    """Return (records by part, the run that evaluation.json describes) of an earlier evaluation.

    path: its evaluation.jsonl. The side records lie beside it, evaluation.json in the folder of
    results (run_files.find_folder).
    Side records count only if evaluation.json names their checksum: a folder may hold those of
    another evaluation. Without evaluation.json the run is empty. Prints a note on what is missing;
    fails on files that are not evaluate.py's.
    """
    path = Path(path)
    if path.stem in SIDE_RECORDS:
        given = path.with_name(run_files.RECORDS)
        errors.fail(f"{path} does not hold the answers of the test split: give {given}")
    parts = {"evaluation": read_records(path)}
    run = _read_run(run_files.find_folder(path) / run_files.NUMBERS)
    check_mode(path, parts["evaluation"], run)
    run["changed_records"] = is_changed(path, run)
    if run["changed_records"]:
        rows = len(parts["evaluation"])
        print(
            f"note: {path} was changed since evaluate.py wrote it: its {rows} rows count as they are"
        )
    hashes = run.get("records") or {}
    for part in SIDE_RECORDS:
        side = path.with_name(FILE_OF_PART[part])
        expected = hashes.get(side.name)
        fits = expected and side.is_file() and files.hash_file(side) == expected
        if expected and not fits:
            print(f"note: {side} is missing or was changed: its tables are left out")
        parts[part] = read_side_records(side, parts["evaluation"][0]) if fits else []
    label_of_id = {record["id"]: record["label"] for record in parts["evaluation"]}
    known = set(label_of_id)
    if not known.issuperset(record["id"] for record in parts["robustness"]):
        print(f"note: {path} lacks rows of robustness.jsonl: its tables are left out")
        parts["robustness"] = []
    for record in parts["robustness"]:
        if record["label"] != label_of_id[record["id"]]:
            problem = f"the gold label of row {record['id']} is {label_of_id[record['id']]}"
            other = f"{record['label']} in robustness.jsonl"
            errors.fail(f"{path}: {problem}, but {other}: change it in both, or evaluate again")
    return parts, run


def is_changed(path: Path, run: dict) -> bool:
    """Whether an evaluation.jsonl is not the file that its evaluation.json tells of."""
    return run.get("evaluation_sha256") not in (None, files.hash_file(path))


def describe_change(run: dict) -> str:
    """Return a sentence if the records were changed after they were written; else ""."""
    if not run.get("changed_records"):
        return ""
    return "The records were changed after evaluate.py wrote them (rows, labels or answers)."


def read_side_records(path: Path, first: EvaluationRecord) -> list[EvaluationRecord]:
    """Return the records of validation.jsonl or robustness.jsonl, which only --mode score writes.

    Fails unless they go with the first record of the evaluation.jsonl beside them.
    """
    table = read_records(path)
    if table[0]["models"].keys() != first["models"].keys():
        errors.fail(f"{path} has not the models of evaluation.jsonl: evaluate again")
    if not has_probabilities(table[0]) or not has_probabilities(first):
        errors.fail(f"{path} or evaluation.jsonl has no probabilities: evaluate again")
    if path.stem == "robustness":
        for record in table:
            named = isinstance(record.get("variant"), str)
            if not named or not isinstance(record.get("swaps"), bool):
                errors.fail(f"{path}: row {record['id']} is of no prompt variant: evaluate again")
    return table


def check_mode(path: Path, table: list[EvaluationRecord], run: dict) -> None:
    """Fail if a row has no label though evaluation.json says --mode score, where all have one."""
    if run.get("mode") != "score":
        return
    for record in table:
        for name, prediction in record["models"].items():
            if prediction["prediction"] is None:
                problem = f"{name} has no label for the row {record['id']}, impossible with score"
                errors.fail(f"{path}: {problem}: evaluate again")


def _read_run(path: Path) -> dict:
    """Return an evaluation.json; without one print a note and return an empty dict."""
    if not path.is_file():
        print(
            f"note: {path} not found: the report cannot say what answered, nor whether it was the "
            "demo model"
        )
        return {}
    return records.read_typed(path, EvaluationRun, RUN_KIND, "delete it")


def read_runs(folders: list[str]) -> tuple[dict[str, list[EvaluationRecord]], dict]:
    """Return ({folder: records of its test split}, the evaluation.json of the first folder).

    Fails unless all folders have the same rows of one test split, the same mode and prompt.
    """
    found = {}
    first_run = None
    for folder in folders:
        if any(Path(folder).resolve() == Path(other).resolve() for other in found):
            errors.fail(f"--runs: {folder} is named twice")
        hint = "give folders that evaluate.py wrote"
        numbers = Path(folder) / run_files.NUMBERS
        run = records.read_typed(numbers, EvaluationRun, RUN_KIND, hint)
        if first_run is None:
            first_run = run
        for key, name in SAME_IN_RUNS.items():
            if run.get(key) is None or run[key] != first_run[key]:
                errors.fail(
                    f"--runs: {folders[0]} and {folder} differ in {name}: evaluate both again with "
                    "the same"
                )
        path = run_files.find_text(folder, run_files.RECORDS)
        found[folder] = read_records(path)
        check_mode(path, found[folder], run)
        if is_changed(path, run):
            problem = f"{path} was changed since evaluate.py wrote it"
            errors.fail(f"--runs: {problem}: evaluate again, or restore the file")
        if _list_rows(found[folder]) != _list_rows(found[folders[0]]):
            errors.fail(f"--runs: {folders[0]} and {folder} hold other rows: evaluate both again")
    return found, first_run


def _list_rows(table: list[EvaluationRecord]) -> list[tuple[str, str, bool]]:
    """Return what must be the same in records of one test split: (id, gold label, whether it is
    leaked) of each row."""
    return [(record["id"], record["label"], record.get("leaked", False)) for record in table]
