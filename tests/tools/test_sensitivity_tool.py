"""tools/sensitivity.py: the same rows by several specifications, from tables and from evaluations."""

import csv

import pytest
from stopping import stop_message

import prompts
from stance.common import files
from tools import sensitivity


def write_labelled(path, labels, header=("topic", "text", "stance"), topics=("Cars.", "Meat.")):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for number, label in enumerate(labels):
            extra = ["kept"] * (len(header) - 3)
            writer.writerow([topics[number % len(topics)], f"Sentence {number}.", *extra, label])
    return str(path)


def run(capsys, tmp_path, *words):
    output = tmp_path / "out" / "sensitivity.json"
    sensitivity.main([*words, "--output", str(output)])
    return files.read_json(output, "fix the test"), capsys.readouterr().out


ONE = ["pro", "con"] * 40
OTHER = ["con", "pro"] * 40


def test_tables_that_disagree_flip_conclusions(tmp_path, capsys):
    paths = [write_labelled(tmp_path / f"{n}.csv", x) for n, x in enumerate((ONE, OTHER, ONE))]
    result, text = run(capsys, tmp_path, "--labelled", *paths)
    assert result["names"] == paths and result["rows"] == 80 and result["specifications"] == 3
    assert result["summary"]["opposite"] == 2 and result["summary"]["largest_flips"] == 2
    assert "2 change their conclusion" in text and "2 of them into the opposite" in text
    assert "31 % of the hypotheses" in text and "trades one error for the other" in text
    assert "0.000 [0.000, 0.088]" in text  # Wilson's interval of 0 of 40


def test_the_screen_fits_100_columns_whatever_the_groups_are_called(tmp_path, capsys):
    topics = [f"We need to act against climate change now, number {n}." for n in (1, 2)]
    tables_of = ((["pro"] * 30 + ["con"] * 50), OTHER)
    paths = [
        write_labelled(tmp_path / f"{n}.csv", x, topics=topics) for n, x in enumerate(tables_of)
    ]
    _, text = run(capsys, tmp_path, "--labelled", *paths)
    tables_shown = text.split("The largest label")[0]
    assert max(map(len, tables_shown.splitlines())) <= 100
    assert "We need to act against clim... (40 rows)\npro" in tables_shown


def test_no_difference_found_is_not_told_as_none_there(tmp_path, capsys):
    paths = [write_labelled(tmp_path / f"{n}.csv", ["pro"] * 80) for n in (1, 2)]
    _, text = run(capsys, tmp_path, "--labelled", *paths)
    assert "No specification finds a difference: with few rows" in text
    paths = [write_labelled(tmp_path / f"{n}.csv", ONE) for n in (1, 2)]
    _, text = run(capsys, tmp_path, "--labelled", *paths)
    assert "No specification finds" not in text


def test_the_last_stance_column_is_that_of_the_model(tmp_path, capsys):
    header = ("topic", "text", "stance", "predicted_stance")
    paths = [write_labelled(tmp_path / f"{n}.csv", ONE, header) for n in (1, 2)]
    result, _ = run(capsys, tmp_path, "--labelled", *paths)
    assert result["summary"]["flips"] == 0
    message = stop_message(
        capsys, sensitivity.main, ["--labelled", *paths, "--stance-column", "stance", "--output", str(tmp_path / "o")]
    )  # fmt: skip
    assert '"kept" is none of pro, con, neu' in message


def test_groups_are_those_of_a_column(tmp_path, capsys):
    header = ("topic", "text", "year", "stance")
    paths = [write_labelled(tmp_path / f"{n}.csv", ONE, header) for n in (1, 2)]
    result, _ = run(capsys, tmp_path, "--labelled", *paths, "--by", "Year")
    assert [group["group"] for group in result["shares"]] == ["kept"]
    assert result["differences"] == []


def test_small_groups_are_left_out_with_a_note(tmp_path, capsys):
    labels = [*ONE, "pro", "con"]
    topics = ["Cars.", "Meat."] * 40 + ["Tea.", "Tea."]
    paths = [write_labelled(tmp_path / f"{n}.csv", labels, topics=topics) for n in (1, 2)]
    result, text = run(capsys, tmp_path, "--labelled", *paths)
    assert len(result["shares"]) == 2 and "--max-groups 10: 1\n" in text
    words = ["--labelled", *paths, "--min-rows", "90", "--output", str(tmp_path / "o")]
    assert "no group has 90 rows" in stop_message(capsys, sensitivity.main, words)


@pytest.mark.parametrize(
    "labels, expected",
    [
        (ONE[:-1], "has 79 rows"),
        ([*ONE[:-1], "maybe"], 'row 81: "maybe" is none of pro, con, neu'),
        ([*ONE[:-1], ""], 'row 81: "" is none of'),
    ],
)
def test_tables_that_do_not_fit_are_named(tmp_path, capsys, labels, expected):
    paths = [write_labelled(tmp_path / "1.csv", ONE), write_labelled(tmp_path / "2.csv", labels)]
    words = ["--labelled", *paths, "--output", str(tmp_path / "out.json")]
    assert expected in stop_message(capsys, sensitivity.main, words)
    assert not (tmp_path / "out.json").exists()


def test_other_rows_are_named(tmp_path, capsys):
    one = write_labelled(tmp_path / "1.csv", ONE)
    other = write_labelled(tmp_path / "2.csv", ONE, topics=("Meat.", "Cars."))
    words = ["--labelled", one, other, "--output", str(tmp_path / "out.json")]
    assert "the 1. row is another one than in" in stop_message(capsys, sensitivity.main, words)


@pytest.mark.parametrize("topic_header", ["claim", "given_topic_2"])
def test_stances_towards_other_topics_are_other_rows_whatever_the_groups(
    tmp_path, capsys, topic_header
):
    header = (topic_header, "text", "year", "stance")
    one = write_labelled(tmp_path / "1.csv", ONE, header)
    other = write_labelled(tmp_path / "2.csv", ONE, header, topics=("Meat.", "Cars."))
    words = ["--labelled", one, other, "--by", "year", "--output", str(tmp_path / "out.json")]
    assert "the 1. row is another one than in" in stop_message(capsys, sensitivity.main, words)


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "give --labelled or --runs"),
        (["--labelled", "a.csv", "--runs", "b"], "give --labelled or --runs"),
        (["--labelled", "a.csv", "a.csv"], "a.csv is named twice"),
        (["--labelled", "a.csv"], "names one table"),
        (["--labelled", "a.csv", "b.csv"], "a.csv not found"),
        (["--runs", "a", "--by", "year"], "--by year goes with --labelled"),
        (["--runs", "nowhere"], "nowhere not found"),
    ],
)
def test_bad_input_is_said_in_one_line(tmp_path, capsys, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in stop_message(capsys, sensitivity.main, words)


# ---------------------------------------------------------------- evaluations


def make_record(number, answer, **more):
    label = prompts.LABELS[number % 3]
    probabilities = {name: 0.8 if name == answer else 0.1 for name in prompts.LABELS}
    models = {"fine-tuned": {"prediction": answer, "probabilities": probabilities}}
    topic = ("Cars.", "Meat.")[number % 2]
    row = {"id": f"{number:016x}", "topic": topic, "text": f"Sentence {number}.", "label": label}
    return {**row, "models": models, **more}


def write_run(folder, answers, variants=()):
    """An evaluation; answers: one a row; variants: (name, answers, what else is in a record)."""
    table = [make_record(number, answer) for number, answer in enumerate(answers)]
    rows = []
    for name, labels, more in variants:
        for number, answer in enumerate(labels):
            rows.append(make_record(number, answer, variant=name, swaps=False, **{}) | more)
    files.write_jsonl(folder / "texts" / "evaluation.jsonl", table)
    hashes = {}
    if rows:
        path = folder / "texts" / "robustness.jsonl"
        hashes[path.name] = files.write_jsonl(path, rows)
    files.write_json(folder / "evaluation.json", {"mode": "score", "records": hashes})
    return str(folder)


def test_prompts_of_a_run_are_specifications_and_share_their_rows(tmp_path, capsys):
    right = [prompts.LABELS[number % 3] for number in range(60)]
    flipped = [prompts.FLIPPED_LABELS[label] for label in right[:30]]
    variants = [
        ("paraphrased prompt", ["pro"] * 30, {}),
        ("lower case", right[:30], {"text": "sentence"}),
        ("negated topic", flipped, {"topic": "It is wrong to claim: Cars.", "swaps": True}),
    ]
    folder = write_run(tmp_path / "one", right, variants)
    result, text = run(capsys, tmp_path, "--runs", folder)
    assert result["names"] == [f"{folder}, usual prompt", f"{folder}, paraphrased prompt"]
    assert result["rows"] == 30 and "30 of 60 test rows" in text
    assert result["shares"][0]["labels"]["pro"]["gold"] == pytest.approx(1 / 3)
    assert "Against people's labels of the same rows" in text

    result, _ = run(capsys, tmp_path, "--runs", folder, "--variants", "all")
    assert result["specifications"] == 4
    pro = result["shares"][0]["labels"]["pro"]["values"]
    assert pro == pytest.approx([1 / 3, 1, 1 / 3, 1 / 3])  # the negated topic is flipped back


def test_runs_are_specifications_of_their_whole_test_split(tmp_path, capsys):
    right = [prompts.LABELS[number % 3] for number in range(60)]
    folders = [write_run(tmp_path / "one", right), write_run(tmp_path / "two", ["pro"] * 60)]
    result, _ = run(capsys, tmp_path, "--runs", *folders, "--variants", "none")
    assert result["rows"] == 60 and result["specifications"] == 2
    assert result["shares"][0]["labels"]["pro"]["values"] == pytest.approx([1 / 3, 1])


def test_one_answer_to_each_row_is_no_comparison(tmp_path, capsys):
    folder = write_run(tmp_path / "one", ["pro"] * 30)
    words = ["--runs", folder, "--output", str(tmp_path / "o.json")]
    assert "answers to one prompt alone" in stop_message(capsys, sensitivity.main, words)


def test_other_test_rows_are_refused(tmp_path, capsys):
    folders = [write_run(tmp_path / "1", ["pro"] * 30), write_run(tmp_path / "2", ["pro"] * 31)]
    words = ["--runs", *folders, "--output", str(tmp_path / "o.json")]
    assert "hold other test rows" in stop_message(capsys, sensitivity.main, words)
