"""Guards: a divided model whose parts are taken for empty, or that other ranks wait for."""

import torch
from torch import nn

from llava_pl.models.division import is_divided, whole_shape


def test_an_ordinary_module_is_whole():
    layer = nn.Linear(2, 3)
    assert whole_shape(layer.weight) == (3, 2)
    assert not is_divided(layer)


def test_zero_3_leaves_an_empty_tensor_and_the_shape():
    layer = nn.Linear(2, 3)
    layer.weight.data, layer.weight.ds_shape = torch.empty(0), torch.Size((3, 2))
    assert whole_shape(layer.weight) == (3, 2)
    assert is_divided(layer)
