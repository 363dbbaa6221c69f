"""Guards: a run of W&B without its settings, data or checkpoint, or one that gets the weights themselves."""

import json
import time
from types import SimpleNamespace

import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from wandb.proto import wandb_internal_pb2 as proto

from llava_pl.training.wandb_record import log_checkpoint, log_data, log_settings

BLOCK = 32768


def read_records(path):
    """Return the records of an offline run: a log of LevelDB, whose pieces have a head of 7 bytes."""
    content, place, records, parts = path.read_bytes(), 7, [], b""
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            record = proto.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def trainer_with(*loggers, **more):
    return SimpleNamespace(loggers=list(loggers), global_step=20, **more)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "step=20.ckpt").write_bytes(b"weights" * 1000)
    (folder / "step=20.ckpt.json").write_text('{"sha256": "abc", "bytes": 7000, "step": 20}')
    (folder / "last.ckpt").symlink_to("step=20.ckpt")
    return folder / "last.ckpt"


class Data:
    content = "344a36ec"

    def describe(self):
        return ["data.records: 16 records"]


@pytest.fixture
def logger(tmp_path, monkeypatch):
    """A logger, at the end of whose run nothing is left of it in this process."""
    wandb.finish()
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield WandbLogger(save_dir=tmp_path, id="deadbeef")
    wandb.finish()


def test_settings_data_and_checkpoint(logger, tmp_path, checkpoint):
    trainer = trainer_with(CSVLogger(tmp_path), logger, datamodule=SimpleNamespace(train_data=Data()))
    log_settings(trainer, {"trainer": {"max_steps": 3}, "model": {"stage": "align"}})
    log_settings(trainer, {"trainer": {"max_steps": 4}})  # a run that goes on
    log_data(trainer)
    log_checkpoint(trainer, checkpoint)
    assert dict(logger.experiment.config) == {
        "trainer": {"max_steps": 4}, "model": {"stage": "align"}, "data_content": "344a36ec",
        "data_sources": ["data.records: 16 records"],
    }  # fmt: skip
    wandb.finish()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    end = time.monotonic() + 30
    while not any(record.HasField("exit") for record in read_records(file)) and time.monotonic() < end:
        time.sleep(0.05)  # another process writes the file
    (artifact,) = [record.artifact for record in read_records(file) if record.HasField("artifact")]
    assert (artifact.name, artifact.type) == ("checkpoint-deadbeef", "model")
    assert set(artifact.aliases) == {"last", "step-20", "latest"}
    target = checkpoint.resolve()
    assert json.loads(artifact.metadata) == {
        "step": 20, "path": str(target), "checksum": {"sha256": "abc", "bytes": 7000, "step": 20}
    }  # fmt: skip
    (entry,) = artifact.manifest.contents
    assert (entry.path, entry.ref) == ("step=20.ckpt", target.as_uri())
    assert not any(b"weightsweights" in path.read_bytes() for path in tmp_path.glob("wandb/**/*") if path.is_file())


def test_a_disabled_run_takes_all_and_keeps_nothing(tmp_path, checkpoint):
    wandb.finish()
    # In a process that has logged something, the variable is not looked at any more.
    logger = WandbLogger(save_dir=tmp_path, mode="disabled")
    trainer = trainer_with(logger, datamodule=SimpleNamespace(train_data=Data()))
    log_settings(trainer, {"trainer": {"max_steps": 3}})
    log_data(trainer)
    log_checkpoint(trainer, checkpoint)
    wandb.finish()
    assert not list(tmp_path.glob("wandb/*run*"))


def test_without_wandb_nothing_is_asked_for(tmp_path, checkpoint):
    trainer = trainer_with(CSVLogger(tmp_path), datamodule=SimpleNamespace(train_data=None))
    log_settings(trainer, {})
    log_data(trainer)
    log_checkpoint(trainer, checkpoint)


def test_without_a_checkpoint_there_is_no_artifact(tmp_path):
    logger = WandbLogger(save_dir=tmp_path)
    logger._experiment = SimpleNamespace(log_artifact=pytest.fail)
    log_checkpoint(trainer_with(logger), tmp_path / "last.ckpt")
