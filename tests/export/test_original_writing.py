"""Guards: a folder that the original's code reads as another model."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from llava_pl import load_pretrained
from llava_pl.export.assemble import describe
from llava_pl.export.carry import carry, open_source
from llava_pl.export.certificate import probe
from llava_pl.export.original import find_unknown
from llava_pl.export.part_configs import read_decoder_config
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
    ("settings", "unknown"),
    [
        ({"family": "mpt"}, "decoder of mpt"),
        ({"family": "qwen2_tied"}, "decoder of qwen2"),
        ({"family": "mistral"}, "attention window of 4 positions, shorter than data.max_length"),
        ({"family": "llama_3"}, "rotary embedding 'llama3'"),
        ({"projector": "pixel_shuffle"}, "projector 'pixel_shuffle'"),
        ({"encoder": "siglip"}, "encoder of siglip"),
    ],
)
def test_what_the_original_s_code_does_not_know_is_refused(make_llava, make_encoder, tmp_path, settings, unknown):
    if "encoder" in settings:
        settings = {"encoder": make_encoder(settings["encoder"])}
    message = f"^format llava: the original's code knows no {unknown}; the folder that `llava-pl import` makes holds"
    with pytest.raises(InputError, match=message):
        carry(make_llava(**settings), tmp_path / "x", "llava")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("family", "settings"), [("mistral", {"max_length": 4}), ("smollm2", {}), ("llama_2", {})])
def test_families_that_its_code_knows_come_back(make_llava, tmp_path, assert_same, family, settings):
    llava = make_llava(family=family, **settings)
    carry(llava, tmp_path / "x", "llava")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    kind = "mistral" if family == "mistral" else "llama"
    assert (config["model_type"], config["architectures"]) == (f"llava_{kind}", [f"Llava{kind.title()}ForCausalLM"])
    found = load_pretrained(tmp_path / "x")
    assert_same(found, llava)
    assert all(torch.equal(*pair) for pair in zip(probe(found.model), probe(llava.model), strict=True))
    assert read_decoder_config(tmp_path / "x").hidden_size == 32


def test_heads_of_a_width_of_their_own_are_unknown_to_it(llava):
    spec = describe(llava.model, "mlp2x_gelu", {})
    assert find_unknown(spec, llava.settings) is None
    spec = replace(spec, decoder={**spec.decoder, "head_dim": 16})
    assert find_unknown(spec, llava.settings) == "attention heads of width 16"


@pytest.mark.parametrize("family", ["llama_3", "mistral", "qwen2_tied", "qwen3", "mpt"])
@pytest.mark.parametrize("embeddings", ["frozen", "new_tokens"])
def test_a_projector_is_written_of_every_decoder(run, make_decoder, tiny_parts, tmp_path, family, embeddings):
    """With the rows of new tokens in any case, or nobody could ask as training did."""
    decoder = {"path": str(make_decoder(family)), "attention": "eager" if family == "mpt" else "sdpa"}
    plan, data = TrainablePlan(embeddings=embeddings), {"image_start_end": True}
    module, path = run(f"{family}_{embeddings}", decoder=decoder, stage="align", trainable=plan, data=data)
    carry(open_source(path), tmp_path / "x", "projector")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert config["model_type"] == f"llava_{module.model.decoder.model.config.model_type}"
    parts = {"base": decoder["path"], "vision_encoder": str(tiny_parts / "encoder")}
    found, live = (open_source(place, **parts) for place in (tmp_path / "x", path))
    assert found.model.state_dict().keys() == live.model.state_dict().keys()
    for name, tensor in live.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor), name
    assert found.tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>"]) == [99, 100]
    # What is imported is a whole model.
    carry(found, tmp_path / "y", "artifact")
    assert all(
        torch.equal(*pair) for pair in zip(probe(load_pretrained(tmp_path / "y").model), probe(live.model), strict=True)
    )


CONNECTORS = {
    "linear": None,
    "mlp3x_gelu": None,
    "pixel_shuffle": {"factor": 2},
    "qformer": {"num_queries": 3, "width": 8, "depth": 2, "num_heads": 2},
    "resampler": {"num_queries": 3, "depth": 1, "num_heads": 2, "head_dim": 4},
    "bridges.Bridge": None,
}


@pytest.fixture
def _bridges(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("outside")
    (folder / "bridges.py").write_text(
        "from torch import nn\n\nclass Bridge(nn.Linear):\n    def __init__(self, vision_width, decoder_width):\n"
        "        super().__init__(vision_width, decoder_width)\n"
        "    def count_image_tokens(self, num_patches):\n        return num_patches\n"
    )
    monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("bridges", None)


@pytest.mark.usefixtures("_bridges")
@pytest.mark.parametrize(("kind", "options"), CONNECTORS.items())
def test_every_connector_is_written_alone(run, tiny_parts, tmp_path, kind, options):
    _, path = run(f"alone_{kind}", stage="align", projector=kind, projector_options=options)
    live = open_source(path)
    carry(live, tmp_path / "x", "projector")
    parts = {"base": tiny_parts / "decoder", "vision_encoder": tiny_parts / "encoder"}
    found = load_pretrained(tmp_path / "x", **parts)
    assert (found.projector, found.projector_options) == (kind, options or {})
    assert found.model.num_image_tokens == live.model.num_image_tokens
    for name, tensor in live.model.projector.state_dict().items():
        assert torch.equal(found.model.projector.state_dict()[name], tensor), name
    assert all(torch.equal(*pair) for pair in zip(probe(found.model), probe(live.model), strict=True))
    if kind == "bridges.Bridge":
        del sys.modules["bridges"]
        with pytest.raises(InputError, match=r"x: its projector is the class bridges.Bridge, whose code would run"):
            load_pretrained(tmp_path / "x", **parts)
        assert load_pretrained(tmp_path / "x", **parts, unsafe=True).projector == kind
