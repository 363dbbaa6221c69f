"""Which parts a run trains, and how. This file is the only writer of ``requires_grad``.

In: a `TrainablePlan`, as the configuration states it or as a stage implies. Out: a model whose parameters obey it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from torch import nn

from llava_pl.models.llava import LlavaModel
from llava_pl.types import InputError

Stage = Literal["align", "finetune"]
Part = Literal["vision_encoder", "projector", "decoder", "embeddings"]
Tuning = Literal["frozen", "full"]
PARTS: tuple[Part, ...] = get_args(Part)
"""In data-flow order. Every parameter belongs to exactly one of them; see `parameters_by_part`."""


@dataclass(frozen=True)
class TrainablePlan:
    """How each part of the model is trained.

    Args:
        vision_encoder: "frozen" or "full".
        projector: "frozen" or "full"; the newline embedding of tiled pictures goes with it.
        decoder: "frozen" or "full"; its head goes with it, unless it is tied to the embeddings.
        embeddings: The table of word embeddings: "frozen" or "full"; by default "full" with a full decoder.

    Raises:
        InputError: An unknown word, or a plan that trains nothing.
    """

    vision_encoder: Tuning = "frozen"
    projector: Tuning = "full"
    decoder: Tuning = "frozen"
    embeddings: Tuning | None = None

    def __post_init__(self) -> None:
        """Fill in the default of the embeddings, and refuse what means nothing."""
        if self.embeddings is None:
            object.__setattr__(self, "embeddings", "full" if self.decoder == "full" else "frozen")
        for part in PARTS:
            if (found := getattr(self, part)) not in get_args(Tuning):
                choices = ", ".join(get_args(Tuning))
                raise InputError(f"model.trainable.{part}: expected one of {choices}, found {found!r}")
        if not any(self.trains(part) for part in PARTS):
            raise InputError("model.trainable: every part is frozen; train at least one")

    def trains(self, part: Part) -> bool:
        """Whether anything of a part learns."""
        return bool(getattr(self, part) != "frozen")


# LLaVA, section 4.2: stage 1 trains the projector alone, stage 2 projector and decoder; the encoder never trains.
PLANS: dict[Stage, TrainablePlan] = {
    "align": TrainablePlan(projector="full"),
    "finetune": TrainablePlan(projector="full", decoder="full", embeddings="full"),
}


@dataclass(frozen=True, slots=True)
class PartSummary:
    """One row of the table that is shown at the start of a run."""

    part: Part
    num_trainable: int
    num_parameters: int
    dtypes: str


def parameters_by_part(model: LlavaModel) -> dict[Part, dict[str, nn.Parameter]]:
    """Return the parameters of each part by their names in the model; a tied head is one with the embeddings."""
    in_table = {id(parameter) for parameter in model.decoder.embedding.parameters()}
    parts: dict[Part, dict[str, nn.Parameter]] = {part: {} for part in PARTS}
    for name, parameter in model.named_parameters():
        if id(parameter) in in_table:
            parts["embeddings"][name] = parameter
        elif name == "image_newline":
            # Unlike LLaVA, which leaves it as it was drawn in stage 1: it is part of what stage 1 is there to learn.
            parts["projector"][name] = parameter
        else:
            parts[cast("Part", name.partition(".")[0])][name] = parameter
    return parts


def apply_plan(model: LlavaModel, plan: TrainablePlan) -> None:
    """Set ``requires_grad`` of every parameter, and train or eval mode of every part.

    A frozen part stays in eval mode: dropout in a part that cannot learn would only be noise.
    """
    for part, parameters in parameters_by_part(model).items():
        for parameter in parameters.values():
            parameter.requires_grad_(plan.trains(part))
        if part != "embeddings":  # a table, whose mode changes nothing
            model.get_submodule(part).train(plan.trains(part))
    if plan.trains("vision_encoder"):
        # DDP would wait forever for the gradients of these.
        for parameter in model.vision_encoder.unused_parameters:
            parameter.requires_grad_(False)


def summarize_parts(model: LlavaModel) -> list[PartSummary]:
    """Return what each part holds, in data-flow order."""
    rows = []
    for part, named in parameters_by_part(model).items():
        parameters = list(named.values())
        rows.append(
            PartSummary(
                part=part,
                num_trainable=sum(p.numel() for p in parameters if p.requires_grad),
                num_parameters=sum(p.numel() for p in parameters),
                dtypes=", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters})) or "-",
            )
        )
    return rows
