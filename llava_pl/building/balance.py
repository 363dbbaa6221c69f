"""The filter of LLaVA's alignment pairs: every concept is kept, and none of them often.

In: which caption holds which noun phrase. Out: the captions that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Balance:
    """How often a noun phrase may be there; the numbers are LLaVA's (paper, appendix on CC3M).

    Args:
        min_count: Phrases in fewer captions are passed over, as rare combinations of what others hold.
        max_captions: Of a phrase in more captions, so many are drawn.
        seed: Of the draws.
    """

    min_count: int = 3
    max_captions: int = 100
    seed: int = 0


def draw_captions(phrases: NDArray[np.int32], captions: NDArray[np.int32], balance: Balance) -> NDArray[np.int32]:
    """Return the captions that are kept, in rising order.

    The paper goes from the rarest phrase upward, and adds the captions of each, or those that it draws of them. As a
    draw asks for nothing but the captions that have the phrase, the order changes nothing: what is kept is what is
    drawn for any phrase.

    Args:
        phrases: int32 ``(pairs,)``, the number of a phrase.
        captions: int32 ``(pairs,)``, the number of a caption that has it; no pair is there twice.
        balance: Of how many to draw how many.

    >>> draw_captions(np.int32([0, 0, 0, 1, 1]), np.int32([5, 6, 8, 6, 7]), Balance())
    array([5, 6, 8], dtype=int32)
    """
    lots = np.random.default_rng(balance.seed).random(len(phrases), dtype=np.float32)
    order = np.lexsort((lots, phrases))
    _, starts, counts = np.unique(phrases[order], return_index=True, return_counts=True)
    places = np.arange(len(order)) - np.repeat(starts, counts)
    is_drawn = (places < balance.max_captions) & np.repeat(counts >= balance.min_count, counts)
    return np.unique(captions[order[is_drawn]])
