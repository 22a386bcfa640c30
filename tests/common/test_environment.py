"""Run records tell versions and commit, and nothing about the user."""

import json
import socket
import subprocess
import sys
import types

from stance.common import environment


def test_settings_are_the_uppercase_constants():
    script = types.ModuleType("script")
    script.SEED, script.LEARNING_RATE, script.main, script.Row, script._hidden = (
        0,
        1e-4,
        print,
        dict,
        1,
    )
    assert environment.collect_settings(script) == {"SEED": 0, "LEARNING_RATE": 1e-4}


def test_environment_tells_versions_and_commit():
    described = environment.describe_environment()
    assert set(described) == {"python", "platform", "versions", "git"}
    assert described["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(described["versions"]) == set(environment.RECORDED_PACKAGES)
    import sklearn

    assert described["versions"]["scikit-learn"] == sklearn.__version__


def test_environment_tells_nothing_about_the_user(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "q7Zk" * 8)
    monkeypatch.setenv("STANCE_TEST_MARK", "a-value-of-the-environment")
    text = json.dumps(environment.describe_environment())
    assert "q7Zk" not in text and "HF_TOKEN" not in text
    assert "a-value-of-the-environment" not in text and "STANCE_TEST_MARK" not in text
    assert socket.gethostname() not in text
    assert "/" not in text and "\\" not in text  # no path at all


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(environment, "RECORDED_PACKAGES", ("no-such-package-of-this-name",))
    assert environment.describe_environment()["versions"] == {"no-such-package-of-this-name": None}


def make_checkout(folder, monkeypatch):
    """A git checkout with one commit, in which records believes to be."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set when tests run from a hook
        monkeypatch.delenv(name, raising=False)
    (folder / "stance/common").mkdir(parents=True)
    (folder / "stance/common/environment.py").write_text("x\n")
    settings = (
        "user.name=n",
        "user.email=e@example.org",
        "commit.gpgsign=false",
        "core.hooksPath=",
    )
    git = ["git", *(word for setting in settings for word in ("-c", setting))]
    for words in (
        ["init", "-q"],
        ["add", "stance/common/environment.py"],
        ["commit", "-q", "-m", "m"],
    ):
        subprocess.run(git + words, cwd=folder, check=True)
    monkeypatch.setattr(environment, "__file__", str(folder / "stance/common/environment.py"))


def test_commit_and_whether_files_differ(tmp_path, monkeypatch):
    make_checkout(tmp_path, monkeypatch)
    clean = environment.describe_commit()
    assert len(clean["commit"]) == 40 and set(clean["commit"]) <= set("0123456789abcdef")
    assert clean["changed"] is False
    (tmp_path / "outputs.txt").write_text("a result")  # untracked: no change of the code
    assert environment.describe_commit() == clean
    (tmp_path / "stance/common/environment.py").write_text("y\n")
    assert environment.describe_commit() == {**clean, "changed": True}


def test_no_commit_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "stance/common/environment.py"))
    assert environment.describe_commit() is None


def test_no_commit_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.describe_commit() is None
