"""Guards what a bug report begins with: a package that is called there and is not, a back-end that was not tried."""

import json
import tomllib
from pathlib import Path

import PIL
import pytest
import torch

from llava_pl.app import doctor
from llava_pl.app.doctor import FEATURES, Feature, examine, is_well, main, make_report


@pytest.fixture(scope="module")
def found():
    return examine()


def test_what_is_here(found):
    assert found["environment"]["packages"]["torch"] == torch.__version__
    cpu = found["devices"][0]
    assert cpu["name"] == "cpu"
    assert cpu["memory_gib"] > cpu["free_gib"] > 0.1
    assert found["attention"]["cpu"] == {"sdpa": "works", "eager": "works", "flash_attention_2": "for CUDA alone"}
    assert all(room["free_gib"] >= 0 for room in found["room"])
    assert found["features"].keys() == {feature.name for feature in FEATURES}
    assert found["pictures"]["decoding"].startswith(f"Pillow {PIL.__version__} (libjpeg_turbo ")
    assert is_well(found)


@pytest.mark.parametrize(("has_torchvision", "words"), [(True, "torchvision, whose values differ"), (False, "Pillow")])
def test_what_resizes_pictures_of_an_export(monkeypatch, has_torchvision, words):
    """As transformers decides it: its processors are backed by torchvision where that is installed."""
    monkeypatch.setattr(doctor, "is_installed", lambda name: has_torchvision)
    assert doctor._find_picture_backends()["resizing, stock transformers with an export"].startswith(words)


def test_missing_packages_are_told_with_how_to_get_them():
    missing = Feature("x", "no_such_module", "qlora", needs_cuda=True)
    assert doctor._find_feature(missing, has_cuda=False) == (
        "missing; pip install -e '.[qlora]', on a machine with CUDA"
    )
    assert doctor._find_feature(Feature("x", "no_such_module", None), has_cuda=True) == (
        "missing; pip install no_such_module"
    )
    with_words = Feature("x", "no_such_module", "deepspeed", prefix="A=0 ", suffix=" --b")
    assert doctor._find_feature(with_words, has_cuda=False) == "missing; A=0 pip install -e '.[deepspeed]' --b"
    there = Feature("x", "json", None, needs_cuda=True)
    assert doctor._find_feature(there, has_cuda=False) == "there, and waits for a device with CUDA"
    assert doctor._find_feature(there, has_cuda=True) == "there"


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    """W&B writes into `wandb/` where a run starts, which Python would take for a package without files."""
    (tmp_path / "no_such_module").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor._find_feature(Feature("x", "no_such_module", None), has_cuda=False).startswith("missing; ")


def test_room_that_cannot_be_written_is_told(found, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    assert doctor._room(tmp_path / "new" / "folder", "x")["is_writable"]
    assert not doctor._room(tmp_path / "file" / "folder", "x")["is_writable"]
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    closed = doctor._room(tmp_path, "runs")
    monkeypatch.setattr(doctor, "examine", lambda: {**found, "room": [closed]})
    assert main([]) == 0
    assert f"{closed['free_gib']:.1f} GiB, but it cannot be written to" in capsys.readouterr().out


def test_extras_are_those_of_the_package():
    content = (Path(doctor.__file__).parents[2] / "pyproject.toml").read_text()
    extras = tomllib.loads(content)["project"]["optional-dependencies"]
    assert {feature.extra for feature in FEATURES if feature.extra} <= extras.keys()


def test_attention_that_fails_is_told(monkeypatch):
    assert doctor._run_decoder("cpu", "no_such_attention") != "works"


def test_terminal_and_json(found, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: found)
    assert main([]) == 0
    shown = capsys.readouterr().out
    for words in ("Versions", torch.__version__, "Devices, and attention", "cache of records", "Weights & Biases"):
        assert words in shown
    assert main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_status_of_a_machine_that_cannot_run(found, monkeypatch, capsys):
    broken = {**found, "attention": {"cpu": {**found["attention"]["cpu"], "sdpa": "no kernel"}}}
    monkeypatch.setattr(doctor, "examine", lambda: broken)
    assert main([]) == 1
    assert "attention sdpa does not work" in capsys.readouterr().out
    assert make_report(found).notes == ()
