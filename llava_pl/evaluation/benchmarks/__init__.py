"""The benchmarks that come with the package, by the name that the command line knows them by."""

from __future__ import annotations

from importlib import import_module

from llava_pl.evaluation.task import Task
from llava_pl.types import InputError

_HERE = "llava_pl.evaluation.benchmarks"
TASKS = {
    "scienceqa": "llava_pl.evaluation.scienceqa.ScienceQA",
    "pope": f"{_HERE}.pope.Pope",
    "mme": f"{_HERE}.mme.Mme",
    "textvqa": f"{_HERE}.textvqa.TextVqa",
    "gqa": f"{_HERE}.gqa.Gqa",
    "vqav2": f"{_HERE}.vqa.VqaV2",
    "vizwiz": f"{_HERE}.vqa.VizWiz",
    "mmbench": f"{_HERE}.mmbench.MmBench",
    "seed-bench": f"{_HERE}.seed_bench.SeedBench",
    "mm-vet": f"{_HERE}.open_answers.MmVet",
    "llava-bench": f"{_HERE}.open_answers.LlavaBench",
}


def find_task(name: str) -> type[Task]:
    """Return the class of a task.

    Args:
        name: One of `TASKS`, or the import path of a class of one's own.

    Raises:
        InputError: There is none of that name, or it is no task.
    """
    path = TASKS.get(name, name)
    module_name, _, class_name = path.rpartition(".")
    expected = f"expected one of {', '.join(TASKS)}, or the import path of a Task"
    if not module_name:
        raise InputError(f"eval: no task {name!r}; {expected}")
    try:
        found = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(f"eval: {name}: cannot be imported ({error}); {expected}") from error
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise InputError(f"eval: {name}: {expected}, found {found!r}")
    if missing := sorted(found.__abstractmethods__):
        raise InputError(f"eval: {name}: expected a whole Task, found one without {', '.join(missing)}")
    return found
