"""benchmarks/label_errors.py: flipped labels are learnt from, and found again by models that did not see them."""

import label_errors
import pytest
from stopping import stop_message

import finetune
from stance.common import files
from stance.corpus import splitting


def make_rows(count):
    return [{"id": f"{number:04}", "label": "pro"} for number in range(count)]


def test_a_share_of_the_labels_is_flipped_and_always_the_same():
    rows = make_rows(200)
    flipped = label_errors.flip_labels(rows, 0.1, 0)
    assert len(flipped) == 20 and set(flipped.values()) == {"con", "neu"}
    assert label_errors.flip_labels(rows[::-1], 0.1, 0) == flipped
    assert label_errors.flip_labels(rows, 0.1, 1) != flipped
    assert len(label_errors.flip_labels(rows, 0.001, 0)) == 1


@pytest.fixture
def words(tmp_path, data_dir, tiny_model, monkeypatch):
    """The words of a command on the tiny model, which learns its corpus within seconds."""
    for name, value in {"EFFECTIVE_BATCH_SIZE": 8, "MICRO_BATCH_SIZE": 8}.items():
        monkeypatch.setattr(finetune, name, value)
    monkeypatch.setattr(finetune, "LEARNING_RATE", 4e-3)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "small").symlink_to(data_dir)
    given = ["--models", f"tiny={tiny_model}", "--corpus", "small", "--folds", "2"]
    given += ["--data-dir", str(tmp_path / "data"), "--work-dir", str(tmp_path / "work")]
    return [*given, "--output", str(tmp_path / "out.json"), "--epochs", "16", "--share", "0.1"]


@pytest.mark.slow
def test_flipped_labels_are_found_and_finished_folds_skipped(words, tmp_path, data_dir, capsys):
    label_errors.main(words)
    [run] = files.read_json(tmp_path / "out.json", "fix the test")["runs"]
    rows = splitting.load_split(f"{data_dir}/train.jsonl")
    assert run["rows"] == len(rows) and run["accuracy_clean_labels"] > 0.8
    found = run["at_number_flipped"]["confident learning"]
    assert found["wrong"] == round(0.1 * len(rows)) and found["precision"] >= 0.5  # chance: 0.1
    assert capsys.readouterr().out.count("fold 1:") == 1

    label_errors.main(words)
    assert "fold 1:" not in capsys.readouterr().out
    message = stop_message(capsys, lambda: label_errors.main([*words[:-1], "0.1", "--rows", "40"]))
    assert "of other rows or flags" in message


def test_nothing_to_score_is_said_in_one_line(tmp_path, capsys):
    words = ["--work-dir", str(tmp_path), "--output", str(tmp_path / "out.json")]
    assert "no finished run" in stop_message(capsys, lambda: label_errors.main(words))
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("share", ["0", "1", "-0.1"])
def test_impossible_shares_are_refused(share, capsys):
    message = stop_message(capsys, lambda: label_errors.parse_args([f"--share={share}"]))
    assert "between 0 and 1" in message
