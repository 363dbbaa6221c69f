"""Guards: names or settings of the original's files read under a wrong meaning."""

import json

import pytest
import torch

from llava_pl.export.original import (
    OriginalConfig,
    decoder_weights,
    encoder_weights,
    find_newline,
    is_original,
    projector_weights,
    read_original_config,
)
from llava_pl.types import InputError

SETTINGS = {
    "model_type": "llava_llama", "hidden_size": 64, "image_aspect_ratio": "pad", "mm_hidden_size": 48,
    "mm_projector_type": "mlp2x_gelu", "mm_use_im_start_end": True, "mm_vision_select_feature": "cls_patch",
    "mm_vision_select_layer": -2, "mm_vision_tower": "clip", "vocab_size": 256,
}  # fmt: skip


def write(folder, content):
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_settings(tmp_path):
    assert read_original_config(write(tmp_path, SETTINGS)) == OriginalConfig(
        vision_encoder="clip",
        projector="mlp2x_gelu",
        select_layer=-2,
        select_feature="cls_patch",
        aspect="pad",
        decoder={"hidden_size": 64, "vocab_size": 256},
        has_marks=True,
    )


def test_defaults_are_the_original_s(tmp_path):
    config = read_original_config(write(tmp_path, {"model_type": "llava", "mm_vision_tower": "clip"}))
    # LLaVA: build_vision_projector's default is linear; a config without an aspect ratio crops.
    assert config == OriginalConfig("clip", "linear", -1, "patch", "square", {})


ANYRES = {
    **SETTINGS, "image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
    "image_grid_pinpoints": [[336, 672], [672, 336]],
}  # fmt: skip


def test_settings_of_tiled_pictures(tmp_path):
    config = read_original_config(write(tmp_path, ANYRES))
    assert (config.aspect, config.pinpoints) == ("anyres", ((336, 672), (672, 336)))
    assert config.decoder == {"hidden_size": 64, "vocab_size": 256}
    # The original does not look at them otherwise.
    assert read_original_config(write(tmp_path, {**ANYRES, "image_aspect_ratio": "pad"})).pinpoints == ()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"image_aspect_ratio": "anyres_max_9"}, "image_aspect_ratio: expected pad, square or anyres, found 'anyres_m"),
        ({"mm_patch_merge_type": "flat"}, "mm_patch_merge_type: expected spatial_unpad with anyres, found 'flat'"),
        ({"mm_patch_merge_type": "spatial"}, "mm_patch_merge_type: expected spatial_unpad with anyres, found 'spatial"),
        ({"image_grid_pinpoints": None}, r"image_grid_pinpoints: expected a list of .width, height., found None"),
        ({"image_grid_pinpoints": "(1x1)"}, "image_grid_pinpoints: expected a list of .width, height., found '.1x1.'"),
        ({"image_grid_pinpoints": [[336, 672], [336]]}, "image_grid_pinpoints: expected a list of"),
        ({"image_grid_pinpoints": [[336, 67.2]]}, "image_grid_pinpoints: expected a list of"),
    ],
)
def test_tiles_that_are_not_put_together_here_are_refused(tmp_path, changes, found):
    with pytest.raises(InputError, match=f"config.json: {found}"):
        read_original_config(write(tmp_path, {**ANYRES, **changes}))


def test_tower_that_was_trained_too(tmp_path):
    assert read_original_config(write(tmp_path, {**SETTINGS, "unfreeze_mm_vision_tower": True})).has_own_encoder
    assert not read_original_config(write(tmp_path, SETTINGS)).has_own_encoder
    prefix, tensor = "model.vision_tower.vision_tower.", torch.ones(2)
    weights = {f"{prefix}vision_model.pre_layrnorm.bias": tensor, "model.norm.weight": torch.zeros(1)}
    assert encoder_weights(weights) == {"pre_layrnorm.bias": tensor}


def test_newline_with_and_without_the_outer_module():
    newline = torch.ones(2)
    assert find_newline({"model.image_newline": newline, "x": torch.zeros(1)}) is newline
    assert find_newline({"image_newline": newline}) is newline
    assert find_newline({"x": newline}) is None


@pytest.mark.parametrize("variant", ["mlp2x", "gqa-linear"])
def test_settings_of_real_folders(golden_path, variant):
    for kind in ("llava", "stage1"):
        folder = golden_path / "model" / f"{kind}-{variant}"
        assert is_original(folder)
        config = read_original_config(folder)
        assert config.vision_encoder == f"clip-{variant}-patch14-56"
        assert config.projector == {"mlp2x": "mlp2x_gelu", "gqa-linear": "linear"}[variant]
        assert config.select_feature == {"mlp2x": "patch", "gqa-linear": "cls_patch"}[variant]
        assert config.decoder["num_key_value_heads"] == {"mlp2x": 4, "gqa-linear": 2}[variant]
        assert not [name for name in config.decoder if name.startswith("mm_")]


@pytest.mark.parametrize("model_type", ["llava_mpt", "opt", None])
def test_other_variants_are_refused(tmp_path, model_type):
    write(tmp_path, {**SETTINGS, "model_type": model_type})
    message = (
        f"config.json: expected model_type 'llava_llama' or 'llava_mistral' with mm_vision_tower, found {model_type!r}"
    )
    with pytest.raises(InputError, match=message):
        read_original_config(tmp_path)


def test_transformers_llava_is_not_the_original(tmp_path):
    write(tmp_path, {"model_type": "llava", "vision_config": {}, "text_config": {}})
    assert not is_original(tmp_path)
    with pytest.raises(InputError, match="with mm_vision_tower, found 'llava'"):
        read_original_config(tmp_path)


def test_folders_without_a_readable_config(tmp_path):
    assert not is_original(tmp_path)
    assert not is_original(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"config.json: cannot be read"):
        read_original_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json: invalid JSON at line 1"):
        is_original(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mm_vision_select_feature", "cls"),
        ("mm_vision_tower", None),
    ],
)
def test_a_setting_that_means_nothing_is_refused(tmp_path, field, value):
    """The original raises for an unknown feature; taken for "patch" here, it would keep the class token."""
    write(tmp_path, {**SETTINGS, field: value})
    with pytest.raises(InputError, match=field):
        read_original_config(tmp_path)


def test_projector_names_with_and_without_the_outer_module():
    tensors = {"0.weight": torch.zeros(2, 3), "0.bias": torch.ones(2)}
    for prefix in ("model.mm_projector.", "mm_projector."):
        weights = {prefix + name: tensor for name, tensor in tensors.items()} | {"model.norm.weight": torch.zeros(1)}
        found = projector_weights(weights, "x")
        assert found.keys() == tensors.keys()
        assert all(found[name] is tensor for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("weights", "found"),
    [({}, "none at all"), ({"lm_head.weight": torch.zeros(1)}, "1 others, such as 'lm_head.weight'")],
)
def test_no_projector(weights, found):
    with pytest.raises(InputError, match=rf"here: expected tensors named 'model.mm_projector.\*', found {found}"):
        projector_weights(weights, "here")


def test_decoder_weights_are_what_is_left():
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"]
    others = [
        "model.mm_projector.0.weight",
        "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding",
        "model.image_newline",
    ]
    weights = {name: torch.zeros(1) for name in [*others, *names]}
    assert list(decoder_weights(weights)) == names
