"""Guards: a strategy that is planned for another one's memory."""

from types import SimpleNamespace

import pytest

from llava_pl.planning.spread import Spread, _spread_zero, read_spread

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


@pytest.mark.parametrize(
    ("strategy", "name"),
    [({"class_path": "llava_pl.training.strategies.FSDP2Strategy", "init_args": {}}, "fsdp2"), ("fsdp", "fsdp")],
)
def test_everything_in_pieces(strategy, name):
    pieces = {"weights": "pieces", "gradients": "pieces", "states": "pieces"}
    assert read_spread(trainer(strategy)) == Spread(name, 1, 4, **pieces)


@pytest.mark.parametrize(
    ("strategy", "name", "places"),
    [
        ("deepspeed_stage_2", "zero2", ("whole", "pieces", "pieces")),
        ("deepspeed_stage_3", "zero3", ("pieces", "pieces", "pieces")),
        ("deepspeed_stage_2_offload", "zero2_offload", ("whole", "host", "host")),
        ("deepspeed_stage_3_offload", "zero3_offload", ("host", "host", "host")),
    ],
)
def test_zero(strategy, name, places):
    spread = read_spread(trainer(strategy))
    assert (spread.name, (spread.weights, spread.gradients, spread.states)) == (name, places)
    assert spread.has_master
    assert not read_spread(trainer(strategy, precision="32-true")).has_master


def test_zero_from_a_class_and_its_own_configuration():
    config = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 7}}
    given = {"class_path": "lightning.pytorch.strategies.DeepSpeedStrategy", "init_args": {"config": config}}
    spread = read_spread(trainer(given))
    assert (spread.name, spread.weights, spread.states) == ("zero3_offload", "pieces", "host")
    assert spread.bucket_elements == 7


@pytest.mark.parametrize(("stage", "weights"), [(2, "whole"), (3, "host")])
def test_offload_of_all(stage, weights):
    spread = _spread_zero({"stage": stage, "offload": True}, is_half=True)
    assert (spread.weights, spread.gradients, spread.states) == (weights, "host", "host")


def test_an_unknown_strategy_is_said_to_be_so():
    assert not read_spread(trainer("nothing")).is_known
