"""Whatever becomes of who reads what a script prints, it does its work and says how that ended."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from stance.common import streams

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from pathlib import Path
from stance.common import errors

def main():
    for number in range(20_000):
        print("line", number, "ÄÖ 👍")
    print("note", file=sys.stderr)
    Path(sys.argv[1]).write_text("whole")

errors.run_script(main)
"""
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def run(tmp_path, shell, variables=(), script=SCRIPT):
    """Run the script in a shell line with {python}; return what came out, as bytes."""
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    line = shell.replace("PYTHON", f"{sys.executable} {{}}script.py {tmp_path}/result")
    line = line.replace("{}", f"{tmp_path}/")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **dict(variables)}
    ended = subprocess.run(["bash", "-c", line], env=environment, capture_output=True)
    assert b"Traceback" not in ended.stderr and b"Exception ignored" not in ended.stderr
    return ended


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nobody_reads_on(tmp_path, unbuffered):
    ended = run(
        tmp_path, "PYTHON | head -1; exit ${PIPESTATUS[0]}", {"PYTHONUNBUFFERED": unbuffered}
    )
    assert ended.returncode == 141 and ended.stderr == b"note\n"
    assert ended.stdout.splitlines() == ["line 0 ÄÖ 👍".encode()]
    assert (tmp_path / "result").read_text() == "whole"


@needs_full
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_log_without_room(tmp_path, unbuffered):
    ended = run(tmp_path, "PYTHON > /dev/full", {"PYTHONUNBUFFERED": unbuffered})
    note, line = ended.stderr.decode().splitlines()
    assert ended.returncode == 2 and note == "note"
    assert line.startswith("error: what is printed is not whole") and "written" in line
    assert (tmp_path / "result").read_text() == "whole"


@needs_full
def test_errors_that_cannot_be_printed_keep_their_code(tmp_path):
    script = "from stance.common import errors\nerrors.run_script(lambda: errors.fail('no'))"
    for end in ("2> /dev/full", "2>&-", "2>&- >&-", "> /dev/full 2> /dev/full", "2> >(exit)"):
        assert run(tmp_path, f"PYTHON {end}", script=script).returncode == 2


@pytest.mark.parametrize("end", [">&-", ">&- 2>&-", ">&- 2>&- <&-"])
def test_closed_streams(tmp_path, end):
    assert run(tmp_path, f"PYTHON {end}").returncode == 0
    assert (tmp_path / "result").read_text() == "whole"


@pytest.mark.parametrize(
    "encoding, line",
    [("ascii", rb"line 0 \xc4\xd6 \U0001f44d"), ("latin-1", b"line 0 \xc4\xd6 \\U0001f44d")],
)
def test_characters_that_cannot_be_shown_are_escaped(tmp_path, encoding, line):
    ended = run(tmp_path, "PYTHON", {"PYTHONIOENCODING": encoding})
    assert ended.returncode == 0 and ended.stdout.splitlines()[0] == line


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_the_c_locale(tmp_path, locale):
    variables = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = run(tmp_path, "PYTHON", variables)
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[0] == rb"line 0 \xc4\xd6 \U0001f44d"


def test_what_libraries_log_is_plain_too(tmp_path):
    """Such as names of tensors; the handler was made before the script ran."""
    script = (
        "import logging, sys\n"
        "logging.getLogger('library.part')\n"
        "logging.getLogger('library').addHandler(logging.StreamHandler())\n"
        "logging.getLogger('other').addHandler(logging.StreamHandler(sys.stdout))\n"
        "from stance.common import errors\n"
        "def main():\n"
        "    logging.getLogger('library.part').error('a\\x1b]0;title\\x07\\u202eb')\n"
        "    logging.getLogger('other').error('c\\x1b[2J')\n"
        "errors.run_script(main)"
    )
    ended = run(tmp_path, "PYTHON", script=script)
    assert ended.stderr == b"a\\x1b]0;title\\x07\\u202eb\n"
    assert ended.stdout == b"c\\x1b[2J\n"


def test_a_terminal_stays_a_terminal(tmp_path):
    script = (
        "import sys\nfrom stance.common import errors\n"
        "errors.run_script(lambda: print(sys.stdout.isatty(), sys.stderr.isatty(), sys.stdout.fileno()))"
    )
    (tmp_path / "script.py").write_text(script)
    leader, follower = pty.openpty()
    command = [sys.executable, str(tmp_path / "script.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, stdout=follower, stderr=follower, env=environment, check=True)
    assert os.read(leader, 100).split() == [b"True", b"True", b"1"]


@pytest.mark.slow
@pytest.mark.parametrize("end, code", [("| head -1", 141), ("> /dev/full", 2), (">&- 2>&- <&-", 0)])
def test_splits_are_written_whoever_reads(tmp_path, end, code):
    line = f"{sys.executable} prepare_data.py --output-dir {tmp_path} {end}"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == code and ended.stderr.count("\n") == (code == 2)
    assert len(list(tmp_path.glob("*.json*"))) == 4


def test_what_libraries_print_past_python_is_spelled_out_in_its_place(capfd):
    print("before")
    with streams.spell_native_output():
        os.write(1, b"key \x1b[31m\x07\n")
    os.write(1, b"after\n")
    assert capfd.readouterr().out.splitlines() == [
        "before",
        "key \\x1b[31m\\x07",
        "after",
    ]


def test_it_is_printed_also_if_loading_fails(capfd):
    with pytest.raises(ValueError), streams.spell_native_output():
        os.write(1, b"\x1b]0;title\n")
        raise ValueError
    assert capfd.readouterr().out == "\\x1b]0;title\n"


def test_a_process_without_stdout_holds_native_output_back_alike(monkeypatch, capfd):
    """Of the processes of torchrun only the first prints."""
    monkeypatch.setattr(sys, "stdout", None)
    with streams.spell_native_output():
        os.write(1, b"\x1b[31m\n")
    assert capfd.readouterr().out == ""
