"""prepare_data.py on corpora as researchers have them: published splits, annotators, groups, times, ids, bad rows."""

import csv
import json
from collections import Counter
from pathlib import Path

import openpyxl
import pytest

import prepare_data
from stance.corpus import marked_copy, splitting

CASES = Path(__file__).resolve().parents[1] / "corpus" / "cases"
TOPIC = "Vegans are right."


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def make_rows(n, start=0):
    stances = ("pro", "con", "neu")
    return [(TOPIC, f"Sentence number {i}.", stances[i % 3]) for i in range(start, start + n)]


def prepare(folder, *words):
    """The lines of the splits that a command writes, and its report."""
    prepare_data.main([*map(str, words), "--output-dir", str(folder)])
    report = json.loads((folder / splitting.REPORT).read_text("utf-8"))
    return {
        name: splitting.load_split(folder / f"{name}.jsonl") for name in splitting.SPLITS
    }, report


def stop(capsys, folder, *words):
    with pytest.raises(SystemExit) as stopped:
        prepare_data.main([*map(str, words), "--output-dir", str(folder)])
    assert stopped.value.code == 2 and not folder.exists()
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("error: ")
    return message


def sizes(splits):
    return {name: len(lines) for name, lines in splits.items()}


# ---------------------------------------------------------------- published splits


def test_a_column_keeps_its_splits(tmp_path, capsys):
    splits, report = prepare(tmp_path, "--corpus", CASES / "split.csv", "--split-column", "split")
    with open(CASES / "split.csv", encoding="utf-8") as file:
        published = {row["text"]: row["split"] for row in csv.DictReader(file)}
    counts = Counter(published.values())  # without val, which is drawn from train
    assert set(counts) == {"train", "test"} and sizes(splits)["test"] == counts["test"]
    for name, home in (("train", "train"), ("val", "train"), ("test", "test")):
        assert {published[line["text"]] for line in splits[name]} == {home}
    assert sum(sizes(splits).values()) == len(published)
    assert report["split_by"] == "column split" and report["leaks"] == {
        "are_kept": False,
        "marked": 0,
        "rows": [],
    }


def test_files_are_splits_and_val_is_drawn(tmp_path, capsys):
    train = write_csv(tmp_path / "train.csv", [("topic", "text", "stance"), *make_rows(100)])
    leak = ("Other.", "sentence NUMBER 5", "con")
    test = write_csv(
        tmp_path / "test.csv", [("topic", "text", "stance"), *make_rows(30, 500), leak]
    )
    splits, report = prepare(tmp_path / "out", "--train", train, "--test", test)
    assert sizes(splits) == {"train": 90, "val": 9, "test": 31}
    assert report["leaks"]["rows"] == [
        {"row": "train.csv:7", "split": "train", "like": "test.csv:32", "like_split": "test"}
    ]
    assert [part["file"] for part in report["corpus"]] == ["train.csv", "test.csv"]
    output = capsys.readouterr().out
    assert "leaks: 1 rows" in output and "train.csv:7 train = test.csv:32 test" in output
    kept, report = prepare(tmp_path / "kept", "--train", train, "--test", test, "--keep-leaks")
    assert sizes(kept) == {"train": 90, "val": 10, "test": 31}
    assert [line["text"] for line in kept["test"] if line.get("leaked")] == [leak[1]]
    assert report["leaks"]["are_kept"] and len(report["leaks"]["rows"]) == 1


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--train", "a.csv"], "give --train and --test"),
        (["--val", "a.csv"], "give --train and --test"),
        (["--corpus", "c.csv", "--train", "a.csv", "--test", "b.csv"], "--corpus and --train"),
        (["--split-column", "s", "--train", "a.csv", "--test", "b.csv"], "do not go together"),
        (["--split-column", "s", "--hold-out-topic", "T."], "do not go together"),
        (["--split-column", "s", "--group-column", "g"], "--group-column does not go with"),
        (
            ["--group-column", "a", "--split-by", "time", "--date-column", "b"],
            "a group may have old",
        ),
        (["--keep-leaks"], "--keep-leaks is for published splits"),
        (["--split-by", "time"], "--date-column go together"),
        (["--date-column", "d"], "--date-column go together"),
        (["--annotator-columns", "a", "b", "--annotator-column", "c"], "leave one out"),
        (["--annotator-columns", "a"], "give two at least"),
        (["--annotator-columns", "a", " A"], "give different headers"),
        (["--topic", " "], "--topic must not be empty"),
        (["--topic", "T.", "--columns", "a", "b", "c"], "give 2 headers, of text, stance"),
        (["--columns", "a", "b"], "give 3 headers, of topic, text, stance"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, capsys, words, expected):
    assert expected in stop(capsys, tmp_path / "out", *words)


def test_an_unknown_split_is_named(tmp_path, capsys):
    rows = [(*row, "fold 1" if i == 3 else "train") for i, row in enumerate(make_rows(40))]
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "stance", "set"), *rows])
    message = stop(capsys, tmp_path / "out", "--corpus", path, "--split-column", "set")
    assert 'unknown split "fold 1" in row 5: write train, val or test' in message


def test_a_split_without_rows_is_named(tmp_path, capsys):
    rows = [(*row, "train") for row in make_rows(40)]
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "stance", "set"), *rows])
    message = stop(capsys, tmp_path / "out", "--corpus", path, "--split-column", "set")
    assert "no row is left for the test split" in message


# ---------------------------------------------------------------- topics, files and ids


def test_a_corpus_about_one_topic(tmp_path, capsys):
    splits, report = prepare(tmp_path, "--corpus", CASES / "notopic.csv", "--topic", " Guns. ")
    lines = [line for part in splits.values() for line in part]
    assert {line["topic"] for line in lines} == {"Guns."} and report["topic"] == "Guns."
    with open(CASES / "notopic.csv", encoding="utf-8") as file:
        assert len(lines) == len(list(csv.DictReader(file)))


def test_several_files_are_one_corpus(tmp_path, capsys):
    header = ("topic", "text", "stance")
    one = write_csv(tmp_path / "one.csv", [header, *make_rows(40)])
    two = write_csv(tmp_path / "two.csv", [header, *make_rows(41, 39)])
    splits, report = prepare(tmp_path / "out", "--corpus", one, two)
    sources = {line["text"]: line["source_id"] for part in splits.values() for line in part}
    assert len(sources) == 80
    assert (
        sources["Sentence number 0."] == "one.csv:2"
        and sources["Sentence number 79."] == "two.csv:42"
    )
    assert sources["Sentence number 39."] == ["one.csv:41", "two.csv:2"]
    assert report["duplicates"] == [{"kept": "one.csv:41", "merged": ["two.csv:2"]}]
    assert [part["rows"] for part in report["corpus"]] == [40, 41]


def test_problems_of_all_files_are_in_one_line(tmp_path, capsys):
    header = ("topic", "text", "stance")
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = [*make_rows(40), (TOPIC, "", "pro")]
        paths.append(write_csv(tmp_path / name / "c.csv", [header, *rows]))
    message = stop(capsys, tmp_path / "out", "--corpus", *paths)
    assert f"{', '.join(paths)}: text is empty in row 42: fill it" in message


def test_checking_several_files_marks_each(tmp_path, capsys):
    header = ("topic", "text", "stance")
    one = write_csv(tmp_path / "one.csv", [header, *make_rows(40)])
    two = write_csv(
        tmp_path / "two.csv", [header, (TOPIC, "Sentence number 0.", "neu"), (TOPIC, "", "pro")]
    )
    with pytest.raises(SystemExit) as stopped:
        prepare_data.main(["--corpus", one, two, "--check"])
    assert stopped.value.code == 2
    output = capsys.readouterr().out
    assert "one.csv: 39 usable rows, 0 problems, 1 notes" in output
    assert "two.csv: 0 usable rows, 1 problems, 1 notes" in output
    assert (tmp_path / "one.checked.xlsx").is_file() and (tmp_path / "two.checked.xlsx").is_file()


def test_rows_of_files_with_one_name_have_ids_of_their_own(tmp_path, capsys):
    header = ("topic", "text", "stance")
    paths = []
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        rows = [header, *make_rows(40, 40 * number)]
        paths.append(write_csv(tmp_path / name / "c.csv", rows))
    splits, _ = prepare(tmp_path / "out", "--corpus", *paths)
    sources = [line["source_id"] for part in splits.values() for line in part]
    assert len(set(sources)) == 80 and f"{paths[1]}:2" in sources


@pytest.mark.parametrize(
    "flags", [["--corpus", "c.csv", "./c.csv"], ["--train", "c.csv", "--test", "c.csv"]]
)
def test_a_file_that_is_named_twice_is_refused(tmp_path, capsys, flags, monkeypatch):
    write_csv(tmp_path / "c.csv", [("topic", "text", "stance"), *make_rows(40)])
    monkeypatch.chdir(tmp_path)
    assert "c.csv is named twice" in stop(capsys, tmp_path / "out", *flags)


def test_ids_that_name_several_rows_or_were_rounded_are_noted(tmp_path, capsys):
    rows = [(*row, "same" if i < 2 else i) for i, row in enumerate(make_rows(60))]
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "stance", "key"), *rows])
    prepare(tmp_path / "out", "--corpus", path, "--id-column", "key")
    assert 'note: 1 ids of --id-column name several rows: "same"' in capsys.readouterr().out
    book = openpyxl.Workbook()
    for row in [
        ("topic", "text", "stance", "key"),
        *((*row, 17 * 10**17 + i) for i, row in enumerate(make_rows(40))),
    ]:
        book.active.append(row)
    book.save(tmp_path / "c.xlsx")
    splits, _ = prepare(tmp_path / "out", "--corpus", tmp_path / "c.xlsx", "--id-column", "key")
    assert "id is a number of more than 15 digits" in capsys.readouterr().out
    assert all(line["source_id"].isdigit() for part in splits.values() for line in part)


def test_ids_of_the_source_travel(tmp_path, capsys):
    rows = [(*row, f"id-{i}") for i, row in enumerate(make_rows(60))]
    rows += [(TOPIC, "sentence NUMBER 7", "con", "id-again"), (TOPIC, "Without a name.", "pro", "")]
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "stance", "key"), *rows])
    splits, _ = prepare(tmp_path / "out", "--corpus", path, "--id-column", "Key")
    sources = {line["text"]: line["source_id"] for part in splits.values() for line in part}
    assert sources["Sentence number 3."] == "id-3"
    assert sources["Sentence number 7."] == ["id-7", "id-again"]
    assert sources["Without a name."] == "c.csv:63"


# ---------------------------------------------------------------- annotators


def test_several_rows_a_sentence_are_voted_on(tmp_path, capsys):
    words = ["--corpus", CASES / "annot.csv"]
    with pytest.raises(SystemExit) as stopped:  # with the conflicts left out, too few are left
        prepare_data.main([*map(str, words), "--output-dir", str(tmp_path / "without")])
    assert stopped.value.code == 2 and "--annotator-column" in capsys.readouterr().out
    splits, report = prepare(tmp_path / "votes", *words, "--annotator-column", "annotator")
    assert sum(sizes(splits).values()) == 59 and len(report["ties"]) == 1
    output = capsys.readouterr().out
    assert "59 sentences have a majority, 1 ties are left out" in output
    assert "2 pro / 3 con / 4 neu" in output and "Krippendorff's alpha 0." in output
    assert report["agreement"]["annotators"] == 3
    shares = Counter(line["agreement"] for part in splits.values() for line in part)
    assert set(shares) <= {0.667, 1.0} and sum(shares.values()) == 59


def test_annotators_side_by_side_are_voted_on(tmp_path, capsys):
    rows = [(TOPIC, text, stance, stance, "") for _, text, stance in make_rows(40)]
    rows += [(TOPIC, "A tie.", "pro", "con", ""), (TOPIC, "Outvoted.", "pro", "con", "con")]
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "Ann", "Bob", "Cat"), *rows])
    words = ["--corpus", path, "--columns", "topic", "text"]
    splits, report = prepare(tmp_path / "out", *words, "--annotator-columns", "ann", "bob", "cat")
    lines = {line["text"]: line for part in splits.values() for line in part}
    assert len(lines) == 41 and lines["Outvoted."]["label"] == "con"
    assert (
        lines["Outvoted."]["agreement"] == 0.667 and lines["Sentence number 0."]["agreement"] == 1
    )
    assert [tie["votes"][0]["row"] for tie in report["ties"]] == [42]


@pytest.mark.parametrize("form", ["columns", "rows"])
def test_checking_marks_ties_where_their_votes_stand(tmp_path, capsys, form):
    pairs = [(text, stance) for _, text, stance in make_rows(40)]
    if form == "columns":
        header = ("topic", "text", "Ann", "Bob")
        rows = [(TOPIC, text, stance, stance) for text, stance in pairs]
        rows[3] = (TOPIC, rows[3][1], "pro", "con")
        words = ["--annotator-columns", "Ann", "Bob"]
    else:
        header = ("topic", "text", "stance", "who")
        rows = [(TOPIC, text, stance, "Ann") for text, stance in pairs]
        rows += [(TOPIC, text, stance, "Bob") for text, stance in pairs]
        rows[3], rows[43] = (*rows[3][:2], "pro", "Ann"), (*rows[3][:2], "con", "Bob")
        words = ["--annotator-column", "who"]
    path = write_csv(tmp_path / "c.csv", [header, *rows])
    with pytest.raises(SystemExit) as stopped:
        prepare_data.main(["--corpus", path, *words, "--check", "--strict"])
    assert stopped.value.code == 0  # a tie is no mistake
    output = capsys.readouterr().out
    where = "row 5" if form == "columns" else "rows 5, 45"
    assert f'annotators give a text no majority ("pro", "con") in {where}: ' in output
    sheet = openpyxl.load_workbook(tmp_path / "c.checked.xlsx").active
    assert sheet["B5"].fill.start_color.rgb.endswith(marked_copy.DOUBTFUL_COLOUR)


def test_an_empty_cell_is_no_vote(tmp_path, capsys):
    rows = [(TOPIC, text, stance, "Ann") for _, text, stance in make_rows(40)]
    rows += [(TOPIC, rows[0][1], "", "Bob"), (TOPIC, "Nobody voted.", "", "Bob")]
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "stance", "who"), *rows])
    splits, report = prepare(tmp_path / "out", "--corpus", path, "--annotator-column", "who")
    assert sum(sizes(splits).values()) == 40 and report["agreement"]["with_several_votes"] == 0
    assert [tie["text"] for tie in report["ties"]] == ["Nobody voted."]


def test_votes_that_cannot_be_used_are_named(tmp_path, capsys):
    rows = [(TOPIC, text, stance, stance) for _, text, stance in make_rows(40)]
    rows += [(TOPIC, "No vote.", "", ""), (TOPIC, "Odd.", "pro", "dunno")]
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "a", "b"), *rows])
    message = stop(capsys, tmp_path / "out", "--corpus", path, "--annotator-columns", "a", "b")
    assert "no annotator gave a stance in row 42" in message
    assert 'unknown stance "dunno" of b in row 43' in message


# ---------------------------------------------------------------- groups and times


def test_posts_that_differ_in_their_marks_share_a_split(tmp_path, capsys):
    splits, _ = prepare(tmp_path, "--corpus", CASES / "rt2.csv")
    homes = {}
    for name, lines in splits.items():
        for line in lines:
            number = line["text"].partition("sentence number ")[2].split()[0]
            homes.setdefault(number, []).append(name)
    assert len(homes) == 40 and all(
        len(pair) == 2 and len(set(pair)) == 1 for pair in homes.values()
    )


def test_an_author_is_in_one_split(tmp_path, capsys):
    rows = [(*row, f"author {i // 4}") for i, row in enumerate(make_rows(120))]
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "stance", "author"), *rows])
    splits, report = prepare(tmp_path / "out", "--corpus", path, "--group-column", "author")
    homes = {}
    for name, lines in splits.items():
        for line in lines:
            number = int(line["text"].split()[-1].rstrip("."))
            homes.setdefault(number // 4, set()).add(name)
    assert len(homes) == 30 and all(len(names) == 1 for names in homes.values())
    assert (
        sizes(splits) == {"train": 96, "val": 12, "test": 12} and report["group_column"] == "author"
    )


def test_a_group_too_large_for_a_split_is_named(tmp_path, capsys):
    rows = [(*row, "ann") for row in make_rows(60)]
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "stance", "author"), *rows])
    message = stop(capsys, tmp_path / "out", "--corpus", path, "--group-column", "author")
    assert "60 of 60 rows belong together and go to one split" in message


def test_the_newest_rows_are_the_test_split(tmp_path, capsys):
    rows = [(*row, f"2024-01-{1 + i % 30:02}") for i, row in enumerate(make_rows(300))]
    rows[5] = ("T.", "Sentence number 29.", "con", "2024-01-01")  # of the newest day, again
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "stance", "day"), *rows])
    words = ["--corpus", path, "--split-by", "time", "--date-column", "day"]
    splits, report = prepare(tmp_path / "out", *words)
    day_of = {text: day for _, text, _, day in rows}
    days = {
        name: [day_of[line["text"]] for line in lines if line["text"] != "Sentence number 29."]
        for name, lines in splits.items()
    }
    assert sizes(splits) == {"train": 240, "val": 30, "test": 30} and report["split_by"] == "time"
    assert max(days["train"]) <= min(days["val"]) and max(days["val"]) <= min(days["test"])
    assert sum(line["text"] == "Sentence number 29." for line in splits["test"]) == 2
    assert "test 2024-01-01 to 2024-01-30" in capsys.readouterr().out


def test_dates_that_cannot_be_read_are_named(tmp_path, capsys):
    rows = [(*row, "2024-01-05") for row in make_rows(40)]
    rows[3] = (*rows[3][:3], "01/05/2024")
    header = ("topic", "text", "stance", "day")
    words = ["--split-by", "time", "--date-column", "day", "--corpus"]
    path = write_csv(tmp_path / "c.csv", [header, *rows])
    assert 'no date: "01/05/2024" in row 5: write' in stop(capsys, tmp_path / "out", *words, path)
    rows[3] = (*rows[3][:3], "2024")
    path = write_csv(tmp_path / "d.csv", [header, *rows])
    assert "dates are numbers in row 5 and not in others" in stop(
        capsys, tmp_path / "out", *words, path
    )


def test_several_topics_are_held_out(tmp_path, capsys):
    rows = [(f"Topic {i % 5}.", text, stance) for i, (_, text, stance) in enumerate(make_rows(100))]
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "stance"), *rows])
    words = ["--corpus", path, "--hold-out-topic", "topic 1", "Topic 3."]
    splits, report = prepare(tmp_path / "out", *words)
    assert {line["topic"] for line in splits["test"]} == {"Topic 1.", "Topic 3."}
    assert report["hold_out_topics"] == ["topic 1", "Topic 3."] and len(splits["test"]) == 40
    assert not {line["topic"] for line in splits["train"] + splits["val"]} & {
        "Topic 1.",
        "Topic 3.",
    }


# ---------------------------------------------------------------- bad rows


def test_bad_rows_are_left_out_and_listed(tmp_path, capsys):
    rows = [*make_rows(60), (TOPIC, "", "pro"), (TOPIC, "Odd.", "dunno"), (TOPIC, "#N/A", "con")]
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "stance"), *rows])
    assert "text is empty in row 62" in stop(capsys, tmp_path / "out", "--corpus", path)
    splits, report = prepare(tmp_path / "out", "--corpus", path, "--skip-bad")
    assert sum(sizes(splits).values()) == 60 and report["skipped"] == 3
    assert "skipped: 3 rows that cannot be used" in capsys.readouterr().out
    skipped = tmp_path / "out" / prepare_data.SKIPPED
    with open(skipped, encoding="utf-8-sig", newline="") as file:
        listed = list(csv.DictReader(file))
    assert [(line["row"], line["text"], line["stance"]) for line in listed] == [
        ("62", "", "pro"),
        ("63", "Odd.", "dunno"),
        ("64", "#N/A", "con"),
    ]
    assert "unknown stance" in listed[1]["reason"] and listed[0]["file"] == path
    good = write_csv(tmp_path / "d.csv", [("topic", "text", "stance"), *make_rows(60)])
    prepare(tmp_path / "out", "--corpus", good, "--skip-bad")
    assert not skipped.exists()  # that of another corpus


def test_rows_with_more_cells_than_headers_can_be_skipped(tmp_path, capsys):
    rows = [("topic", "text", "stance"), *make_rows(60), (TOPIC, "One, two", "pro", "three")]
    path = write_csv(tmp_path / "c.csv", rows)
    assert "more cells than headers in row 62: put" in stop(
        capsys, tmp_path / "out", "--corpus", path
    )
    splits, report = prepare(tmp_path / "out", "--corpus", path, "--skip-bad")
    assert sum(sizes(splits).values()) == 60 and report["skipped"] == 1
    assert "62,,,,more cells than headers" in (tmp_path / "out" / prepare_data.SKIPPED).read_text(
        "utf-8-sig"
    )


def test_a_file_of_bad_rows_alone_is_refused(tmp_path, capsys):
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "stance"), (TOPIC, "One.", "dunno")])
    assert "unknown stance" in stop(capsys, tmp_path / "out", "--corpus", path, "--skip-bad")


def test_no_text_changes_but_by_the_documented_cleaning(tmp_path, capsys):
    """Every text of a corpus of odd but clean texts is in one split, to the byte."""
    texts = [
        f"{odd} number {i}"
        for i, odd in enumerate(['"quoted"', "a, b; c|d", "RT @x: #tag", "é ß 中文 🙂"] * 20)
    ]
    rows = [(TOPIC, text, ("pro", "con", "neu")[i % 3]) for i, text in enumerate(texts)]
    path = write_csv(tmp_path / "c.csv", [("topic", "text", "stance"), *rows])
    splits, _ = prepare(tmp_path / "out", "--corpus", path)
    assert sorted(line["text"] for part in splits.values() for line in part) == sorted(texts)
