"""What a user says of a file: it is checked before the file is opened, and obeyed."""

import argparse

import pytest
from stopping import stop_message

from stance.corpus import annotations, corpus_flags, reading, tables

HEADER = "topic{0}text{0}stance\n"
RUSSIAN = "Это верно, и это хорошо."


def take(*words):
    parser = argparse.ArgumentParser()
    reading.add_file_flags(parser)
    return reading.take_reading(parser.parse_args(words))


def options(*words):
    return corpus_flags.CorpusOptions(take(*words))


@pytest.mark.parametrize(
    "given, meant",
    [("tab", "\t"), ("\\t", "\t"), ("\t", "\t"), ("Comma", ","), ("semicolon", ";"),
     ("pipe", "|"), ("|", "|"), ("^", "^"), (" ", " ")],
)  # fmt: skip
def test_delimiters_have_names(given, meant):
    assert take("--delimiter", given) == reading.Reading(None, meant, None)


@pytest.mark.parametrize("given", ["", "ab", "x", "1", '"', "\n", "tabs"])
def test_what_separates_no_cells_is_refused(capsys, given):
    assert "separates no cells" in stop_message(capsys, take, "--delimiter", given)


@pytest.mark.parametrize(
    "given, meant",
    [("UTF8", "utf-8-sig"), ("cp1251", "cp1251"), ("latin-1", "iso8859-1"), ("GB18030", "gb18030")],
)
def test_encodings_have_any_name_that_python_knows(given, meant):
    assert take("--encoding", given).encoding == meant


@pytest.mark.parametrize("given", ["", "klingon", "zip", "hex", "rot13", "a\0b"])
def test_what_is_no_encoding_of_texts_is_refused(capsys, given):
    assert "is no encoding of texts" in stop_message(capsys, take, "--encoding", given)


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "utf-8", "utf-16", "utf-16-le", "utf-32"])
def test_a_file_is_read_in_the_encoding_that_is_named(tmp_path, capsys, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes((HEADER.format(",") + f'G,"{RUSSIAN}",pro\n').encode(encoding))
    [row] = annotations.read_corpus(path, options("--encoding", encoding))
    assert row["text"] == RUSSIAN and capsys.readouterr().out == ""


def test_without_a_name_the_stop_says_how_to_name_it(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_bytes((HEADER.format(",") + f'G,"{RUSSIAN}",pro\n').encode("cp1251"))
    message = stop_message(capsys, annotations.read_corpus, path)
    assert "its encoding cannot be told: name it, as --encoding cp1251 does" in message


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "utf-16", "euc-jp"])
def test_an_encoding_that_the_file_has_not_is_said_with_its_line(tmp_path, capsys, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes((HEADER.format(",") + "G,x,pro\n" + f'G,"{RUSSIAN}",pro\n').encode("cp1251"))
    message = stop_message(capsys, annotations.read_corpus, path, options("--encoding", encoding))
    assert "a.csv is no text in" in message and "give its true --encoding" in message
    assert message.count("\n") == 1


def test_the_delimiter_that_is_named_is_taken_against_all_evidence(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("topic;text,stance;b\nG;x,pro;b\n")
    assert tables.open_table(path, {"b": ("b",)}).header == ["topic", "text,stance", "b"]
    table = tables.open_table(path, {"b": ("topic;text",)}, take("--delimiter", ","))
    assert [cells for _, cells in table.rows] == [["G;x", "pro;b"]]


def test_a_line_that_names_another_delimiter_is_still_no_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sep=;\ntopic|text|stance\nG|a;b|pro\n")
    [row] = annotations.read_corpus(path, options("--delimiter", "pipe"))
    assert row["text"] == "a;b"


@pytest.mark.parametrize("name", ["a.xlsx", "a.ods", "a.xls", "a.jsonl", "a.json", "a.parquet"])
@pytest.mark.parametrize("flag, value", [("--delimiter", "tab"), ("--encoding", "cp1251")])
def test_what_no_text_file_says_is_refused(tmp_path, capsys, name, flag, value):
    (tmp_path / name).write_bytes(b"")
    message = stop_message(capsys, annotations.read_corpus, tmp_path / name, options(flag, value))
    assert message.endswith(f"leave out {flag}\n")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.jsonl", "a.json", "a.parquet"])
def test_a_sheet_of_a_file_without_sheets_is_refused(tmp_path, capsys, name):
    (tmp_path / name).write_bytes(b"")
    message = stop_message(
        capsys, annotations.read_corpus, tmp_path / name, options("--sheet", "S")
    )
    assert "has no sheets: leave out --sheet" in message
