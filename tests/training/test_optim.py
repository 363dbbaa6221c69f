"""Guards: weights that decay and should not, or learn at another rate, than under the original's trainer."""

import json

import pytest
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from llava_pl import load_pretrained
from llava_pl.models import quantization
from llava_pl.training.optim import (
    OptimConfig,
    PartOptim,
    build_optimizer,
    build_parameter_groups,
    build_schedule,
    check_rates,
    schedule_factor,
)
from llava_pl.training.stages import PARTS, PLANS, TrainablePlan, apply_plan
from llava_pl.types import InputError


@pytest.mark.parametrize("case", ["finetune", "finetune_projector_lr", "align", "freeze_projector"])
def test_groups_equal_the_original_s(golden_path, case):
    expected = json.loads((golden_path / "optimizer" / "expected.json").read_text())["cases"][case]
    model = load_pretrained(golden_path / "model" / "llava-mlp2x").model
    plans = {"align": PLANS["align"], "freeze_projector": TrainablePlan(projector="frozen", decoder="full")}
    apply_plan(model, plans.get(case, PLANS["finetune"]))
    config = OptimConfig(
        learning_rate=expected["learning_rate"],
        projector=PartOptim(learning_rate=expected["mm_projector_lr"]),
        weight_decay=expected["weight_decay"],
    )
    names = {
        parameter: name.removeprefix("decoder.model.").replace("projector.", "model.mm_projector.")
        for name, parameter in model.named_parameters()
    }
    optimizer = build_optimizer(model, config)
    found = [
        (group["lr"], group["weight_decay"], group["betas"], group["eps"], {names[p] for p in group["params"]})
        for group in optimizer.param_groups
    ]
    assert found == [
        (group["lr"], group["weight_decay"], tuple(group["betas"]), group["eps"], set(group["params"]))
        for group in expected["groups"]
        if group["params"]  # the original keeps groups without parameters
    ]
    assert expected["optimizer"] == type(optimizer).__name__
    assert sum(len(group["params"]) for group in optimizer.param_groups) == sum(p.requires_grad for p in names)


class ToyDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(2, 2)
        self.norm = nn.LayerNorm(2)
        self.rms = nn.RMSNorm(2)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision_encoder = nn.Linear(2, 2).requires_grad_(False)
        self.projector = nn.Linear(2, 2)
        self.decoder = ToyDecoder()


def names_of(model, groups):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {group["name"]: [names[p] for p in group["params"]] for group in groups}


def test_norms_and_biases_do_not_decay():
    model = Toy()
    groups = build_parameter_groups(model, OptimConfig(learning_rate=1.0, weight_decay=0.1))
    assert names_of(model, groups) == {
        "decay": ["projector.weight", "decoder.embedding.weight"],
        "no_decay": ["projector.bias", "decoder.norm.weight", "decoder.norm.bias", "decoder.rms.weight"],
    }
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1.0, 0.1), (1.0, 0.0)]


def test_newline_goes_with_the_projector():
    model = Toy()
    model.image_newline = nn.Parameter(torch.zeros(2))
    config = OptimConfig(learning_rate=1.0, projector=PartOptim(learning_rate=0.5), weight_decay=0.1)
    assert names_of(model, build_parameter_groups(model, config)) == {
        "decay": ["decoder.embedding.weight"],
        "no_decay": ["decoder.norm.weight", "decoder.norm.bias", "decoder.rms.weight"],
        "projector_decay": ["image_newline", "projector.weight"],
        "projector_no_decay": ["projector.bias"],
    }


def test_projector_with_a_rate_of_its_own():
    model = Toy()
    config = OptimConfig(learning_rate=1.0, projector=PartOptim(learning_rate=0.5), weight_decay=0.1)
    groups = build_parameter_groups(model, config)
    assert names_of(model, groups) == {
        "decay": ["decoder.embedding.weight"],
        "no_decay": ["decoder.norm.weight", "decoder.norm.bias", "decoder.rms.weight"],
        "projector_decay": ["projector.weight"],
        "projector_no_decay": ["projector.bias"],
    }
    assert [group["lr"] for group in groups] == [1.0, 1.0, 0.5, 0.5]


def test_a_projector_rate_of_zero_is_a_rate():
    groups = build_parameter_groups(Toy(), OptimConfig(learning_rate=1.0, projector=PartOptim(learning_rate=0.0)))
    assert [group["lr"] for group in groups] == [1.0, 1.0, 0.0, 0.0]


def test_every_part_may_have_a_rate_and_a_decay_of_its_own():
    model = Toy()
    model.vision_encoder.requires_grad_(True)
    own = {part: PartOptim(number / 8, number / 4) for number, part in enumerate(PARTS, start=1)}
    groups = build_parameter_groups(model, OptimConfig(learning_rate=1.0, weight_decay=0.1, **own))
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [
        ("vision_encoder_decay", 0.125, 0.25), ("vision_encoder_no_decay", 0.125, 0.0),
        ("projector_decay", 0.25, 0.5), ("projector_no_decay", 0.25, 0.0),
        ("decoder_no_decay", 0.375, 0.0), ("embeddings_decay", 0.5, 1.0),
    ]  # fmt: skip


def test_values_of_a_frozen_part_are_refused():
    config = OptimConfig(learning_rate=1.0, decoder=PartOptim(weight_decay=0.0))
    check_rates(config, PLANS["finetune"])
    with pytest.raises(ValueError, match=r"model\.optim\.decoder: found values of its own, but the part is frozen"):
        check_rates(config, PLANS["align"])


def test_a_part_may_come_as_plain_values():
    assert OptimConfig(1.0, projector={"learning_rate": 0.5, "weight_decay": None}).projector == PartOptim(0.5)


def test_any_optimizer_by_its_name():
    config = OptimConfig(0.5, optimizer="torch.optim.SGD", options={"momentum": 0.9, "nesterov": True})
    optimizer = build_optimizer(Toy(), config)
    assert type(optimizer) is torch.optim.SGD
    assert {(group["lr"], group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {
        (0.5, 0.9, True)
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "AdamW"}, r"model\.optim\.optimizer: expected the full name of a class.*found 'AdamW'"),
        ({"optimizer": "torch.optim.AdamX"}, r"model\.optim\.optimizer: .*'torch\.optim\.AdamX'.*check its spelling"),
        ({"optimizer": "no_such_package.Adam"}, r"model\.optim\.optimizer: .*that its package is installed"),
        ({"optimizer": "torch.nn.Linear"}, r"model\.optim\.optimizer: expected a torch Optimizer"),
        ({"optimizer": "torch.optim.Rprop", "weight_decay": 0.1}, r"model\.optim\.weight_decay: .*no weight decay"),
        ({"options": {"momentum": 0.9}}, r"model\.optim: torch\.optim\.AdamW refuses its settings: .*momentum"),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(Toy(), OptimConfig(learning_rate=1.0, **wrong))


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit", "Lion8bit"])
def test_optimizers_of_bitsandbytes_step_on_the_cpu(name):
    optimizer = build_optimizer(
        Toy(), OptimConfig(0.1, optimizer=f"bitsandbytes.optim.{name}", options={"min_8bit_size": 1})
    )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert {state["state1"].dtype for state in optimizer.state.values()} == {torch.uint8}
    # Every one of these takes a whole step of the learning rate where the gradient is always the same.
    for parameter, old in zip(parameters, before, strict=True):
        torch.testing.assert_close(parameter, old - 0.1, rtol=0, atol=2e-3)  # eight bits hold a state to a percent


def test_bitsandbytes_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(quantization, "is_installed", lambda name: False)
    message = r"^model.optim.optimizer: bitsandbytes.optim.AdamW8bit: needs bitsandbytes.*'\.\[qlora\]'"
    with pytest.raises(ValueError, match=message):
        build_optimizer(Toy(), OptimConfig(1.0, optimizer="bitsandbytes.optim.AdamW8bit"))


@pytest.mark.gpu
def test_adamw_is_fused_on_a_gpu():
    assert build_optimizer(Toy().cuda(), OptimConfig(1.0)).defaults["fused"]
    assert not build_optimizer(Toy().cuda(), OptimConfig(1.0), allows_fused=False).defaults["fused"]


def test_settings_of_adam():
    optimizer = build_optimizer(Toy(), OptimConfig(learning_rate=1e-3, betas=(0.8, 0.9), eps=1e-5))
    assert type(optimizer) is torch.optim.AdamW
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.8, 0.9), 1e-5)}


@pytest.mark.parametrize(
    ("num_steps", "warmup_share", "num_warmup"),
    [(100, 0.03, 3), (101, 0.03, 4), (12, 0.25, 3), (10, 0.0, 0), (5198, 0.03, 156), (1, 0.03, 1), (4, 1.0, 4)],
)
def test_schedule_equals_transformers(num_steps, warmup_share, num_warmup):
    ours, theirs = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2e-3) for _ in range(2))
    schedules = [
        build_schedule(ours, num_steps=num_steps, warmup_share=warmup_share),
        get_cosine_schedule_with_warmup(theirs, num_warmup, num_steps),
    ]
    rates = []
    for _ in range(min(num_steps + 1, 300)):
        rates.append([schedule.get_last_lr()[0] for schedule in schedules])
        for optimizer, schedule in zip((ours, theirs), schedules, strict=True):
            optimizer.step()
            schedule.step()
    # The same formula in doubles.
    assert [rate for rate, _ in rates] == [pytest.approx(rate, rel=1e-12, abs=1e-18) for _, rate in rates]


def test_schedule_keeps_the_ratio_of_the_groups():
    optimizer = build_optimizer(Toy(), OptimConfig(learning_rate=1.0, projector=PartOptim(learning_rate=0.25)))
    schedule = build_schedule(optimizer, num_steps=8, warmup_share=0.5)
    for expected in (0.0, 0.25, 0.5):
        assert [group["lr"] for group in optimizer.param_groups] == [expected, expected, expected / 4, expected / 4]
        optimizer.step()
        schedule.step()


def test_schedule_never_turns_negative_or_up_again_after_its_end():
    assert [schedule_factor(step, num_steps=4, num_warmup=1) for step in (4, 4)] == [0.0, 0.0]
    assert schedule_factor(1, num_steps=1, num_warmup=1) == 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rate": -1.0}, r"learning_rate: expected at least 0, found -1.0"),
        ({"eps": -1.0}, r"eps: expected at least 0, found -1.0"),
        ({"projector": PartOptim(weight_decay=-0.1)}, r"projector.weight_decay: expected at least 0, found -0.1"),
        ({"betas": (2.0, 3.0)}, r"betas: expected numbers in \[0, 1\), found \(2.0, 3.0\)"),
        ({"warmup_share": 3.0}, r"warmup_share: expected a share from 0 to 1, found 3.0"),
        ({"options": {"lr": 1}}, r"options: found lr, which is set by model.optim.learning_rate; leave it out there"),
        ({"options": {"weight_decay": 1}}, r"options: found weight_decay, which is set by model.optim.weight_decay"),
        ({"options": {"params": 1}}, r"options: found params, which is set by model.trainable"),
    ],
)
def test_values_out_of_range_are_refused(wrong, message):
    with pytest.raises(InputError, match=rf"^model\.optim\.{message}"):
        OptimConfig(**{"learning_rate": 1e-3, **wrong})
