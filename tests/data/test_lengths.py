"""Guards: an order by lengths that the samples do not have."""

from llava_pl.data.lengths import count_words
from llava_pl.types import Record, Turn


def test_words_are_those_between_white_space():
    turns = (Turn("human", " <image>\nWhat\tis it? "), Turn("gpt", "It's a well-known  cat."), Turn("human", ""))
    assert count_words([Record("0", turns, ("a.jpg",)), Record("1", turns), Record("2", ())]) == [8, -8, 0]
