"""Guards: a model without weights that is not the model with them, or that takes memory."""

import json

import pytest
import torch

from llava_pl.export.build import DecoderConfig, ModelConfig, VisionEncoderConfig, build_empty_model, build_model
from llava_pl.export.empty_parts import build_empty_decoder, build_empty_encoder
from llava_pl.types import InputError


def shapes(model):
    return [(name, tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()]


@pytest.mark.parametrize(
    "more", [{}, {"has_image_marks": True, "has_patch_token": True}, {"frozen_dtype": "bfloat16", "has_newline": True}]
)
def test_as_the_model_with_weights(tiny_parts, more):
    config = ModelConfig(
        VisionEncoderConfig(str(tiny_parts / "encoder")),
        DecoderConfig(str(tiny_parts / "decoder"), gradient_checkpointing="full"),
        **more,
    )
    empty, real = build_empty_model(config), build_model(config)
    assert shapes(empty) == shapes(real)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    assert empty.new_token_ids == real.new_token_ids
    assert [module.training for module in empty.modules()] == [module.training for module in real.modules()]


def test_no_weights_are_read(tmp_path, tiny_parts):
    for part in ("encoder", "decoder"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text((tiny_parts / part / "config.json").read_text())
    encoder = build_empty_encoder(tmp_path / "encoder", select_layer=-2, select_feature="patch", dtype=torch.bfloat16)
    assert (encoder.num_patches, len(encoder.model.encoder.layers)) == (4, 2)
    decoder = build_empty_decoder(tmp_path / "decoder", dtype=torch.float32, attn_implementation="flash_attention_2")
    assert decoder.width == 32


def test_an_attention_that_the_model_has_not(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mpt", "d_model": 32, "n_heads": 4, "n_layers": 2}))
    with pytest.raises(InputError, match=r"decoder.path: .*cannot be built with attention sdpa"):
        build_empty_decoder(tmp_path, dtype=torch.float32, attn_implementation="sdpa")
