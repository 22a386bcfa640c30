"""benchmarks/clients.py: one record a client and export, without ids of rows; others stay."""

import clients
import pytest

from stance.common import files

RESULT = {
    "server": "http://127.0.0.1:1/v1",
    "model": "model.gguf",
    "rows": 4,
    "other_tokens": {"00aa": 18},
    "other_replies": 1,
    "without_probabilities": 0,
    "agreement": {
        "rounded": {
            "rows": 4,
            "same_label": 2,
            "largest_difference": 0.25,
            "others": [
                {"id": "00aa", "label": "pro", "served": "con", "margin": 0.01},
                {"id": "00ab", "label": "pro", "served": "neu", "margin": 0.2},
            ],
        }
    },
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs the benchmark of an export, with what check_export would find."""
    monkeypatch.setattr(clients, "read_version", lambda python, package: "1.2")
    files.write_json(tmp_path / "export.json", {"merged_into": "rounded"})
    output = tmp_path / "clients.json"

    def run_client(client, name, result):
        monkeypatch.setattr(clients, "check_client", lambda args, export: result)
        words = ["--client", client, "--python", "python", "--llama-cpp", "llama.cpp"]
        clients.main([*words, "--exports", f"{name}={tmp_path}", "--output", str(output)])
        return files.read_json(output, "")

    return run_client


def test_a_record_says_how_far_answers_agree_and_names_no_row(run, capsys):
    (record,) = run("llama.cpp", "gemma", RESULT)
    assert record["version"] == "xllamacpp 1.2" and record["token_counts_equal"] == 3
    found = record["agreement"]["rounded"]
    assert found["margins_of_others"] == [0.2, 0.01] and found["same_label"] == 2
    assert "00aa" not in str(record) and "127.0.0.1" not in str(record)
    assert "2 of 4" in capsys.readouterr().out


def test_a_record_replaces_that_of_the_same_client_and_export(run):
    run("llama.cpp", "gemma", RESULT)
    run("vllm", "gemma", RESULT)
    run("vllm", "qwen", RESULT)
    records = run("llama.cpp", "gemma", {**RESULT, "other_tokens": {}})
    assert [(one["client"], one["base"]) for one in records] == [
        ("vllm", "gemma"),
        ("vllm", "qwen"),
        ("llama.cpp", "gemma"),
    ]
    assert [one["token_counts_equal"] for one in records] == [3, 3, 4]
