"""A path to a model that is ready to be asked: read, on its device, in the dtype or the bits that are asked for.

In: options of `add_model_options`. Out: the model and what makes its prompts.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llava_pl.types import InputError

if TYPE_CHECKING:
    from llava_pl.data.sample_encoder import SampleEncoder
    from llava_pl.export.pretrained import Pretrained
    from llava_pl.models.llava import LlavaModel

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "nf4", "fp4", "int8")


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model that can be asked.

    Args:
        model: In eval mode, on its device.
        encoder: As it was trained with.
        name: What it is called.
    """

    model: LlavaModel
    encoder: SampleEncoder
    name: str


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of where the parts of a model are, and whether its files are trusted."""
    parser.add_argument("--base", metavar="MODEL", help="language model of a projector, a LoRA or a moved checkpoint")
    parser.add_argument("--vision_encoder", metavar="MODEL", help="encoder, where it is not what a source names")
    parser.add_argument("--unsafe", action="store_true", help="read checkpoints with pickled objects: these run code")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of which model is opened, and how."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder or checkpoint; every form that import reads")
    add_reading_options(parser)
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU if there is one")
    parser.add_argument(
        "--dtype", choices=("auto", *DTYPES), default="auto", help="auto: bfloat16 on CUDA, float16 on Apple's"
    )
    parser.add_argument(
        "--quantization", choices=QUANTIZATIONS, default="none", help="decoder's blocks in 4 or 8 bits (extra [qlora])"
    )


def open_model(options: argparse.Namespace) -> OpenModel:
    """Return the model that options name.

    Raises:
        InputError: There is no such model, device or package, or the model cannot be talked to.
    """
    from llava_pl.export.layouts import load_pretrained
    from llava_pl.export.model_config import DTYPES as TORCH_DTYPES
    from llava_pl.models.quantization import quantize_blocks, require_bitsandbytes

    check_exists(options.model)
    if options.quantization != "none":
        require_bitsandbytes(f"--quantization {options.quantization}")
    device = find_device(options.device)
    by_device = {"cuda": "bfloat16", "mps": "float16"}
    dtype = TORCH_DTYPES[by_device.get(device, "float32") if options.dtype == "auto" else options.dtype]
    pretrained = load_pretrained(
        options.model, base=options.base, vision_encoder=options.vision_encoder, dtype=dtype, unsafe=options.unsafe
    )
    check_answers(pretrained, options.model)
    encoder, decoder = pretrained.make_encoder(), pretrained.model.decoder
    model = pretrained.model.eval().to(device)
    quantize_blocks(decoder.model, options.quantization, plain=[decoder.head, decoder.embedding])  # type: ignore[attr-defined]
    return OpenModel(model, encoder, options.model.resolve().name)


def check_exists(path: Path) -> None:
    """Check that there is something at a path, before anything is asked or read.

    Raises:
        InputError: There is nothing.
    """
    if not path.exists():
        raise InputError(f"{path}: no such folder or file; expected a model")


def check_answers(pretrained: Pretrained, path: Path) -> None:
    """Check that a model has learned to answer.

    Raises:
        InputError: It has learned to write captions alone.
    """
    if pretrained.settings.template == "plain":
        raise InputError(
            f"{path}: expected a model that answers questions, found one of stage align (template plain), which has "
            "learned to write captions alone; give one of stage finetune"
        )


def find_device(name: str) -> str:
    """Return the device of a name, "auto" being the best there is.

    Raises:
        InputError: It is not here.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, is_there in there.items() if is_there)
    if not there[name]:
        found = ", ".join(device for device, is_there in there.items() if is_there)
        raise InputError(f"--device {name}: not available here; expected one of {found}, or auto")
    return name
