"""Guards: a folder that is taken for a part that it is not, and a sketch that differs from the part it stands for."""

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from llava_pl.export.carry import carry
from llava_pl.export.part_configs import (
    read_decoder_config,
    read_vision_config,
    sketch_decoder,
    sketch_vision_encoder,
)
from llava_pl.export.parts import load_decoder, load_vision_encoder
from llava_pl.types import InputError

sketch_vision = partial(sketch_vision_encoder, select_layer=-2, select_feature="patch")


@pytest.fixture
def parts(tiny_parts, tmp_path) -> Path:
    """A copy that a test may break."""
    return shutil.copytree(tiny_parts, tmp_path / "parts")


def shapes(module) -> dict:
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


@pytest.mark.parametrize("select_layer", [-1, -2, 0])
def test_a_sketch_of_an_encoder_is_the_encoder_without_values(tiny_parts, select_layer):
    options = {"select_layer": select_layer, "select_feature": "cls_patch"}
    sketch = sketch_vision_encoder(tiny_parts / "encoder", **options)
    whole = load_vision_encoder(tiny_parts / "encoder", **options)
    assert shapes(sketch) == shapes(whole)
    assert {p.device.type for p in sketch.parameters()} == {"meta"}
    half = sketch_vision_encoder(tiny_parts / "encoder", **options, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert (sketch.width, sketch.num_patches) == (whole.width, whole.num_patches)


@pytest.mark.parametrize("family", ["llama_2", "mpt", "qwen3", "smollm2"])
def test_a_sketch_of_a_decoder_is_the_decoder_without_values(make_decoder, family):
    path, attention = make_decoder(family), "eager" if family == "mpt" else "sdpa"
    sketch, whole = sketch_decoder(path, attention=attention), load_decoder(path, attn_implementation=attention)
    assert type(sketch.model) is type(whole.model)
    assert shapes(sketch) == shapes(whole)
    assert {p.device.type for p in sketch.parameters()} == {"meta"}
    assert sketch.model.config._attn_implementation == whole.model.config._attn_implementation


def test_a_sketch_of_what_is_carried_is_the_same(llava, golden_llava, tmp_path):
    carry(llava, tmp_path / "x", "artifact")
    for path in (tmp_path / "x", golden_llava):
        assert shapes(sketch_decoder(path)) == shapes(load_decoder(path))
    assert shapes(sketch_vision(tmp_path / "x")) == shapes(llava.model.vision_encoder)
    with pytest.raises(InputError, match=r"was made with select_layer -2 .*, found -3 and patch; give those"):
        sketch_vision_encoder(tmp_path / "x", select_layer=-3, select_feature="patch")


@pytest.mark.parametrize(("part", "sketch"), [("encoder", sketch_vision), ("decoder", sketch_decoder)])
def test_a_config_that_no_model_can_be_built_of_is_one_line(parts, part, sketch):
    config = json.loads((parts / part / "config.json").read_text())
    (parts / part / "config.json").write_text(json.dumps({**config, "hidden_act": "nonsense"}))
    with pytest.raises(
        InputError, match=r"^(decoder|vision_encoder).path: .*: no model can be built of its config.json: "
    ):
        sketch(parts / part)


@pytest.mark.parametrize(("part", "sketch"), [("encoder", sketch_vision), ("decoder", sketch_decoder)])
def test_a_config_that_transformers_refuses_is_one_line(parts, part, sketch):
    config = json.loads((parts / part / "config.json").read_text())
    (parts / part / "config.json").write_text(json.dumps({**config, "hidden_size": "x"}))
    with pytest.raises(InputError, match=r"^(decoder|vision_encoder).path: .*, but .*'hidden_size' expected int"):
        sketch(parts / part)


def test_an_attention_that_is_not_installed_is_one_line(tiny_parts, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    if torch.cuda.is_available():
        pytest.skip("where there is a GPU, it may be installed")
    with pytest.raises(InputError, match=r"^model.decoder.attention: flash_attention_2: cannot be used here: .*$"):
        sketch_decoder(tiny_parts / "decoder", attention="flash_attention_2")


def test_a_folder_that_names_another_one_s_model_as_its_base_is_refused(parts):
    """Stock transformers would load that, and call it this folder's."""
    adapters = {"peft_type": "LORA", "base_model_name_or_path": str(parts / "elsewhere"), "r": 1, "target_modules": []}
    (parts / "decoder" / "adapter_config.json").write_text(json.dumps(adapters))
    with pytest.raises(InputError, match=r"^decoder.path: .*: holds adapters .*, found adapter_config.json"):
        load_decoder(parts / "decoder")


def test_a_model_that_brings_code_is_refused(parts, monkeypatch):
    """A stock load asks on the terminal whether to run such code; nobody may be there to say no."""
    trap, folder = parts / "trap", parts / "decoder"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "other", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(trap)!r}, 'w').close()\n")
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    with pytest.raises(InputError, match=r"^decoder.path: "):
        load_decoder(folder)
    assert not trap.exists()
    assert "code" not in {name.rpartition(".")[2] for name in sys.modules if name.startswith("transformers_modules")}


@pytest.mark.parametrize(
    ("load", "part", "message"),
    [
        (
            load_vision_encoder,
            "decoder",
            "vision_encoder.path: .*decoder: expected a CLIP or SigLIP vision .*found 'llama'",
        ),
        (
            load_decoder,
            "encoder",
            "decoder.path: .*encoder: expected a causal language model, found 'clip_vision_model'$",
        ),
        (read_vision_config, "nowhere", "vision_encoder.path: .*nowhere: expected a model folder or hub name, but"),
        (read_decoder_config, "nowhere", "decoder.path: .*nowhere: expected a model folder or hub name, but"),
    ],
)
def test_folders_of_something_else_are_refused(tiny_parts, load, part, message):
    with pytest.raises(InputError, match=message) as raised:
        load(tiny_parts / part)
    assert "\n" not in str(raised.value)


def test_whole_models_of_others_are_refused_by_their_form(llava, golden_llava, tmp_path):
    carry(llava, tmp_path / "x", "hf")
    message = r"^(vision_encoder|decoder).path: .*: expected a model .* found one of llava-hf; .* import .*x DST$"
    for load in (sketch_vision, load_vision_encoder, load_decoder, read_decoder_config):
        with pytest.raises(InputError, match=message):
            load(tmp_path / "x")
    with pytest.raises(InputError, match=r"found a folder of the original LLaVA; name its vision tower, clip-mlp2x-"):
        load_vision_encoder(golden_llava)
