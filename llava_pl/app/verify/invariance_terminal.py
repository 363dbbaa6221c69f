"""Comparisons on the terminal, as a table and a verdict, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llava_pl.app.verify.invariance import IS_EQUAL_OR_NOT, QUANTITIES, Comparison, Finding, Quantity
from llava_pl.app.verify.invariance_plan import InvariancePlan
from llava_pl.visible import visible


def print_comparisons(plan: InvariancePlan, comparisons: Sequence[Comparison], console: Console | None = None) -> None:
    """Print the largest difference of each quantity under each split, and what differs first if it is too much.

    Args:
        plan: What was run, and how it is judged.
        comparisons: With the first split.
        console: Where; the terminal by default.
    """
    console = console or Console()
    console.print(
        f"{plan.num_steps} steps, against {plan.splits[0]} (ranks x micro batches x samples)", highlight=False
    )
    table = Table()
    table.add_column("largest difference")
    for comparison in comparisons:
        table.add_column(str(comparison.split), justify="right")
    for quantity in QUANTITIES:
        found = [comparison.largest(quantity) for comparison in comparisons]
        table.add_row(quantity, *(_cell(quantity, finding, plan.tolerance) for finding in found))
    console.print(table, highlight=False)
    for line in verdict(plan, comparisons):
        style = "bold green" if is_invariant(plan, comparisons) else "bold red"
        console.print(Text(visible(line), style=style), highlight=False, soft_wrap=True)


def is_invariant(plan: InvariancePlan, comparisons: Sequence[Comparison]) -> bool:
    """Return whether no comparison is beyond the tolerance."""
    return all(comparison.first_beyond(plan.tolerance) is None for comparison in comparisons)


def verdict(plan: InvariancePlan, comparisons: Sequence[Comparison]) -> list[str]:
    """Return one line: the tolerance that was reached; or one for each split that differs: what does so first."""
    allowed = f"tolerance {plan.tolerance:g} ({plan.reason})"
    lines = []
    for comparison in comparisons:
        if first := comparison.first_beyond(plan.tolerance):
            size = f", {first.difference:.1e}" if isfinite(first.difference) else ""
            lines.append(
                f"{comparison.split} differs first in {first.quantity}, {first.place}{size}: {first.values}; {allowed}"
            )
    reached = max((finding.difference for comparison in comparisons for finding in comparison.findings), default=0.0)
    return lines or [f"invariant: the largest difference is {reached:.1e}, {allowed}"]


def to_json(plan: InvariancePlan, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return the table and the verdict as plain values; a difference that is no number is null."""
    return {
        "is_invariant": is_invariant(plan, comparisons),
        "tolerance": plan.tolerance,
        "tolerance_of": plan.reason,
        "num_steps": plan.num_steps,
        "num_validated": plan.validation.num_samples,
        "reference": str(plan.splits[0]),
        "notes": list(plan.notes),
        "comparisons": [
            {
                "split": str(comparison.split),
                "largest": {
                    quantity: _plain(finding) for quantity in QUANTITIES if (finding := comparison.largest(quantity))
                },
                "first_beyond": _plain(comparison.first_beyond(plan.tolerance)),
            }
            for comparison in comparisons
        ],
    }


def _plain(finding: Finding | None) -> dict[str, Any] | None:
    if finding is None:
        return None
    return {
        "quantity": finding.quantity,
        "place": finding.place,
        "difference": finding.difference if isfinite(finding.difference) else None,
        "values": finding.values,
    }


def _cell(quantity: Quantity, finding: Finding | None, tolerance: float) -> Text:
    if finding is None:
        return Text("-")
    if quantity in IS_EQUAL_OR_NOT:
        return Text("equal") if not finding.difference else Text("differs", style="bold red")
    is_beyond = finding.difference > tolerance
    return Text(f"{finding.difference:.1e}", style="bold red" if is_beyond else "")
