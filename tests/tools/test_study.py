"""tools/study.py: parts of a split, resuming, and the tables; most with scripts that only pretend to train."""

import csv
import json
from collections import Counter
from pathlib import Path

import openpyxl
import pytest
from pictures import check_layout
from small_corpus import CORPUS_TOPICS
from stopping import stop_message
from tiny_model import NOTE

import evaluate
import finetune
import prepare_data
import prompts
from stance.common import environment, files
from stance.corpus import splitting
from stance.evaluation import figures, study_tables
from stance.model import loading
from tools import child_runs, study

SCRIPTS = {"prepare_data.py": prepare_data, "finetune.py": finetune, "evaluate.py": evaluate}
BASE = "google/gemma-2-9b-it"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(study, "FRACTIONS", (0.25, 0.5))


@pytest.fixture(scope="module")
def two_topics(data_dir, tmp_path_factory):
    """A corpus file with 80 sentences on two topics."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.csv"
    with open(Path(data_dir) / "corpus.csv", encoding="utf-8", newline="") as source:
        rows = list(csv.reader(source))
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([row for row in rows if row[0] != CORPUS_TOPICS[2]])
    return str(path)


@pytest.fixture
def pretend(monkeypatch):
    """Replaces call_script by one that splits for real, pretends to train and evaluate, and notes [(script, flags)]."""
    calls = []

    def call(script, *flags, log):
        flags = list(map(str, flags))
        calls.append((script, flags))
        given = {flag: value for flag, value in zip(flags, flags[1:]) if flag.startswith("--")}
        if script == "prepare_data.py":
            prepare_data.main(flags)
        elif script == "finetune.py":
            pretend_training(given)
        else:
            pretend_evaluation(given)

    monkeypatch.setattr(child_runs, "call_script", call)
    return calls


def pretend_training(given):
    home, data = Path(given["--run-dir"]), Path(given["--data-dir"])
    settings = environment.collect_settings(finetune)
    settings |= {
        "SEED": int(given["--seed"]),
        "EPOCHS": float(given.get("--epochs", finetune.EPOCHS)),
    }
    hashes = {
        name: {"sha256": files.hash_file(data / f"{name}.jsonl")} for name in ("train", "val")
    }
    record = {
        "base_model": given["--base-model"],
        "prompt_version": prompts.PROMPT_VERSION,
        "labels": list(prompts.LABELS),
        "precision": {},
        "demo": False,
    }
    files.write_json(home / "run.json", {**record, "settings": settings, "data": hashes})
    files.write_text(home / "checkpoints" / "checkpoint-9" / "optimizer.pt", ["large"])


def pretend_evaluation(given):
    """The base always answers neu; an adapter is right about topics that it was trained on, else it answers con."""
    home, data = Path(given["--adapter"]), Path(given["--data-dir"])
    known = {row["topic"] for row in splitting.load_split(data / "train.jsonl")}
    table = []
    for row in splitting.load_split(data / "test.jsonl"):
        tuned = row["label"] if row["topic"] in known else "con"
        models = {"base": {"prediction": "neu"}, "fine-tuned": {"prediction": tuned}}
        kept = {key: row[key] for key in ("id", "topic", "text", "label")}
        table.append({**kept, "models": models, "baselines": {"majority": "pro", "tf-idf": "pro"}})
    files.write_jsonl(home / "evaluation.jsonl", table)
    described = {"test_sha256": files.hash_file(data / "test.jsonl"), "adapter": str(home)}
    files.write_json(home / "evaluation.json", described)
    (home / "README.md").write_text("card")


def run_study(corpus_file, folder, *flags):
    study.main(["--corpus", corpus_file, "--study-dir", str(folder), *flags])
    return files.read_json(folder / "study.json", "fix the test")


# ---------------------------------------------------------------- parts of a split


def make_rows(n):
    return [
        {"id": f"{i:04}", "topic": f"t{i % 4}", "label": prompts.LABELS[i % 3]} for i in range(n)
    ]


def test_parts_are_nested_stratified_and_seeded():
    rows = make_rows(600)
    parts = [study.take_fraction(rows, fraction, 0) for fraction in (0.1, 0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == [60, 150, 300, 600]
    for smaller, larger in zip(parts, parts[1:]):
        assert {row["id"] for row in smaller} < {row["id"] for row in larger}
    for part in parts:
        counts = Counter((row["topic"], row["label"]) for row in part)
        assert len(counts) == 12 and max(counts.values()) - min(counts.values()) <= 1
        assert [row["id"] for row in part] == sorted(row["id"] for row in part)
    assert study.take_fraction(rows, 0.1, 0) == parts[0] != study.take_fraction(rows, 0.1, 1)


def test_strata_of_unequal_size_keep_their_shares():
    rows = [{**row, "topic": "common", "label": "pro"} for row in make_rows(200)]
    for row in rows[::10]:
        row["topic"] = "rare"
    part = study.take_fraction(rows, 0.5, 3)
    assert Counter(row["topic"] for row in part) == {"common": 90, "rare": 10}


def test_a_part_is_never_empty():
    assert len(study.take_fraction(make_rows(12), 0.01, 0)) == 1


# ---------------------------------------------------------------- what is run


def test_runs_of_both_studies(pretend, two_topics, tmp_path, capsys):
    result = run_study(two_topics, tmp_path / "study", "--seeds", "0", "1")
    trained = [flags for script, flags in pretend if script == "finetune.py"]
    assert len(trained) == 2 * (1 + 2 + 2)
    assert all(flags[flags.index("--base-model") + 1] == BASE for flags in trained)
    assert sum(script == "prepare_data.py" for script, _ in pretend) == 3
    data = tmp_path / "study" / "data"
    whole = splitting.load_split(data / "all" / "train.jsonl")
    for fraction in (0.25, 0.5):
        parts = [
            splitting.load_split(data / f"part-{fraction}-draw{seed}" / "train.jsonl")
            for seed in (0, 1)
        ]
        assert parts[0] != parts[1] and all(
            len(part) == round(fraction * len(whole)) for part in parts
        )
        for name in ("val.jsonl", "test.jsonl"):
            assert (data / f"part-{fraction}-draw1" / name).read_bytes() == (
                data / "all" / name
            ).read_bytes()
    assert set(result) == {"note", "plan", "topics", "curve"}
    assert not list((tmp_path / "study").rglob("checkpoints"))  # gigabytes
    assert "[10/10] part-0.5-draw1-seed1: trained and evaluated" in capsys.readouterr().out


def test_each_held_out_topic_is_tested_and_never_trained_on(pretend, two_topics, tmp_path):
    run_study(two_topics, tmp_path, "--studies", "topics")
    folders = sorted((tmp_path / "data").glob("without-*"))
    held_out = [
        {row["topic"] for row in splitting.load_split(folder / "test.jsonl")} for folder in folders
    ]
    assert sorted(map(list, held_out)) == [[CORPUS_TOPICS[1]], [CORPUS_TOPICS[0]]]
    for folder, topics in zip(folders, held_out):
        for name in ("train", "val"):
            assert (
                not {row["topic"] for row in splitting.load_split(folder / f"{name}.jsonl")}
                & topics
            )


def test_one_topic_cannot_be_held_out(pretend, two_topics, tmp_path, capsys):
    path = tmp_path / "one.csv"
    lines = Path(two_topics).read_text(encoding="utf-8").splitlines()
    path.write_text(
        "\n".join(line for line in lines if CORPUS_TOPICS[1] not in line), encoding="utf-8"
    )
    assert "--studies curve" in stop_message(capsys, run_study, str(path), tmp_path / "study")
    assert pretend == [] and not (tmp_path / "study").exists()


def write_topics(path, topics, rows=6):
    """A corpus with some rows on each topic, as .csv."""
    lines = ["topic,text,stance"]
    for topic in range(topics):
        for row in range(rows):
            stance = ("pro", "con", "neu")[row % 3]
            lines.append(f"Topic {topic:02},Sentence {row} on number {topic}.,{stance}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_too_many_topics_are_refused_unless_told(pretend, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study, "MAX_TOPICS", 5)
    corpus = write_topics(tmp_path / "many.csv", 6)
    words = (corpus, tmp_path / "study", "--studies", "topics")
    message = stop_message(capsys, run_study, *words)
    assert f"{corpus} has 6 topics, and each held out is a training a seed" in message
    assert "--groups 10" in message and "--max-topics 6" in message
    assert pretend == [] and not (tmp_path / "study").exists()
    run_study(*words, "--max-topics", "6")
    assert sum(script == "finetune.py" for script, _ in pretend) == 7
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("7 trainings to do, 0 done already: 1 on all data, 6 with a topic held")


def test_a_curve_holds_no_topic_out_however_many_there_are(pretend, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study, "MAX_TOPICS", 2)
    corpus = write_topics(tmp_path / "many.csv", 12)
    run_study(corpus, tmp_path / "study", "--studies", "curve")
    assert "0 with a topic held out, 2 on parts of the train split" in capsys.readouterr().out


def test_groups_of_topics_are_held_out(pretend, tmp_path, capsys):
    corpus = write_topics(tmp_path / "many.csv", 7)
    words = (corpus, tmp_path / "study", "--studies", "topics", "--groups", "3")
    result = run_study(*words)["topics"]
    assert result["groups"] == {
        "group 1": ["Topic 00", "Topic 03", "Topic 06"],
        "group 2": ["Topic 01", "Topic 04"],
        "group 3": ["Topic 02", "Topic 05"],
    }
    assert result["topics"] == 7
    for name, topics in result["groups"].items():
        folder = tmp_path / "study" / "data" / f"without-{study.shorten(name, tuple(topics))}"
        tested = splitting.load_split(folder / "test.jsonl")
        assert {row["topic"] for row in tested} == set(topics)
        known = splitting.load_split(folder / "train.jsonl")
        assert not {row["topic"] for row in known} & set(topics)
        cell = result["by_topic"][name]
        assert cell["cross"]["n"] == len(tested) == 6 * len(topics)
        assert cell["cross"]["accuracy"] == pytest.approx(1 / 3)  # always con
        assert result["pictured"]["base, all rows"][name]["n"] == len(tested)
    output = capsys.readouterr().out
    assert "3 with a group of topics held out" in output
    assert 'group 2: 2 topics, 12 rows: "Topic 01", "Topic 04"' in output
    assert "Accuracy: each group of topics held out in turn" in output
    assert "mean of groups" in output
    page = (tmp_path / "study" / "study.md").read_text(encoding="utf-8")
    assert "topics of group 1 3, group 2 2 and group 3 2" in page
    pretend.clear()
    run_study(*words)
    assert {script for script, _ in pretend} == {"prepare_data.py"}


def test_groups_have_about_as_many_rows():
    sizes = {"a": 50, "b": 30, "c": 20, "d": 20, "e": 10, "f": 10}
    assert study.deal_groups(sizes, 3) == [("a",), ("b", "e", "f"), ("c", "d")]


@pytest.mark.parametrize(
    "groups, expected", [("1", "give 2 or more"), ("3", "--groups 2 or fewer")]
)
def test_impossible_groups_are_refused(pretend, two_topics, tmp_path, capsys, groups, expected):
    words = (two_topics, tmp_path / "study", "--groups", groups)
    assert expected in stop_message(capsys, run_study, *words)
    assert pretend == []


def test_a_corpus_is_read_by_the_flags_of_prepare_data(pretend, two_topics, tmp_path, capsys):
    """With other headers, labels that are numbers, and two files."""
    with open(two_topics, encoding="utf-8", newline="") as source:
        _, *rows = csv.reader(source)
    codes = {"pro": "1", "con": "-1"}
    paths = []
    for number in range(2):
        paths.append(str(tmp_path / f"{number}.csv"))
        with open(paths[-1], "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["claim", "full text", "code"])
            for topic, text, stance, *_ in rows[number::2]:
                writer.writerow([topic, text, codes.get(stance, "0")])
    flags = ["--columns", "claim", "full text", "code", "--labels", "pro=1", "con=-1", "neu=0"]
    words = ["--corpus", *paths, "--study-dir", str(tmp_path / "study"), "--studies", "curve"]
    study.main([*words, *flags])
    given = next(flags for script, flags in pretend if script == "prepare_data.py")
    assert given[:8] == ["--corpus", *paths, "--columns", "claim", "full text", "code", "--labels"]
    plan = files.read_json(tmp_path / "study" / "plan.json", "fix the test")
    assert plan["reading"] == flags
    other = [*words, *flags[:-1], "neu=0,x"]
    assert "holds a study with reading" in stop_message(capsys, study.main, other)


def test_similar_topics_have_folders_of_their_own():
    topics = ["a b?", "a b!", "Ä", "ö", "x" * 300, "x" * 301]
    names = [study.shorten(topic) for topic in topics]
    assert len(set(names)) == 6 and all(
        name.replace("-", "").isalnum() and len(name) < 60 for name in names
    )


# ---------------------------------------------------------------- resuming


def test_finished_runs_are_skipped(pretend, two_topics, tmp_path, capsys):
    first = run_study(two_topics, tmp_path)
    pretend.clear()
    capsys.readouterr()
    assert run_study(two_topics, tmp_path) == first
    assert {script for script, _ in pretend} == {"prepare_data.py"}
    output = capsys.readouterr().out
    assert output.count("finished before") == 5 and "0 trainings to do, 5 done already" in output


@pytest.mark.slow
def test_an_evaluation_that_was_killed_before_its_card_is_done_again(
    pretend, two_topics, tmp_path, capsys
):
    run_study(two_topics, tmp_path, "--studies", "curve")
    home = next((tmp_path / "runs").iterdir())
    (home / "README.md").unlink()
    pretend.clear()
    run_study(two_topics, tmp_path, "--studies", "curve")
    assert [script for script, _ in pretend if script == "evaluate.py"] == ["evaluate.py"]
    assert (home / "README.md").is_file()


def test_an_interrupted_study_goes_on(pretend, two_topics, tmp_path, monkeypatch):
    """One run has a checkpoint, one broke off before it, one was trained but not evaluated; other runs are done."""
    first = run_study(two_topics, tmp_path)
    homes = {path.name: path for path in (tmp_path / "runs").iterdir()}
    for name in ("run.json", "evaluation.json"):
        (homes["all-seed0"] / name).unlink()
        (homes["part-0.25-draw0-seed0"] / name).unlink()
    files.write_text(homes["all-seed0"] / "checkpoints" / "checkpoint-3" / "x", ["x"])
    (homes["part-0.25-draw0-seed0"] / "plan.json").touch()
    (homes["part-0.5-draw0-seed0"] / "evaluation.json").unlink()
    pretend.clear()
    assert run_study(two_topics, tmp_path) == first
    given = [
        (script, "--resume" in flags, flags[flags.index("--data-dir") + 1])
        for script, flags in pretend[3:]
    ]
    assert [(script, resumed, Path(data).name) for script, resumed, data in given] == [
        ("finetune.py", True, "all"), ("evaluate.py", False, "all"),
        ("finetune.py", False, "part-0.25-draw0"), ("evaluate.py", False, "part-0.25-draw0"),
        ("evaluate.py", False, "part-0.5-draw0"),
    ]  # fmt: skip
    assert not (
        homes["part-0.25-draw0-seed0"] / "plan.json"
    ).exists()  # finetune.py wants an empty folder


def test_seeds_can_be_added(pretend, two_topics, tmp_path):
    run_study(two_topics, tmp_path, "--studies", "curve")
    pretend.clear()
    result = run_study(two_topics, tmp_path, "--studies", "curve", "--seeds", "0", "1")
    assert [
        flags[flags.index("--seed") + 1] for script, flags in pretend if script == "finetune.py"
    ] == ["1"] * 3
    assert [len(point["runs"]) for point in result["curve"]] == [2, 2, 2]


@pytest.mark.parametrize("flags, named", [
    (("--epochs", "7"), "setting EPOCHS 2.0, now it is 7.0"),
    (("--base-model", "other/model"), "base_model google/gemma-2-9b-it, now it is other/model"),
])  # fmt: skip
def test_other_settings_are_refused_before_anything_is_touched(
    pretend, two_topics, tmp_path, capsys, flags, named
):
    run_study(two_topics, tmp_path, "--studies", "curve")
    pretend.clear()
    assert named in stop_message(
        capsys, run_study, two_topics, tmp_path, "--studies", "curve", *flags
    )
    assert pretend == []


def test_another_corpus_is_refused(pretend, two_topics, tmp_path, capsys):
    run_study(two_topics, tmp_path / "study", "--studies", "curve")
    (tmp_path / "other.csv").write_bytes(
        Path(two_topics).read_bytes().replace(b"maybe", b"perhaps")
    )
    other = str(tmp_path / "other.csv")
    assert "corpus" in stop_message(
        capsys, run_study, other, tmp_path / "study", "--studies", "curve"
    )


@pytest.mark.parametrize("change, named", [
    ({"settings": {"LORA_R": 8}}, "setting LORA_R 8, the study has 16"),
    ({"settings": {"SEED": 5}}, "setting SEED 5, the study has 0"),
    ({"data": {"train": {"sha256": "other"}}}, "train other"),
    ({"prompt_version": "old"}, "prompt_version old"),
])  # fmt: skip
def test_a_run_of_other_settings_is_refused(pretend, two_topics, tmp_path, capsys, change, named):
    """Such as one that was copied into the folder."""
    run_study(two_topics, tmp_path, "--studies", "curve")
    path = tmp_path / "runs" / "part-0.25-draw0-seed0" / "run.json"
    record = json.loads(path.read_text())
    for key, value in change.items():
        record[key] = {**record[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(record))
    message = stop_message(capsys, run_study, two_topics, tmp_path, "--studies", "curve")
    assert named in message and "part-0.25-draw0-seed0" in message


def test_settings_are_those_of_finetune():
    settings = study.read_settings(study.parse_args(["--learning-rate", "5e-4"]))
    wanted = {
        f"setting {name}": value
        for name, value in finetune.collect_experiment_settings().items()
        if name != "SEED"
    }
    assert settings == {**wanted, "setting LEARNING_RATE": 5e-4}


def test_settings_of_a_study_are_those_in_effect_and_hold_no_places(monkeypatch):
    monkeypatch.setattr(finetune, "LORA_ALPHA", 2 * finetune.LORA_R + 1)
    settings = study.read_settings(study.parse_args([]))
    assert settings["setting LORA_ALPHA"] == 2 * finetune.LORA_R + 1
    assert not any(
        f"setting {name}" in settings for name in ("SEED", "BASE_MODEL", "DATA_DIR", "RUN_DIR")
    )


def test_a_script_that_fails_stops_the_study(tmp_path, capfd):
    with pytest.raises(SystemExit) as stopped:
        child_runs.call_script(
            "prepare_data.py", "--corpus", tmp_path / "none.xlsx", log=tmp_path / "logs" / "log.txt"
        )
    message = capfd.readouterr().err
    assert stopped.value.code == 2 and "none.xlsx not found" in message
    assert (
        "error: prepare_data.py --corpus" in message
        and str(tmp_path / "logs" / "log.txt") in message
    )


@pytest.mark.slow
def test_what_scripts_print_is_kept(tmp_path, capfd):
    for _ in range(2):
        child_runs.call_script("prepare_data.py", "--help", log=tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_text().count(
        "usage: prepare_data.py"
    ) == 2 and capfd.readouterr().out == ""


# ---------------------------------------------------------------- numbers


def test_tables_by_hand(pretend, two_topics, tmp_path, capsys):
    """In-topic everything is right; cross-topic all is con, which is a third of a topic."""
    result = run_study(two_topics, tmp_path)["topics"]
    sizes = Counter(
        row["topic"] for row in splitting.load_split(tmp_path / "data" / "all" / "test.jsonl")
    )
    for topic, cell in result["by_topic"].items():
        rows = splitting.load_split(
            next(tmp_path.glob(f"data/without-{study.shorten(topic)}/test.jsonl"))
        )
        con = sum(row["label"] == "con" for row in rows)
        assert cell["cross"]["n"] == cell["base"]["n"] == len(rows) == 40
        assert cell["cross"]["accuracy"] == pytest.approx(con / 40)
        assert cell["cross"]["macro_f1"] == pytest.approx(2 * con / (40 + con) / 3)
        assert cell["in"]["n"] == cell["cross_same"]["n"] == sizes[topic]
        assert cell["in"]["accuracy"] == 1
        drawn = {name: parts[topic]["n"] for name, parts in result["pictured"].items()}
        assert drawn == {
            "base, all rows": 40, "cross-topic, all rows": 40,
            "cross-topic, test split": sizes[topic], "in-topic, test split": sizes[topic],
        }  # fmt: skip
    accuracies = [cell["cross"]["accuracy"] for cell in result["by_topic"].values()]
    assert result["mean"]["cross"]["accuracy"] == pytest.approx(sum(accuracies) / 2)
    same = result["same_rows"]
    wrong = sum(
        row["label"] != "con"
        for row in splitting.load_split(tmp_path / "data" / "all" / "test.jsonl")
    )
    assert (same["mcnemar"]["only_second"], same["mcnemar"]["only_first"], same["n"]) == (
        wrong,
        0,
        sum(sizes.values()),
    )
    assert same["accuracy"]["difference"] == pytest.approx(wrong / same["n"])
    gain = result["gain"]  # the base answers neu: each right where the other is wrong
    tests = [
        row
        for path in tmp_path.glob("data/without-*/test.jsonl")
        for row in splitting.load_split(path)
    ]
    right = [sum(row["label"] == label for row in tests) for label in ("neu", "con")]
    assert [gain["mcnemar"]["only_first"], gain["mcnemar"]["only_second"], gain["n"]] == [
        *right,
        80,
    ]
    assert gain["accuracy"]["difference"] == pytest.approx((right[1] - right[0]) / 80)
    output = capsys.readouterr().out
    assert "Cross-topic minus base on the same 80 rows, seed 0; McNemar's exact test" in output
    lines = [line.split() for line in output.splitlines()]
    topic, cell = next(iter(result["by_topic"].items()))
    cells = [f"{cell[part]['accuracy']:.3f}" for part in ("base", "cross", "cross_same", "in")]
    assert [*topic.split(), "40", *cells[:2], str(sizes[topic]), *cells[2:]] in lines
    assert "Learning curve" in output


def test_means_and_spread_over_seeds():
    cells = [
        {"in": {"accuracy": 0.5}, "cross": None},
        {"in": {"accuracy": 0.7}, "cross": {"accuracy": 0.2}},
    ]
    assert study_tables.average(cells) == {
        "in": {"accuracy": pytest.approx(0.6)},
        "cross": {"accuracy": 0.2},
    }
    assert study_tables.average(cells[:1]) == {"in": {"accuracy": 0.5}, "cross": None}


def test_a_topic_without_rows_in_the_test_split():
    """Common for small topics: nothing to compare there, and no crash."""
    models = {"base": {"prediction": "pro"}, "fine-tuned": {"prediction": "pro"}}
    row = {"id": "1", "topic": "a", "label": "pro", "models": models}
    cell = study_tables.measure_topic([row], [{**row, "id": "2", "topic": "b"}])
    assert cell["in"] is None and cell["cross_same"] is None and cell["cross"]["accuracy"] == 1
    shown = study_tables.tabulate_topic("b", cell, "accuracy", count=True)
    assert shown == ["b", "1", "1.000", "1.000", "-", "-", "-"]


def test_the_curve_has_a_point_a_fraction_and_baselines(pretend, two_topics, tmp_path):
    curve = run_study(two_topics, tmp_path, "--studies", "curve", "--seeds", "0", "1")["curve"]
    found = [(point["fraction"], point["rows"], len(point["runs"])) for point in curve]
    assert found == [(0.25, 16, 2), (0.5, 32, 2), (1.0, 64, 2)]
    points, baselines = study_tables.pick_points(curve)
    assert list(points) == [16, 32, 64] and set(baselines) == {"base", "tf-idf"}
    test = splitting.load_split(tmp_path / "data" / "all" / "test.jsonl")
    neu = sum(row["label"] == "neu" for row in test)
    assert baselines["base"][16] == pytest.approx(2 * neu / (len(test) + neu) / 3)
    [(title, header, rows, _)] = study_tables.list_curve(curve)
    assert title == f"Learning curve on {len(test)} test rows"
    assert len(rows) == 3 and all(len(row) == len(header) for row in rows)
    assert "1.000 sd 0.000 [1.000, 1.000]" in rows[2][3]


def test_pages_and_pictures(pretend, two_topics, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "read_demo_note", lambda base: NOTE)
    drawn = []
    monkeypatch.setattr(figures.plt, "close", drawn.append)
    run_study(two_topics, tmp_path, "--seeds", "0", "1")
    page = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert NOTE in page and page.count("| --- |") == 5 and "sd over 2 seeds" in page
    for name in ("cross_topic.png", "learning_curve.png"):
        assert f"({name})" in page and (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (
        page.count("Cross-topic: the topic was held out")
        == page.count("the same number of epochs")
        == 1
    )
    assert (
        page.count("but 2 are few: they come out too narrow") == 1 and "Quote" not in page
    )  # no advice in captions
    latex = (tmp_path / "study.tex").read_text(encoding="utf-8")
    assert latex.count(r"\toprule") == 5
    for table in latex.split(r"\end{table}")[:2]:  # "there" is in the header
        assert '"there" means these rows' in table.partition(r"\caption")[2]
    assert len(drawn) == 2
    for figure in drawn:
        check_layout(figure)


# ---------------------------------------------------------------- the real scripts


@pytest.mark.slow
def test_the_real_scripts_work_together(tiny_model, two_topics, tmp_path, monkeypatch, capsys):
    """One pass over the tiny model's data each; in one process, since torch takes seconds to import."""
    monkeypatch.setattr(study, "FRACTIONS", (0.5,))
    monkeypatch.setattr(
        child_runs,
        "call_script",
        lambda script, *flags, log: SCRIPTS[script].main(list(map(str, flags))),
    )
    flags = ["--base-model", tiny_model, "--epochs", "1", "--learning-rate", "4e-3"]
    result = run_study(two_topics, tmp_path, *flags)
    assert (
        result["note"] == NOTE
        and len(result["topics"]["by_topic"]) == 2
        and len(result["curve"]) == 2
    )
    for home in (tmp_path / "runs").iterdir():
        assert (home / "texts" / "report.md").is_file()
        assert not (home / "texts" / "robustness.jsonl").exists()
        assert openpyxl.load_workbook(home / "texts" / "errors.xlsx")
    capsys.readouterr()
    assert run_study(two_topics, tmp_path, *flags) == result
    assert capsys.readouterr().out.count("finished before") == 4
