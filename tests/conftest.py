"""What several test files use: the real Gemma-2 tokenizer, which is gated, a tiny model and a training run on it."""

import csv
import gc
import logging
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import psutil
import pytest
from small_corpus import CORPUS_TOPICS

from stance.common import startup  # noqa: F401  before torch: how its threads wait

ROOT = Path(__file__).resolve().parents[1]

# ---------------------------------------------------------------- how the tests are run

MOST_WORKERS = 4  # of pytest-xdist; each loads torch
WORKER_GB = 3  # memory that a worker and the processes it starts take at most

if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; or workers fight for the cores


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """-n auto: a worker a core, as far as the memory goes; one where all would share a GPU."""
    if shutil.which("nvidia-smi"):
        return 1
    fitting = int(psutil.virtual_memory().available / (WORKER_GB * 1e9))
    return max(1, min(count_cores(), MOST_WORKERS, fitting))


def count_cores():
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # on Linux; a container may have fewer than the computer
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pytest_collection_modifyitems(items):
    """Prepare the run: skip and mark tests, sort them for workers, spare needless work.

    Tests marked gpu are skipped where there is none; those that use the real tokenizer are gated.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:  # long files first, so that no worker ends alone
        slow_tests = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow_tests[item.path])
    # PyTorch writes down all about a compilation for whoever reads this log, and pytest reads logs
    # that do not propagate: a quarter of the time of a compilation.
    logging.getLogger("torch.__trace").propagate = True
    for item in items:
        if "gemma_tokenizer" in item.fixturenames:
            item.add_marker(pytest.mark.gated)
        if item.get_closest_marker("gpu") is not None:
            import torch  # seconds: most tests do without

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


def pytest_collection_finish():
    """Let each training, which collects garbage, pass over the libraries: 0.4 s each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def gemma_tokenizer():
    """The tokenizer in the folder that the environment variable GEMMA_TOKENIZER names; skips the test without it."""
    folder = os.environ.get("GEMMA_TOKENIZER")
    if not folder:
        pytest.skip(
            "GEMMA_TOKENIZER is not set: give it the folder of google/gemma-2-9b-it's tokenizer files"
        )
    import transformers  # seconds, and most tests do without

    return transformers.AutoTokenizer.from_pretrained(folder)


# ---------------------------------------------------------------- a tiny model and a training run, shared by all tests

CORPUS_WORDS = {  # a stance shows in every word, so that the tiny model can learn it within seconds
    "Pro": ("yes", "good", "right", "true"),
    "Contra": ("no", "bad", "wrong", "never"),
    "Neutral": ("maybe", "who", "what", "where"),
}
PRETRAINING_STEPS = (
    8  # too few to answer with a label, so that generated replies of the base are invalid
)
TRAINING = {
    "EFFECTIVE_BATCH_SIZE": 8,
    "MICRO_BATCH_SIZE": 8,
    "LOG_STEPS": 1,
}  # constants of finetune.py
EPOCHS = "6"  # the last two or three of them have learnt the task; their accuracy is 1, by chance it is 0.4


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a tiny Gemma-2, as text."""
    import tiny_model

    folder = tmp_path_factory.mktemp("tiny") / "tiny-gemma2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "STEPS", PRETRAINING_STEPS)
        tiny_model.build(folder)
    return str(folder)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Folder of small splits that prepare_data.py made, as text: 72 rows to train on, 24 each to validate and test."""
    import prepare_data
    from stance.corpus import splitting

    folder, rng, rows = (
        tmp_path_factory.mktemp("data"),
        random.Random(0),
        [("topic", "text", "stance")],
    )
    for number in range(40):
        for place, (stance, words) in enumerate(CORPUS_WORDS.items()):
            text = " ".join(rng.choices(words, k=rng.randint(8, 16)))
            rows.append((CORPUS_TOPICS[(number + place) % 3], text, stance))
    with open(folder / "corpus.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "HELD_OUT_SHARES", {"val": 0.2, "test": 0.2})
        prepare_data.main(["--corpus", str(folder / "corpus.csv"), "--output-dir", str(folder)])
    return str(folder)


@pytest.fixture(scope="session")
def train(tiny_model, data_dir):
    """A function that runs finetune.py on the tiny model, with other flags and constants if they are given."""
    import finetune

    def run(run_dir, *flags, **constants):
        usual = {
            "--base-model": tiny_model,
            "--data-dir": data_dir,
            "--learning-rate": "4e-3",
            "--epochs": EPOCHS,
        }
        words = [word for flag in usual if flag not in flags for word in (flag, usual[flag])]
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**TRAINING, **constants}.items():
                patch.setattr(finetune, name, value)
            finetune.main([*words, "--run-dir", str(run_dir), *flags])
        return run_dir

    return run


@pytest.fixture(scope="session")
def trained_run(train, tmp_path_factory):
    """Folder of a finished training run, a Path. Tests must not write to it."""
    return train(tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="module")
def one_thread():
    """Threads add up the gradients of a shared node in the order they finish, so two runs would differ."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def load_plain():
    """A function that loads a base, with an adapter if one is given, by transformers and peft alone."""
    import peft
    import torch
    import transformers

    from stance.model import lora_linear, precision

    def load(base, adapter=None, dtype=None):
        dtype = dtype or precision.compute_dtype()
        model = transformers.AutoModelForCausalLM.from_pretrained(
            base,
            dtype=dtype,
            quantization_config=transformers.BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            ),
            device_map={"": 0 if torch.cuda.is_available() else "cpu"},
            attn_implementation="eager",
        )
        for linear in lora_linear.find_linears(model):
            linear.support_avx512bf16_for_cpu = (
                False  # its kernel rounds to bfloat16, whatever the dtype
            )
        return (model if adapter is None else peft.PeftModel.from_pretrained(model, adapter)).eval()

    return load


@pytest.fixture(scope="session")
def flat_logits():
    """A function that returns the float32 logits [length, vocabulary] of one sequence, without any tree."""
    import torch

    @torch.no_grad()
    def forward(model, ids):
        return model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float().cpu()

    return forward


# ---------------------------------------------------------------- how far rounding brings results apart

ROUNDING_FACTOR = 3  # results may differ by so many times the rounding that a test has measured


@pytest.fixture(scope="session")
def allow_rounding():
    """A function that returns how far results may be apart that only rounding tells apart.

    ways: a flat result, which is one without a tree, and the same result computed in ways that round differently: in
    batches of another size, and in float32, since two sizes may happen to round alike. distance: of two such results.
    floor: what float32 rounds, or what is lost where numbers are printed.
    """

    def allow(ways, distance=largest_gap, floor=1e-5, factor=ROUNDING_FACTOR):
        return factor * max(distance(other, ways[0]) for other in ways[1:]) + floor

    return allow


def largest_gap(one, other):
    return (one - other).abs().max().item()


@pytest.fixture(scope="session")
def count_ties(allow_rounding):
    """A function that counts the rows whose best label rounding may change.

    ways: as allow_rounding takes them, of probabilities [n, 3].
    """

    def count(ways):
        best = ways[0].topk(2).values
        return (best[:, 0] - best[:, 1] <= allow_rounding(ways)).sum().item()

    return count


@pytest.fixture(scope="session")
def in_float32():
    """A function that returns a copy of a model that computes in float32, on the same NF4 weights and adapter.

    Not of a trainer's model: trl has wrapped its forward, and the copy would call that of the original.
    """
    import copy

    import torch

    from stance.model import lora_linear

    def convert(model):
        exact = torch.nn.Module.float(
            copy.deepcopy(model)
        )  # that of transformers refuses 4-bit models
        for linear in lora_linear.find_linears(exact):
            linear.compute_dtype = linear.weight.quant_state.dtype = torch.float32
        return exact

    return convert


@pytest.fixture(scope="session")
def flat_ways(in_float32):
    """A function that returns the logits [n, last, vocabulary] at the end of n sequences, flat, in three ways.

    Each sequence alone, all in one padded batch, each alone in float32: they differ by nothing but rounding.
    """
    import torch

    @torch.no_grad()
    def forward(model, sequences, last, size):
        found = []
        for start in range(0, len(sequences), size):
            batch = [
                torch.tensor(ids, device=model.device) for ids in sequences[start : start + size]
            ]
            ids, mask = (
                torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
                for rows in (batch, [torch.ones_like(row) for row in batch])
            )
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            found += [
                row[len(ids) - last : len(ids)].float().cpu()
                for row, ids in zip(logits, batch, strict=True)
            ]
        return torch.stack(found)

    def run(model, sequences, last=1):
        ways = (model, 1), (model, len(sequences)), (in_float32(model), 1)
        return [forward(one, sequences, last, size) for one, size in ways]

    return run


@pytest.fixture(scope="session")
def flat_labels(flat_ways, allow_rounding):
    """A function that returns (probabilities [n, 3], tolerance), (label mass [n], tolerance) of n prompts, flat."""
    from stance.model import chat

    def score(model, tokenizer, sequences, floor=1e-5):
        label_ids = chat.label_token_ids(tokenizer)
        ways = [logits[:, -1].softmax(1)[:, label_ids] for logits in flat_ways(model, sequences)]
        masses = [every.sum(1) for every in ways]
        probabilities = [every / mass[:, None] for every, mass in zip(ways, masses, strict=True)]
        return [(flats[0], allow_rounding(flats, floor=floor)) for flats in (probabilities, masses)]

    return score
