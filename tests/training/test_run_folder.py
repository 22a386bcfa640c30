"""stance/training/run_folder.py: a run goes on only as it began."""

import pytest
from stopping import stop_message

from stance.common import files
from stance.training import run_folder

pytestmark = pytest.mark.slow  # the run of the fixture


@pytest.fixture
def begun(trained_run, tmp_path):
    """(folder, record) of a run that began before the newest settings were there."""
    record = files.read_json(trained_run / "plan.json", "fix the test")
    settings = dict(record["settings"])
    for name in run_folder.LATER_SETTINGS:
        del settings[name]
    files.write_json(tmp_path / "plan.json", {**record, "settings": settings})
    return tmp_path, record


def test_a_run_that_began_before_a_setting_was_there_goes_on(begun):
    folder, record = begun
    run_folder.check_same_run(folder, record)


@pytest.mark.parametrize("name", run_folder.LATER_SETTINGS)
def test_but_not_with_another_value_of_it(begun, capsys, name):
    folder, record = begun
    now = {**record, "settings": {**record["settings"], name: "another"}}
    message = stop_message(capsys, run_folder.check_same_run, folder, now)
    assert f"{name} was {run_folder.LATER_SETTINGS[name]}, now it is another" in message
