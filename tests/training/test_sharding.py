"""Guards: a part that is gathered by a rank alone, which then waits forever, or that is divided for nothing."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard

from llava_pl.export.build import DecoderConfig, ModelConfig, VisionEncoderConfig, build_model
from llava_pl.training.sharding import check_shardable, shard
from llava_pl.training.stages import PLANS, TrainablePlan, apply_plan
from llava_pl.types import InputError


@pytest.fixture
def mesh():
    """Two ranks that do nothing, seen from the first."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield init_device_mesh("cpu", (2,))
    torch.distributed.destroy_process_group()


@pytest.fixture
def model(tiny_parts):
    return build_model(
        ModelConfig(VisionEncoderConfig(str(tiny_parts / "encoder")), DecoderConfig(str(tiny_parts / "decoder")))
    )


def units(model):
    return [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_each_layer_is_gathered_alone_and_a_frozen_encoder_never(model, mesh, stage):
    apply_plan(model, PLANS[stage])
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    shard(model, mesh)
    layers = ["decoder.model.model.layers.0", "decoder.model.model.layers.1"]
    assert units(model) == ["", "decoder.model.model.embed_tokens", *layers, "decoder.model.lm_head"]
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor) != name.startswith("vision_encoder."), name
        assert parameter.shape == shapes[name]
        if isinstance(parameter, DTensor):
            assert parameter.placements == (Shard(0),)
            assert parameter.requires_grad == (stage == "finetune" or name.startswith("projector."))


def test_an_encoder_that_learns_is_gathered_with_the_rest(model, mesh):
    apply_plan(model, TrainablePlan(vision_encoder="full"))
    shard(model, mesh)
    assert not [name for name in units(model) if name.startswith("vision_encoder")]
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())


def test_a_head_that_is_the_table_is_gathered_with_the_rest(model, mesh):
    model.decoder.model.lm_head.weight = model.decoder.model.model.embed_tokens.weight
    apply_plan(model, PLANS["finetune"])
    shard(model, mesh)
    assert units(model) == ["", "decoder.model.model.layers.0", "decoder.model.model.layers.1"]
    assert model.decoder.head.weight is model.decoder.embedding.weight


@pytest.mark.parametrize(
    ("quantization", "optimizer", "message"),
    [
        ("nf4", "torch.optim.AdamW", "model.decoder.quantization: found nf4, whose packed weights cannot be divided"),
        ("none", "bitsandbytes.optim.AdamW8bit", "model.optim.optimizer: found bitsandbytes.optim.AdamW8bit, whose"),
    ],
)
def test_what_cannot_be_divided(quantization, optimizer, message):
    check_shardable("none", "torch.optim.AdamW")
    with pytest.raises(InputError, match=message):
        check_shardable(quantization, optimizer)
