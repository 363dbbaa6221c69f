"""Guards: a configuration that builds another model than it names."""

import pytest
import torch
from transformers import LlamaForCausalLM

from llava_pl.export.build import DTYPES, DecoderConfig, VisionEncoderConfig, build_model, plan_image_tokens
from llava_pl.types import InputError


def build(tiny_parts, projector="mlp2x_gelu", dtype=torch.float32, has_newline=False, **vision):
    return build_model(
        VisionEncoderConfig(str(tiny_parts / "encoder"), **vision),
        projector,
        DecoderConfig(str(tiny_parts / "decoder")),
        frozen_dtype=dtype,
        has_newline=has_newline,
    )


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
    model = build(tiny_parts, select_layer=-1, select_feature="cls_patch")
    assert model.vision_encoder.model.config.num_hidden_layers == 3
    assert model.num_image_tokens == 5


def test_attention_reaches_the_decoder(tiny_parts):
    vision = VisionEncoderConfig(str(tiny_parts / "encoder"))
    decoder = DecoderConfig(str(tiny_parts / "decoder"), attention="eager")
    model = build_model(vision, "linear", decoder, frozen_dtype=torch.float32)
    assert model.decoder.model.config._attn_implementation == "eager"


def test_projector_is_fresh_and_float32_while_the_rest_is_read_in_the_frozen_dtype(tiny_parts):
    model = build(tiny_parts, dtype=torch.bfloat16)
    dtypes = {name.partition(".")[0]: p.dtype for name, p in model.named_parameters()}
    assert dtypes == {"vision_encoder": torch.bfloat16, "projector": torch.float32, "decoder": torch.bfloat16}


def test_only_a_model_for_tiles_has_a_newline(tiny_parts):
    tiled, whole = build(tiny_parts, has_newline=True, dtype=torch.bfloat16), build(tiny_parts)
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
    parts = VisionEncoderConfig(str(tiny_parts / "encoder")), kind, DecoderConfig(str(tiny_parts / "decoder"))
    model = build_model(*parts, frozen_dtype=torch.float32, projector_options=options)
    assert plan_image_tokens(*parts, options) == model.num_image_tokens
    assert model.encode_images(torch.zeros(1, 3, 16, 16)).shape == (1, model.num_image_tokens, 32)


def test_planning_counts_no_weight(tiny_parts):
    parts = VisionEncoderConfig(str(tiny_parts / "encoder")), "resampler", DecoderConfig(str(tiny_parts / "decoder"))
    before = torch.get_rng_state()
    assert plan_image_tokens(*parts) == 64
    assert torch.equal(torch.get_rng_state(), before)
    assert plan_image_tokens(parts[0], "linear", DecoderConfig("/no/such/folder")) == 4


def test_dtypes():
    assert list(DTYPES.items()) == [(name, getattr(torch, name)) for name in ("float32", "bfloat16", "float16")]


def test_identity_between_different_widths_is_refused(tiny_parts):
    with pytest.raises(InputError, match="found an encoder of 16 and a decoder of 32"):
        build(tiny_parts, projector="identity")
