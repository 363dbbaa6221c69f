"""Guards: a copy that is not the model, a half-written folder, a tuning that is lost on the way."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from llava_pl import load_pretrained
from llava_pl.export import carry as carrying
from llava_pl.export.carry import carry, open_source
from llava_pl.export.certificate import compare, probe, questions
from llava_pl.export.tokenizer_files import find_tokenizer
from llava_pl.export.weights import hash_file
from llava_pl.training.stages import TrainablePlan
from llava_pl.types import InputError


def test_every_form_holds_the_same_tensors_and_gives_the_same_logits(golden_llava, tiny_parts, tmp_path, assert_same):
    """Original -> ours -> hf -> ours -> original, bit for bit."""
    source = open_source(golden_llava, tokenizer=str(tiny_parts / "decoder"))
    expected, answers, place = source, probe(source.model), source
    for name, layout in (("a", "artifact"), ("b", "hf"), ("c", "artifact"), ("d", "llava"), ("e", "artifact")):
        rows = carry(place, tmp_path / name, layout)
        assert all(row.logit_difference == 0.0 for row in rows), layout
        place = open_source(tmp_path / name)
        assert_same(place, expected)
        assert all(torch.equal(*pair) for pair in zip(probe(place.model), answers, strict=True))
        assert place.tokenizer.get_vocab() == source.tokenizer.get_vocab()
        assert place.tokenizer("A b")["input_ids"] == source.tokenizer("A b")["input_ids"]
        assert place.settings == source.settings
        assert place.image_transform.processor.to_dict().keys() >= {"size", "crop_size"}
    before, after = (load_file(path / "model.safetensors") for path in (golden_llava, tmp_path / "d"))
    assert after.keys() == {name for name in before if "vision_tower" not in name}
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_rounded_only_when_asked(half_llava, tmp_path, dtype):
    carry(half_llava, tmp_path / "as_is", "artifact")
    dtypes = {name: tensor.dtype for name, tensor in load_file(tmp_path / "as_is" / "model.safetensors").items()}
    assert {kind for name, kind in dtypes.items() if name.startswith("projector")} == {torch.float32}
    assert {kind for name, kind in dtypes.items() if not name.startswith("projector")} == {torch.float16}
    rows = carry(half_llava, tmp_path / "rounded", "artifact", dtype=dtype)
    kinds = {tensor.dtype for tensor in load_file(tmp_path / "rounded" / "model.safetensors").values()}
    assert kinds == {dtype}
    assert any(row.logit_difference > 0 for row in rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["artifact", "hf"])
def test_weights_may_be_widened(llava, tmp_path, layout, dtype):
    """The model answers in the arithmetic of its narrow weights, and the same weights more exactly in a wide one."""
    llava.model.to(dtype)
    rows = carry(llava, tmp_path / "x", layout, dtype=torch.float32)
    assert rows[0].logit_difference > 2e-5 * rows[0].logit_scale  # more than rounding to float32 explains
    assert {tensor.dtype for tensor in load_file(tmp_path / "x" / "model.safetensors").values()} == {torch.float32}


def test_certificate_and_card_say_what_was_checked(llava, tmp_path):
    carry(llava, tmp_path / "x", "hf")
    certificate = json.loads((tmp_path / "x" / "certificate.json").read_text())
    assert certificate["read_back_by"] == "transformers"
    asked = [row["question"] for row in certificate["against_live_model"]]
    assert asked == ["text", "one image", "two images", "each word"]
    assert all(row["token_agreement"] == 1.0 for row in certificate["against_live_model"])
    assert len(certificate["sha256"]["manifest.json"]) == 64
    assert certificate["versions"]["torch"] == torch.__version__
    assert ["decoder.model.", "language_model."] in certificate["key_map"]
    assert [(row["what"], row["is_same"]) for row in certificate["asked_alike"]] == [
        ("tokenizer", True), ("template", True), ("pictures", True),
    ]  # fmt: skip
    assert "vicuna_v1" in (tmp_path / "x" / "README.md").read_text()


@pytest.mark.parametrize("layout", ["artifact", "hf", "llava"])
def test_a_form_that_answers_otherwise_is_removed_and_said(llava, tmp_path, monkeypatch, layout):
    write = carrying._write

    def spoil(pretrained, folder, *arguments, **options):
        write(pretrained, folder, *arguments, **options)
        path = folder / "model.safetensors"
        weights = load_file(path)
        name = next(name for name in weights if name.endswith("layers.1.mlp.down_proj.weight"))
        weights[name] = torch.zeros_like(weights[name])
        save_file(weights, path, {"format": "pt"})
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][path.name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        (folder / "manifest.json").write_text(json.dumps(manifest))  # so that no hash betrays it

    monkeypatch.setattr(carrying, "_write", spoil)
    with pytest.raises(InputError, match=r"x: not certified: on text the logits differ by .* nothing was kept"):
        carry(llava, tmp_path / "x", layout)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_says_what_its_base_says_is_refused(llava, tmp_path):
    """A merge that lost the tuning: the file is the base under another name."""
    answers = probe(llava.model)
    origin = replace(llava.origin, base_answers=answers, trained=("decoder.model.model.layers.0.mlp.up_proj.weight",))
    with pytest.raises(InputError, match=r"not certified: on text .* by 0 alone, as if it had not been trained"):
        carry(replace(llava, origin=origin), tmp_path / "x", "artifact")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def new_words(run):
    """The checkpoint of a run in which the rows of new tokens alone learned."""
    plan = TrainablePlan(projector="frozen", embeddings="new_tokens")
    return run("new_words", trainable=plan, data={"image_start_end": True})[1]


def test_new_tokens_that_learned_alone_must_show(new_words, tmp_path):
    source = open_source(new_words)
    assert source.origin.trained == ("decoder.model.model.embed_tokens.weight",)
    carry(source, tmp_path / "x", "artifact")
    base = json.loads((tmp_path / "x" / "certificate.json").read_text())["against_base"]
    assert base[3]["question"] == "each word"
    assert base[3]["logit_difference"] > 0
    lost = replace(source, origin=replace(source.origin, base_answers=probe(source.model)))
    with pytest.raises(InputError, match="on each word the answers differ from those of the base by 0 alone"):
        carry(lost, tmp_path / "y", "artifact")


def test_new_tokens_go_through_every_form(run, tiny_parts, tmp_path):
    """A base without their rows is asked as it was before they learned."""
    plan = TrainablePlan(embeddings="new_tokens")
    module, path = run("new_words_too", trainable=plan, data={"image_start_end": True, "image_patch_token": True})
    carry(open_source(path), tmp_path / "alone", "projector")
    parts = {"base": str(tiny_parts / "decoder"), "vision_encoder": str(tiny_parts / "encoder")}
    source = open_source(tmp_path / "alone", **parts)
    for live, base in ((probe(module.model), source.origin.base_answers), (source.origin.base_answers, ())):
        assert [len(answer) for answer in live] == [24, 20, 32, 102]
        assert not base or torch.equal(live[3][:99], base[3][:99])
    carry(source, tmp_path / "a", "artifact")
    for layout in ("hf", "llava"):
        carry(open_source(tmp_path / "a"), tmp_path / layout, layout)
        assert all(
            torch.equal(*pair)
            for pair in zip(probe(load_pretrained(tmp_path / layout).model), probe(module.model), strict=True)
        )


def test_spare_rows_that_became_words_are_made_again(run, tiny_parts, tmp_path):
    """A projector's file holds no row of the head; in a padded table the base's own row would stand there."""
    shutil.copytree(tiny_parts / "decoder", tmp_path / "padded")
    decoder = LlamaForCausalLM.from_pretrained(tmp_path / "padded")
    decoder.resize_token_embeddings(107, mean_resizing=False)
    decoder.save_pretrained(tmp_path / "padded")
    plan, place = TrainablePlan(embeddings="new_tokens"), {"path": str(tmp_path / "padded")}
    module, path = run("spare", trainable=plan, data={"image_start_end": True}, decoder=place)
    assert module.model.decoder.num_embeddings == 107
    carry(open_source(path), tmp_path / "alone", "projector")
    found = load_pretrained(tmp_path / "alone", base=tmp_path / "padded", vision_encoder=tiny_parts / "encoder")
    assert all(torch.equal(*pair) for pair in zip(probe(found.model), probe(module.model), strict=True))
    carry(open_source(path), tmp_path / "a", "artifact")
    assert 101 in questions(107, 16, 4)[0][0]  # which is <image> in the next form, and is asked for as a word
    for layout in ("hf", "llava"):
        carry(open_source(tmp_path / "a"), tmp_path / layout, layout)


def test_nothing_is_written_over(llava, tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="x: exists already; choose another place"):
        carry(llava, tmp_path / "x", "artifact")
    assert list((tmp_path / "x").iterdir()) == []


def test_an_interrupted_export_leaves_nothing(llava, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(carrying, "_ask_again", stop)
    for place in (tmp_path / "x", tmp_path / "new" / "newer" / "x"):
        with pytest.raises(KeyboardInterrupt):
            carry(llava, place, "artifact")
    assert list(tmp_path.iterdir()) == []


def test_folders_above_it_are_made(llava, tmp_path):
    carry(llava, tmp_path / "new" / "newer" / "x", "artifact")
    assert list((tmp_path / "new" / "newer").iterdir()) == [tmp_path / "new" / "newer" / "x"]


@pytest.mark.parametrize("layout", ["artifact", "hf", "llava"])
def test_a_form_that_is_asked_otherwise_is_removed_and_said(make_llava, tmp_path, monkeypatch, layout):
    llava, write = make_llava(image_start_end=True), carrying._write  # with rows to spare for one word more
    llava = replace(llava, settings=replace(llava.settings, image_start_end=False))

    def spoil(pretrained, *arguments, **options):
        tokenizer = find_tokenizer(pretrained.origin.bases["decoder"].path)
        tokenizer.add_tokens(["in the"], special_tokens=True)
        write(replace(pretrained, tokenizer=tokenizer), *arguments, **options)

    monkeypatch.setattr(carrying, "_write", spoil)
    with pytest.raises(InputError, match=r"x: not certified: tokenizer: other ids for 2 of 12 texts, such as 'What is"):
        carry(llava, tmp_path / "x", layout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image_aspect", ["square", "anyres"])
def test_settings_of_the_data_travel(make_llava, tmp_path, image_aspect):
    pinpoints = ((16, 32), (32, 16)) if image_aspect == "anyres" else None
    llava = make_llava(image_aspect=image_aspect, grid_pinpoints=pinpoints, template="v0", respect_exif=False)
    carry(llava, tmp_path / "a", "artifact")
    again = load_pretrained(tmp_path / "a")
    assert again.settings == llava.settings
    assert again.image_transform.aspect == "square"
    carry(again, tmp_path / "b", "llava")
    assert load_pretrained(tmp_path / "b").settings == llava.settings
    if image_aspect == "anyres":
        assert again.tiling.pinpoints == pinpoints
        with pytest.raises(
            InputError, match="format hf: expected pictures that are seen whole, found image_aspect anyres"
        ):
            carry(again, tmp_path / "c", "hf")


def test_a_tuned_encoder_survives(make_llava, tmp_path, assert_same):
    llava = make_llava()
    with torch.no_grad():
        for parameter in llava.model.vision_encoder.parameters():
            parameter.add_(0.01)
    place = llava
    for name, layout in (("a", "artifact"), ("b", "hf"), ("c", "llava")):
        carry(place, tmp_path / name, layout)
        shutil.move(tmp_path / name, tmp_path / f"moved-{name}")  # and is found wherever the folder is
        place = open_source(tmp_path / f"moved-{name}")
        assert_same(place, llava)


def test_answers_are_those_of_the_model_not_of_the_file_name(llava, tmp_path):
    carry(llava, tmp_path / "x", "artifact")
    assert compare(probe(load_pretrained(tmp_path / "x").model), probe(llava.model))[2].logit_difference == 0.0
