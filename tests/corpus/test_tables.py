"""stance/corpus/tables.py: what is written comes back the same, whole or not at all. Reading with all its defects: test_corpus.py."""

import csv
import datetime
import io
import json
import os
import re
import sys
import zipfile

import openpyxl
import pytest
from stopping import stop_message

from stance.corpus import tables, workbook_writer

SUFFIXES = (".xlsx", ".csv", ".tsv", ".jsonl")
HEADER = ["nr", "text", "note"]
TEXTS = [  # that a file format may take for something else
    "plain",
    "=1+1",
    "+49 30 1234",
    "-5",
    "@name",
    "'quoted",
    "0012",
    "1e5",
    "TRUE",
    "2024-01-05",
    "NA",
    "null",
    'He said "no, never", twice; really',
    "two\nlines\n\nand a gap",
    "tab\there",
    "  spaces around  ",
    "ümlaut 核能 👍🏽 \u200c \u2028",
    "back\\slash \\n",
    "<b>&amp;</b>",
]


def read_table(path, *needed):
    """(header, rows) of a file."""
    table = tables.open_table(path, {name: (name,) for name in needed or ("text",)})
    return table.header, [cells for _, cells in table.rows]


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_comes_back_as_it_was(tmp_path, suffix):
    path, rows = tmp_path / f"table{suffix}", [[f"n{i}", text, "x"] for i, text in enumerate(TEXTS)]
    tables.write_table(path, HEADER, rows)
    assert read_table(path) == (HEADER, rows)


@pytest.mark.parametrize("first", SUFFIXES)
@pytest.mark.parametrize("second", SUFFIXES)
def test_a_table_survives_any_change_of_format(tmp_path, first, second):
    rows = [["n1", "one, two; three", "x\ny"], ["n2", "ü 核 👍🏽", '"quoted"']]
    tables.write_table(tmp_path / f"a{first}", HEADER, rows)
    tables.write_table(tmp_path / f"b{second}", *read_table(tmp_path / f"a{first}"))
    assert read_table(tmp_path / f"b{second}") == (HEADER, rows)


@pytest.mark.parametrize("suffix", [".xlsx", ".jsonl"])
def test_numbers_truth_values_and_empty_cells_keep_their_type(tmp_path, suffix):
    rows = [[1, "a", 0.25], [-2, "b", None], [10**9, "c", True], [0, "d", False]]
    tables.write_table(tmp_path / f"table{suffix}", HEADER, rows)
    _, again = read_table(tmp_path / f"table{suffix}")
    assert again == rows and [list(map(type, row)) for row in again] == [
        list(map(type, row)) for row in rows
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_numbers_and_empty_cells_become_text(tmp_path, suffix):
    tables.write_table(tmp_path / f"table{suffix}", HEADER, [[1, "a", 0.25], [-2, "b", None]])
    assert read_table(tmp_path / f"table{suffix}") == (
        HEADER,
        [["1", "a", "0.25"], ["-2", "b", ""]],
    )


DATES = [datetime.datetime(2024, 1, 5, 13, 30), datetime.date(2024, 1, 5), datetime.time(13, 30)]


def test_dates_stay_dates_in_xlsx(tmp_path):
    tables.write_table(tmp_path / "a.xlsx", HEADER, [[date, "x", None] for date in DATES])
    _, rows = read_table(tmp_path / "a.xlsx")
    assert [row[0] for row in rows] == [
        DATES[0],
        datetime.datetime(2024, 1, 5),
        DATES[2],
    ]  # Excel knows no bare date
    tables.write_table(tmp_path / "b.xlsx", HEADER, rows)
    assert read_table(tmp_path / "b.xlsx") == (HEADER, rows)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_dates_become_text_elsewhere(tmp_path, suffix):
    tables.write_table(tmp_path / f"table{suffix}", HEADER, [[date, "x", None] for date in DATES])
    _, rows = read_table(tmp_path / f"table{suffix}")
    assert [row[0] for row in rows] == ["2024-01-05 13:30:00", "2024-01-05", "13:30:00"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nested_values_of_jsonl_are_written(tmp_path, suffix):
    (tmp_path / "a.jsonl").write_text('{"text": "x", "tags": ["a", "b"], "meta": {"k": 1}}\n')
    header, rows = read_table(tmp_path / "a.jsonl")
    tables.write_table(tmp_path / f"b{suffix}", header, rows)
    names, [[text, tags, meta]] = read_table(tmp_path / f"b{suffix}")
    assert (names, text) == (["text", "tags", "meta"], "x")
    if suffix == ".jsonl":
        assert (tags, meta) == (["a", "b"], {"k": 1})
    else:
        assert "a" in tags and "b" in tags and "k" in meta and "1" in meta


# ---------------------------------------------------------------- each format


def test_a_leading_equals_sign_is_no_formula_in_xlsx(tmp_path):
    path = tmp_path / "table.xlsx"
    tables.write_table(path, ["text", "=header"], [["=1+1", '=HYPERLINK("http://x")'], ["==", "="]])
    cells = [
        [(cell.value, cell.data_type) for cell in row]
        for row in openpyxl.load_workbook(path).active.iter_rows()
    ]
    assert cells == [
        [("text", "s"), ("=header", "s")],
        [("=1+1", "s"), ('=HYPERLINK("http://x")', "s")],
        [("==", "s"), ("=", "s")],
    ]
    with zipfile.ZipFile(path) as archive:
        assert b"<f>" not in archive.read("xl/worksheets/sheet1.xml")


def test_control_characters_that_xlsx_cannot_hold_are_dropped(tmp_path):
    tables.write_table(tmp_path / "table.xlsx", ["text"], [["a\x00b\x07c\x1fd\te\nf"]])
    assert read_table(tmp_path / "table.xlsx") == (["text"], [["abcd\te\nf"]])


def test_xlsx_has_one_sheet_with_its_header_in_view(tmp_path):
    tables.write_table(tmp_path / "table.xlsx", HEADER, [["1", "x", "y"]])
    book = openpyxl.load_workbook(tmp_path / "table.xlsx")
    assert len(book.worksheets) == 1 and book.active.freeze_panes == "A2"


def test_xlsx_filters_by_its_header_and_colours_by_value(tmp_path):
    shades = {"note": {"pro": "BDD7EE", "con": "F8CBAD"}}
    rows = [["1", "x", "pro", "z"], ["2", "y", "con", "z"]]
    tables.write_table(
        tmp_path / "table.xlsx", [*HEADER, "nr"], rows, workbook_writer.Look(shades=shades)
    )  # two columns may have one name
    sheet = openpyxl.load_workbook(tmp_path / "table.xlsx").active
    assert sheet.auto_filter.ref == "A1:D3"
    found = {}
    for place in sheet.conditional_formatting:
        assert str(place.sqref) == "C2:C3"
        for rule in place.rules:
            assert (rule.type, rule.operator) == ("cellIs", "equal")
            found[rule.formula[0]] = rule.dxf.fill.bgColor.rgb[-6:]
    assert found == {'"pro"': "BDD7EE", '"con"': "F8CBAD"}


def test_the_same_table_gives_the_same_bytes_in_xlsx(tmp_path):
    """Whenever it is written: nothing in it is dated now."""
    for name in ("a.xlsx", "b.xlsx"):
        tables.write_table(tmp_path / name, HEADER, [["1", "x", "y"]])
    assert (tmp_path / "a.xlsx").read_bytes() == (tmp_path / "b.xlsx").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.xlsx") as archive:
        assert {part.date_time[0] for part in archive.infolist()} == {1980}
        dates = re.findall(r"\d{4}-\d\d-", archive.read("docProps/core.xml").decode())
        assert dates == ["1980-01-"] * 2


def test_columns_of_xlsx_are_as_wide_as_their_texts(tmp_path):
    tables.write_table(
        tmp_path / "table.xlsx", HEADER, [["1", "x" * 500, "y" * 20], ["2", None, 3.5]] * 100
    )
    sheet = openpyxl.load_workbook(tmp_path / "table.xlsx").active
    widths = [
        sheet.column_dimensions[letter].width for letter in "ABC"
    ]  # with what Excel adds between columns
    assert widths == pytest.approx([10, 60, 21], abs=0.75) and sheet.max_row == 201


def test_wide_characters_count_twice_for_the_width_of_a_column(tmp_path):
    rows = [["1", "原子力発電所は再稼働すべきだ", "a line\nand a longer line"]]
    tables.write_table(tmp_path / "table.xlsx", HEADER, rows)
    sheet = openpyxl.load_workbook(tmp_path / "table.xlsx").active
    widths = [sheet.column_dimensions[letter].width for letter in "BC"]
    assert widths == pytest.approx([29, 18], abs=0.75)


def test_xlsx_shows_probabilities_with_two_decimals_and_wraps_texts(tmp_path):
    """The cell keeps all decimals; columns of numbers that a user brought look as they are."""
    look = workbook_writer.Look("predictions", shares=("p",))
    rows = [["a sentence\nof two lines", 0.1234, 0.1234], ["short", 0, None]]
    tables.write_table(tmp_path / "table.xlsx", ["text", "p", "score"], rows, look)
    sheet = openpyxl.load_workbook(tmp_path / "table.xlsx")["predictions"]
    assert (sheet["B2"].value, sheet["B2"].number_format) == (0.1234, "0.00")
    assert sheet["B3"].number_format == "0.00" and sheet["C2"].number_format == "General"
    assert sheet["A2"].alignment.wrap_text and sheet["B2"].alignment.vertical == "top"
    assert [cell.font.b for cell in sheet[1]] == [True] * 3 and not sheet["A2"].font.b


def test_rows_of_xlsx_are_as_high_as_their_texts(tmp_path):
    """Some programs leave rows of wrapped texts at one line."""
    rows = [["1", "x " * 100, None], ["2", "short", None], ["3", "字" * 60 + "\n\nz", "y"]]
    tables.write_table(tmp_path / "table.xlsx", HEADER, rows)
    sheet = openpyxl.load_workbook(tmp_path / "table.xlsx").active
    assert [sheet.row_dimensions[row].height for row in (2, 3, 4)] == [60, None, 75]
    tables.write_table(tmp_path / "table.xlsx", ["text"], [["x" * 30_000]])
    sheet = openpyxl.load_workbook(tmp_path / "table.xlsx").active
    assert sheet.row_dimensions[2].height == workbook_writer.MAX_HEIGHT


def test_xlsx_prints_the_table_alone_with_its_header_on_every_page(tmp_path):
    tables.write_table(tmp_path / "table.xlsx", HEADER, [["1", "x", "y"]] * 9)
    sheet = openpyxl.load_workbook(tmp_path / "table.xlsx").active
    assert sheet.print_area == "'table'!$A$1:$C$10" and sheet.print_title_rows == "$1:$1"
    assert (
        sheet.page_setup.orientation == "landscape" and sheet.sheet_properties.pageSetUpPr.fitToPage
    )
    assert (sheet.page_setup.fitToWidth, sheet.page_setup.fitToHeight) in ((1, 0), (None, 0))


def test_a_text_longer_than_a_cell_is_never_cut_in_silence(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        tables.write_table(tmp_path / "table.xlsx", HEADER, [["1", "x" * 40_000, "y"]])
    assert stopped.value.code == 2 and list(tmp_path.iterdir()) == []
    assert "row 2, column 2 does not fit into a workbook" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_said_in_one_line(tmp_path, monkeypatch, capsys, suffix):
    def fail(*paths):
        raise OSError(28, "No space left on device")

    (tmp_path / f"t{suffix}").write_text("old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(SystemExit) as stopped:
        tables.write_table(tmp_path / f"t{suffix}", HEADER, [["1", "x", "y"]])
    assert stopped.value.code == 2 and (tmp_path / f"t{suffix}").read_text() == "old"
    assert "cannot write" in (line := capsys.readouterr().err) and "No space left on device" in line


def test_xlsx_without_rows_has_a_filter_too(tmp_path):
    look = workbook_writer.Look(shades={"text": {"pro": "BDD7EE"}})
    tables.write_table(tmp_path / "table.xlsx", ["text"], [], look)
    assert openpyxl.load_workbook(tmp_path / "table.xlsx").active.auto_filter.ref in ("A1", "A1:A1")


def test_numbers_that_excel_would_round_become_text(tmp_path):
    """Ids of posts have 19 digits, Excel keeps 15."""
    rows = [[1234567890123456789, -(10**15), 10**15 - 1, float("inf"), float("nan"), True]]
    tables.write_table(tmp_path / "table.xlsx", list("abcde") + ["text"], rows)
    assert read_table(tmp_path / "table.xlsx")[1] == [
        ["1234567890123456789", "-1000000000000000", 10**15 - 1, "inf", "nan", True]
    ]


def test_error_values_that_are_text_stay_text(tmp_path):
    tables.write_table(tmp_path / "table.xlsx", ["text"], [["#N/A"], ["#REF!"]])
    cells = [
        cell
        for (cell,) in openpyxl.load_workbook(tmp_path / "table.xlsx").active.iter_rows(min_row=2)
    ]
    assert [(cell.value, cell.data_type) for cell in cells] == [("#N/A", "s"), ("#REF!", "s")]


@pytest.mark.parametrize("text, fits", [
    ("x" * 32_767, True), ("x" * 32_768, False), ("👍" * 16_383, True), ("👍" * 16_384, False), (["x" * 32_765], False),
    ("x" * 32_766 + "\ud83d", True), (10**9, True), (None, True),
])  # fmt: skip
def test_texts_longer_than_a_cell_stop_xlsx_alone(tmp_path, capsys, text, fits):
    for suffix in SUFFIXES:
        words = [tmp_path / f"out{suffix}", "in.csv", 7, ["nr", "note"], [1, text]]
        if fits or suffix != ".xlsx":
            tables.check_fit(*words)
        else:
            message = stop_message(capsys, tables.check_fit, *words)
            assert (
                'in.csv, row 7: "note" is longer than the 32,767 characters of an Excel cell'
                in message
            )


def test_more_rows_than_a_sheet_stop_xlsx_alone(capsys):
    for suffix in SUFFIXES:
        tables.check_length(f"out{suffix}", 1_048_575)
    assert "1,048,576 rows" in stop_message(capsys, tables.check_length, "out.xlsx", 1_048_576)
    tables.check_length("out.csv", 1_048_576)


def test_rows_of_csv_come_as_they_are_read(tmp_path):
    """A row is there before what follows it is looked at: here bytes that are not UTF-8."""
    (tmp_path / "table.csv").write_bytes(b"text\none\n" + b"two\n" * 10_000 + b"\xff\n")
    table = tables.open_table(tmp_path / "table.csv", {"text": ("text",)})
    assert next(table.rows)[1] == ["one"]


def test_lines_of_stdin_are_read_twice(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\r\n\ntwo")))
    file = tables.keep_stdin()
    for _ in range(2):
        table = tables.open_lines(file)
        assert (table.location, table.header, table.columns) == ("stdin", ["text"], {"text": 0})
        assert list(table.rows) == [(1, ["one"]), (2, [""]), (3, ["two"])]


def test_csv_is_what_excel_reads_as_utf_8(tmp_path):
    tables.write_table(tmp_path / "table.csv", ["text", "b"], [["ü, ö", 'say "x"']])
    assert (
        tmp_path / "table.csv"
    ).read_bytes() == '\ufefftext,b\r\n"ü, ö","say ""x"""\r\n'.encode()
    tables.write_table(tmp_path / "table.TSV", ["text", "b"], [["ü, ö", "a\tb"]])
    assert (tmp_path / "table.TSV").read_bytes() == '\ufefftext\tb\r\nü, ö\t"a\tb"\r\n'.encode()


def test_semicolons_where_excel_writes_a_decimal_comma(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"text;nr\r\neins, zwei;1,5\r\n")
    assert read_table(tmp_path / "table.csv") == (["text", "nr"], [["eins, zwei", "1,5"]])


def test_jsonl_is_one_object_a_line(tmp_path):
    tables.write_table(tmp_path / "table.jsonl", ["text", "p"], [["a\nb", 0.5], ["ü", None]])
    lines = (tmp_path / "table.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"text": "a\nb", "p": 0.5},
        {"text": "ü", "p": None},
    ]
    assert '"ü"' in lines[1]


def test_header_of_jsonl_is_the_union_of_its_keys(tmp_path):
    lines = [{"text": "a", "x": 1}, {"y": 2, "text": "b"}, {"x": 3, "text": "c", "z": None}]
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = tables.open_table(tmp_path / "table.jsonl", {"text": ("text",)})
    assert (table.header, table.columns) == (["text", "x", "y", "z"], {"text": 0})
    assert list(table.rows) == [
        (1, ["a", 1, None, None]),
        (2, ["b", None, 2, None]),
        (3, ["c", 3, None, None]),
    ]


@pytest.mark.parametrize("line", ["5", '"text"', "[1, 2]", "null"])
def test_a_line_of_jsonl_that_is_no_object_is_named(tmp_path, capsys, line):
    (tmp_path / "table.jsonl").write_text('{"text": "a"}\n' + line + "\n")
    message = stop_message(capsys, read_table, tmp_path / "table.jsonl")
    assert "table.jsonl" in message and "line 2" in message


def test_row_numbers_are_those_of_excel(tmp_path):
    book = openpyxl.Workbook()
    for row in [[None], ["nr", "text"], [1, "a"], [], [3, "c"]]:
        book.active.append(row)
    book.save(tmp_path / "table.xlsx")
    table = tables.open_table(tmp_path / "table.xlsx", {"text": ("text",)})
    assert [(number, cells) for number, cells in table.rows if any(cells)] == [
        (3, [1, "a"]),
        (5, [3, "c"]),
    ]


def test_short_rows_are_filled_up(tmp_path):
    (tmp_path / "table.csv").write_text("text,b,c\na\nb,1\n")
    assert read_table(tmp_path / "table.csv")[1] == [["a", None, None], ["b", "1", None]]


def test_a_comma_that_splits_a_sentence_is_not_swallowed(tmp_path, capsys):
    """Written by hand, without quotation marks: the cells are more than the headers, and half the sentence has none."""
    (tmp_path / "table.csv").write_text("text\nfirst\nYes, I agree\n")

    def read():
        return read_table(tmp_path / "table.csv")[1]

    assert "row 3" in stop_message(capsys, read)


# ---------------------------------------------------------------- whole or not at all


def crash_after(count):
    """Rows that end in an error."""
    for number in range(count):
        yield [str(number), "x" * 1000, "y"]
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_crash_leaves_the_old_table(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    tables.write_table(path, HEADER, [["1", "old", "z"]])
    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        tables.write_table(path, HEADER, crash_after(200))
    assert path.read_bytes() == before
    tables.write_table(path, HEADER, [["1", "new", "z"]])
    assert read_table(path) == (HEADER, [["1", "new", "z"]])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_crash_leaves_no_half_table(tmp_path, suffix):
    with pytest.raises(RuntimeError):
        tables.write_table(tmp_path / f"table{suffix}", HEADER, crash_after(200))
    assert not (tmp_path / f"table{suffix}").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folders_are_made_and_nothing_else_is_left(tmp_path, suffix):
    path = tmp_path / "new" / "folder" / f"table{suffix}"
    tables.write_table(path, HEADER, [["1", "a", "b"]])
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_csv_is_read_by_the_csv_module(tmp_path):
    """No habit of this module's own reader hides a fault of its writer."""
    rows = [[f"n{i}", text, "x"] for i, text in enumerate(TEXTS)]
    tables.write_table(tmp_path / "table.csv", HEADER, rows)
    with open(tmp_path / "table.csv", encoding="utf-8-sig", newline="") as file:
        assert list(csv.reader(file)) == [HEADER, *rows]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_half_a_character_does_not_stop_it(tmp_path, suffix):
    """Texts of .jsonl that were cut inside an emoji hold a lone surrogate, for which UTF-8 has no bytes."""
    (tmp_path / "in.jsonl").write_text('{"text": "good \\ud83d"}\n')
    header, rows = read_table(tmp_path / "in.jsonl")
    tables.write_table(tmp_path / f"out{suffix}", header, rows)
    _, [[text]] = read_table(tmp_path / f"out{suffix}")
    assert text.startswith("good")
