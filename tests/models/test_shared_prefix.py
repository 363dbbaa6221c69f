"""Guards: a question that is told the start of another one, and rows that are shifted by a column."""

import torch
from transformers import Cache

from llava_pl.models.roomy_cache import RoomyLayer
from llava_pl.models.shared_prefix import SharedPrefix, find_shared_prefix, spread

IMAGE = -200


def test_rows_about_one_picture_share_what_they_begin_with():
    rows = [[1, IMAGE, IMAGE, 5, 6], [1, IMAGE, IMAGE, 5, 7, 8, 9], [1, IMAGE, IMAGE, 5]]
    assert find_shared_prefix(rows, [0, 0, 0]) == SharedPrefix(
        num_columns=4, sources=(1,), source_of_row=(0, 0, 0), shifts=(2, 0, 3)
    )


def test_the_picture_whose_start_ends_first_decides():
    """Columns are counted in the padded batch: of the second pair, rows of six, the start ends in the fifth."""
    rows = [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 9], [1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 9, 9]]
    found = find_shared_prefix(rows, [7, 7, 8, 8])
    assert found == SharedPrefix(num_columns=5, sources=(0, 2), source_of_row=(0, 0, 1, 1), shifts=(0, 2, 0, 0))


def test_rows_with_pictures_of_their_own_or_none_are_read_by_themselves():
    rows = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4]]
    found = find_shared_prefix(rows, [-1, 3, 1, 1])
    assert found == SharedPrefix(num_columns=4, sources=(0, 1, 2), source_of_row=(0, 1, 2, 2), shifts=(0, 0, 0, 1))


def test_equal_rows_leave_the_last_column_to_each():
    assert find_shared_prefix([[1, 2, 3], [1, 2, 3]], [0, 0]) == SharedPrefix(2, (0,), (0, 0), (0, 0))


def test_rows_that_are_padding_there_are_not_read():
    rows = [[1, 2, 3, 4, 5, 6], [8, 9], [1, 2, 3, 4, 7], [9]]
    found = find_shared_prefix(rows, [0, -1, 0, -1])
    assert found == SharedPrefix(num_columns=4, sources=(0,), source_of_row=(0, 0, 0, 0), shifts=(0, 0, 1, 0))


def test_nothing_is_shared():
    # Of two pictures one has prompts that differ from the start.
    assert find_shared_prefix([[1, 2, 3, 4], [1, 2, 3, 5], [7, 8], [8, 8]], [0, 0, 1, 1]) is None
    assert find_shared_prefix([[1, 2], [1, 2]], [-1, -1]) is None
    assert find_shared_prefix([[1, 2], [1, 2]], [0, 1]) is None
    assert find_shared_prefix([[1, 2], [2, 2]], [0, 0]) is None


def test_keys_and_values_go_to_their_rows_and_columns():
    keys = torch.arange(2 * 2 * 3 * 1.0).view(2, 2, 3, 1)  # sources, heads, columns, width
    cache, filled = Cache([RoomyLayer(), RoomyLayer()]), Cache([RoomyLayer(), RoomyLayer()])
    cache.update(keys, -keys, 0)
    cache.update(keys + 100, keys, 1)
    shared = SharedPrefix(num_columns=3, sources=(0, 2), source_of_row=(0, 0, 1), shifts=(0, 1, 0))
    spread(cache, shared, filled)
    first, second = filled.layers
    assert first.keys[..., 0].tolist() == [[[0, 1, 2], [3, 4, 5]], [[0, 0, 1], [0, 3, 4]], [[6, 7, 8], [9, 10, 11]]]
    assert torch.equal(first.values, -first.keys)
    assert torch.equal(second.keys[:, :, 1:], first.keys[:, :, 1:] + 100)


def test_a_row_that_is_padding_there_takes_nothing():
    """Of rows of 30 and 17 ids that share 10, the shorter one begins behind the columns that are read once."""
    shared = find_shared_prefix([[*range(10), *range(100, 120)], [*range(10), *range(200, 207)]], [0, 0])
    assert shared == SharedPrefix(num_columns=10, sources=(0,), source_of_row=(0, 0), shifts=(0, 13))
    cache, filled = Cache([RoomyLayer()]), Cache([RoomyLayer()])
    keys = torch.rand(1, 2, 10, 3)
    cache.update(keys, keys, 0)
    spread(cache, shared, filled)
    assert torch.equal(filled.layers[0].keys, torch.cat([keys, torch.zeros_like(keys)]))
