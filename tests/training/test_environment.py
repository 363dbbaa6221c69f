"""Guards the versions that a run was made with."""

import json
import platform
from importlib.metadata import version

import pytest

from llava_pl.training import environment
from llava_pl.training.environment import describe_environment


def test_versions():
    found = describe_environment()
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == version("torch")
    assert "nothing-of-that-name" not in found["packages"]
    assert json.loads(json.dumps(found)) == found


def test_packages_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "nothing-of-that-name"))
    assert list(describe_environment()["packages"]) == ["torch"]


@pytest.mark.parametrize("path", ["", "/nowhere"])
def test_without_git_no_commit(monkeypatch, path):
    monkeypatch.setenv("PATH", path)
    assert describe_environment()["commit"] is None
