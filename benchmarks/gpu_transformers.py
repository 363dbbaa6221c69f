"""transformers' `LlavaForConditionalGeneration` in the place of ours, for `gpu.py`: same shapes, batches and optimizer.

In: what we would train. Out: a Lightning module that trains its peer, each layer computed again in the backward pass.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from lightning import LightningModule
from random_work import RandomModule, Shapes
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llava_pl.types import IMAGE_TOKEN_INDEX, Batch, InputError


class TransformersModule(LightningModule):
    """The peer, on padded rows, with the loss of all rows that it computes by itself.

    Args:
        ours: Whose stage, optimizer and precision it has.
        shapes: Its sizes.
    """

    def __init__(self, ours: RandomModule, shapes: Shapes) -> None:
        super().__init__()
        self.ours = [ours]  # in a list, so that it is no part of this module
        self.shapes = shapes
        self.model: Any = None

    def configure_model(self) -> None:
        """Draw its weights on the device that trains them."""
        if self.model is not None:
            return
        (ours,), decoder = self.ours, self.shapes.decoder
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**self.shapes.encoder),
            text_config=LlamaConfig(max_position_embeddings=4096, **decoder),
            image_token_id=decoder["vocab_size"] - 1,
        )
        with self.trainer.strategy.root_device:
            self.model = LlavaForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
        learns = (
            [self.model.model.multi_modal_projector]
            if ours.stage == "align"
            else [self.model.model.multi_modal_projector, self.model.model.language_model, self.model.lm_head]
        )
        self.model.requires_grad_(False)
        for part in learns:
            part.requires_grad_(True)
        if ours.stage == "align":
            learns[0].float()
        self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.train()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the mean loss.

        Raises:
            InputError: Rows are packed, which it does not take with pictures.
        """
        if "attention_mask" not in batch:
            raise InputError("--peer transformers: expected --rows padded, found packed rows; it takes no others")
        ids = batch["input_ids"]
        output = self.model(
            input_ids=ids.masked_fill(ids == IMAGE_TOKEN_INDEX, self.model.config.image_token_id),
            pixel_values=batch["pixel_values"].to(torch.bfloat16) if len(batch["pixel_values"]) else None,
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
            use_cache=False,
        )
        loss: torch.Tensor = output.loss
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return our optimizer over its weights."""
        (ours,) = self.ours
        package, _, name = ours.optim_config.optimizer.rpartition(".")
        make = getattr(import_module(package), name)
        learners = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer: torch.optim.Optimizer = make(learners, lr=ours.optim_config.learning_rate)
        return optimizer
