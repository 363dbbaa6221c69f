"""RGB picture -> levels and their pixel values.

In: a picture that ``data/picture_files.py`` has read. Out: uint8 ``(C, H, W)``, one entry of a sample's
``pixel_values``. ``data/sample_encoder.py`` stacks them; where the vision encoder runs, they become float32.

Every number equals what the original gets from Pillow and the CLIP processor of transformers 4, bit for bit. The
departures are marked ``Unlike LLaVA``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

# Not CLIPImageProcessor: that one is backed by torchvision, whose resizing differs by 1/255, and warns without it.
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_pl.data.clip_pixels import ClipPixels, centre_on_canvas, look_up
from llava_pl.data.json_files import read_json_object
from llava_pl.data.picture_files import to_rgb
from llava_pl.types import InputError, RecordError

if TYPE_CHECKING:
    from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation per channel of CLIP's training pictures, on a scale of 0 to 1 (OpenAI's released processor)."""

SIGLIP_SETTINGS = {"do_center_crop": False, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
"""Where SigLIP's processor is not CLIP's, unless its file says else."""

MAX_PIXELS = 2 * 89_478_485
"""Largest picture made on the way to the encoder, the size at which Pillow refuses to open a file (2.7 GiB at work)."""


def pad_to_square(picture: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Return the picture, in RGB, in the middle of a square as wide as its longer side.

    Of an odd number of rows (columns) to add, the extra one goes below (to the right).

    Args:
        picture: Of any mode.
        colour: Red, green and blue of what is added, 0 to 255.

    >>> pad_to_square(Image.new("RGB", (1, 4)), (122, 116, 104)).size
    (4, 4)
    """
    side = max(picture.size)
    return centre_on_canvas(to_rgb(picture), (side, side), colour)


class ImageTransform:
    """Turns a picture into pixel values, float32 ``(3, image_size, image_size)``.

    CLIP's preprocessing: shortest edge resized to ``image_size`` (bicubic), centre crop, values scaled to 0 to 1,
    ``(value - mean) / std`` per channel. SigLIP's (see `from_pretrained`) squeezes in place of the first two.

    Args:
        image_size: Height and width that the vision encoder reads, in pixels.
        aspect: "pad" fills the picture to a square first, so that all of it is seen (LLaVA-1.5); "square" lets the
            centre crop cut off what a square does not hold (SigLIP: squeezes the picture).
        image_mean: Mean per channel, 0 to 1. Rounded down to whole levels it is ``pad_colour``, the colour of what
            "pad" adds: close to zero once normalised.
        image_std: Standard deviation per channel.

    Raises:
        InputError: ``aspect`` or ``image_size`` is none of the above.
    """

    def __init__(
        self,
        image_size: int = 336,
        aspect: Literal["pad", "square"] = "pad",
        *,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
    ) -> None:
        if aspect not in ("pad", "square") or image_size < 1:
            raise InputError(
                "image transform: expected aspect pad or square and image_size of at least 1, "
                f"found {aspect!r} and {image_size}; correct the data settings"
            )
        self.image_size = image_size
        self.aspect = aspect
        red, green, blue = (int(mean * 255) for mean in image_mean)
        self.pad_colour = (red, green, blue)
        self._follow(
            CLIPImageProcessorPil(
                size={"shortest_edge": image_size},
                crop_size={"height": image_size, "width": image_size},
                image_mean=list(image_mean),
                image_std=list(image_std),
            )
        )

    @classmethod
    def from_pretrained(cls, path: str | Path, *, aspect: Literal["pad", "square"] = "pad") -> ImageTransform:
        """Return the transform that a vision encoder was trained with.

        Reads ``preprocessor_config.json``, of transformers 5 or older. A folder with only the ``config.json`` of a CLIP
        or SigLIP model gives their values at its size.

        Args:
            path: Folder or hub id of the encoder.
            aspect: As in the constructor; the files of an encoder do not say.

        Raises:
            InputError: Neither file can be read, or they do not describe an encoder of square pictures of one size.
        """
        reads = "preprocessor_config.json of a CLIP or SigLIP encoder of square pictures"
        expected = f"image transform of {path}: expected {reads}"
        step = "check the path of the vision encoder"
        try:
            config_path = Path(path) / "config.json"
            if config_path.is_file() and not any(config_path.parent.glob("*processor_config.json")):
                config = read_json_object(config_path)
                # transformers leaves defaults out of nested configs; this one is of both vision configs.
                size = config.get("vision_config", config).get("image_size", 224)
                settings = {"image_processor_type": config.get("model_type"), "size": size, "crop_size": size}
            else:
                settings, _ = CLIPImageProcessorPil.get_image_processor_dict(path)
        except (OSError, ValueError, AttributeError) as error:  # AttributeError: JSON, but no object
            raise InputError(f"{expected}, found none that can be read ({type(error).__name__}); {step}") from error
        # Files of transformers before 4.26 name the type by another key, if at all.
        name = str(settings.get("image_processor_type") or settings.get("feature_extractor_type", "CLIP"))
        kind = name.upper()
        if is_siglip := kind.startswith("SIGLIP") and not kind.startswith("SIGLIP2"):
            side = settings.get("size", 224)
            size = {"height": side, "width": side} if isinstance(side, int) else side
            settings = {**SIGLIP_SETTINGS, **settings, "size": size}
        # One class reads both: they differ in settings alone.
        processor = CLIPImageProcessorPil.from_dict(settings)
        crops, resizes = processor.do_center_crop, processor.do_resize
        square = dict(processor.crop_size if crops else processor.size)
        # SigLIP's settings are those of CLIP's class when that one has saved them.
        is_known = (resizes and not crops) if is_siglip else (resizes or crops) and kind.startswith(("CLIP", "LLAVA"))
        if not is_known or square.keys() != {"height", "width"} or square["height"] != square["width"]:
            found = f"type {name}, do_center_crop {processor.do_center_crop}, size {square}"
            raise InputError(f"{expected}, found {found}; {step}")
        transform = cls(square["height"], aspect, image_mean=processor.image_mean, image_std=processor.image_std)
        transform._follow(processor)
        return transform

    def _follow(self, processor: CLIPImageProcessorPil) -> None:
        self.processor = processor
        self._clip_pixels = ClipPixels(processor)

    def __call__(self, picture: Image.Image) -> Tensor:
        """Return the pixel values of what `prepare` makes of a picture, float32 ``(3, image_size, image_size)``."""
        levels = self.prepare(picture)
        return levels if self.value_of_level is None else look_up(levels, self.value_of_level)

    @property
    def value_of_level(self) -> Tensor | None:
        """The value of each level of each channel, float32 ``(3, 256)``; None where settings are rare."""
        return self._clip_pixels.value_of_level.float() if self._clip_pixels.is_known else None

    def find_seen(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return what the encoder sees of a picture: left, top, right and bottom, in the picture's pixels.

        Beyond the picture where something is added to it, within where something is cut off.

        Args:
            size: Width and height of the picture.

        >>> ImageTransform(336, "pad").find_seen((40, 20)), ImageTransform(336, "square").find_seen((40, 20))
        ((0.0, -10.0, 40.0, 30.0), (10.0, 0.0, 30.0, 20.0))
        """
        width, height = size
        pixels = self._clip_pixels
        if self.aspect == "square" and pixels.squeezes:
            return 0.0, 0.0, float(width), float(height)
        side = float(max(size) if self.aspect == "pad" else min(size))
        if pixels.crop_size is not None:
            side = self.image_size * (side / pixels.edge if pixels.edge else 1)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def prepare(self, picture: Image.Image) -> Tensor:
        """Return the levels of a picture of any mode, uint8 ``(3, image_size, image_size)``; values if it has none.

        Raises:
            RecordError: The picture is so elongated that squaring or resizing it would exhaust memory.
        """
        short, long = sorted(picture.size)
        num_pixels = long**2 if self.aspect == "pad" else self.image_size**2 * long // short
        if self.aspect == "square" and self._clip_pixels.squeezes:
            num_pixels = self.image_size**2
        if num_pixels > MAX_PIXELS:
            raise RecordError(
                f"picture of {picture.width} x {picture.height} pixels: expected at most {MAX_PIXELS} pixels once "
                f"prepared with aspect {self.aspect!r}, found {num_pixels}; crop or shrink it, or leave it out",
                "picture_broken",
            )
        if picture.mode != "RGB" or "transparency" in picture.info:
            picture = to_rgb(picture)
        # Unlike LLaVA: pictures 1 or 3 pixels high work. There the processor takes the height for the channels: it
        # refuses the former and garbles the latter.
        give = self._clip_pixels.levels if self._clip_pixels.is_known else self._clip_pixels
        return give(picture, self.pad_colour if self.aspect == "pad" else None)
