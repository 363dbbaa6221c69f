"""Guards: two forms taken for one that are asked otherwise, words that are not those of training."""

import shutil
from dataclasses import replace

import pytest
from transformers import LlamaForCausalLM

from llava_pl.export.carry import carry, certify, open_source
from llava_pl.export.tokenizer_files import find_tokenizer
from llava_pl.types import InputError


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
