"""How a file becomes a table, over all kinds of files: equal texts, positions for headers, text without a header."""

import csv
import io
import json

import openpyxl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from spreadsheets import row, write_ods
from stopping import stop_message

import prepare_data
from stance.corpus import annotations, corpus_flags, marked_copy, reading, tables
from stance.labelling import table as labelling_table

COLUMNS = {name: (name,) for name in ("topic", "text", "stance")}
POSITIONS = {"topic": ("1",), "text": ("2",), "stance": ("3",)}
ROWS = [["Guns", "Yes, yes.", "pro"], ["Guns", "No; no.", "con"], ["Vegans", "x | y", "neu"]]
KINDS = (".csv", ".tsv", ".txt", ".xlsx", ".ods", ".jsonl", ".json", ".parquet")
WITH_HEADER_ROW = (".csv", ".tsv", ".txt", ".xlsx", ".ods")


def write(path, rows, header=("topic", "text", "stance")):
    """Write a table of texts to a file of any kind; header: None for a file without a header row."""
    lines = [*([list(header)] if header else []), *rows]
    if path.suffix == ".xlsx":
        tables.write_table(path, lines[0], lines[1:])
    elif path.suffix == ".ods":
        write_ods(path, Sheet1=[row(*cells) for cells in lines])
    elif path.suffix == ".jsonl":
        objects = [json.dumps(dict(zip(header, cells))) + "\n" for cells in rows]
        path.write_text("".join(objects))
    elif path.suffix == ".json":
        path.write_text(json.dumps([dict(zip(header, cells)) for cells in rows]))
    elif path.suffix == ".parquet":
        columns = list(zip(*rows)) or [[] for _ in header]
        parquet.write_table(
            pa.table({name: pa.array(cells, pa.string()) for name, cells in zip(header, columns)}),
            path,
            row_group_size=2,
        )
    else:
        text = io.StringIO()
        csv.writer(text, delimiter="," if path.suffix == ".csv" else "\t").writerows(lines)
        path.write_bytes(text.getvalue().encode())
    return path


def read(path, needed=COLUMNS, how=reading.Reading()):
    return [cells for _, cells in tables.open_table(path, needed, how).rows]


# Any text that a cell of XML can hold: no control characters but tab and line break.
TEXTS = st.text(
    st.one_of(
        st.sampled_from("\t\n\"',;|=#\\ –ü核👍\u200d"),
        st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"),
    ),
    max_size=30,
)


@pytest.mark.parametrize(
    "suffix",
    [pytest.param(kind, marks=pytest.mark.slow) if kind == ".xlsx" else kind for kind in KINDS],
)
@given(rows=st.lists(st.lists(TEXTS, min_size=3, max_size=3), min_size=1, max_size=6))
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_odd_texts_are_the_same_from_every_kind_of_file(tmp_path_factory, suffix, rows):
    rows = [[f"t{number}", *cells[1:]] for number, cells in enumerate(rows)]
    # One ordinary row, as texts of nothing but signs tell no delimiter.
    rows.insert(0, ["Guns", 'He said "yes", twice:\none', "pro"])
    path = write(tmp_path_factory.mktemp("kinds") / f"a{suffix}", rows)
    found = [["" if cell is None else cell for cell in cells] for cells in read(path)]
    assert found == rows


@pytest.mark.parametrize("suffix", KINDS)
def test_a_corpus_of_every_kind_of_file_is_prepared(tmp_path, capsys, suffix):
    rows = [
        [f"Topic {number % 2}", f"This is the sentence that has number {number}.", stance]
        for number, stance in enumerate(["pro", "con", "neu"] * 20)
    ]
    path = write(tmp_path / f"a{suffix}", rows)
    prepare_data.main(["--corpus", str(path), "--output-dir", str(tmp_path / "out")])
    lines = [
        json.loads(line)
        for name in ("train", "val", "test")
        for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()
    ]
    assert sorted(line["text"] for line in lines) == sorted(text for _, text, _ in rows)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_defect_is_marked_in_a_copy_of_every_kind_of_file(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", [*ROWS, ["Guns", "x", "perhaps"]])
    scan = annotations.scan_corpus(path)
    [finding] = scan.findings
    copy = marked_copy.write_checked(path, scan.table, scan.findings)
    sheet = openpyxl.load_workbook(copy).active
    number = finding.row + (1 if scan.table.header_row == 0 else 0)
    assert [cell.value for cell in sheet[number]][:3] == ["Guns", "x", "perhaps"]
    assert sheet.cell(number, 3).fill.start_color.rgb == "00" + marked_copy.SERIOUS_COLOUR
    assert sheet.cell(1, 2).value == "text" and "unknown stance" in sheet.cell(number, 4).value


# ---------------------------------------------------------------- no header row


@pytest.mark.parametrize("suffix", WITH_HEADER_ROW)
def test_positions_make_the_first_row_data(tmp_path, capsys, suffix):
    path = write(tmp_path / f"a{suffix}", ROWS, header=None)
    table = tables.open_table(path, POSITIONS)
    assert table.header == ["column 1", "column 2", "column 3"]
    assert table.columns == {"topic": 0, "text": 1, "stance": 2}
    assert list(table.rows) == list(enumerate(ROWS, start=1))
    assert "so its first row is no header but data" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".jsonl", ".parquet"])
def test_headers_that_are_numbers_are_headers(tmp_path, capsys, suffix):
    path = write(tmp_path / f"a{suffix}", ROWS, header=("3", "2", "1"))
    table = tables.open_table(path, POSITIONS)
    assert table.columns == {"topic": 2, "text": 1, "stance": 0}
    assert [cells for _, cells in table.rows] == ROWS and capsys.readouterr().out == ""


def test_a_number_in_the_first_row_is_never_guessed_at(tmp_path, capsys):
    path = write(tmp_path / "a.csv", [["Guns", "Yes.", "1"], ["Guns", "No.", "-1"]], header=None)
    message = stop_message(capsys, tables.open_table, path, POSITIONS)
    assert "numbers count columns only if all are numbers and the first row holds none" in message


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_columns_with_names_of_their_own_are_not_counted(tmp_path, capsys, suffix):
    path = write(tmp_path / f"a{suffix}", ROWS)
    assert "no table with the headers topic (1)" in stop_message(
        capsys, tables.open_table, path, POSITIONS
    )


def test_a_position_beyond_the_table_is_said(tmp_path, capsys):
    path = write(tmp_path / "a.csv", ROWS, header=None)
    message = stop_message(capsys, tables.open_table, path, {"topic": ("1",), "text": ("4",)})
    assert "no table with a column 4" in message and "has 3 columns in its first row" in message


def test_positions_and_names_do_not_mix(tmp_path, capsys):
    path = write(tmp_path / "a.csv", ROWS, header=None)
    needed = {"topic": ("topic", "claim"), "text": ("2",)}
    message = stop_message(capsys, tables.open_table, path, needed)
    assert "numbers count columns only if all are numbers" in message


@pytest.mark.parametrize("name", ["0", "01", "-1", "1.0", "²", "123456"])
def test_other_numbers_are_no_positions(name):
    assert not tables.is_position(name)


@pytest.mark.parametrize("suffix", [".csv", ".ods"])
def test_a_row_longer_than_the_first_is_not_cut(tmp_path, capsys, suffix):
    path = write(tmp_path / f"a{suffix}", [ROWS[0], [*ROWS[1], "more"]], header=None)
    table = tables.open_table(path, POSITIONS)
    message = stop_message(capsys, list, table.rows)
    assert "row 2 has more cells than the first row: write a row of headers" in message


def test_sheets_without_headers_are_not_chosen_between(tmp_path, capsys):
    sheets = {"a": [row(*ROWS[0])], "b": [row(*ROWS[1])]}
    path = write_ods(tmp_path / "a.ods", **sheets)
    message = stop_message(capsys, tables.open_table, path, POSITIONS)
    assert 'sheet "a" and ' in message and "have the columns" in message
    assert read(path, POSITIONS, reading.Reading("b")) == [ROWS[1]]


@pytest.mark.parametrize("suffix", WITH_HEADER_ROW)
def test_defects_in_a_file_without_headers_are_marked_in_their_rows(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", [["Guns", "", "pro"], *ROWS], header=None)
    scan = annotations.scan_corpus(path, corpus_flags.CorpusOptions(columns=("1", "2", "3")))
    assert [(finding.row, finding.what) for finding in scan.findings] == [(1, "text is empty")]
    assert [found["row"] for found in scan.rows] == [2, 3, 4]
    sheet = openpyxl.load_workbook(
        marked_copy.write_checked(path, scan.table, scan.findings)
    ).active
    number = 1 if suffix == ".xlsx" else 2  # other copies have a row of headers above
    assert sheet.cell(number, 2).fill.start_color.rgb == "00" + marked_copy.SERIOUS_COLOUR
    assert sheet.cell(number + 1, 2).value == ROWS[0][1]
    assert "text is empty" in sheet.cell(number, 4).value


# ---------------------------------------------------------------- text without cells


def open_source(path, text_column=None, topics=("Guns.",), how=reading.Reading()):
    source = labelling_table.Source(str(path), text_column, None, how, list(topics) or None)
    return labelling_table.open_source(source)


SENTENCES = [
    '"Hello," he said, and left.',
    "Yes; no | perhaps, all right",
    "",
    '"Never."',
    '5" wide',
]


def test_sentences_one_a_line_are_rows_for_a_given_topic(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text("\r\n".join(SENTENCES) + "\r\n", encoding="utf-8-sig", newline="")
    table = open_source(path)
    assert (table.header, table.columns, table.header_row) == (["text"], {"text": 0}, 0)
    assert [cells for _, cells in table.rows] == [[line] for line in SENTENCES]
    assert "is read as text, a row a line, without a header" in capsys.readouterr().out


def test_a_text_file_with_the_header_alone_above_is_a_table(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text("Text\nOne, two.\nThree\n")
    assert [cells for _, cells in open_source(path).rows] == [["One, two."], ["Three"]]


def test_sentences_one_a_line_need_a_topic(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(SENTENCES))
    assert "no table with the headers" in stop_message(capsys, open_source, path, topics=())
    assert "no table with the headers" in stop_message(capsys, annotations.read_corpus, path)


@pytest.mark.parametrize(
    "content",
    [
        "id\tTweet\n1\tOne.\n2\tTwo.\n",
        "id,Tweet\n1,One.\n2,Two.\n3,Three\n",
        "id|Tweet\n1|a\n2|b\n",
    ],
)
def test_a_table_with_other_headers_is_not_read_as_sentences(tmp_path, capsys, content):
    path = tmp_path / "a.txt"
    path.write_text(content)
    message = stop_message(capsys, open_source, path)
    assert message.endswith("or try --text-column Tweet\n")
    table = open_source(path, "Tweet")
    assert table.header == ["id", "Tweet"] and next(table.rows)[1][0] == "1"


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
def test_a_table_in_a_text_file_is_read_by_its_delimiter(tmp_path, delimiter):
    path = tmp_path / "a.txt"
    lines = [["topic", "text", "stance"], ["G", "a", "pro"], ["G", "b", "con"], ["G", "c", "neu"]]
    path.write_text("".join(delimiter.join(cells) + "\n" for cells in lines))
    assert read(path) == lines[1:]


def test_a_named_delimiter_makes_a_table_of_a_text_file(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text("One, two.\nThree.\n")
    message = stop_message(capsys, open_source, path, how=reading.Reading(delimiter=","))
    assert "no table with the headers text" in message


# ---------------------------------------------------------------- predict


@pytest.mark.parametrize("suffix", KINDS)
def test_predict_reads_every_kind_of_file(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", ROWS)
    table = open_source(path, topics=())
    assert [
        [cells[table.columns["topic"]], cells[table.columns["text"]]] for _, cells in table.rows
    ] == [cells[:2] for cells in ROWS]


def test_predict_names_the_columns_of_a_file_without_headers(tmp_path):
    path = write(tmp_path / "a.csv", ROWS, header=None)
    table = open_source(path, "2")
    header = [*table.header, *labelling_table.name_added(table).values()]
    assert header[:4] == ["column 1", "column 2", "column 3", "topic"]
    source = labelling_table.Source(str(path), "2", "1", reading.Reading(), None)
    table = labelling_table.open_source(source)
    assert table.columns == {"topic": 0, "text": 1} and len(list(table.rows)) == 3


def test_a_file_without_headers_is_prepared_by_one_command(tmp_path):
    rows = [
        [str(number), f"Sentence that has number {number}.", stance, "Guns"]
        for number, stance in enumerate(["for", "against", "none"] * 20, start=100)
    ]
    path = write(tmp_path / "a.txt", rows, header=None)
    words = ["--corpus", str(path), "--columns", "4", "2", "3", "--id-column", "1"]
    prepare_data.main([*words, "--output-dir", str(tmp_path / "out")])
    lines = (tmp_path / "out" / "test.jsonl").read_text().splitlines()
    found = {line["source_id"]: line["text"] for line in map(json.loads, lines)}
    assert found and found.items() <= {cells[0]: cells[1] for cells in rows}.items()


def test_what_stdin_has_not_is_refused(tmp_path, capsys):
    source = labelling_table.Source("-", None, None, reading.Reading(delimiter=","), ["G"])
    source = source._replace(stdin=io.BytesIO(b"One.\n"))
    message = stop_message(capsys, labelling_table.open_source, source)
    assert message == "error: stdin has no delimiter: leave out --delimiter\n"


def test_parquet_under_another_name_is_said(tmp_path, capsys):
    write(tmp_path / "a.parquet", ROWS).rename(tmp_path / "a.csv")
    message = stop_message(capsys, annotations.read_corpus, tmp_path / "a.csv")
    assert "is a Parquet file despite its name: rename it to .parquet" in message
