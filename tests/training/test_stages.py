"""Guards: a part that trains and should be frozen, or the other way round, which only the bill would show."""

import pytest
import torch

from llava_pl.export.parts import load_decoder, load_vision_encoder
from llava_pl.models.anyres import build_newline
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector
from llava_pl.training.stages import PARTS, PLANS, PartSummary, TrainablePlan, apply_plan, summarize_parts


@pytest.fixture
def model(tiny_parts) -> LlavaModel:
    encoder, decoder = load_vision_encoder(tiny_parts / "encoder"), load_decoder(tiny_parts / "decoder")
    return LlavaModel(encoder, build_projector("mlp2x_gelu", vision_width=16, decoder_width=32), decoder)


@pytest.fixture
def tiled_model(model) -> LlavaModel:
    return LlavaModel(model.vision_encoder, model.projector, model.decoder, build_newline(32))


TRAINED = {"align": {"projector"}, "finetune": {"projector", "decoder"}}


def test_every_stage_is_looked_at():
    assert PLANS.keys() == TRAINED.keys()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("stage", TRAINED)
def test_plan_sets_every_parameter_and_the_mode_of_every_module(model, stage, before):
    model.requires_grad_(before).train(before)
    apply_plan(model, PLANS[stage])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.partition(".")[0] in TRAINED[stage]}
    for part in PARTS:
        modes = {module.training for module in model.get_submodule(part).modules()}
        assert modes == {part in TRAINED[stage]}, part


def test_parts_are_the_whole_model(model):
    assert tuple(name for name, _ in model.named_children()) == PARTS
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == set(PARTS)


def test_newline_is_trained_with_the_projector(tiled_model):
    for plan in (*PLANS.values(), TrainablePlan(vision_encoder="full", projector="frozen", decoder="full")):
        apply_plan(tiled_model, plan)
        assert tiled_model.image_newline.requires_grad == (plan.projector == "full")
    assert summarize_parts(tiled_model)[1].num_parameters == (16 + 1) * 32 + (32 + 1) * 32 + 32


def test_plans_can_be_changed_from_one_to_the_other(model):
    for stage in ("finetune", "align", "finetune"):
        apply_plan(model, PLANS[stage])
        assert {part for part in PARTS if next(model.get_submodule(part).parameters()).requires_grad} == TRAINED[stage]


def test_a_plan_of_one_s_own(model):
    apply_plan(model, TrainablePlan(vision_encoder="full", projector="frozen", decoder="frozen"))
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"vision_encoder"}
    assert (model.vision_encoder.training, model.projector.training, model.decoder.training) == (True, False, False)


def test_summary(model):
    apply_plan(model, PLANS["align"])
    model.vision_encoder.to(torch.bfloat16)
    numbers = {part: sum(p.numel() for p in model.get_submodule(part).parameters()) for part in PARTS}
    assert numbers["projector"] == (16 + 1) * 32 + (32 + 1) * 32
    assert summarize_parts(model) == [
        PartSummary("vision_encoder", 0, numbers["vision_encoder"], "bfloat16"),
        PartSummary("projector", numbers["projector"], numbers["projector"], "float32"),
        PartSummary("decoder", 0, numbers["decoder"], "float32"),
    ]
    model.decoder.model.lm_head.to(torch.float16)
    model.projector = torch.nn.Identity()
    assert [row.dtypes for row in summarize_parts(model)] == ["bfloat16", "-", "float16, float32"]
