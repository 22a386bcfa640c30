"""JSON of annotation tools: doccano's lists, Label Studio's tasks, INCEpTION's structures."""

import json

import pytest
from stopping import stop_message

from stance.corpus import annotations, json_reader, tables

CHOICE = {"from_name": "stance", "to_name": "text", "type": "choices"}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def task(number, *annotations_of_task, **data):
    return {"id": number, "data": data, "annotations": list(annotations_of_task), "predictions": []}


def answer(*choices, **keys):
    results = [{**CHOICE, "id": "a", "value": {"choices": list(choices)}}] if choices else []
    return {"id": 7, "completed_by": 2, "was_cancelled": False, "result": results, **keys}


def test_a_label_of_doccano_is_a_list_of_one(tmp_path, capsys):
    lines = [
        {"id": 1, "text": "Yes.", "topic": "Guns", "label": ["pro"], "Comments": []},
        {"id": 2, "text": "No.", "topic": "Guns", "label": ["con"], "Comments": []},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    rows = annotations.read_corpus(path)
    assert [(row["text"], row["label"]) for row in rows] == [("Yes.", "pro"), ("No.", "con")]
    lines += [{**lines[0], "label": ["con", "pro"]}, {**lines[0], "label": []}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    message = stop_message(capsys, annotations.read_corpus, path)
    assert "stance is a list or an object in row 3" in message
    assert "stance is empty in row 4" in message


def test_a_task_of_label_studio_gives_a_row_for_each_annotation(tmp_path):
    comment = {"from_name": "why", "to_name": "text", "type": "textarea", "value": {"text": ["x"]}}
    both = answer("Pro", completed_by={"id": 3, "email": "a@b.c"})
    both["result"].append(comment)
    tasks = [
        task(11, both, answer("Contra"), text="Yes.", topic="Guns"),
        task(12, answer("Neutral", was_cancelled=True), text="Skipped.", topic="Guns"),
        task(13, text="Not annotated.", topic="Guns"),
    ]
    path = write(tmp_path / "a.json", tasks)
    base = {"text": "Yes.", "topic": "Guns", "id": 11}
    assert list(json_reader.iterate_objects(path)) == [
        (1, {**base, "stance": "Pro", "why": "x", "annotation_id": 7, "annotator": "a@b.c"}),
        (2, {**base, "stance": "Contra", "annotation_id": 7, "annotator": 2}),
        (3, {"text": "Not annotated.", "topic": "Guns", "id": 13}),
    ]


def test_a_corpus_of_label_studio_is_read(tmp_path, capsys):
    tasks = [task(1, answer("Pro"), text="Yes.", claim="Guns")]
    path = write(tmp_path / "a.json", tasks)
    [row] = annotations.read_corpus(path)
    assert (row["topic"], row["text"], row["label"], row["row"]) == ("Guns", "Yes.", "pro", 1)
    path = write(
        tmp_path / "a.json", [*tasks, task(2, answer("Pro", "Contra"), text="x", claim="G")]
    )
    message = stop_message(capsys, annotations.read_corpus, path)
    assert "stance is a list or an object in row 2" in message


@pytest.mark.parametrize(
    "annotation",
    ["x", {}, {"result": None}, {"result": ["x"]}],
)
def test_other_objects_with_such_keys_are_left_as_they_are(tmp_path, annotation):
    row = {"data": {"text": "x"}, "annotations": [annotation]}
    assert list(json_reader.iterate_objects(write(tmp_path / "a.json", [row]))) == [(1, row)]


@pytest.mark.parametrize("value", [None, [], {}, {"choices": "Pro"}, {"choices": []}])
def test_an_odd_answer_does_no_harm(tmp_path, value):
    odd = answer()
    odd["result"] = [{**CHOICE, "value": value}, {"type": "relation"}, {"from_name": ["x"]}]
    path = write(tmp_path / "a.json", [task(1, odd, text="x", topic="G")])
    [(_, row)] = json_reader.iterate_objects(path)
    assert row["text"] == "x" and "stance" in row


def test_json_min_of_label_studio_is_flat(tmp_path):
    flat = [{"text": "Yes.", "claim": "Guns", "id": 1, "stance": "Pro", "annotator": 1}]
    [row] = annotations.read_corpus(write(tmp_path / "a.json", flat))
    assert (row["topic"], row["text"], row["label"]) == ("Guns", "Yes.", "pro")


def test_a_control_called_as_the_data_does_not_replace_it(tmp_path, capsys):
    path = write(tmp_path / "a.json", [task(1, answer("Pro"), stance="Yes.", topic="G")])
    message = stop_message(capsys, annotations.read_corpus, path)
    assert 'item 1: a control and the data are both called "stance"' in message


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_structures_of_inception_are_said_to_be_no_table(tmp_path, capsys, name):
    path = write(tmp_path / name, '{\n "%TYPES" : { },\n "%FEATURE_STRUCTURES" : [ ]}')
    message = stop_message(capsys, annotations.read_corpus, path)
    assert "is UIMA CAS JSON, as INCEpTION exports it: write topic, sentence" in message


def test_webanno_tsv_is_said_to_be_no_table(tmp_path, capsys):
    content = "#FORMAT=WebAnno TSV 3.3\n#T_SP=webanno.custom.Stance|value\n\n\n#Text=It is so.\n"
    path = write(tmp_path / "a.tsv", content + "1-1\t0-2\tIt\tpro[1]\t\n")
    message = stop_message(capsys, tables.open_table, path, {"text": ("text",)})
    assert "a.tsv is WebAnno TSV, as INCEpTION exports it" in message
