"""stance/evaluation/model_card.py: what the card says, that no corpus text gets into it, and what a push sends to a mocked hub."""

import re
import shutil
import types

import huggingface_hub
import pytest
from stopping import stop_message
from test_analysis import make_binary_table, make_table, mark_leaks
from test_report import BINARY_NOTE, RUN

import prompts
from stance.common import files
from stance.corpus import splitting
from stance.evaluation import analysis, licences, model_card
from stance.model import adapters, chat, loading, scoring

RECORD = {
    "base_model": "google/gemma-2-9b-it", "prompt_version": prompts.PROMPT_VERSION, "demo": False,
    "precision": {"quant_type": "nf4", "double_quant": True, "compute": "bfloat16"},
    "settings": dict.fromkeys(model_card.SHOWN_SETTINGS, 16),
    "data": {"train": {"rows": 400, "sha256": "x"}, "val": {"rows": 50, "sha256": "y"}},
    "result": {"kept_validation": {"epoch": 2.0, "eval_accuracy": 0.875}},
    "environment": {"versions": {"torch": "2.13.0", "trl": None}},
}  # fmt: skip
SECRETS = (
    "texts/evaluation.jsonl",
    "texts/README.md",
    "errors.xlsx",
    "report.md",
    "run.json",
    "train.jsonl",
    "log.jsonl",
    "x.safetensors",
)


def make_card(record=RECORD, **run):
    table = make_table()
    return model_card.build_card(record, {**RUN, **run}, table, analysis.analyse(table))


@pytest.fixture
def adapter(tmp_path):
    """A folder with an adapter, its card, and much that must not leave it."""
    for name in (*model_card.PUSHED_FILES, *SECRETS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("secret")
    files.write_json(
        tmp_path / "adapter_config.json", {"base_model_name_or_path": "google/gemma-2-9b-it"}
    )
    write_run(tmp_path, "google/gemma-2-9b-it", "c0ffee")
    return tmp_path


def write_run(folder, base, revision):
    data = {"train": {"sha256": "0"}}
    run = {"base_model": base, "base_revision": revision, "prompt_version": "1", "labels": []}
    files.write_json(folder / "run.json", {**run, "precision": {}, "data": data, "demo": False})


class Hub:
    """Stands in for huggingface_hub.HfApi: notes calls, and which files of a folder its real filter lets through."""

    def __init__(self, public=False, problem=None):
        self.public, self.problem, self.calls, self.sent = public, problem, [], None

    def __call__(self):
        return self

    def create_repo(self, name, private, exist_ok):
        if self.problem:
            raise self.problem
        self.calls.append(("create", name, private, exist_ok))

    def model_info(self, name):
        return types.SimpleNamespace(private=not self.public)

    def upload_folder(self, repo_id, folder_path, allow_patterns):
        names = [str(path.relative_to(folder_path)) for path in folder_path.rglob("*")]
        self.sent = sorted(
            huggingface_hub.utils.filter_repo_objects(names, allow_patterns=allow_patterns)
        )
        self.calls.append(("upload", repo_id))


def push(hub, monkeypatch, folder, private=True):
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    model_card.push_adapter(folder, "me/stance", private)


# ---------------------------------------------------------------- card


def test_the_card_is_one_for_the_hub():
    card = huggingface_hub.ModelCard(str(make_card()))  # as the Hub reads it back
    assert card.data.base_model == "google/gemma-2-9b-it" and card.data.license == "gemma"
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert card.data.to_dict()["base_model_relation"] == "adapter" and card.data.datasets is None
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert {result.metric_name for result in card.data.eval_results} == {"Accuracy", "Macro-F1"}
    intervals = analysis.analyse(make_table())["intervals"]["fine-tuned"]
    wanted = {"accuracy": intervals["accuracy"]["value"], "f1": intervals["macro_f1"]["value"]}
    assert values == pytest.approx(wanted, abs=1e-4)


def test_the_card_tells_data_labels_prompt_settings_and_versions():
    text = str(make_card())
    for shown in (
        "400 annotated sentences", "50 for choosing the epoch", "6 on 2 topics for testing",
        "| pro |", "| con |", "| neu |",
        "fine-tuned | 0.667 [", "LORA_R 16", "epoch 2, validation accuracy 0.875", "torch 2.13.0", "## Limits",
        prompts.PROMPT_VERSION, "4-bit nf4", prompts.PROMPT_TEMPLATE, "Gemma Prohibited Use Policy",
    ):  # fmt: skip
        assert shown in text
    assert "None" not in text and "trl" not in text


def test_macro_f1_of_two_gold_labels():
    """A perfect adapter has 1, and the card says what of."""
    table = make_binary_table()
    card = model_card.build_card(RECORD, RUN, table, analysis.analyse(table))
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values == {"accuracy": 1, "f1": 1}
    table = make_binary_table(perfect=False)
    card = model_card.build_card(RECORD, RUN, table, analysis.analyse(table))
    assert BINARY_NOTE in str(card) and "Macro-F1 is the mean" not in str(make_card())


def test_no_corpus_text_is_in_the_card():
    text = str(make_card())
    for row in make_table():
        assert row["text"] not in text and row["topic"] not in text


def test_one_topic_is_no_plural():
    table = [{**row, "topic": "Zoos"} for row in make_table()]
    assert "6 on 1 topic for testing" in str(
        model_card.build_card(RECORD, RUN, table, analysis.analyse(table))
    )


def test_a_local_base_leaves_no_path(tmp_path):
    text = str(make_card({**RECORD, "base_model": str(tmp_path)}))
    assert (
        str(tmp_path.parent) not in text
        and f"`{tmp_path.name}`" in text
        and "base_model:" not in text
    )


@pytest.mark.parametrize("base", ["\u202ebase", "a/\x1b[31mb", "/x/\u2066y\x9b"])
def test_no_control_character_of_a_name_is_in_the_card(base):
    card = str(make_card({**RECORD, "base_model": base}))
    assert all(sign.isprintable() or sign == "\n" for sign in card)


def test_the_tiny_model_and_foreign_splits_are_marked():
    text = str(
        make_card({**RECORD, "demo": True}, note="DEMO: nothing real.", splits_of_adapter=False)
    )
    assert (
        "**DEMO: nothing real.**" in text
        and "license:" not in text
        and "may have seen test sentences" in text
    )
    assert "may have seen" not in str(make_card()) and "was set aside before the training" in str(
        make_card()
    )


def test_the_card_replaces_the_readme_of_an_adapter(adapter):
    files.write_json(adapter / "run.json", RECORD)
    table = make_table()
    model_card.write_card(adapter, RUN, table, analysis.analyse(table))
    assert (adapter / "README.md").read_text(encoding="utf-8").rstrip("\n") == str(
        make_card()
    ).rstrip("\n")


@pytest.mark.slow
def test_the_snippet_of_the_card_runs_as_it_is_printed(
    trained_run, data_dir, tmp_path, monkeypatch, capsys
):
    """And gives the probabilities that predict.py gives."""
    record = files.read_json(trained_run / "run.json", "fix the test")
    table = make_table()
    card = str(model_card.build_card(record, RUN, table, analysis.analyse(table)))
    [snippet] = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(trained_run / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(compile(snippet, "snippet", "exec"), found)
    assert capsys.readouterr().out.startswith("{'pro': 0.")
    base = record["base_model"]
    tokenizer = loading.load_tokenizer(base)
    model = adapters.load_adapter(loading.load_base(base), trained_run)
    rows = splitting.load_split(f"{data_dir}/test.jsonl")[:4]
    encoded = chat.encode_examples(tokenizer, [(row["topic"], row["text"]) for row in rows])
    expected = scoring.score_prompts(model, tokenizer, encoded).probabilities.tolist()
    for row, probabilities in zip(rows, expected, strict=True):
        answer = found["predict"](row["topic"], row["text"])
        assert list(answer.values()) == pytest.approx(probabilities, abs=0.01)


# ---------------------------------------------------------------- licences


@pytest.mark.parametrize("base, identifier, notice", [
    ("google/gemma-2-9b-it", "gemma", "Gemma Terms of Use found at"),
    ("google/gemma-2-2b-it@abc", "gemma", "Gemma Terms of Use found at"),
    ("meta-llama/Llama-3.2-1B-Instruct", "llama3.2", "Llama 3.2 Community License, Copyright"),
    ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3", "Meta Llama 3 is licensed under the Meta"),
    ("Qwen/Qwen3-8B", "apache-2.0", None), ("Qwen/Qwen2.5-7B-Instruct", "apache-2.0", None),
    ("Qwen/Qwen2.5-3B-Instruct", "other", None),
    ("mistralai/Mistral-7B-Instruct-v0.3", "apache-2.0", None),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", None), ("me/Qwen3-8B-mine", None, None),
])  # fmt: skip
def test_the_licence_and_its_notice_follow_the_base(tmp_path, base, identifier, notice):
    record = {**RECORD, "base_model": base}
    files.write_json(tmp_path / "run.json", record)
    table = make_table()
    written = model_card.write_card(tmp_path, RUN, table, analysis.analyse(table))
    data = huggingface_hub.ModelCard.load(tmp_path / "README.md").data
    assert data.license == identifier
    assert (data.license_name == "qwen-research") == (identifier == "other")
    path = tmp_path / licences.NOTICE_FILE
    assert written == ["README.md", *([path.name] if notice else [])]
    assert path.is_file() == bool(notice)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    if notice:
        assert notice in path.read_text(encoding="utf-8") and licences.NOTICE_FILE in text
    if identifier is None:
        assert "look it up where `me/Qwen3-8B-mine` was published" in text
    if "llama" in base:
        assert "Built with" in text and data.model_name.startswith("Llama-")


def test_names_that_the_terms_ask_for_are_checked_before_a_push(adapter, monkeypatch, capsys):
    base = {"base_model_name_or_path": "meta-llama/Llama-3.2-1B-Instruct"}
    files.write_json(adapter / "adapter_config.json", base)
    message = stop_message(capsys, push, hub := Hub(), monkeypatch, adapter)
    assert "call it Llama-stance" in message and hub.calls == []


def test_a_copy_of_the_terms_is_asked_for_and_pushed(adapter, monkeypatch, capsys):
    (adapter / licences.NOTICE_FILE).write_text("notice")
    push(Hub(), monkeypatch, adapter)
    assert f"save it as {adapter}/LICENSE" in capsys.readouterr().out
    (adapter / "LICENSE").write_text("terms")
    push(hub := Hub(), monkeypatch, adapter)
    assert "note" not in capsys.readouterr().out
    assert {"LICENSE", licences.NOTICE_FILE} <= set(hub.sent)


# ---------------------------------------------------------------- push


def test_only_adapter_and_card_are_pushed(adapter, monkeypatch):
    hub = Hub()
    push(hub, monkeypatch, adapter)
    assert hub.sent == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert hub.calls == [("create", "me/stance", True, True), ("upload", "me/stance")]


def test_a_public_repository_is_not_pushed_to_by_mistake(adapter, monkeypatch, capsys):
    hub = Hub(public=True)
    assert "me/stance exists and is public" in stop_message(capsys, push, hub, monkeypatch, adapter)
    assert hub.sent is None
    push(hub, monkeypatch, adapter, private=False)
    assert hub.sent


def test_paths_of_this_machine_are_not_pushed(adapter, monkeypatch, capsys):
    places = (
        "/no/such/folder",
        "../base",
        "./base",
        "~/base",
        "a/b/c",
        "C:\\models\\base",
        "file:///a",
    )
    for base in (str(adapter), *places):
        files.write_json(adapter / "adapter_config.json", {"base_model_name_or_path": base})
        hub = Hub()
        assert base in stop_message(capsys, push, hub, monkeypatch, adapter) and hub.calls == []


def test_a_folder_that_is_gone_and_looks_like_a_name_is_not_pushed(adapter, monkeypatch, capsys):
    """The run record knows that the base was a folder."""
    base = {"base_model_name_or_path": "outputs/our-secret-base"}
    files.write_json(adapter / "adapter_config.json", base)
    write_run(adapter, "outputs/our-secret-base", "files 0123")
    hub = Hub()
    message = stop_message(capsys, push, hub, monkeypatch, adapter)
    assert "outputs/our-secret-base" in message and hub.calls == []


def test_the_tiny_model_is_not_pushed(adapter, monkeypatch, capsys):
    (adapter / "tiny").mkdir()
    files.write_json(adapter / "tiny" / "demo_model.json", {"note": "DEMO"})
    files.write_json(
        adapter / "adapter_config.json", {"base_model_name_or_path": str(adapter / "tiny")}
    )
    assert "demo model" in stop_message(capsys, push, Hub(), monkeypatch, adapter)


def test_a_missing_file_is_named(adapter, monkeypatch, capsys):
    (adapter / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors" in stop_message(capsys, push, Hub(), monkeypatch, adapter)


@pytest.mark.parametrize("problem", [
    huggingface_hub.errors.LocalTokenNotFoundError("Token is required"),
    huggingface_hub.errors.HFValidationError("Repo id must be"),
    huggingface_hub.errors.HfHubHTTPError.__bases__[0]("offline"),
])  # fmt: skip
def test_problems_of_the_hub_end_in_one_line(adapter, monkeypatch, capsys, problem):
    message = stop_message(capsys, push, Hub(problem=problem), monkeypatch, adapter)
    assert "cannot push to me/stance" in message and str(problem) in message


# ---------------------------------------------------------------- leaked rows


def test_a_card_says_what_is_leaked_and_lists_the_numbers_without_it():
    assert "No sentence is in two splits." in str(make_card())
    table = mark_leaks(make_table())
    numbers = analysis.analyse(table)
    run = {**RUN, "leaked_rows": {"test": 2, "val": 3}}
    card = model_card.build_card(RECORD, run, table, numbers)
    text = str(card)
    assert "2 of 6 test rows are leaked" in text and "No sentence" not in text
    assert "fine-tuned 0.750 and " in text and "3 validation rows are leaked too." in text
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values["accuracy"] == 0.75


def test_a_card_without_any_row_that_is_not_leaked_lists_no_numbers():
    table = [{**row, "leaked": True} for row in make_table()]
    card = model_card.build_card(RECORD, RUN, table, analysis.analyse(table))
    assert not card.data.eval_results and "6 of 6 test rows are leaked" in str(card)
