"""What tells two runs apart: settings, versions, order of the data, answers, and whether their scores differ by more.

In: the folders of two runs. Out: a `Report`. Nothing but these folders is read: scored answers stand in answer files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

import yaml

from llava_pl.evaluation.answers import read_answers
from llava_pl.evaluation.intervals import compare
from llava_pl.evaluation.report import Report, ReportTable, shorten
from llava_pl.ledger_file import Plan, ledger_path, read_ledger
from llava_pl.types import InputError

NUM_SHOWN = 40
UNTOLD = ("run_dir", "ckpt_path")
"""Settings that say where a run is, not what it is."""


def compare_runs(first: Path, second: Path, others: Sequence[Path] = ()) -> Report:
    """Return what tells two runs apart.

    Args:
        first: Folder of a run.
        second: Folder of another one.
        others: Folders of runs that are as the first but for their seed: their scores tell how far seeds move them.

    Raises:
        InputError: A folder is none of a run, or a file in it is damaged.
    """
    for folder in (first, second, *others):
        if not (folder / "config.yaml").is_file():
            raise InputError(f"{folder}: no config.yaml; expected the folder of a run, runs/NAME/TIME")
    names = (str(first), str(second))
    settings = _differences(_flat(_read_config(first)), _flat(_read_config(second)))
    tables = [_table("Settings that differ", names, settings)]
    tables.append(_table("Versions that differ", names, _differences(_read_versions(first), _read_versions(second))))
    tables.append(
        ReportTable("Order of the data", ("", "found"), (("training samples", _compare_orders(first, second)),))
    )
    notes = []
    for name in sorted(_predictions(first).keys() & _predictions(second).keys()):
        tables += _compare_answers(name, first, second, others)
    if not _predictions(first).keys() & _predictions(second).keys():
        notes.append("the two runs have no answers to the same questions")
    if set(settings) == {"seed_everything"}:
        notes.append("the two runs differ in their seed alone: what differs below is its noise")
    return Report(f"{first} and {second}", tuple(notes), tuple(tables))


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{folder / 'config.yaml'}: cannot be read ({' '.join(str(error).split())})") from error
    return {key: value for key, value in (content or {}).items() if key not in UNTOLD}


def _read_versions(folder: Path) -> dict[str, str]:
    """Return the versions that a run was started with; none of a run that is older than that file."""
    path = folder / "environment.json"
    if not path.is_file():
        return {}
    return {name: str(value) for name, value in _flat(json.loads(path.read_text(encoding="utf-8"))).items()}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401  whatever YAML holds
    """Return the leaves of nested mappings, by their path."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix.removesuffix("."): tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}{key}.")
    return leaves


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    def show(values: Mapping[str, Any], key: str) -> str:
        return shorten(str(values[key])) if key in values else "-"

    keys = [key for key in dict.fromkeys([*first, *second]) if first.get(key, ...) != second.get(key, ...)]
    return {key: (show(first, key), show(second, key)) for key in keys}


def _table(title: str, names: tuple[str, str], found: Mapping[str, tuple[str, str]]) -> ReportTable:
    rows = tuple((key, *values) for key, values in found.items())
    return ReportTable(title if rows else f"{title}: none", ("", *names), rows)


def _compare_orders(first: Path, second: Path) -> str:
    """Return in words whether two runs have learned from the same samples in the same steps."""
    if Plan.read(first) is None or Plan.read(second) is None:
        return "not known: one of them has no ledger"
    digests, num_steps = [], []
    for folder in (first, second):
        steps = dict(_steps(folder))
        num_steps.append(len(steps))
        digests.append(steps)
    shared = sorted(digests[0].keys() & digests[1].keys())
    if (parted := next((step for step in shared if digests[0][step] != digests[1][step]), None)) is not None:
        return f"the same up to step {parted}, which learned from other samples"
    digest = hashlib.sha256("".join(digests[0][step] for step in shared).encode()).hexdigest()[:16]
    same = f"the same in all {len(shared):,} steps that both took (hash {digest})"
    return same if num_steps[0] == num_steps[1] else f"{same}; they took {num_steps[0]:,} and {num_steps[1]:,}"


def _steps(folder: Path) -> Iterator[tuple[int, str]]:
    """Yield each step with a hash of the samples that all its ranks learned from, whatever their number is."""
    plan = Plan.read(folder)
    assert plan is not None
    samples: dict[int, list[int]] = {}
    for rank in range(max(segment.world_size for segment in plan.segments)):
        path = ledger_path(folder, rank)
        if not path.exists():
            raise InputError(f"ledger: {path}: no such file; copy those of all ranks")
        for entry in read_ledger(path):
            if rank < plan.world_size(entry.step):
                samples.setdefault(entry.step, []).extend(entry.indices.tolist())
    for step, indices in samples.items():
        yield step, hashlib.sha256(json.dumps(sorted(indices)).encode()).hexdigest()


def _predictions(folder: Path) -> dict[str, Path]:
    """Return the answers of the last step to each set of questions, by its name without the step."""
    found: dict[str, tuple[int, Path]] = {}
    for path in (folder / "predictions").glob("*-step*.jsonl"):
        head, _, tail = path.stem.partition("-step")
        step, dash, ending = tail.partition("-")
        if step.isdigit():
            found[head + dash + ending] = max(found.get(head + dash + ending, (-1, path)), (int(step), path))
    return {name: path for name, (_, path) in found.items()}


def _compare_answers(name: str, first: Path, second: Path, others: Sequence[Path]) -> list[ReportTable]:
    # Of some tasks an identifier is that of a picture, about which there are several questions.
    rows = [
        {(row["question_id"], row.get("prompt", "")): row for row in read_answers(_predictions(folder)[name])}
        for folder in (first, second)
    ]
    ids = [question for question in rows[0] if question in rows[1]]
    changed = [question for question in ids if rows[0][question]["text"] != rows[1][question]["text"]]
    tables = []
    if ids and all("credit" in row[question] for row in rows for question in ids):
        found = compare([rows[0][q]["credit"] for q in ids], [rows[1][q]["credit"] for q in ids])
        low, high = (100 * bound for bound in found.interval)
        cells = [
            ("difference", f"{100 * found.difference:+.2f} ({low:+.2f} to {high:+.2f})"),
            ("only the first right", str(found.only_first)),
            ("only the second right", str(found.only_second)),
            ("p (McNemar)", f"{found.p_value:.2g}"),
            *_seed_noise(name, [first, *others], 100 * found.difference),
        ]
        tables.append(ReportTable(f"{name}: scores of {len(ids):,} questions", ("", "found"), tuple(cells)))
    shown = f", the first {NUM_SHOWN} of them" if len(changed) > NUM_SHOWN else ""
    texts = tuple((q[0], shorten(rows[0][q]["text"], 80), shorten(rows[1][q]["text"], 80)) for q in changed[:NUM_SHOWN])
    title = f"{name}: {len(changed):,} of {len(ids):,} answers differ{shown}"
    return [*tables, ReportTable(title, ("id", "first", "text"), texts)]


def _seed_noise(name: str, folders: Sequence[Path], difference: float) -> list[tuple[str, str]]:
    """Return how far the scores of runs that differ in their seed lie apart, and the difference beside it."""
    means = []
    for folder in folders:
        if (path := _predictions(folder).get(name)) is not None:
            credits = [row["credit"] for row in read_answers(path) if "credit" in row]
            means += [100 * sum(credits) / len(credits)] if credits else []
    if len(means) < 2:
        return [("seed noise", "not known: give runs with other seeds, --seeds RUN")]
    # Two runs lie apart by the root of two times what one run strays.
    noise = stdev(means) * 2**0.5
    beside = f"; the difference is {abs(difference) / noise:.1f} times that" if noise else ""
    return [("seed noise", f"{noise:.2f} between two of {len(means)} seeds{beside}")]
