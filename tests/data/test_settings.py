"""Guards: a model that is asked otherwise than it was trained, because what it was trained with was lost or misread."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pl.data.anyres import Tiling
from llava_pl.data.image import ImageTransform
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.data.settings import DataSettings
from llava_pl.types import InputError


@pytest.fixture
def encoder(tiny_parts) -> SampleEncoder:
    return SampleEncoder(
        tokenizer=load_tokenizer(tiny_parts / "decoder"),
        image_transform=ImageTransform.from_pretrained(tiny_parts / "encoder", aspect="square"),
        image_folder=Path(),
        num_image_tokens=4,
        template="v0",
        image_start_end=True,
        respect_exif=False,
        max_length=77,
    )


def test_settings_of_an_encoder(encoder):
    assert DataSettings.of(encoder) == DataSettings("v0", "square", None, True, False, None, 77)
    tiled = replace(encoder, tiling=Tiling(16, 4, [(16, 32)]))
    assert DataSettings.of(tiled).image_aspect == "anyres"
    assert DataSettings.of(tiled).grid_pinpoints == ((16, 32),)


def test_plain_values_hold_everything():
    settings = DataSettings("mpt", "anyres", ((16, 32), (32, 16)), True, False, False, 9)
    plain = json.loads(json.dumps(settings.to_plain()))
    assert DataSettings.from_plain(plain, "x") == settings


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (None, "x: expected settings of the data .* found NoneType"),
        ({"tempo": 3}, r"x: expected settings of the data .* found \['tempo'\]"),
        ({"template": "v7"}, "x: template: expected one of vicuna_v1, .* found 'v7'"),
        ({"image_aspect": "round"}, "x: image_aspect: expected one of pad, square, anyres, found 'round'"),
        ({"grid_pinpoints": [3]}, "x: "),
        ({"max_length": "nope"}, "x.max_length: expected int or None, found 'nope'"),
        ({"max_length": True}, "x.max_length: expected int or None, found True"),
        ({"image_start_end": 1}, "x.image_start_end: expected bool, found 1"),
        ({"respect_exif": None}, "x.respect_exif: expected bool, found None"),
        ({"legacy_tokenizer": "no"}, "x.legacy_tokenizer: expected bool or None, found 'no'"),
    ],
)
def test_other_things_are_refused(plain, message):
    with pytest.raises(InputError, match=message):
        DataSettings.from_plain(plain, "x")
