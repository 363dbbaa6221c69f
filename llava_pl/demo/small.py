"""The smallest LLaVA that looks: what the notebooks begin with, made in a minute on two cores.

Beside the demo: the same pictures and parts, but two kinds of questions alone, which are learned soonest. In: a folder.
Out: the paths that a run at scale has, and a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llava_pl.data.datamodule import LlavaDataModule
from llava_pl.demo.dataset import write_dataset
from llava_pl.demo.parents import make_parents
from llava_pl.demo.questions import Topic
from llava_pl.evaluation.generation import GenerationConfig
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.export.quiet import silenced
from llava_pl.training.module import LlavaModule
from llava_pl.training.noise import quiet
from llava_pl.training.optim import OptimConfig

TOPICS: tuple[Topic, ...] = ("colour", "existence")
NUM_STEPS = 150

_NUM_PICTURES = 2400  # as many as the steps see
_NUM_HELD_OUT = 100
_ENCODER_STEPS = 100
_DECODER_STEPS = 120


@dataclass(frozen=True, slots=True)
class SmallParts:
    """Where everything lies that a model is made of.

    Args:
        folder: Holds it all.
    """

    folder: Path

    @property
    def records(self) -> Path:
        """The JSON file to train on."""
        return self.folder / "data" / "instructions.json"

    @property
    def image_folder(self) -> Path:
        """The pictures of its records."""
        return self.folder / "data" / "images"

    @property
    def scienceqa(self) -> Path:
        """Held-out questions, in ScienceQA's official layout."""
        return self.folder / "data" / "scienceqa"

    @property
    def encoder(self) -> Path:
        """The vision encoder, which has seen pictures and no word."""
        return self.folder / "parts" / "encoder"

    @property
    def decoder(self) -> Path:
        """The language model, which has read and seen nothing."""
        return self.folder / "parts" / "decoder"

    @property
    def checkpoint(self) -> Path:
        """The model that `train_small` makes of them."""
        return self.folder / "small.ckpt"


def make_small_parts(folder: str | Path = "runs/notebooks") -> SmallParts:
    """Return data and parts, made first unless they are there: some 15 seconds.

    Args:
        folder: Where to; made if needed.
    """
    parts = SmallParts(Path(folder).resolve())
    write_dataset(parts.folder / "data", num_pictures=_NUM_PICTURES, num_held_out=_NUM_HELD_OUT, topics=TOPICS)
    with silenced():
        make_parents(
            parts.folder / "parts",
            parts.folder / "data",
            encoder_steps=_ENCODER_STEPS,
            decoder_steps=_DECODER_STEPS,
        )
    return parts


def small_module(parts: SmallParts) -> LlavaModule:
    """Return the model to be trained, stage finetune at once: projector and decoder learn."""
    return LlavaModule(
        stage="finetune",
        vision_encoder=VisionEncoderConfig(path=str(parts.encoder), select_layer=-2, select_feature="patch"),
        decoder=DecoderConfig(path=str(parts.decoder)),
        optim=OptimConfig(learning_rate=1.5e-3, betas=(0.9, 0.95), weight_decay=0.01, warmup_share=0.05),
        generation=GenerationConfig(max_new_tokens=16),
    )


def small_data(parts: SmallParts, num_image_tokens: int) -> LlavaDataModule:
    """Return what it is trained on.

    Args:
        parts: Where it lies.
        num_image_tokens: P, as the module says.
    """
    return LlavaDataModule(
        records=str(parts.records),
        image_folder=parts.image_folder,
        tokenizer=str(parts.decoder),
        image_processor=str(parts.encoder),
        num_image_tokens=num_image_tokens,
        cache_dir=parts.folder / "cache",
        batch_size=16,
        num_workers=0,
    )


def train_small(parts: SmallParts) -> Path:
    """Return a checkpoint of a model that answers nine of ten held-out questions, trained first unless it is there.

    It is the run of ``notebooks/03_train_and_watch.ipynb``, some 20 seconds.
    """
    if parts.checkpoint.is_file():
        return parts.checkpoint
    from lightning import Trainer, seed_everything  # not at the top: its imports take seconds

    with quiet():
        seed_everything(0, verbose=False)
        module = small_module(parts)
        trainer = Trainer(
            max_steps=NUM_STEPS,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=parts.folder,
        )
        trainer.fit(module, small_data(parts, module.num_image_tokens))
        trainer.save_checkpoint(parts.checkpoint)
    return parts.checkpoint
