"""The ledger of a run: which samples each optimizer step learned from, and the proof that none was skipped or repeated.

In: ``ledger/rank-R.bin`` of each rank, and ``ledger/plan.json``. Out: a report for each epoch.

A file is a row of int32: for each step its number, its epoch, how many samples follow, and their places in the dataset.
The plan says how many samples there are, and in its segments how many ranks took the steps: a run may go on with more
or fewer of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llava_pl.types import InputError

HEAD = 3
"""Numbers before the samples of a step: step, epoch, count."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One optimizer step of one rank.

    Args:
        step: Its number, from 0 as in ``metrics.csv``.
        epoch: Its epoch, from 0.
        indices: Places of its samples in the dataset.
    """

    step: int
    epoch: int
    indices: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps that the same number of ranks took, up to the next segment.

    Args:
        first_step: The first of them.
        world_size: How many ranks.
    """

    first_step: int
    world_size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What the files of the ranks are measured by.

    Args:
        num_samples: Samples of the dataset.
        is_cut_short: Whether epochs are meant to end before all samples are seen.
        segments: All that the run has, in order.
    """

    num_samples: int
    is_cut_short: bool
    segments: tuple[Segment, ...]

    @classmethod
    def read(cls, run_dir: str | Path) -> Plan | None:
        """Return the plan of a run, or None if it has no ledger.

        Raises:
            InputError: The file is damaged.
        """
        path = _plan_path(run_dir)
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
            return cls(**{**content, "segments": tuple(Segment(**segment) for segment in content["segments"])})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"ledger: {path}: damaged, expected what a run wrote there; move the folder {path.parent} away to go "
                "on without the proof of the steps before"
            ) from error

    def write(self, run_dir: str | Path) -> None:
        """Write the plan of a run, whole or not at all."""
        path = _plan_path(run_dir)
        path.with_suffix(".tmp").write_text(json.dumps(asdict(self)))
        path.with_suffix(".tmp").replace(path)

    def world_size(self, step: int) -> int:
        """Return how many ranks took a step."""
        return next((segment.world_size for segment in reversed(self.segments) if segment.first_step <= step), 0)


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What the ledger says about an epoch.

    Args:
        epoch: From 0.
        first_step: Its first step in the ledger.
        last_step: Its last step.
        num_seen: Different samples seen.
        num_missing: Samples not seen; not wrong in an epoch that was cut short or goes on.
        num_padding: Repeats that fill up the last step of a distributed epoch, so that each of the ranks that took it
            has as many.
        num_repeated: Other repeats.
        is_whole: The epoch was gone through from beginning to end.
    """

    epoch: int
    first_step: int
    last_step: int
    num_seen: int
    num_missing: int
    num_padding: int
    num_repeated: int
    is_whole: bool

    @property
    def is_good(self) -> bool:
        """Whether each sample was seen exactly once, or in an epoch that is not whole at most once."""
        return self.num_repeated == 0 and (self.num_missing == 0 or not self.is_whole)


def ledger_path(run_dir: str | Path, rank: int) -> Path:
    """Return the ledger of a rank."""
    return Path(run_dir) / "ledger" / f"rank-{rank}.bin"


def _plan_path(run_dir: str | Path) -> Path:
    return Path(run_dir) / "ledger" / "plan.json"


def encode_entry(step: int, epoch: int, indices: Sequence[int]) -> bytes:
    """Return the bytes of a step.

    >>> len(encode_entry(0, 0, [7, 8]))
    20
    """
    return np.array([step, epoch, len(indices), *indices], dtype="<i4").tobytes()


def read_ledger(path: Path) -> Iterator[Entry]:
    """Yield the steps of a file; an entry that a kill has torn ends it."""
    numbers = np.fromfile(path, dtype="<i4")
    at = 0
    while at + HEAD <= len(numbers) and (end := at + HEAD + int(numbers[at + 2])) <= len(numbers):
        yield Entry(int(numbers[at]), int(numbers[at + 1]), numbers[at + HEAD : end])
        at = end


def cut_ledger(run_dir: str | Path, num_steps: int, *, rank: int, world_size: int) -> None:
    """Drop the steps from number ``num_steps`` on: the run that is resumed will take them again.

    A rank cuts its own file, and its share of those whose ranks are no more; never one that another rank writes to.
    """
    for path in ledger_path(run_dir, rank).parent.glob("rank-*.bin"):
        if int(path.stem.removeprefix("rank-")) % world_size != rank:
            continue
        num_bytes = sum(4 * (HEAD + len(entry.indices)) for entry in read_ledger(path) if entry.step < num_steps)
        with path.open("r+b") as file:
            file.truncate(num_bytes)


def add_segment(segments: Sequence[Segment], num_steps: int, world_size: int) -> tuple[Segment, ...]:
    """Return the segments of a run that goes on after so many steps with so many ranks.

    >>> add_segment([Segment(0, 2), Segment(7, 1)], 5, 4)
    (Segment(first_step=0, world_size=2), Segment(first_step=5, world_size=4))
    >>> add_segment([Segment(0, 2), Segment(7, 1)], 5, 2)
    (Segment(first_step=0, world_size=2),)
    """
    kept = [segment for segment in segments if segment.first_step < num_steps]
    if not kept or kept[-1].world_size != world_size:
        kept.append(Segment(num_steps, world_size))
    return tuple(kept)


def verify_ledger(run_dir: str | Path) -> list[EpochReport]:
    """Return a report for each epoch that a run has a ledger of.

    Raises:
        InputError: There is no ledger, ranks disagree, or steps are missing between others.
    """
    plan = Plan.read(run_dir)
    if plan is None:
        raise InputError(f"ledger: {run_dir}: no ledger/plan.json; give the folder of a run")
    ranks: list[list[Entry]] = []
    for rank in range(num_ranks := max(segment.world_size for segment in plan.segments)):
        path = ledger_path(run_dir, rank)
        if not path.exists():
            raise InputError(f"ledger: {path}: no such file; the run had {num_ranks} ranks, copy them all")
        ranks.append([entry for entry in read_ledger(path) if rank < plan.world_size(entry.step)])
        expected = [(entry.step, entry.epoch) for entry in ranks[0] if rank < plan.world_size(entry.step)]
        if [(entry.step, entry.epoch) for entry in ranks[rank]] != expected:
            raise InputError(f"ledger: {run_dir}: the ranks took different steps; was one of them killed alone?")
    for before, after in pairwise(ranks[0]):
        if after.step != before.step + 1:
            raise InputError(f"ledger: {run_dir}: step {after.step} follows step {before.step}; expected the next one")
    entries = [entry for rank in ranks for entry in rank]
    return [_report(epoch, entries, plan) for epoch in sorted({entry.epoch for entry in entries})]


def _report(epoch: int, all_entries: list[Entry], plan: Plan) -> EpochReport:
    entries = [entry for entry in all_entries if entry.epoch == epoch]
    steps = [entry.step for entry in entries]
    counts = np.bincount(np.concatenate([entry.indices for entry in entries]), minlength=plan.num_samples)
    num_drawn, num_seen = int(counts.sum()), int((counts > 0).sum())
    # Each of the ranks that end an epoch takes as many samples, so the order is filled up from its beginning.
    world_size = plan.world_size(max(steps))
    num_expected = ceil(plan.num_samples / world_size) * world_size
    is_whole = num_drawn >= num_expected
    is_followed = any(entry.epoch > epoch for entry in all_entries)
    num_padding = num_expected - plan.num_samples if is_whole else 0
    return EpochReport(
        epoch=epoch,
        first_step=min(steps),
        last_step=max(steps),
        num_seen=num_seen,
        num_missing=plan.num_samples - num_seen,
        num_padding=min(num_padding, num_drawn - num_seen),
        num_repeated=max(0, num_drawn - num_seen - num_padding),
        is_whole=is_whole or (is_followed and not plan.is_cut_short),
    )
