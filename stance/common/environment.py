"""What a reader needs to repeat a run: versions, platform, commit, settings."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from types import ModuleType

RECORDED_PACKAGES = (
    "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets",
    "scikit-learn", "numpy", "scipy", "openpyxl", "xlsxwriter",
)  # fmt: skip


def collect_settings(module: ModuleType) -> dict[str, object]:
    """Return the UPPERCASE constants of a script or module, for the run record."""
    return {name: value for name, value in vars(module).items() if name.isupper()}


def describe_environment() -> dict[str, object]:
    """Return versions, platform and git commit: what a reader needs to repeat a run.

    Keys: python, platform, versions (None for a package that is not installed), git (see
    describe_commit). Holds no paths and no environment variables.
    """
    versions = {}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "git": describe_commit(),
    }


def describe_commit() -> dict[str, str | bool] | None:
    """Return {commit, changed}: the checkout's commit and whether tracked files differ from it.

    None outside a git checkout, and where git is not installed.
    """
    root = Path(__file__).resolve().parents[2]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(("git", *words), cwd=root, capture_output=True, text=True)

    try:
        commit = run("rev-parse", "HEAD")
    except FileNotFoundError:  # git is not installed
        return None
    if commit.returncode != 0:
        return None
    status = run("status", "--porcelain", "-uno")
    return {"commit": commit.stdout.strip(), "changed": bool(status.stdout.strip())}
