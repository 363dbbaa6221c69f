"""The training step of transformers' `LlavaForConditionalGeneration`, in its Trainer or in TRL's SFTTrainer.

Settings are the trainers' own but for the rate and float32. "recomputed" is TRL's default, by which it goes backward
through the frozen encoder, too; transformers' is not to recompute.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from step_rounds import NUM_STEPS, StepRounds, read_expanded
from step_trainer import Steps, make_settings, note_loss
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlavaForConditionalGeneration, Trainer, TrainingArguments


def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return samples as padded rows."""
    input_ids = [sample["input_ids"] for sample in samples]
    return {
        "input_ids": pad_sequence(input_ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(ids) for ids in input_ids], batch_first=True),
        "labels": pad_sequence([sample["labels"] for sample in samples], batch_first=True, padding_value=-100),
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
    }


def main(folder: Path, stage: str, package: str, recomputed: bool) -> None:
    """Train as long as steps are asked for."""
    model = LlavaForConditionalGeneration.from_pretrained(folder / "hf", dtype=torch.float32)
    model.model.vision_tower.requires_grad_(False)
    if stage == "align":
        model.model.language_model.requires_grad_(False)
        model.lm_head.requires_grad_(False)
    rounds = StepRounds(model.named_parameters)
    samples = read_expanded(folder, model.config.image_token_id)
    settings = {
        **make_settings(folder, stage, len(samples), recomputed=recomputed),
        "remove_unused_columns": False,
    }
    parts: dict[str, Any] = {"model": model, "train_dataset": samples * NUM_STEPS, "data_collator": collate}
    if package == "trl":
        from datasets import IterableDataset
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast
        from trl import SFTConfig, SFTTrainer

        tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
        words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<unk>")
        arguments = SFTConfig(**settings, bf16=False, dataset_kwargs={"skip_prepare_dataset": True})
        # It takes a dataset of its own kind alone.
        dataset = IterableDataset.from_generator(lambda: (s for _ in range(NUM_STEPS) for s in samples))
        base, parts = SFTTrainer, {**parts, "processing_class": words, "train_dataset": dataset}
    else:
        base, arguments = Trainer, TrainingArguments(**settings)

    note_loss(base, rounds)(args=arguments, callbacks=[Steps(rounds)], **parts).train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], "recomputed" in sys.argv[4:])
