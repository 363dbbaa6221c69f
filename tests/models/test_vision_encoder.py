"""Guards: another layer of the encoder than the selected one is used, or layers above it are run for nothing."""

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Siglip2VisionConfig,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava_pl.export.parts import load_vision_encoder
from llava_pl.models.vision_encoder import VisionEncoder, count_layers_to_run, count_patches
from llava_pl.types import InputError

PICTURES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def whole(tiny_parts) -> CLIPVisionModel:
    return CLIPVisionModel.from_pretrained(tiny_parts / "encoder").eval()


def tiny_config(**changes) -> CLIPVisionConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    return CLIPVisionConfig(**{**sizes, "image_size": 16, "patch_size": 8, **changes})


@pytest.mark.parametrize("select_layer", [-4, -3, -2, -1, 0, 1, 2, 3])
def test_equals_hidden_state_of_the_whole_model_bit_for_bit(tiny_parts, whole, select_layer):
    encoder = load_vision_encoder(tiny_parts / "encoder", select_layer=select_layer).eval()
    with torch.no_grad():
        expected = whole(PICTURES, output_hidden_states=True).hidden_states[select_layer]
        features = encoder(PICTURES)
    assert features.shape == (2, 4, 16)
    assert torch.equal(features, expected[:, 1:])


@pytest.mark.parametrize(("select_layer", "num_layers"), [(-4, 0), (0, 0), (1, 1), (-2, 2), (-1, 3), (3, 3)])
def test_runs_and_keeps_only_the_layers_it_needs(tiny_parts, select_layer, num_layers):
    encoder = load_vision_encoder(tiny_parts / "encoder", select_layer=select_layer)
    layers = [module for module in encoder.modules() if type(module).__name__ == "CLIPEncoderLayer"]
    runs = []
    for layer in layers:
        layer.register_forward_hook(lambda module, *_: runs.append(module))
    with torch.no_grad():
        encoder(PICTURES)
    assert runs == layers
    assert len(layers) == num_layers


@pytest.mark.parametrize("select_feature", ["patch", "cls_patch"])
def test_features_are_in_one_piece_as_those_of_a_store_are(tiny_parts, select_feature):
    """A linear map of a slice of several pictures may round otherwise than that of a copy."""
    encoder = load_vision_encoder(tiny_parts / "encoder", select_feature=select_feature).eval()
    assert encoder(PICTURES).is_contiguous()


def test_cls_patch_keeps_the_class_token_in_front(tiny_parts, whole):
    encoder = load_vision_encoder(tiny_parts / "encoder", select_layer=-1, select_feature="cls_patch").eval()
    with torch.no_grad():
        features = encoder(PICTURES)
        expected = whole(PICTURES, output_hidden_states=True).hidden_states[-1]
    assert features.shape == (2, 5, 16)
    assert torch.equal(features, expected)


@pytest.mark.parametrize(("select_feature", "expected"), [("patch", 4), ("cls_patch", 5)])
def test_number_of_patches_is_what_a_picture_gives(tiny_parts, select_feature, expected):
    encoder = load_vision_encoder(tiny_parts / "encoder", select_feature=select_feature)
    with torch.no_grad():
        assert encoder(PICTURES).shape[1] == encoder.num_patches == expected


def test_patches_of_llava_1_5():
    config = CLIPVisionConfig(image_size=336, patch_size=14)
    assert (count_patches(config, "patch"), count_patches(config, "cls_patch")) == (576, 577)


def test_width_and_dtype_are_the_encoder_s(tiny_parts):
    encoder = load_vision_encoder(tiny_parts / "encoder", dtype=torch.bfloat16)
    with torch.no_grad():
        features = encoder(PICTURES)
    assert encoder.width == features.shape[-1] == 16
    assert features.dtype == torch.bfloat16


def test_pictures_do_not_influence_each_other(tiny_parts):
    encoder = load_vision_encoder(tiny_parts / "encoder").eval()
    with torch.no_grad():
        together, alone = encoder(PICTURES), torch.cat([encoder(picture[None]) for picture in PICTURES])
    # The largest difference seen was 3e-7 (another batch size, another order of summing); features are of order 1.
    torch.testing.assert_close(together, alone, atol=5e-6, rtol=0)


@pytest.mark.parametrize("select_layer", [-5, 4, 24])
def test_a_layer_that_does_not_exist_is_refused(tiny_parts, select_layer):
    message = f"vision_encoder.select_layer: expected -4 to 3 for an encoder of 3 layers, found {select_layer}"
    with pytest.raises(InputError, match=message):
        load_vision_encoder(tiny_parts / "encoder", select_layer=select_layer)


@pytest.mark.parametrize(
    ("select_layer", "expected"), [(-25, 0), (-24, 1), (-2, 23), (-1, 24), (0, 0), (1, 1), (23, 23), (24, 24)]
)
def test_count_of_layers(select_layer, expected):
    assert count_layers_to_run(24, select_layer) == expected


@pytest.mark.parametrize("select_layer", [-26, 25])
def test_count_of_layers_out_of_range(select_layer):
    with pytest.raises(InputError, match=f"found {select_layer}"):
        count_layers_to_run(24, select_layer)


def test_pictures_that_are_not_square_are_refused():
    config = tiny_config()
    config.image_size = [16, 24]
    with pytest.raises(InputError, match=r"expected square pictures and patches, found \[16, 24\] and 8"):
        count_patches(config, "patch")


def test_features_are_those_of_the_model_that_is_given():
    torch.manual_seed(1)
    model = CLIPVisionModel(tiny_config(num_hidden_layers=1)).eval()
    with torch.no_grad():
        assert torch.equal(VisionEncoder(model)(PICTURES), model(PICTURES).last_hidden_state[:, 1:])


@pytest.mark.parametrize(("image_size", "patch_size"), [(16, 8), (24, 8), (30, 7), (32, 4)])
def test_clip_of_any_size(tmp_path, image_size, patch_size):
    CLIPVisionModel(tiny_config(image_size=image_size, patch_size=patch_size)).save_pretrained(tmp_path)
    encoder = load_vision_encoder(tmp_path)
    with torch.no_grad():
        features = encoder(torch.zeros(1, 3, image_size, image_size))
    assert features.shape == (1, encoder.num_patches, 16)
    assert encoder.num_patches == (image_size // patch_size) ** 2


# A picture of 30 pixels does not divide into patches of 8: as 384 into 14, the rest is left out.
SIGLIP = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 30,
    "patch_size": 8,
}  # fmt: skip
LARGER_PICTURES = torch.randn(2, 3, 30, 30, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["vision", "whole"])
def siglip(request, tmp_path):
    """A folder of a SigLIP vision model or of a whole SigLIP, and the vision model that is in it."""
    torch.manual_seed(0)
    if request.param == "vision":
        model = SiglipVisionModel(SiglipVisionConfig(**SIGLIP))
        model.save_pretrained(tmp_path)
        return tmp_path, model.eval()
    text = {"vocab_size": 10, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    whole = SiglipModel(SiglipConfig(vision_config=SIGLIP, text_config={**text, "num_attention_heads": 2}))
    whole.save_pretrained(tmp_path)
    return tmp_path, SiglipVisionModel.from_pretrained(tmp_path).eval()


@pytest.mark.parametrize("select_layer", [-4, -3, -2, -1, 0, 1, 2, 3])
def test_siglip_equals_hidden_state_of_the_whole_model_bit_for_bit(siglip, select_layer):
    folder, whole = siglip
    encoder = load_vision_encoder(folder, select_layer=select_layer).eval()
    with torch.no_grad():
        output = whole(LARGER_PICTURES, output_hidden_states=True)
        features = encoder(LARGER_PICTURES)
    assert features.shape == (2, 9, 16) == (2, encoder.num_patches, encoder.width)
    assert torch.equal(features, output.hidden_states[select_layer])
    # The norm after the last layer is of no hidden state.
    assert not torch.equal(features, output.last_hidden_state)


def test_siglip_keeps_no_pooling_head(siglip):
    encoder = load_vision_encoder(siglip[0])
    assert not any(name.startswith("model.head.") for name, _ in encoder.named_parameters())
    assert len(encoder.model.encoder.layers) == 2


@pytest.mark.parametrize("has_head", [True, False])
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_unused_parameters_are_those_without_a_gradient(family, has_head):
    """DDP would wait for the others forever."""
    if family == "clip":
        encoder, pictures = VisionEncoder(CLIPVisionModel(tiny_config())), PICTURES
    else:
        model = SiglipVisionModel(SiglipVisionConfig(**SIGLIP, vision_use_head=has_head))
        encoder, pictures = VisionEncoder(model), LARGER_PICTURES
    encoder(pictures).square().sum().backward()
    unused = {id(parameter) for parameter in encoder.unused_parameters}
    assert unused == {id(parameter) for parameter in encoder.parameters() if parameter.grad is None}


def test_siglip_has_no_class_token(siglip):
    message = r"select_feature: expected patch for a SigLIP encoder, which has no class token; found 'cls_patch'"
    with pytest.raises(InputError, match=message):
        load_vision_encoder(siglip[0], select_feature="cls_patch")


def test_siglip_2_of_any_picture_size_is_refused(tmp_path):
    Siglip2VisionConfig().save_pretrained(tmp_path)
    message = "expected a CLIP or SigLIP vision model of pictures of one size, found 'siglip2_vision_model'"
    with pytest.raises(InputError, match=message):
        load_vision_encoder(tmp_path)


def test_levels_are_refused_because_they_would_pass_for_values(tiny_parts):
    encoder = load_vision_encoder(tiny_parts / "encoder")
    with pytest.raises(InputError, match=r"^vision_encoder: expected float pixel_values, found torch.uint8 levels; "):
        encoder(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
