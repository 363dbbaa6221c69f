"""Guards: a sample that is evaluated twice or never, or ranks with unequally many batches where they could be equal."""

import pytest

from llava_pl.data.eval_loader import make_eval_loader

COUNTS = [1, 2, 30, 4, 500, 6, 7, 80, 9, 10]
EVALUATED = {
    1: [[[1, 2, 30, 4], [500, 6, 7, 80], [9, 10]]],
    2: [[[1, 30, 500, 7], [9]], [[2, 4, 6, 80], [10]]],
}


def read(dataset, batch_size, num_replicas):
    """The batches of each rank."""
    options = {"batch_size": batch_size, "num_replicas": num_replicas, "num_workers": 0, "collate_fn": list}
    return [list(make_eval_loader(dataset, rank=rank, **options)) for rank in range(num_replicas)]


@pytest.mark.parametrize(("num_replicas", "batches"), EVALUATED.items())
def test_evaluation_reads_every_sample_once(num_replicas, batches):
    assert read(COUNTS, 4, num_replicas) == batches


def test_ranks_have_as_many_batches():
    # Batches of four would be 4 + 1 on one rank and 4 on the other.
    assert read(range(9), 4, 2) == [[[0, 2, 4], [6, 8]], [[1, 3, 5], [7]]]


@pytest.mark.parametrize("num_replicas", [1, 2, 3])
@pytest.mark.parametrize("num", [3, 7, 10])
def test_every_sample_is_read_once(num, num_replicas):
    found = [sample for rank in read(range(num), 2, num_replicas) for batch in rank for sample in batch]
    assert sorted(found) == list(range(num))
