"""Runs a script on a disk that is really full: a small tmpfs, in a mount namespace of its own.

    unshare -rm python tests/full_disk_trial.py

Reads from stdin a JSON object: script (a module's name), words (of its command line), folder (where the tmpfs is
mounted), stdin (a file), stub (whether predict.py's model is replaced), sizes (of the tmpfs, in KiB), before (files
{name: content} that are on it before) and constants ({module.NAME: value}). Prints a JSON list of what came out of each size.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def replace_model(predict):
    """Let predict.py answer without a model: a pair's probabilities are numbers made from its key."""
    import torch

    from stance.labelling import labeller
    from stance.model import scoring

    def score(pairs, batch_size=None, bar=None):
        keys = [labeller.make_key(*pair) for pair in pairs]
        weights = torch.tensor([[1.0 + key[0], 1.0 + key[1], 1.0 + key[2]] for key in keys])
        return scoring.Scores(weights / weights.sum(1, keepdim=True), None, None, 128)

    predict.load_scorer = lambda *words: score


def run_forked(task, main, log):
    """Run a script in a forked process, which ends as any does; return its exit code."""
    child = os.fork()
    if child == 0:
        from stance.common import errors

        sys.argv = [task["script"], *task["words"]]
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(task.get("stdin") or os.devnull, os.O_RDONLY), 0)
        errors.run_script(main)
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    task = json.load(sys.stdin)
    os.environ["TMPDIR"] = task.get("tmpdir", "/tmp")
    log = f"{tempfile.mkdtemp(dir='/tmp')}/log"
    module = importlib.import_module(task["script"])
    if task.get("stub"):
        replace_model(module)
    for name, value in task.get("constants", {}).items():
        owner, _, constant = name.rpartition(".")
        setattr(importlib.import_module(owner), constant, value)
    folder = Path(task["folder"])
    results = []
    for size in task["sizes"]:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
        subprocess.run(mount, check=True)
        for name, content in task.get("before", {}).items():
            (folder / name).write_text(content)
        before = {path.name for path in folder.rglob("*")}
        code = run_forked(task, module.main, log)
        files = {}
        for path in folder.rglob("*"):
            if path.is_file() and path.name not in before:
                files[path.name] = path.stat().st_size
        result = {"size": size, "code": code, "files": files}
        for name in ("out", "err"):
            result[name] = Path(f"{log}.{name}").read_text()
        results.append(result)
        subprocess.run(["umount", str(folder)], check=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
