"""Guards: positions that are not meant, and a count that a device would make the host wait for."""

import pytest
import torch

from llava_pl.models.positions import find_positions


def test_indices_in_reading_order():
    mask = torch.tensor([[False, True, True], [True, False, False]])
    assert find_positions(mask, 3, "{}").tolist() == [1, 2, 3]
    assert find_positions(mask, 3, "{}").dtype == torch.int64


def test_nothing_is_meant():
    assert find_positions(torch.zeros(2, 3, dtype=torch.bool), 0, "{}").shape == (0,)
    assert find_positions(torch.zeros(2, 0, dtype=torch.bool), 0, "{}").shape == (0,)


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_a_wrong_number_is_refused(expected):
    with pytest.raises(ValueError, match=rf"^found 2 of {expected}$"):
        find_positions(torch.tensor([True, False, True]), expected, f"found {{}} of {expected}")


def test_a_device_is_not_asked():
    """Torch's meta device holds no values, so whatever is read back from it raises."""
    mask = torch.zeros(2, 3, dtype=torch.bool, device="meta")
    assert find_positions(mask, 4, "{}").shape == (4,)
    with pytest.raises((RuntimeError, NotImplementedError)):
        mask.nonzero()
