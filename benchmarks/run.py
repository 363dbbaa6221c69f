"""Runs the benchmarks that have peers, and writes their table and figure.

    make bench                                            # a smaller model, few rounds, the peers at hand: minutes
    make bench-full PEERS=... LLAVA=... TOKENIZER=...     # hours; the table of README.md

PEERS is a folder that `make_peer_envs.py` made, LLAVA a checkout of haotian-liu/LLaVA, TOKENIZER a folder with LLaMA's
`tokenizer.model`; without them their rows say so. What is not in `--only` keeps the rows that it has in the output.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import answering
import loss_memory
import start
import train_step
from harness import Environments
from report import Row, describe_machine, read_around, read_rows, write_report

MEASURES: dict[str, Callable[..., Iterator[Row]]] = {
    "B4": partial(train_step.measure, "B4"),
    "B5": partial(train_step.measure, "B5"),
    "B6": loss_memory.measure,
    "B7": partial(answering.measure, "B7"),
    "B8": partial(answering.measure, "B8"),
    "start": start.measure,
}
"""By the first word of their rows."""


def put(row: Row, rows: Sequence[Row]) -> list[Row]:
    """Return rows with one more, in the place of the same way's earlier one; a note replaces no numbers.

    Benchmarks stand in the order of `MEASURES`, in each of them ours first.
    """
    same = [other for other in rows if (other.benchmark, other.way) == (row.benchmark, row.way)]
    if row.note and any(not other.note for other in same):
        return list(rows)
    found = [other for other in rows if other not in same] + [row]
    places, names = list(MEASURES), list(dict.fromkeys(each.benchmark for each in found))
    return sorted(
        found, key=lambda each: (places.index(each.benchmark.split()[0]), names.index(each.benchmark), not each.is_ours)
    )


def main() -> None:
    """Write what was measured so far after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the sizes that the targets are for")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--peers", type=Path, help="folder that make_peer_envs.py made")
    parser.add_argument("--llava_checkout", type=Path, help="folder of haotian-liu/LLaVA")
    parser.add_argument("--tokenizer", type=Path, help="folder with LLaMA's tokenizer.model")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    parser.add_argument("--readme", type=Path, help="put the table between the marks of this file")
    options = parser.parse_args()
    if options.readme is not None:
        read_around(options.readme)  # not after hours
    pythons = {name: (options.peers or Path()) / name / "bin" / "python" for name in ("trl", "original")}
    found = {name: path.absolute() if options.peers and path.exists() else None for name, path in pythons.items()}
    places = Environments(found["trl"], found["original"], options.llava_checkout, options.tokenizer)
    machine = describe_machine(options.threads, [path for path in found.values() if path])
    if not options.full:
        machine += " In small, which the targets are not for."
    try:
        table = read_rows(options.output, machine)
    except ValueError as error:
        sys.exit(f"{error}; choose another --output, or give the options that it was measured with")
    for number in options.only:
        for row in MEASURES[number](places, is_full=options.full, num_threads=options.threads):
            table = put(row, table)
            text = write_report(table, machine, options.output, options.readme)
    print(text)


if __name__ == "__main__":
    main()
