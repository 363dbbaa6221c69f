"""Guards: a manifest that leaves out what a reader needs, or that nobody holds to what it says."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from llava_pl import load_pretrained
from llava_pl.export.assemble import tensors_of
from llava_pl.export.carry import carry, open_source
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
from llava_pl.models.adapters import LoraConfig
from llava_pl.training.stages import TrainablePlan
from llava_pl.types import InputError

HARMLESS = {"README.md", "certificate.json", "manifest.json"}
FORMS = ("artifact", "hf", "llava", "projector", "lora")


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
    assert content["base_models"] == {
        "decoder": {"name": "lmsys/vicuna", "sha256": "ab" * 32, "select_layer": None, "settings": {}}
    }
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


@pytest.fixture(scope="module")
def written(run, make_llava, tmp_path_factory):
    """A folder of each form."""
    place = tmp_path_factory.mktemp("written")
    for layout in ("artifact", "hf", "llava"):
        carry(make_llava(image_start_end=True), place / layout, layout)
    carry(open_source(run("for_manifest", stage="align")[1]), place / "projector", "projector")
    plan, lora = TrainablePlan(decoder="lora"), LoraConfig(rank=2, targets=["q_proj"])
    carry(open_source(run("lora_for_manifest", trainable=plan, lora=lora)[1]), place / "lora", "lora")
    return place


@pytest.fixture(params=FORMS)
def form(request, written, tmp_path):
    shutil.copytree(written / request.param, tmp_path / "x")
    return tmp_path / "x"


@pytest.fixture
def load(tiny_parts):
    """A loader of a folder of any form."""

    def read(folder):
        kind = json.loads((folder / "manifest.json").read_text())["layout"]
        parts = {"base": tiny_parts / "decoder", "vision_encoder": tiny_parts / "encoder"}
        return load_pretrained(folder, **(parts if kind in ("projector", "lora") else {}))

    return read


def edit_entry(folder, name, entry):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = entry
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_every_file_that_loading_reads_is_in_it(form):
    there = {path.relative_to(form).as_posix() for path in form.rglob("*") if path.is_file()}
    assert json.loads((form / "manifest.json").read_text())["files"].keys() == there - HARMLESS
    assert {"config.json"} < there


def test_an_edited_file_is_refused_by_name(form, load):
    for name in json.loads((form / "manifest.json").read_text())["files"]:
        content = (form / name).read_bytes()
        (form / name).write_bytes(content + b" ")
        with pytest.raises(InputError, match=f"x/manifest.json: file '{name}' is not the one that was written"):
            load(form)
        (form / name).write_bytes(content)
    load(form)


def test_an_edit_that_is_meant_is_taken(form, load):
    (form / "config.json").write_text((form / "config.json").read_text() + " ")
    with pytest.raises(InputError, match=r'if it is meant to be so, write "config\.json": null under "files" there'):
        load(form)
    edit_entry(form, "config.json", None)
    load(form)


def test_weights_are_never_excused(form, load):
    name = next(n for n in json.loads((form / "manifest.json").read_text())["files"] if n.endswith((".bin", "tensors")))
    edit_entry(form, name, None)
    message = (
        "expected its bytes and sha256, found null, which excuses settings but no weights; fetch the folder again$"
    )
    with pytest.raises(InputError, match=f"manifest.json: file '{name}': {message}"):
        load(form)
    edit_entry(form, name, {"bytes": 3})
    with pytest.raises(InputError, match=f"file '{name}': expected its bytes and sha256, found {{.bytes.: 3}}; fetch"):
        load(form)


def test_no_model_is_to_be_removed_because_its_manifest_lists_none(form, load):
    edit(form, files={})
    with pytest.raises(
        InputError, match='expected the files of the weights under "files", found none; fetch the folder'
    ):
        load(form)


@pytest.mark.parametrize(
    "name",
    ["added_tokens.json", "special_tokens_map.json", "tokenizer.model", "vocab.json", "merges.txt", "tekken.json",
     "chat_template.json", "additional_chat_templates/tool.jinja", "quantize_config.json",
     "video_preprocessor_config.json"],
)  # fmt: skip
def test_a_file_that_would_be_read_too_is_refused(form, load, name):
    (form / name).parent.mkdir(exist_ok=True)
    (form / name).write_text("{}")
    with pytest.raises(
        InputError, match=f"file '{name}' is not in the manifest; remove it, or, if it is meant"
    ) as error:
        load(form)
    assert "\n" not in str(error.value)
    edit_entry(form, name, None)
    if name == "quantize_config.json":  # which nobody reads here
        load(form)


def test_an_adapter_that_was_put_beside_a_model_is_refused(written, tmp_path, load):
    """The stock classes would use it, and this project take the original's folder for a LoRA."""
    for layout in ("artifact", "hf", "llava"):
        shutil.copytree(written / layout, tmp_path / layout)
        shutil.copy(written / "lora" / "adapter_config.json", tmp_path / layout)
        with pytest.raises(InputError, match=r"file 'adapter_config\.json' is not in the manifest"):
            load_pretrained(tmp_path / layout, base="anything" if layout == "llava" else None)
        shutil.copy(written / "lora" / "adapter_model.safetensors", tmp_path / layout)
        edit_entry(tmp_path / layout, "adapter_config.json", None)
        with pytest.raises(InputError, match=r"file 'adapter_model\.safetensors' is not in the manifest; remove it$"):
            load_pretrained(tmp_path / layout, base="anything" if layout == "llava" else None)


def test_other_files_are_nobody_s_business(form, load):
    for name in ("README.md", "certificate.json", ".gitattributes", "LICENSE", "notes.txt", "results.json"):
        (form / name).write_text("anything")
    (form / ".cache").mkdir()
    (form / ".cache" / "config.json").write_text("what a download leaves behind")
    load(form)


def test_a_folder_of_links_is_a_folder(form, load):
    """As the hub's cache holds it: names that lead to files elsewhere."""
    for number, path in enumerate([path for path in form.rglob("*") if path.is_file()]):
        blob = form.parent / f"blob{number}"
        path.rename(blob)
        path.symlink_to(blob)
    load(form)


@pytest.mark.parametrize("name", ["../x", "/etc/hostname", "a/../../x"])
def test_a_name_outside_the_folder_is_refused(form, load, name):
    edit_entry(form, name, {})
    with pytest.raises(InputError, match=f"file '{name}' lies outside the folder; expected a name inside it"):
        load(form)


def test_a_manifest_of_before_lists_weights_alone(form, load):
    """Then settings are taken at their word."""
    path = form / "manifest.json"
    manifest = json.loads(path.read_text())
    weights = {n: file for n, file in manifest["files"].items() if n.endswith((".safetensors", ".bin"))}
    path.write_text(json.dumps({**manifest, "files": weights}))
    (form / "config.json").write_text((form / "config.json").read_text() + " ")
    load(form)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout_version": 2}, "expected layout_version 1, found 2; update llava_pl"),
        ({"vocabulary": None}, r"expected a field 'vocabulary' \(int\), found None; fetch the folder again"),
        ({"vocabulary": True}, r"expected a field 'vocabulary' \(int\), found True"),
        ({"vocabulary": -3}, "expected a vocabulary of words and names of trained tensors"),
        ({"trained": [3]}, "expected a vocabulary of words and names of trained tensors"),
        ({"data": 3}, r"expected a field 'data' \(dict\), found 3"),
    ],
)
def test_other_contents_are_refused(folder, changes, message):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputError, match=f"manifest.json: {message}"):
        read_manifest(folder)


def test_a_field_that_is_not_there_is_named(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("layout", "files", "tensors", "base_models", "trained", "vocabulary", "data"):
        (folder / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != name}))
        with pytest.raises(InputError, match=f"expected a field '{name}' .*, found none; fetch the folder again"):
            read_manifest(folder)


def test_what_differs_is_told_in_short(folder):
    edit_entry(folder, "model.safetensors", {"bytes": 1, "sha256": "ab" * 32})
    message = r"expected 1 bytes \(sha256 abababababab\), found \d+ bytes \(sha256 [0-9a-f]{12}\); fetch it again$"
    with pytest.raises(InputError, match=message):
        read_manifest(folder)


TRAINED = "field 'trained': expected names of tensors of the model, found 'no.such'; fetch the folder again$"
LIES = {
    "vocabulary": (FORMS[:2], {"vocabulary": 5}, r"field 'vocabulary': expected .*, found 5; fetch the folder again$"),
    "more words than rows": (FORMS[:2], {"vocabulary": 500}, r"field 'vocabulary': expected .*, found 500; fetch"),
    "trained": (FORMS[:3], {"trained": ["no.such"]}, TRAINED),
}
BASES = [
    {"name": "x", "path": "/etc"}, {"name": 5, "sha256": 7}, {"sha256": "ab"}, {"name": "x", "select_layer": "2"},
    {"name": "x", "select_layer": True}, ["name"], None,
]  # fmt: skip


def edit(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize(("layout", "lie"), [(layout, lie) for lie, (forms, *_) in LIES.items() for layout in forms])
def test_a_lie_about_the_model_is_refused(written, tmp_path, load, layout, lie):
    shutil.copytree(written / layout, tmp_path / "x")
    edit(tmp_path / "x", **LIES[lie][1])
    with pytest.raises(InputError, match=f"^{tmp_path}/x/manifest.json: {LIES[lie][2]}"):
        load(tmp_path / "x")


def test_a_vocabulary_has_all_words_of_the_tokenizer(written, tmp_path, load):
    num_words = len(load(written / "hf").tokenizer)
    shutil.copytree(written / "hf", tmp_path / "x")
    edit(tmp_path / "x", vocabulary=num_words - 1)
    with pytest.raises(InputError, match=f"expected at least the {num_words} words of its tokenizer and at most the"):
        load(tmp_path / "x")


@pytest.mark.parametrize("base", BASES)
def test_a_base_of_another_form_is_refused(form, load, base):
    edit(form, base_models={"decoder": base})
    with pytest.raises(
        InputError, match=r"field 'base_models\.decoder': expected name \(str\), sha256 .*, found "
    ) as error:
        load(form)
    assert str(base) in str(error.value)


def test_settings_that_contradict_other_files_are_refused(written, tmp_path, load):
    message = {
        "artifact": r"field 'data\.image_aspect': expected 'pad' as in config\.json, found 'square'; fetch",
        "hf": r"field 'data\.image_aspect': expected 'pad', by do_pad of .* pictures, found 'square'; fetch",
    }
    for layout, said in message.items():
        shutil.copytree(written / layout, tmp_path / layout)
        data = json.loads((tmp_path / layout / "manifest.json").read_text())["data"]
        edit(tmp_path / layout, data={**data, "image_aspect": "square"})
        with pytest.raises(InputError, match=said):
            load(tmp_path / layout)
