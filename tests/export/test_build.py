"""Guards: a configuration that builds another model than it names."""

import json
import shutil

import pytest
import torch
from transformers import LlamaForCausalLM

from llava_pl.export.build import build_model, plan_image_tokens
from llava_pl.export.model_config import DTYPES, DecoderConfig, ModelConfig, VisionEncoderConfig
from llava_pl.models.quantization import is_quantized
from llava_pl.types import InputError


def configure(tiny_parts, vision=None, decoder=None, **settings) -> ModelConfig:
    return ModelConfig(
        VisionEncoderConfig(str(tiny_parts / "encoder"), **(vision or {})),
        DecoderConfig(str(tiny_parts / "decoder"), **(decoder or {})),
        **settings,
    )


def build(tiny_parts, **settings):
    return build_model(configure(tiny_parts, **settings))


def test_widths_fit_together(tiny_parts):
    model = build(tiny_parts)
    assert [tuple(p.shape) for p in model.projector.parameters()] == [(32, 16), (32,), (32, 32), (32,)]
    assert model.encode_images(torch.zeros(2, 3, 16, 16)).shape == (2, 4, 32)


def test_defaults_are_those_of_llava_1_5(tiny_parts):
    config = VisionEncoderConfig("x")
    assert (config.select_layer, config.select_feature) == (-2, "patch")
    assert DecoderConfig("x").attention == "sdpa"
    assert build(tiny_parts).vision_encoder.model.config.num_hidden_layers == 2


def test_settings_reach_the_encoder(tiny_parts):
    model = build(tiny_parts, vision={"select_layer": -1, "select_feature": "cls_patch"})
    assert model.vision_encoder.model.config.num_hidden_layers == 3
    assert model.num_image_tokens == 5


def test_attention_reaches_the_decoder(tiny_parts):
    model = build(tiny_parts, decoder={"attention": "eager"})
    assert model.decoder.model.config._attn_implementation == "eager"


def test_projector_is_fresh_and_float32_while_the_rest_is_read_in_the_frozen_dtype(tiny_parts):
    model = build(tiny_parts, frozen_dtype="bfloat16")
    dtypes = {name.partition(".")[0]: p.dtype for name, p in model.named_parameters()}
    assert dtypes == {"vision_encoder": torch.bfloat16, "projector": torch.float32, "decoder": torch.bfloat16}


QUANTIZED = [
    {"quantization": "nf4"},
    {"quantization": "nf4", "double_quantization": True, "compute_dtype": "float32"},
    {"quantization": "fp4", "compute_dtype": "float16"},
    {"quantization": "int8"},
]


@pytest.mark.parametrize("settings", QUANTIZED)
def test_decoder_blocks_are_quantized_and_nothing_else(tiny_parts, settings):
    model = build(tiny_parts, decoder=settings, projector="linear", frozen_dtype="bfloat16", has_image_marks=True)
    quantized = {name: module for name, module in model.named_modules() if is_quantized(module)}
    assert len(quantized) == 2 * 7
    assert all(name.startswith("decoder.model.model.layers.") for name in quantized)
    if settings["quantization"] != "int8":
        state = quantized["decoder.model.model.layers.0.mlp.up_proj"].weight.quant_state
        assert (state.quant_type, state.nested) == (
            settings["quantization"], settings.get("double_quantization", False)
        )  # fmt: skip
        compute = {module.compute_dtype for module in quantized.values()}
        assert compute == {DTYPES[settings.get("compute_dtype", "bfloat16")]}
    # The rest of the decoder is float32 as peft prepares it; the encoder stays as it was read.
    assert model.decoder.head.weight.dtype == model.decoder.embedding.weight.dtype == torch.float32
    assert {parameter.dtype for parameter in model.vision_encoder.parameters()} == {torch.bfloat16}
    assert model.projector.weight.dtype == torch.float32
    assert model.decoder.num_embeddings == 101


def test_a_decoder_in_the_originals_layout_is_quantized_too(golden_path):
    vision = VisionEncoderConfig(str(golden_path / "model" / "clip-mlp2x-patch14-56"))
    decoder = DecoderConfig(str(golden_path / "model" / "llava-mlp2x"), quantization="nf4")
    model = build_model(ModelConfig(vision, decoder))
    assert any(is_quantized(module) for module in model.decoder.modules())


def test_weights_that_are_quantized_already_are_refused(tiny_parts, tmp_path):
    """They would be trained as they are, whatever the configuration says."""
    shutil.copytree(tiny_parts / "decoder", tmp_path / "decoder")
    path = tmp_path / "decoder" / "config.json"
    settings = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    decoder = DecoderConfig(str(tmp_path / "decoder"))
    with pytest.raises(InputError, match=r"decoder.path: .*: its weights are quantized; give those that they were"):
        build_model(ModelConfig(VisionEncoderConfig(str(tiny_parts / "encoder")), decoder))


@pytest.mark.parametrize(
    ("settings", "ids"),
    [
        ({}, ()),
        ({"has_patch_token": True}, (99,)),
        ({"has_image_marks": True}, (99, 100)),
        ({"has_image_marks": True, "has_patch_token": True}, (99, 100, 101)),
    ],
)
def test_the_decoder_has_rows_for_what_the_data_module_adds(tiny_parts, settings, ids):
    model = build(tiny_parts, **settings)
    assert model.new_token_ids == ids
    assert model.decoder.num_embeddings == 99 + len(ids)


def test_only_a_model_for_tiles_has_a_newline(tiny_parts):
    tiled, whole = build(tiny_parts, has_newline=True, frozen_dtype="bfloat16"), build(tiny_parts)
    assert (tiled.image_newline.shape, tiled.image_newline.dtype) == ((32,), torch.float32)
    assert tiled.state_dict().keys() - whole.state_dict().keys() == {"image_newline"}


def test_decoder_has_its_folder_s_weights(tiny_parts):
    expected = LlamaForCausalLM.from_pretrained(tiny_parts / "decoder").state_dict()
    found = build(tiny_parts).decoder.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


KINDS = {
    "linear": {},
    "pixel_shuffle": {"factor": 2},
    "qformer": {"num_queries": 3, "width": 8, "depth": 1, "num_heads": 2},
    "resampler": {"num_queries": 5, "depth": 1, "num_heads": 2, "head_dim": 4},
}


@pytest.mark.parametrize(("kind", "options"), KINDS.items())
def test_planned_image_tokens_are_those_of_the_model(tiny_parts, kind, options):
    config = configure(tiny_parts, projector=kind, projector_options=options)
    model = build_model(config)
    assert plan_image_tokens(config) == model.num_image_tokens
    assert model.encode_images(torch.zeros(1, 3, 16, 16)).shape == (1, model.num_image_tokens, 32)


def test_planning_counts_no_weight(tiny_parts):
    before = torch.get_rng_state()
    assert plan_image_tokens(configure(tiny_parts, projector="resampler")) == 64
    assert torch.equal(torch.get_rng_state(), before)
    vision = VisionEncoderConfig(str(tiny_parts / "encoder"))
    assert plan_image_tokens(ModelConfig(vision, DecoderConfig("/no/such/folder"))) == 4


def test_identity_between_different_widths_is_refused(tiny_parts):
    with pytest.raises(InputError, match="found an encoder of 16 and a decoder of 32"):
        build(tiny_parts, projector="identity")
