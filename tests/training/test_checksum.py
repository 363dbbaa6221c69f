"""Guards: a damaged checkpoint that is taken for a good one, or a good one that is refused."""

import json

import pytest
import torch

from llava_pl.training.checkpoint_io import DurableCheckpointIO
from llava_pl.training.checksum import checksum_path, find_damage, temporary_path, write_checksum


@pytest.fixture
def path(tmp_path):
    DurableCheckpointIO().save_checkpoint(
        {"global_step": 7, "state_dict": {"x": torch.arange(99)}}, tmp_path / "a.ckpt"
    )
    return tmp_path / "a.ckpt"


def test_what_was_written_is_good(path):
    assert find_damage(path) is None
    assert json.loads(checksum_path(path).read_text())["step"] == 7


def test_a_link_is_judged_by_its_file(path):
    link = path.with_name("last.ckpt")
    link.symlink_to(path.name)
    assert find_damage(link) is None
    path.write_bytes(path.read_bytes()[:-1])
    assert find_damage(link)


def test_one_flipped_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert find_damage(path) == "its bytes are not those that were written"


def test_another_file_of_the_same_kind(path):
    torch.save({"state_dict": {}}, path)
    assert "bytes were" in find_damage(path) or "were written" in find_damage(path)


def test_without_a_checksum_the_archive_is_asked(path):
    checksum_path(path).unlink()
    assert find_damage(path) is None
    path.write_bytes(path.read_bytes()[:-40])
    assert find_damage(path) == "found another or an incomplete file"


def test_checksum_is_whole_or_not_there(tmp_path):
    write_checksum(tmp_path / "a.ckpt", sha256="00", num_bytes=1, step=None)
    assert json.loads((tmp_path / "a.ckpt.json").read_text()) == {"sha256": "00", "bytes": 1, "step": None}
    assert not temporary_path(checksum_path(tmp_path / "a.ckpt")).exists()
