"""Guards: a processor that is written although it asks otherwise than training did."""

from dataclasses import replace

import pytest

from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.export.hf_processor import find_difference, make_processor, with_picture_word, without_picture_word
from llava_pl.types import InputError


@pytest.mark.parametrize("settings", [{}, {"image_aspect": "square", "template": "plain"}, {"image_start_end": True}])
def test_a_processor_asks_as_training_did(make_llava, settings):
    llava = make_llava(**settings)
    assert find_difference(llava, make_processor(llava, llava.tokenizer)) is None


def test_llama_s_newer_tokenizer_gets_its_spaces(golden_path, make_llava):
    for legacy in (True, False):
        tokenizer = load_tokenizer(golden_path / "llama2_tokenizer", legacy=legacy)
        llava = replace(make_llava(), tokenizer=tokenizer)
        processor = make_processor(llava, tokenizer)
        assert ("<image> " in processor.chat_template) is not legacy


def test_differences_are_named(make_llava):
    llava = make_llava()
    processor = make_processor(llava, llava.tokenizer)
    other = replace(llava, settings=replace(llava.settings, template="v0"))
    assert find_difference(other, processor).startswith("with 0 pictures, token ")
    other = replace(llava, image_transform=make_llava(image_aspect="square").image_transform)
    assert find_difference(other, processor) == "a picture of 9 x 7 pixels has other pixel values"


def test_what_no_template_can_write_is_refused(llava, monkeypatch):
    from llava_pl.export import hf_processor

    monkeypatch.setattr(hf_processor, "make_chat_template", lambda *_, **__: "{{ messages[0]['role'] }}")
    with pytest.raises(
        InputError, match="format hf: the stock processor does not ask as training did: with 0 pictures"
    ):
        make_processor(llava, llava.tokenizer)


def test_the_word_for_pictures_comes_and_goes(llava):
    known = with_picture_word(llava.tokenizer)
    assert known("<image>a")["input_ids"] == [99, 68]  # one word, and no begin mark
    again = without_picture_word(known, adds_bos=True)
    for text in ("<image>a", "a b</s>"):
        assert again(text)["input_ids"] == llava.tokenizer(text)["input_ids"]
