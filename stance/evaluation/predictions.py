"""The records that evaluate.py writes, one line an answered row, made and read back. No torch.

Files: evaluation.jsonl (test split), validation.jsonl (validation split), robustness.jsonl (test rows asked otherwise).
"""

from pathlib import Path

import prompts
from stance.common import errors, files

RECORD_KEYS = (
    "id",
    "topic",
    "text",
    "label",
    "models",
)  # of a line; models: {name: {"prediction", ...}}
SIDE_RECORDS = ("validation", "robustness")  # .jsonl files that belong to an evaluation.jsonl
SAME_IN_RUNS = {  # keys of evaluation.json in which runs to be compared agree, as messages call them
    "test_sha256": "the test split",
    "mode": "the mode",
    "prompt_version": "the prompt",
}


def make_records(rows, answers, **more):
    """Return records of rows; answers: {model: one answer a row}, more: further keys."""
    return [
        {
            **{key: row[key] for key in RECORD_KEYS[:-1]},
            "models": {name: answers[name][i] for name in answers},
            **more,
        }
        for i, row in enumerate(rows)
    ]


def collect_parts(questions, answers, baselines):
    """Return {"evaluation", "validation", "robustness": records}; robustness holds the texts as they were asked.

    questions: {part: (rows, variant)}, where a part is one of these or the name of a variant; answers: {part: {model:
    one answer a row}}; baselines: {baseline: one label a test row}.
    """
    parts = {"evaluation": [], "validation": [], "robustness": []}
    for part, (rows, variant) in questions.items():
        if part in parts:
            parts[part] = make_records(rows, answers[part])
        else:
            asked = zip(rows, variant.pairs, strict=True)
            asked = [{**row, "topic": topic, "text": text} for row, (topic, text) in asked]
            parts["robustness"] += make_records(
                asked, answers[part], variant=part, swaps=variant.swaps
            )
    for i, row in enumerate(parts["evaluation"] if baselines else []):
        row["baselines"] = {name: labels[i] for name, labels in baselines.items()}
    return parts


def write_parts(folder, parts, run):
    """Write the records, put the checksums of side records into run, and return the names of the files."""
    names = {name: f"{name}.jsonl" for name, rows in parts.items() if rows}
    for name, file in names.items():
        files.write_jsonl(folder / file, parts[name])
    run["records"] = {
        names[name]: files.hash_file(folder / names[name]) for name in SIDE_RECORDS if name in names
    }
    return list(names.values())


def read_records(path):
    """Return the records of a file; stop if it is no file of evaluate.py."""
    table = files.read_jsonl(path, RECORD_KEYS, "give an evaluation.jsonl that evaluate.py wrote")
    for number, row in enumerate(table, start=1):
        if "floors" in row:  # the name in files of earlier versions
            row["baselines"] = row.pop("floors")
        models = row["models"] if isinstance(row["models"], dict) else {}
        if not models or models.keys() != dict(table[0]["models"]).keys():
            errors.fail(f"{path}, line {number}: not the models of line 1: evaluate again")
        if row["label"] not in prompts.LABELS or not all(map(is_answer, models.values())):
            errors.fail(
                f"{path}, line {number}: labels must be {', '.join(prompts.LABELS)}: evaluate again"
            )
    return table


def is_answer(value):
    """Whether a value is an answer of evaluate.py: a prediction, with the probabilities of all labels or without."""
    if not isinstance(value, dict) or value.get("prediction", "") not in (*prompts.LABELS, None):
        return False
    return set(value.get("probabilities", prompts.LABELS)) == set(prompts.LABELS)


def read_parts(path):
    """Return ({"evaluation", "validation", "robustness": records}, the run as evaluation.json beside it has it).

    Side records count only if evaluation.json names their checksum: a folder may hold those of another evaluation.
    """
    path = Path(path)
    if path.stem in SIDE_RECORDS:
        errors.fail(
            f"{path} does not hold the answers of the test split: give {path.with_name('evaluation.jsonl')}"
        )
    parts, run = {"evaluation": read_records(path)}, {}
    described = path.with_name("evaluation.json")
    if described.is_file():
        run = files.read_json(described, "delete it")
    else:
        print(
            f"note: {described} not found: the report cannot say what answered, nor whether it was the demo model"
        )
    if not isinstance(run, dict):
        errors.fail(f"{described} is no record of evaluate.py: delete it")
    for name in SIDE_RECORDS:
        side, expected = (
            path.with_name(f"{name}.jsonl"),
            run.get("records", {}).get(f"{name}.jsonl"),
        )
        fits = expected and side.is_file() and files.hash_file(side) == expected
        if expected and not fits:
            print(f"note: {side} is missing or was changed: its tables are left out")
        parts[name] = read_records(side) if fits else []
    known = {row["id"] for row in parts["evaluation"]}
    if not known.issuperset(row["id"] for row in parts["robustness"]):
        print(f"note: {path} lacks rows of robustness.jsonl: its tables are left out")
        parts["robustness"] = []
    return parts, run


def read_runs(folders):
    """Return ({folder: records}, the first evaluation.json); stop unless all have one test split, mode and prompt."""
    found, first = {}, None
    for folder in folders:
        if folder in found:
            errors.fail(f"--runs: {folder} is named twice")
        run = files.read_json(
            Path(folder) / "evaluation.json", "give folders that evaluate.py wrote"
        )
        first = first or run
        for key, name in SAME_IN_RUNS.items():
            if not isinstance(run, dict) or run.get(key) is None or run[key] != first[key]:
                errors.fail(
                    f"--runs: {folders[0]} and {folder} differ in {name}: evaluate both again with the same"
                )
        found[folder] = read_records(Path(folder) / "evaluation.jsonl")
        rows, others = (
            [(row["id"], row["label"]) for row in found[name]] for name in (folder, folders[0])
        )
        if rows != others:
            errors.fail(f"--runs: {folders[0]} and {folder} hold other rows: evaluate both again")
    return found, first
