"""Guards the proof that every sample was seen once: it must not call a wrong run good, nor a good one wrong."""

import numpy as np
import pytest

from llava_pl.ledger_file import (
    Plan,
    Segment,
    add_segment,
    cut_ledger,
    encode_entry,
    ledger_path,
    read_ledger,
    verify_ledger,
)
from llava_pl.types import InputError


def write(run, ranks, num_samples=5, *, is_cut_short=False, segments=()):
    """Write a ledger: for each rank a list of (step, epoch, indices); segments as (first step, ranks)."""
    for rank, entries in enumerate(ranks):
        path = ledger_path(run, rank)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"".join(encode_entry(*entry) for entry in entries))
    segments = tuple(Segment(*segment) for segment in segments or [(0, len(ranks))])
    Plan(num_samples, is_cut_short, segments).write(run)
    return verify_ledger(run)


def numbers(report):
    return report.num_seen, report.num_missing, report.num_padding, report.num_repeated


WHOLE = [(0, 0, [4, 2]), (1, 0, [0, 1]), (2, 0, [3])]


def test_two_whole_epochs(tmp_path):
    reports = write(tmp_path, [[*WHOLE, (3, 1, [0, 1]), (4, 1, [2, 3]), (5, 1, [4])]])
    assert [(r.epoch, r.first_step, r.last_step) for r in reports] == [(0, 0, 2), (1, 3, 5)]
    assert all(numbers(report) == (5, 0, 0, 0) and report.is_whole and report.is_good for report in reports)


def test_an_epoch_that_goes_on_is_good_so_far(tmp_path):
    (report,) = write(tmp_path, [WHOLE[:2]])
    assert numbers(report) == (4, 1, 0, 0)
    assert report.is_good
    assert not report.is_whole


def test_a_repeat_is_wrong(tmp_path):
    (report,) = write(tmp_path, [[(0, 0, [4, 2]), (1, 0, [2, 1])]])
    assert (numbers(report), report.is_good) == ((3, 2, 0, 1), False)


def test_a_skipped_sample_is_wrong_once_the_next_epoch_begins(tmp_path):
    entries = [*WHOLE[:2], (2, 1, [0, 1])]
    assert [report.is_good for report in write(tmp_path, [entries])] == [False, True]
    assert [report.is_good for report in write(tmp_path, [entries], is_cut_short=True)] == [True, True]


def test_padding_of_a_distributed_epoch_is_told_apart(tmp_path):
    # Five samples on two ranks: the order 4 2 0 1 3 is filled up with its beginning.
    (report,) = write(tmp_path, [[(0, 0, [4, 0]), (1, 0, [3])], [(0, 0, [2, 1]), (1, 0, [4])]])
    assert (numbers(report), report.is_good) == ((5, 0, 1, 0), True)
    (report,) = write(tmp_path, [[(0, 0, [4, 0]), (1, 0, [3])], [(0, 0, [2, 0]), (1, 0, [4])]])
    assert (numbers(report), report.is_good) == ((4, 1, 1, 1), False)


def test_cut_and_go_on(tmp_path):
    write(tmp_path, [WHOLE])
    cut_ledger(tmp_path, 1, rank=0, world_size=1)
    with ledger_path(tmp_path, 0).open("ab") as file:
        file.write(encode_entry(1, 0, [3, 0]))
    entries = read_ledger(ledger_path(tmp_path, 0))
    assert [(entry.step, list(entry.indices)) for entry in entries] == [(0, [4, 2]), (1, [3, 0])]


def test_every_file_is_cut_by_one_rank(tmp_path):
    """Five ranks become two: the first cuts the files 0, 2 and 4, the second 1 and 3."""
    write(tmp_path, [[(0, 0, [rank]), (1, 1, [rank])] for rank in range(5)])
    for rank, cut in ((0, [1, 2, 1, 2, 1]), (1, [1, 1, 1, 1, 1])):
        cut_ledger(tmp_path, 1, rank=rank, world_size=2)
        assert [len(list(read_ledger(ledger_path(tmp_path, rank)))) for rank in range(5)] == cut
    cut_ledger(tmp_path, 1, rank=9, world_size=10)  # a rank that is new


@pytest.mark.parametrize(
    ("num_steps", "world_size", "expected"),
    [
        (9, 1, [(0, 2), (4, 1)]),
        (9, 3, [(0, 2), (4, 1), (9, 3)]),
        (4, 1, [(0, 2), (4, 1)]),
        (4, 2, [(0, 2)]),
        (2, 3, [(0, 2), (2, 3)]),
        (0, 1, [(0, 1)]),
    ],
)
def test_segments_of_a_run_that_goes_on(num_steps, world_size, expected):
    segments = add_segment((Segment(0, 2), Segment(4, 1)), num_steps, world_size)
    assert segments == tuple(Segment(*segment) for segment in expected)


def test_an_epoch_begun_by_two_ranks_and_ended_by_one_has_no_padding(tmp_path):
    """And the next one, ended by two again, has it."""
    first = [(0, 0, [4]), (1, 0, [0, 1]), (2, 0, [3]), (3, 1, [0, 1]), (4, 1, [2]), (5, 1, [4])]
    second = [(0, 0, [2]), (4, 1, [3]), (5, 1, [0])]
    segments = [(0, 2), (1, 1), (4, 2)]
    reports = write(tmp_path, [first, second], segments=segments)
    assert [numbers(report) for report in reports] == [(5, 0, 0, 0), (5, 0, 1, 0)]
    assert all(report.is_whole and report.is_good for report in reports)
    # What a rank left behind that was no more, and whose file nobody could cut, does not count.
    reports = write(tmp_path, [first, [second[0], (1, 0, [3]), *second[1:]]], segments=segments)
    assert [numbers(report) for report in reports] == [(5, 0, 0, 0), (5, 0, 1, 0)]


def test_a_sample_lost_or_repeated_between_segments_is_wrong(tmp_path):
    segments = [(0, 2), (1, 1)]
    for middle, expected in (([0, 1], (5, 0, 0, 0)), ([0], (4, 1, 0, 0)), ([0, 1, 2], (5, 0, 0, 1))):
        first = [(0, 0, [4]), (1, 0, middle), (2, 0, [3]), (3, 1, [0])]
        report, _ = write(tmp_path, [first, [(0, 0, [2])]], segments=segments)
        assert (numbers(report), report.is_good) == (expected, middle == [0, 1])
    with pytest.raises(InputError, match="the ranks took different steps"):
        write(tmp_path, [[(0, 0, [4]), (1, 0, [0])], []], segments=segments)


def test_a_torn_entry_ends_the_file(tmp_path):
    write(tmp_path, [WHOLE])
    path = ledger_path(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-2])
    assert [entry.step for entry in read_ledger(path)] == [0, 1]
    cut_ledger(tmp_path, 9, rank=0, world_size=1)
    assert path.stat().st_size % 4 == 0


def test_indices_are_plain_numbers(tmp_path):
    write(tmp_path, [WHOLE])
    assert next(iter(read_ledger(ledger_path(tmp_path, 0)))).indices.dtype == np.int32


def test_what_cannot_be_proven(tmp_path):
    with pytest.raises(InputError, match=r"no ledger/plan.json; give the folder of a run"):
        verify_ledger(tmp_path)
    with pytest.raises(InputError, match="step 2 follows step 0; expected the next one"):
        write(tmp_path, [[WHOLE[0], WHOLE[2]]])
    with pytest.raises(InputError, match="the ranks took different steps"):
        write(tmp_path, [WHOLE, WHOLE[:2]])
    ledger_path(tmp_path, 1).unlink()
    with pytest.raises(InputError, match=r"rank-1.bin: no such file; the run had 2 ranks"):
        verify_ledger(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"num_samples": 3}'])
def test_damaged_plan_is_one_line(tmp_path, content):
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "plan.json").write_text(content)
    with pytest.raises(InputError, match=r"plan\.json: damaged, expected what a run wrote there; move the folder "):
        verify_ledger(tmp_path)
