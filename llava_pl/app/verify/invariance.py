"""Runs to what differs between them: samples, losses and gradient norms of each step, weights, validation, answers.

In: the folders that runs left. Out: a `Comparison` of each with the first one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isnan, sqrt
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from llava_pl.app.verify.invariance_splits import Split
from llava_pl.evaluation.answers import read_answers
from llava_pl.export.checkpoint_file import read_checkpoint_file
from llava_pl.ledger_file import ledger_path, read_ledger
from llava_pl.types import InputError

Quantity = Literal["order", "loss", "gradient norm", "weights", "validation", "answers"]
QUANTITIES: tuple[Quantity, ...] = ("order", "loss", "gradient norm", "weights", "validation", "answers")
IS_EQUAL_OR_NOT: tuple[Quantity, ...] = ("order", "answers")

METRICS: dict[str, Quantity] = {"train/loss": "loss", "train/grad_norm": "gradient norm"}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a run left behind.

    Args:
        samples: Of each step over all ranks, sorted: places in the data.
        metrics: Of each step: loss and gradient norm by their names in the log.
        validation: Losses and scores by their names in the log.
        answers: Texts by file and question.
        checkpoint: The weights after the last step.
    """

    samples: list[list[int]]
    metrics: list[dict[str, float]]
    validation: dict[str, float]
    answers: dict[tuple[str, str], str]
    checkpoint: Path


@dataclass(frozen=True, slots=True)
class Finding:
    """A quantity in two runs.

    Args:
        quantity: What is compared.
        place: Where: a step, or a name.
        difference: Relative to the larger one; infinite where things are equal or not, and are not.
        values: Both, in words.
    """

    quantity: Quantity
    place: str
    difference: float
    values: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run beside the one process.

    Args:
        split: How it divided its steps.
        findings: In the order in which a run comes by them.
    """

    split: Split
    findings: tuple[Finding, ...]

    def largest(self, quantity: Quantity) -> Finding | None:
        """Return the largest difference of a quantity, None where neither run has it."""
        return max((f for f in self.findings if f.quantity == quantity), key=lambda f: f.difference, default=None)

    def first_beyond(self, tolerance: float) -> Finding | None:
        """Return what differs first by more than a tolerance."""
        return next((finding for finding in self.findings if finding.difference > tolerance), None)


def read_run(run_dir: Path, num_ranks: int) -> Recorded:
    """Return what a run left behind.

    Raises:
        InputError: Something is missing or damaged.
    """
    entries = [entry for rank in range(num_ranks) for entry in read_ledger(ledger_path(run_dir, rank))]
    numbers = sorted({entry.step for entry in entries})
    samples = [sorted(int(i) for entry in entries if entry.step == step for i in entry.indices) for step in numbers]
    with (run_dir / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    validation = {name: value for row in rows for name, value in row.items() if name.startswith("val/")}
    answers = {
        (path.name, row["question_id"]): row["text"]
        for path in sorted((run_dir / "predictions").glob("*.jsonl"))
        for row in read_answers(path)
    }
    metrics = [{name: row[name] for name in METRICS if name in row} for row in rows if "train/loss" in row]
    if len(samples) != len(metrics) or not samples:
        counts = f"{len(samples)} and {len(metrics)}"
        raise InputError(f"verify: {run_dir}: expected as many steps in ledger as in metrics.csv, found {counts}")
    return Recorded(samples, metrics, validation, answers, run_dir / "checkpoints" / "last.ckpt")


def compare(split: Split, reference: Recorded, other: Recorded) -> Comparison:
    """Return what differs between one process and a run under a split."""
    return Comparison(split, tuple(_find(reference, other)))


def _find(reference: Recorded, other: Recorded) -> Iterator[Finding]:
    if len(reference.samples) != len(other.samples):
        steps = f"{len(reference.samples)} and {len(other.samples)} steps"
        yield Finding("order", "all steps", inf, steps)
        return
    seen: set[int] = set()
    for step, samples in enumerate(other.samples):
        again = [*(seen & set(samples)), *(one for one, next_one in pairwise(samples) if one == next_one)]
        seen |= set(samples)
        yield _compare_samples(step, reference.samples[step], samples, again)
        for name, quantity in METRICS.items():
            pair = [run.metrics[step].get(name) for run in (reference, other)]
            if pair != [None, None]:
                yield _compare_numbers(quantity, f"step {step}", *pair)
    yield _compare_weights(reference.checkpoint, other.checkpoint)
    for name in sorted(reference.validation.keys() | other.validation.keys()):
        yield _compare_numbers("validation", name, reference.validation.get(name), other.validation.get(name))
    if names := reference.answers.keys() | other.answers.keys():
        yield _compare_answers(reference, other, sorted(names))


def _compare_samples(step: int, expected: list[int], found: list[int], again: list[int]) -> Finding:
    if again:
        return Finding("order", f"step {step}", inf, f"sample {again[0]} is seen again")
    if found == expected:
        return Finding("order", f"step {step}", 0.0, f"the same {len(found)} samples")
    missing, new = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    return Finding("order", f"step {step}", inf, f"samples {missing[:8]} on one rank, {new[:8]} in their place here")


def _compare_numbers(quantity: Quantity, place: str, expected: float | None, found: float | None) -> Finding:
    values = f"{_shown(expected)} on one rank, {_shown(found)} here"
    return Finding(quantity, place, relative_difference(expected, found), values)


def _shown(number: float | None) -> str:
    return "none" if number is None else f"{number:.9g}"


def relative_difference(a: float | None, b: float | None) -> float:
    """Return the difference of two numbers relative to the larger one; infinite where only one is a number.

    >>> relative_difference(4.0, 5.0), relative_difference(0.0, 0.0), relative_difference(None, 1.0)
    (0.2, 0.0, inf)
    """
    if a is None or b is None or isnan(a) != isnan(b):
        return inf
    if a == b or isnan(a):
        return 0.0
    return abs(a - b) / max(abs(a), abs(b))


def _compare_weights(reference: Path, other: Path) -> Finding:
    """Compare what learned, all of it as one vector.

    A single tensor may have a gradient of nothing but rounding (the bias of keys has), which Adam makes steps of.
    """
    expected, found = _read_learned(reference), _read_learned(other)
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (expected, found)]
    if shapes[0] != shapes[1]:
        names = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())
        return Finding(
            "weights", names[0], inf, f"{len(names)} tensors are not in both checkpoints, or of other shapes"
        )
    errors = {name: float((found[name].double() - tensor.double()).norm()) for name, tensor in expected.items()}
    norm = sqrt(sum(float(tensor.double().norm()) ** 2 for tensor in expected.values()))
    error = sqrt(sum(value**2 for value in errors.values()))
    difference = inf if isnan(error) else error / norm if norm else 0.0
    values = f"norm of the difference {error:.3g}, of the weights {norm:.3g}"
    return Finding("weights", max(errors, key=errors.__getitem__, default="none"), difference, values)


def _read_learned(path: Path) -> dict[str, Tensor]:
    """Return the tensors that learned; a checkpoint also holds frozen ones that no base model has."""
    content: dict[str, Any] = read_checkpoint_file(path)
    learned, state = set(content.get("carried", {}).get("learned", ())), content["state_dict"]
    own = {name: tensor for name, tensor in state.items() if name.removeprefix("model.") in learned}
    return own or dict(state)


def _compare_answers(reference: Recorded, other: Recorded, names: list[tuple[str, str]]) -> Finding:
    differ = [name for name in names if reference.answers.get(name) != other.answers.get(name)]
    if not differ:
        return Finding("answers", "all", 0.0, f"{len(names)} equal")
    file, question = differ[0]
    texts = [repr(run.answers.get(differ[0])) for run in (reference, other)]
    place = f"{file} question {question}"
    return Finding(
        "answers", place, inf, f"{len(differ)} of {len(names)} differ: {texts[0]} on one rank, {texts[1]} here"
    )
