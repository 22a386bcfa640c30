"""How a user's mistake ends: several test files check that a call stops with one line."""

import pytest


def stop_message(capsys, action, *words, **options):
    """The one line on stderr with which an action stops."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        action(*words, **options)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message
