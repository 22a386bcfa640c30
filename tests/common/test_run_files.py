"""Files with texts lie apart in a run folder; those of earlier versions are found beside the rest."""

import pytest
from stopping import stop_message

from stance.common import run_files


def test_texts_lie_apart_with_a_note_on_them(tmp_path):
    path = run_files.place_text(tmp_path / "run", run_files.RECORDS)
    assert path == tmp_path / "run" / "texts" / "evaluation.jsonl" and not path.exists()
    readme = path.with_name("README.md")
    assert "Publish them\nonly if you may publish the corpus" in readme.read_text(encoding="utf-8")
    readme.write_text("mine", encoding="utf-8")
    run_files.place_text(tmp_path / "run", run_files.REPORT_PAGE)
    assert readme.read_text(encoding="utf-8") == "mine"


def test_the_new_place_comes_first(tmp_path):
    old = tmp_path / run_files.RECORDS
    new = tmp_path / run_files.TEXTS / run_files.RECORDS
    assert run_files.find_text(tmp_path, run_files.RECORDS) == new  # where it should be
    old.write_text("old")
    assert run_files.find_text(tmp_path, run_files.RECORDS) == old
    assert run_files.find_records(tmp_path) == old
    run_files.place_text(tmp_path, run_files.RECORDS).write_text("new")
    assert run_files.find_text(tmp_path, run_files.RECORDS) == new
    assert run_files.find_records(tmp_path) == new and run_files.find_records(old) == old
    run_files.remove_replaced(tmp_path, [run_files.RECORDS, run_files.REPORT_PAGE])
    assert not old.exists() and run_files.find_records(old) == new


@pytest.mark.parametrize("place, numbers, home", [
    ("texts", "", "."), ("", "", "."), ("texts", "texts", "texts"),
])  # fmt: skip
def test_results_are_those_of_the_folder_with_the_numbers(tmp_path, place, numbers, home):
    """Also where somebody keeps all files of an evaluation in a folder that is called texts."""
    for folder in (place, numbers):
        (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / numbers / run_files.NUMBERS).write_text("{}")
    path = tmp_path / place / run_files.RECORDS
    assert run_files.find_folder(path) == tmp_path / home


@pytest.mark.parametrize(
    ("name", "words"), [("nope", "nope not found"), ("labelled.xlsx", "labelled.xlsx is no .jsonl")]
)
def test_what_is_no_evaluation_is_named_as_it_was_given(tmp_path, capsys, name, words):
    (tmp_path / "labelled.xlsx").write_bytes(b"PK")
    message = stop_message(capsys, run_files.find_records, tmp_path / name)
    assert words in message and "give the folder that evaluate.py wrote" in message
