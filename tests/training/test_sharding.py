"""Guards: a part that is gathered by a rank alone, which then waits forever, or that is divided for nothing."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard

from llava_pl.export.build import build_model
from llava_pl.export.model_config import DecoderConfig, ModelConfig, VisionEncoderConfig
from llava_pl.export.streaming import WeightStream
from llava_pl.models.vocabulary import add_rows
from llava_pl.training.sharding import check_shardable, shard
from llava_pl.training.stages import PLANS, TrainablePlan, add_planned_adapters, apply_plan
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


@pytest.mark.parametrize("is_half", [True, False])
def test_layers_are_gathered_in_bfloat16_and_nothing_else_is(model, mesh, is_half):
    apply_plan(model, PLANS["finetune"])
    shard(model, mesh, is_half=is_half)
    layer = model.decoder.model.model.layers[0]
    for unit in (layer, model.decoder.embedding, model.decoder.head, model):
        unit.unshard()
        dtypes = {parameter.dtype for parameter in unit.parameters() if not isinstance(parameter, DTensor)}
        assert dtypes == {torch.bfloat16 if is_half and unit is layer else torch.float32}
        unit.reshard()
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}


def test_an_encoder_that_learns_is_gathered_with_the_rest(model, mesh):
    apply_plan(model, TrainablePlan(vision_encoder="full"))
    shard(model, mesh)
    assert not [name for name in units(model) if name.startswith("vision_encoder")]
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())


def test_a_scalar_cannot_be_divided(model, mesh):
    """As a projector from outside may have; in an encoder that is left whole it is none of our business."""
    model.vision_encoder.scale = nn.Parameter(torch.ones(()), requires_grad=False)
    apply_plan(model, PLANS["align"])
    model.projector.gate = nn.Parameter(torch.ones(()))
    with pytest.raises(InputError, match=r"^trainer\.strategy: projector\.gate: expected a dimension to divide"):
        shard(model, mesh)
    del model.projector.gate
    shard(model, mesh)


def test_a_head_that_is_the_table_is_gathered_with_the_rest(model, mesh):
    model.decoder.model.lm_head.weight = model.decoder.model.model.embed_tokens.weight
    apply_plan(model, PLANS["finetune"])
    shard(model, mesh)
    assert units(model) == ["", "decoder.model.model.layers.0", "decoder.model.model.layers.1"]
    assert model.decoder.head.weight is model.decoder.embedding.weight


def test_a_tied_table_whose_new_rows_learn_is_gathered_with_the_rest(model, mesh):
    """Table and head are then two of peft's layers around one weight."""
    model.decoder.model.config.tie_word_embeddings = True
    model.decoder.model.tie_weights()
    add_rows(model.decoder, [99])
    model.new_token_ids = (99,)
    plan = TrainablePlan(embeddings="new_tokens")
    add_planned_adapters(model, plan, None)
    apply_plan(model, plan)
    shard(model, mesh)
    assert units(model) == ["", "decoder.model.model.layers.0", "decoder.model.model.layers.1"]


def test_a_rank_holds_its_part_of_what_the_files_hold(model, mesh, tiny_parts):
    stream = WeightStream()
    streamed = build_model(
        ModelConfig(VisionEncoderConfig(str(tiny_parts / "encoder")), DecoderConfig(str(tiny_parts / "decoder"))),
        stream=stream,
    )
    apply_plan(streamed, PLANS["finetune"])
    shard(streamed, mesh, stream)
    expected = dict(model.decoder.named_parameters())
    for name, parameter in streamed.decoder.named_parameters():
        assert torch.equal(parameter.to_local(), expected[name].chunk(2)[0]), name


@pytest.mark.parametrize(
    ("quantization", "optimizer", "message"),
    [
        ("nf4", "torch.optim.AdamW", "model.decoder.quantization: found nf4, whose packed weights cannot be divided"),
        ("none", "bitsandbytes.optim.AdamW8bit", "model.optim.optimizer: found bitsandbytes.optim.AdamW8bit, whose"),
        ("none", "torch.optim.Adafactor", "model.optim.optimizer: found torch.optim.Adafactor, which cannot work on"),
    ],
)
def test_what_cannot_be_divided(quantization, optimizer, message):
    check_shardable("none", "torch.optim.AdamW")
    with pytest.raises(InputError, match=message):
        check_shardable(quantization, optimizer)
