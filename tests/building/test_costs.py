"""Guards what is spent: an estimate that is far off, a limit that is passed."""

from threading import Thread

import pytest

from llava_pl.building.costs import Budget, Prices, estimate
from llava_pl.endpoint import Failure, Message, Reply
from llava_pl.types import InputError

REQUESTS = [[Message(role="system", content="x" * 400), Message(role="user", content="x" * n)] for n in (0, 80)]


def test_an_estimate():
    assert estimate(REQUESTS, []) == (220, 700)
    assert estimate(REQUESTS, [Reply("", num_written=10)] * 9) == (220, 700)
    assert estimate(REQUESTS, [Reply("", num_written=n) for n in (10, 20)] * 5) == (220, 30)
    assert estimate(REQUESTS, [], 100) == (220, 200)
    assert estimate(REQUESTS, [], 1024) == (220, 700)
    assert Prices(2.5, 10).cost(1_000_000, 100_000) == 3.5


@pytest.mark.parametrize("price", [-3, float("nan"), float("inf")])
def test_what_is_no_price(price):
    with pytest.raises(InputError, match=r"--prices\.written: expected at least 0, found "):
        Prices(1, price)


def test_a_limit_counts_what_is_on_its_way():
    budget = Budget(1.0, Prices(0, 1), most=0.3)
    assert [budget.may_send() for _ in range(3)] == [True] * 3
    budget.settle(Reply("", num_written=100_000))
    assert budget.spent == 0.1
    assert budget.may_send()
    for _ in range(3):
        budget.settle(Reply("", num_written=250_000))
    assert not budget.may_send()
    assert not Budget(1.0, Prices(0, 1), most=0.3, spent=0.8).may_send()
    assert all(Budget(None, Prices(1, 1), most=9.0).may_send() for _ in range(100))


def test_it_waits_for_what_is_on_its_way_before_it_says_no():
    budget, said = Budget(1.0, Prices(0, 1), most=0.9), []
    assert budget.may_send()
    threads = [Thread(target=lambda: said.append(budget.may_send())) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert said == []
    budget.settle(Reply("", num_written=100_000))
    # One of the two was told yes; the other waits for it, and is told no.
    budget.settle(Reply("", num_written=100_000))
    for thread in threads:
        thread.join(10)
    assert sorted(said) == [False, True]


def test_what_failed_costs_nothing_unless_it_may():
    budget = Budget(1.0, Prices(0, 1), most=0.5)
    for outcome in (None, Failure("refused")):
        assert budget.may_send()
        budget.settle(outcome)
    assert budget.spent == 0
    assert budget.may_send()
    budget.settle(Failure("late", num_read=100, num_written=500_000))
    assert budget.spent == 0.5


def test_a_reply_that_costs_more_than_was_set_aside():
    budget = Budget(1.0, Prices(0, 1), most=0.1)
    assert budget.may_send()
    budget.settle(Reply("", num_written=600_000))
    assert not budget.may_send()
