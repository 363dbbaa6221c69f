"""Guards: settings that no model can be built of, found only after gigabytes were read."""

from dataclasses import asdict

import pytest
import torch

from llava_pl.export.model_config import DTYPES, DecoderConfig, ModelConfig, VisionEncoderConfig
from llava_pl.types import InputError


def configure(**settings) -> ModelConfig:
    return ModelConfig(VisionEncoderConfig("encoder", select_layer=-1), DecoderConfig("decoder"), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "nf3"}, r"model.decoder.quantization: expected one of none, nf4, fp4, int8, found 'nf3'"),
        ({"quantization": "nf4", "compute_dtype": "half"}, r"model.decoder.compute_dtype: expected one of float32, "),
        ({"quantization": "int8", "double_quantization": True}, r"is for nf4 and fp4, found quantization int8"),
        ({"double_quantization": True}, r"is for nf4 and fp4, found quantization none"),
    ],
)
def test_quantization_that_means_nothing_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        DecoderConfig("x", **settings)


def test_a_config_of_plain_values_is_the_same():
    config = configure(has_image_marks=True, frozen_dtype="float16")
    assert ModelConfig.of({**asdict(config), "stage": "align"}) == config
    with pytest.raises(KeyError, match="projector"):
        ModelConfig.of({name: value for name, value in asdict(config).items() if name != "projector"})


def test_an_unknown_dtype_is_refused():
    with pytest.raises(InputError, match=r"model\.frozen_dtype: expected one of float32, .*, found 'half'"):
        configure(frozen_dtype="half")


def test_dtypes():
    assert list(DTYPES.items()) == [(name, getattr(torch, name)) for name in ("float32", "bfloat16", "float16")]


def test_nothing_is_recomputed_as_long_as_that_is_to_be_chosen():
    kinds = ("none", "selective", "full", "auto")
    assert [DecoderConfig("x", gradient_checkpointing=kind).recompute for kind in kinds] == [*kinds[:3], "none"]
    with pytest.raises(InputError, match=r"gradient_checkpointing: expected one of none, selective, full, auto, found"):
        DecoderConfig("x", gradient_checkpointing="all")
