"""Guards: a card that tells users to do what gives other answers."""

from dataclasses import replace

import pytest

from llava_pl.export.card import LOADING, make_card
from llava_pl.export.certificate import Comparison
from llava_pl.export.pretrained import BaseModel

ROWS = [Comparison("text", 0.25, 8.0, 0.5), Comparison("each word", 0.5, 8.0, 0.25)]


@pytest.mark.parametrize("layout", LOADING)
def test_it_says_what_the_model_is_and_what_was_checked(llava, layout):
    text = make_card(llava, layout, "my-llava", ROWS)
    assert text.startswith("---\nlibrary_name: ")
    for words in ("# my-llava", "vicuna_v1", "4 image tokens", "within 0.25", "50.0% of the words"):
        assert words in text
    assert "FOLDER" not in text


def test_bases_are_named_where_the_hub_knows_them(llava):
    bases = {"decoder": BaseModel("lmsys/vicuna-7b-v1.5"), "vision_encoder": BaseModel("clip")}
    text = make_card(replace(llava, origin=replace(llava.origin, bases=bases)), "artifact", "x", ROWS)
    head = text.split("---")[1]
    assert "base_model:\n- lmsys/vicuna-7b-v1.5\n" in head
    assert "- clip" not in head


def test_what_the_stock_processor_cannot_do_is_said_aloud(make_llava):
    assert "does not turn photographs upright" in make_card(make_llava(), "hf", "x", ROWS)
    assert "does not turn" not in make_card(make_llava(respect_exif=False), "hf", "x", ROWS)
    assert "With torchvision it resizes by other code" in make_card(make_llava(respect_exif=False), "hf", "x", ROWS)


def test_what_the_original_s_code_cannot_read_is_said(make_llava):
    words = "The original's code cannot read this folder: it knows no decoder of mpt."
    for layout in ("lora", "projector"):
        assert words in make_card(make_llava(family="mpt"), layout, "x", ROWS)
        assert "cannot read" not in make_card(make_llava(), layout, "x", ROWS)
    assert "cannot read" not in make_card(make_llava(family="mpt"), "artifact", "x", ROWS)
