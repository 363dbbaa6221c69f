"""Guards: a folder that is taken for another than it is, or for a part of a model that it does not hold."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_pl import load_pretrained
from llava_pl.export.artifact import is_artifact, read_part, read_projector, write_artifact
from llava_pl.export.carry import carry
from llava_pl.export.certificate import probe
from llava_pl.export.parts import load_decoder, load_vision_encoder
from llava_pl.types import InputError

OUTSIDE = """
from torch import nn
class Bridge(nn.Linear):
    def __init__(self, vision_width, decoder_width):
        super().__init__(vision_width, decoder_width)
    def count_image_tokens(self, num_patches):
        return num_patches
"""


@pytest.fixture
def folder(llava, tmp_path) -> Path:
    carry(llava, tmp_path / "x", "artifact")
    return tmp_path / "x"


def test_all_that_belongs_to_a_model_is_there(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "README.md", "certificate.json", "config.json", "manifest.json", "model.safetensors",
        "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert is_artifact(folder)
    assert not is_artifact(folder.parent)


@pytest.mark.parametrize("family", ["llama_2", "llama_3", "mistral", "qwen2", "qwen2_tied", "qwen3", "smollm2", "mpt"])
def test_a_run_upon_every_family_of_decoders_comes_back(run, make_decoder, tmp_path, assert_same, family):
    decoder = {"path": str(make_decoder(family)), "attention": "eager" if family == "mpt" else "sdpa"}
    _, path = run(f"run_{family}", decoder=decoder, data={"template": "chat"})
    live = load_pretrained(path, dtype=None)
    carry(live, tmp_path / "x", "artifact")
    found = load_pretrained(tmp_path / "x", dtype=None)
    assert_same(found, live)
    assert all(torch.equal(*pair) for pair in zip(probe(found.model), probe(live.model), strict=True))
    assert found.settings == live.settings
    # A part of it is a part of the next run.
    part = load_decoder(tmp_path / "x", attn_implementation=decoder["attention"]).model.state_dict()
    assert all(torch.equal(tensor, part[name]) for name, tensor in live.model.decoder.model.state_dict().items())


def test_large_models_are_split(llava, tmp_path, assert_same):
    carry(llava, tmp_path / "x", "artifact", max_shard_bytes=20_000)
    shards = sorted(path.name for path in (tmp_path / "x").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    assert_same(load_pretrained(tmp_path / "x"), llava)
    (tmp_path / "x" / shards[1]).unlink()
    with pytest.raises(InputError, match=f"x/manifest.json: file '{shards[1]}' is missing; fetch it again"):
        load_pretrained(tmp_path / "x")


def test_the_mode_of_its_files_is_that_of_other_files(folder):
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_tied_heads_are_written_once(make_llava, tmp_path, assert_same):
    llava = make_llava()
    llava.model.decoder.model.config.tie_word_embeddings = True
    llava.model.decoder.model.tie_weights()
    carry(llava, tmp_path / "x", "artifact")
    assert "decoder.model.lm_head.weight" not in load_file(tmp_path / "x" / "model.safetensors")
    found = load_pretrained(tmp_path / "x")
    assert_same(found, llava)
    assert found.model.decoder.head.weight is found.model.decoder.embedding.weight
    for layout in ("hf", "llava"):
        carry(found, tmp_path / layout, layout)
        assert_same(load_pretrained(tmp_path / layout), llava)


def test_parts_can_be_taken_from_it(folder, llava):
    """As model.decoder.path, model.vision_encoder.path and model.init_from."""
    decoder = load_decoder(folder)
    for name, tensor in llava.model.decoder.state_dict().items():
        assert torch.equal(decoder.state_dict()[name], tensor)
    encoder = load_vision_encoder(folder, select_layer=-2)
    for name, tensor in llava.model.vision_encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], tensor)
    assert read_projector(folder).keys() == {f"projector.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")}
    assert {p.dtype for p in load_decoder(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_its_encoder_is_cut_already(folder):
    with pytest.raises(InputError, match="was made with select_layer -2 and select_feature patch, found -3 and patch"):
        load_vision_encoder(folder, select_layer=-3)
    with pytest.raises(InputError, match="found -2 and cls_patch; give those, or the whole encoder"):
        load_vision_encoder(folder, select_feature="cls_patch")


def test_a_run_starts_from_it(run, make_llava, tmp_path):
    llava, folder = make_llava(seed=5), tmp_path / "x"
    carry(llava, folder, "artifact")
    module, path = run("from_artifact", stage="align", init_from=str(folder))
    module_2, _ = run("from_parts", stage="align")
    assert not torch.equal(module.model.projector[0].weight, module_2.model.projector[0].weight)
    # A step of Adam is at most the learning rate long; the first of the two warms up.
    step = (module.model.projector[0].weight - llava.model.projector[0].weight).abs().max()
    assert 0 < step <= 0.0101
    assert all(torch.equal(*pair) for pair in zip(probe(load_pretrained(path).model), probe(module.model), strict=True))


def test_changed_bytes_and_other_lies_are_refused(folder):
    path = folder / "model.safetensors"
    shutil.copy(path, folder / "kept")
    weights = load_file(path)
    save_file({**weights, "projector.0.bias": weights["projector.0.bias"] + 1}, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"file 'model.safetensors' is not the one that was written: expected"):
        load_pretrained(folder)
    path.write_bytes((folder / "kept").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"file 'model.safetensors' is not the one that was written"):
        load_pretrained(folder)
    with pytest.raises(InputError, match=r"file 'model.safetensors' is not the one"):
        read_part(folder, "projector.")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config.json", {"layout_version": 2}, "config.json: expected layout_version 1, found 2; update llava_pl"),
        ("config.json", {"model": {"projector": "linear"}}, "expected a field 'model' with the settings of every part"),
        ("config.json", {"data": {"template": "v7"}}, "template: expected one of"),
        ("manifest.json", {"layout_version": 2}, "manifest.json: expected layout_version 1, found 2"),
        ("manifest.json", {"files": 3}, r"expected a field 'files' \(dict\), found 3"),
        ("manifest.json", {"files": {}}, 'expected the files of the weights under "files"'),
        ("manifest.json", {"vocabulary": "x"}, r"expected a field 'vocabulary' \(int\), found 'x'"),
        ("manifest.json", {"tensors": {}}, "is not in the manifest; fetch the folder again"),
        ("manifest.json", {"base_models": {"decoder": 3}}, "'base_models.decoder': expected name .*, found 3"),
        (
            "manifest.json",
            {"files": {"../../x": {}, "model.safetensors": {}}},
            "lies outside the folder; expected a name inside it",
        ),
    ],
)
def test_settings_that_lie_are_refused(folder, name, changes, message):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    if name == "config.json":  # so that no hash betrays it
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = None
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
        load_pretrained(folder)


def test_a_folder_without_its_manifest_is_refused(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"x: expected manifest.json beside config.json, found none"):
        load_pretrained(folder)


def test_a_file_does_not_have_a_class_imported(llava, tmp_path, monkeypatch):
    (tmp_path / "outside_bridge.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    from importlib import import_module

    bridge = import_module("outside_bridge").Bridge(16, 32)
    llava.model.projector = bridge
    (tmp_path / "x").mkdir()
    write_artifact(replace(llava, projector="outside_bridge.Bridge"), tmp_path / "x")
    monkeypatch.delitem(sys.modules, "outside_bridge")
    with pytest.raises(InputError, match=r"the class outside_bridge.Bridge, whose code would run; import it first"):
        load_pretrained(tmp_path / "x")
    assert "outside_bridge" not in sys.modules
    assert type(load_pretrained(tmp_path / "x", unsafe=True).model.projector).__name__ == "Bridge"
    assert type(load_pretrained(tmp_path / "x").model.projector).__name__ == "Bridge"  # imported by now


@pytest.mark.parametrize("kind", ["qformer", "resampler", "pixel_shuffle"])
def test_connectors_travel_with_their_options(llava, tmp_path, assert_same, kind):
    from llava_pl.models.projector import build_projector

    options = {"pixel_shuffle": {"factor": 2}}.get(kind, {"num_queries": 2})
    torch.manual_seed(0)
    llava.model.projector = build_projector(
        kind, vision_width=16, decoder_width=32, num_patches=4, options=options
    ).eval()
    llava = replace(llava, projector=kind, projector_options=options)
    carry(llava, tmp_path / "x", "artifact")
    found = load_pretrained(tmp_path / "x")
    assert_same(found, llava)
    assert found.projector_options == options
    for layout in ("hf", "llava"):
        with pytest.raises(InputError, match=rf"^format {layout}: .* projector .*{kind}.*; the folder that"):
            carry(found, tmp_path / layout, layout)


def test_half_precision_on_disk_does_not_halve_what_is_trained(run, make_llava, tmp_path):
    carry(make_llava(seed=5), tmp_path / "x", "artifact", dtype=torch.float16)
    module, _ = run("from_half", stage="align", init_from=str(tmp_path / "x"))
    assert {parameter.dtype for parameter in module.model.projector.parameters()} == {torch.float32}
