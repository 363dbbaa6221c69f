"""Guards: names that outside readers do not find, a model that transformers computes otherwise, lost rows."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from llava_pl import load_pretrained
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.tokenization import encode_conversation
from llava_pl.export.carry import carry
from llava_pl.export.certificate import probe
from llava_pl.export.hf import inside_names, is_hf, outside_names, probe_stock
from llava_pl.types import InputError

OUTSIDE = {
    "vision_tower.vision_model.embeddings.class_embedding",
    "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
    "vision_tower.vision_model.pre_layrnorm.weight",
    "multi_modal_projector.linear_1.weight",
    "multi_modal_projector.linear_2.bias",
    "language_model.model.embed_tokens.weight",
    "language_model.model.layers.1.mlp.up_proj.weight",
    "language_model.model.norm.weight",
    "language_model.lm_head.weight",
}
"""As in llava-hf's repositories: what transformers 4, vLLM, SGLang and converters look for."""


@pytest.fixture
def folder(llava, tmp_path):
    carry(llava, tmp_path / "x", "hf")
    return tmp_path / "x"


def change(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    (folder / "manifest.json").unlink(missing_ok=True)


def test_names_are_those_that_outside_readers_look_for(folder):
    names = load_file(folder / "model.safetensors").keys()
    assert names >= OUTSIDE
    beginnings = ("vision_tower.vision_model.", "multi_modal_projector.linear_", "language_model.")
    assert all(name.startswith(beginnings) for name in names)


FAMILIES = ["llama_2", "llama_3", "mistral", "qwen2", "qwen2_tied", "qwen3", "smollm2"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_aspect": "square"},
        {"select_feature": "cls_patch"},
        *({"family": family, "template": "chat"} for family in FAMILIES),
        {"family": "qwen2_tied", "image_start_end": True},
    ],
    ids=str,
)
def test_stock_class_and_processor_give_logits_and_pixels_of_training(make_llava, tmp_path, assert_same, settings):
    """The same prompt and pictures through both, from text and files to logits."""
    llava = make_llava(**settings)
    carry(llava, tmp_path / "x", "hf")
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "x").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "x")
    pictures = [Image.effect_noise(size, 90).convert("RGB") for size in ((31, 20), (20, 44))]
    for number in (0, 1, 2):
        text = "<image>\n" * number + "What differs?"
        content = [{"type": "image"}] * number + [{"type": "text", "text": "What differs?"}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=prompt, images=pictures[:number] or None, return_tensors="pt")
        with torch.inference_mode():
            found = model(**inputs).logits
        ids = encode_conversation(
            [{"from": "human", "value": text}],
            llava.tokenizer,
            template=llava.template,
            num_image_tokens=llava.model.num_image_tokens if number else 0,
            image_start_end=llava.settings.image_start_end,
            is_prompt=True,
        ).input_ids[None]
        pixels = torch.stack([llava.image_transform(picture) for picture in pictures[:number]]) if number else None
        if number:
            assert torch.equal(inputs["pixel_values"], pixels)
        with torch.inference_mode():
            expected = llava.model(ids, pixels).logits
        assert torch.equal(found[..., : expected.shape[-1]], expected)
    assert_same(load_pretrained(tmp_path / "x"), llava)


def test_rotary_frequencies_are_told_as_each_version_of_transformers_asks(make_llava, tmp_path):
    carry(make_llava(family="llama_3"), tmp_path / "x", "hf")
    text = json.loads((tmp_path / "x" / "config.json").read_text())["text_config"]
    plain = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    plain["original_max_position_embeddings"] = 8
    assert text["rope_parameters"] == {**plain, "rope_theta": 500000.0}
    assert (text["rope_theta"], text["rope_scaling"]) == (500000.0, plain)


def test_the_word_for_pictures_is_never_said(folder, llava):
    """Its row is the mean of the others: its logit is their mean, which is not the largest."""
    weights = load_file(folder / "model.safetensors")
    for name, table in (("lm_head", llava.model.decoder.head), ("model.embed_tokens", llava.model.decoder.embedding)):
        written = weights[f"language_model.{name}.weight"]
        assert torch.equal(written[:-1], table.weight)
        assert torch.equal(written[-1], table.weight.mean(0))
    assert (len(written), probe_stock(folder, 99)[0].shape[-1]) == (100, 100)


@pytest.mark.parametrize("version", [4, 5])
def test_names_of_both_versions_of_transformers_are_read(folder, llava, assert_same, version, tmp_path):
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    if version == 5:
        model.save_pretrained(tmp_path / "five")
        save_file(dict(model.state_dict()), folder / "model.safetensors", {"format": "pt"})
        (folder / "manifest.json").unlink()
    found = load_pretrained(folder)
    rows = 100 if version == 5 else 99  # without a manifest nobody knows that the last row was added
    assert found.model.decoder.num_embeddings == rows
    for one, two in zip(probe(found.model, 99), probe(llava.model), strict=True):
        assert torch.equal(one[:, :99], two)


def test_a_freshly_composed_model_is_read(folder, llava, tmp_path):
    """Transformers 5 writes such a one without `vision_model` in its names."""
    model = LlavaForConditionalGeneration(LlavaForConditionalGeneration.from_pretrained(folder).config)
    model.load_state_dict(LlavaForConditionalGeneration.from_pretrained(folder).state_dict())
    model.save_pretrained(tmp_path / "fresh")
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path / "fresh")
    found = load_pretrained(tmp_path / "fresh")
    for one, two in zip(probe(found.model, 99), probe(llava.model), strict=True):
        assert torch.equal(one[:, :99], two)


def test_a_layer_stands_above_the_one_that_is_used(folder, llava):
    """As in llava-hf's own folders: of the last layer, some readers give what the encoder's last norm makes of it."""
    config = json.loads((folder / "config.json").read_text())
    assert (config["vision_feature_layer"], config["vision_config"]["num_hidden_layers"]) == (-2, 3)
    weights = load_file(folder / "model.safetensors")
    above = {name for name in weights if "vision_model.encoder.layers.2." in name}
    assert above
    save_file({n: t + (n in above) for n, t in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "manifest.json").unlink()
    assert all(torch.equal(a[:, :99], b) for a, b in zip(probe_stock(folder, 99), probe(llava.model), strict=True))
    found = load_pretrained(folder)
    assert len(found.model.vision_encoder.model.encoder.layers) == 2
    assert found.origin.bases["vision_encoder"].select_layer == -2
    pairs = zip(probe(found.model, 99), probe(llava.model), strict=True)
    assert all(torch.equal(one[:, :99], two) for one, two in pairs)


def test_an_encoder_that_ends_at_the_layer_that_is_used_is_read(folder, llava):
    """As this project has written them before."""
    config, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "vision_model.encoder.layers.2." not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    change(folder, vision_config={**config["vision_config"], "num_hidden_layers": 2}, vision_feature_layer=-1)
    found = load_pretrained(folder)
    assert all(torch.equal(a[:, :99], b) for a, b in zip(probe(found.model, 99), probe(llava.model), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llava_next"}, "expected model_type 'llava', found 'llava_next'"),
        ({"vision_feature_layer": [-2, -5]}, r"expected one vision_feature_layer, .* found \[-2, -5\]"),
        ({"projector_hidden_act": "relu"}, "a projector of gelu with biases"),
        ({"vision_feature_layer": -9}, "vision_encoder.select_layer: expected"),
    ],
)
def test_other_models_are_refused(folder, changes, message):
    change(folder, **changes)
    with pytest.raises(InputError, match=message):
        load_pretrained(folder)


def test_what_the_stock_class_cannot_hold_is_refused(make_llava, tmp_path, golden_llava):
    with pytest.raises(InputError, match="format hf: expected projector mlp2x_gelu, found 'linear'"):
        carry(make_llava(projector="linear"), tmp_path / "x", "hf")
    with pytest.raises(InputError, match=r"format hf: .* has no place for a decoder of mpt; the folder that `llava-pl"):
        carry(make_llava(family="mpt"), tmp_path / "x", "hf")
    with pytest.raises(InputError, match=r"format hf: the model has no tokenizer, .* give it with --tokenizer"):
        carry(load_pretrained(golden_llava), tmp_path / "x", "hf")
    assert list(tmp_path.iterdir()) == []


def test_names_are_a_map_without_doubles(llava):
    weights = dict.fromkeys(llava.model.state_dict(), torch.ones(1))
    assert inside_names(outside_names(weights), "x").keys() == weights.keys()
    one, two = "language_model.model.norm.weight", "model.language_model.norm.weight"
    with pytest.raises(InputError, match="is there twice, under the names of two versions"):
        inside_names({one: torch.ones(1), two: torch.ones(1)}, "x")
    with pytest.raises(InputError, match="tensor 'image_newline' is none of a llava-hf model"):
        inside_names({"image_newline": torch.ones(1)}, "x")


def test_files_decide_what_a_folder_is(folder, tmp_path):
    assert is_hf(folder)
    assert not is_hf(tmp_path)


def test_the_tokenizer_comes_back_as_it_was(golden_path, make_llava, tmp_path):
    """LLaMA's own: the begin mark is its to add again, and <image> is three words again."""
    from dataclasses import replace

    llava = make_llava()
    tokenizer = load_tokenizer(golden_path / "llama2_tokenizer", legacy=False)
    llava.model.decoder.model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    carry(replace(llava, tokenizer=tokenizer), tmp_path / "x", "hf")
    again = load_pretrained(tmp_path / "x").tokenizer
    for text in ("Hello  <image> you</s>USER: ", " a\n"):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.init_kwargs["legacy"] is False


@pytest.mark.parametrize("family", ["siglip", "siglip_2"])
@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_siglip_goes_the_whole_way(run, make_encoder, tmp_path, assert_same, family, aspect):
    """Checkpoint -> ours -> hf -> ours: tensors, logits and pixel values; SigLIP-2's pictures are resized otherwise."""
    data = {"image_aspect": aspect}
    _, path = run(f"{family}_{aspect}", encoder=make_encoder(family), data=data, stage="align")
    live = load_pretrained(path, dtype=None)
    pictures = [Image.effect_noise(size, 90).convert("RGB") for size in ((31, 20), (20, 44), (16, 16))]
    place, answers = live, probe(live.model)
    for name, layout in (("a", "artifact"), ("b", "hf"), ("c", "artifact")):
        carry(place, tmp_path / name, layout)
        place = load_pretrained(tmp_path / name, dtype=None)
        assert_same(place, live)
        assert all(torch.equal(*pair) for pair in zip(probe(place.model), answers, strict=True))
        for picture in pictures:
            assert torch.equal(place.image_transform(picture), live.image_transform(picture))
        assert place.settings == live.settings
    processor = AutoProcessor.from_pretrained(tmp_path / "b")
    for picture in pictures:
        (found,) = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
        assert torch.equal(found, live.image_transform(picture))


def test_words_without_a_row_have_no_place(make_llava, tmp_path):
    llava = make_llava()
    rows = llava.model.decoder.num_embeddings
    llava.tokenizer.add_tokens([f"<new{number}>" for number in range(rows + 1 - len(llava.tokenizer))])
    with pytest.raises(
        InputError, match=f"format hf: expected a row .*, found {rows + 1} words .* and {rows} rows; give"
    ):
        carry(llava, tmp_path / "x", "hf")
    assert list(tmp_path.iterdir()) == []
