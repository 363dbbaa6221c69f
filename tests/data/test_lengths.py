"""Guards: an order by lengths that the samples do not have."""

import pytest

from llava_pl.data.lengths import count_tokens, count_words
from llava_pl.types import InputError, Record, Turn


class LetterEncoder:
    """Counts the letters of a record's turns, and refuses what has none."""

    def count_tokens(self, record: Record) -> int:
        if not record.turns:
            raise InputError(f"record {record.id!r}: empty")
        return sum(len(turn.text) for turn in record.turns)


def test_words_are_those_between_white_space():
    turns = (Turn("human", " <image>\nWhat\tis it? "), Turn("gpt", "It's a well-known  cat."), Turn("human", ""))
    assert count_words([Record("0", turns, ("a.jpg",)), Record("1", turns), Record("2", ())]) == [8, -8, 0]


@pytest.mark.parametrize("is_shown", [True, False])
def test_tokens_are_counted_by_the_encoder(is_shown, capsys):
    records = [Record(str(number), (Turn("gpt", "a" * number),)) for number in (3, 1, 2)]
    assert count_tokens(records, LetterEncoder(), is_shown=is_shown) == [3, 1, 2]
    assert is_shown or capsys.readouterr().out == ""


def test_a_record_that_cannot_be_encoded_is_named():
    with pytest.raises(InputError, match="record 'x': empty"):
        count_tokens([Record("x", ())], LetterEncoder(), is_shown=False)
