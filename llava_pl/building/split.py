"""Records to those that are learned from and those that are held back, a picture's questions on one side.

In: records. Out: for each of them whether it is held back. The draw asks the picture's name and the seed alone: of a
file that has grown, all that was held back still is.
"""

from __future__ import annotations

from hashlib import blake2b

from llava_pl.types import Record


def is_held_back(record: Record, share: float, seed: int = 0) -> bool:
    """Return whether a record is held back.

    Args:
        record: Of several pictures, its first decides; without one, its id.
        share: Of pictures, 0 to 1.
        seed: Another one makes another draw.

    >>> sum(is_held_back(Record(str(n), ()), 0.25) for n in range(1000))
    259
    """
    key = record.images[0] if record.images else record.id
    digest = blake2b(f"{seed} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
