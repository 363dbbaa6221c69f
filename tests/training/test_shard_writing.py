"""Guards: a checkpoint that is called whole while a rank still writes, or a thread that waits for a rank forever."""

import threading

import pytest

from llava_pl.export.shards import INDEX_FILE, find_shards, is_sharded, shard_path
from llava_pl.training.checksum import checksum_path, temporary_path, write_checksum
from llava_pl.training.shard_writing import RANK_IS_LOST, finish_folder
from llava_pl.types import InputError


@pytest.fixture
def folder(tmp_path):
    """A checkpoint that nobody has begun."""
    temporary_path(tmp_path / "a.ckpt").mkdir()
    return tmp_path / "a.ckpt"


def write(folder, rank):
    path = shard_path(temporary_path(folder), rank)
    path.write_bytes(b"tensors")
    write_checksum(path, sha256="0", num_bytes=7, step=1)


def test_the_index_comes_after_the_last_file(folder):
    write(folder, 1)
    thread = threading.Thread(target=finish_folder, args=(folder, 2))
    thread.start()
    shard_path(temporary_path(folder), 0).write_bytes(b"tens")  # without its manifest it is not whole
    thread.join(0.3)
    assert thread.is_alive()
    assert not is_sharded(folder)
    write(folder, 0)
    thread.join(10)
    assert find_shards(folder) == [folder / "00000.pt", folder / "00001.pt"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "00000.pt", "00000.pt.json", "00001.pt", "00001.pt.json", "index.json"
    ]  # fmt: skip


def test_a_rank_that_never_writes(folder):
    write(folder, 0)
    with pytest.raises(
        InputError, match=r"00001\.pt was not written within 0 seconds; all devices must see the folder"
    ):
        finish_folder(folder, 2, most_seconds=0.1)
    assert not is_sharded(folder)


def test_nobody_waits_for_a_rank_that_has_ended(folder):
    write(folder, 0)
    RANK_IS_LOST.set()
    try:
        with pytest.raises(InputError, match=r"00001\.pt is not whole, and a rank has ended"):
            finish_folder(folder, 2)
        write(folder, 1)
        finish_folder(folder, 2)  # what is there is taken
    finally:
        RANK_IS_LOST.clear()
    assert is_sharded(folder)


@pytest.mark.parametrize("is_file", [True, False])
def test_an_older_one_of_its_name_stays_until_it_is_whole(folder, is_file):
    """A run that went back, or goes on with other ranks, saves the same step again."""
    if is_file:
        folder.write_bytes(b"old")
        checksum_path(folder).write_text("{}")
    else:
        folder.mkdir()
        shard_path(folder, 1).write_bytes(b"old")
        shard_path(folder, 7).write_bytes(b"old")
        checksum_path(shard_path(folder, 1)).write_text("{}")
    write(folder, 0)
    with pytest.raises(InputError, match=r"00001\.pt was not written"):
        finish_folder(folder, 2, most_seconds=0.1)
    assert (folder if is_file else shard_path(folder, 1)).read_bytes() == b"old"
    write(folder, 1)
    finish_folder(folder, 2)
    assert [path.read_bytes() for path in find_shards(folder)] == [b"tensors"] * 2
    assert not shard_path(folder, 7).exists()
    assert [path.name for path in folder.parent.iterdir()] == ["a.ckpt"]


def test_a_disk_that_refuses(folder):
    for rank in (0, 1):
        write(folder, rank)
    (temporary_path(folder) / INDEX_FILE).mkdir()
    with pytest.raises(InputError, match=r"a\.ckpt: cannot be written: Is a directory; see that it can be written"):
        finish_folder(folder, 2)
