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
    id: str | int | None
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
    variant: str | None  # of robustness.jsonl: how the row was asked
    swaps: bool  # of robustness.jsonl: whether pro and con should be flipped


Scalar = str | int | float | bool | None
Setting = Scalar | list[Scalar] | dict[str, Scalar]  # the value of a constant or a flag


class _Commit(TypedDict):
    commit: str


class Commit(_Commit, total=False):
    """The git commit that a file was made with."""

    changed: bool  # whether tracked files differed from it


class Environment(TypedDict, total=False):
    """What a file was made with; see stance/common/environment.py."""

    python: str
    platform: str
    versions: dict[str, str | None]  # by package
    git: Commit | None


class _SplitData(TypedDict):
    sha256: str  # of its file


class SplitData(_SplitData, total=False):
    """What a run record says about a split."""

    rows: int


class _RunData(TypedDict):
    train: SplitData


class RunData(_RunData, total=False):
    """The splits of a training."""

    val: SplitData


class KeptValidation(TypedDict):
    """The validation of the epoch that a training kept."""

    epoch: float
    eval_accuracy: float


class RunResult(TypedDict, total=False):
    """What a training came to."""

    kept_validation: KeptValidation


class _RunRecord(TypedDict):
    base_model: str
    prompt_version: str
    labels: tuple[str, ...]
    precision: dict[str, str | bool]
    data: RunData
    demo: bool


class RunRecord(_RunRecord, total=False):
    """run.json of a training run, and plan.json before it ends.

    What a reader needs to repeat it, and what scripts check before they use it.
    """

    base_revision: str | None
    tokenizer: str
    flags: dict[str, Setting]
    settings: dict[str, Setting]
    cleaning_version: str  # of the texts that it was trained on
    stances: dict[str, str]  # what --labels of prepare_data.py named: label by stance
    kept_leaks: int  # rows of test and val that --keep-leaks kept, with sentences of train
    environment: Environment
    device: str
    processes: int
    parameters: dict[str, int]
    acceleration: dict[str, bool] | None
    start_seconds: float
    sharded: bool
    shortened_sentences: int | dict
    memory_probe: dict | None
    result: RunResult
    adapter_files: dict[str, str]  # SHA-256 by name


class CardEnvironment(TypedDict):
    """What a model card says about what its adapter was made with."""

    versions: dict[str, str | None]


class CardPrecision(TypedDict):
    """What a model card says about the base of its adapter."""

    quant_type: str
    compute: str


class CardSplit(TypedDict):
    """What a model card says about a split."""

    rows: int


class CardData(TypedDict):
    """What a model card says about the splits of its adapter."""

    train: CardSplit
    val: CardSplit


class CardResult(TypedDict):
    """What a model card says about the training of its adapter."""

    kept_validation: KeptValidation


class _CardRecord(TypedDict):
    base_model: str
    prompt_version: str
    demo: bool
    settings: dict[str, Setting]
    environment: CardEnvironment
    precision: CardPrecision
    data: CardData
    result: CardResult


class CardRecord(_CardRecord, total=False):
    """What a model card says of run.json."""

    base_revision: str | None


class AdapterConfig(TypedDict, total=False):
    """adapter_config.json: the fields of peft that decide which tensors an adapter has."""

    peft_type: str
    base_model_name_or_path: str | None
    revision: str | None
    r: int
    lora_alpha: float
    lora_dropout: float
    alpha_pattern: dict[str, float] | None
    rank_pattern: dict[str, int] | None
    target_modules: str | list[str] | None
    exclude_modules: str | list[str] | None
    layers_pattern: str | list[str] | None
    layers_to_transform: int | list[int] | None
    inference_mode: bool
    task_type: str | None
    use_rslora: bool
    peft_version: str | None


class DemoNote(TypedDict, total=False):
    """demo_model.json beside a base that is there to try the scripts."""

    note: str
    gguf_sha256: str


class _SplitReport(TypedDict):
    outputs: dict[str, str]  # SHA-256 by file


class KeptLeaks(TypedDict, total=False):
    """What --keep-leaks kept."""

    marked: int  # rows


class SplitReport(_SplitReport, total=False):
    """prepare_data.report.json, as far as other scripts read it."""

    cleaning_version: str | int
    labels: dict[str, str] | None
    leaks: KeptLeaks | None


class PacketReport(_SplitReport, total=False):
    """prepare_data.report.json, as far as a reviewer's packet tells of it."""

    corpus: list[dict] | dict
    counts: dict[str, dict[str, dict[str, int]]]  # rows by split, topic and label
    agreement: dict | None
    seed: int
    split_by: str
    hold_out_topics: list[str] | None
    skipped: int
    dropped: dict[str, int]


class EvaluationRun(TypedDict, total=False):
    """evaluation.json, as far as it is read again; keys may be missing in files of before."""

    adapter: str | None
    base_model: str | None
    device: str | None
    environment: Environment | None
    evaluation_sha256: str | None
    leaked_rows: dict[str, int] | None
    mode: str | None
    note: str | None
    prompt_version: str | None
    records: dict[str, str] | None
    shortened_sentences: int | dict | None
    splits_of_adapter: bool | None
    test_sha256: str | None
    unseen_test: bool | None


class PartBlock(TypedDict):
    """A line of a part file of predict.py: a block of pairs that are scored."""

    block: int
    batch_size: int
    keys: list[str]
    answers: list[list[float]]  # three probabilities of each pair


class LossWindow(TypedDict):
    """The losses since the last log line, beside a checkpoint."""

    loss: float
    logged_step: int


class MarkedFile(TypedDict):
    """A file of a checkpoint."""

    bytes: int
    sha256: str


class CheckpointMarker(TypedDict):
    """complete.json: the files of a whole checkpoint."""

    files: dict[str, MarkedFile]


class _StateLog(TypedDict):
    step: int


class StateLog(_StateLog, total=False):
    """An entry of the trainer's log, as far as it is read again."""

    epoch: float
    loss: float
    eval_loss: float
    eval_accuracy: float


class CallbackState(TypedDict):
    """What the trainer's state says of a callback."""

    args: dict[str, Scalar]
    attributes: dict[str, Scalar]


class CheckpointState(TypedDict, total=False):
    """trainer_state.json, as transformers writes it."""

    epoch: float
    global_step: int
    max_steps: int
    logging_steps: float
    eval_steps: float
    save_steps: float
    train_batch_size: int | None
    num_train_epochs: float
    num_input_tokens_seen: int
    total_flos: float
    log_history: list[StateLog]
    best_metric: float | None
    best_global_step: int | None
    best_model_checkpoint: str | None
    stateful_callbacks: dict[str, CallbackState]


class RunLock(TypedDict):
    """A lock file (stance/common/locks.py): the process that holds a folder or an output."""

    host: str
    pid: int
    started: float


class BaseConfig(TypedDict, total=False):
    """config.json of a base; only what this project looks at, whatever the architecture."""

    model_type: str
    architectures: list[str] | None
    num_hidden_layers: int


class WeightIndex(TypedDict):
    """model.safetensors.index.json of a base in several files."""

    metadata: dict
    weight_map: dict[str, str]  # file by tensor
