"""What the vision encoder makes of a picture depends on more than the picture: this file names all of it.

In: the encoder of a run as it is about to be used, and how its pictures are prepared. Out: plain words, equal for two
runs exactly if these may share features. Nothing of projector, decoder or records is among them.
"""

from __future__ import annotations

import json
import platform
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.models.vision_encoder import VisionEncoder

_NAMES = ("_name_or_path", "architectures", "transformers_version")
"""Of a configuration, what says where a model came from and not what it computes."""


def describe_origin(
    encoder: VisionEncoder, pictures: SampleEncoder, *, device: torch.device, precision: str
) -> dict[str, str]:
    """Return what features depend on beside the bytes of their picture.

    The weights count as they are, not the files that they came from: a checkpoint may have brought others.

    Args:
        encoder: With the weights of the run.
        pictures: How files become pixel values.
        device: Where the encoder runs; another kind may round otherwise.
        precision: Of the trainer.
    """
    model: Any = encoder.model
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NAMES}
    processor = pictures.image_transform.processor.to_dict()
    is_cuda = device.type == "cuda"
    arithmetic = {
        "device": torch.cuda.get_device_name(device) if is_cuda else f"{device.type} {platform.machine()}",
        "instructions": None if is_cuda else torch.backends.cpu.get_cpu_capability(),
        "precision": precision,
        "float32_matmul": torch.get_float32_matmul_precision(),
        "tf32_convolutions": is_cuda and torch.backends.cudnn.allow_tf32,
        "attention": model.config._attn_implementation,
    }
    return {
        "weights": hash_weights(encoder),
        "encoder": _line({"class": type(model).__name__, "select_feature": encoder.select_feature, **config}),
        "pictures": _line(
            {**processor, "aspect": pictures.image_transform.aspect, "respect_exif": pictures.respect_exif}
        ),
        "arithmetic": _line(arithmetic),
        "versions": _line({name: version(name) for name in ("torch", "transformers", "pillow")}),
    }


def hash_weights(module: nn.Module) -> str:
    """Return a hash of names, dtypes, shapes and bytes of a module's tensors."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)
