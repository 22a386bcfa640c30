"""The dicts that cross from one room to another, with their keys.

They are plain dicts: JSON files hold them as they are. Keys that only some of them have stand in the classes with
total=False.
"""

import datetime
from typing import TypedDict


class _AnnotatedRow(TypedDict):
    topic: str  # cleaned
    text: str  # the sentence, cleaned
    label: str  # one of prompts.LABELS
    stance: str  # as the annotator spelled it
    row: int | str  # as Excel shows it; where a corpus has several files, "file:row"
    source_id: str | list[str]  # in its source: --id-column, or "file:row"; a list if merged


class AnnotatedRow(_AnnotatedRow, total=False):
    """A usable row of an annotated file, as stance/corpus/annotations.py reads it."""

    votes: dict[str, tuple[str, str]]  # (label, stance) by annotator; label is "" until decided
    agreement: float  # share of the votes that the label got
    groups: list[str]  # values of --group-column; of merged rows, of all of them
    date: datetime.datetime | float  # of --date-column; of merged rows, the newest
    split: str  # as published
    leaked: bool  # whether its sentence also stands in a split that is learnt from


class _Example(TypedDict):
    id: str  # 16 hex digits that name the pair of topic and sentence
    topic: str
    text: str
    stance: str
    prompt: str
    label: str


class Example(_Example, total=False):
    """A line of a split file: one topic and sentence with its label."""

    source_id: str | list[str]  # of the row in its source; of several rows that were merged, a list
    agreement: float  # share of the annotators' votes that the label got
    leaked: bool  # whether the sentence also stands in a split that is learnt from (--keep-leaks)


class Prediction(TypedDict, total=False):
    """What a model says for a row."""

    prediction: str | None  # one of prompts.LABELS; None: a generated reply that is no label
    probabilities: dict[str, float]  # of each label; absent in generate mode
    label_mass: float  # probability of the three labels together; absent in generate mode
    reply: str  # the generated text; absent in score mode


class _EvaluationRecord(TypedDict):
    id: str
    topic: str
    text: str
    label: str
    models: dict[str, Prediction]


class EvaluationRecord(_EvaluationRecord, total=False):
    """A line of evaluation.jsonl, validation.jsonl or robustness.jsonl."""

    source_id: str | list[str]  # this and the next two as an Example has them
    agreement: float
    leaked: bool
    baselines: dict[str, str]  # label by baseline; where the train split was at hand
    variant: str  # of robustness.jsonl: how the row was asked
    swaps: bool  # of robustness.jsonl: whether pro and con should be flipped


class RunRecord(TypedDict, total=False):
    """run.json of a training run: what a reader needs to repeat it, and what scripts check before
    they use it."""

    base_model: str
    base_revision: str
    tokenizer: str
    prompt_version: str
    labels: tuple[str, ...]
    precision: dict[str, str | bool]
    flags: dict
    settings: dict
    data: dict[str, dict]
    cleaning_version: str  # of the texts that it was trained on
    stances: dict[str, str]  # what --labels of prepare_data.py named: label by stance
    kept_leaks: int  # rows of test and val that --keep-leaks kept, with sentences of train
    environment: dict
    device: str
    processes: int
    demo: bool
    parameters: dict[str, int]
    acceleration: dict[str, bool] | None
    start_seconds: float
    sharded: bool
    shortened_sentences: dict
    memory_probe: dict | None
    result: dict
    adapter_files: dict[str, str]  # SHA-256 by name


class BaseConfig(TypedDict, total=False):
    """config.json of a base; only what this project looks at, whatever the architecture."""

    model_type: str
    architectures: list[str] | None
    num_hidden_layers: int


class WeightIndex(TypedDict):
    """model.safetensors.index.json of a base in several files."""

    metadata: dict
    weight_map: dict[str, str]  # file by tensor
