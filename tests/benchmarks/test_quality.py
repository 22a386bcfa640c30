"""benchmarks/quality.py: runs are resumed, settings chosen by validation alone, numbers those of the predictions."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import quality
import quality_corpora
import quality_runs

import finetune
import prompts
from stance.common import files
from stance.corpus import splitting
from stance.model import loading


@pytest.fixture
def home(tmp_path, data_dir):
    """A folder of the folders of splits, as --data-dir names it; its corpus is small."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "small").symlink_to(data_dir)
    return tmp_path


@pytest.fixture
def place(home, tiny_model):
    return quality_runs.Workplace(str(home / "data"), {"tiny": tiny_model})


def make_record(job, validation, test=0.5):
    """The record of a finished run with these macro-F1 scores."""
    numbers = {
        "accuracy": test,
        "macro_f1": test,
        "semeval_f1": test,
        "micro_f1": test,
        "confusion": [[5, 5, 0, 0], [0, 10, 0, 0], [0, 5, 5, 0]],
        "labels": {label: {"f1": test} for label in prompts.LABELS},
    }
    validated = {**numbers, "macro_f1": validation}
    key = quality.name_job(job)
    return {"key": key, "job": job, "validation": validated, "test": numbers}


# ---------------------------------------------------------------- which runs


def test_each_run_is_listed_once_and_has_one_name():
    args = quality.parse_args(["--models", "tiny=folder", "minilm=other"])
    jobs = quality.list_jobs(args)
    names = [quality.name_job(job) for job in jobs]
    assert len(set(names)) == len(names)
    for job, name in zip(jobs, names, strict=True):
        settings = tuple(job["settings"].items())
        assert quality_runs.Job(**{**job, "settings": settings}).key == name
        assert job["recipe"] in quality_runs.RECIPES


def test_every_setting_of_a_run_is_one_of_finetune():
    args = quality.parse_args(
        ["--models", "tiny=folder", "--studies", *quality.STUDY_NAMES, "--corpora", "small"]
    )
    known = {name for name in vars(finetune) if name.isupper()} | {*quality_runs.OWN_SETTINGS}
    for job in quality.list_jobs(args):
        assert set(job["settings"]) <= known


def test_settings_are_chosen_by_validation_over_enough_seeds_whatever_the_test_says():
    jobs = quality.list_rates("small", "tiny", [0, 1])
    records = {}
    for number, job in enumerate(jobs):
        validation = 0.9 if job["settings"] == quality.START else number / 1000
        record = make_record(job, validation, test=1 - validation)
        records[record["key"]] = record
    assert quality.choose_settings(records, "small", "tiny", 2) == json.dumps(quality.START)
    assert quality.choose_settings(records, "small", "tiny", 3) is None  # too few seeds


def test_the_written_record_holds_no_probabilities_of_single_rows():
    record = make_record(quality.make_job("small", "tiny", "zero-shot"), 0.4)
    record["probabilities"] = {"test": [[0.2, 0.3, 0.5]]}
    assert quality.strip_record(record) == {
        name: value for name, value in record.items() if name != "probabilities"
    }


def test_a_finished_run_is_not_claimed_and_no_run_twice(tmp_path):
    assert quality.claim_job(tmp_path, "a")
    assert not quality.claim_job(tmp_path, "a")  # this process has it, and lives
    claims = {"a": 2**22 + 1}  # beyond the largest number of a process
    (tmp_path / "claims.json").write_text(json.dumps(claims))
    assert quality.claim_job(tmp_path, "a")
    quality.append_record(tmp_path, {"key": "b"})
    assert not quality.claim_job(tmp_path, "b")
    (tmp_path / "claims.json").write_text(json.dumps({"d": quality.FAILED}))
    assert not quality.claim_job(tmp_path, "d")
    assert quality.claim_job(tmp_path, "c")


@pytest.mark.slow
def test_after_a_failed_run_another_process_does_the_rest(home, monkeypatch):
    """A failure may leave a GPU unusable for its process, in which all further runs would fail."""
    monkeypatch.setenv("PYTHONPATH", str(Path(quality.__file__).parent.parent))
    (home / "work").mkdir()
    (home / "empty").mkdir()  # no base
    words = ["--models", f"tiny={home / 'empty'}", "--work-dir", str(home / "work")]
    words += ["--data-dir", str(home / "data")]
    jobs = [quality.make_job("small", "tiny", "zero-shot"), quality.make_job("small", "", "tf-idf")]
    quality.run_jobs(quality.parse_args(words), words, jobs)
    [log] = (home / "work").glob("log-*.txt")
    assert "failed: small/tiny/zero-shot//seed0" in log.read_text()
    assert set(quality.read_records(home / "work")) == {"small//tf-idf//seed0"}
    with quality.open_claims(home / "work") as claims:
        assert claims["small/tiny/zero-shot//seed0"] == quality.FAILED


def test_what_was_not_run_says_so(home, capsys, monkeypatch):
    monkeypatch.setattr(quality, "SEEDS", (0,))
    job = quality.make_job("small", "tiny", "zero-shot")
    shipped = quality.make_job("small", "tiny", "adapter", quality.SHIPPED)
    (home / "work").mkdir()
    quality.append_record(home / "work", make_record(job, 0.4, 0.3))
    words = ["--models", "tiny=folder", "--corpora", "small", "--studies", "recipes"]
    words += ["--work-dir", str(home / "work"), "--output", str(home / "out.json"), "--table"]
    quality.main(words)
    shown = capsys.readouterr().out
    assert f"not run: {quality.name_job(shipped)}" in shown and "0.300" in shown
    written = json.loads((home / "out.json").read_text())
    assert quality.name_job(shipped) in written["not_run"]
    assert "small/tiny/zero-shot//seed0" not in written["not_run"]


def test_a_model_without_a_folder_is_refused(stop_line):
    assert "--models tiny" in stop_line(quality.parse_args, ["--models", "tiny"])


@pytest.fixture
def stop_line(capsys):
    """A function that returns the error line with which a call ends."""

    def call(function, *words):
        with pytest.raises(SystemExit) as stopped:
            function(*words)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return call


# ---------------------------------------------------------------- numbers


def test_mean_spread_and_interval_are_those_of_the_runs():
    records = []
    for seed, score in enumerate((0.4, 0.5, 0.6)):
        job = quality.make_job("small", "tiny", "adapter", {}, seed)
        records.append(make_record(job, 0.5, score))
    summary = quality.summarise(records)
    assert summary["seeds"] == [0, 1, 2]
    assert summary["test"]["macro_f1"]["mean"] == pytest.approx(0.5)
    assert summary["test"]["macro_f1"]["sd"] == pytest.approx(0.1)
    low, high = summary["test"]["accuracy"]["interval"]
    assert low < 20 / 30 < high  # of the confusion matrix
    assert "ece" not in summary["test"]  # not all runs have it


def test_answers_are_described_as_they_are():
    rows = [{"label": label} for label in ("pro", "con", "neu", "pro")]
    probabilities = np.array(
        [[0.84, 0.1, 0.06], [0.2, 0.72, 0.08], [0.53, 0.2, 0.27], [0.64, 0.2, 0.16]]
    )
    numbers = quality_runs.describe_answers(quality_runs.list_answers(probabilities), rows, 1.0)
    assert numbers["accuracy"] == 0.75
    assert numbers["ece"] == pytest.approx(numbers["ece_scaled"])
    assert numbers["nll"] == pytest.approx(-np.log([0.84, 0.72, 0.27, 0.64]).mean())
    assert "ece" not in quality_runs.describe_answers([{"prediction": "pro"}] * 4, rows)


# ---------------------------------------------------------------- runs on a tiny model


@pytest.mark.slow
def test_the_base_is_loaded_once_for_many_adapters_and_stays_as_it_is(place, monkeypatch):
    loads = []
    load = loading.load_base
    monkeypatch.setattr(loading, "load_base", lambda folder: loads.append(folder) or load(folder))
    settings = (("EPOCHS", 1.0), ("LEARNING_RATE", 4e-3), ("EFFECTIVE_BATCH_SIZE", 8))
    before = quality_runs.perform(quality_runs.Job("small", "tiny", "zero-shot"), place)
    first = quality_runs.perform(quality_runs.Job("small", "tiny", "adapter", settings), place)
    second = quality_runs.perform(quality_runs.Job("small", "tiny", "adapter", settings), place)
    after = quality_runs.perform(quality_runs.Job("small", "tiny", "zero-shot"), place)
    assert len(loads) == 1
    for split in ("validation", "test"):
        assert first[split] == second[split]  # nothing of the first adapter is left
        assert before[split] == after[split]
        assert first[split]["nll"] != before[split]["nll"]
    assert first["losses"] == second["losses"] and first["losses"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["plain trl", "seq_cls", "few-shot", "tf-idf"])
def test_every_recipe_answers_all_rows(place, recipe):
    usual = finetune.MICRO_BATCH_SIZE
    settings = ()
    if recipe in ("plain trl", "seq_cls"):
        settings = (("EPOCHS", 1.0), ("EFFECTIVE_BATCH_SIZE", 8), ("MICRO_BATCH_SIZE", 8))
    base = "" if recipe == "tf-idf" else "tiny"
    record = quality_runs.perform(quality_runs.Job("small", base, recipe, settings), place)
    assert record["validation"]["n"] == record["rows"]["val"]
    assert record["test"]["n"] == record["rows"]["test"]
    assert record["test"]["invalid"] == 0
    assert ("nll" in record["test"]) == (recipe != "tf-idf")
    assert usual == finetune.MICRO_BATCH_SIZE  # constants are as they were


@pytest.mark.slow
def test_the_best_epoch_of_a_plain_recipe_is_kept(place):
    settings = (("EPOCHS", 3.0), ("LEARNING_RATE", 4e-3), ("EFFECTIVE_BATCH_SIZE", 8))
    record = quality_runs.perform(quality_runs.Job("small", "tiny", "plain trl", settings), place)
    best = max(epoch["eval_accuracy"] for epoch in record["epochs"])
    kept = next(epoch for epoch in record["epochs"] if epoch["step"] == record["kept_step"])
    assert len(record["epochs"]) == 3 and kept["eval_accuracy"] == best
    assert record["validation"]["accuracy"] == pytest.approx(best, abs=1e-4)


def test_an_unknown_setting_is_refused(stop_line):
    def use():
        with quality_runs.set_constants({"LEARNING_SPEED": 1}):
            pass

    assert "LEARNING_SPEED" in stop_line(use)


def test_examples_in_the_prompt_are_of_each_label_and_drawn_by_the_seed(data_dir):
    rows = splitting.load_split(f"{data_dir}/train.jsonl")
    drawn = quality_runs.draw_examples(rows, 0)
    assert sorted(row["label"] for row in drawn) == sorted(prompts.LABELS * 2)
    assert drawn == quality_runs.draw_examples(rows, 0) != quality_runs.draw_examples(rows, 1)


def test_answers_that_are_no_numbers_are_no_result(place, monkeypatch, stop_line):
    def answer(job, place):
        answers = quality_runs.list_answers(np.full((3, 3), np.nan))
        return quality_runs.Answers(answers, answers, {})

    monkeypatch.setitem(quality_runs.RECIPES, "adapter", answer)
    job = quality_runs.Job("small", "tiny", "adapter")
    assert "no finite numbers" in stop_line(quality_runs.perform, job, place)


# ---------------------------------------------------------------- corpora


def test_a_balanced_corpus_has_each_pair_once_and_the_same_rows_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(quality_corpora, "UKP_ROWS_PER_GROUP", 5)
    names = list(quality_corpora.UKP_STANCES)
    for topic in ("cloning", "minimum wage"):
        with open(tmp_path / f"{topic}.tsv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
            writer.writerow(["topic", "sentence", "annotation"])
            for number in range(60):
                text = f'{topic} "sentence {number % 50}'  # a quotation mark that never closes
                writer.writerow([topic, text, names[number % 3]])
    rows = quality_corpora.read_ukp(str(tmp_path))
    assert len(rows) == 100
    drawn = quality_corpora.draw_balanced(rows)
    assert len(drawn) == len(set(drawn)) == 2 * 3 * 5
    assert drawn == quality_corpora.draw_balanced(list(rows))
    quality_corpora.write_corpus(drawn, tmp_path / "out.csv")
    quality_corpora.split_corpus(tmp_path / "out.csv", tmp_path / "splits", "cloning")
    test = files.read_jsonl(tmp_path / "splits" / "test.jsonl", (), "mend the test")
    assert {row["topic"] for row in test} == {"cloning"} and len(test) == 15


def test_a_folder_without_the_corpus_is_refused(tmp_path, stop_line):
    assert "holds no" in stop_line(quality_corpora.read_argkp, str(tmp_path))
