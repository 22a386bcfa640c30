"""How a user's mistake ends: several test files check that a call stops with one line."""

import pytest


def stop_lines(capsys, action, *words, **options):
    """The lines on stderr of an action that stops."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        action(*words, **options)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines(keepends=True)


def stop_message(capsys, action, *words, **options):
    """The one line on stderr with which an action stops."""
    [message] = stop_lines(capsys, action, *words, **options)
    assert message.startswith("error: ") and message.endswith("\n")
    return message


def line_below_bar(capsys, action, *words, **options):
    """The one error line with which an action stops, below its progress bar."""
    [message] = [
        line for line in stop_lines(capsys, action, *words, **options) if "error: " in line
    ]
    assert message.startswith("error: ") and message.endswith("\n")
    return message


def read_stop(capsys, action, *arguments):
    """The one line on stderr with which an action stops."""
    with pytest.raises(SystemExit) as stopped:
        action(*arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.endswith("\n")
    assert printed.err.count("\n") == 1
    return printed.err[len("error: ") : -1]
