"""Guards: a checkpoint whose entries are no such things, and that ends in a traceback or in a model of half of it."""

import pytest
import torch

from llava_pl import load_pretrained
from llava_pl.data.settings import DataSettings
from llava_pl.export.checkpoint_file import read_checkpoint_file
from llava_pl.export.initial_weights import load_initial_weights
from llava_pl.types import InputError


class Plain:
    """What a checkpoint of another program may hold."""


def content(**changes):
    hyper = {"vision_encoder": {"path": "a"}, "decoder": {"path": "b"}, "projector": "linear", "lora": None}
    carried = {"data": DataSettings().to_plain(), "learned": ["projector.weight"]}
    state = {"model.projector.weight": torch.ones(2, 3)}
    return {"state_dict": state, "hyper_parameters": hyper, "carried": carried, **changes}


def test_what_is_of_its_kind_is_read(tmp_path):
    torch.save(content(), tmp_path / "x.ckpt")
    assert read_checkpoint_file(tmp_path / "x.ckpt").keys() == content().keys()
    torch.save({"state_dict": content()["state_dict"]}, tmp_path / "x.ckpt")
    assert list(read_checkpoint_file(tmp_path / "x.ckpt")) == ["state_dict"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_dict": {}}, "expected a Lightning checkpoint with a 'state_dict', found none"),
        ({"state_dict": [1, 2]}, r"state_dict: expected a dictionary, found list \[1, 2\]; it is no checkpoint"),
        ({"state_dict": {3: torch.ones(1)}}, "state_dict: expected names of tensors, found 3; it is no"),
        ({"state_dict": {"a": "x"}}, "state_dict.a: expected a tensor, found str 'x'; it is no"),
        ({"hyper_parameters": ["x"]}, r"hyper_parameters: expected a dictionary, found list \['x'\]; it is no"),
        (
            {"hyper_parameters": {"vision_encoder": "x"}},
            "hyper_parameters.vision_encoder: expected a dictionary, found",
        ),
        ({"hyper_parameters": {"lora": "x"}}, "hyper_parameters.lora: expected a dictionary or None, found str 'x'"),
        ({"hyper_parameters": {"projector": 3}}, "hyper_parameters.projector: expected a text, found int 3"),
        ({"carried": ["data"]}, r"carried: expected a dictionary, found list \['data'\]"),
        ({"carried": None}, "carried: expected a dictionary, found NoneType None"),
        ({"carried": {"learned": None}}, "carried.learned: expected a list, found NoneType None"),
        ({"carried": {"learned": [3]}}, "carried.learned: expected a text, found int 3"),
        ({"carried": {"data_hash": 3}}, "carried.data_hash: expected a text or None, found int 3"),
    ],
)
def test_what_is_something_else_has_its_line_with_every_reader(build, tmp_path, changes, message):
    path = tmp_path / "x.ckpt"
    torch.save(content(**changes), path)
    for begin, read in (("", load_pretrained), ("model.init_from: ", lambda path: load_initial_weights(build(), path))):
        with pytest.raises(InputError, match=f"^{begin}{path}: {message}") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_what_to_do_about_pickled_objects_is_told(build, tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save(content(callbacks=Plain()), path)
    said = f"{path}: refused: .* objects that run code; have its maker save plain values alone"
    with pytest.raises(InputError, match=f"^{said}; if you trust it, --unsafe reads it, and runs what code it holds$"):
        load_pretrained(path)
    with pytest.raises(InputError, match=f"^model.init_from: {said}$"):
        load_initial_weights(build(), path)
    assert read_checkpoint_file(path, unsafe=True)["hyper_parameters"]["projector"] == "linear"
