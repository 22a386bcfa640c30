"""Kill every script at every rename and at random moments, start it again, and compare with a run that was left alone.

Works on a CPU with the tiny model of tests/tiny_model.py. A rename is where a file takes its place; the script is
killed just before it, by SIGKILL. A moment is drawn from the time that the run takes which is left alone. After each
kill, files under their final names must be whole; then the same command is started again (finetune.py with --resume, if
it had begun), and every file must have the bytes of the run that was left alone, times aside. chaos.py writes the record.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import evaluate
import finetune
import predict
import prepare_data
from stance.common import files
from stance.corpus import splitting
from stance.evaluation import figures, uncertainty
from stance.labelling import labeller
from tools import child_runs, export, study

# ---------------------------------------------------------------- settings
MOMENTS = 20  # random ones at which each script is killed
ROWS = 40  # of the training, and of the table that is labelled three times as many
CORPUS_ROWS = 48  # of the study, on two topics
# That make runs short; {module: {constant: value}}.
SHORT = {
    finetune: {"EFFECTIVE_BATCH_SIZE": 8, "MICRO_BATCH_SIZE": 4, "LOG_STEPS": 4},
    study: {"FRACTIONS": (0.5,)},
    export: {"CHECK_ROWS": 4},
    labeller: {"BLOCK_SIZE": 32},
    prepare_data: {"MIN_ROWS": 12},
    uncertainty: {"RESAMPLES": 50},
    figures: {"DPI": 40},
}
# --------------------------------------------------------------------------

SOONER = 0.7  # of the seconds after which a script was done before it was killed
# Keys of JSON files whose values are times, or tell that a run was resumed.
VOLATILE = re.compile(r".*(second|runtime).*|total_flos|train_loss|resume")
# Below an output, what is no result: it may be there or not, and grows line by line.
UNFINISHED = re.compile(r".*\.tmp(/.*)?|.*\.lock|.*\.part-\d+\.jsonl|logs/.*|(.*/)?checkpoints/.*")
GROWING = re.compile(r"(.*/)?log\.jsonl|(.*/)?adapter\.partial/.*")


class Job(NamedTuple):
    """A script to kill."""

    main: Callable[[list[str]], None]
    words: list[str]  # of its command line, without the flag of the output
    flag: str  # of the output
    output: str  # below the folder of a try
    begun: str | None = None  # below the output; once it is there, --resume goes on
    done: str | None = None  # below the output; once it is there, nothing is left to do
    before: Callable[[Path], None] | None = None  # makes what is at the output before


def build_jobs(base: str, data: Path, adapter: Path, table: Path, corpus: Path) -> dict[str, Job]:
    """Return {name of a script: its job}. data: folder of splits; adapter: of a run on them;
    table: to label; corpus: of the study."""
    training = ["--base-model", base, "--learning-rate", "4e-3"]
    on_data = ["--data-dir", str(data)]
    on_adapter = ["--adapter", str(adapter)]

    def prepare_other(output: Path) -> None:
        prepare_data.main(["--corpus", str(corpus), "--output-dir", str(output), "--seed", "1"])

    def label_other(output: Path) -> None:
        output.write_text("an older table")

    return {
        "prepare_data": Job(
            prepare_data.main,
            ["--corpus", str(corpus)],
            "--output-dir",
            "data",
            before=prepare_other,
        ),
        "finetune": Job(
            finetune.main,
            [*training, *on_data, "--epochs", "2"],
            "--run-dir",
            "run",
            begun="plan.json",
            done="run.json",
        ),
        "evaluate": Job(
            evaluate.main,
            [*on_adapter, *on_data, "--robustness-rows", "4"],
            "--output-dir",
            "results",
        ),
        "predict": Job(
            predict.main,
            [*on_adapter, "--input", str(table)],
            "--output",
            "labelled.xlsx",
            before=label_other,
        ),
        "export": Job(
            export.main, [*on_adapter, *on_data], "--output-dir", "merged", done="export.json"
        ),
        "study": Job(
            study.main,
            [*training, "--corpus", str(corpus), "--studies", "curve", "--epochs", "1"],
            "--study-dir",
            "study",
        ),
    }


def call_in_process(script: str, *words: object, log: Path) -> None:
    """Do what child_runs.call_script does, in the same process: its renames are then seen too."""
    mains = {"prepare_data": prepare_data, "finetune": finetune, "evaluate": evaluate}
    mains[Path(script).stem].main(list(map(str, words)))


def start(
    job: Job, folder: Path, words: list[str], rename: int = 0, seconds: float = 0
) -> tuple[int, int, str, float]:
    """Run a job in a process of its own, killed before its n-th rename or after some seconds.

    0: it is left alone. Returns (exit code, or minus the signal that ended it; how many renames it
    had, 0 if it was killed; what it printed; seconds that it took).
    """
    counted, count = os.pipe()
    began = time.monotonic()
    child = os.fork()  # libraries stay loaded, so that a run takes seconds
    if child == 0:
        _run_job(job, folder, words, rename, count)
    os.close(count)
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(counted) as pipe:
        renames = int(pipe.read() or 0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    printed = (folder / "printed.txt").read_text(encoding="utf-8", errors="replace")
    return code, renames, printed, time.monotonic() - began


def _run_job(job: Job, folder: Path, words: list[str], rename: int, count: int) -> NoReturn:
    """Do what the process of start does; count: where it writes how many renames it had."""
    renames = 0
    code = 1

    def note(event: str, details: tuple) -> None:
        nonlocal renames
        if event == "os.rename" and str(details[0]).startswith(f"{folder}/"):
            renames += 1
            if renames == rename:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        os.setsid()
        log = os.open(folder / "printed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        sys.addaudithook(note)
        job.main([*job.words, job.flag, str(folder / job.output), *words])
        code = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        traceback.print_exc()
    finally:  # whatever happened, the child must not go on as its parent
        os.write(count, str(renames).encode())
        os._exit(code)


def read_results(folder: Path, job: Job) -> dict[str, object]:
    """Return {name below the folder: content} of what a job wrote, without times."""
    results = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        below = name.removeprefix(f"{job.output}/")
        if path.is_file() and name != "printed.txt" and not UNFINISHED.fullmatch(below):
            results[name] = read_stable(path)
    return results


def read_stable(path: Path) -> object:
    """Return the content of a file without times; bytes, but of JSON its values."""
    content = path.read_bytes()
    try:
        if path.suffix == ".json":
            return drop_volatile(json.loads(content))
        if path.name == "log.jsonl":
            lines = [json.loads(line) for line in content.splitlines()]
            return [drop_volatile(line) for line in lines if "train_runtime" not in line]
    except ValueError:  # cut off
        pass
    return content


def drop_volatile(value: object) -> object:
    """Return a value of JSON without the keys that tell of times."""
    if isinstance(value, dict):
        return {
            key: drop_volatile(part) for key, part in value.items() if not VOLATILE.fullmatch(key)
        }
    if isinstance(value, list):
        return [drop_volatile(part) for part in value]
    return value


def find_half(folder: Path, job: Job, whole: dict, older: dict) -> list[str]:
    """Return the names of files that a kill has left neither whole nor as they were before."""
    half = []
    for name, content in read_results(folder, job).items():
        if GROWING.fullmatch(name.removeprefix(f"{job.output}/")):
            continue
        if content not in (whole.get(name), older.get(name)):
            half.append(name)
    report = folder / job.output / splitting.REPORT
    if report.is_file():  # with it, splits count: all of one run
        outputs = json.loads(report.read_text(encoding="utf-8"))["outputs"]
        for name, digest in outputs.items():
            if files.hash_file(report.with_name(name)) != digest:
                half.append(f"{name}, of another run than {report.name}")
    return half


def kill_script(job: Job, home: Path, moments: int, rng: random.Random) -> dict:
    """Kill a job at every rename and at random moments; return what came of it, as counts.

    home: an empty folder. All tries have the same path, as records name it.
    """
    folder = home / "try"

    def prepare() -> dict:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if job.before:
            with contextlib.redirect_stdout(None):
                job.before(folder / job.output)
        return read_results(folder, job)

    older = prepare()
    code, renames, printed, seconds = start(job, folder, [])
    if code == 0:  # the first takes longer, as it loads what no other has loaded
        prepare()
        code, renames, printed, seconds = start(job, folder, [])
    whole = read_results(folder, job)
    counts = {"renames": renames, "tries": 0, "kills": 0, "tracebacks": 0, "half": 0, "unequal": 0}
    counts |= {"failed": 0, "temporary_files_left": 0, "problems": []}
    if code:
        counts["failed"] = 1
        counts["problems"].append(printed[-2000:])
        return counts
    plans = [{"rename": number} for number in range(1, renames + 1)]
    plans += [{"seconds": rng.uniform(0.01, seconds)} for _ in range(moments)]
    for plan in plans:
        prepare()
        code, _, printed, _ = start(job, folder, [], **plan)
        while code == 0 and "seconds" in plan:  # it was done before the moment came
            plan["seconds"] *= SOONER
            prepare()
            code, _, printed, _ = start(job, folder, [], **plan)
        counts["tries"] += 1
        counts["kills"] += code == -signal.SIGKILL
        problems = [f"half: {name}" for name in find_half(folder, job, whole, older)]
        counts["half"] += bool(problems)
        if code == -signal.SIGKILL and not is_there(folder, job, job.done):
            words = ["--resume"] if is_there(folder, job, job.begun) else []
            code, _, printed, _ = start(job, folder, words)
            if code:
                counts["failed"] += 1
                problems.append(f"code {code}: {printed[-1000:]}")
        counts["tracebacks"] += "Traceback" in printed
        found = read_results(folder, job)
        differing = [name for name in {**whole, **found} if found.get(name) != whole.get(name)]
        counts["unequal"] += bool(differing)
        problems += [f"unequal: {name}" for name in differing]
        left = [path for path in folder.rglob("*.tmp") if "checkpoints" not in path.parts]
        counts["temporary_files_left"] += len(left)
        if problems:
            counts["problems"].append({**plan, "found": problems})
    return counts


def is_there(folder: Path, job: Job, name: str | None) -> bool:
    """Return whether a file is there below the output of a job; False without a name."""
    return name is not None and (folder / job.output / name).exists()


def kill_scripts(
    jobs: dict[str, Job], home: Path, moments: int, seed: int
) -> dict[str, dict[str, object]]:
    """Return {script: counts of kill_script}; prints a line for each."""
    child_runs.call_script = call_in_process
    for module, constants in SHORT.items():
        for name, value in constants.items():
            setattr(module, name, value)
    counts = {}
    for name, job in jobs.items():
        counts[name] = kill_script(job, home / name, moments, random.Random(seed))
        shown = {key: value for key, value in counts[name].items() if key != "problems"}
        print(f"{name}: {shown}", flush=True)
        for problem in counts[name]["problems"][:5]:
            print(f"  {problem}", flush=True)
    return counts
