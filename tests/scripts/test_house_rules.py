"""House rules: rooms import only what stands before them, a default is its constant, imports do nothing, commands parse.

Most is read from the sources by ast. One subprocess imports every script and parses every command that README, docs,
Makefile and docstrings show: torch and transformers take seconds to import.
"""

import ast
import functools
import json
import os
import re
import shlex
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATHS = [*ROOT.glob("*.py"), *ROOT.glob("stance/**/*.py"), *ROOT.glob("tools/*.py")]
TREES = {  # of every module but the empty __init__.py, by its dotted name
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(
        path.read_text(encoding="utf-8"), path.name
    )
    for path in sorted(PATHS)
    if path.name != "__init__.py"
}
FLOORS = (  # a room may import from floors below its own; modules of one room may import each other
    ("stance.common", "stance.tree", "prompts"),
    ("stance.corpus",),
    ("stance.model",),
    ("stance.training", "stance.evaluation"),
    ("stance.labelling",),
    ("scripts", "tools"),
)
READ_SETTINGS = {"tools.study": {"finetune"}}  # which a study compares its runs with
WITHOUT_TORCH = ("stance.corpus",)  # rooms; nor may what they import from this project

Flag = namedtuple("Flag", "text dest options")  # options: {keyword: node} of add_argument


def find_function(name, function):
    """The node of a function at the top level of a file, or None."""
    found = [
        node
        for node in TREES[name].body
        if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    return found[0] if found else None


SCRIPTS = [name for name in TREES if find_function(name, "parse_args")]
MODULES = [name for name in TREES if name not in SCRIPTS]


@functools.cache
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


def read_constant(name, constant):
    """The value that a file gives a constant."""
    assigned = [node for node in TREES[name].body if isinstance(node, ast.Assign)]
    [value] = [node.value for node in assigned if ast.unparse(node.targets[0]) == constant]
    return ast.literal_eval(value)


@functools.cache
def find_imports(name):
    """The modules that a file imports anywhere in it, its own project's and others'."""
    imported = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("stance", "tools"):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    return imported


def find_room(name):
    """The room of a module: scripts, prompts, tools, or a folder of stance."""
    if name.startswith("stance."):
        return name.rpartition(".")[0]
    return "tools" if name.startswith("tools.") else "scripts" if name in SCRIPTS else name


def find_floor(name):
    """The floor of a module's room: 0 for the lowest."""
    return next(floor for floor, rooms in enumerate(FLOORS) if find_room(name) in rooms)


def find_calls(node, name):
    """Calls of a function or method of this name."""
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
    return [
        call
        for call in calls
        if name in (getattr(call.func, "attr", None), getattr(call.func, "id", None))
    ]


def find_flags(name):
    """The flags of a script, in order."""
    flags = []
    for call in find_calls(find_function(name, "parse_args"), "add_argument"):
        texts = [argument.value for argument in call.args]
        text = max((text for text in texts if text.startswith("--")), default=None)
        if text:
            flags.append(
                Flag(
                    text,
                    text[2:].replace("-", "_"),
                    {word.arg: word.value for word in call.keywords},
                )
            )
    return flags


def find_home(name, constant):
    """How a script has to write a constant of its own or of a module that it imports; None if there is none."""
    if constant in find_constants(name):
        return constant
    homes = [
        module
        for module in sorted(find_imports(name) & set(TREES))
        if constant in find_constants(module)
    ]
    return f"{homes[0].rpartition('.')[2]}.{constant}" if homes else None


def find_reads(node, constant, home):
    """Lines that read a constant: by its bare name, or as home.CONSTANT."""
    return [
        part.lineno
        for part in ast.walk(node)
        if (
            isinstance(part, ast.Name)
            and isinstance(part.ctx, ast.Load)
            and part.id == constant
            and not home
        )
        or (isinstance(part, ast.Attribute) and home and ast.unparse(part) == f"{home}.{constant}")
    ]


@functools.cache
def find_flagged():
    """(script, home as written, constant) of every flag whose default is the constant of its name."""
    pairs = [
        (name, find_home(name, flag.dest.upper()), flag)
        for name in SCRIPTS
        for flag in find_flags(name)
    ]
    return [
        (name, home.rpartition(".")[0], flag.dest.upper())
        for name, home, flag in pairs
        if home and "default" in flag.options and ast.unparse(flag.options["default"]) == home
    ]


# ---------------------------------------------------------------- commands shown to users


LAUNCHERS = r"(?:python3?|torchrun --nproc-per-node \d+|accelerate launch(?: --\w+(?: [\w./]+)?)*?)"


def read_commands(text, program=LAUNCHERS):
    """(script, arguments) of each line `python X.py ...` or `python -m X ...` of a text; a backslash continues it."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        before = rf"\s*(?:\$ |cat \S+ \| )?(?:[A-Z_]+=\S* )*{program} "
        shown = re.match(rf"{before}(\w+)\.py\b(.*)", line) or re.match(
            rf"{before}-m (tools\.\w+)(.*)", line
        )
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
    while (
        filled := re.sub(r"\$\(([A-Z_]+)\)", lambda found: values.get(found[1], ""), text)
    ) != text:
        text = filled
    return text


def collect_commands():
    """{place: commands} of everything that a user may copy."""
    shown = {name: read_commands(ast.get_docstring(TREES[name])) for name in SCRIPTS}
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        shown[page.name] = read_commands(read_fenced(page.read_text(encoding="utf-8")))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown["Makefile"] = read_commands(read_makefile(makefile), r"\S*python")
    return shown


# Runs in an empty folder, with odd words in argv, no GPU to be seen and no network to be had.
WORKER = """
import contextlib, gc, importlib, io, json, os, socket, sys

gc.disable()  # while libraries load, as in the scripts: stance/common/startup.py
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
        worker,
        cwd=folder / "empty",
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=300,
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
        assert name in SCRIPTS, f"{name} is no script of this project"
        code, text = outcome[name]["parsed"].get(json.dumps(line), ["not imported", ""])
        assert code == 0, f"{name} {shlex.join(line)}: {text}"


# ---------------------------------------------------------------- constants and flags


def test_the_scripts_are_found():
    assert set(SCRIPTS) == {
        "prepare_data", "finetune", "evaluate", "predict", "tools.study", "tools.export", "tools.check_export",
        "tools.demo_model", "tools.shares", "tools.sample", "tools.regression",
        "tools.label_errors", "tools.packet", "tools.sensitivity",
    }  # fmt: skip
    assert {"prompts", "stance.common.files", "stance.model.loading"} <= set(MODULES)
    assert {find_room(name) for name in TREES} == {room for rooms in FLOORS for room in rooms}
    assert "EPOCHS" in find_constants("finetune") and "REPLY_WORDS" in find_constants("prompts")


@pytest.mark.parametrize("name", TREES)
def test_a_module_imports_only_from_rooms_below_its_own(name):
    for other in find_imports(name) & set(TREES) - READ_SETTINGS.get(name, set()):
        below, same = find_floor(other) < find_floor(name), find_room(other) == find_room(name)
        assert below or same, f"{name} imports {other}"


def test_no_imports_run_in_a_circle():
    rest = {name: find_imports(name) & set(TREES) for name in TREES}
    while free := [name for name, needed in rest.items() if not needed & set(rest)]:
        for name in free:
            del rest[name]
    assert rest == {}


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_rooms_that_need_no_torch_import_none(room):
    """Neither by way of another room: reading a corpus and its tables starts within a second."""
    waiting = [name for name in TREES if find_room(name) == room]
    reached = set()
    while waiting:
        name = waiting.pop()
        assert not find_imports(name) & {"torch", "transformers", "peft"}, f"{room} reaches {name}"
        reached.add(name)
        waiting += (find_imports(name) & set(TREES)) - reached


@pytest.mark.parametrize("name", TREES)
def test_a_constant_is_assigned_once_below_the_scripts(name):
    modules = [other for other in MODULES if other != name]
    shared = {
        other: find_constants(name) & find_constants(other) for other in modules if name in MODULES
    }
    assert {other: sorted(constants) for other, constants in shared.items() if constants} == {}


def test_a_function_name_has_one_meaning():
    homes = {}
    for name in [*MODULES, *SCRIPTS]:
        for node in TREES[name].body:
            if isinstance(node, ast.FunctionDef) and node.name not in ("main", "parse_args", "_"):
                homes.setdefault(node.name, set()).add(name)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


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
            assert home is None or ast.unparse(default) == home, (
                f"the default of {flag.text} is not {home}"
            )
            assert not isinstance(default, ast.Constant), (
                f"the default of {flag.text} is no constant of the script"
            )


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_constant_with_a_flag_is_read_by_parse_args_alone(name):
    rest = ast.Module(
        [node for node in TREES[name].body if node is not find_function(name, "parse_args")], []
    )
    for script, home, constant in find_flagged():
        if script == name:
            assert find_reads(rest, constant, home) == [], (
                f"{name}.py reads {constant}: its flag would have no effect"
            )


@pytest.mark.parametrize("name", MODULES)
def test_no_module_reads_a_constant_with_a_flag(name):
    for script, home, constant in find_flagged():
        if home:  # a script's own constant cannot be read from a module
            lines = find_reads(
                TREES[name], constant, "" if home == name.rpartition(".")[2] else home
            )
            assert lines == [], (
                f"{name}.py reads {constant}: the flag of {script}.py would have no effect"
            )


@pytest.mark.parametrize("name", SCRIPTS)
def test_parsers_take_whole_flags_and_no_bool(name):
    [parser] = find_calls(TREES[name], "FlagParser")  # flags are not shortened there, nor repeated
    assert [ast.unparse(word) for word in parser.args] == ["__doc__"]
    for flag in find_flags(name):  # bool("False") is True
        assert "type" not in flag.options or ast.unparse(flag.options["type"]) != "bool", flag.text


@pytest.mark.parametrize("name", TREES)
def test_nothing_imports_a_script(name):
    assert find_imports(name) & set(SCRIPTS) == READ_SETTINGS.get(name, set())


@pytest.mark.parametrize("name", TREES)
def test_constants_are_read_through_their_module(name):
    named = [
        node
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.ImportFrom) and node.module in TREES
    ]
    assert [alias.name for node in named for alias in node.names if alias.name.isupper()] == []


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"stance.common.flags"}))
def test_modules_read_no_command_line(name):
    assert find_calls(TREES[name], "ArgumentParser") == []
    assert find_reads(TREES[name], "argv", "sys") == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_main_takes_the_words_of_a_command(name):
    arguments = find_function(name, "main").args
    assert ast.unparse(arguments) == "argv: list[str] | None=None"


# ---------------------------------------------------------------- imports and commands


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_importing_a_script_does_nothing(outcome, name):
    code, text = outcome[name]["import"]
    assert code == 0, text
    assert text == ""
    assert outcome[name]["touched"] == [] and outcome[name]["gpu"] is False


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_every_flag(outcome, name):
    code, text = outcome[name]["parsed"].get(json.dumps(["--help"]), ["not imported", ""])
    assert code == 0, text
    assert ast.get_docstring(TREES[name]).splitlines()[0] in text
    assert "option_strings" not in text, "a help text holds a bare %: write %%"
    for flag in find_flags(name):
        assert re.search(rf"^  (-\w, )?{flag.text}\b", text, re.MULTILINE), (
            f"{flag.text} is not in --help"
        )
        assert "help" in flag.options, f"{flag.text} is not explained"


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_docstring_commands_parse(outcome, name):
    commands = collect_commands()[name]
    assert len(commands) >= 2 and {script for script, _ in commands} == {name}
    check_parsed(outcome, commands)


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(path.name for path in ROOT.glob("docs/*.md"))]
)
def test_commands_of_the_docs_parse(outcome, page):
    check_parsed(outcome, collect_commands()[page])


@pytest.mark.parametrize("constant", ["BASE_MODEL", "DATA_DIR", "ADAPTER", "CORPUS"])
def test_scripts_agree_on_a_constant_that_several_of_them_have(constant):
    values = {
        name: read_constant(name, constant) for name in SCRIPTS if constant in find_constants(name)
    }
    assert len(values) >= 2 and len(set(values.values())) == 1, values


def test_the_adapter_is_looked_for_where_training_leaves_it():
    for name in ("evaluate", "predict", "tools.export"):
        assert read_constant(name, "ADAPTER") == read_constant("finetune", "RUN_DIR")


def test_docs_show_commands(outcome):
    assert len(collect_commands()["README.md"]) > 5


def test_makefile_commands_parse(outcome):
    commands = collect_commands()["Makefile"]
    assert commands
    check_parsed(outcome, commands)


def test_the_demo_without_make_is_that_of_the_makefile():
    """For Windows: the page has the same commands, with the same values."""
    commands = collect_commands()
    demo = commands["install.md"]
    assert len(demo) == 5 and demo[-1][0] == "predict"
    assert demo == commands["Makefile"][: len(demo)]


def test_commands_are_read_as_a_shell_would():
    text = 'CUDA_VISIBLE_DEVICES=1 python a.py --x "two words"  # why\n$ python3 b.py \\\n    --y 1\npip install c\n'
    assert read_commands(text) == [("a", ["--x", "two words"]), ("b", ["--y", "1"])]
    assert read_fenced(
        "python no.py\n```bash\npython a.py\n```\n~~~~\n~~~\npython b.py\n~~~~\nend\n"
    ) == ("python a.py\n~~~\npython b.py")
    assert read_makefile(
        "VENV := .venv\nRUN := $(VENV)/bin/python\nrun:\n\t$(RUN) a.py $@\n"
    ).endswith("\t.venv/bin/python a.py $@\n")
