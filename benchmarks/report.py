"""What benchmarks found, as a Markdown table and as a figure.

In: rows. Out: files in a folder, and a part of a README that they replace.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from harness import Measured, Ratio, compare

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
PACKAGES = ("torch", "lightning", "transformers", "accelerate", "trl")
HEAD = "| benchmark | way | median | / ours (95 %) | CPU time / ours | most memory, MiB | target |"


@dataclass(frozen=True)
class Row:
    """One way of doing a benchmark's work.

    Args:
        benchmark: Its number and what is done.
        way: Who does it.
        took: What a round took, with the unit; the median.
        ratio: Over ours, None for ours itself.
        cpu_ratio: CPU time over ours; None where it means nothing.
        peak_mib: Most memory of the process, median over rounds.
        target: Least ratio that is asked for.
        note: In place of numbers: why there are none.
    """

    benchmark: str
    way: str
    took: str = ""
    ratio: Ratio | None = None
    cpu_ratio: Ratio | None = None
    peak_mib: float | None = None
    target: float | None = None
    note: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether it is what the others are compared with."""
        return self.ratio is None and not self.note

    @property
    def cells(self) -> list[str]:
        """Return its line of the table."""
        if self.note:
            return [self.benchmark, self.way, self.note, "", "", "", ""]
        return [
            self.benchmark,
            self.way,
            self.took,
            "1" if self.ratio is None else str(self.ratio),
            "" if self.cpu_ratio is None else f"{self.cpu_ratio.value:.2f}",
            "" if self.peak_mib is None else f"{self.peak_mib:.0f}",
            "" if self.target is None else f">= {self.target:g}",
        ]


def row_of(
    benchmark: str,
    way: str,
    took: str,
    theirs: Sequence[Measured],
    ours: Sequence[Measured] | None = None,
    target: float | None = None,
) -> Row:
    """Return the row of a way whose rounds were timed, beside the rounds of ours that took turns with them."""
    peaks = [m.peak_mib for m in theirs if m.peak_mib is not None]
    peak = median(peaks) if peaks else None
    if ours is None:
        return Row(benchmark, way, took, peak_mib=peak)
    ratio = compare([m.wall for m in ours], [m.wall for m in theirs])
    cpu_ratio = compare([m.cpu for m in ours], [m.cpu for m in theirs])
    return Row(benchmark, way, took, ratio, cpu_ratio, peak, target)


def make_table(rows: Sequence[Row]) -> str:
    """Return the Markdown table of some rows."""
    lines = [HEAD, "| --- " * HEAD.count(" |") + "|", *(f"| {' | '.join(row.cells)} |" for row in rows)]
    return "\n".join(lines)


def describe_machine(num_threads: int, pythons: Sequence[Path] = ()) -> str:
    """Return one paragraph: the processor, the threads, and the versions in the environments."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    parts = [f"{found.group(1) if found else platform.processor()}, {num_threads} threads, {platform.system()}"]
    parts.append(f"Python {platform.python_version()}, {_versions()}")
    for python in pythons:
        code = f"from report import _versions; print(_versions({('torch', 'transformers', 'trl', 'accelerate')!r}))"
        run = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent, check=True
        )
        parts.append(f"a peer's environment: {run.stdout.strip()}")
    return "; ".join(parts) + "."


def _versions(packages: Sequence[str] = PACKAGES) -> str:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def draw_figure(rows: Sequence[Row], path: Path) -> None:
    """Draw a bar with its interval for each ratio; a line at 1 is ours, a mark the target."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.ratio is not None]
    figure = Figure(figsize=(9, 0.6 + 0.4 * len(shown)), layout="constrained")
    axes = figure.subplots()
    places = range(len(shown), 0, -1)
    ratios = [row.ratio for row in shown if row.ratio is not None]
    lows, highs = [r.value - r.low for r in ratios], [r.high - r.value for r in ratios]
    axes.barh(places, [r.value for r in ratios], xerr=[lows, highs], color="#9db8d2", capsize=3, height=0.6)
    for place, row in zip(places, shown, strict=True):
        if row.target is not None:
            axes.plot([row.target] * 2, [place - 0.4, place + 0.4], color="#c0392b")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(list(places), [f"{row.benchmark}: {row.way}" for row in shown])
    axes.set_xlabel("times what ours takes (black: ours, red: target)")
    figure.savefig(path, metadata={"Date": None})


def read_around(readme: Path) -> tuple[str, str]:
    """Return what stands before and after the table of a README, marks included.

    Raises:
        ValueError: The README has no marks.
    """
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{readme}: expected the marks {BEGIN} and {END}, found no pair of them; add them")
    return before + begin, end + after


def read_rows(folder: Path, machine: str) -> list[Row]:
    """Return the rows that `write_report` wrote into a folder; none if it did not yet.

    Raises:
        ValueError: They are of another machine, or of other versions.
    """
    path = folder / "rows.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    if found["machine"] != machine:
        raise ValueError(f"{path}: measured elsewhere: {found['machine']} Here: {machine}")
    ratios = ("ratio", "cpu_ratio")
    return [Row(**row | {name: Ratio(**row[name]) for name in ratios if row[name]}) for row in found["rows"]]


def write_report(rows: Sequence[Row], machine: str, folder: Path, readme: Path | None = None) -> str:
    """Write ``table.md``, ``rows.json`` and ``figure.svg``, and put the table into a README between its marks.

    Returns:
        The text of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{machine}\n\n{make_table(rows)}\n"
    (folder / "table.md").write_text(text)
    found = {"machine": machine, "rows": [asdict(row) for row in rows]}
    (folder / "rows.json").write_text(json.dumps(found, indent=1) + "\n")
    draw_figure(rows, folder / "figure.svg")
    if readme is not None:
        before, after = read_around(readme)
        picture = (folder / "figure.svg").absolute().relative_to(readme.absolute().parent)
        readme.write_text(f"{before}\n{text}\n![bars]({picture})\n{after}")
    return text
