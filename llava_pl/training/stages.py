"""Which parts a stage trains. This file is the only writer of ``requires_grad``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

Stage = Literal["align", "finetune"]
Tuning = Literal["frozen", "full"]
PARTS = ("vision_encoder", "projector", "decoder")


@dataclass(frozen=True, slots=True)
class TrainablePlan:
    """How each part of the model is trained; the newline embedding of tiled pictures as the projector is."""

    vision_encoder: Tuning
    projector: Tuning
    decoder: Tuning


# LLaVA, section 4.2: stage 1 trains the projector alone, stage 2 projector and decoder; the encoder never trains.
PLANS: dict[Stage, TrainablePlan] = {
    "align": TrainablePlan(vision_encoder="frozen", projector="full", decoder="frozen"),
    "finetune": TrainablePlan(vision_encoder="frozen", projector="full", decoder="full"),
}


@dataclass(frozen=True, slots=True)
class PartSummary:
    """One row of the table that is shown at the start of a run."""

    part: str
    num_trainable: int
    num_parameters: int
    dtypes: str


def apply_plan(model: nn.Module, plan: TrainablePlan) -> None:
    """Set ``requires_grad`` of every parameter, and train or eval mode of every part.

    A frozen part stays in eval mode: dropout in a part that cannot learn would only be noise.
    """
    for part in PARTS:
        is_trained = getattr(plan, part) != "frozen"
        model.get_submodule(part).train(is_trained)
        for parameter in _parameters(model, part):
            parameter.requires_grad_(is_trained)


def summarize_parts(model: nn.Module) -> list[PartSummary]:
    """Return what each part holds, in data-flow order."""
    rows = []
    for part in PARTS:
        parameters = _parameters(model, part)
        rows.append(
            PartSummary(
                part=part,
                num_trainable=sum(p.numel() for p in parameters if p.requires_grad),
                num_parameters=sum(p.numel() for p in parameters),
                dtypes=", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters})) or "-",
            )
        )
    return rows


def _parameters(model: nn.Module, part: str) -> list[nn.Parameter]:
    parameters = list(model.get_submodule(part).parameters())
    newline = getattr(model, "image_newline", None)
    # Unlike LLaVA, which leaves the newline as it was drawn in stage 1: it is part of what stage 1 is there to learn.
    return [*parameters, newline] if part == "projector" and newline is not None else parameters
