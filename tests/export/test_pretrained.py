"""Guards: a model that is asked with another template than the one that belongs to it."""

from dataclasses import replace

import pytest

from llava_pl.data.settings import DataSettings
from llava_pl.export.pretrained import BaseModel
from llava_pl.types import InputError


@pytest.mark.parametrize("template", ["vicuna_v1", "plain"])
def test_template_is_that_of_its_data(make_llava, template):
    assert make_llava(template=template).template == template


def test_the_place_of_a_base_is_no_part_of_what_it_is():
    assert BaseModel("x", "ab", path="/here") == BaseModel("x", "ab", path="/there")


def test_encoder_is_that_of_training(make_llava):
    pretrained = make_llava(template="v0", image_start_end=True, respect_exif=False)
    encoder = pretrained.make_encoder()
    assert (encoder.template, encoder.image_start_end, encoder.respect_exif) == ("v0", True, False)
    assert (encoder.num_image_tokens, encoder.tokenizer) == (4, pretrained.tokenizer)
    assert DataSettings.of(encoder) == replace(pretrained.settings, max_length=None, legacy_tokenizer=None)
    with pytest.raises(InputError, match="the model has no tokenizer"):
        replace(pretrained, tokenizer=None).make_encoder()
