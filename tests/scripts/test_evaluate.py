"""evaluate.py: its records are what plain transformers and peft answer, its numbers are those of its records."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from stopping import stop_message
from tiny_model import NOTE

import evaluate
import finetune
import prompts
from stance.common import files
from stance.common.run_files import find_text
from stance.corpus import splitting
from stance.evaluation import (
    baselines,
    metrics,
    model_card,
    predictions,
    prompt_variants,
    report,
)
from stance.model import loading, scoring
from stance.training import checkpoints

KEYS = ("accuracy", "micro_f1", "macro_f1")
RECORD = '{"id": "1", "topic": "t", "text": "s", "label": "%s", "models": {%s}}\n'
OTHER = '{"id": "2", "topic": "t", "text": "s", "label": "con", "models": {%s}}\n'
SCORED = '"base": {"prediction": %s, "probabilities": {"pro": %s, "con": 0, "neu": 0}}'
ANSWERED = RECORD % ("pro", '"base": {"prediction": "pro"}')
TEXT_FILES = {  # that an evaluation leaves in texts/
    "evaluation.jsonl", "validation.jsonl", "robustness.jsonl", "report.md", "errors.xlsx",
}  # fmt: skip
FILES = {  # that it leaves beside it
    "evaluation.json", "results.tex", "confusion.png", "topics.png", "reliability.png",
    "coverage.png",
} | {f"texts/{name}" for name in TEXT_FILES}  # fmt: skip


@pytest.fixture(scope="module")
def run_evaluate(trained_run, data_dir):
    """A function that evaluates the trained run and returns (records, evaluation.json)."""

    def run(output_dir, *flags):
        words = ["--adapter", str(trained_run), "--output-dir", str(output_dir), *flags]
        if "--data-dir" not in flags:
            words += ["--data-dir", data_dir]
        evaluate.main(words)
        return read_results(output_dir)

    return run


@pytest.fixture(scope="module")
def scored(run_evaluate, tmp_path_factory):
    """(folder, records, evaluation.json) of --mode score."""
    folder = tmp_path_factory.mktemp("scored")
    return folder, *run_evaluate(folder)


@pytest.fixture(scope="module")
def generated(run_evaluate, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    return folder, *run_evaluate(folder, "--mode", "generate")


@pytest.fixture(scope="module")
def test_rows(data_dir):
    return files.read_jsonl(f"{data_dir}/test.jsonl", (), "fix the test")


@pytest.fixture(scope="module")
def plain(tiny_model, trained_run, load_plain):
    """{model name: model} by transformers and peft alone."""
    return {"base": load_plain(tiny_model), "fine-tuned": load_plain(tiny_model, trained_run)}


@pytest.fixture(scope="module")
def plain_prompts(tiny_model, test_rows):
    """(tokenizer, token ids of each test row), by the chat template."""
    tokenizer = loading.load_tokenizer(tiny_model)
    messages = [prompts.build_messages(row["topic"], row["text"]) for row in test_rows]
    options = {"add_generation_prompt": True, "return_dict": False}
    return tokenizer, [tokenizer.apply_chat_template(message, **options) for message in messages]


@pytest.fixture(scope="module")
def flat(plain, plain_prompts, flat_labels):
    """{model name: ((probabilities, tolerance), (label mass, tolerance))} of the test rows, by plain forwards."""
    return {name: flat_labels(model, *plain_prompts) for name, model in plain.items()}


@pytest.fixture(scope="module")
def tie(flat):
    """Labels of the adapter that are no farther apart may swap: rounding decides."""
    (_, tolerance), _ = flat["fine-tuned"]
    return tolerance


def read_results(folder):
    rows = files.read_jsonl(find_text(folder, "evaluation.jsonl"), (), "fix the test")
    return rows, files.read_json(Path(folder) / "evaluation.json", "fix the test")


def list_files(folder):
    """The paths of all files in a folder of results, but for the note on texts/."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert "texts/README.md" in found
    return found - {"texts/README.md"}


def main(*flags):
    evaluate.main([str(flag) for flag in flags])


# ---------------------------------------------------------------- the answers


def test_records_are_the_test_rows_in_their_order(scored, test_rows):
    _, rows, _ = scored
    shared = ("id", "topic", "text", "label", "source_id")
    assert [[row[key] for key in shared] for row in rows] == [
        [row[key] for key in shared] for row in test_rows
    ]
    for row in rows:
        assert list(row) == [*shared, "models", "baselines"] and list(row["models"]) == [
            "base",
            "fine-tuned",
        ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base", "fine-tuned"])
def test_probabilities_are_those_of_plain_peft(scored, flat, name):
    """And the same label but for ties."""
    _, rows, _ = scored
    (expected, tolerance), (masses, mass_tolerance) = flat[name]
    decided = 0
    for row, probabilities, mass in zip(rows, expected.tolist(), masses.tolist(), strict=True):
        answer = row["models"][name]
        assert list(answer["probabilities"]) == list(prompts.LABELS)
        assert list(answer["probabilities"].values()) == pytest.approx(probabilities, abs=tolerance)
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert answer["label_mass"] == pytest.approx(mass, abs=mass_tolerance)
        first, second, _ = sorted(probabilities, reverse=True)
        if first - second > tolerance:
            assert answer["prediction"] == prompts.LABELS[probabilities.index(first)]
            decided += 1
    assert (
        decided > len(rows) / 2 or name == "base"
    )  # which has learnt no difference between labels
    others, (other_masses, _) = flat["base" if name == "fine-tuned" else "fine-tuned"]
    assert (others[0] - expected).abs().amax(
        1
    ).min() > 2 * tolerance  # in every row the other model would show
    assert (other_masses - masses).abs().min() > 2 * mass_tolerance
    assert (
        expected.std(0).min() > 2 * tolerance or name == "base"
    )  # and so would another order of the rows


@pytest.mark.slow
def test_labels_are_those_that_plain_generate_writes(scored, plain, plain_prompts, tie):
    _, rows, _ = scored
    tokenizer, sequences = plain_prompts
    seen = set()
    for row, ids in zip(rows, sequences, strict=True):
        answer = row["models"]["fine-tuned"]
        first, second, _ = sorted(answer["probabilities"].values(), reverse=True)
        if first - second > tie:
            batch = torch.tensor([ids], device=plain["fine-tuned"].device)
            options = {
                "attention_mask": torch.ones_like(batch),
                "max_new_tokens": 8,
                "do_sample": False,
            }
            output = plain["fine-tuned"].generate(batch, **options)
            assert (
                tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
                == answer["prediction"]
            )
            seen.add(answer["prediction"])
    assert len(seen) >= 2  # the adapter answers differently to different sentences


def test_a_prediction_is_the_most_probable_label(scored):
    for row in scored[1]:
        for answer in row["models"].values():
            assert answer["prediction"] == max(
                answer["probabilities"], key=answer["probabilities"].get
            )


@pytest.mark.slow
def test_generated_records_hold_the_reply(generated, scored, tie):
    _, rows, result = generated
    assert result["mode"] == "generate" and scored[2]["mode"] == "score"
    for row, other in zip(rows, scored[1], strict=True):
        assert (row["id"], list(row["models"])) == (other["id"], list(other["models"]))
        for answer in row["models"].values():
            assert list(answer) == ["prediction", "reply"]
            assert answer["prediction"] == prompts.parse_label(answer["reply"])
        answer = other["models"]["fine-tuned"]
        first, second, _ = sorted(answer["probabilities"].values(), reverse=True)
        assert (
            row["models"]["fine-tuned"]["prediction"] == answer["prediction"]
            or first - second <= tie
        )


def test_replies_that_are_no_label_are_invalid(generated, capsys):
    """The base of these tests has not learnt to answer with a label."""
    folder, rows, result = generated
    assert [row["models"]["base"]["prediction"] for row in rows] == [None] * len(rows)
    assert all(prompts.parse_label(row["models"]["base"]["reply"]) is None for row in rows)
    base, tuned = result["metrics"]["base"], result["metrics"]["fine-tuned"]
    assert (base["invalid"], base["accuracy"], base["micro_f1"], base["macro_f1"]) == (
        len(rows),
        0,
        0,
        0,
    )
    assert [row[3] for row in base["confusion"]] == [
        label["support"] for label in base["labels"].values()
    ]
    assert (
        tuned["invalid"]
        == sum(row["models"]["fine-tuned"]["prediction"] is None for row in rows)
        < len(rows) / 2
    )


def test_some_invalid_replies(run_evaluate, tmp_path, monkeypatch, capsys):
    replies = ["pro", "Con.", "neutral", "maybe", "", "pro or con"]
    monkeypatch.setattr(
        scoring, "generate_replies", lambda model, tokenizer, encoded: (replies * 9)[: len(encoded)]
    )
    rows, result = run_evaluate(tmp_path, "--mode", "generate")
    assert [row["models"]["base"]["prediction"] for row in rows[:6]] == [
        "pro",
        "con",
        "neu",
        None,
        None,
        None,
    ]
    assert result["metrics"]["base"]["invalid"] == len(rows) / 2
    assert (
        f"{len(rows)}       {len(rows) // 2}\n" in capsys.readouterr().out
    )  # columns n and invalid


# ---------------------------------------------------------------- the numbers


@pytest.mark.parametrize("mode", ["scored", "generated"])
def test_numbers_are_those_of_the_records(request, mode):
    _, rows, result = request.getfixturevalue(mode)
    gold = [row["label"] for row in rows]
    for name in ("base", "fine-tuned"):
        predicted = [row["models"][name]["prediction"] for row in rows]
        numbers = dict(result["metrics"][name])
        topics = numbers.pop("topics")
        assert numbers.pop("other_topics") is None
        assert numbers == metrics.compute_metrics(gold, predicted)
        assert list(topics) == sorted({row["topic"] for row in rows})
        for topic, part in topics.items():
            chosen = [place for place, row in enumerate(rows) if row["topic"] == topic]
            assert part == metrics.compute_metrics(
                [gold[i] for i in chosen], [predicted[i] for i in chosen]
            )
    assert result["metrics"]["fine-tuned"]["accuracy"] > 0.5  # the adapter has learnt something


def test_evaluation_tells_what_was_run(scored, tiny_model, trained_run, data_dir):
    folder, rows, result = scored
    assert list_files(folder) == FILES
    assert result["records"] == {
        name: files.hash_file(find_text(folder, name))
        for name in ("validation.jsonl", "robustness.jsonl")
    }
    assert (result["base_model"], result["adapter"]) == (tiny_model, str(trained_run))
    assert result["test_sha256"] == files.hash_file(f"{data_dir}/test.jsonl")
    assert result["prompt_version"] == prompts.PROMPT_VERSION
    assert result["shortened_sentences"] == 0
    assert result["demo"] is True and result["note"] == NOTE
    assert {"versions", "git"} <= set(result["environment"])
    assert result["seconds"] > 0 and result["answers_per_second"] > 0


@pytest.mark.slow
def test_the_printed_tables_show_the_numbers(run_evaluate, tmp_path, capsys):
    _, result = run_evaluate(tmp_path)
    output = capsys.readouterr().out
    lines = [line.split() for line in output.splitlines()]
    for name, numbers in result["metrics"].items():
        figures = [f"{numbers[key]:.3f}" for key in ("accuracy", "micro_f1", "macro_f1")]
        assert [name, *figures, str(numbers["n"]), str(numbers["invalid"])] in lines
        for label, part in numbers["labels"].items():
            figures = [f"{part[key]:.3f}" for key in ("precision", "recall", "f1")]
            assert [label, *figures, str(part["support"])] in lines
        for topic, part in numbers["topics"].items():
            assert [
                *topic.split(),
                f"{part['accuracy']:.3f}",
                f"{part['macro_f1']:.3f}",
                str(part["n"]),
            ] in lines
    assert ["Model", "Accuracy", "Micro-F1", "Macro-F1", "n", "invalid"] in lines
    assert NOTE in output.splitlines()


# ---------------------------------------------------------------- rescoring


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["scored", "generated"])
def test_rescoring_gives_the_same_tables_without_a_model(
    request, mode, tmp_path, capsys, monkeypatch
):
    folder, _, result = request.getfixturevalue(mode)
    monkeypatch.setattr(loading, "load_base", None)
    monkeypatch.setattr(loading, "load_tokenizer", None)
    capsys.readouterr()
    evaluate.print_report(result["metrics"], {})
    tables = capsys.readouterr().out
    evaluate.main(
        ["--predictions", str(find_text(folder, "evaluation.jsonl")), "--output-dir", str(tmp_path)]
    )
    output = capsys.readouterr().out
    assert tables in output
    again = files.read_json(tmp_path / "evaluation.json", "fix the test")
    assert again["metrics"] == result["metrics"] and again["analysis"] == result["analysis"]
    for name in ("report.md", "results.tex", "confusion.png"):
        assert find_text(tmp_path, name).read_bytes() == find_text(folder, name).read_bytes()
    assert list(again["metrics"]["base"]["topics"]) == list(result["metrics"]["base"]["topics"])
    assert again["rescored"] == "evaluation.jsonl"
    assert {key: again[key] for key in ("base_model", "mode", "note")}.items() <= result.items()
    assert (tmp_path / "confusion.png").is_file()


def test_rescoring_writes_what_it_says(scored, tmp_path, capsys):
    evaluate.main(
        [
            "--predictions",
            str(find_text(scored[0], "evaluation.jsonl")),
            "--output-dir",
            str(tmp_path),
        ]
    )
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("wrote ")
    for name in FILES:
        assert (name in last.replace(",", " ").split()) == (tmp_path / name).is_file(), name


@pytest.mark.parametrize("given", ["evaluation.jsonl", "texts/evaluation.jsonl", "."])
def test_records_are_found_in_old_and_new_places(scored, tmp_path, given):
    """Files of an earlier version lie beside the numbers; their successors take their place."""
    folder, _, result = scored
    old = given == "evaluation.jsonl"
    home = tmp_path / "home"
    shutil.copytree(folder, home)
    if old:
        for name in TEXT_FILES:
            (home / "texts" / name).rename(home / name)
        shutil.rmtree(home / "texts")
    main("--predictions", home / given)
    again = files.read_json(home / "evaluation.json", "fix the test")
    assert again["analysis"] == result["analysis"] and not again["changed_records"]
    assert (home / "texts" / "report.md").is_file() and not (home / "report.md").exists()
    assert (home / "evaluation.jsonl").is_file() == old  # records stay where they are
    main("--predictions", home / "evaluation.jsonl", "--output-dir", tmp_path / "out")
    assert read_results(home)[1]["metrics"] == result["metrics"]
    main("--runs", home, "--output-dir", tmp_path / "runs")
    assert (tmp_path / "runs" / "runs.json").is_file()


def test_a_new_evaluation_leaves_no_records_in_the_old_place(scored, tmp_path):
    _, rows, result = scored
    for name in TEXT_FILES:
        (tmp_path / name).write_text("old")
    parts = {"evaluation": rows, "validation": [], "robustness": []}
    written = predictions.write_parts(tmp_path, parts, dict(result))
    assert written == ["texts/evaluation.jsonl"]
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left == {"report.md", "errors.xlsx"}  # report.write_results replaces these


@pytest.mark.slow
def test_rescoring_in_place_keeps_the_record_of_the_run(run_evaluate, tmp_path, capsys):
    """Numbers of the tiny model must stay marked, and numbers must not lose the model that they come from."""
    _, before = run_evaluate(tmp_path)
    lines = find_text(tmp_path, "evaluation.jsonl").read_bytes()
    capsys.readouterr()
    evaluate.main(["--predictions", str(find_text(tmp_path, "evaluation.jsonl"))])
    assert find_text(tmp_path, "evaluation.jsonl").read_bytes() == lines
    _, after = read_results(tmp_path)
    assert after["metrics"] == before["metrics"]
    for key in ("base_model", "adapter", "mode", "demo", "note", "test_sha256"):
        assert after.get(key) == before[key], key
    assert NOTE in capsys.readouterr().out


def test_records_of_earlier_versions_give_the_same_tables(scored, tmp_path):
    """Their baselines were called floors."""
    folder, rows, result = scored
    earlier, out = tmp_path / "earlier", tmp_path / "out"
    earlier.mkdir()
    for name in ("validation.jsonl", "robustness.jsonl"):
        (earlier / name).write_bytes(find_text(folder, name).read_bytes())
    renamed = []
    for row in rows:
        row = dict(row)
        row["floors"] = row.pop("baselines")
        renamed.append(row)
    written = {"evaluation_sha256": files.write_jsonl(earlier / "evaluation.jsonl", renamed)}
    files.write_json(earlier / "evaluation.json", {**result, **written})
    main("--predictions", find_text(earlier, "evaluation.jsonl"), "--output-dir", out)
    again = files.read_json(out / "evaluation.json", "fix the test")
    assert list(again["analysis"]["intervals"])[:2] == ["majority", "tf-idf"]
    assert again["metrics"] == result["metrics"] and again["analysis"] == result["analysis"]
    for name in ("report.md", "results.tex"):
        assert find_text(out, name).read_bytes() == find_text(folder, name).read_bytes()


@pytest.mark.parametrize("content, expected", [
    (None, "not found"),
    (ANSWERED.replace('"label"', '"source_id": 7, "label"'), "source_id must be"),
    (ANSWERED.replace('"label"', '"source_id": ["a", 7], "label"'), "source_id must be"),
    (ANSWERED.replace('"label"', '"agreement": 1.5, "label"'), "agreement must be"),
    (ANSWERED.replace('"label"', '"agreement": true, "label"'), "agreement must be"),
    (ANSWERED.replace('"label"', '"leaked": 1, "label"'), "leaked must be"),
    (RECORD % ("pro", SCORED % ('"con"', "1")), "the highest that of the label"),
    ("", "is empty"),
    ('{"id": "1"}\n', "line 1: no topic, text, label, models"),
    ('{"id": ', "line 1"),
    (RECORD % ("pro", '"base": {"prediction": null}') + RECORD % ("pro", '"mine": {"prediction": null}'), "line 2"),
    (RECORD % ("pro", '"base": {"prediction": null}') + RECORD % ("Pro", '"base": {"prediction": null}'), "line 2"),
    (RECORD % ("pro", '"base": {"prediction": "contra"}'), "line 1"),
    (RECORD % ("pro", '"base": {"prediction": "pro", "probabilities": {"pro": 1}}'), "line 1"),
    (RECORD % ("pro", '"base": {"prediction": "pro", "probabilities": null}'), "line 1: no prediction of base"),
    (RECORD % ("pro", '"base": {"prediction": "pro", "probabilities": [1, 0, 0]}'), "line 1: no prediction of base"),
    (RECORD % ("pro", SCORED % ("null", 1)), "line 1: no prediction of base"),
    (RECORD % ("pro", SCORED % ('"pro"', "NaN")), "numbers from 0 to 1"),
    (RECORD % ("pro", SCORED % ('"pro"', "Infinity")), "numbers from 0 to 1"),
    (RECORD % ("pro", SCORED % ('"pro"', "1e400")), "numbers from 0 to 1"),
    (RECORD % ("pro", SCORED % ('"pro"', '"1"')), "numbers from 0 to 1"),
    (RECORD % ("pro", SCORED % ('"pro"', "true")), "numbers from 0 to 1"),
    (RECORD % ("pro", SCORED % ('"pro"', "-0.2")), "numbers from 0 to 1"),
    (RECORD % ("pro", SCORED % ('"pro"', "1.5")), "numbers from 0 to 1"),
    (RECORD % ("pro", SCORED % ('"pro"', "0.4")), "add up to 1"),
    (RECORD % ("pro", '"base": {"prediction": ["pro"]}'), "line 1: no prediction of base"),
    (
        RECORD % ("pro", SCORED % ('"pro"', 1)) + OTHER % '"base": {"prediction": "pro"}',
        "line 2: not all lines and models have probabilities",
    ),
    (
        RECORD % ("pro", SCORED % ('"pro"', 1) + ', "mine": {"prediction": "pro"}'),
        "line 1: not all lines and models have probabilities",
    ),
    (RECORD % ("pro", '"base": {"prediction": "pro"}') * 2, "line 2: the id 1 of line 1 again"),
    ("\n" + RECORD % ("pro", '"base": {"prediction": "x"}'), "line 2: no prediction of base"),
    (ANSWERED.replace('"s"', "null"), "line 1: topic and text must be texts"),
    (ANSWERED.replace('"t"', "7"), "line 1: topic and text must be texts"),
    (ANSWERED.replace('"1"', '["1"]'), "line 1: its id or variant is no name"),
    (ANSWERED.replace("}}}", '}}, "baselines": null}'), "line 1: not the baselines"),
    (ANSWERED.replace("}}}", '}}, "baselines": {"tf-idf": "Pro"}}'), "line 1: not the baselines"),
    (
        ANSWERED.replace("}}}", '}}, "baselines": {"tf-idf": "pro"}}')
        + OTHER % '"base": {"prediction": "pro"}',
        "line 2: not the baselines of the first line",
    ),
])  # fmt: skip
def test_other_files_are_no_predictions(tmp_path, capsys, content, expected):
    path = tmp_path / "evaluation.jsonl"
    if content is not None:
        path.write_text(content)
    message = stop_message(capsys, main, "--predictions", path, "--output-dir", tmp_path / "out")
    assert expected in message and ("evaluate.py" in message or "evaluate again" in message)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name, change", [
    ("validation", lambda path: path.unlink()),
    ("robustness", lambda path: path.write_bytes(path.read_bytes().replace(b'"neu"', b'"pro"', 1))),
])  # fmt: skip
def test_side_records_of_another_evaluation_are_left_out(scored, tmp_path, capsys, name, change):
    for file in ("evaluation.jsonl", "evaluation.json", "validation.jsonl", "robustness.jsonl"):
        (tmp_path / file).write_bytes(find_text(scored[0], file).read_bytes())
    change(tmp_path / f"{name}.jsonl")
    evaluate.main(
        [
            "--predictions",
            str(find_text(tmp_path, "evaluation.jsonl")),
            "--output-dir",
            str(tmp_path / "out"),
        ]
    )
    assert f"note: {tmp_path / name}.jsonl is missing or was changed" in capsys.readouterr().out
    found = files.read_json(tmp_path / "out" / "evaluation.json", "fix the test")["analysis"]
    assert (found["robustness"] == {}) == (name == "robustness")
    assert ("temperature" in found["calibration"]["base"]) == (name != "validation")


@pytest.mark.parametrize("where", ["evaluation", "robustness"])
def test_a_missing_label_in_score_mode_ends_in_one_line(copied, where, tmp_path, capsys):
    """Not in a KeyError where variants are compared."""
    folder = Path(copied("one"))
    names = {"evaluation": "evaluation.jsonl", "robustness": "robustness.jsonl"}
    for name in ("validation.jsonl", "robustness.jsonl"):
        (folder / name).write_bytes((folder.parent / "sides" / name).read_bytes())
    rows = files.read_jsonl(folder / names[where], (), "fix the test")
    for row in rows:
        for answer in row["models"].values():
            del answer["probabilities"]
    rows[1]["models"]["base"]["prediction"] = None
    files.write_jsonl(folder / names[where], rows)
    described = files.read_json(folder / "evaluation.json", "fix the test")
    described["records"][names["robustness"]] = files.hash_file(
        find_text(folder, "robustness.jsonl")
    )
    for mode in ("score", None):  # None: what only the records say
        files.write_json(folder / "evaluation.json", {**described, "mode": mode})
        flags = (
            "--predictions",
            find_text(folder, "evaluation.jsonl"),
            "--output-dir",
            tmp_path / "out",
        )
        message = stop_message(capsys, main, *flags)
        assert "evaluate again" in message and f"{where}.jsonl" in message
        assert not (tmp_path / "out").exists()


def test_runs_with_a_missing_label_in_score_mode_are_refused(copied, tmp_path, capsys):
    def spoil_answers(rows):
        for row in rows:
            for answer in row["models"].values():
                del answer["probabilities"]
        rows[0]["models"]["base"]["prediction"] = None

    out = tmp_path / "out"
    flags = ("--runs", copied("one"), copied("two", spoil_answers), "--output-dir", out)
    message = stop_message(capsys, main, *flags)
    assert "two/evaluation.jsonl: base has no label for the row" in message and not out.exists()


@pytest.mark.parametrize("change, expected", [
    (lambda row: row["models"].pop("base"), "robustness.jsonl has not the models"),
    (lambda row: row.pop("swaps"), "is of no prompt variant"),
    (lambda row: row.pop("variant"), "again: evaluate again"),
])  # fmt: skip
def test_side_records_that_do_not_fit_end_in_one_line(copied, tmp_path, capsys, change, expected):
    folder = Path(copied("one"))
    for name in ("validation.jsonl", "robustness.jsonl"):
        (folder / name).write_bytes((folder.parent / "sides" / name).read_bytes())
    rows = files.read_jsonl(find_text(folder, "robustness.jsonl"), (), "fix the test")
    for row in rows:
        change(row)
    files.write_jsonl(folder / "robustness.jsonl", rows)
    described = files.read_json(folder / "evaluation.json", "fix the test")
    described["records"]["robustness.jsonl"] = files.hash_file(
        find_text(folder, "robustness.jsonl")
    )
    files.write_json(folder / "evaluation.json", described)
    flags = (
        "--predictions",
        find_text(folder, "evaluation.jsonl"),
        "--output-dir",
        tmp_path / "out",
    )
    assert expected in stop_message(capsys, main, *flags) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["validation", "robustness"])
def test_side_records_are_no_predictions(home, capsys, name):
    """They would take the place of the test split's numbers, in the adapter's card too."""
    before = (home / "evaluation.json").read_bytes()
    message = stop_message(capsys, main, "--predictions", home / f"{name}.jsonl")
    assert (
        f"{name}.jsonl does not hold the answers of the test split: give {home / 'evaluation.jsonl'}"
        in message
    )
    assert (home / "evaluation.json").read_bytes() == before


def test_variants_of_rows_that_were_taken_out_are_left_out(home, tmp_path, capsys):
    rows = files.read_jsonl(find_text(home, "evaluation.jsonl"), (), "fix the test")
    files.write_jsonl(home / "evaluation.jsonl", rows[1:])
    evaluate.main(
        [
            "--predictions",
            str(find_text(home, "evaluation.jsonl")),
            "--output-dir",
            str(tmp_path / "out"),
        ]
    )
    assert (
        "evaluation.jsonl lacks rows of robustness.jsonl: its tables are left out"
        in capsys.readouterr().out
    )
    assert (
        files.read_json(tmp_path / "out" / "evaluation.json", "fix the test")["analysis"][
            "robustness"
        ]
        == {}
    )


def test_side_records_that_nothing_names_are_not_used(scored, tmp_path, capsys):
    """Records of a --mode score evaluation may lie where --mode generate has written since."""
    for file in ("evaluation.jsonl", "validation.jsonl", "robustness.jsonl"):
        (tmp_path / file).write_bytes(find_text(scored[0], file).read_bytes())
    evaluate.main(["--predictions", str(find_text(tmp_path, "evaluation.jsonl"))])
    assert (
        files.read_json(tmp_path / "evaluation.json", "fix the test")["analysis"]["robustness"]
        == {}
    )
    assert f"note: {tmp_path / 'evaluation.json'} not found" in capsys.readouterr().out
    text = find_text(tmp_path, "report.md").read_text(encoding="utf-8")
    assert "None" not in text and "base and adapter unknown" in text


# ---------------------------------------------------------------- validation, baselines and robustness


def read_side(scored, name):
    return files.read_jsonl(find_text(scored[0], f"{name}.jsonl"), (), "fix the test")


def test_baselines_are_in_the_records(scored, data_dir):
    splits = [
        files.read_jsonl(f"{data_dir}/{name}.jsonl", (), "fix the test")
        for name in ("train", "val", "test")
    ]
    for name, labels in baselines.predict_baselines(*splits).items():
        assert [row["baselines"][name] for row in scored[1]] == labels
    assert list(scored[2]["analysis"]["intervals"]) == ["majority", "tf-idf", "base", "fine-tuned"]


@pytest.mark.slow
def test_validation_records_are_those_of_the_validation_split(
    run_evaluate, scored, data_dir, tmp_path
):
    """As if it were the test split."""
    rows = read_side(scored, "validation")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_bytes(Path(data_dir, "val.jsonl").read_bytes())
    as_test, _ = run_evaluate(
        tmp_path / "out", "--data-dir", str(tmp_path / "data"), "--robustness-rows", "0"
    )
    assert rows == as_test
    assert {row["id"] for row in rows}.isdisjoint(row["id"] for row in scored[1])


@pytest.mark.parametrize("name", ["base", "fine-tuned"])
def test_variants_are_asked_as_they_say(scored, plain, plain_prompts, flat_labels, test_rows, name):
    """Probabilities of plain peft for the variant's prompt in the chat template, for the first two rows."""
    tokenizer, _ = plain_prompts
    answers, sequences = [], []
    asked = {(row["variant"], row["id"]): row for row in read_side(scored, "robustness")}
    variants = prompt_variants.build_variants(test_rows)
    assert list(asked) == [(variant, row["id"]) for variant in variants for row in test_rows]
    for variant, (template, pairs, _) in variants.items():
        for row, (topic, text) in list(zip(test_rows, pairs, strict=True))[:2]:
            found = asked[variant, row["id"]]
            assert (found["topic"], found["text"], found["label"]) == (topic, text, row["label"])
            message = [{"role": "user", "content": prompts.build_prompt(topic, text, template)}]
            sequences.append(
                tokenizer.apply_chat_template(
                    message, add_generation_prompt=True, return_dict=False
                )
            )
            answers.append(list(found["models"][name]["probabilities"].values()))
    (expected, tolerance), _ = flat_labels(plain[name], tokenizer, sequences)
    assert (torch.tensor(answers) - expected).abs().max() <= tolerance


def test_every_part_is_asked_with_its_own_prompt(
    run_evaluate, plain_prompts, test_rows, data_dir, tmp_path, monkeypatch
):
    """The token ids are those of the chat template; the tiny model hardly tells one wording from another."""
    tokenizer, usual = plain_prompts
    asked = []

    def score(model, tokenizer, encoded, batch_size):
        asked.append(encoded)
        count = len(encoded)
        return scoring.Scores(
            torch.full((count, 3), 1 / 3), torch.ones(count), torch.ones(count, 3), 128
        )

    monkeypatch.setattr(scoring, "score_prompts", score)
    run_evaluate(tmp_path, "--robustness-rows", "4")
    val = files.read_jsonl(f"{data_dir}/val.jsonl", (), "fix the test")
    wanted = [[prompts.build_prompt(row["topic"], row["text"]) for row in val]]
    for template, pairs, _ in prompt_variants.build_variants(test_rows[:4]).values():
        wanted.append([prompts.build_prompt(*pair, template) for pair in pairs])
    options = {"add_generation_prompt": True, "return_dict": False}
    messages = [[[{"role": "user", "content": text}] for text in texts] for texts in wanted]
    encoded = [
        usual,
        *([tokenizer.apply_chat_template(one, **options) for one in part] for part in messages),
    ]
    assert asked == encoded * 2  # by base and adapter


@pytest.mark.slow
def test_robustness_rows(run_evaluate, tmp_path, capsys, test_rows):
    _, result = run_evaluate(tmp_path / "five", "--robustness-rows", "5")
    numbers = result["analysis"]["robustness"]
    assert {part["n"] for models in numbers.values() for part in models.values()} == {5} and len(
        numbers
    ) == 5
    asked = files.read_jsonl(find_text(tmp_path / "five", "robustness.jsonl"), (), "fix the test")
    assert [row["id"] for row in asked] == [row["id"] for row in test_rows[:5]] * 5
    _, result = run_evaluate(tmp_path / "none", "--robustness-rows", "0")
    assert (
        result["analysis"]["robustness"] == {}
        and not find_text(tmp_path / "none", "robustness.jsonl").exists()
    )
    assert "--robustness-rows -1" in stop_message(capsys, main, "--robustness-rows", "-1")


def test_generated_answers_have_no_side_records(generated):
    folder, rows, result = generated
    absent = {"texts/validation.jsonl", "texts/robustness.jsonl", "reliability.png", "coverage.png"}
    assert list_files(folder) == FILES - absent and result["records"] == {}
    assert result["analysis"]["calibration"] == {} and "baselines" in rows[0]


def test_tiny_probabilities_keep_their_size():
    """A temperature needs the logarithm of every probability: with six decimals those of a sure adapter would be 0."""
    scores = scoring.Scores(torch.tensor([[1 - 3e-9, 2e-9, 1e-9]]), torch.tensor([0.5]), None, 128)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "score_prompts", lambda *words: scores)
        [answer] = evaluate.predict_rows(None, None, [[1]], "score")
    assert (
        answer["probabilities"]["con"] == pytest.approx(2e-9, rel=1e-5)
        and answer["probabilities"]["neu"] > 0
    )


def test_a_sentence_in_two_splits_is_refused(data_dir, trained_run, tmp_path, capsys):
    for name in ("test", "val"):
        (tmp_path / f"{name}.jsonl").write_bytes(Path(data_dir, "test.jsonl").read_bytes())
    flags = ("--adapter", trained_run, "--data-dir", tmp_path, "--output-dir", tmp_path / "out")
    message = stop_message(capsys, main, *flags)
    assert "two splits" in message and not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the screen


def test_the_summary_is_printed_first_and_the_statistics_below(scored, tmp_path, capsys):
    capsys.readouterr()
    evaluate.main(
        [
            "--predictions",
            str(find_text(scored[0], "evaluation.jsonl")),
            "--output-dir",
            str(tmp_path),
        ]
    )
    output = capsys.readouterr().out
    first, *_ = output.strip().splitlines()
    assert first.split() == ["Model", "Accuracy", "Micro-F1", "Macro-F1", "n", "invalid"]
    assert report.format_statistics(scored[2]["analysis"]) in output
    assert "fine-tuned against base: " in output and "McNemar's exact test p" in output


# ---------------------------------------------------------------- two of three labels in the gold column

BINARY_NOTE = "Macro-F1 is the mean over pro and con: no row has the gold label neu."


# ---------------------------------------------------------------- leaked rows


@pytest.mark.slow
def test_leaked_rows_are_answered_counted_and_scored_apart(
    run_evaluate, data_dir, tmp_path, capsys
):
    """They carry what the split says of them, and stop nothing in the adapter's own splits."""
    names = ("train", "val", "test")
    splits = {name: splitting.load_split(Path(data_dir, f"{name}.jsonl")) for name in names}
    known = {**splits["train"][0], "source_id": ["a:1", "a:2"], "agreement": 0.75, "leaked": True}
    splits["test"].append(known)
    source = splitting.read_report(data_dir, names)
    splitting.write_splits(tmp_path / "data", splits, source)
    capsys.readouterr()
    words = ("--data-dir", str(tmp_path / "data"), "--robustness-rows", "0")
    rows, result = run_evaluate(tmp_path / "out", *words)
    assert {key: rows[-1][key] for key in splitting.MORE_KEYS} == {
        key: known[key] for key in splitting.MORE_KEYS
    }
    assert not any("leaked" in row or "agreement" in row for row in rows[:-1])
    assert result["splits_of_adapter"] and not result["unseen_test"]
    assert result["leaked_rows"] == {"test": 1, "val": 0}
    leaks = result["analysis"]["leaks"]
    assert (leaks["leaked"], leaks["rows"], leaks["n"]) == (1, 25, 24)
    gold = [row["label"] for row in rows[:-1]]
    tuned = [row["models"]["fine-tuned"]["prediction"] for row in rows[:-1]]
    accuracy = metrics.compute_metrics(gold, tuned)["accuracy"]
    assert leaks["scores"]["fine-tuned"]["accuracy"] == accuracy
    note = (
        "1 of 25 test rows are leaked: their sentences also stand in the train or validation split."
    )
    lines = capsys.readouterr().out.splitlines()
    assert f"note: {note}" in lines
    table = lines[lines.index("without the leaked rows") :]
    assert ["fine-tuned", f"{accuracy:.3f}"] in [line.split()[:2] for line in table]
    for name in ("report.md", "results.tex"):
        assert note in find_text(tmp_path / "out", name).read_text(encoding="utf-8")


def mark_first(rows):
    """Mark the first row as leaked."""
    rows[0]["leaked"] = True


def test_runs_with_leaked_rows_have_a_second_table(copied, tmp_path, capsys):
    one, two, out = copied("one", mark_first), copied("two", mark_first), tmp_path / "out"
    main("--runs", one, two, "--output-dir", out)
    result = files.read_json(out / "runs.json", "fix the test")
    kept = result["without_leaks"]["runs"][one]["fine-tuned"]
    assert (result["leaked"], kept["n"]) == (1, 23)
    output = capsys.readouterr().out
    note = (
        "1 of 24 test rows are leaked: their sentences also stand in the train or validation split."
    )
    assert note in output and "\nwithout the leaked rows\n" in output
    text = (out / "runs.tex").read_text(encoding="utf-8")
    assert note in text and text.count(r"\toprule") == 2 and "Without the leaked rows." in text


def test_runs_on_other_leaked_rows_are_refused(copied, tmp_path, capsys):
    one, two = copied("one", mark_first), copied("two")
    message = stop_message(capsys, main, "--runs", one, two, "--output-dir", tmp_path / "out")
    assert "hold other rows" in message


def test_leaked_rows_of_records_without_their_run_are_counted(binary, capsys):
    folder = binary("one")
    rows = files.read_jsonl(find_text(folder, "evaluation.jsonl"), (), "fix the test")
    mark_first(rows)
    files.write_jsonl(folder / "evaluation.jsonl", rows)
    main("--predictions", find_text(folder, "evaluation.jsonl"))
    result = files.read_json(folder / "evaluation.json", "fix the test")
    assert result["leaked_rows"] == {"val": 0, "test": 1}
    assert "1 of 40 test rows are leaked" in capsys.readouterr().out


@pytest.fixture
def binary(tmp_path):
    """A function that writes records on two topics without gold neu to a folder, and returns it.

    The adapter is right but for so many answers neu; the base always answers neu.
    """

    def write(name, wrong=0):
        folder = tmp_path / name
        rows = []
        for number in range(40):
            label = ("pro", "con")[number % 2]
            answer = "neu" if number < wrong else label
            models = {"base": {"prediction": "neu"}, "fine-tuned": {"prediction": answer}}
            row = {"id": str(number), "topic": f"Topic {number % 4 // 2}", "text": "s"}
            rows.append({**row, "label": label, "models": models})
        files.write_jsonl(folder / "evaluation.jsonl", rows)
        described = {"test_sha256": "a", "mode": "generate", "prompt_version": "b", "note": None}
        files.write_json(folder / "evaluation.json", described)
        return folder

    return write


def test_a_perfect_model_without_gold_neu_has_macro_f1_1(binary, capsys):
    folder = binary("one")
    main("--predictions", find_text(folder, "evaluation.jsonl"))
    result = files.read_json(folder / "evaluation.json", "fix the test")
    tuned = result["metrics"]["fine-tuned"]
    assert (tuned["macro_f1"], tuned["semeval_f1"], tuned["weighted_f1"], tuned["mcc"]) == (1,) * 4
    assert [part["macro_f1"] for part in tuned["topics"].values()] == [1, 1]
    interval = result["analysis"]["intervals"]["fine-tuned"]["macro_f1"]
    assert interval == {"value": 1, "rows": [1, 1], "topics": [1, 1]}
    for part in result["analysis"]["topics"]["fine-tuned"].values():
        assert part["macro_f1"] == {"value": 1, "rows": [1, 1]}
    note = f"{BINARY_NOTE} Answers outside of these count as wrong: 40 of base and 0 of fine-tuned."
    output = capsys.readouterr().out
    assert f"note: {note}" in output.splitlines()
    assert ["fine-tuned", "1.000", "1.000", "1.000", "40", "0"] in map(
        str.split, output.splitlines()
    )
    assert note in find_text(folder, "report.md").read_text(encoding="utf-8")
    assert note in (folder / "results.tex").read_text(encoding="utf-8")


def test_runs_without_gold_neu(binary, tmp_path, capsys):
    one, two, out = binary("one"), binary("two", wrong=3), tmp_path / "out"
    main("--runs", one, two, "--output-dir", out)
    result = files.read_json(out / "runs.json", "fix the test")
    assert result["runs"][str(one)]["fine-tuned"]["macro_f1"] == 1
    # Wrong are two of 20 pro and one of 20 con: F1 2*18/(20+18) and 2*19/(20+19)
    f1 = (36 / 38 + 38 / 39) / 2
    assert result["runs"][str(two)]["fine-tuned"]["macro_f1"] == pytest.approx(f1)
    assert result["mean"]["macro_f1"] == pytest.approx((1 + f1) / 2)
    assert result["mean"]["semeval_f1"] == pytest.approx((1 + f1) / 2)
    shown = [capsys.readouterr().out, (out / "runs.tex").read_text(encoding="utf-8")]
    for text in shown:
        assert BINARY_NOTE in text and "3 of fine-tuned in" in text


# ---------------------------------------------------------------- several runs


@pytest.fixture
def copied(scored, tmp_path):
    """A function that copies the scored evaluation to a folder with some changes, and returns its name."""

    def copy(name, change_rows=None, **changes):
        folder = tmp_path / name
        folder.mkdir()
        rows = json.loads(json.dumps(scored[1]))
        if change_rows:
            change_rows(rows)
        written = {"evaluation_sha256": files.write_jsonl(folder / "evaluation.jsonl", rows)}
        files.write_json(folder / "evaluation.json", {**scored[2], **written, **changes})
        (tmp_path / "sides").mkdir(exist_ok=True)
        for side in ("validation.jsonl", "robustness.jsonl"):
            (tmp_path / "sides" / side).write_bytes(find_text(scored[0], side).read_bytes())
        return str(folder)

    return copy


def spoil(rows):
    """Make every second answer of the adapter wrong."""
    for row in rows[::2]:
        answer = "pro" if row["label"] != "pro" else "con"
        probabilities = {label: 0.8 if label == answer else 0.1 for label in prompts.LABELS}
        row["models"]["fine-tuned"] = {"prediction": answer, "probabilities": probabilities}


def test_runs_are_compared(copied, scored, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loading, "load_base", None)
    one, two, out = copied("one"), copied("two", spoil), tmp_path / "out"
    evaluate.main(["--runs", one, two, "--output-dir", str(out)])
    result = files.read_json(out / "runs.json", "fix the test")
    values = [result["runs"][run]["fine-tuned"]["accuracy"] for run in (one, two)]
    assert values[0] == scored[2]["metrics"]["fine-tuned"]["accuracy"] > values[1]
    assert result["mean"]["accuracy"] == pytest.approx(sum(values) / 2)
    assert result["sd"]["accuracy"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert result["note"] == NOTE
    output = capsys.readouterr().out
    lines = [line.split() for line in output.splitlines()]
    assert [
        two,
        "fine-tuned",
        *(f"{result['runs'][two]['fine-tuned'][key]:.3f}" for key in KEYS),
        "24",
        "0",
    ] in lines
    assert ["mean", "fine-tuned", *(f"{result['mean'][key]:.3f}" for key in KEYS)] in lines
    assert NOTE in output
    text = (out / "runs.tex").read_text(encoding="utf-8")
    assert NOTE in text and f"{result['sd']['macro_f1']:.3f}" in text


def test_one_run_shows_no_dash_for_its_spread(copied, tmp_path, capsys):
    evaluate.main(["--runs", copied("one"), "--output-dir", str(tmp_path / "out")])
    shown = [capsys.readouterr().out, (tmp_path / "out" / "runs.tex").read_text()]
    assert all(
        "One run, " in text and "| - |" not in text and "sd" not in text.split() for text in shown
    )


def test_runs_that_cannot_be_compared_are_refused(copied, tmp_path, capsys):
    one = copied("one")
    for other, expected in (
        (
            copied("two", test_sha256="other"),
            "differ in the test split: evaluate both again with the same",
        ),
        (copied("three", mode="generate"), "differ in the mode: "),
        (copied("four", lambda rows: rows.reverse()), "other rows"),
        (one, "named twice"),
        (str(tmp_path / "none"), "not found"),
    ):
        out = tmp_path / "out"
        assert (
            expected in stop_message(capsys, main, "--runs", one, other, "--output-dir", out)
            and not out.exists()
        )


# ---------------------------------------------------------------- the adapter's card


@pytest.fixture
def home(trained_run, scored, tmp_path):
    """A folder with the adapter and its evaluation."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("run.json", "adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes(find_text(trained_run, name).read_bytes())
    for name in ("evaluation.jsonl", "validation.jsonl", "robustness.jsonl"):
        (folder / name).write_bytes(find_text(scored[0], name).read_bytes())
    files.write_json(folder / "evaluation.json", {**scored[2], "adapter": str(folder)})
    return folder


@pytest.mark.slow
def test_a_card_is_written_beside_the_adapter_alone(home, tmp_path, capsys):
    evaluate.main(
        [
            "--predictions",
            str(find_text(home, "evaluation.jsonl")),
            "--output-dir",
            str(tmp_path / "out"),
        ]
    )
    assert not (tmp_path / "out" / "README.md").exists()
    evaluate.main(["--predictions", str(find_text(home, "evaluation.jsonl"))])
    text = (home / "README.md").read_text(encoding="utf-8")
    rows = files.read_jsonl(find_text(home, "evaluation.jsonl"), (), "fix the test")
    assert NOTE in text and "library_name: peft" in text
    assert not any(row["text"] in text or row["topic"] in text for row in rows)
    assert "README.md" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.slow
def test_rescoring_leaves_a_card_as_it_is(home, capsys):
    (home / "README.md").write_text("with words of its owner")
    evaluate.main(["--predictions", str(find_text(home, "evaluation.jsonl"))])
    assert (home / "README.md").read_text() == "with words of its owner"
    assert "README.md" not in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.slow
def test_nothing_is_pushed_unless_the_constant_says_so(home, tmp_path, monkeypatch, capsys):
    pushed = []
    monkeypatch.setattr(model_card, "push_adapter", lambda *words: pushed.append(words))
    evaluate.main(["--predictions", str(find_text(home, "evaluation.jsonl"))])
    assert evaluate.PUSH_TO_HUB is None and evaluate.PUSH_PRIVATE is True and pushed == []
    monkeypatch.setattr(evaluate, "PUSH_TO_HUB", "me/stance")
    evaluate.main(
        [
            "--predictions",
            str(find_text(home, "evaluation.jsonl")),
            "--output-dir",
            str(tmp_path / "out"),
        ]
    )
    assert pushed == [] and "nothing was pushed" in capsys.readouterr().out
    evaluate.main(["--predictions", str(find_text(home, "evaluation.jsonl"))])
    assert pushed == [(home, "me/stance", True)]


# ---------------------------------------------------------------- base, adapter and data


def test_base_alone(tiny_model, data_dir, scored, tmp_path, capsys):
    flags = ["--adapter", "none", "--base-model", tiny_model, "--data-dir", data_dir]
    evaluate.main([*flags, "--output-dir", str(tmp_path)])
    rows, result = read_results(tmp_path)
    assert list(result["metrics"]) == ["base"] and result["adapter"] is None
    assert result["demo"] is True and NOTE in capsys.readouterr().out
    assert [row["models"]["base"] for row in rows] == [row["models"]["base"] for row in scored[1]]


def test_evaluating_the_base_first_does_not_block_training(
    tiny_model, data_dir, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    evaluate.main(["--adapter", "none", "--base-model", tiny_model, "--data-dir", data_dir])
    assert list(tmp_path.rglob("evaluation.json"))
    args = finetune.parse_args([])
    assert checkpoints.find_checkpoint(Path(args.run_dir), args.resume) is None


@pytest.mark.slow
def test_results_go_to_the_adapter_folder(trained_run, data_dir, tmp_path):
    """Those of --mode generate below it, so that neither replaces the other."""
    for name in ("run.json", "adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes(find_text(trained_run, name).read_bytes())
    evaluate.main(["--adapter", str(tmp_path), "--data-dir", data_dir])
    evaluate.main(["--adapter", str(tmp_path), "--data-dir", data_dir, "--mode", "generate"])
    for folder, mode in ((tmp_path, "score"), (tmp_path / "generate", "generate")):
        rows, result = read_results(folder)
        assert len(rows) == result["metrics"]["base"]["n"] == 24 and result["mode"] == mode


@pytest.mark.slow
def test_other_splits_than_the_adapters_are_noted(run_evaluate, scored, data_dir, tmp_path, capsys):
    """The adapter may have been trained on sentences of another test split."""
    assert scored[2]["splits_of_adapter"] is True
    splits = {
        "train": splitting.load_split(Path(data_dir, "val.jsonl")),
        "test": splitting.load_split(Path(data_dir, "test.jsonl")),
    }
    splitting.write_splits(tmp_path / "data", splits, {})
    capsys.readouterr()
    rows, result = run_evaluate(tmp_path / "out", "--data-dir", str(tmp_path / "data"))
    assert [row["models"] for row in rows] == [row["models"] for row in scored[1]]
    assert result["splits_of_adapter"] is False
    output = capsys.readouterr().out
    assert f"note: {tmp_path / 'data'} does not hold the train.jsonl" in output
    # Without a validation split
    assert (
        f"note: {tmp_path / 'data' / 'val.jsonl'} not found: no baselines and no temperature"
        in output
    )
    assert (
        "baselines" not in rows[0] and not find_text(tmp_path / "out", "validation.jsonl").exists()
    )
    assert list(result["analysis"]["calibration"]["base"]) == ["test"]


@pytest.mark.slow
def test_the_base_may_be_named_again(run_evaluate, scored, tiny_model, tmp_path):
    assert run_evaluate(tmp_path, "--base-model", tiny_model)[0] == scored[1]


def test_another_base_than_the_adapters_is_refused(
    trained_run, tiny_model, data_dir, tmp_path, capsys
):
    other = ("--base-model", "google/gemma-2-2b-it")
    flags = ("--adapter", trained_run, *other, "--data-dir", data_dir, "--output-dir", tmp_path)
    message = stop_message(capsys, main, *flags)
    assert tiny_model in message and "google/gemma-2-2b-it" in message and "--base-model" in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_adapter_is_refused(data_dir, tmp_path, capsys):
    message = stop_message(capsys, main, "--adapter", tmp_path / "run", "--data-dir", data_dir)
    assert str(tmp_path / "run") in message and "finetune.py" in message
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_another_prompt_is_refused(trained_run, data_dir, tmp_path, capsys):
    record = json.loads((trained_run / "run.json").read_text(encoding="utf-8"))
    (tmp_path / "adapter_model.safetensors").touch()
    config = (trained_run / "adapter_config.json").read_bytes()
    (tmp_path / "adapter_config.json").write_bytes(config)
    (tmp_path / "run.json").write_text(json.dumps({**record, "prompt_version": "000000000000"}))
    assert "000000000000" in stop_message(
        capsys, main, "--adapter", tmp_path, "--data-dir", data_dir
    )


def test_missing_test_split_is_named(trained_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loading, "load_base", None)
    flags = ("--adapter", trained_run, "--data-dir", tmp_path, "--output-dir", tmp_path / "out")
    message = stop_message(capsys, main, *flags)
    assert str(tmp_path / "test.jsonl") in message and "prepare_data.py" in message
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_output_folder(trained_run, data_dir, tmp_path, capsys, monkeypatch):
    """Before the model has worked for nothing."""
    (tmp_path / "out").write_text("mine")
    monkeypatch.setattr(loading, "load_base", None)
    flags = ("--adapter", trained_run, "--data-dir", data_dir, "--output-dir", tmp_path / "out")
    message = stop_message(capsys, main, *flags)
    assert str(tmp_path / "out") in message


# ---------------------------------------------------------------- splits that belong together


def test_a_test_split_alone_is_taken_as_it_is(data_dir, tmp_path, capsys):
    """Nothing tells of what run of prepare_data.py it is, and nothing is compared with it."""
    (tmp_path / "data").mkdir()
    shutil.copy(Path(data_dir, "test.jsonl"), tmp_path / "data")
    splits = evaluate.load_splits(str(tmp_path / "data"))
    assert list(splits) == ["test"]
    assert "prepare_data.report.json not found: the test split is taken as it is" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("without", ["report", "its own test split"])
def test_splits_that_do_not_belong_together_are_refused(data_dir, tmp_path, capsys, without):
    folder = shutil.copytree(data_dir, tmp_path / "data")
    if without == "report":
        (folder / splitting.REPORT).unlink()
    else:
        lines = (folder / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / "test.jsonl").write_text("".join(lines[1:]), encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        evaluate.load_splits(str(folder))
    assert stopped.value.code == 2 and "run prepare_data.py again" in capsys.readouterr().err


def test_other_splits_do_not_replace_the_adapters_own_evaluation(
    trained_run, data_dir, tmp_path, capsys
):
    (tmp_path / "data").mkdir()
    shutil.copy(Path(data_dir, "test.jsonl"), tmp_path / "data")
    before = sorted(path.name for path in trained_run.iterdir())
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(["--adapter", str(trained_run), "--data-dir", str(tmp_path / "data")])
    assert stopped.value.code == 2 and "with --output-dir" in capsys.readouterr().err
    assert sorted(path.name for path in trained_run.iterdir()) == before


def test_one_folder_is_no_two_runs(scored, capsys, monkeypatch, tmp_path):
    folder = Path(scored[0])
    monkeypatch.chdir(folder.parent)
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(["--runs", folder.name, f"{folder.name}/", "--output-dir", str(tmp_path)])
    assert stopped.value.code == 2 and "is named twice" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["adapter", "environment", "mode", "note"])
@pytest.mark.parametrize("value", [5, [1]])
def test_a_description_of_other_types_is_refused(scored, tmp_path, capsys, key, value):
    for name in ("evaluation.jsonl", "evaluation.json"):
        shutil.copy(find_text(scored[0], name), tmp_path)
    path = tmp_path / "evaluation.json"
    run = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(run | {key: value}), encoding="utf-8")
    words = [
        "--predictions",
        str(find_text(tmp_path, "evaluation.jsonl")),
        "--output-dir",
        str(tmp_path / "o"),
    ]
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(words)
    assert (
        stopped.value.code == 2
        and f"{path} is no record of evaluate.py, its {key} must be" in capsys.readouterr().err
    )


def test_runs_whose_records_were_changed_are_refused(copied, tmp_path, capsys):
    one, two = copied("one"), copied("two", spoil, evaluation_sha256="0" * 64)
    message = stop_message(capsys, main, "--runs", one, two, "--output-dir", tmp_path / "out")
    assert "two/evaluation.jsonl was changed since evaluate.py wrote it" in message
    assert not (tmp_path / "out").exists()


def test_changed_records_are_named_in_all_that_is_written(copied, tmp_path, capsys):
    folder, out = copied("one", spoil, evaluation_sha256="0" * 64), tmp_path / "out"
    main("--predictions", find_text(folder, "evaluation.jsonl"), "--output-dir", out)
    assert "was changed since evaluate.py wrote it" in capsys.readouterr().out
    assert files.read_json(out / "evaluation.json", "fix the test")["changed_records"] is True
    for name in ("report.md", "results.tex"):
        text = find_text(out, name).read_text(encoding="utf-8").replace(r"\_", "_")
        assert "The records were changed after evaluate.py wrote them" in text


def test_other_gold_labels_than_in_the_prompt_variants_are_refused(copied, tmp_path, capsys):
    def change(rows):
        rows[0]["label"] = "con" if rows[0]["label"] != "con" else "pro"

    folder = Path(copied("one", change))
    shutil.copy(find_text(tmp_path / "sides", "robustness.jsonl"), folder)
    message = stop_message(capsys, main, "--predictions", find_text(folder, "evaluation.jsonl"))
    assert "in robustness.jsonl: change it in both, or evaluate again" in message


def test_records_that_were_cut_get_a_note(scored, tmp_path, capsys):
    for name in ("evaluation.jsonl", "evaluation.json"):
        shutil.copy(find_text(scored[0], name), tmp_path)
    path = tmp_path / "evaluation.jsonl"
    predictions.read_parts(path)
    assert "was changed since" not in capsys.readouterr().out
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:6]), encoding="utf-8")
    predictions.read_parts(path)
    assert (
        f"note: {path} was changed since evaluate.py wrote it: its 6 rows"
        in capsys.readouterr().out
    )
