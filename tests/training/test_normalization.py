"""Guards: a token weighs more on one rank, or in one micro batch, than in another, which no log would show."""

import pytest
import torch

from llava_pl.training.normalization import normalize_loss, sum_over_ranks
from llava_pl.types import InputError, LossOutput


def output(total: float, num_supervised: int) -> LossOutput:
    return LossOutput(torch.tensor(total, requires_grad=True), torch.tensor(num_supervised))


def normalize(loss, batch, normalization="global", num_micro_batches=1, world_size=1, others=0):
    """``others`` are the supervised tokens of the other ranks."""
    return normalize_loss(
        loss,
        batch,
        normalization=normalization,
        num_micro_batches=num_micro_batches,
        world_size=world_size,
        sum_over_ranks=lambda number: torch.tensor(number + others),
    )


def test_one_micro_batch_on_one_rank_is_the_mean():
    assert normalize(output(6.0, 4), {"num_supervised": 4}).item() == 1.5


def test_formula_by_hand():
    # S * A * R / n = 6 * 4 * 2 / (10 + 14)
    loss = normalize(output(6.0, 3), {"num_step_supervised": 10}, num_micro_batches=4, world_size=2, others=14)
    assert loss.item() == 2.0


def test_step_of_two_ranks_and_two_micro_batches_weighs_every_token_alike():
    """[rank][micro batch] of (loss sum, tokens); Lightning divides by A = 2, the gradient mean over ranks by R = 2."""
    step = [[(6.0, 3), (1.0, 1)], [(20.0, 10), (5.0, 2)]]
    tokens = [sum(num for _, num in rank) for rank in step]
    per_rank = [
        sum(
            normalize(
                output(total, num),
                {"num_supervised": num, "num_step_supervised": tokens[number]},
                num_micro_batches=2,
                world_size=2,
                others=tokens[1 - number],
            ).item()
            / 2
            for total, num in rank
        )
        for number, rank in enumerate(step)
    ]
    assert sum(per_rank) / 2 == 32.0 / 16
    means = [total / num for rank in step for total, num in rank]
    assert sum(means) / 4 != 32.0 / 16  # what the original's mean of means gives: the test tells them apart


def test_micro_batch_is_the_mean_of_its_own_tokens():
    loss = normalize(output(6.0, 4), {}, normalization="micro_batch", num_micro_batches=4, world_size=2, others=100)
    assert loss.item() == 1.5


def test_step_count_wins_over_the_batch_s_own():
    batch = {"num_supervised": 4, "num_step_supervised": 12}
    assert normalize(output(6.0, 4), batch).item() == 0.5


@pytest.mark.parametrize("normalization", ["global", "micro_batch"])
def test_nothing_supervised_is_a_zero_that_can_be_differentiated(normalization):
    empty = output(0.0, 0)
    loss = normalize(empty, {"num_step_supervised": 0}, normalization, num_micro_batches=2)
    assert loss.item() == 0.0
    loss.backward()
    assert torch.isfinite(empty.total.grad)


@pytest.mark.parametrize(
    ("normalization", "expected"), [("global", 4 * 2 / 24), ("micro_batch", 1 / 3)], ids=["global", "micro_batch"]
)
def test_gradient_of_the_sum(normalization, expected):
    loss = output(6.0, 3)
    batch = {"num_step_supervised": 10}
    normalize(loss, batch, normalization, num_micro_batches=4, world_size=2, others=14).backward()
    assert loss.total.grad.item() == pytest.approx(expected, rel=1e-6)


def test_accumulation_without_a_step_count_is_refused():
    with pytest.raises(InputError, match=r"'global' with accumulation needs batches with 'num_step_supervised'"):
        normalize(output(6.0, 4), {"num_supervised": 4}, num_micro_batches=2)
    batch = {"num_supervised": 4}
    assert normalize(output(6.0, 4), batch, normalization="micro_batch", num_micro_batches=2).item() == 1.5


def test_one_rank_sums_up_alone():
    assert sum_over_ranks(torch.tensor(3)).item() == 3
