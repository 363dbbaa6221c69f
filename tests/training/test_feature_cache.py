"""Guards: features of another encoder or of other pictures, a run that changes by them, a store that is no use."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.precision import Precision
from PIL import Image

from llava_pl import LlavaDataModule, LlavaModule
from llava_pl.data.feature_store import FeatureStore
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.models.vision_encoder import VisionEncoder
from llava_pl.training import feature_cache, feature_filling
from llava_pl.training.feature_cache import FeatureCache, bring_features
from llava_pl.training.feature_worth import FeatureWorth
from llava_pl.training.optim import OptimConfig
from llava_pl.training.stages import TrainablePlan
from llava_pl.types import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*eval mode at the start of training.*"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero.*"),
    pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`.*"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`.*"),
]


class Recorder(Callback):
    def __init__(self):
        self.losses, self.batches = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(trainer.callback_metrics["train/loss"].item())
        self.batches.append(batch)


class Runs:
    """Ten records, every third without a picture, two with the same; runs over them, and what stands for a run."""

    def __init__(self, folder: Path, parts: Path) -> None:
        self.folder, self.parts, self.said = folder, parts, []
        rng, entries = np.random.default_rng(0), []
        for number in range(10):
            entry = {"id": str(number), "conversations": [{"from": "human", "value": f"Q{number}?"}]}
            entry["conversations"].append({"from": "gpt", "value": "abcde"[: 1 + number % 5]})
            if number % 3:
                name = f"{min(number, 7)}.png"
                Image.fromarray(rng.integers(0, 256, (20, 16, 3), dtype=np.uint8)).save(folder / name)
                entry["image"] = name
                entry["conversations"][0]["value"] = f"<image>\nQ{number}?"
            entries.append(entry)
        (folder / "records.json").write_text(json.dumps(entries))

    def module(self, stage="align", **settings) -> LlavaModule:
        torch.manual_seed(0)
        settings.setdefault("vision_encoder", VisionEncoderConfig(str(self.parts / "encoder")))
        decoder, optim = DecoderConfig(str(self.parts / "decoder")), OptimConfig(learning_rate=1e-3)
        return LlavaModule(stage=stage, decoder=decoder, optim=optim, **settings)

    def data(self, feature_cache="always", **settings) -> LlavaDataModule:
        return LlavaDataModule(
            records=self.folder / "records.json",
            image_folder=self.folder,
            tokenizer=str(self.parts / "decoder"),
            image_processor=str(self.parts / "encoder"),
            num_image_tokens=4,
            cache_dir=self.folder / "cache",
            feature_cache=feature_cache,
            **{"batch_size": 3, "num_workers": 0, **settings},
        )

    def fit(self, data, ckpt_path=None, callbacks=()) -> Recorder:
        recorder = Recorder()
        trainer = Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=self.folder, callbacks=[recorder, *callbacks], enable_checkpointing=bool(callbacks),
            max_epochs=2, log_every_n_steps=1,
        )  # fmt: skip
        trainer.fit(self.module(), datamodule=data, ckpt_path=ckpt_path)
        return recorder

    def bring(self, data=None, module=None, worth=None):
        """Do as a run of one process does when it asks for its training loader."""
        module, data = module or self.module(), data or self.data()
        module.configure_model()
        data.open_train_data()
        trainer = SimpleNamespace(
            world_size=1, global_rank=0, local_rank=0, num_nodes=1, num_devices=1, is_global_zero=True,
            precision="32-true", precision_plugin=Precision(),
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )  # fmt: skip
        return bring_features(trainer, module, data, worth or FeatureWorth(5, 12, 1.0, 12.0, 0))

    @property
    def stores(self) -> list[FeatureStore]:
        found = [FeatureStore.open(path) for path in (self.folder / "cache" / "features").iterdir()]
        return [store for store in found if store is not None]


@pytest.fixture
def runs(tmp_path, tiny_parts, monkeypatch):
    made = Runs(tmp_path, tiny_parts)
    monkeypatch.setattr(feature_cache, "rank_zero_info", made.said.append)
    monkeypatch.setattr(feature_filling, "RETRY_AFTER_SECONDS", ())
    return made


@pytest.fixture
def encoded(monkeypatch):
    """How many pictures the vision encoder has seen, batch by batch."""
    seen, forward = [], VisionEncoder.forward

    def counting(self, pixel_values):
        if pixel_values.device.type != "meta":
            seen.append(len(pixel_values))
        return forward(self, pixel_values)

    monkeypatch.setattr(VisionEncoder, "forward", counting)
    return seen


def test_losses_of_two_epochs_are_those_without_a_store_to_the_last_bit_also_of_a_resumed_run(runs, encoded):
    live = runs.fit(runs.data("none"))
    assert sum(encoded) == 12
    encoded.clear()
    saver = ModelCheckpoint(dirpath=runs.folder, filename="middle", every_n_train_steps=6)  # of four an epoch
    cached = runs.fit(runs.data(), callbacks=[saver])
    assert cached.losses == live.losses
    assert encoded == [3, 1, 3, 2], "two measure; then each picture is encoded once, of which two records share one"
    assert all(len(batch["pixel_values"]) == 0 for batch in cached.batches)
    seen = [len(batch["patch_features"]) for batch in cached.batches]
    assert seen == [len(batch["pixel_values"]) for batch in live.batches]
    encoded.clear()
    assert runs.fit(runs.data(), ckpt_path=runs.folder / "middle.ckpt").losses == live.losses[6:]
    assert not encoded


def test_another_connector_finds_the_features_and_another_way_to_prepare_pictures_does_not(runs, encoded):
    first = runs.bring()
    encoded.clear()
    second = runs.bring(module=runs.module("finetune", projector="linear"))
    assert not encoded
    assert torch.equal(first.get("4.png"), second.get("4.png"))
    third = runs.bring(runs.data(image_aspect="square"))
    assert encoded == [3, 1, 3, 2]
    assert not torch.equal(first.get("4.png"), third.get("4.png"))
    assert len(runs.stores) == 2


def test_a_run_that_ends_while_it_encodes_is_gone_on_with(runs, encoded, monkeypatch):
    encode, calls = feature_filling.encode, []

    def failing(*given):
        calls.append(given)
        if len(calls) == 4:  # two have measured, one batch of three was encoded
            raise KeyboardInterrupt
        return encode(*given)

    monkeypatch.setattr(feature_filling, "encode", failing)
    with pytest.raises(KeyboardInterrupt):
        runs.bring()
    assert [len(store.find()) for store in runs.stores] == [3]
    encoded.clear()
    runs.bring()
    assert encoded == [2]
    assert "5 pictures, 2 of them to be encoded first" in runs.said[-1]


def test_a_picture_that_changes_is_encoded_anew_and_one_that_moves_is_not(runs, encoded):
    before = runs.bring()
    Image.new("RGB", (20, 16), (1, 2, 3)).save(runs.folder / "4.png")
    (runs.folder / "5.png").rename(runs.folder / "kept.png")
    (runs.folder / "kept.png").rename(runs.folder / "5.png")
    encoded.clear()
    after = runs.bring()
    assert encoded == [1]
    assert not torch.equal(before.get("4.png"), after.get("4.png"))
    assert torch.equal(before.get("5.png"), after.get("5.png"))


def test_a_broken_picture_has_no_features_and_its_record_says_what_is_wrong(runs):
    (runs.folder / "4.png").write_bytes(b"no picture")
    data = runs.data()
    data.bring_features = lambda: runs.bring(data)
    data.open_train_data()
    dataset = data.train_dataloader().dataset
    assert dataset[1].patch_features.shape == (1, 4, 16)
    assert dataset[0].patch_features.shape == (0, 4, 16)
    dataset.retry_after_seconds = ()
    with pytest.raises(InputError, match=r"^records 4: record '4': cannot read picture .*4\.png: expected a complete"):
        dataset[4]
    Image.new("RGB", (20, 16)).save(runs.folder / "4.png")
    with pytest.raises(InputError, match=r"^records 4: record '4': picture '4.png': could not be read, or changed,"):
        dataset[4]


REFUSED = {
    "learns": ({"trainable": TrainablePlan(vision_encoder="full")}, {}, r"the vision encoder learns .* full\)"),
    "tiles": ({"has_newline": True}, {"image_aspect": "anyres"}, "pictures are cut into tiles"),
    "small_share": ({}, {}, r"does not pay: .*are 0\.1% of the run's operations, expected at least 5%"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_have_a_store_is_one_line_before_weights_are_read(runs, case):
    settings, data_settings, message = REFUSED[case]
    module, data = runs.module(**settings), runs.data("worthwhile", **data_settings)
    data.open_train_data()
    trainer = SimpleNamespace(
        datamodule=data, world_size=1, accumulate_grad_batches=1, max_steps=-1, max_epochs=12,
        limit_train_batches=1.0, strategy=None,
    )  # fmt: skip
    with pytest.raises(InputError, match=f"^data.feature_cache: .*{message}"):
        FeatureCache().setup(trainer, module, "fit")
    assert module.model is None
    FeatureCache().setup(trainer, module, "validate")
    data.feature_cache = "none"
    FeatureCache().setup(trainer, module, "fit")
    assert data.bring_features is None


def test_what_a_store_has_counts_for_whether_it_pays(runs, encoded):
    one_epoch = FeatureWorth(num_pictures=5, num_shown=5, encoding_work=1.0, run_work=50.0, row_bytes=1)
    with pytest.raises(InputError, match=r"shows pictures 5 times and the store lacks 5, which would all be"):
        runs.bring(runs.data("worthwhile"), worth=one_epoch)
    assert encoded == [3, 1], "it has measured what a row takes"
    runs.bring(worth=one_epoch)
    encoded.clear()
    runs.bring(runs.data("worthwhile"), worth=one_epoch)
    assert not encoded
    assert "5 pictures, 0 of them to be encoded first; 0.00128 MB on disk; spares 5 of 5 encodings," in runs.said[-1]
    assert runs.said[-1].endswith("when it was begun, features did not depend on the batch, to the last bit")


def test_a_cache_that_may_only_be_read_serves_what_it_has(runs, encoded, monkeypatch):
    first = runs.bring()
    encoded.clear()
    monkeypatch.setattr("os.access", lambda path, mode: False)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    for name in ("locked", "FeatureStore.begin", "FeatureStore.remove_leftovers"):
        monkeypatch.setattr(f"llava_pl.training.feature_cache.{name}", refuse)
    assert torch.equal(runs.bring().get("4.png"), first.get("4.png"))
    assert not encoded
    with pytest.raises(InputError, match=r"features: cannot store features \(Permission denied\); set data.cache_dir"):
        runs.bring(runs.data(image_aspect="square"))


def test_a_disk_that_is_full_or_away_is_one_line(runs, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(InputError, match=r"5 pictures x 0\.000256 MB need 0\.00128 MB on the disk of .* 0\.0001 MB"):
        runs.bring()
    monkeypatch.undo()
    shutil.rmtree(runs.folder / "cache" / "features")
    (runs.folder / "cache" / "features").write_text("")
    with pytest.raises(InputError, match=r"features: cannot store features \(File exists\); set data.cache_dir"):
        runs.bring()
