"""Guards: two forms with the same weights that read a text, a conversation or a picture in two ways.

Or that are taken for one though they do not, and words that are not those of training.
"""

import shutil
from dataclasses import replace

import pytest
from tokenizers import processors
from transformers import LlamaForCausalLM

from llava_pl.data.image import ImageTransform
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.export.asking import TEXTS, Likeness, check_alike, compare_asking, encode_texts, read_asking
from llava_pl.export.carry import carry, certify, open_source
from llava_pl.export.tokenizer_files import find_tokenizer
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


@pytest.mark.parametrize(
    ("marks", "new"),
    [
        ({}, {}),
        ({"image_start_end": True}, {"<im_start>": 99, "<im_end>": 100}),
        ({"image_patch_token": True}, {"<im_patch>": 99}),
        ({"image_start_end": True, "image_patch_token": True}, {"<im_patch>": 99, "<im_start>": 100, "<im_end>": 101}),
    ],
)
@pytest.mark.parametrize("layout", ["artifact", "llava"])
def test_a_tokenizer_that_is_given_has_the_marks_of_training(run, tiny_parts, tmp_path, layout, marks, new):
    source = open_source(run("given", stage="align", data=marks)[1])
    place = str(tiny_parts / "decoder")
    carry(replace(source, tokenizer=None), tmp_path / "x", layout)
    found = open_source(tmp_path / "x", tokenizer=place)
    assert found.tokenizer.get_vocab() == source.tokenizer.get_vocab()
    assert found.tokenizer.get_vocab().items() >= new.items()
    carry(found, tmp_path / "y", "artifact")
    assert open_source(tmp_path / "y", tokenizer=place).tokenizer.get_vocab() == source.tokenizer.get_vocab()


def test_a_tokenizer_is_not_put_over_another(llava, tiny_parts, tmp_path):
    carry(llava, tmp_path / "x", "artifact")
    words = find_tokenizer(tiny_parts / "decoder")
    words.add_tokens(["in the"])
    words.save_pretrained(tmp_path / "words")
    with pytest.raises(InputError, match=r"x: has its tokenizer already, and .*words is another; leave"):
        open_source(tmp_path / "x", tokenizer=str(tmp_path / "words"))
    carry(replace(llava, tokenizer=None), tmp_path / "y", "artifact")
    with pytest.raises(InputError, match=r"at most 99 words, for which the model has rows, found 100 with .*words"):
        open_source(tmp_path / "y", tokenizer=str(tmp_path / "words"))


def test_certify_tells_one_from_another(make_llava, llava, tmp_path):
    carry(llava, tmp_path / "a", "artifact")
    carry(llava, tmp_path / "b", "hf")
    carry(make_llava(seed=1), tmp_path / "c", "artifact")
    assert certify(tmp_path / "a", tmp_path / "b")[1]
    rows, is_same = certify(tmp_path / "a", tmp_path / "c")
    assert not is_same
    # Another projector: the same to text.
    assert rows[0].logit_difference == 0.0 < rows[1].logit_difference


def test_certify_compares_how_forms_are_asked(make_llava, tmp_path):
    forms = {"a": make_llava(), "b": make_llava(template="v0", image_aspect="square")}
    for name, form in forms.items():
        carry(form, tmp_path / name, "artifact")
    findings, is_same = certify(tmp_path / "a", tmp_path / "b")
    assert not is_same
    assert all(row.logit_difference == 0.0 for row in findings[:4])
    assert [(row.what, row.is_same) for row in findings[4:]] == [
        ("tokenizer", True), ("template", False), ("pictures", False),
    ]  # fmt: skip


def test_certify_says_what_a_form_does_not_hold(golden_llava, tiny_parts, tmp_path):
    carry(open_source(golden_llava, tokenizer=str(tiny_parts / "decoder")), tmp_path / "a", "artifact")
    findings, is_same = certify(golden_llava, tmp_path / "a")
    assert is_same
    assert [str(row) for row in findings[4:]] == [
        f"tokenizer   not compared: {golden_llava} is without one",
        f"template    not compared: {golden_llava} is without one",
        f"pictures    the same pixel values for 3 pictures (pad); {golden_llava} is silent about turning photographs",
    ]


def test_models_with_other_vocabularies_are_asked_for_what_both_know(make_llava, tmp_path):
    small, large = make_llava(), make_llava(image_start_end=True)
    large.model.projector = small.model.projector
    carry(small, tmp_path / "a", "artifact")
    carry(large, tmp_path / "b", "artifact")
    for one, two in (("a", "b"), ("b", "a")):
        findings, is_same = certify(tmp_path / one, tmp_path / two)
        assert [row.logit_difference for row in findings[:4]] == [0.0] * 4
        assert not is_same  # one has words more
        assert [row.is_same for row in findings[4:]] == [False, False, True]


@pytest.mark.parametrize("legacy", [True, False])
def test_a_projector_is_asked_with_the_tokenizer_that_its_run_chose(run, golden_path, tiny_parts, tmp_path, legacy):
    shutil.copytree(tiny_parts / "decoder", tmp_path / "llama")
    for path in (golden_path / "llama2_tokenizer").iterdir():
        shutil.copyfile(path, tmp_path / "llama" / path.name)
    decoder = LlamaForCausalLM.from_pretrained(tmp_path / "llama")
    decoder.resize_token_embeddings(32000, mean_resizing=False)
    decoder.save_pretrained(tmp_path / "llama")
    place = str(tmp_path / "llama")
    _, path = run("llama", stage="align", data={"legacy_tokenizer": legacy}, decoder={"path": place})
    for layout in ("projector", "artifact"):
        carry(open_source(path), tmp_path / layout, layout)
    findings, is_same = certify(
        tmp_path / "projector", tmp_path / "artifact", base=place, vision_encoder=str(tiny_parts / "encoder")
    )
    assert is_same, findings


def test_certify_takes_a_base_for_the_one_that_needs_it(golden_path, tmp_path):
    models = golden_path / "model"
    rows, _ = certify(models / "stage1-mlp2x", models / "llava-mlp2x", base=str(models / "llava-mlp2x"))
    assert rows[0].logit_difference == 0.0
