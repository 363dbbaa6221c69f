"""Guards: a checkpoint that does not say how its model is to be asked."""

import torch

from llava_pl import LlavaDataModule
from llava_pl.export.pretrained import BaseModel
from llava_pl.training.carried import describe_run


def test_a_run_says_what_its_data_was_like(tiny_parts, tmp_path):
    data = LlavaDataModule(
        image_folder=tmp_path,
        tokenizer=str(tiny_parts / "decoder"),
        image_processor=str(tiny_parts / "encoder"),
        num_image_tokens=4,
        template="v0",
        image_aspect="anyres",
        grid_pinpoints=[(16, 32)],
    )
    carried = describe_run(data, {"decoder": BaseModel("vicuna", "ab", path="/x")}, ["projector.0.bias"])
    assert carried["bases"] == {"decoder": {"name": "vicuna", "sha256": "ab", "settings": {}}}
    assert carried["learned"] == ["projector.0.bias"]
    assert carried["data"]["template"] == "v0"
    assert carried["data"]["grid_pinpoints"] == [[16, 32]]
    assert carried["data_hash"] is None  # nothing was read
    assert carried["versions"]["torch"] == torch.__version__
    torch.save(carried, tmp_path / "x")
    assert torch.load(tmp_path / "x", weights_only=True) == carried


def test_other_data_modules_have_nothing_to_say():
    assert describe_run(None, {}, ["a"]) == {}
    assert describe_run(object(), {"decoder": BaseModel("vicuna")}, []).keys() == {"bases", "learned", "versions"}
