"""The reviewer's packet of a finished run: one Markdown page from its records. No torch, no files.

It names topics and holds no sentence of the corpus, no path and no name of an annotator. Of what a
record lacks the page says that it is not recorded.
"""

import hashlib
import re
from pathlib import PureWindowsPath
from typing import Any, NamedTuple

import prompts
from stance.common import formatting, types
from stance.evaluation import analysis, licences, report, result_tables
from stance.model import fingerprints

NOT_RECORDED = "not recorded"
AGREEMENT_NAMES = {  # of what prepare_data.py records of several annotators; no names of theirs
    "annotators": "Annotators",
    "sentences": "Pairs of topic and sentence",
    "with_several_votes": "Of them with several votes",
    "krippendorff_alpha": "Krippendorff's alpha (nominal)",
    "fleiss_kappa": "Fleiss' kappa",
    "full_agreement": "Share of rows with full agreement",
}
# What no record tells: Törnberg 2024, Best Practices for Text Annotation with Large Language Models
# (arXiv 2402.05129); Halterman and Keith 2024, Codebook LLMs (arXiv 2407.10747).
STATEMENT = {
    "Concept and codebook (Halterman and Keith)": (
        "What is a stance here, and what is a topic: the definition that annotators were given",
        "For each label: its definition, what clarifies it, what it is not, and an example and a counterexample",
        "How far the prompt above says what the codebook says, and where it does not",
        "How labels of the model were checked against the codebook beyond the test split (borderline rows, "
        "sentences without a stance, another order of the labels)",
    ),
    "Corpus": (
        "Where the texts are from, when they were written and collected, and by which search or sample",
        "Who wrote them, in which languages and varieties, as far as that is known",
        "How sentences were cut out of their texts, and what of the context annotators and model saw",
        "Licence of the texts and of the annotations; what may be passed on",
        "Whether texts or labels can have been in the training data of the base (publication date, platform)",
    ),
    "Annotation": (
        "Who annotated: number, training, languages, pay, relation to the topics",
        "How many annotated each row, how disagreements were decided, and rounds of training",
        "Which rows were annotated again or dropped, and why",
    ),
    "Model and validation (Törnberg)": (
        "Why this base: openness, licence, version that others can load, size",
        "How the prompt and the settings were chosen, on which rows, and how many were tried",
        "What the errors above mean for the question of the paper; which groups or topics they fall on",
        "Whether answers were repeated with other seeds and prompts, and what changed (tools.sensitivity)",
        "How shares and regressions were corrected for errors of the labels (tools.shares)",
    ),
    "Ethics": (
        "Legal basis and consent, review board, personal data in the texts and how they are protected",
        "Who may be harmed by wrong labels or by the use of right ones",
    ),
}  # fmt: skip


class Sources(NamedTuple):
    """What is known of a run."""

    record: dict  # run.json
    adapter_files: dict[str, str | None]  # SHA-256 of each file now; None for a missing one
    splits: dict | None  # prepare_data.report.json, of the splits that the run was trained on
    test_sha256: str | None  # of the test split, if that report tells it
    parts: dict[str, list[types.EvaluationRecord]] | None  # records of the evaluation
    evaluation: dict  # evaluation.json; {} without one


def pick(record: Any, *keys: str) -> Any:
    """Return a value that lies so deep in dicts, or None if any of them lacks it."""
    for key in keys:
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    return record


def word(value: Any) -> str:
    """Return a recorded value as the text of a cell."""
    if value is None or value == "":
        return NOT_RECORDED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {word(part)}" for key, part in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(word, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def tabulate(values: dict[str, Any]) -> str:
    """Return {name: value} as a Markdown table."""
    return formatting.format_markdown(
        ["Item", "Value"], [[name, word(value)] for name, value in values.items()]
    )


def build_packet(sources: Sources) -> str:
    """Return the page."""
    record = sources.record
    blocks = ["# Reviewer's packet"]
    if sources.evaluation.get("note"):
        blocks.append(f"> {formatting.escape_markup(sources.evaluation['note'])}")
    blocks.append(
        "What is known of one training and its evaluation, from their records. It holds no sentence of the corpus. "
        f"“{NOT_RECORDED}” is said of what the records do not tell; the last section is for the authors to fill in."
    )
    blocks += ["## Model", tabulate(describe_model(record)), *list_adapter_files(sources)]
    blocks += ["## Prompt", *list_prompt(record)]
    blocks += ["## Data", *list_data(sources)]
    blocks += ["## Leak check", tabulate(describe_leak_check(sources))]
    blocks += ["## Agreement of the annotators", *list_annotators(sources.splits)]
    blocks += ["## Training", tabulate(describe_training(record))]
    blocks += list_evaluation(sources)
    blocks += ["## Cost", tabulate(describe_cost(record, sources.evaluation))]
    blocks += ["## Versions", *list_versions(sources)]
    blocks += ["## Licence", describe_terms(record)]
    blocks += list_statement()
    return "\n\n".join(blocks) + "\n"


def name_base(record: dict) -> tuple[str, bool]:
    """Return (the name of a run's base, whether it is a folder): without its path."""
    base, _ = fingerprints.split_revision(record["base_model"])
    is_folder = fingerprints.names_folder(base, record.get("base_revision"))
    return (PureWindowsPath(base).name if is_folder else base), is_folder


def describe_model(record: dict) -> dict[str, Any]:
    """Return what the packet says of base and adapter."""
    name, is_folder = name_base(record)
    return {
        "Base model": f"{name} (a folder)" if is_folder else name,
        "Revision of the base (commit, or hash of its files)": record.get("base_revision"),
        "Hash of tokenizer and chat template": record.get("tokenizer"),
        "Precision": record.get("precision"),
        "Parameters (trainable, total)": pick(record, "parameters"),
        "Labels": record.get("labels"),
    }


def list_adapter_files(sources: Sources) -> list[str]:
    """Return the block on the files of the adapter and whether they are those of the training."""
    recorded = sources.record.get("adapter_files") or {}
    if not recorded:
        return [f"Hashes of the adapter's files: {NOT_RECORDED}."]
    rows = []
    for name, digest in recorded.items():
        now = sources.adapter_files.get(name)
        state = "missing" if now is None else "unchanged" if now == digest else "CHANGED"
        rows.append([name, digest, state])
    header = ["File of the adapter", "SHA-256 after the training", "Now"]
    return [formatting.format_markdown(header, rows)]


def list_prompt(record: dict) -> list[str]:
    """Return the blocks on the prompt: to the byte, if it is the one of this copy of the project."""
    version = record.get("prompt_version")
    if version != prompts.PROMPT_VERSION:
        return [
            f"Text: {NOT_RECORDED}; the run was trained with version {formatting.format_code(version)}, this copy of the "
            f"project holds version {formatting.format_code(prompts.PROMPT_VERSION)}."
        ]
    template = prompts.PROMPT_TEMPLATE
    tildes = max(map(len, re.findall("~+", template)), default=0)
    fence = "~" * max(tildes + 1, 4)
    content = template.encode()
    return [
        "The user turn, to the byte; topic and sentence stand for the texts of a row. No line feed follows the last "
        "line. No system turn; the chat template of the tokenizer goes around it.",
        f"{fence}text\n{template}\n{fence}",
        tabulate(
            {
                "Version": version,
                "Bytes": len(content),
                "SHA-256": hashlib.sha256(content).hexdigest(),
                "Sentences of train and validation that were shortened to fit": record.get("shortened_sentences"),
            }
        ),
    ]  # fmt: skip


def list_data(sources: Sources) -> list[str]:
    """Return the blocks on the corpus and its splits."""
    record, splits = sources.record, sources.splits
    corpus = pick(splits, "corpus")
    corpus = corpus if isinstance(corpus, list) else [corpus] if corpus else []
    rows = [[word(pick(part, key)) for key in ("file", "rows", "sha256")] for part in corpus]
    blocks = []
    if rows:
        blocks.append(formatting.format_markdown(["Annotated file", "Rows", "SHA-256"], rows))
    else:
        blocks.append(f"Annotated files and their hashes: {NOT_RECORDED}.")
    counts = pick(splits, "counts")
    rows = []
    for name in ("train", "val", "test"):
        by_topic = pick(counts, name)
        size = pick(record, "data", name, "rows")
        if size is None and isinstance(by_topic, dict):
            size = sum(sum(labels.values()) for labels in by_topic.values())
        if name == "test":
            digest = sources.evaluation.get("test_sha256") or sources.test_sha256
        else:
            digest = pick(record, "data", name, "sha256")
        rows.append([name, word(size), word(digest)])
    blocks.append(formatting.format_markdown(["Split", "Rows", "SHA-256"], rows))
    described = {
        "Drawn": pick(splits, "split_by"),
        "Seed of the splits": pick(splits, "seed"),
        "Topics held out for the test": "none" if splits and not splits.get("hold_out_topics") else pick(splits, "hold_out_topics"),
        "Rows left out as unusable": pick(splits, "skipped"),
        "Rows dropped by stance": pick(splits, "dropped"),
        "Equal rows merged": count(pick(splits, "duplicates")),
        "Conflicting rows": count(pick(splits, "conflicts")),
        "Ties of annotators, left out": "none" if splits and not splits.get("ties") else count(pick(splits, "ties")),
        "Version of the cleaning of texts": record.get("cleaning_version"),
        "Stances named by the user": record.get("stances"),
    }  # fmt: skip
    blocks.append(tabulate(described))
    if isinstance(counts, dict):
        blocks.append(formatting.format_markdown(*tabulate_split_counts(counts)))
    return blocks


def count(value: Any) -> int | None:
    """Return the length of a recorded list, or a number as it is; None of anything else."""
    if isinstance(value, (list, dict)):
        return len(value)
    return value if isinstance(value, int) else None


def tabulate_split_counts(counts: dict) -> result_tables.TextTable:
    """Return the rows of each label by topic and split, of the report of prepare_data.py."""
    sizes = {}
    for by_topic in counts.values():
        for topic, labels in by_topic.items():
            sizes[topic] = sizes.get(topic, 0) + sum(labels.values())
    shown, others = formatting.choose_largest(sizes)
    lines = {topic: [topic] for topic in shown}
    if others:
        lines[formatting.name_others(len(others))] = others
    rows = []
    for name, topics in lines.items():
        cells = []
        for by_topic in counts.values():
            found = [
                sum(by_topic.get(topic, {}).get(label, 0) for topic in topics)
                for label in prompts.LABELS
            ]
            cells.append(" / ".join(map(str, found)))
        rows.append([name, *cells])
    labels = " / ".join(prompts.LABELS)
    return ["Topic", *(f"{split}: {labels}" for split in counts)], rows


def describe_leak_check(sources: Sources) -> dict[str, Any]:
    """Return what is known of sentences that are in two splits, or that the adapter has seen."""
    run = sources.evaluation
    near = pick(sources.splits, "near_duplicates")
    return {
        "No sentence is in two splits": (
            "finetune.py fails otherwise (train, validation)"
            + ("; evaluate.py too (all splits in its folder)" if run else "")
        ),
        "Leaked rows that were kept (--keep-leaks)": sources.record.get("kept_leaks"),
        "Leaked rows in test and validation": run.get("leaked_rows"),
        "Test split is the one set aside before the training": run.get("splits_of_adapter"),
        "No test sentence was trained on": run.get("unseen_test"),
        "Pairs of nearly equal sentences across splits": count(near),
        "Records changed after the evaluation": run.get("changed_records"),
    }


def list_annotators(splits: dict | None) -> list[str]:
    """Return the blocks on how far annotators agree."""
    found = pick(splits, "agreement")
    if not isinstance(found, dict):
        return [f"Agreement: {NOT_RECORDED} (the corpus has one stance a row, or its report is not at hand)."]  # fmt: skip
    blocks = [tabulate({name: found.get(key) for key, name in AGREEMENT_NAMES.items()})]
    by_topic = found.get("full_agreement_by_topic")
    if isinstance(by_topic, dict) and by_topic:
        rows = [[topic, word(share)] for topic, share in by_topic.items()]
        blocks.append(formatting.format_markdown(["Topic", "Full agreement"], rows))
    return blocks


def describe_training(record: dict) -> dict[str, Any]:
    """Return the settings and the outcome of a training."""
    settings = record.get("settings") or {"Settings": None}
    return {
        # A setting of None is recorded: it leaves the choice to the script.
        **{
            name: "None" if record.get("settings") and value is None else value
            for name, value in settings.items()
        },
        "Optimiser steps": pick(record, "result", "steps"),
        "Kept epoch": pick(record, "result", "kept_validation", "epoch"),
        "Validation accuracy of the kept epoch": pick(
            record, "result", "kept_validation", "eval_accuracy"
        ),
        "Validation loss of the kept epoch": pick(record, "result", "kept_validation", "eval_loss"),
        "Epochs compared": count(pick(record, "result", "validation")),
    }


def list_evaluation(sources: Sources) -> list[str]:
    """Return the sections with numbers of the evaluation."""
    if sources.parts is None:
        sections = ("Results", "Errors by topic", "Calibration", "Robustness")
        return [block for name in sections for block in (f"## {name}", f"{NOT_RECORDED}.")]
    table = sources.parts["evaluation"]
    result = analysis.compute_model_metrics(table)
    numbers = analysis.analyse(table, sources.parts["validation"], sources.parts["robustness"])
    topics = len({row["topic"] for row in table})
    mode = result_tables.MODE_TEXTS.get(sources.evaluation.get("mode"), f"Mode: {NOT_RECORDED}.")
    blocks = [f"{len(table)} test rows on {result_tables.count_topics(table)}. {mode}"]
    blocks += report.list_results(numbers, topics)
    blocks += list_confusion(result)
    blocks += report.list_agreement(numbers["agreement"])
    blocks += ["## Errors by topic", formatting.format_markdown(*tabulate_errors(result, numbers))]
    blocks += report.list_calibration(numbers) or ["## Calibration", f"{NOT_RECORDED}."]
    blocks += report.list_robustness(numbers["robustness"]) or ["## Robustness", f"{NOT_RECORDED}."]
    # The heading comes first, and what was asked how below it.
    return [blocks[1], blocks[0], *blocks[2:]]


def list_confusion(result: dict[str, dict]) -> list[str]:
    """Return the blocks on labels: precision, recall, F1 and confusions of each model."""
    blocks = []
    for name, numbers in result.items():
        rows = []
        for label, counts in zip(prompts.LABELS, numbers["confusion"], strict=True):
            rows.append([label, *map(str, counts)])
        blocks.append(f"{formatting.escape_markup(name)}, by label:")
        blocks.append(report.markdown(result_tables.tabulate_labels(numbers)))
        header = ["Gold", *(f"answered {label}" for label in prompts.LABELS), "invalid"]
        blocks.append(formatting.format_markdown(header, rows))
    return blocks


def tabulate_errors(result: dict[str, dict], numbers: dict) -> result_tables.TextTable:
    """Return how many rows of each topic each model has wrong, with the accuracy of the last."""
    last = list(result)[-1]
    picked = {
        name: result_tables.pick_topics(part["topics"], part["other_topics"])
        for name, part in result.items()
    }
    described = result_tables.pick_topics(numbers["topics"][last], numbers["other_topics"][last])
    rows = []
    for topic, part in picked[last].items():
        wrong = []
        for by_topic in picked.values():
            confusion = by_topic[topic]["confusion"]
            right = sum(confusion[index][index] for index in range(len(confusion)))
            wrong.append(str(by_topic[topic]["n"] - right))
        accuracy = described[topic]["accuracy"]
        shown = f"{result_tables.format_value(accuracy['value'])} {result_tables.format_interval(accuracy['rows'])}"
        macro = result_tables.format_value(part["macro_f1"])
        rows.append([topic, str(part["n"]), *wrong, shown, macro])
    header = ["Topic", "n", *(f"errors of {name}" for name in result)]
    return [*header, f"Accuracy of {last}", "Macro-F1"], rows


def describe_cost(record: dict, run: dict) -> dict[str, Any]:
    """Return what training and evaluation took."""
    return {
        "Device of the training": record.get("device"),
        "Processes": record.get("processes"),
        "Training, seconds": pick(record, "result", "train_seconds"),
        "Start (loading, compiling), seconds": record.get("start_seconds"),
        "Training rows a second": pick(record, "result", "train_samples_per_second"),
        "Peak GPU memory of the training, GiB": word_memory(
            pick(record, "result", "peak_gpu_gib"), record.get("device")
        ),
        "Device of the evaluation": run.get("device"),
        "Evaluation, seconds": run.get("seconds"),
        "Answers a second": run.get("answers_per_second"),
        "Peak GPU memory of the evaluation, GiB": word_memory(
            run.get("peak_gpu_gib"), run.get("device")
        ),
        "Energy": None,
        "Trainings before this one, to choose settings": None,
    }


def word_memory(peak: Any, device: Any) -> str:
    """Return the peak of the GPU memory as text; device: what computed, as it is recorded."""
    return "no GPU" if peak is None and device == "cpu" else word(peak)


def list_versions(sources: Sources) -> list[str]:
    """Return the table of versions of training and evaluation."""
    found = [pick(sources.record, "environment"), sources.evaluation.get("environment")]
    names = {"Python": ("python",), "Platform": ("platform",)}
    for described in found:
        packages = pick(described, "versions")
        for package in packages if isinstance(packages, dict) else ():
            names[package] = ("versions", package)
    names["Commit of this project"] = ("git", "commit")
    names["Files changed since that commit"] = ("git", "changed")
    rows = []
    for name, keys in names.items():
        rows.append([name, *(word(pick(described, *keys)) for described in found)])
    return [formatting.format_markdown(["What", "Training", "Evaluation"], rows)]


def describe_terms(record: dict) -> str:
    """Return what is known of the licence of base and adapter."""
    name, is_folder = name_base(record)
    licence = None if is_folder or record.get("demo") else licences.find_licence(name)
    return licences.describe_licence(name, licence)


def list_statement() -> list[str]:
    """Return the blocks that the authors fill in."""
    blocks = [
        "## Data statement",
        "To be filled in by the authors: no record tells it. Questions after Törnberg (arXiv 2402.05129) and "
        "Halterman and Keith (arXiv 2407.10747).",
    ]
    for heading, questions in STATEMENT.items():
        blocks.append(f"### {heading}")
        blocks.append("\n".join(f"- {question}: *to fill in*" for question in questions))
    return blocks
