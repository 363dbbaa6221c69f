"""`data.feature_cache`: pictures of a run with a frozen vision encoder are encoded once, not once an epoch.

In: a run that asks for it. Out: a data module that hands on features in the place of pictures; or a line that says why
this run must not, or need not, have them. Ranks share the encoding, a run that was ended goes on with it where it
stopped, and other runs with the same encoder find what is there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from os import fsencode
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities import rank_zero_info

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.data.feature_store import FeatureStore, PictureFeatures
from llava_pl.data.picture_digests import SeenPicture, digest_pictures
from llava_pl.data.store_cache import advise, default_cache_dir, locked
from llava_pl.training.feature_filling import fill_store, measure_manifest
from llava_pl.training.feature_origin import describe_origin
from llava_pl.training.feature_worth import FeatureWorth, measure_worth
from llava_pl.training.schedule import count_optimizer_steps
from llava_pl.training.turns import Turns, take_turns
from llava_pl.types import InputError

if TYPE_CHECKING:
    from llava_pl.training.module import LlavaModule


class FeatureCache(Callback):
    """Refuses a store of features where none can be or pays, and has it filled when the training loader is made.

    Only then the encoder has its weights under every strategy, those of a checkpoint that it goes on with among them.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the settings, before weights are read.

        Raises:
            InputError: The run cannot have a store, or would not gain by a full one.
        """
        data = getattr(trainer, "datamodule", None)
        if stage != "fit" or not isinstance(data, ConversationDataModule) or data.feature_cache == "none":
            return
        module = cast("LlavaModule", pl_module)
        check_frozen(module, is_zero=isinstance(trainer.strategy, DeepSpeedStrategy))
        worth = measure_worth(
            module,
            data,
            num_steps=count_optimizer_steps(trainer),
            num_ranks=trainer.world_size,
            num_micro_batches=trainer.accumulate_grad_batches,
        )
        if data.feature_cache == "worthwhile":
            worth.check(0)
        data.bring_features = partial(bring_features, trainer, module, data, worth)


def check_frozen(module: LlavaModule, *, is_zero: bool) -> None:
    """Check that features of a run stay what they are, and that each rank can compute them by itself.

    Args:
        module: Of the run.
        is_zero: Whether DeepSpeed trains it.

    Raises:
        InputError: They do not, or it cannot.
    """
    reason = None
    if module.plan.trains("vision_encoder"):
        reason = (
            f"the vision encoder learns (model.trainable.vision_encoder {module.plan.vision_encoder}), so that its "
            "features change with each step; freeze it"
        )
    elif module.model_config.has_newline:
        reason = "pictures are cut into tiles (data.image_aspect anyres), whose features are not kept; choose pad"
    elif is_zero:
        reason = "under DeepSpeed no rank encodes by itself; choose configs/strategy/fsdp2.yaml or ddp.yaml"
    if reason is not None:
        raise InputError(f"data.feature_cache: {reason}, or set data.feature_cache to none")


def bring_features(
    trainer: Trainer, module: LlavaModule, data: ConversationDataModule, worth: FeatureWorth
) -> PictureFeatures:
    """Return the features of all pictures to train on, after those were computed that no earlier run has left.

    Args:
        trainer: Whose ranks share the work; all of them ask.
        module: Whose vision encoder is used; its model lies on its device.
        data: Whose pictures they are.
        worth: What the run would do without.

    Raises:
        InputError: The run gains nothing by what it would have to compute first, or the disk does not take it.
    """
    cache_dir = Path(data.cache_dir or default_cache_dir()) / "features"
    encoder, device = data.make_encoder(), trainer.strategy.root_device
    origin = describe_origin(module.model.vision_encoder, encoder, device=device, precision=str(trainer.precision))
    folder = FeatureStore.folder_of(cache_dir, origin)
    names = sorted(data.train_data.count_pictures())

    def look_at_pictures() -> dict[str, SeenPicture]:
        place = blake2b(fsencode(encoder.image_folder.resolve()), digest_size=8).hexdigest()
        memory = cache_dir / f"pictures-{place}.arrow"
        return digest_pictures(encoder.image_folder, names, memory, num_threads=data.num_workers)

    def open_store() -> FeatureStore:
        if (store := FeatureStore.open(folder)) is not None:
            return store
        return FeatureStore.begin(folder, measure_manifest(trainer, module, origin, batch_size=data.batch_size))

    try:
        with take_turns(trainer) as turns, ExitStack() as stack:
            cache_dir.mkdir(parents=True, exist_ok=True)
            is_writer = trainer.is_global_zero and os.access(cache_dir, os.W_OK)  # others may only read what is there
            if is_writer:
                stack.enter_context(locked(folder))
            seen, store = turns.take(look_at_pictures), turns.take(open_store)
            if is_writer:
                store.remove_leftovers()
            worth = replace(worth, row_bytes=store.manifest.row_bytes)
            _check_missing(data, worth, store, len(find_missing(store, seen)))
            _fill(trainer, module, data, store, seen, turns)
        return PictureFeatures.of(store, {name: seen[name].digest if name in seen else None for name in names})
    except OSError as error:
        raise InputError(
            f"{cache_dir}: cannot store features ({error.strerror or error}); {advise(error)}, or "
            "data.feature_cache to none"
        ) from error


def find_missing(store: FeatureStore, seen: Mapping[str, SeenPicture]) -> dict[str, SeenPicture]:
    """Return the pictures that a store lacks, of equal ones the first."""
    places = store.find()
    first: dict[bytes, str] = {}
    for name, picture in seen.items():
        if picture.digest not in places:
            first.setdefault(picture.digest, name)
    return {name: seen[name] for name in first.values()}


def _check_missing(data: ConversationDataModule, worth: FeatureWorth, store: FeatureStore, num_missing: int) -> None:
    """Refuse to fill a store for less than it costs, or say what it takes and spares."""
    if data.feature_cache == "worthwhile":
        worth.check(num_missing)
    worth.check_disk(num_missing, store.folder)
    exactness = "when it was begun, features did not depend on the batch, to the last bit"
    if difference := store.manifest.difference:
        exactness = f"when it was begun, features depended on the batch, by up to {difference:.2g}"
    rank_zero_info(f"data.feature_cache: {store.folder}: {worth.describe(num_missing)}; {exactness}")


def _fill(
    trainer: Trainer,
    module: LlavaModule,
    data: ConversationDataModule,
    store: FeatureStore,
    seen: Mapping[str, SeenPicture],
    turns: Turns,
) -> None:
    """Compute what a store lacks, each rank its share."""
    shares = [(trainer.global_rank, trainer.world_size)]
    if trainer.num_nodes > 1:  # of nodes that share no disk, each then computes what the others have
        shares.append((trainer.local_rank, trainer.num_devices))
    for rank, num_ranks in shares:
        mine = dict(list(find_missing(store, seen).items())[rank::num_ranks])
        turns.meet()  # nobody adds to the store before all have looked
        if mine:
            encoder, sizes = data.make_encoder(), {"batch_size": data.batch_size, "num_workers": data.num_workers}
            fill_store(trainer, module, encoder, store, mine, **sizes)
        turns.meet()
