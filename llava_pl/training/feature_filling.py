"""Pictures to features on disk: each is read by a worker, encoded where the run computes, and written down.

In: a run whose model holds its weights and lies on its device. Out: a store that has grown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llava_pl.data.collate import start_batch
from llava_pl.data.conversation_datamodule import RETRY_AFTER_SECONDS
from llava_pl.data.feature_store import FeatureManifest, FeatureStore, FeatureWriter
from llava_pl.data.loader import outlive_signals
from llava_pl.data.picture_digests import SeenPicture, look
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.progress import show_progress
from llava_pl.types import Batch, RecordError, Sample

if TYPE_CHECKING:
    from llava_pl.training.module import LlavaModule


class _Pictures(Dataset[Sample | None]):
    """Pictures by their names; None for one that cannot be read, or is no longer what it was when it was hashed."""

    def __init__(self, encoder: SampleEncoder, names: Sequence[str], seen: Mapping[str, SeenPicture]) -> None:
        self.encoder = encoder
        self.names = names
        self.seen = seen

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample | None:
        name = self.names[index]
        for wait in (0.0, *RETRY_AFTER_SECONDS):
            time.sleep(wait)
            try:
                sample = self.encoder.encode_picture(name)
            except RecordError:
                continue  # whoever is shown the picture says what is wrong
            seen = self.seen[name]
            return sample if look(self.encoder.image_folder, name) == (seen.size, seen.mtime_ns) else None
        return None


def fill_store(
    trainer: Trainer,
    module: LlavaModule,
    encoder: SampleEncoder,
    store: FeatureStore,
    pictures: Mapping[str, SeenPicture],
    *,
    batch_size: int,
    num_workers: int,
) -> None:
    """Add the features of pictures to a store.

    Args:
        trainer: Of the run.
        module: Whose vision encoder is used, as its training step would.
        encoder: Reads pictures.
        store: To be added to.
        pictures: What is added, by name.
        batch_size: Pictures that are encoded at once.
        num_workers: Processes that read them.

    Raises:
        OSError: The store cannot be written.
    """
    names = list(pictures)
    loader: DataLoader[Batch | None] = DataLoader(
        cast("Dataset[Batch | None]", _Pictures(encoder, names, pictures)),
        batch_size=batch_size,
        collate_fn=partial(_make_batch, num_image_tokens=encoder.num_image_tokens),
        num_workers=num_workers,
        worker_init_fn=outlive_signals,
        generator=torch.Generator(),  # otherwise it would draw a seed from that of the run
    )
    what = f"encoding {len(names):,} pictures, once"
    batches = show_progress(loader, what, is_shown=trainer.is_global_zero)
    with FeatureWriter(store) as writer:
        for batch in batches:
            if batch is None:
                continue
            moved = module.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)
            for name, features in zip(batch["ids"], encode(trainer, module, moved["pixel_values"]), strict=True):
                writer.add(pictures[name].digest, features)


def encode(trainer: Trainer, module: LlavaModule, pixel_values: Tensor) -> Tensor:
    """Return patch features ``(N, patches, D_v)`` as a training step computes them, in whatever dtype they come."""
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        features: Tensor = module.model.vision_encoder(trainer.precision_plugin.convert_input(pixel_values))
    return features


def measure_manifest(
    trainer: Trainer, module: LlavaModule, origin: dict[str, str], *, batch_size: int
) -> FeatureManifest:
    """Return what features of this run's encoder are, and whether they depend here on what else is in a batch.

    Args:
        trainer: Of the run.
        module: Whose vision encoder is used.
        origin: What they depend on.
        batch_size: Pictures of a batch.
    """
    size = cast("int", module.model.vision_encoder.model.config.image_size)
    noise = torch.randn(max(2, batch_size), 3, size, size, generator=torch.Generator().manual_seed(0))
    noise = noise.to(trainer.strategy.root_device)
    together, alone = (encode(trainer, module, pixels) for pixels in (noise, noise[:1]))
    difference = float((together[:1].double() - alone.double()).abs().max())
    dtype = str(alone.dtype).removeprefix("torch.")
    return FeatureManifest(origin, (alone.shape[1], alone.shape[2]), dtype, difference)


def _make_batch(samples: Sequence[Sample | None], *, num_image_tokens: int) -> Batch | None:
    found = [sample for sample in samples if sample is not None]
    return start_batch(found, num_image_tokens=num_image_tokens) if found else None
