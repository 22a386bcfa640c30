"""The model card of an adapter, and pushing both to the Hugging Face Hub.

Neither holds any text of the corpus. run, table and numbers are as in stance/evaluation/report.py.
"""

from pathlib import Path, PureWindowsPath

import huggingface_hub
import huggingface_hub.errors

import prompts
from stance.common import errors, files, formatting, records, types
from stance.evaluation import licences, predictions, result_tables
from stance.model import chat, fingerprints, loading

# ---------------------------------------------------------------- settings
PUSHED_FILES = ("README.md", "adapter_config.json", "adapter_model.safetensors")
# Pushed too where they are; nothing else ever leaves.
LICENCE_FILES = (licences.NOTICE_FILE, licences.COPY_FILES)
DATASETS = ()  # Hub names of the corpora that adapters were trained on, if they are published
LANGUAGE = "en"  # of the sentences that adapters were trained on, as an ISO 639-1 code
# --------------------------------------------------------------------------

TEXT = """\
# Stance of sentences towards a topic

{note}A LoRA adapter for {base}. Given a topic (a claim) and a sentence, it answers `pro`, `con` or `neu`.

## Labels

| label | meaning |
| --- | --- |
| pro | the sentence argues for the topic |
| con | the sentence argues against the topic |
| neu | the sentence takes no position, or is about something else |

## Data

{train} annotated sentences for training, {val} for choosing the epoch; {test} on {topics} for testing. {leaks} The
sentences are not part of this repository: where the adapter was trained, what quotes them lies in the folder `texts/`,
which is not passed on with it.

## Results

{results}

{labels}Brackets: {level} bootstrap intervals over the test sentences. {mode} Majority (the most frequent label) and tf-idf (a
logistic regression over TF-IDF weights) are baselines, learnt from the training sentences. {splits}

## Use

The user turn of the chat template has to hold exactly the prompt below (version {prompt_version}); the answer is the
most probable of the three labels. Base in 4-bit {quant_type}, computation in {compute}, as in training.
`pipeline("text-classification")` does not go with it: that would put an untrained head on the base.

```python
{snippet}```

## Training

{settings}. Kept: {kept}, validation accuracy {accuracy:.3f}.

Versions: {versions}.

## Limits

- Stance is judged sentence by sentence, without the thread around it, and labels follow the annotators of the corpus.
- What holds on the topics of the test split may not hold on another: evaluate on your own topics before use.
- The base is English-centred.
- Not for decisions about persons.

## Licence

{licence}
"""
# Runs as it stands, where transformers, peft and bitsandbytes are installed; a test does it.
SNIPPET = """\
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, BitsAndBytesConfig

ADAPTER = "."  # the folder of this file, or the name of this repository on the Hub
LABELS = ("pro", "con", "neu")
PROMPT = \"\"\"\\
{prompt}\"\"\"

model = AutoPeftModelForCausalLM.from_pretrained(
    ADAPTER,
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="{quant_type}",
        bnb_4bit_use_double_quant={double_quant},
        bnb_4bit_compute_dtype=torch.{compute},
    ),
    dtype=torch.{compute},
    attn_implementation="eager",
)
base = model.peft_config["default"].base_model_name_or_path
tokenizer = AutoTokenizer.from_pretrained(base)
options = {options}  # of the chat template


def predict(topic, sentence):
    \"\"\"Return the probability of each label.\"\"\"
    user = {{"role": "user", "content": PROMPT.format(topic=topic, sentence=sentence)}}
    asked = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True, **options)
    start = tokenizer(asked, add_special_tokens=False)["input_ids"]
    scores = []
    for label in LABELS:
        reply = {{"role": "assistant", "content": label}}
        answered = tokenizer.apply_chat_template([user, reply], tokenize=False, **options)
        blank = answered[len(asked) :].partition(label)[0]  # between prompt and answer
        answer = tokenizer(blank + label, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([start + answer], device=model.device)).logits[0]
        log_probabilities = logits[len(start) - 1 : -1].float().log_softmax(-1)
        scores.append(log_probabilities[range(len(answer)), answer].sum())
    return dict(zip(LABELS, torch.stack(scores).softmax(0).tolist()))


print(predict("Cities should ban cars.", "Nobody can breathe there."))
"""
SHOWN_SETTINGS = (
    "LORA_R",
    "LORA_ALPHA",
    "LORA_TARGETS",
    "EPOCHS",
    "LEARNING_RATE",
    "SCHEDULE",
    "EFFECTIVE_BATCH_SIZE",
    "NEGATED_SHARE",
    "SEED",
)


def publish(
    folder: str | Path,
    run: dict,
    table: list[types.EvaluationRecord],
    numbers: dict,
    repository: str | None = None,
    private: bool = True,
) -> list[str]:
    """Write the card if the results lie beside their adapter, push both to a repository of the Hub.

    With the card goes a notice, where the terms of the base ask for one. Returns the names of the files written. A card that is there stays if the results were computed
    again from records: somebody may have added to it. repository: "user/name", or None for no push.
    """
    card = Path(folder) / "README.md"
    adapter = run.get("adapter")
    beside = bool(adapter) and Path(adapter).resolve() == Path(folder).resolve()
    stays = "rescored" in run and card.is_file()
    written = []
    if beside and not stays:
        written += write_card(folder, run, table, numbers)
    if repository and beside:
        push_adapter(folder, repository, private)
        print(f"pushed the adapter and its card to {repository}")
    elif repository:
        print("note: nothing was pushed: these results do not lie beside an adapter")
    return written


def write_card(
    folder: str | Path, run: dict, table: list[types.EvaluationRecord], numbers: dict
) -> list[str]:
    """Write README.md, the model card, into an adapter folder, and the notice that its base's terms
    ask for; return the names of the files."""
    hint = "give the folder that finetune.py wrote (--adapter)"
    path = Path(folder) / "run.json"
    record = records.read_typed(path, types.CardRecord, "run record for a model card", hint)
    card = build_card(record, run, table, numbers)
    written = ["README.md"]
    licence = licences.find_licence(record["base_model"])
    if licence is not None and licence.notice is not None:
        files.write_text(Path(folder) / licences.NOTICE_FILE, [licence.notice])
        written.append(licences.NOTICE_FILE)
    files.write_text(Path(folder) / "README.md", [str(card)])  # last: a study looks for it
    return written


def build_card(
    record: types.CardRecord, run: dict, table: list[types.EvaluationRecord], numbers: dict
) -> huggingface_hub.ModelCard:
    """Return the card of an adapter from the record of its training and its evaluation."""
    base, _ = fingerprints.split_revision(formatting.join_lines(record["base_model"]))
    name = PureWindowsPath(base).name  # which takes both kinds of slashes
    # The Hub knows no folders of this machine, and nobody else should.
    local = fingerprints.names_folder(base, record.get("base_revision"))
    licence = None if local or record["demo"] else licences.find_licence(base)
    prefix = "" if licence is None or name.startswith(licence.prefix) else f"{licence.prefix}-"
    is_other = licence is not None and licence.identifier == "other"
    adapter_model = list(table[0]["models"])[-1]
    intervals = numbers["leaks"]["intervals"] if numbers["leaks"] else numbers["intervals"]
    eval_results = None  # without any row that is not leaked
    if intervals:
        eval_results = [
            _make_result("accuracy", "accuracy", intervals[adapter_model]),
            _make_result("f1", "macro_f1", intervals[adapter_model]),
        ]
    data = huggingface_hub.ModelCardData(
        base_model=None if local else base,
        base_model_relation=None if local else "adapter",
        datasets=list(DATASETS) or None,
        model_name=f"{prefix}{name}-stance",
        library_name="peft",
        pipeline_tag="text-generation",
        license=licence.identifier if licence else None,
        license_name=licence.name if is_other else None,
        license_link=licence.link if is_other else None,
        language=LANGUAGE,
        tags=["stance-detection", "lora"],
        eval_results=eval_results,
    )
    settings = record["settings"]
    kept = record["result"]["kept_validation"]
    versions = record["environment"]["versions"]
    shown_settings = [f"{key} {settings[key]}" for key in SHOWN_SETTINGS if key in settings]
    shown_versions = [f"{package} {version}" for package, version in versions.items() if version]
    header, rows = result_tables.tabulate_results(numbers["intervals"])
    labels = result_tables.describe_gold_labels(numbers["scores"])
    text = TEXT.format(
        note=f"**{formatting.escape_markup(run['note'])}**\n\n" if run.get("note") else "",
        base=formatting.format_code(name if local else base),
        train=record["data"]["train"]["rows"],
        val=record["data"]["val"]["rows"],
        test=len(table),
        topics=result_tables.count_topics(table),
        leaks=describe_overlap(run, numbers),
        level=result_tables.LEVEL_TEXT,
        results=formatting.format_markdown(header, rows),
        labels=f"{labels}\n\n" if labels else "",
        mode=result_tables.MODE_TEXTS.get(run.get("mode"), ""),
        splits=f"{fingerprints.describe_splits(run)} {predictions.describe_change(run)}".strip(),
        prompt_version=formatting.escape_markup(record["prompt_version"]),
        snippet=SNIPPET.format(
            prompt=prompts.PROMPT_TEMPLATE,
            options=repr(chat.TEMPLATE_OPTIONS),
            **record["precision"],
        ),
        licence=licences.describe_licence(
            formatting.escape_markup(name if local else base), licence
        ),
        quant_type=formatting.escape_markup(record["precision"]["quant_type"]),
        compute=formatting.escape_markup(record["precision"]["compute"]),
        settings=formatting.escape_markup(", ".join(shown_settings)),
        kept=f"epoch {kept['epoch']:g}",
        accuracy=kept["eval_accuracy"],
        versions=formatting.escape_markup(", ".join(shown_versions)),
    )
    return huggingface_hub.ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def describe_overlap(run: dict, numbers: dict) -> str:
    """Return what the card says about sentences that are in two splits."""
    sentences = [result_tables.describe_leaks(numbers["leaks"])]
    leaked = run.get("leaked_rows", {}).get("val")
    if leaked:
        sentences.append(f"{leaked} validation rows are leaked too.")
    return " ".join(filter(None, sentences)) or "No sentence is in two splits."


def _make_result(metric_type, statistic, statistics):
    """Return a number of uncertainty.describe_predictions as the Hub lists it, there by
    metric_type."""
    return huggingface_hub.EvalResult(
        task_type="text-classification",
        task_name="Stance detection",
        dataset_type="private",
        dataset_name="annotated stance corpus",
        dataset_split="test",
        metric_type=metric_type,
        metric_name=result_tables.NAMES[statistic],
        metric_value=round(statistics[statistic]["value"], 4),
    )


def check_terms(folder: str | Path, repository: str, licence: licences.Licence | None) -> None:
    """Fail if the licence of the base asks for another name of a repository; print a note if it
    asks for a copy of its text that is not there."""
    if licence is None:
        return
    _, _, name = repository.rpartition("/")
    if not name.startswith(licence.prefix):
        errors.fail(
            f"the {licence.name} asks for a name that begins with {licence.prefix}: "
            f"call it {licence.prefix}-{name}"
        )
    if licence.notice and not list(Path(folder).glob(licences.COPY_FILES)):
        print(
            f"note: the {licence.name} ({licence.link}) asks for a copy of its text beside the "
            f"adapter: save it as {folder}/LICENSE and push again before you share it"
        )


def push_adapter(folder: str | Path, repository: str, private: bool) -> None:
    """Push PUSHED_FILES of an adapter folder to a repository "user/name" of the Hub, and
    LICENCE_FILES.

    Fails on anything doubtful: a base that only this machine has, a missing file, a repository that
    is public though private is set, and what the Hub or the network refuses.
    """
    path = Path(folder) / "adapter_config.json"
    config = records.read_typed(path, types.AdapterConfig, "config of an adapter", "train again")
    base = config.get("base_model_name_or_path") or ""
    if loading.read_demo_note(base):
        errors.fail(
            f"{folder} is an adapter of the demo model, of no use to anybody: "
            "set PUSH_TO_HUB = None"
        )
    run = records.read_typed(
        Path(folder) / "run.json", types.RunRecord, "run record", "train again"
    )
    version = run.get("base_revision") if base == run["base_model"] else None
    if fingerprints.names_folder(base, version):
        errors.fail(
            f"{folder}/adapter_config.json names the folder {base}: "
            "write the base's name on the Hub there"
        )
    missing = [name for name in PUSHED_FILES if not (Path(folder) / name).is_file()]
    if missing:
        errors.fail(
            f"{folder} holds no {', '.join(missing)}: "
            "evaluate the adapter beside its files (no --output-dir)"
        )
    check_terms(folder, repository, licences.find_licence(base))
    hub = huggingface_hub.HfApi()
    network_errors = huggingface_hub.errors.HfHubHTTPError.__bases__
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        # create_repo leaves one that exists as it is.
        if private and not hub.model_info(repository).private:
            errors.fail(
                f"{repository} exists and is public: "
                "choose another name, or set PUSH_PRIVATE = False"
            )
        pushed = [*PUSHED_FILES, *LICENCE_FILES]
        hub.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=pushed)
    except (OSError, ValueError, *network_errors) as problem:
        reason, _, _ = str(problem).strip().partition("\n")
        errors.fail(
            f"cannot push to {repository} ({reason}): "
            "check the name and the network, and run `hf auth login`"
        )
