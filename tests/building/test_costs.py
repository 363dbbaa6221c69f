"""Guards what is spent: an estimate that is far off, a limit that is passed."""

from llava_pl.building.costs import Budget, Prices, estimate
from llava_pl.endpoint import Message, Reply

REQUESTS = [[Message(role="system", content="x" * 400), Message(role="user", content="x" * n)] for n in (0, 80)]


def test_an_estimate():
    assert estimate(REQUESTS, []) == (220, 700)
    assert estimate(REQUESTS, [Reply("", num_written=10)] * 9) == (220, 700)
    assert estimate(REQUESTS, [Reply("", num_written=n) for n in (10, 20)] * 5) == (220, 30)
    assert Prices(2.5, 10).cost(1_000_000, 100_000) == 3.5


def test_a_limit_counts_what_is_on_its_way():
    budget = Budget(1.0, Prices(0, 1), most=0.3)
    assert [budget.may_send() for _ in range(5)] == [True, True, True, False, False]
    budget.settle(Reply("", num_written=100_000))
    assert budget.spent == 0.1
    assert [budget.may_send() for _ in range(2)] == [True, False]
    assert not Budget(1.0, Prices(0, 1), most=0.3, spent=0.8).may_send()
    assert all(Budget(None, Prices(1, 1), most=9.0).may_send() for _ in range(100))
