"""Exports of survey and annotation tools: what they write beside the rows is no row, and what to do is said ready to copy."""

import csv
import io

import openpyxl
import pytest
from spreadsheets import row, write_ods
from stopping import stop_message

from stance.corpus import annotations, corpus_flags, delimited, exports, marked_copy, tables

# As Qualtrics writes them: names, question texts, ids.
QUALTRICS = [
    ["StartDate", "Q1", "Q2", "topic"],
    ["Start Date", "What do you think,\nin a sentence?", "Your stance", "topic"],
    [
        '{"ImportId":"startDate","timeZone":"America/Denver"}',
        '{"ImportId":"QID1_TEXT"}',
        '{"ImportId":"QID2"}',
        '{"ImportId":"topic"}',
    ],
    ["2024-01-05 13:30:00", "It is so.", "Pro", "Guns"],
    ["2024-01-05 13:31:00", "No, no.", "Contra", "Guns"],
]
COLUMNS = ("topic", "Q1", "Q2")


def write_qualtrics(path, lines=QUALTRICS):
    suffix = path.suffix
    if suffix == ".xlsx":
        tables.write_table(path, lines[0], lines[1:])
    elif suffix == ".ods":
        write_ods(path, Sheet0=[row(*cells) for cells in lines])
    else:
        text = io.StringIO()
        dialect = {".csv": "excel", ".tsv": "excel-tab"}[suffix]
        csv.writer(text, dialect, quoting=csv.QUOTE_MINIMAL).writerows(lines)
        encoding = "utf-16" if suffix == ".tsv" else "utf-8-sig"  # as Qualtrics does
        path.write_bytes(text.getvalue().encode(encoding))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx", ".ods"])
def test_question_texts_and_ids_of_qualtrics_are_no_rows(tmp_path, capsys, suffix):
    path = write_qualtrics(tmp_path / f"a{suffix}")
    rows = annotations.read_corpus(path, corpus_flags.CorpusOptions(columns=COLUMNS))
    assert [(found["text"], found["label"], found["row"]) for found in rows] == [
        ("It is so.", "pro", 4),
        ("No, no.", "con", 5),
    ]
    note = "rows 2 and 3, question texts and ids of Qualtrics, are left out"
    assert note in capsys.readouterr().out


def test_a_defect_in_an_export_of_qualtrics_is_marked_in_its_row(tmp_path, capsys):
    lines = [*QUALTRICS[:4], ["", "Text.", "perhaps", "Guns"]]
    path = write_qualtrics(tmp_path / "a.csv", lines)
    scan = annotations.scan_corpus(path, corpus_flags.CorpusOptions(columns=COLUMNS))
    assert [finding.row for finding in scan.findings] == [5]
    copy = marked_copy.write_checked(path, scan.table, scan.findings)
    sheet = openpyxl.load_workbook(copy).active
    assert [cell.value for cell in sheet[5]][:4] == [None, "Text.", "perhaps", "Guns"]
    assert "unknown stance" in sheet.cell(5, 5).value


@pytest.mark.parametrize(
    "third",
    [
        ["x", '{"ImportId":"QID1"}', "Pro", "Guns"],
        ["", "", "", ""],
        ["ImportId", "ImportId", "ImportId", "ImportId"],
    ],
)
def test_other_rows_are_left_in(third):
    lines = [(2, QUALTRICS[1]), (3, third), (4, QUALTRICS[3])]
    left_out, others = exports.split_question_rows(iter(lines))
    assert (left_out, list(others)) == ([], lines)


def test_a_table_of_one_row_stays_whole():
    assert exports.split_question_rows(iter([(2, ["x"])]))[0] == []
    assert list(exports.split_question_rows(iter([(2, ["x"])]))[1]) == [(2, ["x"])]


# ---------------------------------------------------------------- proposals

UKP = ["topic", "retrievedUrl", "archivedUrl", "sentenceHash", "sentence", "annotation", "set"]
PREDICT = {"topic": "--topic-column", "text": "--text-column"}


def propose(header, flags=exports.COLUMN_FLAGS, columns=tuple(annotations.COLUMN_NAMES)):
    matches = {
        column: [
            index
            for index, name in enumerate(header)
            if name.casefold() in annotations.COLUMN_NAMES[column]
        ]
        for column in columns
    }
    return exports.propose_columns(header, matches, flags, tables.fold_header)


@pytest.mark.parametrize(
    "header, words",
    [
        (UKP, "--columns topic sentence annotation"),
        (["arg_id", "argument", "topic", "stance"], "--columns topic argument stance"),
        (["ID", "Target", "Tweet", "Stance"], "--columns Target Tweet Stance"),
        (["issue", "Full text", "class label"], "--columns issue 'Full text' 'class label'"),
        (["Color", "Document name", "Code", "Segment"],
         "--topic 'THE CLAIM' --columns Segment Code"),
        (["id", "text", "cats"], None),
        (["a", "b", "c"], None),
        ([], None),
    ],
)  # fmt: skip
def test_the_columns_of_known_corpora_are_proposed(header, words):
    assert propose(header) == words


def test_a_proposal_is_made_of_the_flags_of_the_script():
    assert propose(["Issue", "Tweet"], PREDICT, ("topic", "text")) == (
        "--topic-column Issue --text-column Tweet"
    )
    assert propose(["id", "Tweet"], PREDICT, ("topic", "text")) == (
        "--topic 'THE CLAIM' --text-column Tweet"
    )
    assert propose(["id", "Tweet"], PREDICT, ("text",)) == "--text-column Tweet"


def test_a_column_that_no_flag_names_is_not_guessed():
    assert (
        exports.propose_columns(["x"], {"author": []}, exports.COLUMN_FLAGS, str.casefold) is None
    )


def test_the_stop_on_unknown_headers_can_be_copied(tmp_path, capsys):
    path = tmp_path / "a.tsv"
    path.write_text("\t".join(UKP) + "\n" + "\t".join("abcdefg") + "\n")
    message = stop_message(capsys, annotations.read_corpus, path)
    assert message.endswith("or try --columns topic sentence annotation\n")


def test_coded_segments_of_maxqda_are_recognised(tmp_path, capsys):
    header = ["Color", "Comment", "Document group", "Document name", "Code", "Begin", "Segment"]
    tables.write_table(tmp_path / "a.xlsx", header, [["", "", "", "d", "Stance\\Pro", "1", "x"]])
    message = stop_message(capsys, annotations.read_corpus, tmp_path / "a.xlsx")
    assert "(coded segments of MAXQDA)" in message
    assert message.endswith("or try --topic 'THE CLAIM' --columns Segment Code\n")


def test_comments_of_maxqda_are_texts_only_if_they_are_named(tmp_path, capsys):
    header = ["Document name", "Code", "Segment", "Comment"]
    tables.write_table(tmp_path / "a.xlsx", header, [["d", "Stance\\Pro", "said", "of a coder"]])
    needed = {"text": annotations.COLUMN_NAMES["text"]}
    message = stop_message(capsys, tables.open_table, tmp_path / "a.xlsx", needed)
    assert message.endswith("or try --columns Segment\n")
    table = tables.open_table(tmp_path / "a.xlsx", {"text": ("Comment",)})
    assert table.columns == {"text": 3}


def test_the_delimiter_of_an_export_is_found(tmp_path):
    [(_, lines)] = delimited.open_delimited(write_qualtrics(tmp_path / "a.tsv"))
    assert [cells for _, cells in lines] == QUALTRICS
