"""Answers of haotian-liu/LLaVA, one question after the other, as its script for ScienceQA gets them.

Run with an interpreter of its packages. In float32 on a CPU, greedily; everything from the picture's file to the text
is its own code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from harness import Channel
from PIL import Image


def main(folder: Path, tokenizer_path: str, max_new_tokens: int, checkout: str) -> None:
    """Answer a set of questions whenever that is asked for."""
    channel = Channel()
    sys.path.insert(0, checkout)
    from llava.constants import IMAGE_TOKEN_INDEX
    from llava.conversation import conv_templates
    from llava.mm_utils import process_images, tokenizer_image_token
    from llava.model import LlavaLlamaForCausalLM
    from llava.train.train import ModelArguments
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path, use_fast=False)
    model = LlavaLlamaForCausalLM.from_pretrained(str(folder / "decoder"))
    arguments = ModelArguments(
        vision_tower=str(folder / "encoder"),
        pretrain_mm_mlp_adapter=str(folder / "mm_projector.bin"),
        mm_projector_type="mlp2x_gelu",
        mm_vision_select_layer=-2,
    )
    model.get_model().initialize_vision_modules(model_args=arguments)
    model.get_vision_tower().to(dtype=torch.float32)
    model.config.image_aspect_ratio = "pad"
    model.eval()
    processor = model.get_vision_tower().image_processor

    def answer(entry: dict) -> str:
        conversation = conv_templates["vicuna_v1"].copy()
        conversation.append_message(conversation.roles[0], entry["text"])
        conversation.append_message(conversation.roles[1], None)
        prompt = conversation.get_prompt()
        ids = tokenizer_image_token(prompt, tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")[None]
        options = {}
        if entry["picture"] is not None:
            picture = Image.open(folder / "pictures" / entry["picture"])
            options["images"] = process_images([picture], processor, model.config)
            options["image_sizes"] = [picture.size]
        with torch.inference_mode():
            new_ids = model.generate(ids, do_sample=False, max_new_tokens=max_new_tokens, use_cache=True, **options)
        return tokenizer.batch_decode(new_ids, skip_special_tokens=True)[0].strip()

    while request := channel.wait():
        entries = json.loads((folder / f"{request['questions']}.json").read_text())
        channel.answer(answers={entry["id"]: answer(entry) for entry in entries})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
