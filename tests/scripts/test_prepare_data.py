"""prepare_data.py from end to end: files, table, report, and nothing written on a defect."""

import csv
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import openpyxl
import pytest

import prepare_data
import prompts
from stance.common import files
from stance.corpus import cleaning, splitting

TOPICS = ("There should be more gun control.", "Vegans are right.")
AMENDMENT = (
    'It\'s the only country with a "2nd Amendment", yet 132 countries have a lower murder rate.'
)
SPLIT_FILES = ["test.jsonl", "train.jsonl", "val.jsonl"]
SAMPLE = Path(__file__).resolve().parents[2] / prepare_data.CORPUS


def make_table(n):
    """Return n rows (topic, text, stance), the first of them the published example."""
    stances = ("Pro", "Contra", "Neutral")
    rows = [(TOPICS[i % 2], f"Sentence number {i}.", stances[i // 2 % 3]) for i in range(n)]
    return [(TOPICS[0], AMENDMENT, "Pro"), *rows[1:]]


def write_corpus(path, rows):
    book = openpyxl.Workbook()
    for row in [("topic", "text", "stance"), *rows]:
        book.active.append(row)
    book.save(path)
    return path


def run(path, folder, *flags):
    prepare_data.main(["--corpus", str(path), "--output-dir", str(folder), *flags])
    return {
        name: files.read_jsonl(folder / name, splitting.SPLIT_KEYS, "fix the test")
        for name in SPLIT_FILES
    }


def test_files_table_and_paths(tmp_path, capsys):
    splits = run(write_corpus(tmp_path / "c.xlsx", make_table(120)), tmp_path / "out")
    assert [len(splits[name]) for name in SPLIT_FILES] == [12, 96, 12]
    lines = [line for name in SPLIT_FILES for line in splits[name]]
    [line] = [line for line in lines if line["text"] == AMENDMENT]
    assert list(line) == ["id", "topic", "text", "stance", "prompt", "label", "source_id"]
    assert line["source_id"] == "c.xlsx:2"
    assert (line["stance"], line["label"], line["topic"]) == ("Pro", "pro", TOPICS[0])
    assert line["id"] == splitting.make_id(TOPICS[0], AMENDMENT)
    assert all(part == sorted(part, key=lambda line: line["id"]) for part in splits.values())
    assert line["prompt"] == prompts.build_prompt(TOPICS[0], AMENDMENT)
    output = capsys.readouterr().out.splitlines()
    assert output[0].endswith("c.xlsx: 120 rows, 120 used")
    cells = [row.split() for row in output]
    assert ["All", "topics", "all", "96", "12", "12", "120"] in cells
    assert ["Vegans", "are", "right.", "pro", "16", "2", "2", "20"] in cells
    assert output[-1] == f"wrote {tmp_path / 'out' / 'prepare_data.report.json'}"


def test_split_files_load_and_share_no_sentence(tmp_path):
    rows = make_table(90)
    rows += [
        (TOPICS[(i + 1) % 2], rows[i][1].upper(), "Neutral") for i in range(30)
    ]  # under the other topic too
    run(write_corpus(tmp_path / "c.xlsx", rows), tmp_path)
    splits = {name: splitting.load_split(tmp_path / f"{name}.jsonl") for name in splitting.SPLITS}
    keys = {
        name: {cleaning.normalise_key(row["text"]) for row in part} for name, part in splits.items()
    }
    assert sum(map(len, splits.values())) == 120 and sum(map(len, keys.values())) == 90
    assert (
        not keys["train"] & keys["val"]
        and not keys["train"] & keys["test"]
        and not keys["val"] & keys["test"]
    )


def drop_sources(path):
    """The bytes of a split file without the key that names rows of its corpus."""
    return re.sub(rb', "source_id": ("[^"]*"|\[[^]]*\])}\n', b"}\n", path.read_bytes())


def test_order_of_rows_changes_no_byte(tmp_path):
    rows = make_table(200)
    rows += rows[:5] + [(TOPICS[1], AMENDMENT, "Neutral")]
    run(write_corpus(tmp_path / "a.xlsx", rows), tmp_path / "a")
    run(write_corpus(tmp_path / "b.xlsx", random.Random(4).sample(rows, len(rows))), tmp_path / "b")
    for name in SPLIT_FILES:
        assert drop_sources(tmp_path / "a" / name) == drop_sources(tmp_path / "b" / name)


def test_seed_changes_the_splits(tmp_path):
    path = write_corpus(tmp_path / "c.xlsx", make_table(200))
    ids = [
        {line["id"] for line in run(path, tmp_path, "--seed", seed)["test.jsonl"]}
        for seed in ("0", "0", "1")
    ]
    assert ids[0] == ids[1] != ids[2] and len(ids[2]) == 20


def test_report(tmp_path):
    path = write_corpus(tmp_path / "c.xlsx", make_table(60))
    splits = run(path, tmp_path / "out", "--seed", "5")
    report = json.loads((tmp_path / "out" / "prepare_data.report.json").read_text("utf-8"))
    assert report["corpus"] == [{"file": "c.xlsx", "sha256": files.hash_file(path), "rows": 60}]
    assert report["outputs"] == {
        name: files.hash_file(tmp_path / "out" / name) for name in SPLIT_FILES
    }
    assert (report["seed"], report["prompt_version"]) == (5, prompts.PROMPT_VERSION)
    assert "python" in report["environment"] and str(tmp_path) not in json.dumps(report)
    for name in splitting.SPLITS:
        for topic in TOPICS:
            for label in prompts.LABELS:
                found = sum(
                    (line["topic"], line["label"]) == (topic, label)
                    for line in splits[f"{name}.jsonl"]
                )
                assert report["counts"][name][topic][label] == found


def test_duplicates_and_conflicts_are_reported(tmp_path, capsys):
    rows = make_table(60)  # rows 2 to 61
    rows += [
        (TOPICS[1], "sentence number 1", "Pro"),
        (TOPICS[0], "Sentence number 2.", "Neutral"),
    ]  # rows 62, 63
    splits = run(write_corpus(tmp_path / "c.xlsx", rows), tmp_path / "out")
    output = capsys.readouterr().out
    assert "62 rows, 59 used" in output
    assert "duplicates: 1 " in output and "rows 62 = 3\n" in output
    assert (
        "conflicts: 1 " in output
        and "2 rows left out" in output
        and "rows 4 Contra / 63 Neutral\n" in output
    )
    texts = [line["text"] for name in SPLIT_FILES for line in splits[name]]
    assert (
        len(texts) == 59
        and "Sentence number 2." not in texts
        and texts.count("Sentence number 1.") == 1
    )
    report = json.loads((tmp_path / "out" / "prepare_data.report.json").read_text("utf-8"))
    assert report["duplicates"] == [{"kept": 3, "merged": [62]}]
    spellings = [{"row": 4, "stance": "Contra"}, {"row": 63, "stance": "Neutral"}]
    assert report["conflicts"] == [
        {"topic": TOPICS[0], "text": "Sentence number 2.", "rows": spellings}
    ]


@pytest.mark.parametrize(
    "rows, expected",
    [
        (
            [*make_table(60), (TOPICS[0], "One more.", "perhaps")],
            'unknown stance "perhaps" in row 62',
        ),
        ([*make_table(60), (TOPICS[0], None, "Pro")], "text is empty in row 62: fill it"),
        (make_table(29), "only 29 usable rows, 30 are needed"),
        (
            [(f"Topic {i}.", "The same sentence.", "Pro") for i in range(40)],
            "the val split is empty",
        ),
    ],
)
def test_bad_input_writes_nothing(tmp_path, capsys, rows, expected):
    path, folder = write_corpus(tmp_path / "c.xlsx", rows), tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        run(path, folder)
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and expected in message and message.count("\n") == 1
    assert not folder.exists()


def test_near_duplicates_of_two_splits_are_reported(tmp_path, capsys):
    rows = make_table(60)
    ends = ["now", "then", "there", "here", "often", "once", "twice", "again", "today", "soon"]
    rows += [
        (TOPICS[0], f"Guns in every house make nobody safer {end}.", "Contra") for end in ends
    ]  # rows 62 to 71
    splits = run(write_corpus(tmp_path / "c.xlsx", rows), tmp_path / "out")
    homes = {
        line["text"]: name.removesuffix(".jsonl") for name in SPLIT_FILES for line in splits[name]
    }
    number = {row[1]: place for place, row in enumerate(rows, start=2)}
    near = {number[text]: home for text, home in homes.items() if text.startswith("Guns in")}
    assert len(near) == 10 and set(near.values()) > {"train"}
    report = json.loads((tmp_path / "out" / "prepare_data.report.json").read_text("utf-8"))[
        "near_duplicates"
    ]
    first = min(row for row, home in near.items() if home == "train")
    held_out = [entry for entry in report if entry["like_split"] == "train"]
    assert held_out == [
        {"row": row, "split": home, "like": first, "like_split": "train"}
        for row, home in sorted(near.items())
        if home != "train"
    ]
    output, shown = (
        capsys.readouterr().out,
        f"{report[0]['row']} {report[0]['split']} ~ {first} train",
    )
    assert f"near-duplicates: {len(report)} " in output and shown in output


def test_headers_can_be_named(tmp_path, capsys):
    """Also if the usual ones are there too."""
    path = tmp_path / "c.xlsx"
    book = openpyxl.Workbook()
    book.active.append(("Claim 2", "text", "Full text", "Code"))
    for topic, text, code in make_table(60):
        book.active.append((topic, "?", text, code))
    book.save(path)
    splits = run(path, tmp_path / "out", "--columns", " claim 2", "FULL TEXT", "Code")
    assert AMENDMENT in {line["text"] for name in SPLIT_FILES for line in splits[name]}
    assert 'columns that are not used: "text"\n' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(path, tmp_path / "no", "--columns", "Claim", "Full text", "Code")
    message = capsys.readouterr().err
    assert "no table with the headers topic (Claim), text (Full text), stance (Code)" in message
    assert (
        'has "Claim 2", "text", "Full text", "Code" and lacks "Claim": put' in message
        and "--columns" in message
    )
    assert message.count("\n") == 1 and not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "headers", [("a", "A ", "b"), ("", "a", "b")]
)  # a column without a header is none's
def test_three_different_headers_are_needed(tmp_path, capsys, headers):
    message = stop_line(capsys, SAMPLE, tmp_path, "--columns", *headers)
    assert "give different headers" in message


@pytest.mark.parametrize(
    "row, expected",
    [
        (
            (TOPICS[0], 12, "Pro"),
            "text is a number, date or truth value, read as text in row 62: check it",
        ),
        (
            (TOPICS[0], "x" * 32767, "Pro"),
            "text has 32,767 characters, all that an Excel cell holds, and is probably cut",
        ),
        (
            (TOPICS[0], "Sentence number 2.", "Neutral"),
            'differ (row 4 "Contra", row 62 "Neutral") in 2 rows (4, 62): d',
        ),
    ],
)
def test_doubtful_rows_are_errors_if_strict(tmp_path, capsys, row, expected):
    path = write_corpus(tmp_path / "c.xlsx", [*make_table(60), row])
    run(path, tmp_path / "usual")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(path, tmp_path / "out", "--strict")
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and expected in message and message.count("\n") == 1
    assert message.startswith(f'error: {path}, sheet "Sheet": ') and not (tmp_path / "out").exists()


def test_a_repeated_row_is_no_error_if_strict(tmp_path):
    rows = [*make_table(60), (TOPICS[1], "sentence number 1", "Pro")]
    assert (
        len(
            run(write_corpus(tmp_path / "c.xlsx", rows), tmp_path / "out", "--strict")[
                "train.jsonl"
            ]
        )
        == 48
    )


def test_a_topic_is_held_out(tmp_path, capsys):
    """Sentences that also occur under the other topic go from there, so that none is in train and test."""
    rows = make_table(90)  # even rows are on TOPICS[0]
    rows += [(TOPICS[0], rows[i][1].upper(), "Neutral") for i in range(1, 11, 2)]  # rows 92 to 96
    path = write_corpus(tmp_path / "c.xlsx", rows)
    splits = run(path, tmp_path / "out", "--hold-out-topic", " vegans are RIGHT ")
    topics = {name: {line["topic"] for line in lines} for name, lines in splits.items()}
    assert topics == {
        "test.jsonl": {TOPICS[1]},
        "train.jsonl": {TOPICS[0]},
        "val.jsonl": {TOPICS[0]},
    }
    assert [len(splits[name]) for name in SPLIT_FILES] == [
        45,
        41,
        4,
    ]  # a tenth of 45 rows to validate, rounded down
    keys = {
        name: {cleaning.normalise_key(line["text"]) for line in lines}
        for name, lines in splits.items()
    }
    assert not keys["test.jsonl"] & (keys["train.jsonl"] | keys["val.jsonl"])
    assert "also occur in the test topic, 5 rows (92, 93, 94, 95, 96)" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "prepare_data.report.json").read_text("utf-8"))
    assert report["hold_out_topics"] == [" vegans are RIGHT "]
    again = run(path, tmp_path / "again", "--hold-out-topic", TOPICS[1], "--seed", "1")
    assert again["test.jsonl"] == splits["test.jsonl"] and again["val.jsonl"] != splits["val.jsonl"]


def test_an_unknown_topic_is_answered_with_those_that_there_are(tmp_path, capsys):
    path, folder = write_corpus(tmp_path / "c.xlsx", make_table(60)), tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        run(path, folder, "--hold-out-topic", "Zoos.")
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and message.count("\n") == 1 and not folder.exists()
    assert '"Zoos."' in message and all(topic in message for topic in TOPICS)


def test_a_topic_that_is_all_there_is_cannot_be_held_out(tmp_path, capsys):
    rows = [(TOPICS[0], *row[1:]) for row in make_table(60)]
    with pytest.raises(SystemExit):
        run(
            write_corpus(tmp_path / "c.xlsx", rows), tmp_path / "out", "--hold-out-topic", TOPICS[0]
        )
    assert "the train split is empty" in capsys.readouterr().err


def test_output_dir_that_is_a_file(tmp_path, capsys):
    path, folder = write_corpus(tmp_path / "c.xlsx", make_table(60)), tmp_path / "out"
    folder.write_text("not a folder")
    with pytest.raises(SystemExit) as stopped:
        run(path, folder)
    assert stopped.value.code == 2 and f"cannot write to {folder}" in capsys.readouterr().err


def test_defaults_are_the_constants():
    args = prepare_data.parse_args([])
    defaults = {
        "corpus": ["data/stance_corpus_sample.xlsx"],
        "output_dir": "data",
        "seed": 0,
        "sheet": None,
        "delimiter": None,
        "encoding": None,
    }
    assert vars(args) == {
        **defaults,
        "labels": [],
        "annotator_columns": [],
        "split_by": "random",
        **dict.fromkeys(("strict", "check", "skip_bad", "keep_leaks"), False),
        **dict.fromkeys(("columns", "topic", "hold_out_topic", "train", "val", "test")),
        **dict.fromkeys(("id_column", "group_column", "date_column", "split_column")),
        "annotator_column": None,
    }


def test_sample_corpus_is_balanced(tmp_path, capsys):
    splits = run(SAMPLE, tmp_path)
    assert [len(splits[name]) for name in SPLIT_FILES] == [72, 576, 72]
    lines = [line for name in SPLIT_FILES for line in splits[name]]
    cells = [(line["topic"], line["stance"]) for line in lines]
    assert len(set(cells)) == 15 and all(cells.count(cell) == 48 for cell in set(cells))
    output = capsys.readouterr().out
    assert (
        "720 rows, 720 used" in output and "duplicates: 0 " in output and "conflicts: 0 " in output
    )


@pytest.mark.parametrize(
    "seed, hashes",
    [
        ("0", {"train": "5da7e529cc08a594", "val": "497734e77630a511", "test": "4eb1219f834d28a8"}),
        ("7", {"train": "0862655896cbbba1", "val": "056310c04c11a434", "test": "8aaf619aaf5d759b"}),
    ],
)
def test_sample_splits_stay_as_they_were(tmp_path, seed, hashes):
    """Adapters are compared over releases by the same test sentences."""
    run(SAMPLE, tmp_path, "--seed", seed)
    for name, digits in hashes.items():
        content = drop_sources(tmp_path / f"{name}.jsonl")
        assert hashlib.sha256(content).hexdigest().startswith(digits)


# ---------------------------------------------------------------- no wrong splits in silence


def stop_line(capsys, path, folder, *words):
    with pytest.raises(SystemExit) as stopped:
        run(path, folder, *words)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", str(1 << 32)])
def test_impossible_seeds_are_refused_before_anything_is_written(tmp_path, capsys, seed):
    path = write_corpus(tmp_path / "c.xlsx", make_table(60))
    assert f"{seed} is no seed" in stop_line(capsys, path, tmp_path / "out", "--seed", seed)
    assert not (tmp_path / "out").exists()


def test_a_repeated_flag_is_refused(tmp_path, capsys):
    path = write_corpus(tmp_path / "c.xlsx", make_table(60))
    words = ["--hold-out-topic", TOPICS[0], "--hold-out-topic", TOPICS[1]]
    line = stop_line(capsys, path, tmp_path / "out", *words)
    assert line == "error: --hold-out-topic is given 2 times: give it once\n"


@pytest.mark.parametrize("name", SPLIT_FILES)
def test_a_corpus_among_the_splits_is_not_overwritten(tmp_path, capsys, name):
    folder = tmp_path / "out"
    run(write_corpus(tmp_path / "c.xlsx", make_table(120)), folder)
    before = (folder / name).read_bytes()
    assert "would replace the file of --corpus" in stop_line(capsys, folder / name, folder)
    assert (folder / name).read_bytes() == before


def test_a_run_that_is_broken_off_leaves_no_report(tmp_path, monkeypatch):
    """Then nothing takes new train rows for those that belong to old test rows."""
    folder = tmp_path / "out"
    path = write_corpus(tmp_path / "c.xlsx", make_table(120))
    run(path, folder)
    splitting.read_report(folder, splitting.SPLITS)
    write_jsonl = files.write_jsonl

    def write_first(target, rows):
        if target.name != "train.jsonl":
            raise KeyboardInterrupt
        return write_jsonl(target, rows)

    monkeypatch.setattr(files, "write_jsonl", write_first)
    with pytest.raises(KeyboardInterrupt):
        run(path, folder, "--seed", "1")
    assert not (folder / splitting.REPORT).exists()
    with pytest.raises(SystemExit):
        splitting.read_report(folder, splitting.SPLITS)


def test_two_runs_at_once_are_not_taken_for_one(tmp_path, monkeypatch, capsys):
    """The report tells the hashes of what its run wrote, not of what lies there."""
    folder = tmp_path / "out"
    path = write_corpus(tmp_path / "c.xlsx", make_table(120))
    write_json = files.write_json

    def write_late(target, report):
        monkeypatch.setattr(files, "write_json", write_json)
        run(path, folder, "--seed", "1")  # another process, from start to end
        write_json(target, report)

    monkeypatch.setattr(files, "write_json", write_late)
    assert "is not the file that" in stop_line(capsys, path, folder)
    with pytest.raises(SystemExit):
        splitting.read_report(folder, splitting.SPLITS)


@pytest.mark.parametrize(
    "constants, texts, version",
    [
        ({}, {"don’t, & so"}, "2"),
        ({"CLEAN_C1": False}, {"dont, & so"}, "2 without C1"),
        ({"UNESCAPE_HTML": False}, {"don’t, &amp; so"}, "2 without HTML"),
    ],
)
def test_repairs_can_be_switched_off_and_are_recorded(
    tmp_path, monkeypatch, constants, texts, version
):
    rows = make_table(120)
    rows[5] = (TOPICS[0], "don\x92t, &amp; so", "Pro")
    path = tmp_path / "c.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=";").writerows([("topic", "text", "stance"), *rows])
    for name, value in constants.items():
        monkeypatch.setattr(prepare_data, name, value)
    splits = run(path, tmp_path / "out")
    found = {line["text"] for part in splits.values() for line in part if " so" in line["text"]}
    assert found == texts
    report = files.read_json(tmp_path / "out" / splitting.REPORT, "")
    assert report["cleaning_version"] == version
    assert len(report["repaired_cells"]) == 2 - len(constants)


@pytest.mark.parametrize("strict", [False, True])
def test_check_and_plain_run_agree_on_differing_stances(tmp_path, capsys, strict):
    rows = make_table(60)
    path = write_corpus(tmp_path / "c.xlsx", [*rows, (rows[7][0], rows[7][1], "Neutral")])
    words = ["--strict"] if strict else []
    codes = []
    for more in ([], ["--check"]):
        try:
            run(path, tmp_path / "out", *words, *more)
            codes.append(0)
        except SystemExit as stopped:
            codes.append(stopped.code)
    assert codes == ([2, 2] if strict else [0, 0])


def test_check_finds_that_no_splits_can_be_made(tmp_path, capsys):
    path = write_corpus(tmp_path / "c.xlsx", [(TOPICS[0], "The same.", "Pro")] * 60)
    plain = stop_line(capsys, path, tmp_path / "out")
    assert stop_line(capsys, path, tmp_path / "out", "--check") == plain
    word = ["--hold-out-topic", "No such topic."]
    path = write_corpus(tmp_path / "c.xlsx", make_table(60))
    plain = stop_line(capsys, path, tmp_path / "out", *word)
    assert stop_line(capsys, path, tmp_path / "out", "--check", *word) == plain


def start(*words, **options):
    command = [sys.executable, str(SAMPLE.parents[1] / "prepare_data.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_what_a_terminal_cannot_show_is_escaped(tmp_path, encoding):
    case = SAMPLE.parents[1] / "tests" / "corpus" / "cases" / "r20.csv"
    variables = {**os.environ, "PYTHONIOENCODING": encoding}
    done = start("--corpus", case, "--output-dir", tmp_path, env=variables)
    assert (done.returncode, done.stderr) == (0, "") and "\\u" in done.stdout
    splitting.read_report(tmp_path, splitting.SPLITS)


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_fault_of_ours(tmp_path):
    """As `| head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "prepare_data.py", "--output-dir", str(tmp_path)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=SAMPLE.parents[1])
    os.close(writing)
    assert done.returncode == 128 + signal.SIGPIPE and done.stderr == b""


def test_a_corpus_of_one_stance_gets_a_note(tmp_path, capsys):
    rows = [(topic, text, "Pro") for topic, text, _ in make_table(120)]
    run(write_corpus(tmp_path / "c.xlsx", rows), tmp_path / "out")
    assert "note: no row has a label but pro: " in capsys.readouterr().out
