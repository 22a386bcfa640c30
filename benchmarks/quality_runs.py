"""Single runs of benchmarks/quality.py: a recipe learns from the train rows and answers validation and test rows.

A run is described by a Job. Recipes differ in how they learn; all answer with the probabilities of the three labels,
which describe_answers turns into numbers.
"""

import contextlib
import gc
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import peft
import sklearn.linear_model
import torch
import transformers
import trl

import evaluate
import finetune
import prompts
from stance.common import environment, errors
from stance.common.types import Example, Prediction
from stance.corpus import splitting
from stance.evaluation import analysis, baselines, metrics, prompt_variants, uncertainty
from stance.model import chat, compilation, loading, lora_linear, precision
from stance.training import tree_trainer
from stance.tree import prefix_tree

# ---------------------------------------------------------------- settings
EXAMPLES_A_LABEL = 2  # few-shot: of the train rows, in the prompt
# Fine-tuned encoder; a job's settings override these.
ENCODER_SETTINGS = {"LEARNING_RATE": 5e-5, "EFFECTIVE_BATCH_SIZE": 32, "EPOCHS": 5.0}
ENCODER_TOKENS = 256  # of topic and sentence; more are cut
PENALTIES = (0.1, 1.0, 10.0, 100.0)  # of the regression on embeddings; validation chooses
# Of padded rows; eager where scores have a soft cap. cuDNN's kernel is switched off: with it, all
# four runs that ended on an H100 had adapters that are no numbers (torch 2.11).
FLAT_ATTENTION = "sdpa"
FLAT_BATCH_SIZE = 64  # rows a forward pass where there is no tree
# Compile layers and record steps, as finetune.py does: a process spends half a minute at its first
# run, and trains a base of 1.5B several times as fast. False: start at once.
COMPILE = True
VARIANT_ROWS = 500  # first test rows that are asked in other ways as well
# --------------------------------------------------------------------------

# Settings of a job that are flags of finetune.py; others are its constants.
FLAGS = {
    "EPOCHS": "--epochs",
    "LEARNING_RATE": "--learning-rate",
    "EFFECTIVE_BATCH_SIZE": "--effective-batch-size",
}
# Settings of a job that are neither: how many of the train rows are used.
OWN_SETTINGS = ("TRAIN_ROWS",)
TINY_PROBABILITY = 1e-12  # for a label that a recipe has never seen


class Job(NamedTuple):
    """One run: what learns with which settings from which corpus."""

    corpus: str  # name of its folder of splits
    base: str  # name of the model; "" for recipes without one
    recipe: str  # a key of RECIPES
    settings: tuple[tuple[str, Any], ...] = ()  # that override those of the recipe, by name
    seed: int = 0

    @property
    def key(self) -> str:
        """Return the name by which a finished run is found again."""
        settings = ",".join(f"{name}={value}" for name, value in self.settings)
        return f"{self.corpus}/{self.base}/{self.recipe}/{settings}/seed{self.seed}"


class Answers(NamedTuple):
    """What a recipe answers, and what is worth recording of how it learned."""

    validation: list[Prediction]
    test: list[Prediction]
    details: dict[str, Any]


class Workplace:
    """What the runs of one process share: the splits, and the base that was loaded last.

    data_dir: the folder of the corpora; models: {name: folder}.
    """

    def __init__(self, data_dir: str, models: dict[str, str]) -> None:
        self.data_dir = Path(data_dir)
        self.models = models
        self.splits = {}  # by corpus
        self.loaded = None  # (name, base, tokenizer)
        self.embeddings = {}  # of an encoder, by name: {text: array}
        compilation.COMPILE = COMPILE
        torch.backends.cuda.enable_cudnn_sdp(False)

    def read_splits(self, corpus: str) -> dict[str, list[Example]]:
        """Return {split: rows} of a corpus."""
        if corpus not in self.splits:
            folder = self.data_dir / corpus
            self.splits[corpus] = {
                name: splitting.load_split(folder / f"{name}.jsonl") for name in splitting.SPLITS
            }
        return self.splits[corpus]

    def load_tokenizer(self, name: str) -> transformers.PreTrainedTokenizerBase:
        """Return the tokenizer of a base."""
        if self.loaded is not None and self.loaded[0] == name:
            return self.loaded[2]
        return loading.load_tokenizer(self.models[name])

    def take_base(self, name: str) -> transformers.PreTrainedModel:
        """Return a base without adapter, loaded only if it is not the one that was put back."""
        if self.loaded is None or self.loaded[0] != name:
            self.drop_base()
            tokenizer = loading.load_tokenizer(self.models[name])
            self.loaded = (name, loading.load_base(self.models[name]), tokenizer)
        return self.loaded[1]

    def put_back(self, model: peft.PeftModel) -> None:
        """Take the adapter off a base, so that the next run finds it as it was loaded."""
        base = model.unload()
        if hasattr(base, "peft_config"):
            del base.peft_config
        base.set_attn_implementation(prefix_tree.ATTENTION)
        name, _, tokenizer = self.loaded
        self.loaded = (name, base, tokenizer)
        free_memory_of_runs()

    def drop_base(self) -> None:
        """Forget the base, and give its memory back."""
        self.loaded = None
        free_memory_of_runs()


def free_memory_of_runs() -> None:
    """Give the GPU memory of what is no longer used back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---------------------------------------------------------------- settings of a run


@contextlib.contextmanager
def set_constants(settings: dict[str, Any]) -> Iterator[None]:
    """Let constants of finetune.py have other values while the context lasts."""
    usual = {}
    for name in settings:
        if not hasattr(finetune, name):
            errors.fail(f"finetune.py has no setting {name}: mend the job")
        usual[name] = getattr(finetune, name)
    try:
        for name, value in settings.items():
            setattr(finetune, name, value)
        yield
    finally:
        for name, value in usual.items():
            setattr(finetune, name, value)


def make_arguments(job: Job, place: Workplace, run_dir: str) -> Any:
    """Return the flags of finetune.py for a job, as it parses them itself."""
    words = ["--base-model", place.models[job.base], "--data-dir", str(place.data_dir / job.corpus)]
    words += ["--run-dir", run_dir, "--seed", str(job.seed)]
    for name, value in job.settings:
        if name in FLAGS:
            words += [FLAGS[name], str(value)]
    return finetune.parse_args(words)


def pick_constants(job: Job) -> dict[str, Any]:
    """Return the settings of a job that are constants of finetune.py and no flags."""
    others = {*FLAGS, *OWN_SETTINGS}
    return {name: value for name, value in job.settings if name not in others}


# ---------------------------------------------------------------- answers of language models


def score_rows(
    model: torch.nn.Module,
    tokenizer: transformers.PreTrainedTokenizerBase,
    rows: list[Example],
) -> list[Prediction]:
    """Return the predictions of rows as evaluate.py makes them, by a model with tree attention."""
    questions = {"rows": (rows, evaluate.ask_usually(rows))}
    encoded = evaluate.encode_questions(tokenizer, questions)["rows"]
    with compilation.run_uncompiled(len(encoded)):
        return evaluate.predict_rows(model, tokenizer, encoded, "score")


def answer_splits(
    model: torch.nn.Module,
    tokenizer: transformers.PreTrainedTokenizerBase,
    splits: dict[str, list[Example]],
    details: dict[str, Any],
) -> Answers:
    """Return the answers of a model with tree attention to validation and test rows."""
    validation = score_rows(model, tokenizer, splits["val"])
    started = time.time()
    test = score_rows(model, tokenizer, splits["test"])
    seconds = time.time() - started
    details["answers_per_second"] = round(len(test) / seconds, 1)
    return Answers(validation, test, details)


# ---------------------------------------------------------------- recipes


def run_zero_shot(job: Job, place: Workplace) -> Answers:
    """The base as it is."""
    base = place.take_base(job.base)
    tokenizer = place.load_tokenizer(job.base)
    splits = place.read_splits(job.corpus)
    answers = answer_splits(base, tokenizer, splits, {})
    add_variants(answers, base, tokenizer, splits["test"])
    return answers


def run_few_shot(job: Job, place: Workplace) -> Answers:
    """The base with answered train rows before the question, as turns of the conversation."""
    base = place.take_base(job.base)
    tokenizer = place.load_tokenizer(job.base)
    splits = place.read_splits(job.corpus)
    examples = draw_examples(splits["train"], job.seed)
    turns = []
    for row in examples:
        turns += prompts.build_messages(row["topic"], row["text"], row["label"])
    answers = []
    for name in ("val", "test"):
        encoded = []
        for row in splits[name]:
            messages = turns + prompts.build_messages(row["topic"], row["text"])
            text = chat.render_chat(tokenizer, messages, add_generation_prompt=True)
            encoded.append(tokenizer(text, add_special_tokens=False)["input_ids"])
        with compilation.run_uncompiled(len(encoded)):
            answers.append(evaluate.predict_rows(base, tokenizer, encoded, "score"))
    return Answers(*answers, {"examples": [row["id"] for row in examples]})


def draw_examples(rows: list[Example], seed: int) -> list[Example]:
    """Return EXAMPLES_A_LABEL rows of each label that there is, in random order."""
    rng = random.Random(seed)
    drawn = []
    for label in prompts.LABELS:
        fitting = [row for row in rows if row["label"] == label]
        drawn += rng.sample(fitting, min(EXAMPLES_A_LABEL, len(fitting)))
    rng.shuffle(drawn)
    return drawn


def run_adapter(job: Job, place: Workplace) -> Answers:
    """finetune.py: its trainer, with its settings but for those of the job."""
    splits = draw_train_rows(place.read_splits(job.corpus), job)
    tokenizer = place.load_tokenizer(job.base)
    with tempfile.TemporaryDirectory() as folder, set_constants(pick_constants(job)):
        args = make_arguments(job, place, folder)
        finetune.check_settings(args.effective_batch_size)
        started = time.time()
        trainer = finetune.build_trainer(
            args,
            Path(folder),
            tokenizer,
            splits["train"],
            splits["val"],
            base=place.take_base(job.base),
        )
        plan = trainer.accelerate(finetune.GRADIENT_CHECKPOINTING, finetune.LORA_DROPOUT > 0)
        begun = time.time()
        finetune.train(trainer, None)
        ended = time.time()
        history = trainer.state.log_history
        best = trainer.state.best_model_checkpoint
        details = {
            "start_seconds": round(begun - started, 1),
            "train_seconds": round(ended - begun, 1),
            "steps": trainer.state.global_step,
            "kept_step": int(best.rpartition("-")[2]) if best else trainer.state.global_step,
            "acceleration": plan,
            "recorded_steps": len(trainer.step_graphs.graphs) if trainer.step_graphs else 0,
            **list_history(history),
        }
        answers = answer_splits(trainer.model, tokenizer, splits, details)
        add_variants(answers, trainer.model, tokenizer, splits["test"])
        model = trainer.model
        trainer.step_graphs = None
        trainer.model = trainer.model_wrapped = None
    # The trainer holds its model in many places, and stays until the garbage is collected.
    vars(model).pop("parameters", None)
    del trainer
    place.put_back(model)
    return answers


def draw_train_rows(splits: dict[str, list[Example]], job: Job) -> dict[str, list[Example]]:
    """Return the splits with TRAIN_ROWS of the train rows, if the job has that setting."""
    count = dict(job.settings).get("TRAIN_ROWS")
    if count is None:
        return splits
    return {**splits, "train": random.Random(job.seed).sample(splits["train"], count)}


def add_variants(
    answers: Answers,
    model: torch.nn.Module,
    tokenizer: transformers.PreTrainedTokenizerBase,
    rows: list[Example],
) -> None:
    """Add to the details of answers how those to test rows change when asked in other ways.

    "variants": {variant: analysis.compare_variant}; "variant_probabilities": {variant: [n, 3]}.
    """
    rows = rows[:VARIANT_ROWS]
    before = [
        {"label": row["label"], "models": {"model": answer}}
        for row, answer in zip(rows, answers.test, strict=False)
    ]
    numbers, probabilities = {}, {}
    for name, variant in prompt_variants.build_variants(rows).items():
        encoded = evaluate.encode_questions(tokenizer, {name: (rows, variant)})[name]
        with compilation.run_uncompiled(len(encoded)):
            found = evaluate.predict_rows(model, tokenizer, encoded, "score")
        after = [{"swaps": variant.swaps, "models": {"model": one}} for one in found]
        numbers[name] = analysis.compare_variant("model", before, after)
        probabilities[name] = stack_probabilities(found).round(5).tolist()
    answers.details["variants"] = numbers
    answers.details["variant_probabilities"] = probabilities


def list_history(history: list[dict[str, float]]) -> dict[str, list]:
    """Return the losses [step, loss] of a training, and the validation of each epoch."""
    losses = [[entry["step"], round(entry["loss"], 4)] for entry in history if "loss" in entry]
    epochs = []
    for entry in history:
        if "eval_loss" in entry:
            keys = ("epoch", "step", "eval_loss", "eval_accuracy")
            epochs.append({key: round(entry[key], 4) for key in keys if key in entry})
    return {"losses": losses, "epochs": epochs}


def run_plain_trl(job: Job, place: Workplace) -> Answers:
    """trl's SFTTrainer on padded rows, with finetune.py's settings, rows and order."""
    splits = place.read_splits(job.corpus)
    tokenizer = place.load_tokenizer(job.base)
    model = loading.load_base(place.models[job.base])
    flat = find_flat_attention(place.models[job.base])
    model.set_attn_implementation(flat)
    with tempfile.TemporaryDirectory() as folder, set_constants(pick_constants(job)):
        args = make_arguments(job, place, folder)
        whole = finetune.WHOLE_SEQUENCE_LOSS
        columns = tree_trainer.encode_rows(tokenizer, splits["train"], whole)
        transformers.set_seed(args.seed)
        trainer = trl.SFTTrainer(
            model=model,
            args=make_plain_config(args, folder, trl.SFTConfig),
            train_dataset=datasets.Dataset.from_dict(columns),
            processing_class=tokenizer,
            peft_config=finetune.make_lora_config(),
        )

        def answer_with_tree(rows: list[Example]) -> list[Prediction]:
            trainer.model.set_attn_implementation(prefix_tree.ATTENTION)
            answered = score_rows(trainer.model, tokenizer, rows)
            trainer.model.set_attn_implementation(flat)
            return answered

        return train_flat(trainer, splits, answer_with_tree, finetune.SELECT_BY)


def find_flat_attention(folder: str) -> str:
    """Return the attention of padded rows for the model of a folder."""
    config = transformers.AutoConfig.from_pretrained(folder)
    return "eager" if getattr(config, "attn_logit_softcapping", None) else FLAT_ATTENTION


def make_plain_config(args: Any, folder: str, config_class: type) -> transformers.TrainingArguments:
    """Return the settings of a trainer of transformers or trl that are those of finetune.py."""
    on_gpu = torch.cuda.is_available()
    micro = finetune.find_micro_batch_size(args.effective_batch_size)
    options = {}
    if config_class is trl.SFTConfig:
        options = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    return config_class(
        output_dir=folder,
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        lr_scheduler_type=finetune.SCHEDULE,
        warmup_steps=finetune.WARMUP,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=args.effective_batch_size // micro,
        max_grad_norm=finetune.MAX_GRAD_NORM,
        gradient_checkpointing=False,
        bf16=precision.compute_dtype() == torch.bfloat16,
        use_cpu=not on_gpu,
        optim="adamw_torch_fused" if on_gpu else "adamw_torch",
        seed=args.seed,
        eval_strategy="no",
        save_strategy="no",
        logging_steps=finetune.LOG_STEPS,
        report_to="none",
        disable_tqdm=True,
        **options,
    )


class KeepBest(transformers.TrainerCallback):
    """Answer the validation rows after each epoch, and keep the weights of the best in memory."""

    def __init__(self, model: torch.nn.Module, rows: list[Example], answer: Callable) -> None:
        self.model = model
        self.rows = rows
        self.answer = answer
        self.epochs = []
        self.best = None
        self.weights = {}

    def on_epoch_end(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Called by the trainer after each epoch."""
        described = describe_answers(self.answer(self.rows), self.rows)
        epoch = {
            "epoch": round(state.epoch, 4),
            "step": state.global_step,
            "eval_loss": round(described["nll"], 4),
            "eval_accuracy": round(described["accuracy"], 4),
        }
        self.epochs.append(epoch)
        if self.best is None or epoch["eval_accuracy"] > self.best["eval_accuracy"]:
            self.best = epoch
            self.weights = {
                name: weight.detach().clone()
                for name, weight in self.model.named_parameters()
                if weight.requires_grad
            }

    @torch.no_grad()
    def restore(self) -> None:
        """Give the model the weights of the best epoch."""
        for name, weight in self.model.named_parameters():
            if name in self.weights:
                weight.copy_(self.weights[name])


def train_flat(
    trainer: transformers.Trainer,
    splits: dict[str, list[Example]],
    answer: Callable[[list[Example]], list[Prediction]],
    select_by: str,
) -> Answers:
    """Train to the end, and return the answers of the best epoch, or of the last.

    answer: from rows to predictions, by the trainer's model. select_by: finetune.SELECT_BY.
    """
    keeper = KeepBest(trainer.model, splits["val"], answer)
    trainer.add_callback(keeper)
    trainer.remove_callback(transformers.PrinterCallback)
    started = time.time()
    trainer.train()
    details = {"train_seconds": round(time.time() - started, 1)}
    if select_by != "last":
        keeper.restore()
    kept = keeper.epochs[-1] if select_by == "last" else keeper.best
    validation = answer(splits["val"])
    started = time.time()
    test = answer(splits["test"])
    details |= {
        "answers_per_second": round(len(test) / (time.time() - started), 1),
        "steps": trainer.state.global_step,
        "kept_step": kept["step"],
        **list_history(trainer.state.log_history),
        "epochs": keeper.epochs,
    }
    return Answers(validation, test, details)


def run_seq_cls(job: Job, place: Workplace) -> Answers:
    """LoRA with a classification head of three outputs in place of the vocabulary's (peft SEQ_CLS)."""
    splits = place.read_splits(job.corpus)
    tokenizer = place.load_tokenizer(job.base)
    with tempfile.TemporaryDirectory() as folder, set_constants(pick_constants(job)):
        args = make_arguments(job, place, folder)
        transformers.set_seed(args.seed)
        base = transformers.AutoModelForSequenceClassification.from_pretrained(
            place.models[job.base],
            num_labels=len(prompts.LABELS),
            dtype=precision.compute_dtype(),
            quantization_config=transformers.BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=precision.QUANT_TYPE,
                bnb_4bit_use_double_quant=precision.DOUBLE_QUANT,
                bnb_4bit_compute_dtype=precision.compute_dtype(),
                llm_int8_skip_modules=["score"],
            ),
            attn_implementation=find_flat_attention(place.models[job.base]),
            device_map={"": torch.cuda.current_device() if torch.cuda.is_available() else "cpu"},
        )
        base.config.pad_token_id = tokenizer.pad_token_id
        for linear in lora_linear.find_linears(base):
            linear.support_avx512bf16_for_cpu = False  # as in loading.load_base
        lora = peft.LoraConfig(
            r=finetune.LORA_R,
            lora_alpha=finetune.LORA_ALPHA,
            lora_dropout=finetune.LORA_DROPOUT,
            target_modules=finetune.LORA_TARGETS,
            task_type="SEQ_CLS",
        )
        model = peft.get_peft_model(base, lora)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()

        def encode(rows: list[Example]) -> list[list[int]]:
            return chat.encode_examples(tokenizer, [(row["topic"], row["text"]) for row in rows])

        config = make_plain_config(args, folder, transformers.TrainingArguments)
        return train_classifier(model, tokenizer, encode, config, splits, finetune.SELECT_BY)


def run_encoder(job: Job, place: Workplace) -> Answers:
    """An encoder with a classification head, all of it fine-tuned on (topic, sentence)."""
    splits = place.read_splits(job.corpus)
    folder_of_model = place.models[job.base]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder_of_model)
    settings = {**ENCODER_SETTINGS, **dict(job.settings)}
    with tempfile.TemporaryDirectory() as folder:
        job = job._replace(settings=tuple(settings.items()))
        args = make_arguments(job, place, folder)
        transformers.set_seed(args.seed)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder_of_model, num_labels=len(prompts.LABELS)
        )
        if torch.cuda.is_available():
            model.to("cuda")

        def encode(rows: list[Example]) -> list[list[int]]:
            topics = [row["topic"] for row in rows]
            texts = [row["text"] for row in rows]
            return tokenizer(topics, texts, truncation=True, max_length=ENCODER_TOKENS)["input_ids"]

        config = make_plain_config(args, folder, transformers.TrainingArguments)
        answers = train_classifier(model, tokenizer, encode, config, splits, finetune.SELECT_BY)
        answers.details["settings"] = settings
        return answers


def train_classifier(
    model: torch.nn.Module,
    tokenizer: transformers.PreTrainedTokenizerBase,
    encode: Callable[[list[Example]], list[list[int]]],
    config: transformers.TrainingArguments,
    splits: dict[str, list[Example]],
    select_by: str,
) -> Answers:
    """Train a model with three outputs a row, and return its answers.

    encode: from rows to their token ids.
    """
    columns = {
        "input_ids": encode(splits["train"]),
        "labels": [prompts.LABELS.index(row["label"]) for row in splits["train"]],
    }
    trainer = transformers.Trainer(
        model=model,
        args=config,
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )

    @torch.no_grad()
    def classify(rows: list[Example]) -> list[Prediction]:
        encoded = encode(rows)
        was_training = model.training
        model.eval()
        found = []
        for start in range(0, len(encoded), FLAT_BATCH_SIZE):
            batch = [{"input_ids": ids} for ids in encoded[start : start + FLAT_BATCH_SIZE]]
            inputs = trainer.data_collator(batch).to(model.device)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16):
                logits = model(**inputs).logits
            found.append(logits.float().softmax(1).cpu())
        model.train(was_training)
        return list_answers(torch.cat(found).numpy())

    return train_flat(trainer, splits, classify, select_by)


def run_embeddings(job: Job, place: Workplace) -> Answers:
    """Logistic regression on the embeddings of topic and sentence, which stay as they are."""
    splits = place.read_splits(job.corpus)
    features = embed_splits(place, job.base, splits)
    labels = {
        name: [prompts.LABELS.index(row["label"]) for row in rows] for name, rows in splits.items()
    }
    best = None
    for penalty in PENALTIES:
        model = sklearn.linear_model.LogisticRegression(C=penalty, max_iter=5000)
        model.fit(features["train"], labels["train"])
        score = model.score(features["val"], labels["val"])
        if best is None or score > best[0]:
            best = (score, penalty, model)
    _, penalty, model = best
    answers = []
    for name in ("val", "test"):
        probabilities = np.full((len(splits[name]), len(prompts.LABELS)), TINY_PROBABILITY)
        probabilities[:, model.classes_] = model.predict_proba(features[name])
        answers.append(list_answers(probabilities))
    return Answers(*answers, {"settings": {"penalty": penalty}})


def embed_splits(
    place: Workplace, name: str, splits: dict[str, list[Example]]
) -> dict[str, np.ndarray]:
    """Return {split: features of its rows} by an encoder of the workplace, which embeds a text once.

    They are the mean embeddings of topic and sentence, their product and their distance.
    """
    known = place.embeddings.setdefault(name, {})
    texts = {row[key] for rows in splits.values() for row in rows for key in ("topic", "text")}
    missing = sorted(texts - set(known), key=len)
    known.update(zip(missing, embed_texts(place.models[name], missing), strict=True))
    features = {}
    for split, rows in splits.items():
        topics = np.stack([known[row["topic"]] for row in rows])
        sentences = np.stack([known[row["text"]] for row in rows])
        parts = [topics, sentences, topics * sentences, abs(topics - sentences)]
        features[split] = np.hstack(parts)
    return features


@torch.no_grad()
def embed_texts(folder: str, texts: list[str]) -> list[np.ndarray]:
    """Return the mean embedding of each text by the encoder of a folder, of length 1."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    embedded = []
    for start in range(0, len(texts), FLAT_BATCH_SIZE):
        inputs = tokenizer(
            texts[start : start + FLAT_BATCH_SIZE],
            padding=True,
            truncation=True,
            max_length=ENCODER_TOKENS,
            return_tensors="pt",
        )
        mask = inputs["attention_mask"][:, :, None]
        hidden = model(**inputs).last_hidden_state
        mean = (hidden * mask).sum(1) / mask.sum(1)
        embedded += list(torch.nn.functional.normalize(mean).numpy())
    return embedded


def run_tfidf(job: Job, place: Workplace) -> Answers:
    """Logistic regression over TF-IDF weights; answers with labels alone."""
    splits = place.read_splits(job.corpus)
    answers = []
    for name in ("val", "test"):
        labels = baselines.predict_tfidf(splits["train"], splits["val"], splits[name])
        answers.append([{"prediction": label} for label in labels])
    return Answers(*answers, {})


RECIPES = {
    "zero-shot": run_zero_shot,
    "few-shot": run_few_shot,
    "adapter": run_adapter,
    "plain trl": run_plain_trl,
    "seq_cls": run_seq_cls,
    "encoder": run_encoder,
    "embeddings": run_embeddings,
    "tf-idf": run_tfidf,
}


# ---------------------------------------------------------------- numbers


def list_answers(probabilities: np.ndarray) -> list[Prediction]:
    """Return predictions as evaluate.py makes them of probabilities [n, 3]."""
    answers = []
    for row in probabilities.tolist():
        best = max(range(len(row)), key=row.__getitem__)
        by_label = dict(zip(prompts.LABELS, row, strict=True))
        answers.append({"prediction": prompts.LABELS[best], "probabilities": by_label})
    return answers


def stack_probabilities(answers: list[Prediction]) -> np.ndarray:
    """Return the probabilities [n, 3] of predictions."""
    return np.array([[row["probabilities"][label] for label in prompts.LABELS] for row in answers])


def describe_answers(
    answers: list[Prediction], rows: list[Example], temperature: float | None = None
) -> dict[str, Any]:
    """Return the numbers of predictions: metrics.compute_metrics, and of probabilities "nll", "ece".

    temperature: one that was fitted on other rows, with which "ece_scaled" is computed.
    """
    gold = [row["label"] for row in rows]
    numbers = metrics.compute_metrics(gold, [row["prediction"] for row in answers])
    if "probabilities" in answers[0]:
        indices = [prompts.LABELS.index(label) for label in gold]
        probabilities = stack_probabilities(answers)
        calibration = uncertainty.measure_calibration(probabilities, indices)
        numbers |= {"nll": calibration["nll"], "ece": calibration["ece"]}
        if temperature is not None:
            scaled = uncertainty.scale_probabilities(probabilities, temperature)
            numbers["ece_scaled"] = uncertainty.measure_calibration(scaled, indices)["ece"]
    return numbers


def check_numbers(job: Job, answers: list[Prediction]) -> None:
    """Fail if probabilities are no finite numbers: the labels read off them would mean nothing."""
    if not np.isfinite(stack_probabilities(answers)).all():
        errors.fail(f"{job.key} answers with no finite numbers: lower its learning rate")


def describe_splits(answers: Answers, splits: dict[str, list[Example]]) -> dict[str, Any]:
    """Return {"validation", "test": numbers, "temperature": fitted to validation rows, or None}."""
    temperature = None
    if "probabilities" in answers.validation[0]:
        gold = [prompts.LABELS.index(row["label"]) for row in splits["val"]]
        temperature = uncertainty.fit_temperature(stack_probabilities(answers.validation), gold)
    return {
        "validation": describe_answers(answers.validation, splits["val"]),
        "test": describe_answers(answers.test, splits["test"], temperature),
        "temperature": temperature,
    }


def perform(job: Job, place: Workplace) -> dict[str, Any]:
    """Run a job; return its record: the job, its numbers on validation and test rows, and how."""
    splits = place.read_splits(job.corpus)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = time.time()
    answers = RECIPES[job.recipe](job, place)
    seconds = time.time() - started
    probabilities = {"variants": answers.details.pop("variant_probabilities", {})}
    if "probabilities" in answers.validation[0]:
        check_numbers(job, [*answers.validation, *answers.test])
        for name, rows in (("validation", answers.validation), ("test", answers.test)):
            probabilities[name] = stack_probabilities(rows).round(5).tolist()
    return {
        "key": job.key,
        "job": {**job._asdict(), "settings": dict(job.settings)},
        "rows": {name: len(rows) for name, rows in splits.items()},
        **describe_splits(answers, splits),
        "probabilities": probabilities,
        "seconds": round(seconds, 1),
        "peak_gpu_gib": loading.peak_gpu_gib(),
        "device": loading.device_name(),
        "versions": environment.describe_environment()["versions"],
        **answers.details,
    }
