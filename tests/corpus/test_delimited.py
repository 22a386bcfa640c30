"""Delimited files: what separates cells, and whether quotation marks quote."""

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stopping import stop_message

from stance.corpus import delimited, tables

HEADER = "topic\ttext\tstance\n"
SIMPLE = "A.\tIt is so.\tpro\n"


def read(path):
    [(location, lines)] = delimited.open_delimited(path)
    assert location == str(path)
    return [cells for _, cells in lines]


def write(folder, name, content):
    path = folder / name
    path.write_text(content, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    "first, last", [('"It begins here', 'it ends"'), ('"', '"'), ('5" wide', "8")]
)
def test_marks_that_open_and_close_in_different_rows_are_text(tmp_path, capsys, first, last):
    rows = [["A.", first, "pro"], ["A.", "between", "con"], ["A.", last, "neu"]]
    path = write(tmp_path, "a.tsv", HEADER + "".join("\t".join(row) + "\n" for row in rows))
    assert read(path)[1:] == rows
    assert capsys.readouterr().out == f"note: {path}: its quotation marks are part of the text\n"


def test_marks_around_whole_sentences_stay(tmp_path):
    path = write(
        tmp_path, "a.tsv", HEADER + SIMPLE + 'A.\t"It is, of course, so."\tpro\nA.\tNo, no.\tcon\n'
    )
    assert read(path)[2][1] == '"It is, of course, so."'


@pytest.mark.parametrize(
    "cell, text",
    [
        ('"He said ""no""."', 'He said "no".'),
        ('"one\ttwo"', "one\ttwo"),
        ('"one\ntwo"', "one\ntwo"),
        ('"one, two"', "one, two"),
    ],
)
def test_a_cell_that_needs_its_marks_is_quoted(tmp_path, capsys, cell, text):
    path = write(tmp_path, "a.tsv", HEADER + SIMPLE + f"A.\t{cell}\tcon\n")
    assert read(path)[2] == ["A.", text, "con"]
    assert "its quotation marks enclose cells" in capsys.readouterr().out


def test_one_mark_that_disobeys_makes_all_of_them_text(tmp_path):
    path = write(tmp_path, "a.tsv", HEADER + 'A.\t"He said ""no""."\tpro\nA.\t5" wide\tcon\n')
    assert read(path)[1][1] == '"He said ""no""."'


def test_quoted_headers_are_headers(tmp_path):
    path = write(tmp_path, "a.tsv", '"topic"\t"text"\t"stance"\n"A."\t"It is so."\t"pro"\n')
    assert read(path) == [["topic", "text", "stance"], ["A.", "It is so.", "pro"]]


def test_a_tab_file_without_marks_gets_no_note(tmp_path, capsys):
    assert read(write(tmp_path, "a.tsv", HEADER + SIMPLE))[1] == ["A.", "It is so.", "pro"]
    assert capsys.readouterr().out == ""


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=20)


@pytest.mark.slow
@settings(max_examples=300)
@given(rows=st.lists(st.lists(TEXT, min_size=6, max_size=6), min_size=1, max_size=6))
def test_a_tsv_of_ours_reads_back_equal(tmp_path_factory, rows):
    """Six columns, as predict.py writes at least."""
    path = tmp_path_factory.mktemp("written") / "a.tsv"
    tables.write_table(path, list("abcdef"), rows)
    assert read(path) == [list("abcdef"), *rows]


# ---------------------------------------------------------------- delimiters


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_the_delimiter_is_the_one_that_rows_agree_on(tmp_path, delimiter, end, suffix):
    header = ["topic", "text", "stance", "Why, in your own words; and | or how sure?"]
    rows = [["A.", f"Sentence {i}.", "pro", "just so"] for i in range(9)]
    path = tmp_path / f"a{suffix}"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator=end).writerows([header, *rows])
    assert read(path) == [header, *rows]


def test_a_header_over_two_lines(tmp_path):
    path = write(
        tmp_path, "a.csv", '"Comment, free text,\nat most 200";text\nx;"So, it is."\ny;No.\n'
    )
    assert read(path) == [
        ["Comment, free text,\nat most 200", "text"],
        ["x", "So, it is."],
        ["y", "No."],
    ]


def test_sentences_with_commas_in_one_column(tmp_path):
    path = write(tmp_path, "a.csv", 'text\n"So, it is."\n"No; never."\n')
    assert read(path) == [["text"], ["So, it is."], ["No; never."]]


def test_a_line_that_names_the_delimiter_is_no_row(tmp_path):
    assert read(write(tmp_path, "a.csv", "sep=;\na;b\n1;2,5\n")) == [["a", "b"], ["1", "2,5"]]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_long_cell_is_read(tmp_path, suffix):
    cell = "word " * 40_000
    delimiter = "," if suffix == ".csv" else "\t"
    path = write(tmp_path, f"a{suffix}", f"text{delimiter}notes\nshort{delimiter}{cell}\n")
    assert read(path)[1] == ["short", cell]


# ---------------------------------------------------------------- encodings

GERMAN = "topic,text,stance\nA.,Die Züge fahren seit langem durch das ganze Land und kosten mit dem neuen Ticket nur noch 5 € am Tag.,pro\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_an_encoding_that_its_bytes_tell(tmp_path, capsys, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes(GERMAN.encode(encoding))
    assert read(path)[1][1].startswith("Die Züge fahren") and "5 €" in read(path)[1][1]
    note = f"note: {path}: is read as {encoding}, not as UTF-8\n"
    assert capsys.readouterr().out == ("" if encoding.startswith("utf-8") else note)


@pytest.mark.parametrize(
    "text, encoding",
    [
        ("Поезда идут рано и поздно.", "cp1251"),
        ("Τα τρένα φεύγουν νωρίς.", "cp1253"),
        ("電車は早い。", "shift_jis"),
        ("trains \x81 are early", "latin-1"),
    ],
)
def test_an_encoding_that_its_bytes_do_not_tell(tmp_path, capsys, text, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes(f"topic,text,stance\nA.,{text},pro\n".encode(encoding))
    with pytest.raises(SystemExit) as stopped:
        read(path)
    assert stopped.value.code == 2
    assert f"{path} is not UTF-8, and its encoding cannot be told" in capsys.readouterr().err


# ---------------------------------------------------------------- rows that marks would glue together


def test_short_rows_are_not_glued_either(tmp_path):
    """Trailing empty cells are often cut off."""
    rows = [["A.", f"Sentence {i}.", "pro"] for i in range(5)]
    rows += [["A.", '"Yes he said', "pro"], ["A.", 'never again"', "con", "x"]]
    content = "topic\ttext\tstance\tnote\n" + "".join("\t".join(row) + "\n" for row in rows)
    assert read(write(tmp_path, "a.tsv", content))[1:] == rows


def test_a_blank_line_between_them_hides_nothing(tmp_path):
    path = write(tmp_path, "a.tsv", 'id\ttext\n1\t"Yes\n2\tthis is fine\n\n3\tno"\n')
    assert [cells for cells in read(path) if cells][1:] == [
        ["1", '"Yes'],
        ["2", "this is fine"],
        ["3", 'no"'],
    ]


def test_a_tab_file_of_one_column(tmp_path):
    path = write(tmp_path, "a.tsv", 'text\n"Yes.\nThis is fine, too.\nNo."\n')
    assert read(path) == [["text"], ['"Yes.'], ["This is fine, too."], ['No."']]


def test_a_line_that_names_the_tab_changes_nothing(tmp_path):
    path = write(tmp_path, "a.csv", 'sep=\t\nid\ttext\n1\t"Yes\n2\tno"\n')
    assert read(path) == [["id", "text"], ["1", '"Yes'], ["2", 'no"']]


def test_quoted_headers_say_that_cells_are_quoted(tmp_path):
    path = write(tmp_path, "a.tsv", '"id"\t"text"\n"1"\t"First.\n\tSecond."\n')
    assert read(path) == [["id", "text"], ["1", "First.\n\tSecond."]]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_found(tmp_path, capsys, encoding):
    path = tmp_path / "c.csv"
    path.write_bytes("topic,text\nA.,Ünlü text, or not\n".encode(encoding))
    assert delimited.find_encoding(path) == encoding
    path.write_bytes(b"topic,text\n")
    assert delimited.find_encoding(path) == "utf-8-sig"


@pytest.mark.parametrize("content", [
    "topic,text\nA.,B.\n".encode("utf-16")[:-1],
    b"\xff\xfe\x00\xd8a\x00",
    b"t\x00e\x00x\x00t\x00\n\x00\x00\xd8a\x00b\x00c\x00",
    "text\nabcd\n".encode("utf-16-be") + b"\x00",
], ids=["odd", "half a pair", "half a pair, no mark", "odd, no mark"])  # fmt: skip
def test_a_damaged_utf16_file_is_one_line(tmp_path, capsys, content):
    path = tmp_path / "c.csv"
    path.write_bytes(content)
    assert f"{path} is no text in utf-16" in stop_message(capsys, read, path)


@pytest.mark.parametrize("sign", ['"', "\r", "a", "7"])
def test_a_line_sep_names_no_sign_that_cannot_separate(tmp_path, sign):
    path = tmp_path / "c.csv"
    path.write_bytes(f"sep={sign}\r\nid,text\n1,b\n".encode())
    assert ["id", "text"] in read(path)
