"""Guards: samples that are made with other settings than the data module was given."""

import pytest

from llava_pl.data.load_encoder import load_encoder
from llava_pl.types import InputError


@pytest.fixture
def settings(tiny_parts, tmp_path):
    return {
        "tokenizer": str(tiny_parts / "decoder"),
        "image_processor": str(tiny_parts / "encoder"),
        "num_image_tokens": 4,
        "image_folder": tmp_path,
        "template": "plain",
        "image_aspect": "pad",
        "image_start_end": False,
        "image_patch_token": False,
        "respect_exif": False,
        "legacy_tokenizer": None,
        "max_length": 77,
        "on_too_long": "drop",
        "tiling": None,
    }


def test_settings_reach_the_encoder(settings, tiny_parts):
    encoder = load_encoder(**settings)
    for name in settings.keys() & {"num_image_tokens", "image_folder", "template", "respect_exif", "max_length"}:
        assert getattr(encoder, name) == settings[name]
    assert (encoder.on_too_long, encoder.image_start_end, encoder.tiling) == ("drop", False, None)
    assert encoder.tokenizer.name_or_path == str(tiny_parts / "decoder")


def test_marks_that_the_tokenizer_lacks_are_added(settings):
    tokenizer = load_encoder(**settings | {"image_start_end": True, "image_patch_token": True}).tokenizer
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer) - 3, len(tokenizer))) == [
        "<im_patch>", "<im_start>", "<im_end>"
    ]  # fmt: skip


@pytest.mark.parametrize(("aspect", "square_by"), [("pad", "pad"), ("square", "square"), ("anyres", "square")])
def test_tiles_are_squares(settings, aspect, square_by):
    assert load_encoder(**settings | {"image_aspect": aspect}).image_transform.aspect == square_by


def test_missing_image_folder(settings, tmp_path):
    with pytest.raises(InputError, match=r"data\.image_folder: .*none: no such folder; check the path"):
        load_encoder(**settings | {"image_folder": tmp_path / "none"})
