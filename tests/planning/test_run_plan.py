"""Guards: assumptions that mean nothing."""

from math import inf, nan

import pytest

from llava_pl.planning.run_plan import GIB, Assumptions
from llava_pl.types import InputError


def test_headroom_is_left():
    assert Assumptions(device_memory_gib=40, headroom=0.25).limit == 30 * GIB


@pytest.mark.parametrize(
    "given",
    [
        {"mfu": 0},
        {"mfu": 1.5},
        {"headroom": 1},
        {"device_memory_gib": 0},
        {"device_tflops": -1},
        {"num_samples": 0},
        {"device_memory_gib": nan},
        {"device_memory_gib": inf},
        {"device_tflops": inf},
        {"mean_length": nan},
        {"mean_length": inf},
    ],
)
def test_refusals(given):
    with pytest.raises(InputError, match="plan: "):
        Assumptions(**given)
