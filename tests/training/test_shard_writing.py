"""Guards: a checkpoint that is called whole while a rank still writes, or a thread that waits for a rank forever."""

import threading

import pytest

from llava_pl.export.shards import find_shards, is_sharded, shard_path
from llava_pl.training.checksum import write_checksum
from llava_pl.training.shard_writing import RANK_IS_LOST, finish_folder
from llava_pl.types import InputError


def write(folder, rank):
    shard_path(folder, rank).write_bytes(b"tensors")
    write_checksum(shard_path(folder, rank), sha256="0", num_bytes=7, step=1)


def test_the_index_comes_after_the_last_file(tmp_path):
    write(tmp_path, 1)
    thread = threading.Thread(target=finish_folder, args=(tmp_path, 2))
    thread.start()
    shard_path(tmp_path, 0).write_bytes(b"tens")  # without its manifest it is not whole
    thread.join(0.3)
    assert thread.is_alive()
    assert not is_sharded(tmp_path)
    write(tmp_path, 0)
    thread.join(10)
    assert find_shards(tmp_path) == [tmp_path / "00000.pt", tmp_path / "00001.pt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "00000.pt", "00000.pt.json", "00001.pt", "00001.pt.json", "index.json"
    ]  # fmt: skip


def test_a_rank_that_never_writes(tmp_path):
    write(tmp_path, 0)
    with pytest.raises(
        InputError, match=r"00001\.pt was not written within 0 seconds; all devices must see the folder"
    ):
        finish_folder(tmp_path, 2, most_seconds=0.1)
    assert not is_sharded(tmp_path)


def test_nobody_waits_for_a_rank_that_has_ended(tmp_path):
    write(tmp_path, 0)
    RANK_IS_LOST.set()
    try:
        with pytest.raises(InputError, match=r"00001\.pt is not whole, and a rank has ended"):
            finish_folder(tmp_path, 2)
        write(tmp_path, 1)
        finish_folder(tmp_path, 2)  # what is there is taken
    finally:
        RANK_IS_LOST.clear()
    assert is_sharded(tmp_path)
