"""tools/packet.py: a run is read with what lies beside it, and what does not belong to it is left out."""

import shutil

import pytest
from packets import HASH, make_record, make_report
from stopping import stop_message

import evaluate
from stance.common import files
from stance.corpus import splitting
from tools import packet


@pytest.mark.slow
def test_a_finished_run_leaves_little_unrecorded(trained_run, data_dir, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained_run, folder)
    evaluate.main(["--adapter", str(folder), "--data-dir", data_dir, "--robustness-rows", "8"])
    capsys.readouterr()
    packet.main(["--run", str(folder)])
    printed = capsys.readouterr().out
    page = (folder / "packet.md").read_text(encoding="utf-8")
    assert printed.startswith(f"wrote {folder}/packet.md; 3 items are not recorded")
    assert page.count("not recorded") == 4  # energy, trainings before, agreement; explained once
    for name in splitting.SPLITS:
        for row in splitting.load_split(f"{data_dir}/{name}.jsonl"):
            assert row["text"] not in page
    assert str(tmp_path) not in page and data_dir not in page
    assert page.count("unchanged") == 2
    for path in (f"{data_dir}/train.jsonl", f"{data_dir}/test.jsonl", f"{data_dir}/corpus.csv"):
        assert files.hash_file(path) in page


@pytest.fixture
def run_dir(tmp_path):
    files.write_json(tmp_path / "run" / "run.json", make_record())
    return tmp_path / "run"


def test_a_run_alone_has_a_packet_with_notes_on_what_is_left_out(run_dir, capsys):
    packet.main(["--run", str(run_dir)])
    printed = capsys.readouterr().out
    assert printed.count("note: ") == 2 and "evaluate the run" in printed
    assert (run_dir / "packet.md").is_file()


def test_splits_of_another_run_are_not_told_of(run_dir, tmp_path, capsys):
    other = make_report(outputs={"train.jsonl": "0", "val.jsonl": "0"})
    files.write_json(tmp_path / "data" / splitting.REPORT, other)
    words = ["--run", str(run_dir), "--data-dir", str(tmp_path / "data")]
    assert "of other splits than those of the run" in stop_message(capsys, packet.main, words)

    files.write_json(run_dir / "run.json", make_record(flags={"data_dir": str(tmp_path / "data")}))
    packet.main(["--run", str(run_dir)])
    assert "of other splits" in capsys.readouterr().out
    assert "corpus.xlsx" not in (run_dir / "packet.md").read_text()


def test_splits_of_the_run_are_told_of(run_dir, tmp_path, capsys):
    files.write_json(tmp_path / "data" / splitting.REPORT, make_report())
    output = tmp_path / "page.md"
    words = ["--run", str(run_dir), "--data-dir", str(tmp_path / "data"), "--output", str(output)]
    packet.main(words)
    assert "| corpus.xlsx | 27 | c0 |" in output.read_text() and HASH["test"] in output.read_text()


@pytest.mark.parametrize(
    "content, expected",
    [
        (None, "run.json not found: give the folder of a finished run"),
        ("{", "is not valid JSON"),
        ("[]", "is no run record"),
        ('{"base_model": 3}', "is no run record"),
    ],
)
def test_a_folder_without_a_finished_run_is_said_in_one_line(tmp_path, capsys, content, expected):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    message = stop_message(capsys, packet.main, ["--run", str(tmp_path)])
    assert expected in message and not (tmp_path / "packet.md").exists()


def test_a_damaged_report_is_said_in_one_line(run_dir, tmp_path, capsys):
    files.write_json(tmp_path / "data" / splitting.REPORT, make_report(counts={"train": [1]}))
    words = ["--run", str(run_dir), "--data-dir", str(tmp_path / "data")]
    assert "is no report of prepare_data.py" in stop_message(capsys, packet.main, words)


def test_another_ending_is_refused(capsys):
    assert "must end in .md" in stop_message(capsys, packet.parse_args, ["--output", "a.docx"])
