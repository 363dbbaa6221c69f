"""Guards: a model that is asked with another template than the one that belongs to it."""

import pytest

from llava_pl.export.pretrained import BaseModel


@pytest.mark.parametrize("template", ["vicuna_v1", "plain"])
def test_template_is_that_of_its_data(make_llava, template):
    assert make_llava(template=template).template == template


def test_the_place_of_a_base_is_no_part_of_what_it_is():
    assert BaseModel("x", "ab", path="/here") == BaseModel("x", "ab", path="/there")
