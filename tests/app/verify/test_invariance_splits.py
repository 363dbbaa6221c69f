"""Guards: splits that do not hold the same samples, so that what `verify` compares could not be equal."""

from math import lcm

import pytest

from llava_pl.app.verify.invariance_splits import (
    Split,
    Validation,
    choose_ranks,
    count_steps,
    split_step,
    split_validation,
)
from llava_pl.data.eval_loader import make_eval_loader
from llava_pl.types import InputError


@pytest.mark.parametrize("ranks", [[1], [2], [2, 4], [3], [2, 3]])
@pytest.mark.parametrize("num_micro_batches", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 9, 16])
def test_steps_have_the_same_size(num_micro_batches, batch_size, ranks):
    first, *others = split_step(num_micro_batches, batch_size, ranks)
    assert (first.num_ranks, first.batch_size) == (1, batch_size)
    assert num_micro_batches <= first.num_micro_batches < num_micro_batches + lcm(*ranks)
    assert {split.step_size for split in others} <= {first.step_size}
    assert [split.num_ranks for split in others] == [num for num in ranks if num > 1] + [1] * (batch_size > 1)
    assert len({split.folder for split in (first, *others)}) == 1 + len(others)


def test_a_split_in_words():
    assert (str(Split(1, 4, 2)), str(Split(2, 2, 2)), Split(2, 2, 2).folder) == (
        "1 rank x 4 x 2",
        "2 ranks x 2 x 2",
        "2x2x2",
    )


@pytest.mark.parametrize(
    ("given", "num_gpus", "ranks"),
    [(None, 0, [2]), (None, 8, [8]), ([4, 2, 2], 0, [2, 4]), ([1], 1, [1]), ([2], 8, [2])],
)
def test_ranks(given, num_gpus, ranks):
    assert choose_ranks(given, num_gpus) == ranks


@pytest.mark.parametrize("given", [None, [1, 2]])
def test_more_ranks_than_gpus(given):
    expected = (
        "--ranks: expected at most the 1 GPU to use, found 2; --ranks 1 compares accumulation alone, "
        "--trainer.accelerator cpu takes processes on the CPU"
    )
    with pytest.raises(InputError) as error:
        choose_ranks(given, 1)
    assert str(error.value) == expected


def test_steps_are_whole_and_of_one_epoch():
    assert [count_steps(4, num_samples, 8) for num_samples in (16, 31, 32, 99)] == [2, 3, 4, 4]
    expected = (
        "data: 15 samples to train on, expected at least two steps of 8; choose a smaller data.batch_size or "
        "trainer.accumulate_grad_batches"
    )
    with pytest.raises(InputError) as error:
        count_steps(4, 15, 8)
    assert str(error.value) == expected


def seen(validation: Validation, num_samples: int, num_ranks: int) -> list[int]:
    """Return what all ranks together validate with."""
    limit, indices = validation.limit(num_ranks), set()
    for rank in range(num_ranks):
        loader = make_eval_loader(
            list(range(num_samples)),
            batch_size=validation.batch_size,
            num_replicas=num_ranks,
            rank=rank,
            collate_fn=list,
            num_workers=0,
        )
        own, size = list(loader.sampler), loader.batch_size
        num_batches = int(limit * len(loader)) if isinstance(limit, float) else limit
        indices |= {index for index in own[: size * num_batches] if index < num_samples}
    return sorted(indices)


@pytest.mark.parametrize("ranks", [[2], [2, 3], [4]])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("num_samples", range(4, 60, 5))
def test_validation_goes_through_the_same_samples(num_samples, batch_size, ranks):
    validation = split_validation(num_samples, batch_size, 12, ranks)
    assert min(12, num_samples) <= validation.num_samples <= num_samples
    for num_ranks in (1, *ranks):
        assert seen(validation, num_samples, num_ranks) == list(range(validation.num_samples))


def test_no_validation():
    assert [split_validation(*sizes, [2]).limit(1) for sizes in ((0, 4, 64), (50, 4, 0))] == [0, 0]
