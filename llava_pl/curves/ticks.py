"""Numbers that stand beside an axis: few, round, and short."""

from __future__ import annotations

import math


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers from the lower to the higher limit, at even distances.

    Args:
        low: Lower limit.
        high: Higher limit, above the lower.
        most: How many at most.

    >>> ticks(0, 1199), ticks(0.03, 0.12)
    ([0.0, 250.0, 500.0, 750.0, 1000.0], [0.04, 0.06, 0.08, 0.1, 0.12])
    """
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    distance = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / distance - 1e-9), math.floor(high / distance + 1e-9)
    digits = max(0, 2 - math.floor(math.log10(distance)))
    return [round(number * distance, digits) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten between two limits; with 2 and 5 times them where those are too few.

    >>> log_ticks(0.02, 30.0), log_ticks(0.3, 8.0)
    ([0.1, 1.0, 10.0], [0.5, 1.0, 2.0, 5.0])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        found = [round(factor * 10.0**power, 2 - power if power < 2 else 0) for power in powers for factor in factors]
        within = [value for value in found if low <= value <= high]
        if len(within) >= 3:
            return within
    return within or [low, high]


def show_number(value: float) -> str:
    """Return a number in four digits.

    >>> show_number(0.034561), show_number(11040.7), show_number(3.4e-07), show_number(0.0)
    ('0.03456', '11,041', '3.4e-07', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
