"""prepare_data.py --check: everything wrong in one pass, on the screen and in a marked-up copy; no splits."""

import csv
import json
import re
import zipfile

import openpyxl
import pytest

import prepare_data
from stance.corpus import marked_copy

VEGANS = "Vegans are right."
HEADER = ("Nr", "Topic", "Text", "Stance")
RED, YELLOW, PLAIN = marked_copy.SERIOUS_COLOUR, marked_copy.DOUBTFUL_COLOUR, "000000"
ONCE = "nothing need be done, they count once"
FILL, DECIDE = "fill it or delete the row", "decide on one stance, as all of them are left out"


def make_rows(count=40):
    stances = ("Pro", "Contra", "Neutral")
    return [
        HEADER,
        *([i, VEGANS, f"Sentence number {i}.", stances[i % 3]] for i in range(2, count + 2)),
    ]


def make_dirty():
    """Rows with a defect of each kind; the first item of a row is its row number."""
    rows = make_rows()
    rows[2][2], rows[3][1], rows[4][3] = None, " \u200b", "perhaps"  # rows 3, 4, 5
    rows[6][2], rows[7][2], rows[8][3] = "#N/A", "x" * 32767, ""  # rows 7, 8, 9
    rows += [
        [42, VEGANS, "sentence NUMBER 20", "neutral"],
        [43, VEGANS, "Sentence number 21!", "Contra"],
    ]
    return rows


def run_check(path, *flags):
    """Return the exit code of prepare_data.py --check."""
    folder = path.parent / "splits"
    with pytest.raises(SystemExit) as stopped:
        prepare_data.main(["--corpus", str(path), "--output-dir", str(folder), "--check", *flags])
    assert not folder.exists()
    return stopped.value.code


def write_corpus(path, rows):
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        book.active.title = "data"
        for row in rows:
            book.active.append(row)
        book.save(path)
    elif path.suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps(dict(zip(HEADER, row, strict=True))) + "\n" for row in rows[1:])
        )
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    return path


def read_marks(path, offset=0):
    """Return ({cell that is coloured: colour}, {row: hint}) of the first sheet of a copy, by rows of the corpus."""
    sheet = openpyxl.load_workbook(path).worksheets[0]
    colours = {
        (cell.row - offset, cell.column): cell.fill.start_color.rgb[2:]
        for row in sheet.iter_rows()
        for cell in row
        if cell.fill.fill_type == "solid"
    }
    assert sheet.cell(1, 5).value == "hint"
    hints = {row - offset: sheet.cell(row, 5).value for row in range(2, sheet.max_row + 1)}
    return colours, {row: hint for row, hint in hints.items() if hint}


@pytest.mark.parametrize("suffix", [".xlsx", ".csv", ".jsonl"])
def test_everything_is_found_and_marked(tmp_path, capsys, suffix):
    offset = int(
        suffix == ".jsonl"
    )  # Nr and row number differ by one there: the header has no line
    path = write_corpus(tmp_path / f"c{suffix}", make_dirty())
    assert run_check(path) == 2
    lines = capsys.readouterr().out.splitlines()
    row = {number: number - offset for number in range(2, 44)}
    text_21 = f'(row {row[21]} "Pro", row {row[43]} "Contra")'
    found = [line for line in lines if line.startswith(("problem: ", "note: "))]
    found = [line.partition(": write pro, con, neu, or name ")[0] for line in found]
    cut = "text has 32,767 characters, all that an Excel cell holds, and is probably cut"
    assert found == [
        f"problem: text is empty in row {row[3]}: {FILL}",
        f"problem: topic is empty in row {row[4]}: {FILL}",
        f"problem: stance is empty in row {row[9]}: {FILL}",
        f'problem: unknown stance "perhaps" in row {row[5]}',
        f"problem: text is #N/A in row {row[7]}: mend its formula or write the value",
        f"note: {cut} in row {row[8]}: compare it with its source",
        f"note: topic and text repeat those of row {row[20]}, with the same stance in row {row[42]}: {ONCE}",
        f"note: stances of one topic and text differ {text_21} in rows {row[21]}, {row[43]}: {DECIDE}",
    ]
    assert any("34 usable rows, 5 problems, 4 notes" in line for line in lines)
    colours, hints = read_marks(tmp_path / "c.checked.xlsx", offset)
    assert colours == {
        (row[3], 3): RED, (row[4], 2): RED, (row[5], 4): RED, (row[7], 3): RED, (row[8], 3): YELLOW, (row[9], 4): RED,
        (row[21], 4): YELLOW, (row[43], 4): YELLOW, (row[42], 3): YELLOW,
    }  # fmt: skip
    assert set(hints) == {place for place, _ in colours}
    assert hints[row[3]] == f"text is empty: {FILL}" and hints[row[43]].endswith(DECIDE)


def test_a_clean_corpus_passes_without_a_copy(tmp_path, capsys):
    assert run_check(write_corpus(tmp_path / "c.xlsx", make_rows())) == 0
    assert "40 usable rows, 0 problems, 0 notes" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["c.xlsx"]


def test_notes_alone_are_no_failure(tmp_path):
    rows = make_rows()
    rows[5][2] = 12
    assert run_check(write_corpus(tmp_path / "c.xlsx", rows)) == 0
    assert read_marks(tmp_path / "c.checked.xlsx")[0] == {(6, 3): YELLOW}


def test_a_cell_with_a_problem_and_a_note_is_red(tmp_path):
    rows = make_rows()
    rows[5][3] = 12
    assert run_check(write_corpus(tmp_path / "c.xlsx", rows)) == 2
    colours, hints = read_marks(tmp_path / "c.checked.xlsx")
    assert colours == {(6, 4): RED}
    assert (
        hints[6].startswith('unknown stance "12": ')
        and "; stance is a number, date or truth" in hints[6]
    )


def test_too_few_rows_are_a_failure(tmp_path, capsys):
    assert run_check(write_corpus(tmp_path / "c.csv", make_rows(29))) == 2
    assert "only 29 usable rows, 30 are needed" in capsys.readouterr().err


def test_the_copy_keeps_the_workbook(tmp_path):
    """Formulas, other sheets and what stands beside the table are still there; the corpus itself is not touched."""
    rows = make_rows()
    rows[3][2] = "=A1"
    path = write_corpus(tmp_path / "c.xlsx", rows)
    book = openpyxl.load_workbook(path)
    sheet = book["data"]
    sheet["F2"], sheet["XFD1"] = "beside", "far"
    sheet["B9"].fill = openpyxl.styles.PatternFill("solid", start_color=PLAIN)
    sheet["C6"].value, sheet["C6"].data_type = "=2+5 typed as text", "s"
    bold = openpyxl.cell.rich_text.TextBlock(openpyxl.cell.text.InlineFont(b=True), "kill")
    sheet["C7"].value = openpyxl.cell.rich_text.CellRichText("Guns ", bold, ".")
    sheet.merge_cells("B20:B22")
    book.create_sheet("notes")["A1"] = "kept"
    book.save(path)
    before = path.read_bytes()
    assert run_check(path) == 2 and path.read_bytes() == before
    copy = openpyxl.load_workbook(tmp_path / "c.checked.xlsx", rich_text=True)
    sheet = copy["data"]
    assert (
        isinstance(sheet["C7"].value, openpyxl.cell.rich_text.CellRichText)
        and sheet["C7"].value[1].font.b
    )
    assert [sheet[cell].value for cell in ("C4", "F2", "XFD1", "E1")] == [
        "=A1",
        "beside",
        "far",
        "hint",
    ]
    assert (
        sheet["E4"].value
        == "text is a formula without a stored value: open the file in Excel and save it"
    )
    assert (
        sheet["C4"].fill.start_color.rgb[2:] == RED
        and sheet["B9"].fill.start_color.rgb[2:] == PLAIN
    )
    assert (sheet["C6"].value, sheet["C6"].data_type) == ("=2+5 typed as text", "s")
    assert copy["notes"]["A1"].value == "kept" and str(sheet.merged_cells) == "B20:B22"


@pytest.mark.parametrize("suffix", [".xlsx", ".csv", ".jsonl"])
def test_other_headers_are_checked_too(tmp_path, capsys, suffix):
    rows = [[*HEADER[:1], "Claim", "Full text", "Code"], *make_dirty()[1:]]
    path = tmp_path / f"c{suffix}"
    if suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps(dict(zip(rows[0], row, strict=True))) + "\n" for row in rows[1:])
        )
    else:
        write_corpus(path, rows)
    assert run_check(path, "--columns", "claim", "FULL text ", "Code") == 2
    assert "34 usable rows, 5 problems, 4 notes" in capsys.readouterr().out
    sheet = openpyxl.load_workbook(tmp_path / "c.checked.xlsx").worksheets[0]
    assert [sheet.cell(1, place).value for place in range(1, 6)] == [*rows[0], "hint"]
    assert sheet.cell(3, 5).value == f"text is empty: {FILL}"


def test_what_is_doubtful_is_wrong_if_the_check_is_strict(tmp_path, capsys):
    rows = make_rows()
    rows[5][2], rows[6][2] = 12, "x" * 32767
    path = write_corpus(tmp_path / "c.xlsx", [*rows, [42, VEGANS, "sentence NUMBER 20", "neutral"]])
    assert run_check(path, "--strict") == 2
    assert (
        "38 usable rows, 2 problems, 1 notes" in capsys.readouterr().out
    )  # a repeated row is harmless
    assert read_marks(tmp_path / "c.checked.xlsx")[0] == {(6, 3): RED, (7, 3): RED, (42, 3): YELLOW}


def test_text_of_a_csv_is_no_formula_in_the_copy(tmp_path):
    rows = make_rows()
    rows[1][2], rows[2][3] = "=2+5 \x07 is odd", "perhaps"
    run_check(write_corpus(tmp_path / "c.csv", rows))
    cell = openpyxl.load_workbook(tmp_path / "c.checked.xlsx").worksheets[0]["C2"]
    assert (cell.value, cell.data_type) == ("=2+5  is odd", "s")


def test_the_sheet_is_chosen(tmp_path, capsys):
    path = write_corpus(tmp_path / "c.xlsx", make_rows())
    book = openpyxl.load_workbook(path)
    book.copy_worksheet(book["data"]).title = "second"
    book["second"]["C5"] = None
    book.save(path)
    assert run_check(path, "--sheet", "second") == 2
    copy = openpyxl.load_workbook(tmp_path / "c.checked.xlsx")
    assert (
        copy["second"]["E5"].value == f"text is empty: {FILL}" and copy["data"]["E5"].value is None
    )
    assert run_check(path) == 2 and "name one with --sheet" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".xlsx", ".csv", ".jsonl"])
def test_the_copy_is_wide_enough_to_read(tmp_path, suffix):
    rows = make_rows()
    rows[3][2], rows[5][2] = "x" * 20, "a long sentence " * 30
    rows[4][3] = "perhaps"
    assert run_check(write_corpus(tmp_path / f"c{suffix}", rows)) == 2
    sheet = openpyxl.load_workbook(tmp_path / "c.checked.xlsx").worksheets[0]
    assert sheet.column_dimensions["B"].width >= len(VEGANS)
    assert sheet.column_dimensions["C"].width == marked_copy.MAX_TEXT_WIDTH
    assert sheet.column_dimensions["E"].width == marked_copy.HINT_WIDTH
    assert sheet["C6"].alignment.wrap_text and not sheet["C4"].alignment.wrap_text
    if suffix != ".xlsx":  # the look of a workbook is its author's
        assert sheet.title == marked_copy.SHEET_NAME and sheet.freeze_panes == "A2"
        assert sheet["C1"].font.b and sheet.auto_filter.ref == "A1:E41"
        assert sheet.print_title_rows == "$1:$1"


def test_columns_of_one_look_are_described_once_in_the_copy(tmp_path):
    """Excel calls a workbook damaged that gives one column two widths."""
    path = write_corpus(tmp_path / "c.xlsx", make_rows())
    book = openpyxl.load_workbook(path)
    sheet = book["data"]
    sheet.column_dimensions.group("B", "G", hidden=False)
    sheet.column_dimensions["B"].width = 7
    sheet["D5"] = "perhaps"
    book.save(path)
    assert run_check(path) == 2
    with zipfile.ZipFile(tmp_path / "c.checked.xlsx") as archive:
        xml = archive.read("xl/worksheets/sheet1.xml").decode()
    runs = [tuple(map(int, run)) for run in re.findall(r'<col [^>]*min="(\d+)" max="(\d+)"', xml)]
    described = [column for first, last in runs for column in range(first, last + 1)]
    assert len(described) == len(set(described)) and {2, 3, 4, 5, 6, 7} <= set(described)


def test_a_copy_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(marked_copy, "name_copy", lambda path: tmp_path / "folder")
    assert run_check(write_corpus(tmp_path / "c.csv", make_dirty())) == 2
    assert "folder (Is a directory): close it in Excel" in capsys.readouterr().err


def test_a_copy_in_which_somebody_may_have_worked_stays(tmp_path):
    path = write_corpus(tmp_path / "c.csv", make_dirty())
    assert run_check(path) == 2 and run_check(path) == 2
    first, second = tmp_path / "c.checked.xlsx", tmp_path / "c.checked-2.xlsx"
    assert first.is_file() and second.is_file()
    assert marked_copy.name_copy(second) == tmp_path / "c.checked-3.xlsx"


def test_rows_are_listed_all():
    assert marked_copy.format_rows([7]) == "row 7"
    assert marked_copy.format_rows([9, 3, 5, 4, 7, *range(20, 40)]) == "rows 3-5, 7, 9, 20-39"
