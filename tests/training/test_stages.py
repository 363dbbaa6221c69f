"""Guards: a part that trains and should be frozen, or the other way round, which only the bill would show."""

import pytest
import torch
from transformers import BitsAndBytesConfig

from llava_pl.export.parts import load_decoder, load_vision_encoder
from llava_pl.models.adapters import LoraConfig, is_adapter, plain_name
from llava_pl.models.anyres import build_newline
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector
from llava_pl.models.vocabulary import add_rows
from llava_pl.training.stages import (
    PARTS,
    PLANS,
    PartSummary,
    TrainablePlan,
    add_planned_adapters,
    apply_plan,
    parameters_by_part,
    raise_trained,
    summarize_parts,
)


@pytest.fixture
def model(tiny_parts) -> LlavaModel:
    encoder, decoder = load_vision_encoder(tiny_parts / "encoder"), load_decoder(tiny_parts / "decoder")
    return LlavaModel(encoder, build_projector("mlp2x_gelu", vision_width=16, decoder_width=32), decoder)


@pytest.fixture
def tiled_model(model) -> LlavaModel:
    return LlavaModel(model.vision_encoder, model.projector, model.decoder, build_newline(32))


TABLE = "decoder.model.model.embed_tokens.weight"
MODULES = PARTS[:3]
TRAINED = {"align": {"projector"}, "finetune": {"projector", "decoder", "embeddings"}}


def trained_names(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def names_of(model, parts) -> set[str]:
    """Return the parameters of some parts, told by their names alone."""
    return {
        name
        for name, _ in model.named_parameters()
        if ("embeddings" if name == TABLE else name.partition(".")[0]) in parts
    }


def learning_names_of(model, parts) -> set[str]:
    """Return those of them that can learn: nothing depends on the encoder's last norm."""
    return {name for name in names_of(model, parts) if "post_layernorm" not in name}


def test_every_stage_is_looked_at():
    assert PLANS.keys() == TRAINED.keys()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("stage", TRAINED)
def test_plan_sets_every_parameter_and_the_mode_of_every_module(model, stage, before):
    model.requires_grad_(before).train(before)
    apply_plan(model, PLANS[stage])
    assert trained_names(model) == names_of(model, TRAINED[stage])
    for part in MODULES:
        modes = {module.training for module in model.get_submodule(part).modules()}
        assert modes == {part in TRAINED[stage]}, part


def test_parts_are_the_whole_model(model):
    assert tuple(name for name, _ in model.named_children()) == MODULES
    parts = parameters_by_part(model)
    assert tuple(parts) == PARTS
    assert {part: set(named) for part, named in parts.items()} == {part: names_of(model, {part}) for part in PARTS}
    assert parts["embeddings"].keys() == {TABLE}


def test_a_tied_head_goes_with_the_embeddings(model):
    config = model.decoder.model.config
    config.tie_word_embeddings = True
    model.decoder.model.tie_weights()
    apply_plan(model, TrainablePlan(decoder="full", embeddings="frozen"))
    assert not model.decoder.head.weight.requires_grad
    assert trained_names(model) == names_of(model, {"projector", "decoder"})


def test_newline_is_trained_with_the_projector(tiled_model):
    for plan in (*PLANS.values(), TrainablePlan(vision_encoder="full", projector="frozen", decoder="full")):
        apply_plan(tiled_model, plan)
        assert tiled_model.image_newline.requires_grad == (plan.projector == "full")
    assert summarize_parts(tiled_model)[1].num_parameters == (16 + 1) * 32 + (32 + 1) * 32 + 32


def test_what_learns_is_float32_and_a_norm_is_of_one_dtype(model):
    plan, lora = TrainablePlan(vision_encoder="lora", projector="frozen"), LoraConfig(rank=2, bias="all")
    model.to(torch.bfloat16)
    add_planned_adapters(model, plan, lora)
    apply_plan(model, plan, lora_bias="all")
    before = {name: parameter.float() for name, parameter in model.named_parameters()}
    raise_trained(model)
    for name, parameter in model.named_parameters():
        is_norm = name.startswith("vision_encoder") and "norm" in name and "post_layernorm" not in name
        is_raised = parameter.requires_grad or is_norm
        assert parameter.dtype == (torch.float32 if is_raised else torch.bfloat16), name
        assert torch.equal(parameter.float(), before[name])


def test_plans_can_be_changed_from_one_to_the_other(model):
    for stage in ("finetune", "align", "finetune"):
        apply_plan(model, PLANS[stage])
        assert trained_names(model) == names_of(model, TRAINED[stage])


@pytest.mark.parametrize(
    ("plan", "trained"),
    [
        ({"vision_encoder": "full", "projector": "frozen"}, {"vision_encoder"}),
        ({"decoder": "full"}, {"projector", "decoder", "embeddings"}),
        ({"decoder": "full", "embeddings": "frozen"}, {"projector", "decoder"}),
        ({"projector": "frozen", "embeddings": "full"}, {"embeddings"}),
    ],
)
def test_a_plan_of_one_s_own(model, plan, trained):
    apply_plan(model, TrainablePlan(**plan))
    assert trained_names(model) == learning_names_of(model, trained)
    assert [model.get_submodule(part).training for part in MODULES] == [part in trained for part in MODULES]


LORA = TrainablePlan(vision_encoder="lora", decoder="lora", embeddings="new_tokens")


def test_adapters_are_parts_of_their_parts(model):
    add_rows(model.decoder, [99])
    model.new_token_ids = (99,)
    before = {part: names_of(model, {part}) for part in PARTS}
    add_planned_adapters(model, LORA, LoraConfig(rank=2))
    parts = parameters_by_part(model)
    for part in PARTS:
        own = {plain_name(name) for name in parts[part] if not is_adapter(name) and "tokens_delta" not in name}
        assert own == before[part]
    assert {part: sum(map(is_adapter, named)) for part, named in parts.items()} == {
        "vision_encoder": 2 * 2 * 6, "projector": 0, "decoder": 2 * 2 * 7, "embeddings": 0,
    }  # fmt: skip
    assert len(parts["embeddings"]) == 2
    assert not any(is_adapter(name) for name, _ in model.decoder.head.named_parameters())


@pytest.mark.parametrize("before", [True, False])
def test_plan_with_adapters_sets_every_parameter_and_mode(model, before):
    add_rows(model.decoder, [99])
    model.new_token_ids = (99,)
    add_planned_adapters(model, LORA, LoraConfig(rank=2, dropout=0.5))
    model.requires_grad_(before).train(before)
    apply_plan(model, LORA)
    trained = trained_names(model)
    assert trained == {
        name
        for name, _ in model.named_parameters()
        if is_adapter(name) or "tokens_delta" in name or name.startswith("projector")
    }
    # Adapters drop out only in parts that learn.
    assert {model.get_submodule(part).training for part in MODULES} == {True}
    apply_plan(model, PLANS["align"])
    assert trained_names(model) == names_of(model, {"projector"})
    assert not model.decoder.training


def test_a_part_that_has_no_adapters_in_the_plan_gets_none(model):
    add_planned_adapters(model, TrainablePlan(decoder="lora"), LoraConfig())
    assert not any(is_adapter(name) for name, _ in model.vision_encoder.named_parameters())
    assert not any(is_adapter(name) for name, _ in model.projector.named_parameters())


def test_summary_counts_weights_of_which_two_share_a_byte(tiny_parts, model):
    four = load_decoder(
        tiny_parts / "decoder", quantization=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    )
    whole, model.decoder = summarize_parts(model), four
    assert [row.num_parameters for row in summarize_parts(model)] == [row.num_parameters for row in whole]
    assert summarize_parts(model)[2].dtypes == "float32, uint8"


def test_summary(model):
    apply_plan(model, PLANS["align"])
    model.vision_encoder.to(torch.bfloat16)
    numbers = {part: sum(p.numel() for p in model.get_submodule(part).parameters()) for part in MODULES}
    assert numbers["projector"] == (16 + 1) * 32 + (32 + 1) * 32
    num_embeddings = model.decoder.num_embeddings * 32
    assert summarize_parts(model) == [
        PartSummary("vision_encoder", 0, numbers["vision_encoder"], "bfloat16"),
        PartSummary("projector", numbers["projector"], numbers["projector"], "float32"),
        PartSummary("decoder", 0, numbers["decoder"] - num_embeddings, "float32"),
        PartSummary("embeddings", 0, num_embeddings, "float32"),
    ]
    model.decoder.model.lm_head.to(torch.float16)
    model.projector = torch.nn.Identity()
    assert [row.dtypes for row in summarize_parts(model)] == ["bfloat16", "-", "float16, float32", "float32"]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"decoder": "ful"}, r"model\.trainable\.decoder: expected one of frozen, full, lora, found 'ful'"),
        (
            {"embeddings": "lora"},
            r"model\.trainable\.embeddings: expected one of frozen, new_tokens, full, found 'lora'",
        ),
        ({"projector": "frozen"}, r"model\.trainable: every part is frozen; train at least one"),
    ],
)
def test_plans_that_mean_nothing_are_refused(plan, message):
    with pytest.raises(ValueError, match=message):
        TrainablePlan(**plan)
