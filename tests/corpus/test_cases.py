"""Small files as other programs leave them, each with what must come of it. All made for this purpose."""

import shutil
from pathlib import Path

import pytest

import prepare_data
from stance.corpus import annotations, corpus_flags, reading, tables
from stance.labelling import table as labelling_table

CASES = Path(__file__).parent / "cases"


def read(name, **options):
    return annotations.scan_corpus(CASES / name, corpus_flags.CorpusOptions(**options))


def texts_of(scan):
    return [row["text"] for row in scan.rows]


@pytest.mark.parametrize(
    "name, count",
    [
        ("r02c.tsv", 45),
        ("r02.tsv", 47),
        ("r02b.tsv", 47),
        ("q1.tsv", 60),
        ("q3.tsv", 60),
        ("cr.tsv", 60),
        ("cp.tsv", 60),
        ("utf16.tsv", 60),
        ("c1.csv", 45),
        ("r03.csv", 45),
        ("r03.tsv", 45),
        ("r03_quoted.csv", 45),
        ("r03_newline.csv", 45),
        ("r05_blank.jsonl", 45),
        ("r05_array.json", 45),
        ("r05_prodigy.jsonl", 35),
        ("r15_cellstyle.xlsx", 45),
        ("r15_color.xlsx", 45),
        ("r15_core.xlsx", 45),
        ("r15_fill.xlsx", 45),
    ],
)
def test_rows_that_are_used(tmp_path, name, count):
    scan = read(name)
    assert len(scan.rows) == count and not any(finding.serious for finding in scan.findings)
    assert not any("\n" in text or "\t" in text for text in texts_of(scan))
    prepare_data.main(["--corpus", str(CASES / name), "--output-dir", str(tmp_path)])


@pytest.mark.parametrize("name", ["r02.tsv", "r02b.tsv", "r02c.tsv", "q1.tsv", "q3.tsv"])
def test_every_line_of_a_tab_file_is_a_row_with_its_marks(name):
    lines = (CASES / name).read_text(encoding="utf-8").splitlines()[1:]
    assert texts_of(read(name)) == [line.split("\t")[1] for line in lines]


@pytest.mark.parametrize("name, encoding", [("cp.tsv", "cp1252"), ("utf16.tsv", "utf-16")])
def test_another_encoding_is_found_by_its_bytes(capsys, name, encoding):
    lines = (CASES / name).read_text(encoding=encoding).splitlines()[1:]
    assert texts_of(read(name)) == [line.split("\t")[1] for line in lines]
    if encoding == "cp1252":
        assert any("’" in line for line in lines) and any("€" in line for line in lines)


def test_a_tab_file_to_label():
    table = labelling_table.open_source(
        labelling_table.Source(str(CASES / "r02p.tsv"), None, None, reading.Reading(), None)
    )
    lines = (CASES / "r02p.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert [cells for _, cells in table.rows] == [line.split("\t") for line in lines]
    assert len(lines) == 8


def test_misread_characters_and_entities(capsys):
    scan = read("c1.csv")
    for text in texts_of(scan):
        assert "don’t" in text and "–" in text and "€" in text and "& >" in text
    assert list(scan.repairs.values()) == [45, 45]


@pytest.mark.parametrize("name", ["r06.csv", "r06.xlsx"])
@pytest.mark.parametrize("flags", [[], ["--check"]])
def test_every_error_cell_is_named(tmp_path, capsys, name, flags):
    path = shutil.copy(CASES / name, tmp_path)
    with pytest.raises(SystemExit) as stopped:
        prepare_data.main(["--corpus", str(path), "--output-dir", str(tmp_path / "out"), *flags])
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()
    rows = {finding.row for finding in read(name).findings if finding.serious}
    wrong = {
        number
        for number, cells in tables.open_table(CASES / name, {}).rows
        if any(str(cell).startswith(("#", "Err:", "Loading...")) for cell in cells)
    }
    assert rows == wrong and len(rows) >= 5
    printed = capsys.readouterr()
    assert "#SPILL!" in printed.out + printed.err


@pytest.mark.parametrize(
    "name",
    [
        "r08.xlsx",
        "r22_comments_missing.xlsx",
        "r22_drawing_null.xlsx",
        "r22_hyperlink_missing.xlsx",
        "r22_table_missing.xlsx",
        "r15_fill.xlsx",
        "r15_cellstyle.xlsx",
    ],
)
def test_check_finds_the_same_where_parts_are_damaged(tmp_path, capsys, name):
    path = Path(shutil.copy(CASES / name, tmp_path))
    findings = read(name).findings
    with pytest.raises(SystemExit) as checked:
        prepare_data.main(["--corpus", str(path), "--check"])
    assert checked.value.code == (2 if findings else 0)
    out = capsys.readouterr().out
    for finding in findings:
        assert f"{finding.what} in row {finding.row}" in out
    assert (tmp_path / f"{path.stem}.checked.xlsx").exists() == bool(findings)


def test_a_missing_number_is_an_empty_cell():
    [finding] = read("r05_nan.jsonl").findings
    assert finding.what == "text is empty" and finding.serious


def test_headers_are_named_as_a_person_types_them():
    scan = read("r13.xlsx", columns=("Claim (hypothesis)", "Full text", "final Stance"))
    assert len(scan.rows) == 45


def test_positions_stand_for_headers_where_there_are_none():
    scan = read("nohead.csv", columns=("1", "2", "3"))
    assert len(scan.rows) == 60 and scan.rows[0]["row"] == 1
    assert scan.rows[0]["topic"] == "A topic." and scan.rows[0]["label"] == "pro"


def test_rows_without_a_stance_are_named():
    [finding] = [finding for finding in read("nolabel.csv").findings if finding.serious]
    assert (finding.row, finding.what) == (9, "stance is empty")
