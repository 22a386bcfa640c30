"""A script ends in one clear line on what the user can mend."""

from stopping import read_stop

from stance.common import errors


def test_stop(capsys):
    assert (
        read_stop(capsys, errors.fail, "corpus.xlsx, row 7: no stance")
        == "corpus.xlsx, row 7: no stance"
    )
