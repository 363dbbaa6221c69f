"""Guards: features that a training step would not have computed, or of a file that is another one by now."""

import os
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins.precision import DoublePrecision, MixedPrecision, Precision
from PIL import Image

from llava_pl import LlavaModule
from llava_pl.data.feature_store import FeatureStore, PictureFeatures
from llava_pl.data.load_encoder import load_encoder
from llava_pl.data.picture_digests import digest_pictures
from llava_pl.training import feature_filling
from llava_pl.training.feature_filling import encode, fill_store, measure_manifest

PLUGINS = {
    "32-true": Precision,
    "64-true": DoublePrecision,
    "bf16-mixed": lambda: MixedPrecision("bf16-mixed", "cpu"),
}


@pytest.fixture
def parts(build, tiny_parts, tmp_path, monkeypatch):
    """A trainer and a module, as far as they are asked, and what reads three pictures."""
    monkeypatch.setattr(feature_filling, "RETRY_AFTER_SECONDS", (0.0,))
    for name in ("a", "b", "c"):
        Image.effect_noise((24, 20), 90).convert("RGB").save(tmp_path / f"{name}.png")
    encoder = load_encoder(
        tokenizer=str(tiny_parts / "decoder"), image_processor=str(tiny_parts / "encoder"), num_image_tokens=4,
        image_folder=tmp_path, template="mpt", image_aspect="pad", image_start_end=False, image_patch_token=False,
        respect_exif=True, legacy_tokenizer=None, max_length=100, on_too_long="drop", tiling=None,
    )  # fmt: skip
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(precision_plugin=Precision(), strategy=strategy, is_global_zero=True)
    module = SimpleNamespace(model=build())
    module.transfer_batch_to_device = partial(LlavaModule.transfer_batch_to_device, module)
    return trainer, module, encoder


@pytest.mark.parametrize("precision", PLUGINS)
def test_features_are_computed_as_in_a_training_step_and_measured_against_their_batch(parts, precision):
    trainer, module, _ = parts
    trainer.precision_plugin = PLUGINS[precision]()
    if precision == "64-true":
        module.model.double()
    manifest = measure_manifest(trainer, module, {"a": "b"}, batch_size=3)
    assert (manifest.origin, manifest.shape, manifest.difference) == ({"a": "b"}, (4, 16), 0.0)
    pixels = torch.randn(2, 3, 16, 16)
    features = encode(trainer, module, pixels)
    assert features.dtype == manifest.torch_dtype
    with trainer.precision_plugin.forward_context():
        expected = module.model.vision_encoder(trainer.precision_plugin.convert_input(pixels))
    assert torch.equal(features, expected)


def test_what_a_batch_changes_is_measured(parts):
    trainer, module, _ = parts
    module.model.vision_encoder.forward = lambda pixels: torch.full((len(pixels), 2, 2), 1 + len(pixels) / 8)
    assert measure_manifest(trainer, module, {}, batch_size=3).difference == 0.25


def test_a_store_gets_the_pictures_that_can_be_read_and_are_as_they_were(parts, tmp_path):
    trainer, module, encoder = parts
    store = FeatureStore.begin(tmp_path / "store", measure_manifest(trainer, module, {}, batch_size=2))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    seen = digest_pictures(tmp_path, ["a.png", "b.png", "broken.png", "c.png"], tmp_path / "memory")
    os.utime(tmp_path / "b.png", ns=(0, 0))
    fill_store(trainer, module, encoder, store, seen, batch_size=2, num_workers=0)
    found = PictureFeatures.of(store, {name: picture.digest for name, picture in seen.items()})
    assert found.get("b.png") is None
    assert found.get("broken.png") is None
    for name in ("a.png", "c.png"):
        pixels = encoder.image_transform(encoder.load_picture(name))[None]
        assert torch.equal(found.get(name), module.model.vision_encoder(pixels)[0])
