"""Guards what is held back: a picture on both sides, a draw that changes when a file grows."""

from llava_pl.building.split import is_held_back
from llava_pl.types import Record


def test_a_picture_is_on_one_side():
    sides = {is_held_back(Record(str(n), (), ("a.png",)), 0.5) for n in range(100)}
    assert len(sides) == 1


def test_shares_and_seeds():
    records = [Record(str(n), (), (f"{n}.png",)) for n in range(10_000)]
    held = {share: {r.id for r in records if is_held_back(r, share)} for share in (0.02, 0.5, 0.9)}
    # Within four deviations.
    assert all(
        abs(len(ids) - share * 10_000) < 4 * (10_000 * share * (1 - share)) ** 0.5 for share, ids in held.items()
    )
    # A larger share holds all of a smaller one's back.
    assert held[0.02] < held[0.5] < held[0.9]
    assert held[0.5] != {record.id for record in records if is_held_back(record, 0.5, seed=1)}
