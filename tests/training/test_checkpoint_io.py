"""Guards: a save that fails and takes the older checkpoint with it, or leaves half of the new one under its name."""

import errno
import hashlib
import json
import os
import zipfile

import numpy as np
import pytest
import torch

from llava_pl.training import checkpoint_io
from llava_pl.training.background import BackgroundCheckpointIO
from llava_pl.training.checkpoint_io import DurableCheckpointIO, cannot_write
from llava_pl.training.checksum import write_checksum
from llava_pl.types import InputError

CONTENT = {"global_step": 3, "state_dict": {"w": torch.arange(1000.0)}}


@pytest.fixture
def io():
    return DurableCheckpointIO()


def test_round_trip(io, tmp_path):
    io.save_checkpoint(CONTENT, tmp_path / "new" / "a.ckpt")
    loaded = io.load_checkpoint(tmp_path / "new" / "a.ckpt", weights_only=True)
    assert torch.equal(loaded["state_dict"]["w"], CONTENT["state_dict"]["w"])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.ckpt", "a.ckpt.json"]


def test_in_place_of_an_older_one_in_several_files(io, tmp_path):
    (tmp_path / "a.ckpt").mkdir()
    (tmp_path / "a.ckpt" / "00000.pt").touch()
    io.save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    assert io.load_checkpoint(tmp_path / "a.ckpt")["global_step"] == 3


def test_the_first_rank_names_the_folder_as_soon_as_the_checksum_is_there(io, tmp_path, monkeypatch):
    def write(path, **content):
        write_checksum(path, **content)
        path.parent.rename(tmp_path / "a.ckpt")

    monkeypatch.setattr(checkpoint_io, "write_checksum", write)
    io.save_checkpoint(CONTENT, tmp_path / ".a.ckpt.tmp" / "00001.pt")
    assert sorted(path.name for path in (tmp_path / "a.ckpt").iterdir()) == ["00001.pt", "00001.pt.json"]


def test_hash_is_that_of_the_file(io, tmp_path):
    io.save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    data = (tmp_path / "a.ckpt").read_bytes()
    checksum = json.loads((tmp_path / "a.ckpt.json").read_text())
    assert checksum == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "step": 3}


def test_a_full_disk_leaves_what_was_there(io, tmp_path, monkeypatch):
    io.save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    class FullDisk(checkpoint_io._HashingFile):
        def write(self, data):
            if self.num_bytes > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(checkpoint_io, "_HashingFile", FullDisk)
    with pytest.raises(InputError, match=r"a.ckpt: cannot be written: No space left on device; older .*, make room"):
        io.save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_an_older_checkpoint_there_is_nothing_to_resume(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device")
    said = f"checkpoint: {tmp_path}/step=1.ckpt: cannot be written: No space left on device; "
    assert str(cannot_write(tmp_path / "step=1.ckpt", error)) == f"{said}make room and start again"
    (tmp_path / "step=0.ckpt").touch()
    assert str(cannot_write(tmp_path / "step=1.ckpt", error)) == (
        f"{said}older checkpoints are as they were, make room and resume with --ckpt_path last"
    )
    shard = tmp_path / ".step=2.ckpt.tmp" / "00001.pt"
    assert "older checkpoints are as they were, make room and resume" in str(cannot_write(shard, error))


def test_where_nothing_can_be_written_room_is_no_help(io, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"/file/a.ckpt: cannot be written: .*; see that it can be written"):
        io.save_checkpoint(CONTENT, tmp_path / "file" / "a.ckpt")


def test_ctrl_c_while_writing_is_no_other_error(io, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_io._HashingFile, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint(CONTENT, tmp_path / "a.ckpt")


def test_a_kill_while_writing_leaves_what_was_there(io, tmp_path, monkeypatch):
    io.save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    before = (tmp_path / "a.ckpt").read_bytes()

    def die(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_io.os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"global_step": 4}, tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").read_bytes() == before


def test_a_changed_file_is_not_loaded(io, tmp_path):
    path = tmp_path / "a.ckpt"
    io.save_checkpoint(CONTENT, path)
    data = bytearray(path.read_bytes())
    data[700] ^= 255
    path.write_bytes(data)
    with pytest.raises(
        InputError, match=r"ckpt_path: .*a.ckpt: damaged, its bytes are not .*; use an older checkpoint"
    ):
        io.load_checkpoint(path)


class RunsCommand:
    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return os.system, (f"touch {self.trap}",)


@pytest.mark.parametrize("asked", [{}, {"weights_only": None}, {"weights_only": False}])
def test_what_a_checkpoint_wants_to_run_is_not_run(io, tmp_path, asked):
    torch.save({**CONTENT, "evil": RunsCommand(tmp_path / "trap")}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"ckpt_path: .*a\.ckpt: refused: .* holds other objects.*; --unsafe reads"):
        io.load_checkpoint(tmp_path / "a.ckpt", **asked)
    assert not (tmp_path / "trap").exists()


def test_what_a_checkpoint_wants_to_run_is_run_where_the_user_says_so(tmp_path):
    torch.save({**CONTENT, "evil": RunsCommand(tmp_path / "trap")}, tmp_path / "a.ckpt")
    assert DurableCheckpointIO(is_unsafe=True).load_checkpoint(tmp_path / "a.ckpt")["global_step"] == 3
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("kind", [DurableCheckpointIO, BackgroundCheckpointIO])
def test_numpy_s_values_come_back(tmp_path, kind):
    io = kind()
    io.save_checkpoint({**CONTENT, "mine": {"best": np.float32(0.1), "all": np.arange(3)}}, tmp_path / "a.ckpt")
    io.teardown()
    found = io.load_checkpoint(tmp_path / "a.ckpt")["mine"]
    assert (type(found["best"]), found["best"]) == (np.float32, np.float32(0.1))
    assert found["all"].tolist() == [0, 1, 2]


def test_a_damaged_archive_without_a_checksum_is_one_line(io, tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save(CONTENT, path)
    with zipfile.ZipFile(path) as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w") as damaged:
        for name, content in parts.items():
            damaged.writestr(name, content[:20] if name == "a/data.pkl" else content)
    with pytest.raises(InputError, match=r"ckpt_path: .*a\.ckpt: .*; use an older checkpoint$"):
        io.load_checkpoint(path)


def test_checksum_goes_with_its_checkpoint(io, tmp_path):
    io.save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    io.remove_checkpoint(tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []
