"""Guards: a picture that changed and counts as the old one, or that is read again in every run."""

import os
from hashlib import blake2b

import pytest

from llava_pl.data import picture_digests
from llava_pl.data.picture_digests import digest_pictures, look


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two files, and a list that grows by the name of each that is read."""
    (tmp_path / "folder").mkdir()
    for name in ("a", "b"):
        (tmp_path / "folder" / name).write_bytes(name.encode())
    read, digest = [], picture_digests._digest
    monkeypatch.setattr(picture_digests, "_digest", lambda path: [read.append(path.name), digest(path)][1])
    return tmp_path, read


def test_a_file_is_read_once_and_again_when_it_changes(pictures):
    folder, read = pictures
    first = digest_pictures(folder / "folder", ["a", "b"], folder / "memory", num_threads=2)
    assert first["a"].digest == blake2b(b"a", digest_size=16).digest()
    assert (first["a"].size, first["a"].mtime_ns) == look(folder / "folder", "a")
    assert sorted(read) == ["a", "b"]
    read.clear()
    assert digest_pictures(folder / "folder", ["b", "a"], folder / "memory") == first
    assert not read
    (folder / "folder" / "a").write_bytes(b"c")
    os.utime(folder / "folder" / "a", ns=(0, first["a"].mtime_ns + 1))
    second = digest_pictures(folder / "folder", ["a"], folder / "memory")
    assert read == ["a"]
    assert second["a"].digest == blake2b(b"c", digest_size=16).digest()
    read.clear()
    assert digest_pictures(folder / "folder", ["a", "b"], folder / "memory") == {**first, **second}
    assert not read, "what another run has asked for is not forgotten"


@pytest.mark.parametrize("content", [b"", b"no table"])
def test_a_damaged_memory_is_begun_anew(pictures, content):
    folder, read = pictures
    (folder / "memory").write_bytes(content)
    assert set(digest_pictures(folder / "folder", ["a"], folder / "memory")) == {"a"}
    assert set(digest_pictures(folder / "folder", ["a"], folder / "memory")) == {"a"}
    assert read == ["a"]


def test_names_without_a_file_inside_the_folder_are_left_out(pictures):
    folder, _ = pictures
    (folder / "outside").write_bytes(b"a")
    names = ["missing", "../outside", str(folder / "outside"), "a\0", "\ud83d", "a"]
    assert set(digest_pictures(folder / "folder", names, folder / "memory")) == {"a"}


def test_names_of_folders_alone_are_left_out_too(tmp_path):
    (tmp_path / "a.png").mkdir()
    for _ in range(2):
        assert digest_pictures(tmp_path, ["a.png"], tmp_path / "memory") == {}
