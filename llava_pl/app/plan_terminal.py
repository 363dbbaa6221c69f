"""A plan on the terminal: tables of parameters, memory, data, work and steps, then what does not go together."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llava_pl.models.work import add_up
from llava_pl.planning.memory_plan import MOST_SAMPLES
from llava_pl.planning.run_plan import GIB, RunPlan
from llava_pl.visible import visible

WIDTH = 66
"""Columns of every table, so that their edges meet."""


def as_plain(plan: RunPlan) -> dict[str, Any]:
    """Return a plan as values that JSON can hold."""
    return asdict(plan)


def print_plan(plan: RunPlan, console: Console | None = None) -> None:
    """Print a plan.

    Args:
        plan: What to show.
        console: Where; the terminal by default.
    """
    console = console or Console()
    for table in (_parameters(plan), _memory(plan), _data(plan), _work(plan), _steps(plan)):
        console.print(table, highlight=False)
    if plan.data.unknown is not None:
        said = "the records could not be read, so samples are taken to be as long as they may be, all text learned"
        reason = "" if plan.data.is_refused else f": {plan.data.unknown}"  # among the contradictions otherwise
        console.print(Text(visible(f"data: {said}{reason}")), highlight=False, soft_wrap=True)
    for line in plan.contradictions:
        console.print(Text(visible(f"contradiction: {line}")), style="bold", highlight=False, soft_wrap=True)


def _parameters(plan: RunPlan) -> Table:
    table = _table(f"stage {plan.stage}", "part", "trained", "total", "dtype")
    for part in plan.parts:
        table.add_row(part.part, f"{part.num_trainable:,}", f"{part.num_parameters:,}", part.dtypes)
    trained, total = sum(p.num_trainable for p in plan.parts), sum(p.num_parameters for p in plan.parts)
    table.add_section()
    table.add_row("all", f"{trained:,}", f"{total:,}", "")
    return table


def _memory(plan: RunPlan) -> Table:
    spread, memory, host = plan.spread, plan.memory, plan.host
    devices = "a device" if spread.num_ranks == 1 else f"{spread.num_ranks} devices"
    title = f"memory, strategy {spread.name} on {devices}, {plan.batch_size} samples at once"
    table = _table(title, "what", "GiB")
    if memory is not None:
        for name, value in (
            ("weights", memory.weights),
            ("gradients", memory.gradients),
            ("optimizer states", memory.states),
            ("whole for a time", memory.gathered),
            ("activations", memory.activations),
            (f"a device at most ({memory.peak_at})", memory.peak),
        ):
            table.add_row(name, _gib(value))
        table.add_section()
    table.add_row(f"a device has ({plan.assumptions.headroom:.0%} less)", _gib(plan.assumptions.limit))
    if plan.largest_batch is not None:
        more = " or more" if plan.largest_batch == MOST_SAMPLES else ""
        table.add_row("samples at once that fit", f"{plan.largest_batch:,}{more}")
    table.add_row("gradient_checkpointing that is enough", plan.recompute or "-")
    table.add_section()
    table.add_row("a host while loading", _gib(host.loading))
    table.add_row("a host while saving", _gib(host.saving))
    if host.offloaded:
        table.add_row("a host, offloaded", _gib(host.offloaded))
    table.add_row("a checkpoint", _gib(host.checkpoint))
    table.add_row(f"disk for {plan.num_checkpoints} of them", _gib(plan.num_checkpoints * host.checkpoint))
    if plan.features is not None:
        size = plan.features.num_pictures * plan.features.row_bytes
        table.add_row(f"disk for the features of {plan.features.num_pictures:,} pictures", _gib(size))
    return table


def _data(plan: RunPlan) -> Table:
    data = plan.data
    is_known = data.unknown is None
    table = _table("data" if is_known else "data, as it may be", "what", "number")
    rows = [
        ("samples of an epoch", _count(data.num_samples)),
        ("positions of a sample, mean", f"{data.mean_length:,.1f}"),
        ("longest", f"{data.longest:,}"),
        ("supervised tokens, mean", f"{data.mean_supervised:,.1f}"),
        ("padding", f"{data.padding:.1%}" if is_known else "unknown"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _work(plan: RunPlan) -> Table:
    table = _table("work of a sample, TFLOP", "part", "forward", "backward", "again")
    for work in (*plan.work, add_up(plan.work)):
        if work.part == "all":
            table.add_section()
        table.add_row(work.part, *(f"{number / 1e12:.3f}" for number in (work.forward, work.backward, work.again)))
    return table


def _steps(plan: RunPlan) -> Table:
    assumed = plan.assumptions
    table = _table("steps", "what", "number")
    table.add_row("samples of a step", f"{plan.samples_per_step:,}")
    table.add_row("TFLOP of a step", f"{plan.work_per_step / 1e12:,.1f}")
    table.add_row("steps of an epoch", _count(plan.steps_per_epoch))
    table.add_row("steps of the run", _count(plan.steps))
    hours = "unknown" if plan.hours is None else f"{plan.hours:,.1f}"
    table.add_row(f"hours at {assumed.mfu:.0%} of {assumed.device_tflops:g} TFLOPS a device", hours)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", min_width=WIDTH)
    for name in columns:
        table.add_column(name, justify="left" if name == columns[0] else "right")
    return table


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:,.2f}"


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"
