"""A model of random weights in true shapes, made where it runs, and samples of drawn lengths: for `gpu.py` and others.

In: `Shapes`. Out: a `RandomModule`, which is trained as any `LlavaModule`, and `Sample`s. No weight is in a file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from padding import draw_lengths
from torch import nn

from llava_pl import LlavaModule
from llava_pl.export.build import speed_up
from llava_pl.models.llava import LlavaModel
from llava_pl.training.rehearsal import sketch_run
from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, Sample


@dataclass(frozen=True)
class Shapes:
    """Sizes of the parts, as their ``config.json`` give them, and how much shorter texts are than LLaVA's."""

    encoder: dict[str, Any]
    decoder: dict[str, Any]
    text_scale: float = 1.0

    @property
    def num_patches(self) -> int:
        """P, of the projector of LLaVA-1.5, which makes one image token of each patch."""
        return (self.encoder["image_size"] // self.encoder["patch_size"]) ** 2

    def write(self, folder: Path) -> None:
        """Write the settings of both parts; there is nothing else of them."""
        for name, kind, sizes in (
            ("encoder", "clip_vision_model", self.encoder),
            ("decoder", "llama", {"max_position_embeddings": 4096, **self.decoder}),
        ):
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(json.dumps({"model_type": kind, **sizes}))


SEVEN_B = Shapes(  # CLIP ViT-L/14-336 and Vicuna-7B
    {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
     "image_size": 336, "patch_size": 14},
    {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
     "vocab_size": 32000},
)  # fmt: skip
TINY = Shapes(
    {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
     "image_size": 28, "patch_size": 14},
    {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64},
    text_scale=1 / 32,
)  # fmt: skip


class RandomModule(LlavaModule):
    """A `LlavaModule` whose weights are drawn on the device that trains them."""

    def configure_model(self) -> None:
        """Build the layers as a run does, without weights, and draw these."""
        if self.model is None:
            model = sketch_run(self.model_config, self.plan, self.lora)
            device = torch.device("cpu") if self._trainer is None else self.trainer.strategy.root_device
            draw_weights(model, device)
            speed_up(self.model_config, model.vision_encoder, model.decoder)
            self.model = model


@torch.no_grad()
def draw_weights(model: LlavaModel, device: torch.device) -> None:
    """Put a model without weights on a device: norms are ones, biases zeros, all else is drawn as LLaMA's is."""
    tables = {module: _tables(module) for module in model.modules()}
    model.to_empty(device=device)
    for module, buffers in tables.items():
        for name, values in buffers.items():
            module.register_buffer(name, values.to(device), persistent=False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(std=0.02)


def _tables(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return what a module looks up and no file holds: frequencies of rotations, numbers of positions."""
    found: dict[str, torch.Tensor] = {}
    for name, buffer in module._buffers.items():
        if buffer is None:
            continue
        if name == "position_ids":
            found[name] = torch.arange(buffer.shape[-1])[None]
        elif name.endswith("inv_freq"):
            fresh: Any = type(module)(module.config)  # type: ignore[arg-type]
            found[name] = fresh.inv_freq
        else:
            raise ValueError(f"{type(module).__name__}.{name}: expected a table that is known here")
    return found


def make_sample(
    name: str, shapes: Shapes, *, num_text: int, num_supervised: int, num_pictures: int, generator: torch.Generator
) -> Sample:
    """Return a sample of noise: a begin mark, pictures, then text whose last tokens are supervised."""
    num_image_tokens, side = num_pictures * shapes.num_patches, shapes.encoder["image_size"]
    # The last word is what transformers' own model takes for an image token.
    text = torch.randint(3, shapes.decoder["vocab_size"] - 1, (num_text,), generator=generator)
    ids = torch.cat([torch.tensor([1]), torch.full((num_image_tokens,), IMAGE_TOKEN_INDEX), text])
    labels = torch.full_like(ids, IGNORE_INDEX)
    if num_supervised:
        labels[-num_supervised:] = ids[-num_supervised:]
    pixel_values = torch.randn(num_pictures, 3, side, side, generator=generator)
    return Sample(name, ids, labels, pixel_values)


def draw_samples(stage: str, number: int, shapes: Shapes, seed: int = 0) -> list[Sample]:
    """Return samples whose lengths resemble those of LLaVA-1.5's stages.

    In stage `align` a caption of about 15 tokens follows a picture, and all of it is supervised; in `finetune` lengths
    are those of `padding.py`, and 40 % of the text is supervised, an eighth of all positions. With `evaluate` they are
    questions of about 150 tokens, half of them with a picture, as in ScienceQA.
    """
    generator = torch.Generator().manual_seed(seed)
    if stage == "evaluate":
        texts = np.random.default_rng(seed).lognormal(np.log(150), 0.4, number)
        plans, share = [(text, index % 2) for index, text in enumerate(texts)], 0.0
    elif stage == "align":
        texts = np.random.default_rng(seed).lognormal(np.log(14), 0.35, number)
        plans, share = [(text, 1) for text in texts], 1.0
    else:
        tokens, words = draw_lengths(seed)  # words are negative without a picture
        plans = [(length - 1 - 576 * (count > 0), int(count > 0)) for length, count in zip(tokens, words, strict=True)]
        share = 0.4
    samples = []
    for index, (text, num_pictures) in enumerate(plans[:number]):
        num_text = max(4, int(text * shapes.text_scale))
        samples.append(
            make_sample(
                str(index),
                shapes,
                num_text=num_text,
                num_supervised=int(share * num_text),
                num_pictures=num_pictures,
                generator=generator,
            )
        )
    return samples
