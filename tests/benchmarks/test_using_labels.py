"""benchmarks/using_labels.py: intervals are counted right, rounds choose as the tool does, and go on after a stop."""

import json

import numpy as np
import pytest
import quality_runs
import using_labels
from stopping import stop_message

import prompts
from stance.common import files
from stance.evaluation import sampling


@pytest.fixture
def rows(tmp_path):
    """Answers of a model that takes con for neu now and then, to 600 rows of two topics."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(600):
        label = prompts.LABELS[rng.choice(3, p=[0.3, 0.4, 0.3])]
        likely = "neu" if label == "con" and rng.random() < 0.4 else label
        found = {name: 0.8 if name == likely else 0.1 for name in prompts.LABELS}
        lines.append({"topic": f"T{number % 2}", "label": label, "probabilities": found})
    path = tmp_path / "rows.jsonl"
    files.write_jsonl(path, lines)
    return path


def test_coverage_is_the_share_of_draws_whose_interval_holds_the_truth():
    tally = using_labels.Tally()
    true = np.array([0.2, 0.3, 0.5])
    tally.add(true, np.array([[0.1, 0.31, 0.4], [0.2, 0.4, 0.6]]), true)
    tally.add(true + 0.1, np.array([[0.3, 0.2, 0.4], [0.4, 0.4, 0.6]]), true)
    tally.add(true, None, true)
    found = tally.describe()
    assert (found["draws"], found["with_interval"]) == (3, 2)
    assert found["coverage"] == {"pro": 0.5, "con": 0.5, "neu": 1.0}
    assert found["width"]["pro"] == pytest.approx(0.1)
    assert found["bias"]["neu"] == pytest.approx(0.05)


def test_shares_of_rows_are_written_and_other_parts_kept(rows, tmp_path):
    output = tmp_path / "results.json"
    files.write_json(output, {"sample": {"kept": True}, "shares": {"other": {}}})
    words = ["--part", "shares", "--rows", str(rows), "--output", str(output)]
    using_labels.main([*words, "--draws", "60", "--sizes", "100"])
    results = json.loads(output.read_text())
    assert results["sample"] == {"kept": True}
    assert list(results["shares"]) == ["other", "rows"]
    tallies = results["shares"]["rows"]["sizes"]["100"]
    assert tallies["naive"]["coverage"]["con"] == 0
    powered = tallies["prediction_powered"]
    assert powered["with_interval"] == 60 and min(powered["coverage"].values()) > 0.8
    assert max(abs(value) for value in powered["bias"].values()) < 0.03
    assert powered["width"]["pro"] < tallies["gold"]["width"]["pro"]


@pytest.fixture
def trained(monkeypatch, data_dir, tmp_path):
    """The jobs that are run; instead of training, a model that is sure of rows with an even number of letters."""
    jobs = []

    def run_adapter(job, place):
        splits = place.read_splits(job.corpus)
        jobs.append((job.corpus, [row["id"] for row in splits["train"]]))
        answers = []
        for row in splits["test"]:
            top = 0.99 if len(row["text"]) % 2 else 0.4
            found = dict(zip(prompts.LABELS, [top, 0.6 * (1 - top), 0.4 * (1 - top)], strict=True))
            answers.append({"prediction": "pro", "probabilities": found})
        return quality_runs.Answers(answers[:1], answers, {})

    monkeypatch.setitem(quality_runs.RECIPES, "adapter", run_adapter)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "small").symlink_to(data_dir)
    return jobs


def list_words(tmp_path, seed=0):
    words = [
        "--part",
        "sample",
        "--models",
        "tiny=none",
        "--corpus",
        "small",
        "--rounds",
        "4",
        "8",
        "12",
    ]
    words += ["--data-dir", str(tmp_path / "data"), "--work-dir", str(tmp_path / "work")]
    return [*words, "--output", str(tmp_path / "results.json"), "--seed", str(seed)]


def test_rounds_grow_and_choose_as_the_tool_does(trained, tmp_path, data_dir):
    using_labels.main(list_words(tmp_path))
    sizes = dict(trained)
    assert [(name, len(ids)) for name, ids in sizes.items()] == [
        ("small-random-4", 4),
        ("small-random-8", 8),
        ("small-random-12", 12),
        ("small-training-8", 8),
        ("small-training-12", 12),
    ]
    assert (
        set(sizes["small-random-4"])
        < set(sizes["small-training-8"])
        < set(sizes["small-training-12"])
    )
    train = files.read_jsonl(f"{data_dir}/train.jsonl", (), "")
    rest = [row for row in train if row["id"] not in sizes["small-random-4"]]
    tops = np.array([0.99 if len(row["text"]) % 2 else 0.4 for row in rest])
    probabilities = np.stack([tops, 0.6 * (1 - tops), 0.4 * (1 - tops)], axis=1)
    texts = [f"{row['topic']}\n{row['text']}" for row in rest]
    expected = {
        rest[place]["id"] for place in sampling.choose_informative(texts, probabilities, 4, 0)
    }
    assert set(sizes["small-training-8"]) - set(sizes["small-random-4"]) == expected
    results = json.loads((tmp_path / "results.json").read_text())["sample"]
    assert {(one["annotations"], one["arm"]) for one in results["means"]} == {
        (count, arm) for count in (4, 8, 12) for arm in using_labels.ARMS
    }


def test_finished_rounds_are_not_run_again_and_seeds_come_together(trained, tmp_path):
    using_labels.main(list_words(tmp_path))
    path = tmp_path / "work" / "sample-tiny-small-seed0.json"
    record = json.loads(path.read_text())
    del record["rounds"][3:]  # as if it was killed after the random arm
    path.write_text(json.dumps(record))
    first = dict(trained)
    trained.clear()
    using_labels.main(list_words(tmp_path))
    assert [name for name, _ in trained] == ["small-training-8", "small-training-12"]
    assert dict(trained)["small-training-12"] == first["small-training-12"]
    using_labels.main(list_words(tmp_path, seed=1))
    results = json.loads((tmp_path / "results.json").read_text())["sample"]
    assert {tuple(one["seeds"]) for one in results["means"]} == {(0, 1)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--part", "shares"], "--part shares takes --rows"),
        (["--part", "sample"], "--part sample takes --models"),
        (["--part", "sample", "--models", "qwen"], "names no model"),
    ],
)
def test_what_lacks_is_said(capsys, words, message):
    assert message in stop_message(capsys, using_labels.main, words)
