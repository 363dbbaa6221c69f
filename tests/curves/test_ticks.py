"""Guards: ticks that are crooked, too many, or none."""

import pytest

from llava_pl.curves.ticks import log_ticks, show_number, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 0.0016, [0.0, 0.0005, 0.001, 0.0015]),
        (9, 10, [9.0, 9.2, 9.4, 9.6, 9.8, 10.0]),
        (-3, 12_000, [0.0, 2500.0, 5000.0, 7500.0, 10_000.0]),
        (47.5, 52.5, [48.0, 49.0, 50.0, 51.0, 52.0]),
    ],
)
def test_even(low, high, expected):
    assert ticks(low, high) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.001, 100.0, [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]), (0.9, 12, [1.0, 2.0, 5.0, 10.0]), (3.0, 4.0, [3.0, 4.0])],
)
def test_logarithmic(low, high, expected):
    assert log_ticks(low, high) == expected


def test_numbers_are_short():
    assert [show_number(each) for each in (0.1, 1 / 3, 1234.5, 123456.7, -2.0, 1e-9)] == [
        "0.1", "0.3333", "1234", "123,457", "-2", "1e-09"
    ]  # fmt: skip
