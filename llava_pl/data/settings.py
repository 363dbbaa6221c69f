"""What a model must be asked with, as plain values that travel beside its weights.

In: the encoder of samples that a run has trained with. Out: a `DataSettings`, in a checkpoint and in every layout on
disk that has room for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args

from llava_pl.data.templates import TemplateName
from llava_pl.types import InputError

if TYPE_CHECKING:
    from llava_pl.data.sample_encoder import SampleEncoder

ImageAspect = Literal["pad", "square", "anyres"]
KINDS = {
    "image_start_end": (bool,), "respect_exif": (bool,), "legacy_tokenizer": (bool, NoneType),
    "max_length": (int, NoneType),
}  # fmt: skip
"""Of the plain values that are no words."""


@dataclass(frozen=True, slots=True)
class DataSettings:
    """How text and pictures became samples.

    Args:
        template: Name of the conversation template.
        image_aspect: How pictures became square, "anyres" where they were cut into tiles.
        grid_pinpoints: With "anyres", the sizes (width, height) that pictures were brought to; None without.
        image_start_end: Whether marks stood around image slots.
        respect_exif: Whether photographs were turned upright.
        legacy_tokenizer: The behaviour of LLaMA's tokenizer; None of any other.
        max_length: The most positions of a sample; None where nothing was cut.

    Raises:
        InputError: An unknown template or aspect.
    """

    template: TemplateName = "vicuna_v1"
    image_aspect: ImageAspect = "pad"
    grid_pinpoints: tuple[tuple[int, int], ...] | None = None
    image_start_end: bool = False
    respect_exif: bool = True
    legacy_tokenizer: bool | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        """Refuse words that mean nothing."""
        for name, choices in (("template", get_args(TemplateName)), ("image_aspect", get_args(ImageAspect))):
            if (found := getattr(self, name)) not in choices:
                raise InputError(f"{name}: expected one of {', '.join(choices)}, found {found!r}")

    @classmethod
    def of(cls, encoder: SampleEncoder) -> DataSettings:
        """Return the settings of an encoder of samples."""
        tiling = encoder.tiling
        return cls(
            template=encoder.template,
            image_aspect=encoder.image_transform.aspect if tiling is None else "anyres",
            grid_pinpoints=None if tiling is None else _pairs(tiling.pinpoints),
            image_start_end=encoder.image_start_end,
            respect_exif=encoder.respect_exif,
            legacy_tokenizer=encoder.tokenizer.init_kwargs.get("legacy"),
            max_length=encoder.max_length,
        )

    @classmethod
    def from_plain(cls, values: object, where: str) -> DataSettings:
        """Return the settings that `to_plain` gave, from wherever they were kept.

        Raises:
            InputError: They are something else, or hold a name that this version does not know.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or not values.keys() <= known:
            found = sorted(values.keys() - known) if isinstance(values, Mapping) else type(values).__name__
            raise InputError(f"{where}: expected settings of the data ({', '.join(sorted(known))}), found {found}")
        for name, kinds in KINDS.items():
            if name in values and type(values[name]) not in kinds:
                expected = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
                raise InputError(f"{where}.{name}: expected {expected}, found {values[name]!r}")
        pinpoints = values.get("grid_pinpoints")
        try:
            return cls(**{**values, "grid_pinpoints": None if pinpoints is None else _pairs(pinpoints)})
        except (InputError, TypeError, ValueError) as error:
            raise InputError(f"{where}: {error}") from error

    def to_plain(self) -> dict[str, Any]:
        """Return the settings as what JSON and a checkpoint without pickled objects can hold."""
        pairs = None if self.grid_pinpoints is None else [list(pair) for pair in self.grid_pinpoints]
        return {**asdict(self), "grid_pinpoints": pairs}


def _pairs(sizes: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(width), int(height)) for width, height in sizes)
