"""stance/common/startup.py: Ctrl-C while a script loads its libraries ends it in one line, and main gets Python's handler back."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATHS = [*ROOT.glob("*.py"), *ROOT.glob("tools/*.py")]
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for path in PATHS
    if "def parse_args(" in path.read_text(encoding="utf-8")
)
LIBRARIES = (
    "datasets",
    "numpy",
    "openpyxl",
    "peft",
    "sklearn",
    "tokenizers",
    "torch",
    "transformers",
    "bitsandbytes",
)
PRESS = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"


def run_script(script, folder, *paths, action=signal.SIG_DFL):
    """Run a script that finds modules in these folders first; action: what SIGINT does where it is started.

    Those of tools/ are started from the root, as modules.
    """
    tool = Path(script).parent == ROOT / "tools"
    return subprocess.run(
        [sys.executable, *(["-m", f"tools.{script.stem}"] if tool else [str(script)]), "--help"],
        cwd=ROOT if tool else folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, action
        ),  # tests may run in the background, where it is ignored
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_libraries_load_ends_a_script_in_one_line(script, tmp_path):
    """The first library that the script imports presses it."""
    for name in LIBRARIES:
        (tmp_path / f"{name}.py").write_text(PRESS)
    done = run_script(ROOT / script, tmp_path, tmp_path)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "\ninterrupted: nothing was begun; start again\n"


@pytest.fixture
def start(tmp_path):
    """A function that runs a script with this main beside a copy of the common room."""
    shutil.copytree(ROOT / "stance" / "common", tmp_path / "stance" / "common")

    def run(main, **options):
        (tmp_path / "script.py").write_text(
            f"from stance.common import startup\nimport os, signal, time\nfrom stance.common import errors\n{main}"
        )
        return run_script(tmp_path / "script.py", tmp_path, **options)

    return run


MAIN = """
def main():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep({seconds})
    finally:
        print("closed")

errors.run_script(main)
"""


def test_what_is_open_is_closed_on_ctrl_c_after_that(start):
    done = start(MAIN.format(seconds=60))
    assert (done.returncode, done.stdout) == (130, "closed\n")
    assert done.stderr == "\ninterrupted: no file is half written; start again\n"


def test_what_ignores_ctrl_c_goes_on_ignoring_it(start):
    """As in the background of a shell script."""
    done = start(
        "os.kill(os.getpid(), signal.SIGINT)\n" + MAIN.format(seconds=0), action=signal.SIG_IGN
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")


def test_garbage_is_collected_again_once_a_script_runs(start):
    done = start(
        "import gc\nprint(gc.isenabled())\nerrors.run_script(lambda: print(gc.isenabled()))\n"
    )
    assert (done.returncode, done.stdout) == (0, "False\nTrue\n")


def test_an_import_leaves_ctrl_c_to_the_program_that_runs(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import gc, signal\n"
        "from stance.common import startup\n"
        "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, gc.isenabled())\n"
    )
    assert run_script(program, tmp_path, ROOT).stdout == "True True\n"


def test_a_program_from_the_command_line_is_no_script_of_this_project(tmp_path):
    """It has no file, wherever it is started."""
    program = "import sys; sys.path.insert(0, sys.argv[1]); from stance.common import startup; import gc; print(gc.isenabled())"
    command = [sys.executable, "-c", program, str(ROOT)]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n")


def test_a_program_from_standard_input_is_no_script_of_this_project():
    """Python names it <stdin>, which is no file, in the folder where it was started."""
    program = "from stance.common import startup; import gc; print(gc.isenabled())"
    done = subprocess.run(
        [sys.executable, "-"], input=program, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "True\n")


@pytest.mark.slow
def test_no_advice_for_the_authors_of_libraries_is_shown(tmp_path):
    """peft loads bitsandbytes, which asks for a package, before this project's own modules can keep that back."""
    done = run_script(ROOT / "finetune.py", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_threads_sleep_while_they_wait_unless_the_user_chose(start, monkeypatch):
    program = "print(os.environ['OMP_WAIT_POLICY'])"
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert start(program).stdout == "PASSIVE\n"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert start(program).stdout == "ACTIVE\n"
