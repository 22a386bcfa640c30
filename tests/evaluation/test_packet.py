"""stance/evaluation/packet.py: everything recorded is told, nothing of the corpus, gaps are named."""

import hashlib
import re

import pytest
from packets import HASH, make_record, make_report
from test_analysis import make_table, make_variants

import prompts
from stance.evaluation import packet


def make_sources(**more):
    table = make_table()
    variants = make_variants("lower case", {row["id"]: ("pro", "con") for row in table})
    sources = packet.Sources(
        record=make_record(),
        adapter_files={},
        splits=make_report(),
        test_sha256=HASH["test"],
        parts={"evaluation": table, "validation": table, "robustness": variants},
        evaluation={"mode": "score", "test_sha256": HASH["test"], "device": "cpu"},
    )
    return sources._replace(**more)


@pytest.fixture(scope="module")
def page():
    return packet.build_packet(make_sources())


def test_the_page_has_all_sections(page):
    sections = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert sections == [
        "Model", "Prompt", "Data", "Leak check", "Agreement of the annotators", "Training", "Results",
        "Errors by topic", "Calibration and selective prediction", "Robustness", "Cost", "Versions", "Licence",
        "Data statement",
    ]  # fmt: skip
    assert "arXiv 2402.05129" in page and "arXiv 2407.10747" in page
    assert page.count("*to fill in*") == sum(map(len, packet.STATEMENT.values()))


def test_the_prompt_stands_there_to_the_byte(page):
    [(fence, content)] = re.findall(r"^(~{4,})text\n(.*?)\n\1$", page, re.MULTILINE | re.DOTALL)
    assert content == prompts.PROMPT_TEMPLATE and fence not in content
    assert hashlib.sha256(content.encode()).hexdigest() in page


def test_another_version_of_the_prompt_is_not_shown_as_that_of_the_run():
    page = packet.build_packet(make_sources(record=make_record(prompt_version="0ld")))
    assert prompts.PROMPT_TEMPLATE not in page
    assert "Text: not recorded; the run was trained with version `0ld`" in page


def test_hashes_versions_and_licence_are_told(page):
    for value in (*HASH.values(), "11c9b309abf73637e4b6f9a3fa1e92e615547819", "70ken"):
        assert value in page
    assert "Gemma Terms of Use" in page and "Krippendorff's alpha (nominal) | 0.712" in page


def test_no_sentence_no_annotator_and_no_path_is_told(page):
    for row in make_table():
        assert row["text"] not in page
    for secret in ("A secret sentence", "Ann Smith", "Bob Jones"):
        assert secret not in page
    assert "Pairs of nearly equal sentences across splits | 4" in page
    folder = make_record(base_model="/home/ann/models/my-base", base_revision="files 12")
    page = packet.build_packet(make_sources(record=folder))
    assert "/home/ann" not in page and "my-base (a folder)" in page


def test_names_of_topics_mean_nothing_in_markdown(page):
    assert "<b>" not in page and "\n# heading" not in page and "http://" not in page
    line = next(line for line in page.splitlines() if line.startswith("| Cars "))
    assert len(re.findall(r"(?<!\\)\|", line)) == 5


def test_what_is_missing_is_said_to_be_not_recorded():
    bare = make_sources(splits=None, test_sha256=None, parts=None, evaluation={})
    page = packet.build_packet(bare)
    for item in (
        "Annotated files and their hashes: not recorded.",
        "| test | not recorded | not recorded |",
        "Agreement: not recorded",
        "Hashes of the adapter's files: not recorded.",
        "## Results\n\nnot recorded.",
        "## Errors by topic\n\nnot recorded.",
        "## Calibration\n\nnot recorded.",
        "## Robustness\n\nnot recorded.",
        "| Training, seconds | not recorded |",
        "| Energy | not recorded |",
        "| Python | not recorded | not recorded |",
    ):
        assert item in page


def test_without_probabilities_there_is_no_calibration_to_tell_of():
    table = make_table()
    for row in table:
        for prediction in row["models"].values():
            prediction.pop("probabilities", None)
    parts = {"evaluation": table, "validation": [], "robustness": []}
    page = packet.build_packet(make_sources(parts=parts))
    assert "## Calibration\n\nnot recorded." in page and "## Errors by topic\n\n| Topic" in page


def test_an_adapter_that_was_changed_is_called_so():
    record = make_record(adapter_files={"a": "1", "b": "2", "c": "3"})
    page = packet.build_packet(
        make_sources(record=record, adapter_files={"a": "1", "b": "0", "c": None})
    )
    assert "| a | 1 | unchanged |" in page and "| b | 2 | CHANGED |" in page
    assert "| c | 3 | missing |" in page


def test_errors_by_topic_add_up_to_those_of_the_models(page):
    table = make_table()
    section = page.partition("## Errors by topic")[2].partition("## ")[0]
    lines = [line.split(" | ") for line in section.strip().splitlines()[2:]]
    for place, name in enumerate(table[0]["models"]):
        wrong = sum(row["models"][name]["prediction"] != row["label"] for row in table)
        assert sum(int(cells[2 + place]) for cells in lines) == wrong
    assert sum(int(cells[1]) for cells in lines) == len(table)
