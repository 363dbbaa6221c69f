"""Guards: NumPy's values in a checkpoint that cost a run its way back, or that let a file reach into memory."""

import pickle
import zipfile

import numpy as np
import pytest
import torch

from llava_pl.export.numpy_values import numpy_is_taken, settle
from llava_pl.export.weights import read_torch_file
from llava_pl.types import InputError

VALUES = {
    "int64": np.arange(6).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "a view": np.arange(12)[::2].reshape(3, 2).T,
    "big-endian": np.array([1.5, -2], dtype=">f4"),
    "float16": np.array([1, 2], dtype=np.float16),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "text": np.array(["red", "blue"]),
    "bytes": np.array([b"red", b"blue"]),
    "empty": np.empty((0, 3), dtype=np.int8),
    "one number": np.array(3.0),
    "float32 scalar": np.float32(0.1),
    "int64 scalar": np.int64(-3),
    "bool scalar": np.bool_(True),
    "text scalar": np.str_("red"),
    "dtype": np.dtype("int16"),
}


def round_trip(value, path):
    torch.save(value, path)
    return read_torch_file(path)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_as_it_was(tmp_path, name):
    value = VALUES[name]
    found = round_trip({"value": value}, tmp_path / "a.ckpt")["value"]
    assert type(found) is type(value)
    if isinstance(value, np.ndarray | np.generic):
        assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes())
    if isinstance(value, np.ndarray):
        assert found.flags.writeable
        assert found.flags.owndata or found.base.flags.owndata


def test_names_of_numpy_1_and_of_numpy_2_are_known(tmp_path):
    torch.save([np.arange(3), np.float32(2)], tmp_path / "new.ckpt")
    with zipfile.ZipFile(tmp_path / "new.ckpt") as new, zipfile.ZipFile(tmp_path / "old.ckpt", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            assert name != "new/data.pkl" or b"numpy._core.multiarray\n" in content
            old.writestr(name, content.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
    for name in ("new", "old"):
        array, scalar = read_torch_file(tmp_path / f"{name}.ckpt")
        assert array.tolist() == [0, 1, 2]
        assert (type(scalar), scalar) == (np.float32, 2)


def test_values_lie_in_their_containers(tmp_path):
    array = np.arange(2)
    content = {
        "a": [array, (array, {"b": np.int64(1)})], np.int64(7): {np.int64(3)}, "w": torch.ones(1), "plain": (1, "x"),
        "state": np.random.RandomState(0).get_state(),
    }  # fmt: skip
    found = round_trip(content, tmp_path / "a.ckpt")
    assert found["a"][0] is found["a"][1][0]
    assert found["a"][1][1] == {"b": 1}
    assert found[np.int64(7)] == {3}
    assert (found["w"], found["plain"]) == (torch.ones(1), (1, "x"))
    again = np.random.RandomState(1)
    again.set_state(found["state"])
    assert again.random() == np.random.RandomState(0).random()


def test_a_list_that_holds_itself(tmp_path):
    content = [np.int64(1)]
    content.append(content)
    found = round_trip(content, tmp_path / "a.ckpt")
    assert found[0] == 1
    assert found[1] is found


class Says:
    """What a file may say of an array, true or not."""

    def __init__(self, function, arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


def array(dtype, data, shape=(1,)):
    from numpy._core.multiarray import _reconstruct

    return Says(_reconstruct, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, data))


POINTER = b"A" * 8
LIES = {
    "bytes as a pointer": array(
        Says(np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)), POINTER
    ),
    "objects": array(np.dtype("O"), [1]),
    "objects in bytes": array(np.dtype("O"), POINTER),
    "records": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
    "too few bytes": array(np.dtype("f8"), b"1234"),
    "a shape of another size": array(np.dtype("f8"), POINTER, (2,)),
    "no bytes": array(np.dtype("f8"), 5),
    "no dtype": array("f8", POINTER),
    "no such dtype": array(Says(np.dtype, ("nonsense",)), POINTER),
    "no such order": array(Says(np.dtype, ("f8",), (3, "x")), POINTER),
    "never filled": Says(array(None, None).parts[0], (np.ndarray, (0,), b"b")),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_plain_value_is_refused(tmp_path, lie):
    torch.save({"a": LIES[lie]}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"a\.ckpt: refused: expected a torch file of plain"):
        read_torch_file(tmp_path / "a.ckpt")


@pytest.mark.parametrize("value", [np.random.default_rng(0), np.ma.array([1]), np.float32])
def test_other_things_of_numpy_are_refused(tmp_path, value):
    torch.save({"a": value}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"a\.ckpt: refused"):
        read_torch_file(tmp_path / "a.ckpt")


def test_containers_without_end_are_one_error():
    content = []
    for _ in range(100_000):
        content = [content]
    with pytest.raises(pickle.UnpicklingError, match="recursion"):
        settle(content)


def test_nothing_stays_allowed(tmp_path):
    before = set(torch.serialization.get_safe_globals())  # torch lists a set, in whatever order
    with numpy_is_taken():
        pass
    assert set(torch.serialization.get_safe_globals()) == before
