"""Guards the divisor of the loss: it must count the tokens of the whole step, the last and shorter one included.

Counted too small or too large, some steps would train with another learning rate than the others, and nothing else
would show it.
"""

import pytest

from llava_pl.data.loader import StepLoader

# How many tokens each sample supervises; a batch is two samples.
COUNTS = [1, 2, 30, 4, 500, 6, 7, 80, 9, 10]
PER_BATCH = [3, 34, 506, 87, 19]


def gather(counts: list[int]) -> dict[str, int]:
    return {"num_supervised": sum(counts)}


def loader(num_micro_batches, **options) -> StepLoader:
    options = {"batch_size": 2, "collate_fn": gather} | options
    return StepLoader(COUNTS, count_micro_batches=num_micro_batches, **options)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [3, 34, 506, 87, 19]),
        (2, [37, 37, 593, 593, 19]),
        (3, [543, 543, 543, 106, 106]),
        (5, [649] * 5),
        (8, [649] * 5),
    ],
)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_micro_batch_knows_its_step(size, expected, num_workers):
    batches = list(loader(lambda: size, num_workers=num_workers))
    assert [batch["num_supervised"] for batch in batches] == PER_BATCH
    assert [batch["num_step_supervised"] for batch in batches] == expected


def test_one_micro_batch_per_step_by_default():
    batches = list(StepLoader(COUNTS, batch_size=2, collate_fn=gather))
    assert [batch["num_step_supervised"] for batch in batches] == PER_BATCH


def test_number_of_micro_batches_is_asked_at_the_start_of_each_step():
    """As with a scheduler that changes the accumulation during a run."""
    sizes = iter([1, 3, 2, 2])
    batches = list(loader(lambda: next(sizes)))
    assert [batch["num_step_supervised"] for batch in batches] == [3, 627, 627, 627, 19]


def test_every_epoch_begins_with_a_new_step():
    batches = loader(lambda: 2)
    first = [batch["num_step_supervised"] for batch in batches]
    assert [batch["num_step_supervised"] for batch in batches] == first == [37, 37, 593, 593, 19]


def test_no_more_is_read_than_the_step_needs():
    read = []

    def gather_and_note(counts: list[int]) -> dict[str, int]:
        read.append(len(read))
        return gather(counts)

    batches = iter(loader(lambda: 2, collate_fn=gather_and_note))
    seen = []
    for _ in range(5):
        next(batches)
        seen.append(len(read))
    assert seen == [2, 2, 4, 4, 5]
    assert next(batches, None) is None


def test_length_is_the_number_of_micro_batches():
    assert len(loader(lambda: 3)) == 5
    assert len(loader(lambda: 3, drop_last=True, batch_size=3)) == 3
