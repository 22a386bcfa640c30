"""Training and evaluating by several processes, each with the base or a part of it: what two do is what one does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import bitsandbytes
import pytest
import safetensors.torch
import torch
from stopping import stop_message

import evaluate
import finetune
from stance.common import distributed, files, run_files
from stance.corpus import splitting
from stance.model import compilation, scoring
from stance.training import fsdp, tree_trainer

CONSTANTS = {"EFFECTIVE_BATCH_SIZE": 8, "MICRO_BATCH_SIZE": 4, "LOG_STEPS": 1}
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
ROWS = 65  # 9 steps an epoch, the last of a single row, so that the second of two processes has no share of it
# Equal micro-batches give equal gradients on a CPU, added up in the same order; only validation sums in another.
TOLERANCE = 1e-5

# Run by a launcher. Trains until step 12 of 18, leaves a copy of the run, goes on; each process leaves its own adapter.
WORKER = f"""
import gc, json, os, shutil, sys
gc.disable()  # while libraries load, as in the scripts: stance/common/startup.py
sys.path.insert(0, {str(ROOT)!r})
import safetensors.torch
import finetune
from stance.model import loading
from stance.training import tree_trainer
from stance.common import distributed
from stance.corpus import splitting
from stance.training import callbacks
from stance.training import fsdp
gc.enable()

folder, words = sys.argv[1], sys.argv[2:]
for name, value in {CONSTANTS!r}.items():
    setattr(finetune, name, value)
trainers, batches, launch = [], [], dict(os.environ)

class Watching(tree_trainer.StanceTrainer):
    def __init__(self, *words, **options):
        super().__init__(*words, **options)
        trainers.append(self)

    def get_batch_samples(self, *words):
        samples, items = super().get_batch_samples(*words)
        batches.append([sample is not None for sample in samples])
        return samples, items

class Interrupting(callbacks.JsonlLog):
    def on_step_end(self, args, state, control, **options):
        if state.global_step == 12:
            raise KeyboardInterrupt

tree_trainer.StanceTrainer, kept = Watching, callbacks.JsonlLog
leave_ranks, distributed.leave_ranks = distributed.leave_ranks, lambda: None
callbacks.JsonlLog = Interrupting
try:
    finetune.main(words)
except KeyboardInterrupt:
    callbacks.JsonlLog = kept
distributed.wait_for_ranks()
rank = distributed.get_rank()[0]
assert distributed.find_highest(7 * rank) == 7
if rank == 0:
    shutil.copytree(f"{{folder}}/run", f"{{folder}}/interrupted")
distributed.wait_for_ranks()
distributed.join_ranks, after = lambda **options: None, len(batches)
os.environ.update(launch)
try:
    finetune.main([*words, "--resume"])
except SystemExit as ended:  # of all but the first process
    assert (distributed.get_rank()[0], ended.code) == (1, 0)
weights = {{name: weight.data for name, weight in trainers[-1].model.named_parameters() if weight.requires_grad}}
safetensors.torch.save_file(weights, f"{{folder}}/rank-{{rank}}.safetensors")
packed = [weight for weight in trainers[-1].model.parameters() if weight.ndim == 2 and weight.shape[1] == 1]
held = [sum(w.nbytes for w in part) for part in ([getattr(w, "to_local", lambda: w)() for w in packed], packed)]
result = {{"before": batches[:after], "after": batches[after:], "packed_bytes": held}}
json.dump(result, open(f"{{folder}}/rank-{{rank}}.json", "w"))
leave_ranks()
"""


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SHARDED = (
    "accelerate.commands.launch",
    "--config_file",
    str(ROOT / "tools" / "fsdp.yaml"),
    "--main_process_port",
    "0",
)
ACCELERATE = (
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--main_process_port",
    "0",
)


def run_worker(folder, worker, *words, launcher=TORCHRUN):
    """Run the code of a worker by two processes; return the finished launcher."""
    (folder / "worker.py").write_text(worker)
    alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-m", *launcher, str(folder / "worker.py"), *words], env={**os.environ, **alone},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def small_data(data_dir, tmp_path_factory):
    """Folder of the splits with ROWS rows to train on, as text."""
    folder = tmp_path_factory.mktemp("small") / "data"
    shutil.copytree(data_dir, folder)
    splits = {name: splitting.load_split(folder / f"{name}.jsonl") for name in splitting.SPLITS}
    splits["train"] = splits["train"][:ROWS]
    splitting.write_splits(folder, splits, {})
    return str(folder)


@pytest.fixture(scope="module")
def flags(small_data):
    """The flags of a run of two epochs."""
    return ["--data-dir", small_data, "--epochs", "2", "--learning-rate", "4e-3"]


@pytest.fixture(scope="module")
def one_process(train, flags, tmp_path_factory):
    """Folder of the run of one process."""
    return train(tmp_path_factory.mktemp("one") / "run", *flags, **CONSTANTS)


@pytest.fixture(scope="module")
def two_processes(tiny_model, flags, tmp_path_factory):
    """Folder of the same run of two processes, interrupted and resumed (run), and as it was then (interrupted)."""
    folder = tmp_path_factory.mktemp("two")
    words = ["--base-model", tiny_model, *flags, "--run-dir", str(folder / "run")]
    done = run_worker(folder, WORKER, str(folder), *words)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("wrote adapter") == 1 and done.stdout.count("trainable parameters") == 2
    )  # of two starts
    assert (
        done.stdout.count(": validation loss ") == 2 and done.stdout.count("step 18/18 ") == 1
    )  # of one process
    return folder


def read_weights(path):
    return safetensors.torch.load_file(path)


def read_curve(run, key):
    entries = files.read_jsonl(run / "log.jsonl", (), "")
    return [(entry["step"], entry[key]) for entry in entries if key in entry]


def check_equal_runs(run, expected):
    """The same steps, losses, rates and gradients at each, and the same adapter at the end."""
    for key in ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy"):
        curves = [read_curve(folder, key) for folder in (run, expected)]
        assert [step for step, _ in curves[0]] == [step for step, _ in curves[1]]
        assert [value for _, value in curves[0]] == pytest.approx(
            [value for _, value in curves[1]], rel=TOLERANCE
        )
    adapters = [read_weights(folder / "adapter_model.safetensors") for folder in (run, expected)]
    for name, weight in adapters[1].items():
        torch.testing.assert_close(adapters[0][name], weight, rtol=TOLERANCE, atol=TOLERANCE)


def test_two_processes_train_as_one(two_processes, one_process):
    losses = [value for _, value in read_curve(one_process, "loss")]
    assert (
        len(losses) == 18 and max(losses) - min(losses) > 1
    )  # something is learnt: a wrong gradient would show
    check_equal_runs(two_processes / "run", one_process)
    record = files.read_json(two_processes / "run" / "run.json", "")
    assert record["processes"] == 2 and record["result"]["steps"] == 18


def test_each_process_computes_its_half(two_processes):
    """Of a last step with one micro-batch the second has none; the first steps are not computed again on resuming."""
    for rank, last in ((0, [True]), (1, [False])):
        steps = json.loads((two_processes / f"rank-{rank}.json").read_text())
        epoch = [[rank == 0, rank == 1]] * 8 + [last]
        assert steps["before"] == epoch + epoch[:3]
        assert steps["after"] == epoch


def test_both_processes_end_with_one_adapter(two_processes):
    first, second = (read_weights(two_processes / f"rank-{rank}.safetensors") for rank in (0, 1))
    assert len(first) > 0
    for name, weight in first.items():
        assert torch.equal(weight, second[name])


def test_one_process_goes_on_where_two_stopped(two_processes, one_process, train, flags, tmp_path):
    run = shutil.copytree(two_processes / "interrupted", tmp_path / "run")
    assert not (run / "run.json").exists()
    check_equal_runs(train(run, *flags, "--resume", **CONSTANTS), one_process)


# Started by accelerate launch: finetune.py with the constants of these tests.
PLAIN = f"""
import gc, sys
gc.disable()
sys.path.insert(0, {str(ROOT)!r})
import finetune
gc.enable()

for name, value in {CONSTANTS!r}.items():
    setattr(finetune, name, value)
finetune.main(sys.argv[1:])
"""


def test_accelerate_starts_processes_too(tiny_model, flags, one_process, tmp_path):
    words = ["--base-model", tiny_model, *flags, "--run-dir", str(tmp_path / "run")]
    done = run_worker(tmp_path, PLAIN, *words, launcher=ACCELERATE)
    assert done.returncode == 0, done.stderr
    check_equal_runs(tmp_path / "run", one_process)
    assert files.read_json(tmp_path / "run" / "run.json", "")["processes"] == 2


# ---------------------------------------------------------------- a base in parts (FSDP)


@pytest.fixture(scope="module")
def two_parts(tiny_model, flags, tmp_path_factory):
    """As two_processes, where each holds half of the base's layers."""
    folder = tmp_path_factory.mktemp("parts")
    words = ["--base-model", tiny_model, *flags, "--run-dir", str(folder / "run")]
    done = run_worker(folder, WORKER, str(folder), *words, launcher=SHARDED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote adapter") == 1
    return folder


def test_two_halves_of_a_base_train_as_the_whole(two_parts, one_process):
    check_equal_runs(two_parts / "run", one_process)
    record, expected = (
        files.read_json(run / "run.json", "") for run in (two_parts / "run", one_process)
    )
    assert record["processes"] == 2 and record["sharded"] and not expected["sharded"]
    assert record["parameters"] == expected["parameters"]


def test_each_process_holds_half_and_makes_every_pass(two_parts, two_processes):
    """The second makes a pass without weight where it has no share, since the first needs its half of the layers."""
    adapters = [read_weights(two_parts / f"rank-{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(weight, adapters[1][name]) for name, weight in adapters[0].items())
    for rank in (0, 1):
        parts, whole = (
            json.loads((run / f"rank-{rank}.json").read_text())
            for run in (two_parts, two_processes)
        )
        held, total = parts["packed_bytes"]
        assert 2 * held == total and whole["packed_bytes"] == [total, total]
        assert parts["after"] == [[rank == 0, rank == 1]] * 8 + [[True]]


def test_one_process_with_the_whole_base_goes_on_where_two_halves_stopped(
    two_parts, one_process, train, flags, tmp_path
):
    run = shutil.copytree(two_parts / "interrupted", tmp_path / "run")
    check_equal_runs(train(run, *flags, "--resume", **CONSTANTS), one_process)


def test_an_adapter_of_a_base_in_parts_is_evaluated(two_parts, small_data, tmp_path):
    words = ["--data-dir", small_data, "--robustness-rows", "0", "--output-dir", str(tmp_path)]
    evaluate.main(["--adapter", str(two_parts / "run"), *words])
    rows = files.read_jsonl(run_files.find_text(tmp_path, "validation.jsonl"), (), "")
    right = sum(row["models"]["fine-tuned"]["prediction"] == row["label"] for row in rows)
    kept = files.read_json(two_parts / "run" / "run.json", "")["result"]["kept_validation"]
    assert len(rows) == 24 and right / 24 == pytest.approx(kept["eval_accuracy"])


def test_the_committed_options_are_those_that_are_kept(monkeypatch):
    options = (ROOT / "tools" / "fsdp.yaml").read_text(encoding="utf-8")
    for name, value in fsdp.LAUNCH_OPTIONS.items():
        assert f"\n  {name.lower()}: {value}" in options
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(distributed.SHARD_VARIABLE, "true")
    assert fsdp.take_over() and distributed.SHARD_VARIABLE not in os.environ
    assert not fsdp.take_over()


def test_other_options_stop(monkeypatch, capsys):
    monkeypatch.setenv(distributed.SHARD_VARIABLE, "true")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "True")
    message = "fsdp_offload_params true is not supported: write fsdp_offload_params: false, or take the file tools/fsdp.yaml"
    assert message in stop_message(capsys, fsdp.take_over)
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "false")
    monkeypatch.setenv(distributed.SHARD_VARIABLE, "true")
    monkeypatch.setattr(compilation, "DENSE_WEIGHTS", True)
    assert "set DENSE_WEIGHTS in stance/model/compilation.py to None" in stop_message(
        capsys, fsdp.take_over
    )


def test_the_command_to_continue_shards_too(monkeypatch):
    monkeypatch.setattr(distributed, "get_rank", lambda: (0, 2))
    assert finetune.word_hint(["--epochs", "2"], sharded=True) == (
        "continue with: accelerate launch --config_file tools/fsdp.yaml --num_processes 2 finetune.py --epochs 2 --resume"
    )


def test_only_training_takes_a_base_in_parts(monkeypatch, capsys):
    monkeypatch.setenv(distributed.SHARD_VARIABLE, "true")
    assert "FSDP is for finetune.py" in stop_message(capsys, distributed.join_ranks)


def test_weights_for_the_cpu_are_quantised_on_the_gpu(monkeypatch):
    """As on a machine with a GPU, whose part the CPU plays."""
    torch.manual_seed(0)
    weight, moved = torch.randn(64, 64), []
    expected = bitsandbytes.nn.Params4bit(weight.clone(), quant_type="nf4").to("cpu")
    monkeypatch.setattr(
        torch.Tensor, "cuda", lambda tensor: (moved.append(tensor.shape), tensor)[1]
    )
    with monkeypatch.context() as on_gpu:
        on_gpu.setattr(torch.cuda, "is_available", lambda: True)
        with fsdp.quantise_on_gpu():
            packed = bitsandbytes.nn.Params4bit(weight.clone(), quant_type="nf4").to("cpu")
    assert moved == [(64, 64)]
    assert (
        torch.equal(packed.data, expected.data)
        and packed.quant_state.shape == expected.quant_state.shape
    )
    bitsandbytes.nn.Params4bit(weight.clone(), quant_type="nf4").to("cpu")
    assert len(moved) == 1


def test_a_base_in_parts_is_not_compiled_and_saves_memory_unless_told_not_to():
    for checkpoint, expected in ((None, True), (True, True), (False, False)):
        plan = tree_trainer.StanceTrainer.plan_training(
            SimpleNamespace(sharded=True), 1450, checkpoint, False
        )
        assert plan == {
            "dense_weights": False,
            "checkpoint": expected,
            "compiled": False,
            "graphs": False,
        }


# ---------------------------------------------------------------- starting on several GPUs


def test_processes_must_divide_the_batch(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "get_rank", lambda: (0, 3))
    for name, value in CONSTANTS.items():
        monkeypatch.setattr(finetune, name, value)
    with pytest.raises(SystemExit) as stopped:
        finetune.check_settings(finetune.EFFECTIVE_BATCH_SIZE)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "error: MICRO_BATCH_SIZE 4 x 3 processes is no divisor of EFFECTIVE_BATCH_SIZE 8: "
        "edit finetune.py\n"
    )


def test_a_process_trains_on_its_own_gpu_and_writes_only_if_it_is_the_first(monkeypatch, tmp_path):
    """As on a machine with two GPUs: accelerate and the trainer would take the first one and wrap the model."""
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    place = [1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *words: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: place[0])
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: place.append(str(device)))
    config = tree_trainer.StanceConfig(output_dir=str(tmp_path), report_to="none")
    assert place[1:] == ["cuda:0", "1"]  # the library's choice, then ours
    assert config.device == config.distributed_state.device == torch.device("cuda:1")
    assert (config.world_size, config.n_gpu, config.distributed_state.num_processes) == (1, 1, 1)
    assert config.process_index == 1 and not config.should_save
    assert os.environ["WORLD_SIZE"] == "2" and distributed.DEVICE_VARIABLE not in os.environ


# ---------------------------------------------------------------- evaluating

# Run by torchrun. Evaluates in both modes, after one start.
EVALUATION = f"""
import gc, sys
gc.disable()
sys.path.insert(0, {str(ROOT)!r})
import evaluate
from stance.model import compilation
from stance.common import distributed
from stance.corpus import splitting
from stance.model import scoring
gc.enable()

compilation.prepare_scoring = lambda model, rows: (None, 7)[distributed.get_rank()[0]]  # as if one GPU had less memory left
scoring.SCORE_BATCH_SIZE = scoring.GENERATE_BATCH_SIZE = 10
leave_ranks, distributed.leave_ranks = distributed.leave_ranks, lambda: None
for mode in ("score", "generate"):
    try:
        evaluate.main([*sys.argv[2:], "--mode", mode, "--output-dir", sys.argv[1] + mode])
    except SystemExit as ended:  # of all but the first process
        assert (distributed.get_rank()[0], ended.code) == (1, 0)
    distributed.wait_for_ranks()
    distributed.join_ranks = lambda: None
leave_ranks()
"""


def test_two_processes_evaluate_as_one(one_process, small_data, tmp_path, monkeypatch, one_thread):
    """24 rows in batches of 10, so that the first process has two of three and the second one.

    torchrun gives each process one thread, and two threads round otherwise than one.
    """
    words = ["--adapter", str(one_process), "--data-dir", small_data, "--robustness-rows", "3"]
    for name in ("SCORE_BATCH_SIZE", "GENERATE_BATCH_SIZE"):
        monkeypatch.setattr(scoring, name, 10)
    done = run_worker(tmp_path, EVALUATION, str(tmp_path / "two-"), *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote texts/evaluation.jsonl") == 2
    for mode, count in (("score", 3), ("generate", 1)):
        one, two = tmp_path / f"one-{mode}", tmp_path / f"two-{mode}"
        evaluate.main([*words, "--mode", mode, "--output-dir", str(one)])
        names = [f"texts/{path.name}" for path in (one / "texts").glob("*.jsonl")]
        assert len(names) == count
        for name in names:
            assert (two / name).read_bytes() == (one / name).read_bytes()
        runs = [files.read_json(folder / "evaluation.json", "") for folder in (one, two)]
        assert [(run["processes"], run["batch_size"]) for run in runs] == [(1, 10), (2, 10)]


def test_torchrun_is_for_answering(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(["--predictions", "evaluation.jsonl"])
    assert stopped.value.code == 2 and "start evaluate.py with python" in capsys.readouterr().err
