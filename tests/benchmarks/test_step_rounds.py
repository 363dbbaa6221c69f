"""Risk: ways that are compared do not train on the same samples, or gradients of different parameters are compared."""

import pytest
import torch
from step_rounds import NUM_IMAGE_TOKENS, plain_name, read_expanded


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("decoder.model.model.layers.3.mlp.up_proj.weight", "layers.3.mlp.up_proj.weight"),
        ("model.language_model.layers.3.mlp.up_proj.weight", "layers.3.mlp.up_proj.weight"),
        ("model.layers.3.mlp.up_proj.weight", "layers.3.mlp.up_proj.weight"),
        ("model.layers.0.input_layernorm.weight", "layers.0.input_layernorm.weight"),
        ("model.norm.weight", "norm.weight"),
        ("model.embed_tokens.weight", "embed_tokens.weight"),
        ("decoder.model.lm_head.weight", "lm_head.weight"),
        ("projector.2.bias", "projector.2.bias"),
        ("model.mm_projector.2.bias", "projector.2.bias"),
        ("model.multi_modal_projector.linear_2.bias", "projector.2.bias"),
    ],
)
def test_names_of_all_models_are_one(name, plain):
    assert plain_name(name) == plain


def test_a_picture_gets_its_positions(tmp_path):
    sample = {"input_ids": torch.tensor([1, -200, 7, 8]), "labels": torch.tensor([-100, -100, -100, 8])}
    torch.save([sample], tmp_path / "samples.pt")
    (found,) = read_expanded(tmp_path, 9)
    assert found["input_ids"].tolist() == [1, *[9] * NUM_IMAGE_TOKENS, 7, 8]
    assert found["labels"].tolist() == [-100] * (NUM_IMAGE_TOKENS + 2) + [8]
