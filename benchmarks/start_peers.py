"""Scripts of the least that trains a LLaVA with transformers' Trainer or TRL's SFTTrainer, for `start.py`.

They work in the folder that it wrote, and end after the first step.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration, TrainerCallback

SETTINGS = {
    "output_dir": "out",
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "max_steps": 10,
    "logging_steps": 1,
    "report_to": "none",
    "remove_unused_columns": False,
    "dataloader_pin_memory": False,
    "use_cpu": True,
}


class EndAfterStep(TrainerCallback):
    """Ends the process at once."""

    def on_step_end(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """End."""
        os._exit(0)


def read_messages() -> list[dict[str, Any]]:
    """Return the records as chats with a picture each."""
    found = []
    for record in json.loads(Path("records.json").read_text()):
        question, answer = (turn["value"] for turn in record["conversations"])
        user = [{"type": "image"}, {"type": "text", "text": question.removeprefix("<image>\n")}]
        messages = [
            {"role": "user", "content": user},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        found.append({"messages": messages, "images": [record["image"]]})
    return found


def main(package: str) -> None:
    """Train."""
    processor = AutoProcessor.from_pretrained("hf")
    model = LlavaForConditionalGeneration.from_pretrained("hf", dtype=torch.float32)
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    messages = read_messages()
    parts = {"model": model, "processing_class": processor, "callbacks": [EndAfterStep()]}
    if package == "trl":
        from datasets import Dataset, Sequence
        from datasets import Image as Picture
        from trl import SFTConfig, SFTTrainer

        dataset = Dataset.from_list(messages).cast_column("images", Sequence(Picture()))
        arguments = SFTConfig(**SETTINGS, bf16=False, max_length=None)
        SFTTrainer(args=arguments, train_dataset=dataset, **parts).train()
        return
    from transformers import Trainer, TrainingArguments

    def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        texts = [processor.apply_chat_template(sample["messages"]) for sample in samples]
        images = [Image.open(sample["images"][0]).convert("RGB") for sample in samples]
        batch: dict[str, Tensor] = processor(images=images, text=texts, return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        batch["labels"] = labels.masked_fill(labels == model.config.image_token_id, -100)
        return batch

    Trainer(args=TrainingArguments(**SETTINGS), train_dataset=messages, data_collator=collate, **parts).train()


if __name__ == "__main__":
    main(sys.argv[1])
