"""Old Excel workbooks. cases/old_workbook.xls was written with xlwt 1.3.0: two sheets, the second with its table in B3."""

import datetime
import random
from pathlib import Path

import openpyxl
import pytest
from stopping import stop_message

from stance.corpus import annotations, marked_copy, tables, xls_reader

OLD = Path(__file__).parent / "cases" / "old_workbook.xls"


def test_every_kind_of_cell_stands_in_its_row(capsys):
    sheets = {location: list(lines) for location, lines in xls_reader.open_xls(OLD)}
    assert list(sheets) == [f'{OLD}, sheet "Notes"', f'{OLD}, sheet "Coding"']
    assert sheets[f'{OLD}, sheet "Coding"'] == [
        (3, [None, "topic", "text", "stance", "nr", "when"]),
        (4, [None, "Vegans are right.", "Only cheese holds me back – ü 核 👍", "Pro", 1,
             datetime.datetime(2024, 1, 5)]),
        (5, [None, "Vegans are right.", "two\nlines", "Contra", 2.5,
             datetime.datetime(2024, 1, 5, 13, 30)]),
        (6, [None, "Guns", "  spaces \t", True]),
        (8, [None, "Guns", "#N/A", "Pro"]),
        (9, [None, "Guns", "", ""]),  # formulas without stored values
    ]  # fmt: skip
    note = "merged cells read as if their value stood in each row, row 5"
    assert note in capsys.readouterr().out


def test_an_error_cell_is_named(capsys):
    message = stop_message(capsys, annotations.read_corpus, OLD)
    assert "text is #N/A in row 8" in message and "text is empty in row 9" in message
    assert 'unknown stance "True" in row 6' in message


def test_its_marked_copy_is_an_xlsx(tmp_path):
    path = tmp_path / "old.xls"
    path.write_bytes(OLD.read_bytes())
    scan = annotations.scan_corpus(path)
    copy = marked_copy.write_checked(path, scan.table, scan.findings)
    sheet = openpyxl.load_workbook(copy).active
    assert (copy.name, sheet["C4"].value) == (
        "old.checked.xlsx",
        "Only cheese holds me back – ü 核 👍",
    )
    assert sheet["C8"].fill.start_color.rgb == "00" + marked_copy.SERIOUS_COLOUR
    assert "text is #N/A" in " ".join(str(cell.value) for cell in sheet[8])


@pytest.mark.parametrize(
    "content, part",
    [
        (b"", "is empty"),
        (b"PK\3\4rest", "is a newer workbook despite its name: rename it to .xlsx"),
        (b"topic\ttext\n", "rename it to .csv"),
        (b"<html><table>", "is a web page despite its name"),
        (OLD.read_bytes()[:2000], "is damaged or incomplete"),
        (OLD.read_bytes()[:512] + bytes(4000), "is damaged or incomplete"),
        (OLD.read_bytes() + "EncryptedPackage".encode("utf-16-le"), "has a password"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, capsys, content, part):
    path = tmp_path / "a.xls"
    path.write_bytes(content)
    message = stop_message(capsys, annotations.read_corpus, path)
    assert part in message and message.count("\n") == 1


def test_damage_anywhere_ends_in_one_line_or_in_a_table(tmp_path, capfd):
    rng = random.Random(0)
    stopped = 0
    for _ in range(150):
        content = bytearray(OLD.read_bytes())
        for _ in range(rng.randint(1, 20)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path = tmp_path / "a.xls"
        path.write_bytes(content)
        try:
            for _, lines in xls_reader.open_xls(path):
                list(lines)
        except SystemExit as end:
            stopped += 1
            assert end.code == 2
    assert stopped > 5
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == stopped and all(line.startswith("error: ") for line in lines)


def test_the_name_does_not_decide_what_it_is(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_bytes(OLD.read_bytes())
    assert "despite its name" in stop_message(capsys, tables.open_table, path, {"text": ("text",)})


@pytest.mark.parametrize(
    "days, value",
    [
        (45296.0, datetime.datetime(2024, 1, 5)),
        (0.5625, datetime.time(13, 30)),
        (-3.0, -3.0),
        (1e9, 1e9),
    ],
)
def test_a_number_of_days_is_a_date_where_there_is_one(days, value):
    assert xls_reader.read_serial_date(days, 0) == value
