"""B13: the memory and the time in which `llava-pl data captions --balance` chooses among as many captions as CC3M has.

    python benchmarks/caption_balance.py --spacy en_core_web_sm
    python benchmarks/caption_balance.py --spacy en_core_web_sm --captions 30000    # a minute

Writes shards of tiny pictures with made-up captions, 2 KB a sample. How often a noun phrase is there falls off as a
power of its rank, so that of 3 million captions about as many are kept as LLaVA kept of CC3M's. Then the command runs
in a process of its own, and the memory of it and its workers is looked at four times a second: PSS, which counts what
processes share once. Where no pipeline for English is at hand, one that was trained on the words of `spell` will do.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from report import describe_machine

from llava_pl.building.survey import CAPTIONS_PER_PART

SAMPLES_PER_SHARD = 10_000
BYTES_PER_SAMPLE = 6_000
"""On the disk: a sample in its shard, and the copies and files that come of it."""

ADJECTIVES = ("red", "green", "blue", "small", "large", "old", "wooden", "young", "yellow", "happy")
NOUN_ENDINGS = ("square", "circle", "triangle", "cat", "umbrella", "car", "table", "horse", "street", "house")
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
NUM_NOUNS = 30_000
JOINTS = ("on", "in", "with", "near", "beside", "and")

NUM_PHRASES = 1_000_000
EXPONENT = 1.25
"""Of the power law; 3 million captions come out with 200,000 different phrases."""

PHRASES_PER_CAPTION = (0.25, 0.4, 0.25, 0.1)
"""How many captions hold one, two, three and four."""

SECONDS_BETWEEN_LOOKS = 0.25
PHASES = ("read", "survey", "choose", "write")


def spell(rank: int) -> str:
    """Return a noun phrase, another one for each rank: rare ones have more adjectives.

    >>> spell(7), spell(30_007), spell(330_007)
    ('babahorse', 'green babahorse', 'green green babahorse')
    """
    number, noun = divmod(rank, NUM_NOUNS)
    stem, ending = divmod(noun, len(NOUN_ENDINGS))
    words = ["".join(SYLLABLES[place] for place in _digits(stem, len(SYLLABLES), 2)) + NOUN_ENDINGS[ending]]
    while number:
        number, adjective = divmod(number, len(ADJECTIVES))
        words.insert(0, ADJECTIVES[adjective])
    return " ".join(words)


def _digits(number: int, base: int, count: int) -> list[int]:
    return [number // base**place % base for place in reversed(range(count))]


def draw_captions(num_captions: int, seed: Sequence[int]) -> Iterator[list[str]]:
    """Yield the noun phrases of captions, the same ones for a seed."""
    rng = np.random.default_rng(seed)
    counts = rng.choice(len(PHRASES_PER_CAPTION), size=num_captions, p=PHRASES_PER_CAPTION) + 1
    reached = np.cumsum(np.arange(1, NUM_PHRASES + 1) ** -EXPONENT)
    ranks = np.searchsorted(reached, rng.random(counts.sum()) * reached[-1]).tolist()
    start = 0
    for count in counts.tolist():
        yield [spell(rank) for rank in ranks[start : start + count]]
        start += count


def join(phrases: Sequence[str]) -> str:
    """Return a caption that holds noun phrases.

    >>> join(["red dog", "cat", "car"])
    'a red dog on the cat in the car'
    """
    return f"a {phrases[0]}" + "".join(
        f" {joint} the {phrase}" for joint, phrase in zip(JOINTS, phrases[1:], strict=False)
    )


def make_picture() -> bytes:
    """Return a PNG file of 32 x 32 pixels."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).save(file, "PNG")
    return file.getvalue()


def number_picture(picture: bytes, number: int) -> bytes:
    """Return a PNG file with a number in a chunk of text, so that its bytes are those of no other."""
    chunk = b"tEXtNumber\0%d" % number
    end = 8 + 25  # of the signature and the first chunk, IHDR
    return b"".join(
        (picture[:end], struct.pack(">I", len(chunk) - 4), chunk, struct.pack(">I", zlib.crc32(chunk)), picture[end:])
    )


def write_shard(path: Path, captions: Sequence[str], first: int, picture: bytes) -> None:
    """Write a tar file; `tarfile` would take most of the time.

    Args:
        path: Its name.
        captions: Of its samples.
        first: Number of the first sample.
        picture: What pictures are made of.
    """
    with path.open("wb") as file:
        for number, caption in enumerate(captions, start=first):
            for ending, content in (("png", number_picture(picture, number)), ("txt", caption.encode())):
                file.write(_head(b"%09d.%s" % (number, ending.encode()), len(content)))
                file.write(content + bytes(-len(content) % 512))
        file.write(bytes(1024))


def _head(name: bytes, size: int) -> bytes:
    fields = (name.ljust(100, b"\0"), b"0000644\0" + b"0000000\0" * 2, b"%011o\0" % size, b"00000000000\0")
    head, tail = b"".join(fields), b"0".ljust(101, b"\0") + b"ustar\x0000"
    return head + b"%06o\0 " % (sum(head) + sum(tail) + 8 * 32) + tail + bytes(512 - 156 - len(tail))


def write_source(folder: Path, num_captions: int, seed: int) -> None:
    """Write the shards of a source."""
    folder.mkdir()
    picture = make_picture()
    for shard, first in enumerate(range(0, num_captions, SAMPLES_PER_SHARD)):
        count = min(SAMPLES_PER_SHARD, num_captions - first)
        captions = [join(phrases) for phrases in draw_captions(count, (seed, shard))]
        write_shard(folder / f"{shard:05d}.tar", captions, first, picture)


def find_phase(folder: Path, num_parts: int) -> str:
    """Return what the command is at, by the files that it has written."""
    if not (folder / "survey.json").exists():
        return "read"
    if sum(1 for _ in (folder / "parts").glob("*.parquet")) < num_parts:
        return "survey"
    return "write" if any(folder.glob("*records.json*")) else "choose"


def watch(command: Sequence[str], folder: Path, num_parts: int) -> dict[str, Any]:
    """Run the command, and return the seconds of each phase and the most memory that was seen in it, MB.

    Memory is that of all processes, of the first one, and of the largest of the others.

    Raises:
        SystemExit: It failed.
    """
    start = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    seconds, peaks = dict.fromkeys(PHASES, 0.0), {phase: [0, 0, 0] for phase in PHASES}
    before = start
    while process.poll() is None:
        phase = find_phase(folder, num_parts)
        first, *others = [_read_memory(each) for each in (process, *_find_children(process))]
        looked = (first + sum(others), first, max(others, default=0))
        peaks[phase] = [max(pair) for pair in zip(peaks[phase], looked, strict=True)]
        now = time.perf_counter()
        seconds[phase] += now - before
        before = now
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode != 0:
        raise SystemExit(f"ended with status {process.returncode}: {' '.join(command)}")
    names = ("all", "main", "worker")
    return {
        "seconds": round(time.perf_counter() - start, 1),
        **{f"mb_{name}": max(peak[place] for peak in peaks.values()) for place, name in enumerate(names)},
        "phases": {
            phase: {"seconds": round(seconds[phase], 1)}
            | {f"mb_{name}": peak for name, peak in zip(names, peaks[phase], strict=True)}
            for phase in PHASES
        },
    }


def _find_children(process: psutil.Process) -> list[psutil.Process]:
    try:
        children: list[psutil.Process] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return children


def _read_memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss / 1e6)
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
        return 0


def main() -> None:
    """Print a Markdown table and the counts of the command's own report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spacy", required=True, metavar="NAME", help="pipeline that finds noun phrases")
    parser.add_argument("--captions", type=int, default=3_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where shards and results are written; removed afterwards")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        source, pairs = Path(name) / "source", Path(name) / "pairs"
        needed, free = options.captions * BYTES_PER_SAMPLE, shutil.disk_usage(name).free
        if free < needed:
            sys.exit(f"--folder: {name}: expected {needed:,} bytes free, found {free:,}; choose another")
        start = time.perf_counter()
        write_source(source, options.captions, options.seed)
        print(f"wrote the source in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "llava_pl", "data", "captions", str(source), str(pairs), "--balance"]
        command += ["--spacy", options.spacy, "--workers", str(options.workers)]
        found = watch(command, pairs, -(-options.captions // CAPTIONS_PER_PART))
        counts = json.loads((pairs / "report.json").read_text())["counts"]
    machine = describe_machine(options.workers) + f" spaCy {version('spacy')}, pyarrow {version('pyarrow')}."
    print(f"{machine} {options.workers} workers.\n\n| phase | s | all, MB | main process, MB | a worker, MB |")
    print("| --- " * 5 + "|")
    for phase, cells in (*found["phases"].items(), ("all", found)):
        memory = (cells["mb_all"], cells["mb_main"], cells["mb_worker"])
        print(f"| {phase} | {cells['seconds']:.0f} | {' | '.join(map(str, memory))} |")
    print("\n| | |\n| --- | --- |\n" + "".join(f"| {name} | {count:,} |\n" for name, count in counts.items()))
    if options.output is not None:
        result = {"machine": machine, "captions": options.captions, "workers": options.workers, **found}
        options.output.write_text(json.dumps({**result, "report": counts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
