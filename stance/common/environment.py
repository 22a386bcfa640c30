"""What a reader needs to repeat a run: versions, platform, commit, settings."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

RECORDED_PACKAGES = (
    "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "scikit-learn", "numpy", "scipy",
    "openpyxl", "xlsxwriter",
)  # fmt: skip  # fmt: skip


def collect_settings(module):
    """Return the UPPERCASE constants of a script or module, for the run record."""
    return {name: value for name, value in vars(module).items() if name.isupper()}


def describe_environment():
    """Return versions, platform and git commit: what a reader needs to repeat a run. Holds no paths or variables."""
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


def describe_commit():
    """Return the checkout's commit and whether files differ from it; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]

    def run(*words):
        return subprocess.run(("git", *words), cwd=root, capture_output=True, text=True)

    try:
        commit = run("rev-parse", "HEAD")
    except FileNotFoundError:  # git is not installed
        return None
    if commit.returncode != 0:
        return None
    return {
        "commit": commit.stdout.strip(),
        "changed": bool(run("status", "--porcelain", "-uno").stdout.strip()),
    }
