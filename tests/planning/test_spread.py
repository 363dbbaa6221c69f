"""Guards: a strategy that is planned for another one's memory."""

from types import SimpleNamespace

import pytest

from llava_pl.planning.spread import Spread, read_spread
from llava_pl.types import InputError

DDP = "lightning.pytorch.strategies.DDPStrategy"


def trainer(strategy="auto", devices=4, **more):
    return SimpleNamespace(strategy=strategy, devices=devices, **{"num_nodes": 1, "precision": "bf16-mixed"} | more)


def test_one_device():
    assert read_spread(trainer(devices=1)) == Spread("single")


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_gradients_lie_beside_their_buckets(strategy):
    expected = Spread("ddp", 2, 4, has_buckets=True, has_gradient_copy=True)
    assert read_spread(trainer(strategy, num_nodes=2)) == expected
    assert expected.num_ranks == 8


def test_gradients_are_their_buckets():
    given = {"class_path": DDP, "init_args": {"gradient_as_bucket_view": True}}
    assert read_spread(trainer(given)) == Spread("ddp", 1, 4, has_buckets=True)


def test_everything_in_pieces():
    pieces = {"weights": "pieces", "gradients": "pieces", "states": "pieces"}
    given = {"class_path": "llava_pl.training.strategies.FSDP2Strategy", "init_args": {}}
    assert read_spread(trainer(given)) == Spread("fsdp2", 1, 4, **pieces)


@pytest.mark.parametrize(
    ("options", "name", "places"),
    [
        ({}, "zero2", ("whole", "pieces", "pieces")),
        ({"stage": 3}, "zero3", ("pieces", "pieces", "pieces")),
        ({"offload": True}, "zero2_offload", ("whole", "host", "host")),
        ({"stage": 3, "offload": True}, "zero3_offload", ("host", "host", "host")),
    ],
)
def test_zero(options, name, places):
    given = {"class_path": "llava_pl.training.zero.ZeroStrategy", "init_args": options}
    spread = read_spread(trainer(given))
    assert (spread.name, (spread.weights, spread.gradients, spread.states)) == (name, places)
    assert spread.is_zero
    assert spread.has_master
    assert not read_spread(trainer(given, precision="32-true")).has_master


@pytest.mark.parametrize("name", ["fsdp", "deepspeed_stage_3"])
def test_a_strategy_of_others_is_said_to_be_so(name):
    assert not read_spread(trainer(name)).is_known


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"devices": "x"}, "trainer.devices: expected a number of devices, their numbers, or auto, found 'x'"),
        ({"devices": 0}, "trainer.devices: expected a number of devices, their numbers, or auto, found 0"),
        ({"num_nodes": 0}, "trainer.num_nodes: expected at least 1, found 0"),
    ],
)
def test_no_devices_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        read_spread(trainer(**settings))


def test_a_strategy_that_is_none_is_refused():
    with pytest.raises(InputError, match=r"^trainer.strategy: expected auto, ddp, or a class .*, found 'nothing'"):
        read_spread(trainer("nothing"))
