"""Answers of transformers' `LlavaForConditionalGeneration`, in batches as the questions come or with the longest first.

It is handed the ids of the prompts and pictures as the original squares them: its processor does neither as the model
was trained. Reading, resizing, padding, generating and decoding are in the time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from answer_work import IMAGE_ID, NUM_IMAGE_TOKENS
from harness import Channel
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import LlavaForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_pl.data.image import ImageTransform, pad_to_square
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.types import IMAGE_TOKEN_INDEX


def main(folder: Path, tokenizer_path: str, max_new_tokens: int) -> None:
    """Answer a set of questions in batches of a size whenever that is asked for."""
    channel = Channel()
    model = LlavaForConditionalGeneration.from_pretrained(folder / "hf", dtype=torch.float32).eval()
    processor = CLIPImageProcessorPil.from_pretrained(folder / "encoder")
    tokenizer, colour = load_tokenizer(tokenizer_path), ImageTransform().pad_colour

    def answer(entries: list[dict]) -> list[str]:
        rows = []
        for entry in entries:
            ids = torch.tensor(entry["ids"])
            is_image = ids == IMAGE_TOKEN_INDEX
            rows.append(ids.masked_fill(is_image, IMAGE_ID).repeat_interleave(is_image * (NUM_IMAGE_TOKENS - 1) + 1))
        options = {}
        if names := [entry["picture"] for entry in entries if entry["picture"] is not None]:
            pictures = [pad_to_square(Image.open(folder / "pictures" / name).convert("RGB"), colour) for name in names]
            options["pixel_values"] = processor(pictures, return_tensors="pt")["pixel_values"]
        input_ids = pad_sequence(rows, batch_first=True, padding_side="left")
        ones = [torch.ones_like(row) for row in rows]
        new_ids = model.generate(
            input_ids=input_ids,
            attention_mask=pad_sequence(ones, batch_first=True, padding_side="left"),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=tokenizer.eos_token_id,
            **options,
        )
        texts = tokenizer.batch_decode(new_ids[:, input_ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    while request := channel.wait():
        entries, size = json.loads((folder / f"{request['questions']}.json").read_text()), request["batch_size"]
        if request.get("longest_first"):
            entries.sort(key=lambda entry: -len(entry["ids"]) - NUM_IMAGE_TOKENS * (entry["picture"] is not None))
        answers = {}
        for start in range(0, len(entries), size):
            batch = entries[start : start + size]
            answers |= dict(zip([entry["id"] for entry in batch], answer(batch), strict=True))
        channel.answer(answers=answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
