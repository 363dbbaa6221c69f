"""The ledger of a run: which samples each optimizer step learned from, and the proof that none was skipped or repeated.

In: ``ledger/rank-R.bin`` of each rank, and ``ledger/plan.json``. Out: a report for each epoch.

A file is a row of int32: for each step its number, its epoch, how many samples follow, and their places in the dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
class EpochReport:
    """What the ledger says about an epoch.

    Args:
        epoch: From 0.
        first_step: Its first step in the ledger.
        last_step: Its last step.
        num_seen: Different samples seen.
        num_missing: Samples not seen; not wrong in an epoch that was cut short or goes on.
        num_padding: Repeats that fill up the last step of a distributed epoch, so that every rank has as many.
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


def cut_ledger(path: Path, num_steps: int) -> None:
    """Drop the steps from number ``num_steps`` on: the run that is resumed will take them again."""
    if path.exists():
        num_bytes = sum(4 * (HEAD + len(entry.indices)) for entry in read_ledger(path) if entry.step < num_steps)
        with path.open("r+b") as file:
            file.truncate(num_bytes)


def verify_ledger(run_dir: str | Path) -> list[EpochReport]:
    """Return a report for each epoch that a run has a ledger of.

    Raises:
        InputError: There is no ledger, ranks disagree, or steps are missing between others.
    """
    plan_path = Path(run_dir) / "ledger" / "plan.json"
    if not plan_path.exists():
        raise InputError(f"ledger: {run_dir}: no ledger/plan.json; give the folder of a run")
    plan = json.loads(plan_path.read_text())
    ranks = []
    for rank in range(plan["world_size"]):
        path = ledger_path(run_dir, rank)
        if not path.exists():
            raise InputError(f"ledger: {path}: no such file; the run had {plan['world_size']} ranks, copy them all")
        ranks.append(list(read_ledger(path)))
        _check_steps(path, ranks[-1])
    if len({tuple((entry.step, entry.epoch) for entry in entries) for entries in ranks}) > 1:
        raise InputError(f"ledger: {run_dir}: the ranks took different steps; was one of them killed alone?")
    epochs = sorted({entry.epoch for entry in ranks[0]})
    return [_report(epoch, ranks, plan) for epoch in epochs]


def _check_steps(path: Path, entries: list[Entry]) -> None:
    for before, after in pairwise(entries):
        if after.step != before.step + 1:
            raise InputError(f"ledger: {path}: step {after.step} follows step {before.step}; expected the next one")


def _report(epoch: int, ranks: list[list[Entry]], plan: dict[str, int]) -> EpochReport:
    entries = [entry for rank in ranks for entry in rank if entry.epoch == epoch]
    counts = np.bincount(np.concatenate([entry.indices for entry in entries]), minlength=plan["num_samples"])
    num_drawn, num_seen = int(counts.sum()), int((counts > 0).sum())
    # Every rank takes as many samples, so the order is filled up from its beginning.
    num_expected = -(-plan["num_samples"] // plan["world_size"]) * plan["world_size"]
    is_whole = num_drawn >= num_expected
    is_followed = any(entry.epoch > epoch for entry in ranks[0])
    num_padding = num_expected - plan["num_samples"] if is_whole else 0
    return EpochReport(
        epoch=epoch,
        first_step=entries[0].step,
        last_step=entries[-1].step,
        num_seen=num_seen,
        num_missing=plan["num_samples"] - num_seen,
        num_padding=min(num_padding, num_drawn - num_seen),
        num_repeated=max(0, num_drawn - num_seen - num_padding),
        is_whole=is_whole or (is_followed and not plan["is_cut_short"]),
    )
