"""Guards: a token counted that should not be, one left out, logits made for rows that nobody asks for, or a NaN."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llava_pl.models.loss import supervised_loss
from llava_pl.planning.memory_tape import MemoryTape
from llava_pl.types import IGNORE_INDEX, LossOutput

X = IGNORE_INDEX
LABELS = torch.tensor([[X, X, 3, 4, X, 2], [X, 1, X, X, X, X], [X, X, X, X, X, X], [5, 5, X, X, 0, 0]])
"""Supervised are 3, 4, 2 / 1 / none / 5 (the first has no predecessor), 0, 0: seven tokens."""


@pytest.fixture
def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 6)


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()


def test_equals_cross_entropy_over_all_rows(head, hidden):
    output = supervised_loss(hidden, LABELS, head)
    shifted = head(hidden)[:, :-1].reshape(-1, 6)
    total = F.cross_entropy(shifted, LABELS[:, 1:].reshape(-1), ignore_index=X, reduction="sum")
    mean = F.cross_entropy(shifted, LABELS[:, 1:].reshape(-1), ignore_index=X)
    # Seven numbers of order 1 added in another order: a few float32 roundings of 1e-7. One more or one less token is 1.
    torch.testing.assert_close(output.total, total, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.mean, mean, atol=1e-6, rtol=0)
    assert output.num_supervised.item() == 7
    assert output.num_supervised.dtype == torch.int64


def test_gradients_equal_those_over_all_rows(head, hidden):
    parameters = [hidden, *head.parameters()]
    ours = torch.autograd.grad(supervised_loss(hidden, LABELS, head).total, parameters)
    logits = head(hidden)[:, :-1].reshape(-1, 6)
    theirs = torch.autograd.grad(F.cross_entropy(logits, LABELS[:, 1:].reshape(-1), reduction="sum"), parameters)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-5)


def test_head_sees_exactly_the_rows_before_supervised_tokens(head, hidden):
    seen = []
    supervised_loss(hidden, LABELS, lambda rows: seen.append(rows) or head(rows))
    before = [(0, 1), (0, 2), (0, 4), (1, 0), (3, 0), (3, 3), (3, 4)]
    assert len(seen) == 1
    assert torch.equal(seen[0], torch.stack([hidden[row, position] for row, position in before]))


def test_first_position_is_never_counted(head, hidden):
    labels = torch.full((4, 6), X)
    labels[:, 0] = 3
    output = supervised_loss(hidden, labels, head)
    assert (output.total.item(), output.num_supervised.item()) == (0.0, 0)


def test_nothing_supervised_is_a_zero_with_zero_gradients(head, hidden):
    output = supervised_loss(hidden, torch.full((4, 6), X), head)
    assert (output.total.item(), output.mean.item(), output.num_supervised.item()) == (0.0, 0.0, 0)
    output.mean.backward()
    for tensor in (hidden, *head.parameters()):
        assert torch.equal(tensor.grad, torch.zeros_like(tensor))


def test_known_value():
    """Two classes with logits 0 and log 3: the second has probability 3/4."""
    hidden = torch.tensor([[[0.0, torch.tensor(3.0).log()], [0.0, 0.0]]])
    assert supervised_loss(hidden, torch.tensor([[X, 1]]), nn.Identity()).total.item() == pytest.approx(0.2876821)
    assert supervised_loss(hidden, torch.tensor([[X, 0]]), nn.Identity()).total.item() == pytest.approx(1.3862944)


def test_half_precision_logits_are_compared_in_float32(hidden):
    """The loss of bfloat16 logits 0 and 7.94 is 3.6e-4; a bfloat16 softmax would round it."""
    logits = torch.tensor([[[0.0, 7.9375], [0.0, 0.0]]], dtype=torch.bfloat16)
    total = supervised_loss(logits, torch.tensor([[X, 1]]), nn.Identity()).total
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(3.5704e-4, rel=1e-3)


def test_sums_add_up_over_rows(head, hidden):
    whole = supervised_loss(hidden, LABELS, head)
    parts = [supervised_loss(hidden[row : row + 1], LABELS[row : row + 1], head) for row in range(4)]
    assert [part.num_supervised.item() for part in parts] == [3, 1, 0, 3]
    torch.testing.assert_close(sum(part.total for part in parts), whole.total, atol=1e-5, rtol=0)


def test_a_count_that_is_given_is_checked(head, hidden):
    whole = supervised_loss(hidden, LABELS, head)
    assert torch.equal(supervised_loss(hidden, LABELS, head, num_supervised=7).total, whole.total)
    with pytest.raises(ValueError, match=r"^loss: 7 supervised tokens in labels; expected 8$"):
        supervised_loss(hidden, LABELS, head, num_supervised=8)


@pytest.mark.parametrize(("max_rows", "sizes"), [(7, [7]), (6, [4, 3]), (3, [3, 2, 2]), (1, [1] * 7)])
def test_chunks_equal_all_rows_at_once(head, hidden, max_rows, sizes):
    """Seven numbers of order 1 added in another order: a few roundings of 1e-7. A row left out or taken twice is 1."""
    seen = []

    def watched(rows):
        seen.append(len(rows))
        return head(rows)

    parameters = [hidden, *head.parameters()]
    plain, chunked = supervised_loss(hidden, LABELS, head), supervised_loss(hidden, LABELS, watched, max_rows=max_rows)
    assert seen == sizes
    assert chunked.num_supervised.item() == 7
    torch.testing.assert_close(chunked.total, plain.total, atol=0, rtol=1e-6)
    expected = torch.autograd.grad(plain.mean, parameters)
    for mine, theirs in zip(torch.autograd.grad(chunked.mean, parameters), expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_chunks_keep_the_logits_of_none():
    """Of 64 rows of 1,000 logits in four chunks, at most a chunk is alive: its logits, their softmax and gradients."""
    head = nn.Linear(4, 1000)
    hidden, labels = torch.randn(1, 65, 4, requires_grad=True), torch.ones(1, 65, dtype=torch.int64)
    peaks = []
    for max_rows in (None, 16):
        tape = MemoryTape(list(head.parameters()), [hidden, labels])
        with tape:
            supervised_loss(hidden, labels, head, max_rows=max_rows).total.backward()
        tape.close()
        peaks.append(max(moment.others for moment in tape.moments))
    # The gradients of the head, 20,000 bytes, are in both; logits of all rows are 256,000.
    assert (peaks[1] - 40_000) * 3.5 < peaks[0] - 40_000


def test_mean_of_a_loss_output():
    assert LossOutput(torch.tensor(6.0), torch.tensor(4)).mean.item() == 1.5
