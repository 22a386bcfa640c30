"""JSON files of the project read as what they must be: every value has the type that a TypedDict of
stance/common/types.py says, or the script ends in one line.

JSON may hold anything where its writer was another program, or a disk was full: a list for a
number, a number of 5,000 digits, half a character. What passes here is safe to use.
"""

import functools
import math
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stance.common import errors, files, formatting

LARGEST_INTEGER = 2**63 - 1  # what SQLite, numpy and PyTorch can hold
JSON_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}

# What a check returns: None, or (where in the value, what must be there, what is there).
Problem = tuple[str, str, object] | None
Check = Callable[[object], Problem]


def read_typed(path: str | Path, kind: Any, what: str, hint: str) -> Any:
    """Return the one JSON value of a file; fail with the hint unless it is of a kind.

    kind: a TypedDict, or another type that make_check knows; what: the name of the kind.
    """
    value = files.read_json(path, hint)
    problem = describe_problem(value, kind)
    if problem:
        errors.fail(f"{path} is no {what}, {problem}: {hint}")
    return value


def find_typed(path: str | Path, kind: Any) -> Any | None:
    """Return the one JSON value of a file; None if there is no file of that kind."""
    try:
        return decode_typed(Path(path).read_bytes(), kind)
    except OSError:
        return None


def decode_typed(content: bytes, kind: Any) -> Any | None:
    """Return the JSON value that bytes hold; None if they hold none of that kind."""
    try:
        value = files.decode_json(content)
    except (ValueError, RecursionError):
        return None
    return None if describe_problem(value, kind) else value


def iterate_typed(path: str | Path, kind: Any, what: str, hint: str) -> Iterator[tuple[int, Any]]:
    """Yield (line number, object) of a JSON Lines file; fail at a line that is not of a kind."""
    for number, value in files.iterate_numbered_jsonl(path, (), hint):
        problem = describe_problem(value, kind)
        if problem:
            errors.fail(f"{path}, line {number} is no {what}, {problem}: {hint}")
        yield number, value


def describe_problem(value: object, kind: Any) -> str | None:
    """Return in words what keeps a value of JSON from being of a kind; None if nothing does."""
    problem = make_check(kind)(value)
    if problem is None:
        return None
    place, expected, found = problem
    if found is MISSING:
        return f"it lacks {place}"
    named = f"its {place}" if place else "it"
    return f"{named} must be {expected}, not {word_value(found)}"


def word_value(value: object) -> str:
    """Return a value of JSON as a message shows it, however large it is."""
    if type(value) is int and abs(value) > LARGEST_INTEGER:
        return "a number of many digits"  # Python refuses to write out more than 4,300 of them
    if isinstance(value, (list, dict, bool, type(None))):
        return JSON_NAMES[type(value)]
    return formatting.quote(value) if isinstance(value, str) else formatting.cut(str(value))


class Missing:
    """What is found at the place of a key that is not there."""


MISSING = Missing()


@functools.cache
def make_check(kind: Any) -> Check:
    """Return a function that takes a value of JSON and returns its Problem.

    kind: str, int, float, bool, None, Any, list[...], dict[str, ...], tuple[..., ...], a union of
    these, or a TypedDict, whose keys beyond those it names are free.
    """
    if kind is Any:
        return lambda value: None
    if kind in (None, type(None)):
        return lambda value: None if value is None else ("", "null", value)
    if typing.is_typeddict(kind):
        return _make_object_check(kind)
    origin = typing.get_origin(kind)
    parts = typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _make_union_check(parts)
    if origin in (list, tuple):
        return _make_list_check(parts[0])
    if origin is dict:
        return _make_dict_check(parts[1])
    if kind in (list, dict):
        return lambda value: None if isinstance(value, kind) else ("", JSON_NAMES[kind], value)
    return {str: _check_text, int: _check_integer, float: _check_number, bool: _check_truth}[kind]


def _check_text(value: object) -> Problem:
    if not isinstance(value, str):
        return "", JSON_NAMES[str], value
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can spell half of a character beyond U+FFFF
            return "", "a text of whole characters", value
    return None


def _check_integer(value: object) -> Problem:
    if type(value) is not int or abs(value) > LARGEST_INTEGER:  # True is an int in Python
        return "", JSON_NAMES[int], value
    return None


def _check_number(value: object) -> Problem:
    if type(value) is int:
        return _check_integer(value)
    if type(value) is not float or not math.isfinite(value):  # 1e999 is read as infinity
        return "", JSON_NAMES[float], value
    return None


def _check_truth(value: object) -> Problem:
    return None if isinstance(value, bool) else ("", JSON_NAMES[bool], value)


def _make_object_check(kind):
    """Return the check of a TypedDict."""
    checks = {key: make_check(part) for key, part in typing.get_type_hints(kind).items()}
    required = kind.__required_keys__

    def check(value: object) -> Problem:
        if not isinstance(value, dict):
            return "", JSON_NAMES[dict], value
        for key, check_part in checks.items():
            if key not in value:
                if key in required:
                    return key, "there", MISSING
                continue
            problem = check_part(value[key])
            if problem:
                return _join_place(key, problem)
        return None

    return check


def _make_dict_check(part):
    """Return the check of an object whose values are all of one kind."""
    check_part = make_check(part)

    def check(value: object) -> Problem:
        if not isinstance(value, dict):
            return "", JSON_NAMES[dict], value
        for key, one in value.items():
            problem = _check_text(key) or check_part(one)
            if problem:
                return _join_place(formatting.quote(key), problem)
        return None

    return check


def _make_list_check(part):
    """Return the check of a list whose items are all of one kind."""
    check_part = make_check(part)

    def check(value: object) -> Problem:
        if not isinstance(value, list):
            return "", JSON_NAMES[list], value
        for number, one in enumerate(value, start=1):
            problem = check_part(one)
            if problem:
                return _join_place(f"item {number}", problem)
        return None

    return check


def _make_union_check(parts):
    """Return the check of a value that is of one of some kinds."""
    checks = [make_check(part) for part in parts]

    def check(value: object) -> Problem:
        problems = []
        for check_part in checks:
            problem = check_part(value)
            if problem is None:
                return None
            problems.append(problem)
        for problem in problems:  # the kind that it nearly is
            if problem[0]:
                return problem
        return "", " or ".join(dict.fromkeys(expected for _, expected, _ in problems)), value

    return check


def _join_place(key, problem):
    """Return a problem of a part as one of the whole."""
    place, expected, found = problem
    return f"{key} {place}".strip(), expected, found
