"""House rules of the scripts: one home a constant, a default is its constant, imports do nothing, commands parse.

Most is read from the sources by ast. One subprocess imports every script and parses every command that the README, the
Makefile and the docstrings show: torch and transformers take seconds to import.
"""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TREES = {path.stem: ast.parse(path.read_text(encoding="utf-8"), path.name) for path in sorted(ROOT.glob("*.py"))}
MAIN_LINES, FILE_LINES, LINE_LENGTH = 45, 250, 120

Flag = namedtuple("Flag", "text dest options")  # options: {keyword: node} of add_argument


def find_function(name, function):
    """The node of a function at the top level of a file, or None."""
    found = [node for node in TREES[name].body if isinstance(node, ast.FunctionDef) and node.name == function]
    return found[0] if found else None


SCRIPTS = [name for name in TREES if find_function(name, "parse_args")]
MODULES = [name for name in TREES if name not in SCRIPTS]


def find_constants(name):
    """UPPERCASE names that a file assigns outside functions and classes."""
    constants, nodes = set(), list(TREES[name].body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id.isupper():
            constants.add(node.id)
        nodes += ast.iter_child_nodes(node)
    return constants


def find_imports(name):
    """The modules that a file imports anywhere in it, its own project's and others'."""
    imported = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    return imported


def find_calls(node, name):
    """Calls of a function or method of this name."""
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
    return [call for call in calls if name in (getattr(call.func, "attr", None), getattr(call.func, "id", None))]


def find_flags(name):
    """The flags of a script, in order."""
    flags = []
    for call in find_calls(find_function(name, "parse_args"), "add_argument"):
        texts = [argument.value for argument in call.args]
        text = max((text for text in texts if text.startswith("--")), default=None)
        if text:
            flags.append(Flag(text, text[2:].replace("-", "_"), {word.arg: word.value for word in call.keywords}))
    return flags


def find_home(name, constant):
    """How a script has to write a constant of its own or of a module that it imports; None if there is none."""
    if constant in find_constants(name):
        return constant
    homes = [module for module in sorted(find_imports(name) & set(TREES)) if constant in find_constants(module)]
    return f"{homes[0]}.{constant}" if homes else None


def find_reads(node, constant, home):
    """Lines that read a constant: by its bare name, or as home.CONSTANT."""
    return [
        part.lineno
        for part in ast.walk(node)
        if (isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id == constant and not home)
        or (isinstance(part, ast.Attribute) and home and ast.unparse(part) == f"{home}.{constant}")
    ]


def find_flagged():
    """(script, home as written, constant) of every flag whose default is the constant of its name."""
    pairs = [(name, find_home(name, flag.dest.upper()), flag) for name in SCRIPTS for flag in find_flags(name)]
    return [
        (name, home.rpartition(".")[0], flag.dest.upper())
        for name, home, flag in pairs
        if home and "default" in flag.options and ast.unparse(flag.options["default"]) == home
    ]


# ---------------------------------------------------------------- commands shown to users


def read_commands(text, program=r"python3?"):
    """(script, arguments) of each line `python X.py ...` of a text; a backslash continues a line."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        shown = re.match(rf"\s*(?:\$ )?(?:[A-Z_]+=\S* )*{program} (\S+)\.py\b(.*)", line)
        if shown:
            commands.append((shown[1], shlex.split(shown[2], comments=True)))
    return commands


def read_fenced(text):
    """The lines inside the fenced blocks of a Markdown text."""
    inside, lines = None, []
    for line in text.splitlines():
        fence = re.match(r"\s*(`{3,}|~{3,})", line)
        if inside is None and fence:
            inside = fence[1]
        elif inside and fence and fence[1].startswith(inside) and line.strip() == fence[1]:
            inside = None
        elif inside:
            lines.append(line)
    return "\n".join(lines)


def read_makefile(text):
    """The text of a Makefile with its plain variables filled in."""
    values = dict(re.findall(r"^([A-Z_]+) *[:?]?= *(.*)$", text, re.MULTILINE))
    while (filled := re.sub(r"\$\(([A-Z_]+)\)", lambda found: values.get(found[1], ""), text)) != text:
        text = filled
    return text


def collect_commands():
    """{place: commands} of everything that a user may copy."""
    shown = {f"{name}.py": read_commands(ast.get_docstring(TREES[name])) for name in SCRIPTS}
    readme, makefile = ROOT / "README.md", ROOT / "Makefile"
    if readme.exists():
        shown["README.md"] = read_commands(read_fenced(readme.read_text(encoding="utf-8")))
    if makefile.exists():
        shown["Makefile"] = read_commands(read_makefile(makefile.read_text(encoding="utf-8")), r"\S*python")
    return shown


# Runs in an empty folder, with odd words in argv, no GPU to be seen and no network to be had.
WORKER = """
import contextlib, importlib, io, json, os, socket, sys

root, jobs, results, touched = sys.argv[1], json.load(open(sys.argv[2])), {}, []
sys.path.insert(0, root)

def refuse(*words, **more):
    touched.append("network")
    raise OSError("no network in this test")

socket.socket.connect = socket.getaddrinfo = refuse

def attempt(action, *words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            action(*words)
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        except BaseException as problem:
            code, _ = repr(problem), out.write(repr(problem))
    return [code, out.getvalue()]

for name in sys.argv[3:]:  # what libraries print or look up on import is not ours
    attempt(importlib.import_module, name)
sys.argv = ["odd", "--no-such-flag", "=", "-h", "--help"]
for name, lines in jobs.items():
    touched.clear()
    sys.modules.pop(name, None)
    result = {"import": attempt(importlib.import_module, name), "touched": touched + os.listdir()}
    torch = sys.modules.get("torch")
    result["gpu"] = bool(torch and torch.cuda.is_initialized())
    if result["import"][0] == 0:
        result["parsed"] = [attempt(sys.modules[name].parse_args, line) for line in lines]
    results[name] = result
json.dump(results, open(os.path.join(os.path.dirname(os.getcwd()), "results.json"), "w"))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What importing each script and parsing --help and the commands came to."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "empty").mkdir()
    jobs = {name: [["--help"]] for name in SCRIPTS}
    for commands in collect_commands().values():
        for name, line in commands:
            if name in jobs:
                jobs[name].append(line)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    # A narrow terminal would break long flags in --help over lines.
    settings = {"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120", "HF_HUB_OFFLINE": "1"}
    libraries = sorted({module for name in TREES for module in find_imports(name)} - set(TREES))
    worker = [sys.executable, "-B", "-c", WORKER, str(ROOT), str(folder / "jobs.json"), *libraries]
    done = subprocess.run(
        worker, cwd=folder / "empty", env={**os.environ, **settings}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "results.json").read_text())
    for name, result in results.items():
        lines = result.pop("parsed", [])
        result["parsed"] = {json.dumps(line): report for line, report in zip(jobs[name], lines)}
    return results


def check_parsed(outcome, commands):
    """Every command parses without a word of complaint."""
    for name, line in commands:
        assert name in SCRIPTS, f"{name}.py is no script of this project"
        code, text = outcome[name]["parsed"].get(json.dumps(line), ["not imported", ""])
        assert code == 0, f"{name}.py {shlex.join(line)}: {text}"


# ---------------------------------------------------------------- constants and flags


def test_the_scripts_are_found():
    assert {"prepare_data", "finetune", "evaluate"} <= set(SCRIPTS)
    assert {"prompts", "metrics", "records", "corpus", "modeling"} <= set(MODULES)
    assert "EPOCHS" in find_constants("finetune") and "ANSWER_SLOT" in find_constants("prompts")


@pytest.mark.parametrize("name", TREES)
def test_a_constant_has_one_home(name):
    shared = {other: find_constants(name) & find_constants(other) for other in TREES if other != name}
    assert {f"{other}.py": sorted(constants) for other, constants in shared.items() if constants} == {}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_default_is_the_constant_of_the_same_name(name):
    flags = find_flags(name)
    assert flags
    for flag in flags:
        home, default = find_home(name, flag.dest.upper()), flag.options.get("default")
        if default is None:  # worked out from other flags: the help then says how
            explained = "default:" in ast.unparse(flag.options.get("help", ast.Constant("")))
            assert home is None or explained, f"{flag.text} has no default, though there is {home}"
        else:
            assert home is None or ast.unparse(default) == home, f"the default of {flag.text} is not {home}"
            assert not isinstance(default, ast.Constant), f"the default of {flag.text} is no constant of the script"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_constant_with_a_flag_is_read_by_parse_args_alone(name):
    rest = ast.Module([node for node in TREES[name].body if node is not find_function(name, "parse_args")], [])
    for script, home, constant in find_flagged():
        if script == name:
            assert find_reads(rest, constant, home) == [], f"{name}.py reads {constant}: its flag would have no effect"


@pytest.mark.parametrize("name", MODULES)
def test_no_module_reads_a_constant_with_a_flag(name):
    for script, home, constant in find_flagged():
        if home:  # a script's own constant cannot be read from a module
            lines = find_reads(TREES[name], constant, "" if home == name else home)
            assert lines == [], f"{name}.py reads {constant}: the flag of {script}.py would have no effect"


@pytest.mark.parametrize("name", SCRIPTS)
def test_parsers_take_whole_flags_and_no_bool(name):
    parsers = find_calls(TREES[name], "ArgumentParser")
    assert parsers
    for parser in parsers:
        options = {word.arg: ast.unparse(word.value) for word in parser.keywords}
        assert options.get("allow_abbrev") == "False"
    for flag in find_flags(name):  # bool("False") is True
        assert "type" not in flag.options or ast.unparse(flag.options["type"]) != "bool", flag.text


@pytest.mark.parametrize("name", TREES)
def test_nothing_imports_a_script(name):
    assert find_imports(name) & set(SCRIPTS) == set()


@pytest.mark.parametrize("name", TREES)
def test_constants_are_read_through_their_module(name):
    named = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom) and node.module in TREES]
    assert [alias.name for node in named for alias in node.names if alias.name.isupper()] == []


@pytest.mark.parametrize("name", MODULES)
def test_modules_read_no_command_line(name):
    assert find_calls(TREES[name], "ArgumentParser") == []
    assert find_reads(TREES[name], "argv", "sys") == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_main_reads_as_a_recipe(name):
    main = find_function(name, "main")
    assert main.end_lineno - main.lineno + 1 <= MAIN_LINES
    assert ast.unparse(main.args) == "argv=None"


@pytest.mark.parametrize("name", TREES)
def test_a_file_is_short(name):
    assert len((ROOT / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= FILE_LINES


def test_lines_are_short():
    files = [*ROOT.glob("*.py"), *ROOT.glob("tests/*.py"), *ROOT.glob("benchmarks/*.py")]
    numbered = [(path, *line) for path in files for line in enumerate(path.read_text("utf-8").splitlines(), start=1)]
    long = [f"{path.relative_to(ROOT)}:{number}" for path, number, line in numbered if len(line) > LINE_LENGTH]
    assert numbered and sorted(long) == []


# ---------------------------------------------------------------- imports and commands


@pytest.mark.parametrize("name", SCRIPTS)
def test_importing_a_script_does_nothing(outcome, name):
    code, text = outcome[name]["import"]
    assert code == 0, text
    assert text == ""
    assert outcome[name]["touched"] == [] and outcome[name]["gpu"] is False


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_every_flag(outcome, name):
    code, text = outcome[name]["parsed"].get(json.dumps(["--help"]), ["not imported", ""])
    assert code == 0, text
    assert ast.get_docstring(TREES[name]).splitlines()[0] in text
    assert "option_strings" not in text, "a help text holds a bare %: write %%"
    for flag in find_flags(name):
        assert re.search(rf"^  (-\w, )?{flag.text}\b", text, re.MULTILINE), f"{flag.text} is not in --help"
        assert "help" in flag.options, f"{flag.text} is not explained"


@pytest.mark.parametrize("name", SCRIPTS)
def test_docstring_commands_parse(outcome, name):
    commands = collect_commands()[f"{name}.py"]
    assert len(commands) >= 2 and {script for script, _ in commands} == {name}
    check_parsed(outcome, commands)


def test_readme_commands_parse(outcome):
    if not (ROOT / "README.md").exists():
        pytest.skip("README.md does not exist yet")
    commands = collect_commands()["README.md"]
    assert commands
    check_parsed(outcome, commands)


def test_makefile_commands_parse(outcome):
    if not (ROOT / "Makefile").exists():
        pytest.skip("Makefile does not exist yet")
    commands = collect_commands()["Makefile"]
    assert commands
    check_parsed(outcome, commands)


def test_commands_are_read_as_a_shell_would():
    text = 'CUDA_VISIBLE_DEVICES=1 python a.py --x "two words"  # why\n$ python3 b.py \\\n    --y 1\npip install c\n'
    assert read_commands(text) == [("a", ["--x", "two words"]), ("b", ["--y", "1"])]
    assert read_fenced("python no.py\n```bash\npython a.py\n```\n~~~~\n~~~\npython b.py\n~~~~\nend\n") == (
        "python a.py\n~~~\npython b.py"
    )
    assert read_makefile("VENV := .venv\nRUN := $(VENV)/bin/python\nrun:\n\t$(RUN) a.py $@\n").endswith(
        "\t.venv/bin/python a.py $@\n"
    )
