"""Guards: a folder that the original's code reads as another model."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from llava_pl import load_pretrained
from llava_pl.export.carry import carry, open_source
from llava_pl.export.certificate import probe
from llava_pl.training.stages import TrainablePlan
from llava_pl.types import InputError

NAMES = {
    "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight",
    "model.mm_projector.0.weight", "model.mm_projector.2.bias",
}  # fmt: skip


def test_config_is_what_its_code_asks_for(make_llava, tmp_path):
    carry(make_llava(select_feature="cls_patch", image_start_end=True), tmp_path / "x", "llava")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    expected = {
        "model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"], "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -1, "mm_vision_select_feature": "cls_patch", "mm_hidden_size": 16,
        "mm_use_im_start_end": True, "mm_use_im_patch_token": False, "use_mm_proj": True, "image_aspect_ratio": "pad",
        "rope_theta": 10000.0, "rope_scaling": None, "hidden_size": 32, "vocab_size": 101, "torch_dtype": "float32",
        "mm_vision_tower": str(tmp_path / "x" / "vision_tower"),
    }  # fmt: skip
    assert {name: config[name] for name in expected} == expected
    assert "rope_parameters" not in config
    assert load_file(tmp_path / "x" / "model.safetensors").keys() >= NAMES
    tower = load_file(tmp_path / "x" / "vision_tower" / "model.safetensors")
    assert all(name.startswith("vision_model.") for name in tower)
    vision = json.loads((tmp_path / "x" / "vision_tower" / "config.json").read_text())
    assert (vision["model_type"], vision["num_hidden_layers"]) == ("clip_vision_model", 2)


def test_stage_1_is_what_its_stage_2_starts_from(run, tmp_path, tiny_parts):
    module, path = run("stage_1", stage="align")
    carry(open_source(path), tmp_path / "x", "projector")
    weights = torch.load(tmp_path / "x" / "mm_projector.bin", weights_only=True)
    assert weights.keys() == {f"model.mm_projector.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")}
    assert torch.equal(weights["model.mm_projector.0.weight"], module.model.projector[0].weight)
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert (config["mm_vision_tower"], config["mm_vision_select_layer"]) == ("encoder", -2)
    found = load_pretrained(tmp_path / "x", base=tiny_parts / "decoder", vision_encoder=tiny_parts / "encoder")
    assert all(torch.equal(*pair) for pair in zip(probe(found.model), probe(module.model), strict=True))
    assert found.template == "mpt"  # its manifest says so
    with pytest.raises(InputError, match="holds a projector alone"):
        load_pretrained(tmp_path / "x")


def test_all_marks_keep_their_ids_on_the_way(run, tmp_path, tiny_parts):
    """A tokenizer without <im_patch> would give its id to <im_start>."""
    marks = {"image_start_end": True, "image_patch_token": True}
    _, path = run("patch", stage="align", trainable=TrainablePlan(embeddings="new_tokens"), data=marks)
    live = load_pretrained(path)
    carry(open_source(path), tmp_path / "alone", "projector")
    again = load_pretrained(tmp_path / "alone", base=tiny_parts / "decoder", vision_encoder=tiny_parts / "encoder")
    for pretrained in (live, again):
        assert pretrained.tokenizer.convert_tokens_to_ids(["<im_patch>", "<im_start>", "<im_end>"]) == [99, 100, 101]
    assert torch.equal(again.model.decoder.embedding.weight, live.model.decoder.embedding.weight)


def test_a_projector_alone_is_not_all_that_a_run_trained(run, tmp_path):
    _, path = run("whole", stage="finetune")
    with pytest.raises(InputError, match="format projector: expected a model of which no more was trained, found dec"):
        carry(open_source(path), tmp_path / "x", "projector")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mistral"}, "format llava: expected a decoder of LLaMA, found mistral; use format hf"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "its code knows no rotary embedding 'llama3'; use format hf"),
    ],
)
def test_decoders_that_its_code_does_not_know_are_refused(llava, change, message):
    from llava_pl.export.assemble import describe
    from llava_pl.export.original import original_config

    spec = describe(llava.model, "mlp2x_gelu", {})
    with pytest.raises(InputError, match=message):
        original_config(replace(spec, decoder={**spec.decoder, **change}), llava.settings, "x", "float32")
    with pytest.raises(InputError, match="expected projector linear, mlp"):
        original_config(replace(spec, projector="qformer"), llava.settings, "x", "float32")
