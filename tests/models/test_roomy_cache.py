"""Guards: keys and values that are not those of transformers' own layer, or are copied for each new word."""

import pytest
import torch
from transformers import LlamaConfig, MistralConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from llava_pl.models import roomy_cache
from llava_pl.models.roomy_cache import RoomyLayer, make_cache, roomy_layers


def draw(num_rows, num_positions):
    return torch.rand(num_rows, 2, num_positions, 4), torch.rand(num_rows, 2, num_positions, 3)


@pytest.mark.parametrize("room", [0, 2, 64])
def test_the_layer_is_transformers_own_but_for_its_copies(monkeypatch, room):
    monkeypatch.setattr(roomy_cache, "ROOM", room)
    torch.manual_seed(0)
    found, expected = RoomyLayer(), DynamicLayer()
    steps = (
        lambda layer, new: layer.update(*new(3, 5)),
        lambda layer, new: layer.update(*new(3, 1)),
        lambda layer, new: layer.batch_select_indices(torch.tensor([2, 0, 2, 1])),
        lambda layer, new: layer.update(*new(4, 1)),
        lambda layer, new: layer.crop(-2),
        lambda layer, new: layer.update(*new(4, 3)),
        lambda layer, new: layer.reorder_cache(torch.tensor([3, 2, 1, 0])),
        lambda layer, new: layer.batch_select_indices(torch.tensor([0, 2, 3, 3])),
        lambda layer, new: layer.update(*new(4, 1)),
        lambda layer, new: layer.batch_repeat_interleave(2),
        lambda layer, new: layer.batch_select_indices(torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])),
        lambda layer, new: layer.update(*new(8, 1)),
        lambda layer, new: layer.reset(),
        lambda layer, new: layer.update(*new(1, 2)),
    )
    for number, step in enumerate(steps):
        for layer in (found, expected):
            torch.manual_seed(number)
            step(layer, draw)
        assert found.get_seq_length() == expected.get_seq_length(), number
        assert found.get_mask_sizes(1) == expected.get_mask_sizes(1), number
        if expected.keys is not None:
            assert torch.equal(found.keys, expected.keys), number
            assert torch.equal(found.values, expected.values), number


def test_new_positions_are_written_in_place_while_there_is_room(monkeypatch):
    monkeypatch.setattr(roomy_cache, "ROOM", 2)
    layer = RoomyLayer()
    layer.update(*draw(2, 5))
    places = [layer.update(*draw(2, 1))[0].data_ptr() for _ in range(5)]
    assert [places.index(place) for place in places] == [0, 0, 2, 2, 2]
    layer.batch_select_indices(torch.tensor([1]))
    assert layer.keys.data_ptr() not in places


def test_room_is_set_aside_for_what_is_known_to_come(monkeypatch):
    monkeypatch.setattr(roomy_cache, "ROOM", 0)
    layer, (keys, values) = RoomyLayer(), draw(2, 3)
    layer.take_rows(keys.unbind(), values.unbind(), 3, num_more=4)
    held = layer.keys.data_ptr()
    assert layer.update(*draw(2, 4))[0].data_ptr() == held
    assert layer.update(*draw(2, 1))[0].data_ptr() != held


@pytest.fixture
def nothing_is_zero():
    """Memory that was never written holds NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("nothing_is_zero")
def test_rows_end_together_and_their_padding_is_zero():
    """Zero times NaN is not zero."""
    keys, values = draw(2, 3)
    layer = RoomyLayer()
    layer.take_rows([keys[0], keys[1, :, :1]], [values[0], values[1, :, :1]], 3)
    for found, expected in ((layer.keys, keys), (layer.values, values)):
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1, :, :2], torch.zeros_like(expected[1, :, :2]))
        assert torch.equal(found[1, :, 2:], expected[1, :, :1])


def test_a_window_keeps_its_own_layers_unless_all_is_kept():
    window = MistralConfig(num_hidden_layers=2, sliding_window=4)
    kept = make_cache(window, keeps_all=False).layers
    assert [type(layer) for layer in kept] == [DynamicSlidingWindowLayer] * 2
    for cache in (make_cache(window, keeps_all=True), make_cache(LlamaConfig(num_hidden_layers=2), keeps_all=False)):
        assert [type(layer) for layer in roomy_layers(cache)] == [RoomyLayer] * 2
