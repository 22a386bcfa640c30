"""OpenDocument spreadsheets: every kind of cell, row numbers, and files that were made to do harm."""

import datetime
import tracemalloc
import zipfile

import pytest
from spreadsheets import cell, row, write_ods
from stopping import stop_message

from stance.corpus import (
    annotations,
    corpus_flags,
    error_values,
    ods_reader,
    reading,
    tables,
    workbook_reader,
)

HEADER = row("topic", "text", "stance")
EMPTY_REST = row('<table:table-cell table:number-columns-repeated="16384"/>', times=1_048_000)


def read(path):
    return {location: list(lines) for location, lines in ods_reader.open_ods(path)}


def read_one(path):
    [lines] = read(path).values()
    return lines


def value_cell(kind, attributes, text):
    return (
        f'<table:table-cell office:value-type="{kind}" {attributes}>'
        f"<text:p>{text}</text:p></table:table-cell>"
    )


@pytest.mark.parametrize(
    "xml, value",
    [
        (value_cell("float", 'office:value="1"', "1,00"), 1),
        (value_cell("float", 'office:value="-2.5"', "-2,5"), -2.5),
        (value_cell("percentage", 'office:value="0.5"', "50 %"), 0.5),
        (value_cell("boolean", 'office:boolean-value="true"', "WAHR"), True),
        (value_cell("date", 'office:date-value="2024-01-05"', "5.1."), datetime.date(2024, 1, 5)),
        (
            value_cell("date", 'office:date-value="2024-01-05T13:30:00.123456789"', "5.1."),
            datetime.datetime(2024, 1, 5, 13, 30),
        ),
        (value_cell("time", 'office:time-value="PT13H30M00S"', "13:30"), datetime.time(13, 30)),
        (value_cell("time", 'office:time-value="PT30H00M00S"', "30:00"), "30:00"),
        (value_cell("date", 'office:date-value="-0044-03-15"', "15.3.-44"), "15.3.-44"),
        ("<table:table-cell/>", None),
        ('<table:table-cell table:formula="of:=A1"/>', workbook_reader.UNSTORED),
        ('<table:table-cell office:value-type="string" office:string-value="x"/>', "x"),
    ],
)
def test_a_cell_has_the_value_that_it_shows(tmp_path, xml, value):
    [(_, cells)] = read_one(write_ods(tmp_path / "a.ods", a=[row("left", xml, "right")]))
    assert cells == ["left", value, "right"] and type(cells[1]) is type(value)


@pytest.mark.parametrize(
    "xml, text",
    [
        ("<text:p>a<text:s text:c='3'/>b</text:p>", "a   b"),
        ("<text:p>a\n   b </text:p>", "a b"),
        ("<text:p>a<text:tab/>b<text:line-break/>c</text:p>", "a\tb\nc"),
        ("<text:p>one</text:p><text:p>two</text:p>", "one\ntwo"),
        ("<text:p>a <text:span>b <text:a>c</text:a></text:span> d</text:p>", "a b c d"),
        ("<office:annotation><text:p>note</text:p></office:annotation><text:p>a</text:p>", "a"),
        ("<text:p>a<office:annotation><text:p>n</text:p></office:annotation>b</text:p>", "ab"),
    ],
)
def test_a_text_is_what_the_spreadsheet_shows(tmp_path, xml, text):
    xml_cell = f'<table:table-cell office:value-type="string">{xml}</table:table-cell>'
    assert read_one(write_ods(tmp_path / "a.ods", a=[row(xml_cell)])) == [(1, [text])]


def test_row_numbers_count_empty_and_repeated_rows(tmp_path):
    group = f"<table:table-row-group>{row('in a group')}</table:table-row-group>"
    rows = [row("<table:table-cell/>", times=2), row("x", times=3), group, EMPTY_REST]
    lines = read_one(write_ods(tmp_path / "a.ods", a=rows))
    assert lines == [(3, ["x"]), (4, ["x"]), (5, ["x"]), (6, ["in a group"])]


def test_repeated_cells_come_each_time(tmp_path):
    twice = cell("x", 'table:number-columns-repeated="2"')
    gap = '<table:table-cell table:number-columns-repeated="3"/>'
    lines = read_one(write_ods(tmp_path / "a.ods", a=[row(twice, gap, "y")]))
    assert lines == [(1, ["x", "x", None, None, None, "y"])]


def test_an_error_cell_is_named_and_never_a_text(tmp_path, capsys):
    error = value_cell("string", 'calcext:value-type="error"', "#NV")
    [(_, cells)] = read_one(write_ods(tmp_path / "a.ods", a=[row("x", error)]))
    assert isinstance(cells[1], error_values.ErrorValue)
    rows = [HEADER, row("Guns", error, "pro"), row("Guns", "Yes.", "pro")]
    path = write_ods(tmp_path / "a.ods", a=rows)
    assert "text is #NV in row 2" in stop_message(capsys, annotations.read_corpus, path)


def test_a_merged_cell_counts_for_each_of_its_rows(tmp_path, capsys):
    covered = "<table:covered-table-cell/>"
    rows = [
        HEADER,
        row(cell("Guns", 'table:number-rows-spanned="3"'), "One.", "pro"),
        row(covered, "Two.", "con"),
        row(covered, "<table:table-cell/>", "<table:table-cell/>"),
        row("Vegans", "Three.", "neu"),
    ]
    lines = read_one(write_ods(tmp_path / "a.ods", a=rows))
    assert [(number, cells[0]) for number, cells in lines[1:]] == [
        (2, "Guns"), (3, "Guns"), (5, "Vegans"),
    ]  # fmt: skip
    assert "merged cells read as if their value stood in each row, row 3" in capsys.readouterr().out


def test_the_sheet_with_the_columns_is_read(tmp_path, capsys):
    path = write_ods(
        tmp_path / "a.ods",
        Notes=[row("x")],
        Coding=[HEADER, row("Guns", "Yes.", "pro"), EMPTY_REST],
    )
    [found] = annotations.read_corpus(path)
    assert (found["topic"], found["text"], found["label"], found["row"]) == (
        "Guns", "Yes.", "pro", 2,
    )  # fmt: skip
    assert 'sheet "Coding" is read, not sheet "Notes"' in capsys.readouterr().out
    assert 'has no sheet "X": name one of its sheets "Notes", "Coding"' in stop_message(
        capsys, annotations.read_corpus, path, corpus_flags.CorpusOptions(reading.Reading("X"))
    )


def test_a_copy_of_another_file_is_no_sheet(tmp_path):
    path = write_ods(tmp_path / "a.ods", **{"'file:///b.ods'#$S": [HEADER], "S": [row("x")]})
    assert list(read(path)) == [workbook_reader.name_location(path, "S")]


@pytest.mark.parametrize(
    "rows",
    [
        [row("x", times=2_000_000)],
        [row("x", times=2_000_000_000)],
        [row(cell("x", 'table:number-columns-repeated="16000"'), times=10_000)],
        [row(cell("x", 'table:number-columns-repeated="2000000000"'))],
        [row("a"), row(cell("x", 'table:number-columns-repeated="many"'))],
    ],
)
def test_repetition_fills_no_memory(tmp_path, capsys, rows):
    path = write_ods(tmp_path / "a.ods", a=[HEADER, *rows])
    tracemalloc.start()
    try:
        message = stop_message(capsys, annotations.read_corpus, path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert message.startswith(f"error: {path}") and message.count("\n") == 1
    assert most < 100e6


def test_a_stray_cell_in_the_last_column_and_row_does_no_harm(tmp_path):
    gap = '<table:table-cell table:number-columns-repeated="16383"/>'
    rows = [HEADER, row("<table:table-cell/>", times=1_048_574), row(gap, "x")]
    lines = read_one(write_ods(tmp_path / "a.ods", a=rows))
    assert [number for number, _ in lines] == [1, 1_048_576]
    assert len(lines[1][1]) == 16_384 and lines[1][1][-1] == "x"


def test_what_is_no_spreadsheet_is_said(tmp_path, capsys):
    path = tmp_path / "a.ods"
    path.write_text("topic,text,stance\n")
    assert "rename it to .csv" in stop_message(capsys, annotations.read_corpus, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "")
    assert "perhaps .xlsx" in stop_message(capsys, annotations.read_corpus, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("content.xml", "encrypted")
        archive.writestr("META-INF/manifest.xml", "<manifest:encryption-data/>")
    assert "has a password" in stop_message(capsys, annotations.read_corpus, path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("content.xml", " " * (101 << 20))
    assert "unpacks to 106 MB" in stop_message(capsys, annotations.read_corpus, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("content.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    assert "XML entities" in stop_message(capsys, annotations.read_corpus, path)
    whole = write_ods(tmp_path / "b.ods", a=[HEADER, row("Guns", "Yes.", "pro")]).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is damaged or incomplete" in stop_message(capsys, annotations.read_corpus, path)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path):
    path = write_ods(tmp_path / "a.ods", a=[HEADER, *[row("Guns", "Yes.", "pro")] * 50_000])
    table = tables.open_table(path, {"text": ("text",)})
    tracemalloc.start()
    try:
        rows = sum(1 for _ in table.rows)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows == 50_000 and most < 5e6
