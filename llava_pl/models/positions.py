"""Which positions of a batch are meant, as indices: without asking the device how many there are.

In: a mask over positions, and the number of true ones, which the collator has counted. Out: their indices.
"""

from __future__ import annotations

import torch
from torch import Tensor


def find_positions(is_meant: Tensor, expected: int, complaint: str) -> Tensor:
    """Return the indices of the true entries of a mask in reading order, int64 ``(expected,)``.

    Indexing with the mask itself does the same, but the host then waits until the device has counted: it can no longer
    queue up work ahead, and the device idles whenever the host is late. With a number that is known beforehand nobody
    waits. A wrong number would take positions that are not meant, or leave some out. So on a CPU it is a `ValueError`
    with the number that was found; on a device it is an asynchronous assertion.

    Args:
        is_meant: bool, of any shape.
        expected: How many are true.
        complaint: The message, with ``{}`` where the number that was found belongs.

    Raises:
        ValueError: Not that many are true.
    """
    found = is_meant.sum()
    if is_meant.device.type != "cpu":
        torch._assert_async(found == expected, complaint.format("another number of"))
    elif bool(found != expected):
        raise ValueError(complaint.format(int(found)))
    return torch.nonzero_static(is_meant.flatten(), size=expected)[:, 0]
