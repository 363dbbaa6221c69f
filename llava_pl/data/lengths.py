"""Records to lengths: what the order of training samples goes by.

In: records. Out: a number for each, without a picture being opened.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava_pl.types import Record


def count_words(records: Sequence[Record]) -> list[int]:
    r"""Return the words of each record's turns, negative without a picture, as the original measures.

    An image slot counts as a word, the image tokens behind it do not.

    >>> from llava_pl.types import Turn
    >>> turns = (Turn("human", "<image>\nWho is it?"), Turn("gpt", "A cat"))
    >>> count_words([Record("0", turns, ("cat.jpg",)), Record("1", turns[1:])])
    [6, -2]
    """
    return [sum(len(turn.text.split()) for turn in record.turns) * (1 if record.images else -1) for record in records]
