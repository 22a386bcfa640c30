"""JSON files read: objects come as lines of cells. No torch."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from stance.common import errors, files, formatting
from stance.corpus import exports, workbook_reader

# Keys of UIMA CAS JSON, which INCEpTION exports.
CAS_KEYS = (b'"%TYPES"', b'"%FEATURE_STRUCTURES"')


def open_json(path: str | Path) -> Iterator[tuple[str, workbook_reader.Lines]]:
    """Yield the one (location, lines) of a JSON file: all keys as header, then the objects.

    It holds an object a line (JSON Lines; blank lines don't count), or one array of objects. The
    header has the row number 0; an object that of its line, or of its place in the array.
    """
    keys = {}  # in the order in which they occur first
    for _, row in iterate_objects(path):
        keys.update(dict.fromkeys(row))
    header = list(keys)
    rows = ((number, [row.get(key) for key in header]) for number, row in iterate_objects(path))
    yield str(path), itertools.chain([(0, header)], rows)


def iterate_objects(path: str | Path) -> Iterator[tuple[int, dict]]:
    """Yield (number, object) of a JSON file; fail with the line or the object that is wrong.

    A task of Label Studio gives an object for each of its annotations.
    """
    with files.open_file(path) as file:
        start = file.read(1000).lstrip(b"\xef\xbb\xbf \t\r\n")
    if any(key in start for key in CAS_KEYS):
        errors.fail(f"{path} is UIMA CAS JSON, as INCEpTION exports it: {exports.INCEPTION_HINT}")
    if not start.startswith(b"["):
        yield from files.iterate_numbered_jsonl(path, (), "give a file with one JSON object a line")
        return
    hint = "give a JSON array of objects, or a file with one JSON object a line"
    objects = files.read_json(path, hint)
    if not objects:
        errors.fail(f"{path} is a JSON array without objects: {hint}")
    count = 0  # rows so far: an annotation of Label Studio is one of its own
    for number, row in enumerate(objects, start=1):
        if not isinstance(row, dict):
            errors.fail(f"{path} is a JSON array, and its item {number} is no object: {hint}")
        if is_task(row):
            for flat_row in flatten_task(path, number, row):
                count += 1
                yield count, flat_row
        else:
            count += 1
            yield count, row


def is_task(row: dict) -> bool:
    """Return whether an object is a task of Label Studio with its annotations (export "JSON")."""
    annotations = row.get("annotations")
    if not isinstance(row.get("data"), dict) or not isinstance(annotations, list):
        return False
    return all(isinstance(one, dict) and is_list_of_dicts(one.get("result")) for one in annotations)


def is_list_of_dicts(value: object) -> bool:
    """Return whether a value of JSON is an array of objects, or an empty one."""
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)


def flatten_task(path: str | Path, number: int, task: dict) -> Iterator[dict]:
    """Yield a flat object for each annotation of a task of Label Studio, as its JSON-MIN has them.

    Its keys are those of the task's data, the names of the controls that were answered, id,
    annotation_id and annotator. Annotations that were skipped do not count; a task without any
    annotation gives one object without answers.
    """
    inputs = task["data"]
    annotations = task["annotations"]
    if not annotations:
        yield {**inputs, "id": task.get("id")}
    for annotation in annotations:
        if annotation.get("was_cancelled"):
            continue
        answers = {}  # of each control
        for result in annotation["result"]:
            if isinstance(result.get("from_name"), str):  # a relation of two results has none
                answers.setdefault(result["from_name"], []).extend(list_answers(result))
        clashing = [name for name in answers if name in inputs]
        if clashing:
            problem = f"a control and the data are both called {formatting.quote(clashing[0])}"
            errors.fail(f"{path}, item {number}: {problem}: rename one of them in Label Studio")
        flat = {**inputs, "id": task.get("id")}
        for name, values in answers.items():
            flat[name] = values[0] if len(values) == 1 else values
        annotator = annotation.get("completed_by")
        if isinstance(annotator, dict):
            annotator = annotator.get("email", annotator.get("id"))
        yield {**flat, "annotation_id": annotation.get("id"), "annotator": annotator}


def list_answers(result: dict) -> list:
    """Return what one result of Label Studio holds: choices or texts, else its whole value."""
    value = result.get("value")
    if not isinstance(value, dict):
        return [value]
    key = "text" if result.get("type") == "textarea" else result.get("type")
    chosen = value.get(str(key))
    return chosen if isinstance(chosen, list) else [value if chosen is None else chosen]
