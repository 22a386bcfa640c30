"""A script ends in one clear line on what the user can mend."""

import pytest

from stance.common import errors


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


def test_stop(capsys):
    assert (
        read_stop(capsys, errors.fail, "corpus.xlsx, row 7: no stance")
        == "corpus.xlsx, row 7: no stance"
    )
