"""Guards: a weights file runs code, reads outside of its folder, or is half read without a word."""

import json
import os
import pickle
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava_pl.export.weights import hash_file, hash_weights, read_torch_file, read_weights
from llava_pl.types import InputError

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([7]), "c": torch.ones(1).half()}


class TouchFile:
    """Unpickling it creates a file, if anything in the file is ever called."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def save(tensors, path):
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)


def write_shards(folder: Path, ending: str) -> Path:
    stem = "model" if ending == "safetensors" else "pytorch_model"
    names = [f"{stem}-0000{number}-of-00002.{ending}" for number in (1, 2)]
    save({"a.weight": TENSORS["a.weight"]}, folder / names[0])
    save({"b": TENSORS["b"], "c": TENSORS["c"]}, folder / names[1])
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": names[0], "b": names[1], "c": names[1]}}))
    return index


def assert_tensors(found):
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_whole_file_in_a_folder(tmp_path, name):
    save(TENSORS, tmp_path / name)
    assert_tensors(read_weights(tmp_path))
    assert_tensors(read_weights(str(tmp_path / name)))


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards(tmp_path, ending):
    write_shards(tmp_path, ending)
    assert_tensors(read_weights(tmp_path))


def test_safetensors_win_over_pickled_weights(tmp_path):
    save(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert_tensors(read_weights(tmp_path))


def test_other_files_do_not_matter(tmp_path):
    write_shards(tmp_path, "bin")
    torch.save({"stray": torch.zeros(1)}, tmp_path / "pytorch_model-00003-of-00003.bin")
    assert_tensors(read_weights(tmp_path))


@pytest.mark.parametrize("shard", ["../secret.bin", "sub/x.bin", "/etc/hostname", "../../x.safetensors"])
def test_a_shard_outside_the_folder_is_refused(tmp_path, shard):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "secret.bin", folder / "sub" / "x.bin"):
        torch.save({"a": torch.zeros(1)}, path)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(InputError, match=f"index.json: shard {shard!r} lies outside the folder"):
        read_weights(folder)


@pytest.mark.parametrize("shard", ["", ".", ".."])
def test_a_shard_that_is_no_file_is_refused(tmp_path, shard):
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(InputError, match=f"shard {shard!r}"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", [{"weight_map": {"a": 5}}, []])
def test_a_malformed_index_is_refused(tmp_path, content):
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"pytorch_model.bin.index.json"):
        read_weights(tmp_path)


def test_an_index_without_a_map_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {}}')
    with pytest.raises(InputError, match=r"model.safetensors.index.json: expected a field 'weight_map'"):
        read_weights(tmp_path)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_missing_shard_is_named(tmp_path, ending):
    index = write_shards(tmp_path, ending)
    shard = json.loads(index.read_text())["weight_map"]["c"]
    (tmp_path / shard).unlink()
    with pytest.raises(InputError, match=f"{index.name}: shard '{shard}' is missing"):
        read_weights(tmp_path)


def test_a_tensor_in_no_shard_is_named(tmp_path):
    index = write_shards(tmp_path, "safetensors")
    content = json.loads(index.read_text())
    content["weight_map"]["d"] = content["weight_map"]["a.weight"]
    index.write_text(json.dumps(content))
    with pytest.raises(InputError, match="1 tensors of its index are in no shard, such as 'd'"):
        read_weights(tmp_path)


@pytest.mark.parametrize("num_kept", [0, 4, 20, -4])
def test_truncated_safetensors_are_refused(tmp_path, num_kept):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:num_kept])
    with pytest.raises(InputError, match=r"model.safetensors: broken safetensors file"):
        read_weights(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("is_zip", [True, False])
def test_truncated_torch_files_are_refused(tmp_path, share, is_zip):
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=is_zip)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"pytorch_model.bin"):
        read_weights(tmp_path)


def test_a_git_lfs_pointer_is_refused(tmp_path):
    path = tmp_path / "mm_projector.bin"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n")
    with pytest.raises(InputError, match=r"mm_projector.bin"):
        read_weights(path)


class RunsCommand:
    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return os.system, (f"touch {self.trap}",)


def test_a_hostile_pickle_of_the_common_kind_is_told_as_such(tmp_path):
    """Torch refuses functions of some modules with words of their own."""
    torch.save(RunsCommand(tmp_path / "trap"), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: refused: .* it holds objects that run code"):
        read_weights(tmp_path)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("place", ["value", "key beside tensors"])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, is_zip, place):
    trap, path = tmp_path / "trap", tmp_path / "pytorch_model.bin"
    content = {**TENSORS, "evil": TouchFile(trap)} if place != "value" else TouchFile(trap)
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(InputError, match=r"pytorch_model.bin: refused: .* it holds objects that run code"):
        read_weights(tmp_path)
    assert not trap.exists()
    # The trap is armed: opened without care, the file does create the other one.
    torch.load(path, weights_only=False)
    assert trap.exists()


def test_a_hostile_plain_pickle_is_refused_and_not_run(tmp_path):
    trap, path = tmp_path / "trap", tmp_path / "last.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": TouchFile(trap)}, protocol=2))
    with pytest.raises(InputError, match=r"last.ckpt: refused: "):
        read_torch_file(path)
    assert not trap.exists()


@pytest.mark.parametrize(
    "content", [[torch.ones(1)], {"a": torch.ones(1), "b": 3}, {"state_dict": {}}, {5: torch.ones(1)}, 5]
)
def test_files_of_other_things_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(InputError, match=r"x.bin: expected a dictionary of tensors, found"):
        read_weights(tmp_path / "x.bin")


def test_checkpoints_of_plain_values_can_be_read(tmp_path):
    content = {"state_dict": {"a": torch.ones(2)}, "global_step": 3, "nested": [{"x": (1, "y")}]}
    torch.save(content, tmp_path / "last.ckpt")
    found = read_torch_file(tmp_path / "last.ckpt")
    assert torch.equal(found["state_dict"].pop("a"), torch.ones(2))
    assert found == {"state_dict": {}, "global_step": 3, "nested": [{"x": (1, "y")}]}


def test_nothing_to_read(tmp_path):
    with pytest.raises(InputError, match=r"no weights found; expected a weights file or a folder with model\."):
        read_weights(tmp_path)
    with pytest.raises(InputError, match=r"nowhere.ckpt: no such file; check the path"):
        read_torch_file(tmp_path / "nowhere.ckpt")


def hash_of(*paths: Path) -> str:
    return sha256("".join(f"{path.name} {hash_file(path)}\n" for path in paths).encode()).hexdigest()


def test_the_hash_of_a_model_is_that_of_the_files_that_are_read(tmp_path):
    assert hash_weights(tmp_path) is None
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    torch.save(TENSORS, tmp_path / "mm_projector.bin")
    assert hash_weights(tmp_path) == hash_of(tmp_path / "pytorch_model.bin")
    for number, name in enumerate(TENSORS, start=1):
        save_file({name: TENSORS[name]}, tmp_path / f"model-0000{number}-of-00003.safetensors")
    shards = sorted(tmp_path.glob("model-*"))
    weight_map = {name: path.name for name, path in zip(TENSORS, shards, strict=True)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    known = hash_weights(tmp_path)
    assert known == hash_of(*shards)
    assert read_weights(tmp_path).keys() == TENSORS.keys()
    (tmp_path / "pytorch_model.bin").unlink()  # which nobody reads any more
    assert hash_weights(tmp_path) == known
    save_file({"c": torch.zeros(1)}, shards[2])
    assert hash_weights(tmp_path) != known
    shards[1].unlink()
    with pytest.raises(InputError, match=r"shard 'model-00002-of-00003.safetensors' is missing; fetch it again"):
        hash_weights(tmp_path)


def test_a_hub_name_stands_for_what_the_cache_has(tmp_path, monkeypatch):
    assert hash_weights("nobody/nothing") is None
    assert hash_weights("/no/such/folder") is None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--somebody--words"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    (model / "snapshots" / "abc").mkdir(parents=True)
    save_file(TENSORS, model / "snapshots" / "abc" / "model.safetensors")
    assert hash_weights("somebody/words") == hash_of(model / "snapshots" / "abc" / "model.safetensors")


def test_a_file_may_be_written_again_while_its_tensors_are_used(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.ones(3000)}, path)
    weights, mapped = read_weights(path), read_weights(path, is_mapped=True)
    assert torch.equal(mapped["w"], weights["w"])
    torch.save({"w": torch.zeros(3000)}, path)
    assert weights["w"].sum() == 3000
