"""Guards: two forms with the same weights that read a text, a conversation or a picture in two ways."""

from dataclasses import replace

import pytest
from tokenizers import processors

from llava_pl.data.image import ImageTransform
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.export.asking import TEXTS, Likeness, check_alike, compare_asking, encode_texts, read_asking
from llava_pl.types import InputError


def compare(one, two, *, is_told=(True, True)):
    forms = [read_asking(form, name, is_told=told) for form, name, told in zip((one, two), "ab", is_told, strict=True)]
    return compare_asking(*forms)


def lines(one, two, **options):
    return [(row.what, row.is_same, row.finding) for row in compare(one, two, **options)]


SAME = [
    ("tokenizer", True, "the same ids for 12 texts"),
    ("template", True, "the same 2 prompts (vicuna_v1)"),
    ("pictures", True, "the same pixel values for 3 pictures (pad)"),
]


def test_a_model_is_asked_as_itself(make_llava):
    assert lines(make_llava(), make_llava(seed=1)) == SAME
    assert [str(row) for row in compare(make_llava(), make_llava())] == [
        "tokenizer   the same ids for 12 texts",
        "template    the same 2 prompts (vicuna_v1)",
        "pictures    the same pixel values for 3 pictures (pad)",
    ]


def test_texts_begin_with_what_a_tokenizer_puts_around_nothing(llava):
    assert len(TEXTS) == 12
    ids = encode_texts(llava.tokenizer)
    assert (ids[0], ids[1][:4]) == ([1], [1, *llava.tokenizer.convert_tokens_to_ids(["W", "h", "a"])])
    assert encode_texts(llava.tokenizer, adds_marks=False)[0] == []


def test_another_tokenizer_shows(make_llava, golden_path):
    one, two = make_llava(), make_llava()
    two.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    assert lines(one, two)[0] == ("tokenizer", False, "other ids for 12 of 12 texts, such as ''")
    assert lines(one, two)[1:] == SAME[1:]
    marked = lines(one, make_llava(image_start_end=True))
    assert marked[0] == ("tokenizer", False, "other ids for 1 of 12 texts, such as '<im_patch><im_start> <im_end>'")
    folder = golden_path / "llama2_tokenizer"
    old, new = (replace(one, tokenizer=load_tokenizer(folder, legacy=legacy)) for legacy in (True, False))
    assert lines(old, old)[0] == SAME[0]
    assert lines(old, new)[0][1] is False


def test_another_template_shows(make_llava):
    names = "'user and an artificial i' (vicuna_v1) and 'human and an artificial ' (v0)"
    found = lines(make_llava(), make_llava(template="v0"))[1]
    assert found == ("template", False, f"other prompts, from character 25 on: {names}")
    marks = lines(make_llava(template="mpt"), make_llava(template="mpt", image_start_end=True))[1]
    assert marks[1] is False
    assert marks[2].endswith(r": 'age>\nWhat is  it?<|im_en' (mpt) and '_start><image><im_end>\nW' (mpt)")


def test_templates_of_tokenizers_are_compared(make_llava):
    one, two = make_llava(template="chat"), make_llava(template="chat")
    for form, mark in ((one, "#"), (two, "%")):
        form.tokenizer.chat_template = (
            "{% for m in messages %}{{ '" + mark + "' if m.role == 'user' else '@' }}{{ m.content }}</s>{% endfor %}"
            "{% if add_generation_prompt %}@{% endif %}"
        )
    assert lines(one, one)[1] == ("template", True, "the same 2 prompts (chat)")
    assert lines(one, two)[1][1] is False
    assert lines(one, two)[0] == SAME[0]
    assert lines(one, replace(two, tokenizer=None))[1][1] is None


def test_other_picture_settings_show(make_llava, tiny_parts):
    one = make_llava()
    assert lines(one, make_llava(image_aspect="square"))[2] == ("pictures", False, "pad and square")
    tiled = [make_llava(image_aspect="anyres", grid_pinpoints=sizes) for sizes in (((16, 32),), ((32, 16),))]
    assert lines(*tiled)[2] == ("pictures", False, "anyres of 16 x 32 and anyres of 32 x 16")
    darker = ImageTransform(16, "pad", image_mean=(0.1, 0.1, 0.1))
    other = ("pictures", False, "other pixel values for a picture of 9 x 7")
    assert lines(one, replace(one, image_transform=darker))[2] == other
    assert lines(one, replace(one, image_transform=ImageTransform(8, "pad")))[2] == other
    lying = make_llava(respect_exif=False)
    assert lines(one, lying)[2] == ("pictures", False, "photographs are turned upright for a alone")
    assert lines(lying, one)[2] == ("pictures", False, "photographs are turned upright for b alone")


def test_what_a_form_does_not_tell_is_said_and_no_difference(make_llava):
    one, two = make_llava(), make_llava(template="v0", respect_exif=False)
    silent = "the same pixel values for 3 pictures (pad); b is silent about turning photographs"
    assert lines(one, replace(two, tokenizer=None), is_told=(True, False)) == [
        ("tokenizer", None, "not compared: b is without one"),
        ("template", None, "not compared: b is without one"),
        ("pictures", True, silent),
    ]
    assert lines(one, two, is_told=(False, False))[1][2] == "not compared: a and b are without one"


def test_one_difference_is_one_too_many():
    rows = [Likeness("tokenizer", None, "not compared"), Likeness("template", True, "same")]
    check_alike(rows, "x")
    with pytest.raises(InputError, match="x: not certified: pictures: pad and square; nothing was kept"):
        check_alike([*rows, Likeness("pictures", False, "pad and square")], "x")
