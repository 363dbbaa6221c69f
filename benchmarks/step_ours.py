"""The training step of this project: `LlavaModule` in Lightning's Trainer, a micro batch in one packed row."""

from __future__ import annotations

import logging
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from step_rounds import LEARNING_RATES, NUM_IMAGE_TOKENS, NUM_STEPS, StepRounds, read_expanded
from torch.utils.data import DataLoader

from llava_pl import LlavaModule
from llava_pl.data.packing import pack
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.training.optim import OptimConfig
from llava_pl.types import IMAGE_TOKEN_INDEX, Sample


class Steps(Callback):
    """Runs a step when it is asked for."""

    def __init__(self, module: LlavaModule) -> None:
        self.rounds = StepRounds(lambda: module.model.named_parameters())

    def on_train_batch_start(self, *_: Any) -> None:  # noqa: ANN401
        """Wait."""
        self.rounds.begin()

    def on_train_batch_end(self, trainer: Trainer, module: LlavaModule, outputs: Any, *_: Any) -> None:  # noqa: ANN401
        """Note the loss."""
        self.rounds.loss = outputs["loss"]


def main(folder: Path, stage: str) -> None:
    """Train as long as steps are asked for."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    samples = [
        Sample(str(number), sample["input_ids"], sample["labels"], sample["pixel_values"][None])
        for number, sample in enumerate(read_expanded(folder, IMAGE_TOKEN_INDEX))
    ]
    module = LlavaModule(
        stage=stage,
        vision_encoder=VisionEncoderConfig(str(folder / "encoder")),
        decoder=DecoderConfig(str(folder / "decoder")),
        optim=OptimConfig(learning_rate=LEARNING_RATES[stage], warmup_share=0.0),
        init_from=str(folder / "mm_projector.bin"),
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=NUM_STEPS,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
        callbacks=[Steps(module)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    collate = partial(pack, num_image_tokens=NUM_IMAGE_TOKENS)
    trainer.fit(module, DataLoader(samples * NUM_STEPS, len(samples), collate_fn=collate))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
