"""Guards: two runs that share features which are not the same, or that do not share what is."""

from dataclasses import replace

import pytest
import torch

from llava_pl.data.load_encoder import load_encoder
from llava_pl.export.parts import load_vision_encoder
from llava_pl.training.feature_origin import describe_origin, hash_weights


@pytest.fixture
def parts(tiny_parts, tmp_path):
    encoder = load_encoder(
        tokenizer=str(tiny_parts / "decoder"), image_processor=str(tiny_parts / "encoder"), num_image_tokens=4,
        image_folder=tmp_path, template="mpt", image_aspect="pad", image_start_end=False, image_patch_token=False,
        respect_exif=True, legacy_tokenizer=None, max_length=100, on_too_long="drop", tiling=None,
    )  # fmt: skip
    return {
        "encoder": load_vision_encoder(tiny_parts / "encoder"),
        "pictures": encoder,
        "device": torch.device("cpu"),
        "precision": "32-true",
    }


def change_weight(parts, tiny_parts):
    with torch.no_grad():
        parts["encoder"].model.embeddings.class_embedding[0] += 1e-6


def change_words(parts, tiny_parts):
    words = {"template": "plain", "max_length": 50, "image_start_end": True, "num_image_tokens": 5}
    parts["pictures"] = replace(parts["pictures"], **words)


def change_aspect(parts, tiny_parts):
    parts["pictures"].image_transform.aspect = "square"


def change_mean(parts, tiny_parts):
    parts["pictures"].image_transform.processor.image_mean = [0.5, 0.5, 0.5]


def load_layer(parts, tiny_parts):
    parts["encoder"] = load_vision_encoder(tiny_parts / "encoder", select_layer=-1)


def load_class_token(parts, tiny_parts):
    parts["encoder"] = load_vision_encoder(tiny_parts / "encoder", select_feature="cls_patch")


def load_again(parts, tiny_parts):
    parts["encoder"] = load_vision_encoder(tiny_parts / "encoder")


def load_halved(parts, tiny_parts):
    parts["encoder"] = load_vision_encoder(tiny_parts / "encoder", dtype=torch.bfloat16)


CHANGES = [
    (load_again, set()),
    (change_words, set()),
    (lambda parts, _: parts.update(pictures=replace(parts["pictures"], respect_exif=False)), {"pictures"}),
    (lambda parts, _: parts.update(precision="bf16-mixed"), {"arithmetic"}),
    (change_aspect, {"pictures"}),
    (change_mean, {"pictures"}),
    (change_weight, {"weights"}),
    (load_layer, {"weights", "encoder"}),
    (load_class_token, {"encoder"}),
    (load_halved, {"weights", "encoder"}),
]


@pytest.mark.parametrize(("change", "names"), CHANGES)
def test_what_changes_features_is_told_and_what_does_not_is_not(parts, tiny_parts, change, names):
    before = describe_origin(**parts)
    change(parts, tiny_parts)
    after = describe_origin(**parts)
    assert {name for name in before if before[name] != after[name]} == names


def test_precision_of_matrix_products_is_told(parts):
    before = describe_origin(**parts)["arithmetic"]
    torch.set_float32_matmul_precision("high")
    try:
        assert describe_origin(**parts)["arithmetic"] != before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_hash_knows_names_shapes_and_dtypes():
    first, second = torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        second.weight.copy_(first.weight.reshape(2, 3))
    hashes = {hash_weights(first), hash_weights(second), hash_weights(torch.nn.Sequential(first))}
    assert len(hashes) == 3
    assert hash_weights(first.bfloat16()) not in hashes
