"""Guards what is held back: a picture on both sides, a draw that changes when a file grows."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llava_pl.building.split import PictureGroups, is_held_back

SHOWN = st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3), max_size=8)


def groups_of(records):
    groups = PictureGroups()
    for names in records:
        groups.join(names)
    return groups


@given(SHOWN)
def test_groups_are_what_records_join(records):
    expected = {name: {name} for name in "abcdefgh"}
    for names in records:
        together = set().union(*(expected[name] for name in names))
        expected |= dict.fromkeys(together, together)
    groups = groups_of(records)
    assert {name: groups.least(name) for name in expected} == {name: min(each) for name, each in expected.items()}


@given(SHOWN, SHOWN, st.integers(0, 9))
def test_what_grows_keeps_its_side_where_no_groups_join(records, new, seed):
    groups, grown = groups_of(records), groups_of(records + new)
    touched = {groups.least(name) for names in new if len(set(names)) > 1 for name in names}
    for name in "abcdefgh":
        if groups.least(name) not in touched:
            before, after = (is_held_back(each.least(name), 0.5, seed) for each in (groups, grown))
            assert before == after


def test_a_long_chain_is_one_group():
    names = [f"{n:06}" for n in range(50_000)]
    groups = groups_of(pairwise(names))
    assert groups.least(names[-1]) == names[0]
    groups = groups_of(pairwise(names[::-1]))
    assert {groups.least(name) for name in names} == {names[0]}


def test_one_file_by_several_names():
    assert groups_of([["./a.png", "b//c.png"]]).least("b/./c.png") == "a.png"


def test_shares_and_seeds():
    held = {share: {n for n in range(10_000) if is_held_back(f"{n}.png", share)} for share in (0.02, 0.5, 0.9)}
    # Within four deviations.
    assert all(
        abs(len(ids) - share * 10_000) < 4 * (10_000 * share * (1 - share)) ** 0.5 for share, ids in held.items()
    )
    # A larger share holds all of a smaller one's back.
    assert held[0.02] < held[0.5] < held[0.9]
    assert held[0.5] != {n for n in range(10_000) if is_held_back(f"{n}.png", 0.5, seed=1)}
    assert is_held_back("\ud800", 1.0)
