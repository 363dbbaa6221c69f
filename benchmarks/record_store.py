"""B3: what it costs to have the records of LLaVA-1.5's second stage at hand, beside `json.load` of the same file.

    python benchmarks/record_store.py --records 100000

Writes a JSON list of the size and mix of that file (94 % with a picture, about five exchanges), then measures each way
in a process of its own, from its first import to the first record. The rounds are interleaved and medians compared.
Then four forked workers read random records: what they write to, be it only a count of references, becomes memory of
their own.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_pl.types import Record

MIB = 2**20
NUM_WORKERS = 4
WORKER_RECORDS = 20_000
WAYS = {"load": "json.load", "build": "store, first time", "reopen": "store, again"}


def write_records(path: Path, num_records: int) -> None:
    """Write a JSON list of made-up records, the same ones each time."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(5000)]
    sentences = [" ".join(draw.choices(words, k=draw.randint(4, 12))) + "." for _ in range(20_000)]
    sentences[::200] = [sentence + " caf\u00e9 \u4f60\u597d" for sentence in sentences[::200]]
    with path.open("w") as file:
        for index in range(num_records):
            turns = []
            for _ in range(draw.randint(1, 9)):
                turns.append({"from": "human", "value": draw.choice(sentences)})
                turns.append({"from": "gpt", "value": " ".join(draw.choices(sentences, k=draw.choice((1, 2, 3, 5))))})
            entry: dict[str, Any] = {"id": f"{index:012d}"}
            if draw.random() < 0.94:
                entry["image"] = f"coco/train2017/{index:012d}.jpg"
                turns[0]["value"] = "<image>\n" + turns[0]["value"]
            file.write(("[" if index == 0 else ", ") + json.dumps(entry | {"conversations": turns}))
        file.write("]")


def read_memory(file: str, *fields: str) -> float:
    """Return the sum of fields of a status file of this process, MiB."""
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in fields) / 1024


def open_records(way: str, path: Path) -> Sequence[Any]:
    """Return a sequence of records; what it needs is imported here, so that it is timed."""
    if way == "load":
        with path.open(encoding="utf-8") as file:
            entries: list[Any] = json.load(file)
        return entries
    from llava_pl.data.store_cache import open_store

    return open_store(path, path.parent / "cache")


def read_length(record: dict[str, Any] | Record) -> int:
    """Return the characters of a record."""
    if isinstance(record, dict):
        return sum(len(turn["value"]) for turn in record["conversations"])
    return sum(len(turn.text) for turn in record.turns)


def measure_workers(records: Sequence[Any]) -> list[tuple[float, float]]:
    """Return for each worker by how many MiB its written and its unshared memory grew."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(NUM_WORKERS), context.SimpleQueue()

    def work(seed: int) -> None:
        order = random.Random(seed).choices(range(len(records)), k=WORKER_RECORDS)
        fields = (("Private_Dirty",), ("Private_Dirty", "Private_Clean"))
        barrier.wait()
        before = [read_memory("smaps_rollup", *names) for names in fields]
        barrier.wait()
        for index in order:
            read_length(records[index])
        barrier.wait()
        after = [read_memory("smaps_rollup", *names) for names in fields]
        barrier.wait()
        results.put((after[0] - before[0], after[1] - before[1]))

    processes = [context.Process(target=work, args=(seed,)) for seed in range(NUM_WORKERS)]
    for process in processes:
        process.start()
    grown = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return grown


def child(way: str, path: Path) -> None:
    """Measure one way in this process and print the numbers as JSON."""
    start = time.perf_counter()
    records = open_records(way, path)
    read_length(records[0])
    seconds = time.perf_counter() - start
    result = {"seconds": seconds, "cpu": time.process_time(), "peak": read_memory("status", "VmHWM")}
    gc.collect()
    if way != "build":
        dirty, unshared = zip(*measure_workers(records), strict=True)
        result |= {"dirty": sum(dirty), "unshared": sum(unshared)}
    print(json.dumps(result))


def run(way: str, path: Path) -> dict[str, float]:
    """Return what a process of its own measures."""
    command = [sys.executable, __file__, "--way", way, "--path", str(path)]
    result: dict[str, float] = json.loads(subprocess.check_output(command, text=True))
    return result


def main() -> None:
    """Print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=665_298)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the file is written; removed afterwards")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        return child(arguments.way, arguments.path)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "records.json"
        write_records(path, arguments.records)
        print(
            f"{arguments.records} records, {path.stat().st_size / 1e6:.0f} MB, medians of {arguments.rounds} rounds\n"
        )
        rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for stored in (Path(folder) / "cache").glob("records-*"):
                shutil.rmtree(stored)
            for way in WAYS:
                rounds[way].append(run(way, path))

    def middle(way: str, name: str) -> float:
        return median(result[name] for result in rounds[way])

    print("| way | to the first record, s | / json.load | CPU, s | / json.load | peak memory, MiB | / json.load |")
    print("| --- " * 7 + "|")
    for way, name in WAYS.items():
        cells = [name]
        for measure, digits in (("seconds", 2), ("cpu", 2), ("peak", 0)):
            value = middle(way, measure)
            cells += [f"{value:.{digits}f}", f"{value / middle('load', measure):.3f}"]
        print(f"| {' | '.join(cells)} |")
    print("\n| four workers grow by, MiB | written | written or unshared |\n| --- | --- | --- |")
    for way in ("load", "reopen"):
        print(f"| {WAYS[way]} | {middle(way, 'dirty'):.0f} | {middle(way, 'unshared'):.0f} |")
    return None


if __name__ == "__main__":
    main()
