"""Guards which model is opened: on another device, in another dtype or bits than asked for, or one that cannot talk."""

import argparse
from dataclasses import replace

import pytest
import torch

from llava_pl.app.open_model import add_model_options, find_device, open_model
from llava_pl.export import layouts
from llava_pl.export.layouts import load_pretrained
from llava_pl.models.quantization import is_quantized
from llava_pl.types import InputError


@pytest.fixture
def open_it(golden_path, tiny_parts, tmp_path):
    """Open a folder of the original's with some options, the tokenizer beside it."""
    from llava_pl.cli import main

    place = str(tmp_path / "model")
    source = str(golden_path / "model" / "llava-mlp2x")
    assert main(["import", source, place, "--tokenizer", str(tiny_parts / "decoder")]) == 0

    def call(*words):
        parser = argparse.ArgumentParser()
        add_model_options(parser)
        return open_model(parser.parse_args([place, *words]))

    return call


def test_dtype(open_it):
    opened = open_it("--device", "cpu")
    assert {parameter.dtype for parameter in opened.model.parameters()} == {torch.float32}
    assert (opened.name, opened.model.training) == ("model", False)
    opened = open_it("--device", "cpu", "--dtype", "bfloat16")
    assert {parameter.dtype for parameter in opened.model.parameters()} == {torch.bfloat16}


def test_quantization(open_it):
    decoder = open_it("--device", "cpu", "--quantization", "int8").model.decoder
    assert sum(map(is_quantized, decoder.modules())) > 0
    assert not is_quantized(decoder.head)


def test_a_model_that_writes_captions_alone(open_it, monkeypatch):
    def load(*places, **options):
        pretrained = load_pretrained(*places, **options)
        return replace(pretrained, settings=replace(pretrained.settings, template="plain"))

    monkeypatch.setattr(layouts, "load_pretrained", load)
    with pytest.raises(InputError, match="found one of stage align"):
        open_it("--device", "cpu")


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert (find_device("auto"), find_device("cpu")) == ("cpu", "cpu")
    with pytest.raises(InputError, match="--device cuda: not available here; expected one of cpu, or auto"):
        find_device("cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == "mps"
