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
    "./a.v1.jpg": b"fourth", "./a.v1.txt": b"dots", "./._a.v1.txt": b"of macOS",
    "0003.png": b"last", "0003.cls": b"7",
}  # fmt: skip


def test_samples(tmp_path):
    write_shard(tmp_path / "b.tar", FILES)
    write_shard(tmp_path / "a.tar", {"x.webp": b"w", "x.txt": "h\u00e9".encode()})
    captions = list(read_captions(tmp_path))
    sound = [each for each in captions if not each.reason]
    assert [(each.image, each.text, each.read_picture()) for each in sound] == [
        ("a/x.webp", "h\u00e9", b"w"),
        ("b/0000.jpg", "a dog", b"first"),
        ("b/0001.png", "a cat", b"second"),
        ("b/sub/0001.png", "", b"third" * 1000),
        ("b/a.v1.jpg", "dots", b"fourth"),
        ("b/0003.png", "", b"last"),
    ]
    (wrong,) = [each for each in captions if each.reason]
    assert (wrong.where, wrong.reason) == (f"{tmp_path}/b.tar: 0002", "picture_missing")
    assert list(read_captions(tmp_path / "b.tar")) == captions[1:]


def test_two_pictures_are_two_samples(tmp_path):
    write_shard(tmp_path / "a.TAR", {"0.jpg": b"1", "0.txt": b"one", "0.png": b"2"})
    found = [(each.image, each.text, each.read_picture()) for each in read_captions(tmp_path)]
    assert found == [("a/0.jpg", "one", b"1"), ("a/0.png", "", b"2")]


def test_two_samples_of_one_name_are_two_files(tmp_path):
    write_shard(tmp_path / "a.tar", {"0.jpg": b"1", "0.txt": b"one"})
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        for name in ("1.jpg", "0.jpg"):
            archive.addfile(tarfile.TarInfo(name))
    assert [each.image for each in read_captions(tmp_path)] == ["a/0.jpg", "a/1.jpg", "a/0-2.jpg"]


def test_samples_that_are_wrong(tmp_path):
    names = ("../../x.jpg", "1.jpg", "1.txt", "2.jpg", "2.json", "3.json")
    write_shard(tmp_path / "a.tar", {**dict.fromkeys(names, b"{}"), "1.txt": b"\xff", "2.json": b"{"})
    found = [(each.where.rpartition(" ")[2], each.reason) for each in read_captions(tmp_path)]
    assert found == [
        ("../../x", "path_outside"),
        ("1", "invalid"),
        ("2", "invalid"),
        ("3", "picture_missing"),
    ]


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
    # Cut off between two files, which Python's reader takes for the end.
    (tmp_path / "cut.tar").write_bytes(content[:1024])
    with pytest.raises(InputError, match="found one that is cut off"):
        list(read_shard(tmp_path / "cut.tar"))
    with pytest.raises(InputError, match="No such file"):
        list(read_shard(tmp_path / "none.tar"))
