"""Annotated files: reading files, cleaning, keys, duplicates, splits."""

import csv
import datetime
import hashlib
import json
import random
import re
import zipfile
from collections import Counter

import openpyxl
import pytest
from stopping import stop_message

import prompts
from stance.common import files
from stance.corpus import (
    annotations,
    cleaning,
    corpus_flags,
    duplicates,
    reading,
    splitting,
    tables,
    workbook_reader,
)

GUNS = "There should be more gun control."
VEGANS = "Vegans are right."
AMENDMENT = (
    'It\'s the only country with a "2nd Amendment", yet 132 countries have a lower murder rate.'
)
HEADER = ("topic", "text", "stance")


def write_xlsx(path, **sheets):
    """Write a workbook: sheet name = list of rows."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def write_csv(path, rows, encoding="utf-8", **options):
    with open(path, "w", encoding=encoding, newline="") as file:
        csv.writer(file, **options).writerows(rows)
    return path


def read_sheet(name):
    """Return the options by which a sheet of a workbook is read."""
    return corpus_flags.CorpusOptions(reading.Reading(name))


def make_rows(n, topics=(GUNS, VEGANS), spellings=("Pro", "Contra", "Neutral")):
    """Return n rows with different sentences, topics and labels in turn."""
    rows = []
    for i in range(n):
        stance = spellings[i // len(topics) % len(spellings)]
        label = prompts.parse_stance(stance)
        text = f"Sentence number {i} of them."
        rows.append(
            {
                "topic": topics[i % len(topics)],
                "text": text,
                "label": label,
                "stance": stance,
                "row": i + 2,
                "source_id": f"c.csv:{i + 2}",
            }
        )
    return rows


def texts_of(splits):
    return {name: {(row["topic"], row["text"]) for row in rows} for name, rows in splits.items()}


# ---- files


def test_read_published_example(tmp_path):
    path = write_xlsx(tmp_path / "c.xlsx", corpus=[HEADER, (GUNS, AMENDMENT, "Pro")])
    row = {"topic": GUNS, "text": AMENDMENT, "label": "pro", "stance": "Pro", "row": 2}
    assert annotations.read_corpus(path) == [{**row, "source_id": "c.xlsx:2"}]


def test_header_in_any_case_with_index_column_on_second_sheet(tmp_path):
    notes = [("Read me",), ("made by hand",)]
    table = [
        (None, " Claim ", "SENTENCE", "Notes", "Label"),
        (0, VEGANS, "Taste is no argument.", "?", " CONTRA "),
    ]
    path = write_xlsx(tmp_path / "c.xlsx", readme=notes, data=table)
    [row] = annotations.read_corpus(path)
    assert row == {
        "topic": VEGANS,
        "text": "Taste is no argument.",
        "label": "con",
        "stance": "CONTRA",
        "row": 2,
        "source_id": "c.xlsx:2",
    }


def test_the_sheet_is_chosen_if_several_fit(tmp_path, capsys):
    sheets = {
        "a": [HEADER, (GUNS, "One.", "pro")],
        "b": [HEADER, (GUNS, "Two.", "pro")],
        "notes": [("Read me",)],
    }
    path = write_xlsx(tmp_path / "c.xlsx", **sheets)
    message = stop_message(capsys, annotations.read_corpus, path)
    assert (
        'sheet "a" and ' in message
        and 'sheet "b" have the same headers: name one with --sheet' in message
    )
    assert [row["text"] for row in annotations.read_corpus(path, read_sheet("b"))] == ["Two."]
    assert 'sheet "b" is read, not sheet "a", sheet "notes"\n' in capsys.readouterr().out
    assert (
        'has no sheet "c": name one of its sheets "a", "b", "notes" with --sheet'
        in stop_message(capsys, annotations.read_corpus, path, read_sheet("c"))
    )
    assert "no table with the headers topic" in stop_message(
        capsys, annotations.read_corpus, path, read_sheet("notes")
    )
    path = write_csv(tmp_path / "c.csv", sheets["a"])
    assert "c.csv has no sheets: leave out --sheet" in stop_message(
        capsys, annotations.read_corpus, path, read_sheet("a")
    )


def test_columns_that_are_not_used_are_named(tmp_path, capsys):
    table = [
        ("Unnamed: 0", *HEADER, None, "annotator"),
        (0, GUNS, "One.", "pro", "beside the table", "A"),
    ]
    assert len(annotations.read_corpus(write_xlsx(tmp_path / "c.xlsx", corpus=table))) == 1
    assert 'columns that are not used: "Unnamed: 0", "annotator"\n' in capsys.readouterr().out


def test_blank_rows_are_skipped_and_row_numbers_are_excels(tmp_path):
    blank = (None, None, None)
    rows = [
        blank,
        HEADER,
        (GUNS, "One.", "pro"),
        blank,
        (None, " \u200b", None),
        (GUNS, "Two.", "con"),
    ]
    path = write_xlsx(tmp_path / "c.xlsx", corpus=rows)
    assert [(row["text"], row["row"]) for row in annotations.read_corpus(path)] == [
        ("One.", 3),
        ("Two.", 6),
    ]


def test_wrong_size_stored_in_the_file_loses_no_row(tmp_path):
    path = write_xlsx(
        tmp_path / "c.xlsx", corpus=[HEADER, (GUNS, "One.", "pro"), (GUNS, "Two.", "con")]
    )
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    assert b'ref="A1:C3"' in parts[sheet]
    parts[sheet] = parts[sheet].replace(b'ref="A1:C3"', b'ref="A1"')
    with zipfile.ZipFile(path, "w") as book:
        for name, content in parts.items():
            book.writestr(name, content)
    assert len(annotations.read_corpus(path)) == 2


def test_words_that_look_like_missing_values_stay_text(tmp_path):
    words = ["nan", "NA", "None", "null", "n/a", "NULL"]
    rows = [HEADER, *((GUNS, word, "pro") for word in words)]
    for path in (write_xlsx(tmp_path / "c.xlsx", corpus=rows), write_csv(tmp_path / "c.csv", rows)):
        assert [row["text"] for row in annotations.read_corpus(path)] == words


def test_numbers_become_text_with_a_note(tmp_path, capsys):
    rows = [
        HEADER,
        (GUNS, "One.", "pro"),
        (GUNS, 12345, "pro"),
        (GUNS, True, "con"),
        (GUNS, 2.5, "neu"),
    ]
    path = write_xlsx(tmp_path / "c.xlsx", corpus=rows)
    assert [row["text"] for row in annotations.read_corpus(path)] == [
        "One.",
        "12345",
        "True",
        "2.5",
    ]
    note = capsys.readouterr().out
    assert note.startswith("note: ") and "3 rows (3, 4, 5)" in note


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize(
    "name, delimiter, encoding",
    [
        ("c.csv", ",", "utf-8"),
        ("c.csv", ",", "utf-8-sig"),
        ("c.csv", ";", "utf-8-sig"),
        ("c.tsv", "\t", "utf-8"),
    ],
)
def test_csv_and_tsv(tmp_path, name, delimiter, encoding, quoting):
    rows = [
        (*HEADER, ""),
        (GUNS, 'He said "no",\nthen left; émigré.', "Pro", 0),
        (GUNS, "Two.", "against", 1),
    ]
    path = write_csv(tmp_path / name, rows, encoding, delimiter=delimiter, quoting=quoting)
    found = [(row["text"], row["label"], row["row"]) for row in annotations.read_corpus(path)]
    assert found == [('He said "no",\nthen left; émigré.', "pro", 2), ("Two.", "con", 3)]


def test_equals_sign_typed_as_text_stays_text(tmp_path):
    path = write_xlsx(tmp_path / "c.xlsx", corpus=[HEADER, (GUNS, "x", "pro")])
    book = openpyxl.load_workbook(path)
    cell = book["corpus"]["B2"]
    cell.value, cell.data_type = "=2+5 is not an argument", "s"
    book.save(path)
    assert annotations.read_corpus(path)[0]["text"] == "=2+5 is not an argument"


# ---- defects


def test_missing_file(tmp_path, capsys):
    assert "absent.xlsx not found: check its path" in stop_message(
        capsys, annotations.read_corpus, tmp_path / "absent.xlsx"
    )
    assert "absent.csv not found: check its path" in stop_message(
        capsys, annotations.read_corpus, tmp_path / "absent.csv"
    )


def test_folder_in_place_of_a_file(tmp_path, capsys):
    (tmp_path / "c.xlsx").mkdir()
    assert "c.xlsx cannot be opened" in stop_message(
        capsys, annotations.read_corpus, tmp_path / "c.xlsx"
    )


def test_wrong_extension(tmp_path, capsys):
    message = stop_message(capsys, annotations.read_corpus, tmp_path / "c.docx")
    assert (
        "c.docx is no .xlsx, .xls, .ods, .csv, .tsv, .txt, .jsonl, .json, .parquet file: save it in Excel as .xlsx"
        in message
    )


def test_old_or_protected_workbook(tmp_path, capsys):
    path = tmp_path / "c.xlsx"
    path.write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + b"\0" * 504)
    assert "c.xlsx is an old .xls file despite its name: rename it to .xls" in stop_message(
        capsys, annotations.read_corpus, path
    )
    path.write_bytes(path.read_bytes() + "EncryptedPackage".encode("utf-16-le"))
    message = stop_message(capsys, annotations.read_corpus, path)
    assert "c.xlsx has a password: save it in Excel as .xlsx without a password" in message


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "c.xlsx is empty"),
        (
            b"topic,text,stance\n",
            "c.xlsx is no workbook despite its name: if it holds plain text, rename it to .csv",
        ),
        (
            b"\n<HTML><table></table></html>",
            "c.xlsx is a web page despite its name: open it in Excel",
        ),
        (
            b"\xef\xbb\xbf<?xml version='1.0'?><Workbook/>",
            "c.xlsx is a web page despite its name: open it in Excel",
        ),
    ],
)
def test_other_file_named_xlsx(tmp_path, capsys, content, expected):
    path = tmp_path / "c.xlsx"
    path.write_bytes(content)
    assert expected in stop_message(capsys, annotations.read_corpus, path)


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl"])
def test_workbook_with_another_name(tmp_path, capsys, name):
    path = write_xlsx(tmp_path / "c.xlsx", corpus=[HEADER, (GUNS, "One.", "pro")]).rename(
        tmp_path / name
    )
    assert f"{name} is an Excel workbook despite its name: rename it" in stop_message(
        capsys, annotations.read_corpus, path
    )


@pytest.mark.parametrize("part", ["content.xml", "word/document.xml", "xl/workbook.bin"])
def test_other_archive_named_xlsx(tmp_path, capsys, part):
    with zipfile.ZipFile(tmp_path / "c.xlsx", "w") as archive:
        archive.writestr(part, b"<x/>")
    message = stop_message(capsys, annotations.read_corpus, tmp_path / "c.xlsx")
    assert (
        "c.xlsx is no .xlsx workbook (but perhaps .xlsb, .ods or .docx): save it in Excel as .xlsx"
        in message
    )


def change_part(path, name, change):
    """Put another content into a part of a workbook; of "new.xml", which it lacks, the content before is empty."""
    with zipfile.ZipFile(path) as book:
        parts = {part: book.read(part) for part in book.namelist()}
    parts[name] = change(parts.get(name, b""))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for part, content in parts.items():
            book.writestr(part, content)


@pytest.mark.slow
def test_zip_bomb(tmp_path, capsys):
    path = write_xlsx(tmp_path / "c.xlsx", corpus=[HEADER, (GUNS, "One.", "pro")])
    change_part(path, "xl/media/image1.png", lambda content: bytes(90 << 20))
    assert len(annotations.read_corpus(path)) == 1  # a large blank picture is none
    change_part(path, "xl/media/image1.png", lambda content: bytes(110 << 20))
    message = stop_message(capsys, annotations.read_corpus, path)
    assert "c.xlsx unpacks to 115 MB from 0.1 MB: copy its table into a new workbook" in message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("blank", [0, (1 << 20) - 5])  # the second lies across two chunks
def test_entity_bomb(tmp_path, capsys, encoding, blank):
    path = write_xlsx(tmp_path / "c.xlsx", corpus=[HEADER, (GUNS, "One.", "pro")])
    doctype = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'.encode(encoding)
    change_part(path, "xl/worksheets/sheet1.xml", lambda content: b" " * blank + doctype + content)
    message = stop_message(capsys, annotations.read_corpus, path)
    assert "part xl/worksheets/sheet1.xml, declares XML entities, as Excel never does" in message


def test_a_sentence_about_doctypes_is_no_bomb(tmp_path):
    path = write_xlsx(
        tmp_path / "c.xlsx", corpus=[HEADER, (GUNS, "<!DOCTYPE html> is no argument.", "pro")]
    )
    assert annotations.read_corpus(path)[0]["text"] == "<!DOCTYPE html> is no argument."


def test_strict_workbook(tmp_path, capsys):
    path = write_xlsx(tmp_path / "c.xlsx", corpus=[HEADER, (GUNS, "One.", "pro")])
    usual, strict = (
        b"schemas.openxmlformats.org/spreadsheetml/2006",
        b"purl.oclc.org/ooxml/spreadsheetml",
    )
    change_part(path, "xl/workbook.xml", lambda content: content.replace(usual, strict))
    assert "save it in Excel as 'Excel Workbook'" in stop_message(
        capsys, annotations.read_corpus, path
    )


# ---- cells of Excel


def test_merged_cells_hold_in_all_their_rows(tmp_path, capsys):
    rows = [
        HEADER,
        (GUNS, "One.", "pro"),
        (None, "Two.", "con"),
        (None, None, None),
        (None, "Four.", None),
    ]
    path = write_xlsx(
        tmp_path / "c.xlsx", corpus=[*rows, (VEGANS, "Five.", "con"), (None, "Six.", "neu")]
    )
    book = openpyxl.load_workbook(path)
    for cells in ("A2:A5", "C3:C5", "A6:A7"):
        book["corpus"].merge_cells(cells)
    book.save(path)
    found = [
        (row["row"], row["topic"], row["text"], row["label"])
        for row in annotations.read_corpus(path)
    ]
    assert found == [
        (2, GUNS, "One.", "pro"), (3, GUNS, "Two.", "con"), (5, GUNS, "Four.", "con"), (6, VEGANS, "Five.", "con"),
        (7, VEGANS, "Six.", "neu"),
    ]  # fmt: skip
    note = capsys.readouterr().out
    assert (
        'sheet "corpus": merged cells read as if their value stood in each row, 3 rows (3, 5, 7)\n'
        in note
    )


def test_a_heading_merged_over_the_columns_is_no_text(tmp_path, capsys):
    rows = [HEADER, ("Part one", None, None), (GUNS, "One.", "pro"), (None, "Two.", "con")]
    path = write_xlsx(tmp_path / "c.xlsx", corpus=rows)
    book = openpyxl.load_workbook(path)
    book["corpus"].merge_cells("A2:C2")
    book.save(path)
    message = stop_message(capsys, annotations.read_corpus, path)
    assert (
        "text is empty in row 2, stance is empty in row 2, topic is empty in row 4: fill it"
        in message
    )


def test_a_stray_cell_in_the_last_row_costs_nothing(tmp_path):
    path = write_xlsx(tmp_path / "c.xlsx", corpus=[HEADER, (GUNS, "One.", "pro")])
    book = openpyxl.load_workbook(path)
    book["corpus"]["A1048576"], book["corpus"]["XFD5"] = " ", "note"
    book.save(path)
    assert len(annotations.read_corpus(path)) == 1
    [(_, lines)] = workbook_reader.open_xlsx(path)
    assert [number for number, _ in lines] == [1, 2, 5, 1048576]


def test_formulas_with_and_without_a_stored_value(tmp_path, capsys):
    rows = [
        HEADER,
        (GUNS, "=1+1", "pro"),
        (GUNS, '=""', "pro"),
        ("=A1", "=A1", "=A1"),
        (GUNS, '="4"', "pro"),
    ]
    path = write_xlsx(tmp_path / "c.xlsx", corpus=rows)
    change_part(
        path,
        "xl/worksheets/sheet1.xml",
        lambda content: (
            content.replace(b'<c r="B3"><f>""</f><v', b'<c r="B3" t="str"><f>""</f><v')
            .replace(b'<c r="B5"><f>"4"</f><v />', b'<c r="B5" t="str"><f>"4"</f><v>four</v>')
            .replace(b'<c r="B5"><f>"4"</f><v/>', b'<c r="B5" t="str"><f>"4"</f><v>four</v>')
        ),
    )
    message = stop_message(capsys, annotations.read_corpus, path)
    formula = "is a formula without a stored value in"
    found = f"text {formula} 2 rows (2, 4), topic {formula} row 4, stance {formula} row 4: open the file in Excel"
    assert found in message
    assert "text is empty in row 3: fill it" in message and "5" not in message.split("corpus")[-1]


def test_rich_text_and_dates(tmp_path, capsys):
    path = write_xlsx(tmp_path / "c.xlsx", corpus=[HEADER, (GUNS, "plain", "pro")])
    book = openpyxl.load_workbook(path)
    bold = openpyxl.cell.text.InlineFont(b=True)
    rich = openpyxl.cell.rich_text.CellRichText(
        "Guns ", openpyxl.cell.rich_text.TextBlock(bold, "kill"), "."
    )
    book["corpus"].append((GUNS, rich, "pro"))
    book["corpus"].append((GUNS, datetime.date(2024, 3, 1), "pro"))
    book.save(path)
    assert [row["text"] for row in annotations.read_corpus(path)] == [
        "plain",
        "Guns kill.",
        "2024-03-01 00:00:00",
    ]
    assert (
        "text is a number, date or truth value, read as text in row 4: check it"
        in capsys.readouterr().out
    )


def share_strings(path):
    """Put the texts of a workbook into a table that its sheets share, as Excel does and openpyxl does not."""
    texts = []

    def share(found):
        texts.append(found[1])
        return b't="s"><v>%d</v>' % (len(texts) - 1)

    kind = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    override = (
        b'<Override PartName="/xl/sharedStrings.xml" ContentType='
        b'"application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml" /></Types>'
    )
    inline = re.compile(b't="inlineStr"><is>(.*?)</is>', re.DOTALL)
    change_part(path, "xl/worksheets/sheet1.xml", lambda content: inline.sub(share, content))
    change_part(path, "[Content_Types].xml", lambda content: content.replace(b"</Types>", override))
    items = b"".join(b"<si>%b</si>" % text for text in texts)
    change_part(
        path,
        "xl/sharedStrings.xml",
        lambda content: f'<sst xmlns="{kind}">'.encode() + items + b"</sst>",
    )


def test_shared_text_is_read_like_text_in_cells(tmp_path):
    bold = openpyxl.cell.rich_text.TextBlock(openpyxl.cell.text.InlineFont(b=True), "kill")
    rows = [
        HEADER,
        (GUNS, " A  text\nof two lines & <signs> ", "pro"),
        (GUNS, "_x000D_", "con"),
        (GUNS, None, "con"),
    ]
    rows += [
        (GUNS, openpyxl.cell.rich_text.CellRichText("Guns ", bold, "."), "pro"),
        (GUNS, 5, "con"),
    ]
    path = write_xlsx(tmp_path / "c.xlsx", corpus=rows)
    inline = [list(lines) for _, lines in workbook_reader.open_xlsx(path)]
    assert inline[0][1] == (2, list(rows[1])) and inline[0][4] == (5, [GUNS, "Guns kill.", "pro"])
    share_strings(path)
    with zipfile.ZipFile(path) as book:
        assert b"inlineStr" not in book.read("xl/worksheets/sheet1.xml")
    assert [list(lines) for _, lines in workbook_reader.open_xlsx(path)] == inline
    typed = b"<t>_x005F_x000D_ as typed</t>"  # so Excel keeps text apart from its own _x000D_
    change_part(
        path, "xl/sharedStrings.xml", lambda content: content.replace(b"<t>_x000D_</t>", typed)
    )
    [(_, lines)] = workbook_reader.open_xlsx(path)
    assert list(lines)[2] == (3, [GUNS, "_x000D_ as typed", "con"])


def test_text_as_long_as_a_cell_was_probably_cut(tmp_path, capsys):
    rows = [HEADER, (GUNS, "a" * 32767, "pro"), (GUNS, "b" * 32766, "pro")]
    assert len(annotations.read_corpus(write_xlsx(tmp_path / "c.xlsx", corpus=rows))) == 2
    note = capsys.readouterr().out
    assert (
        "text has 32,767 characters, all that an Excel cell holds, and is probably cut in row 2: compare"
        in note
    )


def test_truncated_workbook(tmp_path, capsys):
    path = write_xlsx(tmp_path / "c.xlsx", corpus=[HEADER, (GUNS, "One.", "pro")])
    path.write_bytes(path.read_bytes()[:-300])
    assert "c.xlsx is damaged or incomplete" in stop_message(capsys, annotations.read_corpus, path)


def test_damaged_sheet(tmp_path, capsys):
    path = write_xlsx(
        tmp_path / "c.xlsx", corpus=[HEADER, *((GUNS, f"Sentence {i}.", "pro") for i in range(50))]
    )
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    parts["xl/worksheets/sheet1.xml"] = parts["xl/worksheets/sheet1.xml"][:-900]
    with zipfile.ZipFile(path, "w") as book:
        for name, content in parts.items():
            book.writestr(name, content)
    assert "c.xlsx is damaged or incomplete after row" in stop_message(
        capsys, annotations.read_corpus, path
    )


def test_no_sheet_with_the_columns(tmp_path, capsys):
    path = write_xlsx(
        tmp_path / "c.xlsx", notes=[("Hello",)], data=[("topic", "words", "stance")], empty=[]
    )
    message = stop_message(capsys, annotations.read_corpus, path)
    assert (
        "text (text|sentence|comment)" in message
        and 'sheet "notes" has "Hello" and lacks "topic|claim' in message
    )
    assert (
        'sheet "data" has "topic", "words", "stance" and lacks "text|sentence|comment"; ' in message
    )
    assert 'sheet "empty" has nothing and lacks "topic|claim|hypothesis|target", ' in message
    assert message.endswith(
        "or name those of the file: --columns of prepare_data.py, or COLUMN_NAMES in stance/corpus/annotations.py\n"
    )


@pytest.mark.parametrize(
    "header", [("topic", "text", "stance", "Text "), ("topic", "text", "stance", "Comment")]
)
def test_two_headers_for_one_column(tmp_path, capsys, header):
    path = write_xlsx(tmp_path / "c.xlsx", corpus=[header, (GUNS, "One.", "pro", "x")])
    message = stop_message(capsys, annotations.read_corpus, path)
    second = header[3].strip()
    assert (
        f'sheet "corpus", row 1: headers "text" and "{second}" all fit the column text: keep only one'
        in message
    )


def test_empty_and_broken_cells(tmp_path, capsys):
    rows = [
        HEADER,
        (GUNS, "One.", "pro"),
        (GUNS, None, "pro"),
        (None, "Two.", None),
        (GUNS, "#N/A", "con"),
    ]
    path = write_xlsx(tmp_path / "c.xlsx", corpus=[*rows, (None, None, "pro")])
    message = stop_message(capsys, annotations.read_corpus, path)
    empty = (
        "text is empty in 2 rows (3, 6), topic is empty in 2 rows (4, 6), stance is empty in row 4"
    )
    assert (
        f'sheet "corpus": {empty}: fill it or delete the row; text is #N/A in row 5: mend its formula'
        in message
    )


def test_many_defects_are_counted_in_one_line(tmp_path, capsys):
    path = write_csv(tmp_path / "c.csv", [HEADER, *((GUNS, "", "pro") for _ in range(25))])
    message = stop_message(capsys, annotations.read_corpus, path)
    assert (
        "text is empty in 25 rows (2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 15 more): fill it" in message
    )


def test_unknown_stances(tmp_path, capsys):
    stances = ["pro", "maybe", "con", "maybe", "x\ny"]
    rows = [HEADER, *((GUNS, f"Sentence {i}.", stance) for i, stance in enumerate(stances))]
    message = stop_message(
        capsys, annotations.read_corpus, write_xlsx(tmp_path / "c.xlsx", corpus=rows)
    )
    assert (
        'unknown stance "maybe" in 2 rows (3, 5), unknown stance "x\\ny" in row 6: write pro, con, neu'
        in message
    )


def test_header_without_rows(tmp_path, capsys):
    path = write_xlsx(tmp_path / "c.xlsx", corpus=[HEADER])
    assert 'sheet "corpus": no rows below the header' in stop_message(
        capsys, annotations.read_corpus, path
    )


def test_csv_in_another_encoding(tmp_path, capsys):
    path = write_csv(tmp_path / "c.csv", [HEADER, (GUNS, "оружие убивает людей", "pro")], "cp1251")
    assert "c.csv is not UTF-8" in stop_message(capsys, annotations.read_corpus, path)


def test_csv_with_an_open_quotation_mark(tmp_path, capsys):
    path = tmp_path / "c.csv"
    path.write_text(
        f'topic,text,stance\n{GUNS},One.,pro\n{GUNS},"Two.,pro\n{GUNS},Three.,pro\n',
        encoding="utf-8",
    )
    assert "c.csv is damaged or incomplete after row 2" in stop_message(
        capsys, annotations.read_corpus, path
    )


# ---- cleaning and keys


@pytest.mark.parametrize(
    "dirty, clean",
    [
        ("\ufeff Guns\u00a0kill.\u3000", "Guns kill."),
        ("zero\u200bwidth soft\u00adhyphen \u202bmark\u202c", "zerowidth softhyphen mark"),
        ("cafe\u0301", "café"),
        ("one_x000D_\ntwo\r\nthree\rfour\u2028five", "one\ntwo\nthree\nfour\nfive"),
        ("a\tb\x00c\x1fd\x7fe", "a bcde"),
        ("don\x92t, 5 \x80, a\x85, no\x81ne", "don’t, 5 €, a…, none"),
        ("donâ\x80\x99t, naÃ¯ve stays", "don’t, naÃ¯ve stays"),
        ("&\u200bamp; &\x00lt; &notit; &ampere;", "& < &notit; &ampere;"),
        ("one_x00\ufeff0D_two", "one\ntwo"),
        ("&gt; R&amp;D &#39;s&#x27; &nbsp;AT&T &amp;gt; &nosuch;", "> R&D 's'  AT&T > &nosuch;"),
        ("lone \ud83d half", "lone  half"),
        ("one_x000D_two _x0007_x_x0009_y", "one\ntwo x y"),
        (None, ""),
        (3, "3"),
    ],
)
def test_clean_text_removes(dirty, clean):
    assert cleaning.clean_text(dirty) == clean
    assert cleaning.clean_text(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        AMENDMENT,
        "two\n\nlines  and  spaces",
        "👩‍👩‍👧 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 — “quoted” … 5 %",
        "می‌خواهم",
        "हिन्दी",
        "naïve ½ x² ﬁ",
    ],
)
def test_clean_text_keeps(text):
    assert cleaning.clean_text(text) == text


@pytest.mark.parametrize(
    "one, other",
    [
        ("Guns kill.", "guns  kill"),
        ("Guns\nkill!!", "“GUNS” — kill"),
        ("don't", "DON’T"),
        ("Straße", "STRASSE"),
        ("👩‍👧 ok", "👩👧 ok"),
        ("❤️", "❤"),
        ("ｆｕｌｌ", "full"),
        ("a\u200bb", "ab"),
        ("Only 5.", "only 5"),
        ("café", "cafe\u0301"),
    ],
)
def test_key_equal(one, other):
    assert cleaning.normalise_key(one) == cleaning.normalise_key(other)


@pytest.mark.parametrize(
    "one, other",
    [
        ("1.5 million", "15 million"),
        ("It is -5 outside", "It is 5 outside"),
        ("a ratio of 3:2", "a ratio of 3.2"),
        ("up 5%", "up 5"),
        ("$5", "5"),
        ("we're right", "were right"),
        ("Good 🙄", "Good"),
        ("naïve", "naive"),
        ("C++", "C"),
        ("की", "का"),
        ("!!!", "???"),
        ("🙄", "👍"),
        ("therapist", "the rapist"),
        ("resign", "re-sign"),
    ],
)
def test_key_different(one, other):
    assert cleaning.normalise_key(one) != cleaning.normalise_key(other)


def test_plain_text_has_the_key_that_it_has_beside_other_text():
    """Of ASCII text the key is worked out on a shorter way."""
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choices([chr(code) for code in range(128)], k=12)) + "x"
        assert cleaning.normalise_key(text + " é") == cleaning.normalise_key(text) + " é"


@pytest.mark.parametrize("text", ["🙄", "???", ".", "\u200d", "_", "—"])
def test_key_never_empty(text):
    assert cleaning.normalise_key(text)


def test_id_is_that_of_the_keys():
    assert splitting.make_id(GUNS, "Guns kill.") == splitting.make_id(
        "there should be MORE gun control", "guns  kill"
    )
    assert splitting.make_id(GUNS, "Guns kill.") != splitting.make_id(VEGANS, "Guns kill.")
    keys = "there should be more gun control\nguns kill"
    assert splitting.make_id(GUNS, "Guns kill.") == hashlib.sha256(keys.encode()).hexdigest()[:16]


# ---- duplicates


def test_merge_duplicates():
    rows = make_rows(6)
    rows[4].update(
        topic=GUNS, text="sentence number 0 of THEM", stance="favour", label="pro"
    )  # as row 2
    rows[5].update(topic=VEGANS, text=rows[0]["text"])  # same sentence, another topic: no duplicate
    kept, repeated, conflicts, _ = duplicates.merge_duplicates(rows)
    assert [row["row"] for row in kept] == [2, 3, 4, 5, 7]
    assert kept[0]["text"] == "Sentence number 0 of them."
    assert (repeated, conflicts) == ([{"kept": 2, "merged": [6]}], [])


def test_conflicts_are_left_out_whole():
    rows = make_rows(4)
    rows += [
        {**rows[0], "row": 6, "stance": "pro"},
        {**rows[0], "row": 7, "stance": "Contra", "label": "con"},
    ]
    kept, repeated, conflicts, _ = duplicates.merge_duplicates(rows)
    assert [row["row"] for row in kept] == [3, 4, 5] and repeated == []
    spellings = [
        {"row": 2, "stance": "Pro"},
        {"row": 6, "stance": "pro"},
        {"row": 7, "stance": "Contra"},
    ]
    assert conflicts == [{"topic": GUNS, "text": "Sentence number 0 of them.", "rows": spellings}]


# ---- splits


@pytest.mark.parametrize(
    "n, sizes", [(5000, (4000, 500, 500)), (720, (576, 72, 72)), (30, (24, 3, 3))]
)
def test_split_sizes_are_exact(n, sizes):
    splits = splitting.draw_splits(make_rows(n), seed=0)
    assert tuple(len(splits[name]) for name in ("train", "val", "test")) == sizes
    assert len(set().union(*texts_of(splits).values())) == n


def test_every_stratum_is_within_one_row_of_its_share():
    rows = make_rows(997, topics=[f"Topic {i}." for i in range(7)])
    strata = Counter((row["topic"], row["label"]) for row in rows)
    splits = splitting.draw_splits(rows, seed=3)
    for name in ("val", "test"):
        found = Counter((row["topic"], row["label"]) for row in splits[name])
        assert all(abs(found[stratum] - n / 10) < 1 for stratum, n in strata.items())


def test_split_does_not_depend_on_the_order_of_rows():
    rows = make_rows(300)
    rows += [{**row, "topic": "Third topic.", "row": row["row"] + 300} for row in rows[:60]]
    shuffled = random.Random(1).sample(rows, len(rows))
    assert texts_of(splitting.draw_splits(rows, seed=0)) == texts_of(
        splitting.draw_splits(shuffled, seed=0)
    )


def test_another_seed_draws_another_split_of_the_same_size():
    one, other = (texts_of(splitting.draw_splits(make_rows(300), seed)) for seed in (0, 1))
    assert len(one["test"]) == len(other["test"]) == 30
    assert len(one["test"] & other["test"]) < 15


def test_a_sentence_of_several_topics_stays_in_one_split():
    rows = make_rows(400, topics=[GUNS])
    rows += [
        {**row, "topic": VEGANS, "text": row["text"].upper(), "row": row["row"] + 400}
        for row in rows[:200]
    ]
    splits = splitting.draw_splits(rows, seed=0)
    splitting.check_splits_disjoint(splits)
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 480,
        "val": 60,
        "test": 60,
    }
    twins = {name: sum(row["topic"] == VEGANS for row in part) for name, part in splits.items()}
    assert twins == {"train": 160, "val": 20, "test": 20}  # 10 % of the pairs too, not 20 %


def test_a_huge_group_is_not_held_out():
    rows = make_rows(100, topics=[GUNS])
    rows += [{**row, "topic": row["text"], "text": "lol"} for row in rows[:50]]
    splits = splitting.draw_splits(rows, seed=0)
    assert sum(row["text"] == "lol" for row in splits["train"]) == 50


def test_shares_that_fall_due_together_do_not_collide(monkeypatch):
    monkeypatch.setattr(splitting, "HELD_OUT_SHARES", {"val": 0.25, "test": 0.15})
    splits = splitting.draw_splits(make_rows(2000), seed=0)
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 1200,
        "val": 500,
        "test": 300,
    }


def test_check_splits_disjoint(capsys):
    splits = {
        "train": [{"text": "Guns kill."}, {"text": "Other."}],
        "test": [{"text": "guns  kill"}],
    }
    message = stop_message(capsys, splitting.check_splits_disjoint, splits)
    assert '1 rows have their sentence in two splits: "guns  kill" in train and test' in message
    splitting.check_splits_disjoint(
        {"train": [{"text": "Guns kill."}], "test": [{"text": "Guns save."}]}
    )


# ---- split files


def write_split(path, **changes):
    line = {
        "id": splitting.make_id(GUNS, AMENDMENT),
        "topic": GUNS,
        "text": AMENDMENT,
        "stance": "Pro",
    }
    line |= {"prompt": prompts.build_prompt(GUNS, AMENDMENT), "label": "pro", **changes}
    files.write_jsonl(path, [line])
    return path


def test_load_split_reads_back(tmp_path):
    [row] = splitting.load_split(write_split(tmp_path / "test.jsonl"))
    assert (row["topic"], row["text"], row["label"]) == (GUNS, AMENDMENT, "pro")


def test_load_split_missing(tmp_path, capsys):
    message = stop_message(capsys, splitting.load_split, tmp_path / "test.jsonl")
    assert "test.jsonl not found: run prepare_data.py first" in message


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"prompt": "Another prompt"}, "line 1: not the prompt of prompts.py"),
        ({"text": "Edited."}, "line 1: not the prompt of prompts.py"),
        ({"label": "positive"}, "line 1: label 'positive' is not in ('pro', 'con', 'neu')"),
    ],
)
def test_load_split_stale(tmp_path, capsys, changes, expected):
    message = stop_message(
        capsys, splitting.load_split, write_split(tmp_path / "test.jsonl", **changes)
    )
    assert expected in message and message.endswith("run prepare_data.py again\n")


# ---- rows that are something else


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_text_that_swallows_rows_is_named(tmp_path, delimiter):
    """A quotation mark that opens a cell and closes in a later row."""
    rows = [["A.", f"Sentence {i}.", "pro"] for i in range(6)]
    rows[2][1], rows[4][1] = '"It begins here', 'it ends"'
    path = tmp_path / "c.csv"
    header = delimiter.join(["topic", "text", "stance"])
    path.write_text("\n".join([header, *(delimiter.join(row) for row in rows)]))
    [finding] = [one for one in annotations.scan_corpus(path).findings if one.serious]
    assert (finding.row, finding.what) == (4, "text holds a whole row of the table")


def write_glued(path, header, rows, delimiter=","):
    path.write_text("\n".join(delimiter.join(row) for row in [header, *rows]))
    return path


@pytest.mark.parametrize(
    "header, rows",
    [
        (["topic", "text", "stance"], [["T", '"Yes he said', "pro"], ["T", 'never again"', "con"]]),
        (["id", "topic", "text", "stance"], [["1", "T", '"Yes', "pro"], ["2", "T", 'no"', "con"]]),
        (["stance", "topic", "text"], [["pro", "T", '"Yes'], ["con", "T", 'no"']]),
        (
            ["topic", "text", "stance", "note"],
            [["T", '"Yes', "pro"], ["T", "mid", "con"], ["T", 'no"', "con"]],
        ),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_two_rows_that_became_one_are_named(tmp_path, header, rows, delimiter):
    path = write_glued(tmp_path / "c.csv", header, rows, delimiter)
    findings = annotations.scan_corpus(path).findings
    assert [one.what for one in findings if one.serious] == ["text holds a whole row of the table"]


def test_a_table_to_label_gets_a_note_on_lines_that_look_like_rows(tmp_path, capsys):
    rows = [["T", '"Yes'], ["T", "this is fine"], ["T", 'no"'], ["T", "z"]]
    path = write_glued(tmp_path / "c.csv", ["topic", "text"], rows)
    assert len(list(tables.open_table(path, {}).rows)) == 2
    assert (
        "lines within a cell look like rows, row 2: is a quotation mark" in capsys.readouterr().out
    )


def test_a_text_of_several_lines_is_none_of_these(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text('topic,text,stance\nA.,"One, two.\nThree, four, five.",pro\n')
    scan = annotations.scan_corpus(path)
    assert [row["text"] for row in scan.rows] == ["One, two.\nThree, four, five."]
    assert not scan.findings


def write_answers(path, answers):
    rows = [
        {"topic": "A.", "text": f"Sentence {i}.", "stance": "pro", "answer": answer}
        for i, answer in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_prodigy_rejected_is_left_out(tmp_path):
    path = write_answers(tmp_path / "c.jsonl", ["accept", "reject", "ignore", None, "accept"])
    scan = annotations.scan_corpus(path)
    assert [row["row"] for row in scan.rows] == [1, 4, 5]
    assert [(finding.row, finding.serious) for finding in scan.findings] == [(2, False), (3, False)]


def test_a_column_of_other_answers_leaves_nothing_out(tmp_path):
    path = write_answers(tmp_path / "c.jsonl", ["yes", "no", "accept"])
    assert len(annotations.scan_corpus(path).rows) == 3
    path = write_answers(tmp_path / "d.jsonl", ["yes", "reject"])
    [finding] = annotations.scan_corpus(path).findings
    assert finding.serious and "rename the column" in finding.hint


@pytest.mark.parametrize("content", ["[1]", "[]", '[{"topic": 1}, []]', "[{]", "["])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_json_array_of_something_else(tmp_path, capsys, content, suffix):
    path = tmp_path / f"c{suffix}"
    path.write_text(content)
    message = stop_message(capsys, annotations.read_corpus, path)
    assert str(path) in message and "JSON array" in message


def test_a_sentence_of_nothing_but_marks_is_compared(tmp_path):
    """It has no words, but more than one blank."""
    from stance.corpus import near_duplicates

    marks, positions = near_duplicates.mark_sentences(
        ["! ! ! ! !  ! !", "one two three four five six"]
    )
    assert len(marks) == len(positions)
