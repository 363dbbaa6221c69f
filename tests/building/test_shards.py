"""Guards shards: the bytes of another picture, a sample cut in two, a broken archive taken for its end."""

import io
import tarfile

import pytest

from llava_pl.building.captions import read_captions
from llava_pl.building.shards import find_shards, read_shard
from llava_pl.types import InputError


def write_shard(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


FILES = {
    "0000.jpg": b"first", "0000.json": b'{"caption": "from json"}', "0000.txt": b"a  dog",
    "0001.json": b'{"caption": "a cat"}', "0001.PNG": b"second",
    "sub/0001.png": b"third" * 1000, "sub/0001.txt": b"",
    "0002.txt": b"without a picture",
    "0003.png": b"last", "0003.cls": b"7",
}  # fmt: skip


def test_samples(tmp_path):
    write_shard(tmp_path / "b.tar", FILES)
    write_shard(tmp_path / "a.tar", {"x.webp": b"w", "x.txt": "h\u00e9".encode()})
    captions = list(read_captions(tmp_path))
    assert [(each.image, each.text, each.read_picture()) for each in captions] == [
        ("a/x.webp", "h\u00e9", b"w"),
        ("b/0000.jpg", "a dog", b"first"),
        ("b/0001.png", "a cat", b"second"),
        ("b/sub/0001.png", "", b"third" * 1000),
        ("b/0003.png", "", b"last"),
    ]
    assert list(read_captions(tmp_path / "b.tar")) == captions[1:]


def test_what_is_no_shard(tmp_path):
    assert find_shards(tmp_path) == []
    write_shard(tmp_path / "z.tar", FILES, "w:gz")
    with pytest.raises(InputError, match="expected a whole tar file without compression"):
        list(read_shard(tmp_path / "z.tar"))
    write_shard(tmp_path / "cut.tar", FILES)
    content = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[:2000])
    with pytest.raises(InputError, match="expected a whole tar file"):
        list(read_shard(tmp_path / "cut.tar"))
    write_shard(tmp_path / "json.tar", {"a.png": b"", "a.json": b"{"})
    with pytest.raises(InputError, match=r"json\.tar: a\.json: cannot be read"):
        list(read_shard(tmp_path / "json.tar"))
    with pytest.raises(InputError, match="No such file"):
        list(read_shard(tmp_path / "none.tar"))
