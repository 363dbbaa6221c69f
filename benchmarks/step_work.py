"""The model and the micro batch that `train_step.py` trains on, written once and read by every way.

In: a `Size` and a stage. Out: a folder with ``encoder``, ``decoder``, ``mm_projector.bin`` and, of the same weights,
``hf`` (llava-hf's layout), and ``samples.pt``: ids with a single mark for the picture, labels, and pixel values.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from statistics import NormalDist

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX

IMAGE_SIDE, PATCH_SIDE = 336, 14
NUM_IMAGE_TOKENS = (IMAGE_SIDE // PATCH_SIDE) ** 2


@dataclass(frozen=True)
class Size:
    """How much work a step is.

    Args:
        hidden_size: Width of the decoder.
        intermediate_size: Width within its blocks.
        num_hidden_layers: Its blocks.
        num_attention_heads: Heads of its queries.
        num_key_value_heads: Heads of its keys and values.
        vocab_size: Words, of which the last is what transformers calls an image token.
        micro_batch: Samples in a step.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    micro_batch: int


# SmolLM2-135M's shape with LLaMA's vocabulary; 8 samples do not fit into 24 GiB where nothing is recomputed.
FULL = Size(576, 1536, 30, 9, 3, vocab_size=32_000, micro_batch=6)
# With a head that is about as large a part of the work as in the full size.
QUICK = Size(256, 704, 8, 4, 2, vocab_size=4096, micro_batch=4)


def text_lengths(stage: str, num_samples: int) -> list[int]:
    """Return the text tokens of each sample: evenly spaced quantiles of the lengths in LLaVA's stages.

    Answers of the second stage are drawn as in `padding.py`, of the first as captions of about 15 tokens.

    >>> text_lengths("finetune", 6), text_lengths("align", 6)
    ([63, 108, 153, 210, 298, 507], [9, 11, 13, 16, 18, 24])
    """
    middle, spread = (180, 0.75) if stage == "finetune" else (15, 0.35)
    shares = [(2 * number + 1) / (2 * num_samples) for number in range(num_samples)]
    return [int(middle * exp(spread * NormalDist().inv_cdf(share))) for share in shares]


def make_samples(stage: str, num_samples: int, vocab_size: int) -> list[dict[str, torch.Tensor]]:
    """Return samples of one picture each; 2.5 % of positions are supervised in stage `align`, 12 % in `finetune`."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for length in text_lengths(stage, num_samples):
        text = torch.randint(3, vocab_size - 1, (length,), generator=generator)
        input_ids = torch.cat([torch.tensor([1, IMAGE_TOKEN_INDEX]), text])
        num_supervised = length if stage == "align" else round(0.12 * (length + NUM_IMAGE_TOKENS + 1))
        labels = input_ids.clone()
        labels[: -min(num_supervised, length)] = IGNORE_INDEX
        pixel_values = torch.randn(3, IMAGE_SIDE, IMAGE_SIDE, generator=generator)
        samples.append({"input_ids": input_ids, "labels": labels, "pixel_values": pixel_values})
    # Neither sorted nor the longest at an end.
    return samples[1::2] + samples[::2]


def write_eye(folder: Path, model: LlavaForConditionalGeneration) -> None:
    """Write vision encoder and projector of a model as the original reads them: ``encoder``, ``mm_projector.bin``."""
    vision = model.config.vision_config
    vision.save_pretrained(folder / "encoder")
    # Names that transformers 4 reads, too.
    tower = {f"vision_model.{name}": tensor for name, tensor in model.model.vision_tower.state_dict().items()}
    save_file(tower, folder / "encoder" / "model.safetensors", {"format": "pt"})
    CLIPImageProcessorPil(
        size={"shortest_edge": vision.image_size}, crop_size={"height": vision.image_size, "width": vision.image_size}
    ).save_pretrained(folder / "encoder")
    projector = model.model.multi_modal_projector
    layers = {"0": projector.linear_1, "2": projector.linear_2}
    names = {f"model.mm_projector.{n}.{k}": v for n, layer in layers.items() for k, v in layer.state_dict().items()}
    torch.save(names, folder / "mm_projector.bin")


def write_work(folder: Path, size: Size, stage: str) -> None:
    """Write model and samples."""
    torch.manual_seed(0)
    shape = asdict(size)
    shape.pop("micro_batch")
    vision = CLIPVisionConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=IMAGE_SIDE,
        patch_size=PATCH_SIDE,
    )
    language = LlamaConfig(tie_word_embeddings=False, max_position_embeddings=2048, **shape)
    config = LlavaConfig(vision_config=vision, text_config=language, image_token_id=size.vocab_size - 1)
    model = LlavaForConditionalGeneration(config)
    model.save_pretrained(folder / "hf")
    decoder = LlamaForCausalLM(language)
    decoder.model, decoder.lm_head = model.model.language_model, model.lm_head
    decoder.save_pretrained(folder / "decoder")
    write_eye(folder, model)
    torch.save(make_samples(stage, size.micro_batch, size.vocab_size), folder / "samples.pt")
