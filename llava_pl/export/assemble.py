"""Settings and named tensors to a model: every tensor is used exactly once, in the dtype that it has on disk.

In: a `ModelSpec` and tensors under the names of `LlavaModel`. Out: the model, or one line about the first thing that
does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig
from transformers.initialization import no_init_weights

from llava_pl.export.weights import check_weights
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector
from llava_pl.models.vision_encoder import SelectFeature, VisionEncoder
from llava_pl.types import InputError

_NO_SETTINGS = {
    "_name_or_path", "architectures", "auto_map", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder",
    "label2id", "output_attentions", "output_hidden_states", "problem_type", "quantization_config", "return_dict",
    "transformers_version",
}  # fmt: skip
"""What transformers writes beside a model's settings: of a file, of one call, or of other kinds of models."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All that a model is beside its weights, as plain values.

    Args:
        vision_encoder: Settings of the encoder, as transformers writes them; cut to the layers that run.
        select_feature: Which of its positions are used.
        projector: Kind of projector.
        decoder: Settings of the language model, as transformers writes them.
        projector_options: Settings of the projector.
        has_newline: Whether pictures are tiled, so that there is a newline embedding.
    """

    vision_encoder: Mapping[str, Any]
    select_feature: SelectFeature
    projector: str
    decoder: Mapping[str, Any]
    projector_options: Mapping[str, Any] = field(default_factory=dict)
    has_newline: bool = False


def assemble(
    spec: ModelSpec, weights: Mapping[str, Tensor], where: object, *, dtype: torch.dtype | None = None
) -> LlavaModel:
    """Return the model in eval mode; its parameters are the given tensors, not copies.

    Args:
        spec: What to build.
        weights: By their names in the model; of tied tensors either or both.
        where: The file or folder that errors name.
        dtype: What floating-point tensors become; each keeps its own when None.

    Raises:
        InputError: The settings mean nothing, or a tensor is missing, unexpected, empty, not finite or of other shape.
    """
    eye, language = _to_config(spec.vision_encoder, where), _to_config(spec.decoder, where)
    with no_init_weights():
        encoder = VisionEncoder(_build(AutoModel, eye), _check_feature(spec.select_feature, where))
        attention = find_attention(language)
        decoder = CausalDecoder(_build(AutoModelForCausalLM, language, attn_implementation=attention))
    decoder.model.tie_weights()
    projector = build_projector(
        spec.projector,
        vision_width=encoder.width,
        decoder_width=decoder.width,
        num_patches=encoder.num_patches,
        options=spec.projector_options,
    )
    newline = nn.Parameter(torch.zeros(decoder.width)) if spec.has_newline else None
    model = LlavaModel(encoder, projector, decoder, newline)
    check_names(model, weights, where)
    check_weights(weights, str(where))
    # A file holds a tied tensor under one of its names, whichever.
    own = model.state_dict()
    given = {own[name].data_ptr(): tensor for name, tensor in weights.items()}
    state = {name: given[tensor.data_ptr()] for name, tensor in own.items()}
    if dtype is not None:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    decoder.model.tie_weights()
    return model.eval().requires_grad_(False)


def describe(model: LlavaModel, projector: str, options: Mapping[str, Any]) -> ModelSpec:
    """Return the settings that `assemble` builds the same model from."""
    language = model.decoder.model  # type: ignore[attr-defined]
    return ModelSpec(
        vision_encoder=plain_config(model.vision_encoder.model.config),
        select_feature=model.vision_encoder.select_feature,
        projector=projector,
        decoder=plain_config(language.config),
        projector_options=dict(options),
        has_newline=model.image_newline is not None,
    )


def plain_config(config: PreTrainedConfig) -> dict[str, Any]:
    """Return transformers' settings as plain values, defaults included: these may change with a version."""
    plain: dict[str, Any] = config.to_dict()
    return {name: value for name, value in plain.items() if name not in _NO_SETTINGS}


def find_attention(config: PreTrainedConfig) -> str:
    """Return the attention, as transformers names it, that a language model has in any case: MPT's is eager alone."""
    return "sdpa" if getattr(MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None), "_supports_sdpa", True) else "eager"


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers that a file must hold: of tied ones the first alone."""
    found: dict[str, Tensor] = {}
    storages: set[tuple[int, tuple[int, ...]]] = set()
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if place not in storages or tensor.numel() == 0:
            found[name] = tensor.detach()
            storages.add(place)
    return found


def check_names(model: LlavaModel, weights: Mapping[str, Tensor], where: object) -> None:
    """Check that tensors are exactly those of a model.

    Raises:
        InputError: One is missing, has no place, or is of another shape.
    """
    own, needed = model.state_dict(), tensors_of(model)
    # Both names of a tied tensor are welcome, one is enough: which one is written first depends on the program.
    tied = {own[name].data_ptr() for name in weights if name in own}
    missing = sorted(name for name in needed if name not in weights and needed[name].data_ptr() not in tied)
    unexpected = sorted(weights.keys() - own.keys())
    if missing or unexpected:
        raise InputError(
            f"{where}: tensors do not fit: missing {_some(missing)}, unexpected {_some(unexpected)}; "
            "the files are not of one model"
        )
    seen: dict[int, str] = {}
    for name, tensor in weights.items():
        if own[name].shape != tensor.shape:
            raise InputError(
                f"{where}: tensor {name!r}: expected shape {tuple(own[name].shape)}, found {tuple(tensor.shape)}"
            )
        other = seen.setdefault(own[name].data_ptr(), name)
        if other != name and not torch.equal(tensor, weights[other]):
            raise InputError(f"{where}: tensors {other!r} and {name!r} are one in this model, but differ in the files")


def _build(model_class: Any, config: PreTrainedConfig, **options: str) -> Any:  # noqa: ANN401  classes of transformers
    return model_class.from_config(config, **options)


def _to_config(settings: Mapping[str, Any], where: object) -> PreTrainedConfig:
    try:
        return AutoConfig.for_model(**settings)
    except Exception as error:  # what transformers raises on nonsense has no common base
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(f"{where}: expected settings of a model that transformers knows, but {reason}") from error


def _check_feature(feature: SelectFeature, where: object) -> SelectFeature:
    if feature not in get_args(SelectFeature):
        raise InputError(f"{where}: select_feature: expected patch or cls_patch, found {feature!r}")
    return feature


def _some(names: list[str]) -> str:
    """Return up to three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}" if names else "none"
