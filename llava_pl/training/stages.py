"""Which parts a run trains, and how. This file is the only writer of ``requires_grad``.

In: a `TrainablePlan`, as the configuration states it or as a stage implies. Out: a model whose parameters obey it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import nn

from llava_pl.export.streaming import WeightStream, convert
from llava_pl.models.adapters import LoraBias, LoraConfig, add_adapters, learned_rows, lora_parameters
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.division import whole_shape
from llava_pl.models.llava import LlavaModel
from llava_pl.types import InputError

Stage = Literal["align", "finetune"]
Part = Literal["vision_encoder", "projector", "decoder", "embeddings"]
Tuning = Literal["frozen", "full", "lora"]
ProjectorTuning = Literal["frozen", "full"]
EmbeddingTuning = Literal["frozen", "new_tokens", "full"]
PARTS: tuple[Part, ...] = get_args(Part)
"""In data-flow order. Every parameter belongs to exactly one of them; see `parameters_by_part`."""


@dataclass(frozen=True)
class TrainablePlan:
    """How each part of the model is trained, whatever the stage implies.

    Args:
        vision_encoder: "frozen", "full" or "lora".
        projector: "frozen" or "full"; the newline embedding of tiled pictures goes with it.
        decoder: "frozen", "full" or "lora"; its head goes with a full one, unless it is tied to the embeddings.
        embeddings: The table of word embeddings: "frozen", "full", or "new_tokens" for the rows of the image marks
            alone; by default "full" with a full decoder.

    Raises:
        InputError: An unknown word, or a plan that trains nothing.
    """

    vision_encoder: Tuning = "frozen"
    projector: ProjectorTuning = "full"
    decoder: Tuning = "frozen"
    embeddings: EmbeddingTuning | None = None

    def __post_init__(self) -> None:
        """Fill in the default of the embeddings, and refuse what means nothing."""
        if self.embeddings is None:
            object.__setattr__(self, "embeddings", "full" if self.decoder == "full" else "frozen")
        words = {"projector": ProjectorTuning, "embeddings": EmbeddingTuning}
        for part in PARTS:
            choices = get_args(words.get(part, Tuning))
            if (found := getattr(self, part)) not in choices:
                raise InputError(f"model.trainable.{part}: expected one of {', '.join(choices)}, found {found!r}")
        if not any(self.trains(part) for part in PARTS):
            raise InputError("model.trainable: every part is frozen; train at least one")

    def trains(self, part: Part) -> bool:
        """Whether anything of a part learns."""
        return bool(getattr(self, part) != "frozen")

    @property
    def lora_parts(self) -> list[Literal["vision_encoder", "decoder"]]:
        """The parts that are trained by adapters."""
        parts: tuple[Literal["vision_encoder", "decoder"], ...] = ("vision_encoder", "decoder")
        return [part for part in parts if getattr(self, part) == "lora"]


# LLaVA, section 4.2: stage 1 trains the projector alone, stage 2 projector and decoder; the encoder never trains.
PLANS: dict[Stage, TrainablePlan] = {
    "align": TrainablePlan(projector="full"),
    "finetune": TrainablePlan(projector="full", decoder="full", embeddings="full"),
}


def check_plan(plan: TrainablePlan, *, lora: LoraConfig | None, is_quantized: bool, has_new_tokens: bool) -> None:
    """Check that a plan and the settings beside it mean something together, before anything is loaded.

    Raises:
        InputError: They contradict each other.
    """
    if lora is not None and not plan.lora_parts:
        raise InputError(
            "model.lora: found settings, but no part has adapters; set model.trainable.decoder to lora, or leave them "
            "out"
        )
    if is_quantized and plan.decoder == "full":
        raise InputError(
            "model.decoder.quantization: quantized weights cannot be trained in full; set model.trainable.decoder to "
            "lora or frozen, or the quantization to none"
        )
    if is_quantized and plan.decoder == "lora" and lora is not None and lora.bias != "none":
        # Its layers of 4 and 8 bits round their biases to the dtype of their inputs, in place, at each forward pass.
        raise InputError(
            f"model.lora.bias: found {lora.bias} beside a quantized decoder, whose biases bitsandbytes keeps in half "
            "precision, where they cannot learn; set it to none"
        )
    if plan.embeddings == "new_tokens" and not has_new_tokens:
        raise InputError(
            "model.trainable.embeddings: found new_tokens, but no token is new; add some with data.image_start_end or "
            "data.image_patch_token, or choose frozen or full"
        )


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


def add_planned_adapters(model: LlavaModel, plan: TrainablePlan, lora: LoraConfig | None) -> None:
    """Put the adapters that a plan trains into encoder and decoder, and into no other part.

    Raises:
        InputError: A target of `lora` is no layer of a part, or no token is new.
    """
    token_ids = model.new_token_ids if plan.embeddings == "new_tokens" else ()
    if plan.embeddings == "new_tokens" and not token_ids:
        raise InputError(
            "model.trainable.embeddings: found new_tokens, but the decoder's tokenizer knows the image marks already; "
            "choose frozen or full"
        )
    if plan.vision_encoder == "lora":
        add_adapters(model.vision_encoder.model, lora, left_out=model.vision_encoder.unused_parameters)
    if plan.decoder == "lora" or token_ids:
        decoder = cast("CausalDecoder", model.decoder)
        adapters = lora if plan.decoder == "lora" else None
        add_adapters(decoder.model, adapters, left_out=decoder.head.parameters(), token_ids=token_ids)


def apply_plan(model: LlavaModel, plan: TrainablePlan, *, lora_bias: LoraBias = "none") -> None:
    """Set ``requires_grad`` of every parameter, and train or eval mode of every part.

    A frozen part stays in eval mode: dropout in a part that cannot learn would only be noise.

    Args:
        model: With the adapters that the plan asks for.
        plan: How each part is trained.
        lora_bias: Which biases learn in a part that is trained by LoRA.
    """
    for part, parameters in parameters_by_part(model).items():
        chosen = {id(parameter) for parameter in _learners(model, part, plan, lora_bias)}
        for parameter in parameters.values():
            parameter.requires_grad_(id(parameter) in chosen)
        if part != "embeddings":  # a table, whose mode changes nothing
            model.get_submodule(part).train(plan.trains(part))
    if plan.trains("vision_encoder"):
        # DDP would wait forever for the gradients of these.
        for parameter in model.vision_encoder.unused_parameters:
            parameter.requires_grad_(False)


def prepare(
    model: LlavaModel, plan: TrainablePlan, lora: LoraConfig | None, stream: WeightStream | None = None
) -> None:
    """Make a model that was just built ready for training: its adapters, what learns, and in which dtype.

    Args:
        model: Changed in place.
        plan: How each part is trained.
        lora: The adapters of the parts that are trained by LoRA.
        stream: What will fill the model's stand-ins, if it has any.
    """
    add_planned_adapters(model, plan, lora)
    if stream is not None:
        stream.measure_dora(model)
    apply_plan(model, plan, lora_bias="none" if lora is None else lora.bias)
    raise_trained(model)


def raise_trained(model: LlavaModel) -> None:
    """Hold what learns in float32: weights of half precision would round small updates away.

    Autocast takes care of the speed. A norm of which a bias alone learns is raised whole: on a CPU it takes one dtype.
    """
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        is_mixed_norm = type(module).__name__.endswith("Norm") and any(p.requires_grad for p in own)
        for parameter in own:
            if parameter.requires_grad or is_mixed_norm:
                parameter.data = convert(parameter.data, torch.float32)


def _learners(model: LlavaModel, part: Part, plan: TrainablePlan, lora_bias: LoraBias) -> Iterable[nn.Parameter]:
    """Return what learns in a part; parameters of other parts among them do not count."""
    tuning = getattr(plan, part)
    if tuning == "full":
        return model.parameters()
    if tuning == "lora":
        return lora_parameters(model.get_submodule(part), lora_bias)
    rows = learned_rows(model.decoder.embedding) if tuning == "new_tokens" else None
    return () if rows is None else (rows,)


def summarize_parts(model: LlavaModel) -> list[PartSummary]:
    """Return what each part holds, in data-flow order."""
    rows = []
    for part, named in parameters_by_part(model).items():
        parameters = list(named.values())
        rows.append(
            PartSummary(
                part=part,
                num_trainable=sum(_count(p) for p in parameters if p.requires_grad),
                num_parameters=sum(_count(p) for p in parameters),
                dtypes=", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters})) or "-",
            )
        )
    return rows


def _count(parameter: nn.Parameter) -> int:
    """Return how many weights a parameter holds, 4-bit ones among them, of which two share a byte."""
    state = getattr(parameter, "quant_state", None)
    return whole_shape(parameter).numel() if state is None else int(state.shape.numel())
