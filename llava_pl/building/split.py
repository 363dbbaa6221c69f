"""Records to those that are learned from and those that are held back, all that is asked about a picture on one side.

In: names of pictures. Out: groups of those that are shown together, and whether one is held back. The draw asks the
least name of a group and the seed alone: of a file that has grown, all that was held back still is, unless a new record
shows its picture beside others.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from posixpath import normpath


class PictureGroups:
    """Pictures that stay together, because a record shows several of them.

    >>> groups = PictureGroups()
    >>> groups.join(["b.png", "c.png"])
    >>> groups.join(["c.png", "./a.png"])
    >>> groups.least("b.png"), groups.least("d.png")
    ('a.png', 'd.png')
    """

    def __init__(self) -> None:
        # Of a picture that is shown beside others, a lesser name in its group; most data sets have none.
        self._lesser: dict[str, str] = {}

    def join(self, names: Sequence[str]) -> None:
        """Put the pictures of a record into one group."""
        if len(names) < 2:
            return
        roots = {self.least(name) for name in names}
        least = min(roots)
        for root in roots:
            self._lesser[root] = least

    def least(self, name: str) -> str:
        """Return the least name in the group of a picture."""
        name = normpath(name)
        path = [name]
        while (lesser := self._lesser.get(path[-1], path[-1])) != path[-1]:
            path.append(lesser)
        for each in path[:-2]:
            self._lesser[each] = path[-1]
        return path[-1]


def is_held_back(key: str, share: float, seed: int = 0) -> bool:
    """Return whether a group of pictures is held back, or a record without one.

    Args:
        key: The group's least name, or the record's id.
        share: Of groups, 0 to 1.
        seed: Another one makes another draw.

    >>> sum(is_held_back(str(n), 0.25) for n in range(1000))
    259
    """
    digest = blake2b(f"{seed} {key}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
