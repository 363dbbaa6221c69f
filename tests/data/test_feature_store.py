"""Guards: features of another picture, or of a file that was never finished."""

import pickle
from pathlib import Path
from zlib import crc32

import pytest
import torch

from llava_pl.data.feature_store import FeatureManifest, FeatureStore, FeatureWriter, PictureFeatures
from llava_pl.types import InputError

SHAPE = (2, 3)


def digest(number: int) -> bytes:
    return bytes([number]) * 16


def features(number: int, dtype=torch.float32) -> torch.Tensor:
    return torch.arange(6, dtype=dtype).view(SHAPE) + 10 * number


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    return FeatureStore.begin(tmp_path / "store", FeatureManifest({"weights": "w"}, SHAPE, "float32", 0.0))


def add(store, *numbers, **settings):
    with FeatureWriter(store, **settings) as writer:
        for number in numbers:
            writer.add(digest(number), features(number, store.manifest.torch_dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_features_come_back_by_name_from_several_files(tmp_path, dtype):
    store = FeatureStore.begin(tmp_path / "store", FeatureManifest({}, SHAPE, dtype, 0.0))
    add(store, 1, 2, 3, file_bytes=2 * store.manifest.row_bytes)
    add(store, 4)
    assert sorted(path.suffix for path in store.folder.iterdir()) == [".features"] * 3 + [".json"]
    opened = FeatureStore.open(tmp_path / "store")
    assert opened.manifest == store.manifest
    found = PictureFeatures.of(opened, {f"{n}.png": digest(n) for n in (4, 3, 2, 1)} | {"again.png": digest(2)})
    for each in (found, pickle.loads(pickle.dumps(found))):
        for number in (1, 2, 3, 4):
            assert torch.equal(each.get(f"{number}.png"), features(number, getattr(torch, dtype)))
        assert torch.equal(each.get("again.png"), each.get("2.png"))
    assert (found.nothing.shape, found.nothing.dtype) == ((0, *SHAPE), getattr(torch, dtype))
    assert len(pickle.dumps(found)) < 2000


def test_a_picture_without_features_has_none_and_one_that_nobody_named_is_an_error(store):
    add(store, 1)
    found = PictureFeatures.of(store, {"a": digest(1), "broken": None, "new": digest(9)})
    assert found.get("broken") is None
    assert found.get("new") is None
    with pytest.raises(KeyError, match="other"):
        found.get("other")
    assert PictureFeatures.of(store, {}).keys.size == 0


def test_what_was_added_before_an_error_stays_and_half_a_row_does_not(store):
    def fail():
        with FeatureWriter(store) as writer:
            writer.add(digest(1), features(1))
            writer._file.write(b"half of the next")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert store.find().keys() == {digest(1)}
    assert torch.equal(PictureFeatures.of(store, {"a": digest(1)}).get("a"), features(1))
    assert not list(store.folder.glob(".*.part"))


def test_files_of_killed_runs_and_damaged_ones_are_not_read(store):
    add(store, 1)
    (whole,) = store.folder.glob("*.features")
    (store.folder / "cut.features").write_bytes(whole.read_bytes()[:-1])
    (store.folder / ".node-1.part").write_bytes(whole.read_bytes())
    assert store.find() == {digest(1): (whole, 0, crc32(features(1).numpy().data))}
    store.remove_leftovers()
    assert not (store.folder / ".node-1.part").exists()


def test_features_that_are_not_what_was_written_end_the_run(store):
    add(store, 1, 2)
    (path,) = store.folder.glob("*.features")
    content = bytearray(path.read_bytes())
    content[store.manifest.row_bytes] ^= 1  # the first bit of the second picture
    path.write_bytes(content)
    found = PictureFeatures.of(store, {"a": digest(1), "b": digest(2)})
    assert torch.equal(found.get("a"), features(1))
    with pytest.raises(InputError, match=r"\.features: features of picture 'b' are damaged: .*; delete this file"):
        found.get("b")


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_file_that_goes_during_a_run_ends_it_in_words(store, change):
    add(store, 1)
    found = PictureFeatures.of(store, {"a": digest(1)})
    (path,) = store.folder.glob("*.features")
    change(path)
    with pytest.raises(InputError, match=r"\.features: cannot be read \(.*\); start again"):
        found.get("a")


def test_two_that_fill_at_once_leave_one_file_of_the_same(store):
    """Both found the same pictures missing; names say what a file holds."""
    add(store, 1, 2)
    add(store, 1, 2)
    add(store, 2, 3)
    assert len(list(store.folder.glob("*.features"))) == 2
    assert store.find().keys() == {digest(1), digest(2), digest(3)}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"origin": {}, "shape": [2, 3], "dtype": "x", "difference": 0}'])
def test_a_folder_without_a_manifest_of_this_version_is_no_store(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    assert FeatureStore.open(tmp_path) is None


def test_a_manifest_of_another_version_is_none(store):
    path = store.folder / "manifest.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    assert FeatureStore.open(store.folder) is None


def test_the_folder_depends_on_all_of_the_origin_but_not_on_its_order(tmp_path):
    names = {
        FeatureStore.folder_of(tmp_path, origin)
        for origin in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}, {"a": "1", "b": "3"}, {"a": "1"})
    }
    assert len(names) == 3
