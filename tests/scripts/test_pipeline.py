"""The whole pipeline as a user runs it: five commands in a folder, on a tiny model, without network and home folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import openpyxl
import pytest
import safetensors.torch
import tiny_model

import prepare_data
import prompts
from stance.common import environment, files, run_files
from stance.corpus import splitting
from stance.evaluation import metrics, result_tables
from stance.model import precision

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_0123456789abcdefghijklmnopqrstuvwx"
TOPIC, TEXT = "Vegans are right.", "It's all about finding a system that works for you."
RUN = "outputs/demo"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(folder, {script: its standard output}) of all scripts, run in this folder with relative paths."""
    folder = tmp_path_factory.mktemp("pipeline") / "margaret" / "work"
    home = folder.parent / "home"
    folder.mkdir(parents=True)
    home.mkdir()
    book = openpyxl.load_workbook(ROOT / prepare_data.CORPUS)
    book.active.delete_rows(122, 1000)  # the header and 120 sentences are left
    book.save(folder / "my annotations.xlsx")
    settings = {
        "HOME": str(home), "USER": "margaret", "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "MPLCONFIGDIR": matplotlib.get_configdir(),  # or a list of fonts would be made in the new home, for seconds
    }  # fmt: skip
    outputs = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "STEPS", 4)  # too few to learn anything
        tiny_model.build(folder / "outputs" / "tiny-gemma2")

    def run(script, *flags):
        command = [sys.executable, str(ROOT / f"{script}.py"), *flags]
        result = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
        outputs[script] = result.stdout

    run("prepare_data", "--corpus", "my annotations.xlsx")
    run(
        "finetune",
        "--base-model",
        "outputs/tiny-gemma2",
        "--run-dir",
        RUN,
        "--epochs",
        "1",
        "--learning-rate",
        "3e-3",
    )
    run("evaluate", "--adapter", RUN)
    run("predict", "--adapter", RUN, "--topic", TOPIC, "--text", TEXT)
    return folder, outputs


def read(folder, name):
    return files.read_json(folder / name, "fix the test")


def test_files_are_where_the_readme_says(done):
    folder, _ = done
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {
        f"data/{name}"
        for name in ("train.jsonl", "val.jsonl", "test.jsonl", "prepare_data.report.json")
    }
    expected |= {"my annotations.xlsx"} | {
        f"{RUN}/{name}" for name in (
            "adapter_model.safetensors", "adapter_config.json", "plan.json", "run.json", "log.jsonl", "training.png",
            "evaluation.json", "results.tex", "confusion.png", "topics.png", "reliability.png", "coverage.png",
            "README.md", "texts/README.md", "texts/evaluation.jsonl", "texts/validation.jsonl",
            "texts/robustness.jsonl", "texts/report.md", "texts/errors.xlsx", "texts/train_sentences.txt",
        )
    }  # fmt: skip
    assert expected <= found
    rest = [
        name
        for name in found - expected
        if not name.startswith(("outputs/tiny-gemma2/", f"{RUN}/checkpoints/"))
    ]
    assert rest == []
    for name in ("training.png", "confusion.png", "topics.png", "reliability.png", "coverage.png"):
        assert (folder / RUN / name).read_bytes().startswith(b"\x89PNG")


def test_no_sentence_lies_outside_of_texts(done):
    """All that may be passed on: neither in clear text nor in a cell of a packed workbook."""
    folder, _ = done
    rows = []
    for name in splitting.SPLITS:
        rows += splitting.load_split(folder / "data" / f"{name}.jsonl")
    sentences = {row["text"].encode() for row in rows}
    holding = set()
    for path in (folder / RUN).rglob("*"):
        if path.is_file() and any(sentence in path.read_bytes() for sentence in sentences):
            holding.add(str(path.relative_to(folder / RUN)))
        assert path.suffix not in (".xlsx", ".zip") or path.parent.name == run_files.TEXTS
    names = ("evaluation.jsonl", "validation.jsonl", "robustness.jsonl")
    records = {f"{run_files.TEXTS}/{name}" for name in names}
    assert records <= holding <= {*records, f"{run_files.TEXTS}/{run_files.REPORT_PAGE}"}


def test_splits_have_every_row(done):
    folder, outputs = done
    sizes = [
        len(splitting.load_split(folder / "data" / f"{name}.jsonl"))
        for name in ("train", "val", "test")
    ]
    assert sizes == [96, 12, 12]
    assert "my annotations.xlsx: 120 rows, 120 used" in outputs["prepare_data"]


def test_the_line_of_parameters(done):
    folder, outputs = done
    adapter = safetensors.torch.load_file(folder / RUN / "adapter_model.safetensors")
    base = safetensors.torch.load_file(folder / "outputs/tiny-gemma2/model.safetensors")
    trainable = sum(weight.numel() for weight in adapter.values())
    total = trainable + sum(weight.numel() for weight in base.values())
    line = f"trainable parameters: {trainable:,} of {total:,} ({100 * trainable / total:.2f}%)"
    assert line in outputs["finetune"].splitlines()
    assert read(folder, f"{RUN}/run.json")["parameters"] == {"trainable": trainable, "total": total}


def test_the_run_record(done):
    folder, _ = done
    record = read(folder, f"{RUN}/run.json")
    assert record["base_model"] == "outputs/tiny-gemma2" and record["demo"] is True
    assert record["prompt_version"] == prompts.PROMPT_VERSION and record["labels"] == list(
        prompts.LABELS
    )
    assert record["shortened_sentences"] == 0
    assert record["precision"] == {
        "quant_type": "nf4",
        "double_quant": True,
        "compute": str(precision.compute_dtype()).removeprefix("torch."),
    }
    assert record["data"] == {
        name: {"rows": rows, "sha256": files.hash_file(folder / "data" / f"{name}.jsonl")}
        for name, rows in (("train", 96), ("val", 12))
    }
    report = read(folder, "data/prepare_data.report.json")
    assert record["data"]["train"]["sha256"] == report["outputs"]["train.jsonl"]
    assert (
        record["flags"]["epochs"],
        record["flags"]["learning_rate"],
        record["flags"]["seed"],
    ) == (1.0, 3e-3, 0)
    settings = record["settings"]
    assert (settings["LORA_R"], settings["LORA_ALPHA"], settings["EFFECTIVE_BATCH_SIZE"]) == (
        16,
        32,
        16,
    )
    assert (settings["EPOCHS"], settings["LEARNING_RATE"]) == (
        1.0,
        3e-3,
    )  # what was used, not what the script says
    assert record["environment"]["versions"] == environment.describe_environment()["versions"]
    assert record["environment"]["versions"]["torch"] and record["environment"]["python"]
    result = record["result"]
    assert (
        result["steps"] == 6
        and result["train_seconds"] > 0
        and result["train_samples_per_second"] > 0
    )
    [validation] = result["validation"]
    assert {"eval_loss", "eval_accuracy", "epoch", "step"} <= set(validation)


def test_records_tell_nothing_about_the_user(done):
    """All paths were typed relative, so no absolute one may turn up; nor names and tokens, in any file."""
    folder, outputs = done
    paths = [path for path in folder.rglob("*") if path.is_file()]
    for path in paths:
        content = path.read_bytes()
        assert TOKEN.encode() not in content, path
        if path.suffix in (".json", ".jsonl", ".md", ".tex"):
            for private in (str(folder.parent), "margaret", str(ROOT)):
                assert private.encode() not in content, f"{private} in {path}"
    assert not any(TOKEN in output or "margaret" in output for output in outputs.values())


def test_the_log_has_every_step(done):
    folder, _ = done
    entries = files.read_jsonl(folder / RUN / "log.jsonl", ("step",), "fix the test")
    assert entries[-1]["step"] == 6
    assert sum("eval_accuracy" in entry for entry in entries) == 1


def test_the_printed_table_is_that_of_the_records(done):
    folder, outputs = done
    rows = files.read_jsonl(folder / RUN / "texts" / "evaluation.jsonl", (), "fix the test")
    assert len(rows) == 12
    gold = [row["label"] for row in rows]
    numbers = {
        name: metrics.compute_metrics(gold, [row["models"][name]["prediction"] for row in rows])
        for name in ("base", "fine-tuned")
    }
    assert result_tables.format_summary(numbers) in outputs["evaluate"]
    evaluation = read(folder, f"{RUN}/evaluation.json")
    for name, part in numbers.items():
        assert evaluation["metrics"][name].items() >= part.items()
    assert (
        evaluation["test_sha256"]
        == read(folder, "data/prepare_data.report.json")["outputs"]["test.jsonl"]
    )
    assert (evaluation["base_model"], evaluation["adapter"]) == ("outputs/tiny-gemma2", RUN)


def test_the_predicted_line(done):
    _, outputs = done
    answer = re.match(
        r"(pro|con|neu)  p_pro (0\.\d{3})  p_con (0\.\d{3})  p_neu (0\.\d{3})\n", outputs["predict"]
    )
    assert answer
    probabilities = list(map(float, answer.groups()[1:]))
    assert sum(probabilities) == pytest.approx(1, abs=2e-3)
    assert prompts.LABELS[probabilities.index(max(probabilities))] == answer[1]


def test_numbers_of_the_tiny_model_are_marked(done):
    folder, outputs = done
    for script in ("finetune", "evaluate", "predict"):
        assert tiny_model.NOTE in outputs[script].splitlines(), script
    assert read(folder, f"{RUN}/evaluation.json")["note"] == tiny_model.NOTE


def test_every_script_names_what_it_wrote(done):
    folder, outputs = done
    for script in ("prepare_data", "finetune", "evaluate"):
        [*_, last] = outputs[script].splitlines()
        assert last.startswith("wrote ")
        *names, place = re.sub(r",| and | to |^wrote ", " ", last).split()
        for name in names:
            assert name == "adapter" or (folder / place / name).is_file(), name
        assert (folder / place).exists()
