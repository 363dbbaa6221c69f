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
    """How each part of the model is trained."""

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
        model.get_submodule(part).requires_grad_(is_trained).train(is_trained)


def summarize_parts(model: nn.Module) -> list[PartSummary]:
    """Return what each part holds, in data-flow order."""
    rows = []
    for part in PARTS:
        parameters = list(model.get_submodule(part).parameters())
        rows.append(
            PartSummary(
                part=part,
                num_trainable=sum(p.numel() for p in parameters if p.requires_grad),
                num_parameters=sum(p.numel() for p in parameters),
                dtypes=", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters})) or "-",
            )
        )
    return rows
