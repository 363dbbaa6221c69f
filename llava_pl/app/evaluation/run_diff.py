"""What tells two runs apart: settings, versions, order of the data, answers, and whether their scores differ by more.

In: the folders of two runs. Out: a `Report`. Nothing but these folders is read: scored answers stand in answer files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from statistics import stdev
from typing import Any

import yaml

from llava_pl.data.json_files import read_json_object
from llava_pl.evaluation.answers import AnswerRow, find_header, header_differences, read_answers
from llava_pl.evaluation.intervals import compare
from llava_pl.evaluation.report import Report, ReportTable, shorten, show_difference
from llava_pl.ledger_file import Plan, ledger_path, read_ledger
from llava_pl.types import InputError

NUM_SHOWN = 40
SEED = "seed_everything"
MIN_SEEDS = 3
"""Runs of which it takes so many before a difference is said to be a multiple of their noise."""
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
    settings = _differences(_read_config(first), _read_config(second))
    _check_seeds([first, *others])
    tables = [_table("Settings that differ", names, settings)]
    tables.append(_table("Versions that differ", names, _differences(_read_versions(first), _read_versions(second))))
    tables.append(
        ReportTable(
            "Order of the data",
            ("", "found"),
            (("training samples", _compare_orders(first, second)),),
            has_numbers=False,
        )
    )
    notes = []
    for name in sorted(_predictions(first).keys() & _predictions(second).keys()):
        answers = _Answers.read(name, first), _Answers.read(name, second)
        seeds = [_Answers.read(name, other) for other in others if name in _predictions(other)]
        notes += _note_differences(*answers, seeds)
        tables += _compare_answers(*answers, seeds)
    if not _predictions(first).keys() & _predictions(second).keys():
        notes.append("the two runs have no answers to the same questions")
    if set(settings) == {SEED}:
        notes.append("the two runs differ in their seed alone: what differs below is its noise")
    return Report(f"{first} and {second}", tuple(notes), tuple(tables))


def _check_seeds(folders: Sequence[Path]) -> None:
    """Check that runs are different ones that differ in their seed alone."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("--seeds: expected other runs than RUN_A, each once")
    first, *others = settings = [_read_config(folder) for folder in folders]
    for folder, other in zip(folders[1:], others, strict=True):
        if apart := sorted(_differences(first, other).keys() - {SEED}):
            raise InputError(
                f"--seeds: {folder}: expected a run as {folders[0]} but for {SEED}, found others: {', '.join(apart)}"
            )
    seeds = [str(each.get(SEED)) for each in settings]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds: expected a {SEED} of its own for each run, found {', '.join(seeds)}")


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{folder / 'config.yaml'}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise InputError(f"{folder / 'config.yaml'}: expected settings, found {type(content).__name__}")
    return _flat({key: value for key, value in content.items() if key not in UNTOLD})


def _read_versions(folder: Path) -> dict[str, str]:
    """Return the versions that a run was started with; none of a run that is older than that file."""
    path = folder / "environment.json"
    if not path.is_file():
        return {}
    return {name: str(value) for name, value in _flat(read_json_object(path)).items()}


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
    return ReportTable(title if rows else f"{title}: none", ("", *names), rows, has_numbers=False)


def _compare_orders(first: Path, second: Path) -> str:
    """Return in words whether two runs have learned from the same samples in the same steps."""
    if Plan.read(first) is None or Plan.read(second) is None:
        return "not known: one of them has no ledger"
    digests = [dict(_steps(folder)) for folder in (first, second)]
    shared = sorted(digests[0].keys() & digests[1].keys())
    if not shared:
        return "no step that both have taken"
    for number, step in enumerate(shared):
        if digests[0][step] != digests[1][step]:
            return f"other samples from step {step:,} on; the {number:,} steps before it are the same"
    digest = hashlib.sha256("".join(digests[0][step] for step in shared).encode()).hexdigest()[:16]
    same = f"the same in all {len(shared):,} steps that both took (hash {digest})"
    first_number, second_number = map(len, digests)
    return same if first_number == second_number else f"{same}; they took {first_number:,} and {second_number:,}"


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


def _predictions(folder: Path) -> dict[str, tuple[int, Path]]:
    """Return the last step with answers to each set of questions, and its file, by its name without the step."""
    found: dict[str, tuple[int, Path]] = {}
    for path in (folder / "predictions").glob("*-step*.jsonl"):
        head, _, tail = path.stem.partition("-step")
        step, dash, ending = tail.partition("-")
        if step.isdecimal():
            name = head + dash + ending
            found[name] = max(found.get(name, (-1, path)), (int(step), path))
    return found


@dataclass(frozen=True, slots=True)
class _Answers:
    """The last answers of a run to a set of questions.

    Args:
        name: Of the set.
        step: That they were given after.
        rows: By identifier and prompt: of some tasks an identifier is that of a picture, about which there are several.
        header: How they were made.
    """

    name: str
    step: int
    rows: Mapping[tuple[str, str], AnswerRow]
    header: Mapping[str, Any]

    @classmethod
    def read(cls, name: str, folder: Path) -> _Answers:
        step, path = _predictions(folder)[name]
        rows = read_answers(path)
        return cls(name, step, {(row["question_id"], row.get("prompt", "")): row for row in rows}, find_header(rows))

    def credits(self, keys: Sequence[tuple[str, str]]) -> list[float] | None:
        """Return what some questions earned, None where one of them has no score."""
        found = [self.rows[key]["credit"] for key in keys if "credit" in self.rows.get(key, {})]
        return found if found and len(found) == len(keys) else None


def _note_differences(first: _Answers, second: _Answers, seeds: Sequence[_Answers]) -> list[str]:
    """Return in words what is to be known before answers are compared."""
    notes, name = [], first.name
    if unlike := header_differences(first.header.get("answers", {}), second.header.get("answers", {})):
        notes.append(f"{name}: the two were not asked alike: {'; '.join(unlike)}")
    if alone := len(first.rows.keys() ^ second.rows.keys()):
        notes.append(f"{name}: {alone:,} questions were asked of one of the two alone, and are left out")
    steps = sorted({each.step for each in (first, *seeds)})
    if len(steps) > 1:
        notes.append(f"{name}: the seeds are told by answers of steps {', '.join(map(str, steps))}")
    return notes


def _compare_answers(first: _Answers, second: _Answers, seeds: Sequence[_Answers]) -> list[ReportTable]:
    name, tables = first.name, []
    keys = [key for key in first.rows if key in second.rows]
    changed = [key for key in keys if first.rows[key]["text"] != second.rows[key]["text"]]
    of_first, of_second = first.credits(keys), second.credits(keys)
    if of_first is not None and of_second is not None:
        # Of files that do not say what picture a question is about its identifier may be that of the picture.
        found = compare(of_first, of_second, [first.rows[key].get("image", key[0]) for key in keys])
        difference, p_value = show_difference(found)
        cells = (
            ("steps", f"{first.step:,} and {second.step:,}"),
            ("difference", difference),
            ("the first better", str(found.first_better)),
            ("the second better", str(found.second_better)),
            ("p (test)", p_value),
            ("seed noise", _seed_noise([first, *seeds], keys, 100 * found.difference)),
        )
        tables.append(
            ReportTable(f"{name}: mean credit of {len(keys):,} questions", ("", "found"), cells, has_numbers=False)
        )
    shown = f", the first {NUM_SHOWN} of them" if len(changed) > NUM_SHOWN else ""
    texts = tuple(
        (key[0], shorten(first.rows[key]["text"], 80), shorten(second.rows[key]["text"], 80))
        for key in changed[:NUM_SHOWN]
    )
    title = f"{name}: {len(changed):,} of {len(keys):,} answers differ{shown}"
    return [*tables, ReportTable(title, ("id", "first", "second"), texts, has_numbers=False)]


def _seed_noise(runs: Sequence[_Answers], keys: Sequence[tuple[str, str]], difference: float) -> str:
    """Return how far the scores of runs that differ in their seed lie apart, and the difference beside it."""
    means = [100 * fsum(credits) / len(credits) for run in runs if (credits := run.credits(keys)) is not None]
    if len(means) < 2:
        return "not known: give runs with other seeds, --seeds RUN"
    # Two runs lie apart by the root of two times what one run strays.
    noise = stdev(means) * 2**0.5
    found = f"{noise:.2f} between two of {len(means)} seeds"
    if len(means) < MIN_SEEDS:
        return f"{found}, too few to say how sure that is"
    return f"{found}; the difference is {abs(difference) / noise:.1f} times that" if noise else found
