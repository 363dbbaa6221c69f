"""Runs the benchmarks that have peers, and writes their table and figure.

    make bench                                 # a smaller model, few rounds, the peers at hand: minutes
    make bench-full PEERS=... LLAVA=...        # hours; the table of README.md

PEERS is a folder that `make_peer_envs.py` made, LLAVA a checkout of haotian-liu/LLaVA; without them their rows say so.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import loss_memory
import start
import train_step
from report import Row, describe_machine, read_around, write_report
from train_step import Environments

MEASURES: dict[str, Callable[..., Iterator[Row]]] = {
    "B4": partial(train_step.measure, "B4"),
    "B5": partial(train_step.measure, "B5"),
    "B6": loss_memory.measure,
    "start": start.measure,
}


def main() -> None:
    """Write what was measured so far after each benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the sizes that the targets are for, 7 rounds")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--peers", type=Path, help="folder that make_peer_envs.py made")
    parser.add_argument("--llava-checkout", type=Path, help="folder of haotian-liu/LLaVA")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    parser.add_argument("--readme", type=Path, help="put the table between the marks of this file")
    options = parser.parse_args()
    if options.readme is not None:
        read_around(options.readme)  # not after hours
    pythons = {name: (options.peers or Path()) / name / "bin" / "python" for name in ("trl", "original")}
    found = {name: path.absolute() if options.peers and path.exists() else None for name, path in pythons.items()}
    places = Environments(found["trl"], found["original"], options.llava_checkout)
    machine = describe_machine(options.threads, [path for path in found.values() if path])
    rows: list[Row] = []
    text = ""
    for number in options.only:
        for row in MEASURES[number](places, is_full=options.full, num_threads=options.threads):
            rows.append(row)
        text = write_report(rows, machine, options.output, options.readme)
    print(text)


if __name__ == "__main__":
    main()
