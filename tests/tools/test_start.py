"""tools/: started by its path, a tool says in one line how to start it; python -m is in tests/common/test_startup.py."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(
    path.stem
    for path in ROOT.glob("tools/*.py")
    if "def parse_args(" in path.read_text(encoding="utf-8")
)


def test_the_tools_are_found():
    assert {"demo_model", "export", "study"} <= set(TOOLS)


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("folder", [ROOT, ROOT / "tools"])
def test_a_tool_that_is_started_by_its_path_says_how_to_start_it(name, folder, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    path = (ROOT / "tools" / f"{name}.py").relative_to(folder)
    done = subprocess.run(
        [sys.executable, str(path), "--help"], cwd=folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: run it as: python -m tools.{name} ...")
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n")
