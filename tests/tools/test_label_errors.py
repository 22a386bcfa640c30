"""tools/label_errors.py: flipped labels come first, nobody who annotates again sees a label, folds are resumed."""

import re
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from stopping import stop_message

import evaluate
import finetune
import prompts
from stance.common import files
from stance.corpus import splitting
from tools import child_runs, label_errors

SCRIPTS = {"finetune.py": finetune, "evaluate.py": evaluate}


def read_sheet(path, title):
    """The rows of a sheet as dicts."""
    lines = list(openpyxl.load_workbook(path)[title].iter_rows(values_only=True))
    return [dict(zip(lines[0], line)) for line in lines[1:]]


def make_record(number, label, answer, confidence=0.9, **more):
    rest = (1 - confidence) / 2
    probabilities = {name: confidence if name == answer else rest for name in prompts.LABELS}
    prediction = {"prediction": answer, "probabilities": probabilities}
    row = {"id": f"{number:016x}", "topic": "Cars.", "text": f"Sentence {number}.", "label": label}
    return {**row, **more, "models": {"base": prediction, "fine-tuned": prediction}}


def write_evaluation(folder, test, validation=()):
    """A folder of results with these records."""
    hashes = {}
    files.write_jsonl(folder / "texts" / "evaluation.jsonl", test)
    if validation:
        path = folder / "texts" / "validation.jsonl"
        hashes[path.name] = files.write_jsonl(path, validation)
    files.write_json(folder / "evaluation.json", {"mode": "score", "records": hashes})


def make_table(count, wrong, **more):
    """Records that a model has right but for some, whose label is another; numbers of the wrong ones."""
    rng = np.random.default_rng(0)
    table = []
    for number in range(count):
        answer = prompts.LABELS[number % 3]
        label = prompts.LABELS[(number + 1) % 3] if number in wrong else answer
        confidence = round(float(rng.uniform(0.7, 0.95)), 3)
        table.append(
            make_record(number, label, answer, confidence, source_id=f"c.csv:{number + 2}", **more)
        )
    return table  # fmt: skip


@pytest.fixture
def results(tmp_path):
    """A folder of results: two of the 60 test rows and one of the 30 validation rows have a wrong label."""
    validation = make_table(30, {4})
    for record in validation:
        record["id"] = "v" + record["id"][1:]
    write_evaluation(tmp_path / "run", make_table(60, {7, 31}), validation)
    return tmp_path / "run"


def test_rows_of_an_evaluation_are_sorted_by_doubt(results, tmp_path, capsys):
    output = tmp_path / "out" / "doubtful.xlsx"
    label_errors.main(["--run", str(results), "--output", str(output)])
    rows = read_sheet(output, "rows by doubt")
    assert len(rows) == 90
    assert {(row["split"], row["source_id"]) for row in rows[:3]} == {
        ("test", "c.csv:9"),
        ("test", "c.csv:33"),
        ("val", "c.csv:6"),
    }
    assert [row["suspect"] for row in rows] == ["yes"] * 3 + ["no"] * 87
    for row in rows:
        assert row["annotated"] in prompts.LABELS and row["probably"] in prompts.LABELS
        shares = [row[f"p_{label}"] for label in prompts.LABELS]
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        assert (row["doubt"] > 0.5) == (row["annotated"] != row["probably"])
    text = capsys.readouterr().out
    assert "the model agrees with 96.7 % of the 90 labels" in text
    assert "3 of 90 rows are suspects" in text and "don't drop them" in text


def test_the_table_says_first_what_to_do_with_it(results, tmp_path):
    output = tmp_path / "doubtful.xlsx"
    label_errors.main(["--run", str(results), "--output", str(output)])
    book = openpyxl.load_workbook(output)
    assert book.sheetnames == ["read me", "rows by doubt"]
    text = " ".join(cell.value for (cell,) in book["read me"].iter_rows())
    assert "see neither the model's label nor the old one" in text and "doubtful.again.xlsx" in text
    assert "Do not drop suspects silently" in text


def test_whoever_annotates_again_sees_no_label_and_not_which_rows_are_doubted(results, tmp_path):
    output = tmp_path / "doubtful.xlsx"
    label_errors.main(["--run", str(results), "--output", str(output)])
    again = read_sheet(tmp_path / "doubtful.again.xlsx", "annotate again")
    assert set(again[0]) == {"id", "topic", "text", "stance", "source_id"}
    assert len(again) == 6 and not any(row["stance"] for row in again)
    suspects = {row["id"] for row in read_sheet(output, "rows by doubt") if row["suspect"] == "yes"}
    places = [index for index, row in enumerate(again) if row["id"] in suspects]
    assert len(places) == 3 and places != [0, 1, 2]


def test_what_was_annotated_again_is_not_overwritten(results, tmp_path, capsys):
    words = ["--run", str(results), "--output", str(tmp_path / "doubtful.xlsx")]
    label_errors.main(words)
    assert "may hold annotations" in stop_message(capsys, label_errors.main, words)


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--folds", "1"], "--folds 1 is impossible"),
        (["--output", "doubtful.csv"], "must end in .xlsx"),
        (["--data-dir", "nowhere"], "nowhere/train.jsonl not found"),
        (["--run", "nowhere"], "nowhere not found"),
        (["--run", "nowhere", "--folds", "2"], "go without --run, which trains nothing"),
    ],
)
def test_bad_input_is_said_in_one_line(flags, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = stop_message(capsys, label_errors.main, flags)
    assert expected in message and list(tmp_path.iterdir()) == []


def test_too_many_folds_for_the_rows_are_refused(data_dir, tmp_path, capsys):
    words = ["--data-dir", data_dir, "--folds", "40", "--work-dir", str(tmp_path / "work")]
    words += ["--output", str(tmp_path / "o.xlsx")]
    assert "too few for --folds 40" in stop_message(capsys, label_errors.main, words)


def test_an_evaluation_without_probabilities_is_refused(tmp_path, capsys):
    table = make_table(9, {2})
    for record in table:
        for prediction in record["models"].values():
            prediction.pop("probabilities", None)
    write_evaluation(tmp_path / "run", table)
    words = ["--run", str(tmp_path / "run"), "--output", str(tmp_path / "o.xlsx")]
    assert "--mode score" in stop_message(capsys, label_errors.main, words)


def test_one_label_is_nothing_to_doubt(tmp_path, capsys):
    table = [make_record(number, "pro", "pro") for number in range(5)]
    write_evaluation(tmp_path / "run", table)
    words = ["--run", str(tmp_path / "run"), "--output", str(tmp_path / "o.xlsx")]
    assert "one label" in stop_message(capsys, label_errors.main, words)
    assert not (tmp_path / "o.xlsx").exists()


def test_a_model_that_has_learnt_nothing_is_called_so(tmp_path, capsys):
    table = [make_record(number, prompts.LABELS[number % 3], "pro") for number in range(60)]
    write_evaluation(tmp_path / "run", table)
    label_errors.main(["--run", str(tmp_path / "run"), "--output", str(tmp_path / "o.xlsx")])
    text = capsys.readouterr().out
    assert "note: the model agrees with 33.3 % of the 60 labels" in text
    assert "it has not learnt the task" in text


@pytest.fixture
def in_process(monkeypatch):
    """The scripts run in this process, since torch takes seconds to import; their names are noted."""
    calls = []

    def call(script, *words, log):
        calls.append(script)
        SCRIPTS[script].main(list(map(str, words)))

    monkeypatch.setattr(child_runs, "call_script", call)
    for name in ("EFFECTIVE_BATCH_SIZE", "MICRO_BATCH_SIZE"):
        monkeypatch.setattr(finetune, name, 8)
    return calls


@pytest.mark.slow
def test_folds_are_trained_once_and_find_flipped_labels(
    in_process, data_dir, tiny_model, tmp_path, capsys, monkeypatch
):
    splits = {
        name: splitting.load_split(Path(data_dir) / f"{name}.jsonl") for name in splitting.SPLITS
    }
    flipped = set()
    for row in splits["train"][::10]:
        flipped.add(row["id"])
        row["label"] = {"pro": "con", "con": "neu", "neu": "pro"}[row["label"]]
    data = tmp_path / "data"
    splitting.write_splits(data, splits, splitting.read_report(data_dir, ()))
    words = ["--data-dir", str(data), "--base-model", tiny_model, "--work-dir", str(tmp_path / "w")]
    words += ["--folds", "2", "--epochs", "16", "--learning-rate", "4e-3"]
    label_errors.main([*words, "--output", str(tmp_path / "one.xlsx")])
    rows = read_sheet(tmp_path / "one.xlsx", "rows by doubt")
    assert {row["id"] for row in rows} == {row["id"] for row in splits["train"]}
    first = {row["id"] for row in rows[: len(flipped)]}
    assert len(first & flipped) >= 0.7 * len(flipped)
    assert in_process == ["finetune.py", "evaluate.py"] * 2

    capsys.readouterr()
    label_errors.main([*words, "--output", str(tmp_path / "two.xlsx")])
    assert len(in_process) == 4 and capsys.readouterr().out.count("finished before") == 2
    assert read_sheet(tmp_path / "two.xlsx", "rows by doubt") == rows
    other = [*words, "--output", str(tmp_path / "three.xlsx"), "--seed", "1"]
    message = stop_message(capsys, label_errors.main, other)
    assert re.search("holds folds with seed 0, now it is 1: choose another --work-dir", message)

    run = tmp_path / "w" / "runs" / "fold1" / "run.json"
    record = files.read_json(run, "fix the test")
    record["settings"]["LORA_R"] = 8
    files.write_json(run, record)
    message = stop_message(
        capsys, label_errors.main, [*words, "--output", str(tmp_path / "4.xlsx")]
    )
    assert "trained with LORA_R 8" in message
