"""Guards: a manifest that leaves out what a reader needs, or that nobody holds to what it says."""

import json
from dataclasses import replace

import pytest
import torch

from llava_pl.export.assemble import tensors_of
from llava_pl.export.manifest import (
    check_tensors,
    origin_of,
    read_manifest,
    settings_of,
    versions,
    write_manifest,
)
from llava_pl.export.pretrained import BaseModel
from llava_pl.export.weights import hash_file, write_weights
from llava_pl.types import InputError


@pytest.fixture
def folder(llava, tmp_path):
    bases = {"decoder": BaseModel("lmsys/vicuna", "ab" * 32, path="/somewhere/on/this/machine")}
    origin = replace(llava.origin, bases=bases, trained=("projector.0.weight",), data_hash="cd")
    weights = tensors_of(llava.model)
    write_weights(weights, tmp_path)
    write_manifest(replace(llava, origin=origin), weights, tmp_path, "artifact", {"adds_bos": True})
    return tmp_path


def test_what_it_says(folder, llava):
    content = read_manifest(folder)
    assert content == json.loads((folder / "manifest.json").read_text())
    assert content["layout"] == "artifact"
    assert content["base_models"] == {"decoder": {"name": "lmsys/vicuna", "sha256": "ab" * 32, "select_layer": None}}
    assert content["trained"] == ["projector.0.weight"]
    assert content["data"]["template"] == "vicuna_v1"
    assert content["data_hash"] == "cd"
    assert content["adds_bos"] is True
    assert content["made_with"] == versions()
    assert content["files"]["model.safetensors"]["sha256"] == hash_file(folder / "model.safetensors")
    assert content["tensors"]["projector.0.bias"] == {"shape": [32], "dtype": "float32"}
    assert content["tensors"].keys() == llava.model.state_dict().keys()


def test_nothing_of_this_machine_is_in_it(folder):
    assert "/somewhere" not in (folder / "manifest.json").read_text()


def test_origin_and_settings_come_back(folder, llava):
    content = read_manifest(folder)
    origin = origin_of(content, "artifact", folder)
    assert origin.bases == {"decoder": BaseModel("lmsys/vicuna", "ab" * 32)}
    assert (origin.trained, origin.data_hash) == (("projector.0.weight",), "cd")
    assert settings_of(content, folder) == llava.settings


def test_a_folder_of_another_program_has_none(tmp_path):
    assert read_manifest(tmp_path) is None
    assert settings_of(None, tmp_path) is None
    assert origin_of(None, "hf", tmp_path).layout == "hf"
    check_tensors(None, {}, tmp_path)


def test_tensors_are_held_to_it(folder, llava):
    content, weights = read_manifest(folder), tensors_of(llava.model)
    check_tensors(content, weights, folder)
    bias = "projector.0.bias"
    for changed, message in (
        ({n: t for n, t in weights.items() if n != bias}, f"tensor '{bias}' is in no file"),
        ({**weights, "a": weights[bias]}, "tensor 'a' is not in the manifest"),
        ({**weights, bias: weights[bias].half()}, f"tensor '{bias}': expected .*float32.* found .*float16"),
        ({**weights, bias: torch.zeros(3)}, rf"tensor '{bias}': expected .*\[32\].* found .*\[3\]"),
    ):
        with pytest.raises(InputError, match=message):
            check_tensors(content, changed, folder)
