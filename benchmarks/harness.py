"""Rounds of several ways of doing the same work, each in a process of its own, and what they say about each other.

In: for each way a command that starts its process. Out: what each of its rounds took, ratios of medians with intervals.
Needs nothing beyond Python, because processes of peers import it in environments of their own.

The side that measures::

    peers = {"ours": Peer([sys.executable, "ours.py"], num_threads=2), "theirs": Peer([PYTHON, "theirs.py"], 2)}
    assert peers["ours"].ask(do="check") == peers["theirs"].ask(do="check")      # same answers, before any timing
    found = run_rounds({way: peer.run_round for way, peer in peers.items()}, num_rounds=7, num_warm_ups=2)
    ratio = compare([m.wall for m in found["ours"]], [m.wall for m in found["theirs"]])

and the side of a way, which takes one request after another and answers each with numbers and text of its own::

    channel = Channel()                     # from here on, what libraries print goes to standard error
    model = build()                         # not timed
    while request := channel.wait():        # {"do": "round"} of `run_round()`, {"do": "check"} of `ask(do="check")`
        answers = evaluate(model)           # timed: wall and CPU seconds, peak memory
        channel.answer(answers=answers)

A trainer's own loop is timed in the same way, by a callback that answers for a step and waits for the next request.
`None`, at which the loop ends, means that nobody asks any more. Requests and answers are lines of JSON.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

NUM_DRAWS = 2000


@dataclass(frozen=True)
class Measured:
    """What a round took.

    Args:
        wall: Seconds.
        cpu: User and system seconds of the process, all its threads together.
        peak_mib: Most memory that the process held during the round, MiB; None where nobody looked.
        answer: What the way itself has to say about the round.
    """

    wall: float
    cpu: float
    peak_mib: float | None = None
    answer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians, and where 95 % of such ratios lie when rounds are drawn anew."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as a cell of a table."""
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Environments:
    """Where peers are, and what they need.

    Args:
        trl_python: Interpreter with TRL.
        llava_python: Interpreter with what the original pins.
        llava_checkout: Folder of haotian-liu/LLaVA.
        tokenizer: Folder with LLaMA's `tokenizer.model`.
    """

    trl_python: Path | None = None
    llava_python: Path | None = None
    llava_checkout: Path | None = None
    tokenizer: Path | None = None


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Return theirs over ours, of rounds that took place in turn: pairs are drawn together.

    >>> str(compare([1.0, 1.0, 1.0], [2.0, 2.0, 3.0]))
    '2.00 (2.00 to 3.00)'
    """
    draw, ratios = random.Random(0), []
    for _ in range(NUM_DRAWS):
        rounds = draw.choices(range(len(ours)), k=len(ours))
        ratios.append(median(theirs[r] for r in rounds) / median(ours[r] for r in rounds))
    ratios.sort()
    return Ratio(median(theirs) / median(ours), ratios[NUM_DRAWS // 40], ratios[-NUM_DRAWS // 40 - 1])


def run_rounds(
    ways: Mapping[str, Callable[[], Measured]], *, num_rounds: int, num_warm_ups: int
) -> dict[str, list[Measured]]:
    """Return what the rounds of each way took; the order turns round each time: A B, B A, A B, ...

    Args:
        ways: What runs a round, by name.
        num_rounds: Rounds of each way that count.
        num_warm_ups: Rounds of each way before them that do not.
    """
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    for number in range(num_warm_ups + num_rounds):
        for way in ways if number % 2 == 0 else reversed(list(ways)):
            measured = ways[way]()
            if number >= num_warm_ups:
                found[way].append(measured)
            print(f"  round {number}, {way}: {measured.wall:.2f} s", file=sys.stderr, flush=True)
    return found


def pin(num_threads: int, process: int = 0) -> None:
    """Keep a process, by default this one, on the first cores; on Linux, elsewhere it stays free."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process, sorted(os.sched_getaffinity(process))[:num_threads])


def run_process(
    command: Sequence[str], num_threads: int, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Measured:
    """Return what a process took from its start to its end.

    Raises:
        RuntimeError: It did not end with status 0; holds the end of what it said.
    """
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=said, stderr=said, cwd=folder, env=_environment(num_threads, environment)
        )
        pin(num_threads, process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            raise RuntimeError(f"ended with status {process.returncode}: {' '.join(command)}\n{said.read()[-2000:]}")
    # The system counts this process's own memory into the most that its child held.
    return Measured(wall, usage.ru_utime + usage.ru_stime)


class Peer:
    """A process that works when it is asked to, and waits while others work.

    Args:
        command: What starts it; it talks through a `Channel`.
        num_threads: Threads of its numeric libraries, on as many cores, the same ones for all peers.
        environment: Variables beyond those of this process.
    """

    def __init__(self, command: Sequence[str], num_threads: int, environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(num_threads, environment),
        )
        pin(num_threads, self.process.pid)

    def ask(self, **request: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return what the way itself has to say to a request.

        Raises:
            RuntimeError: The process has ended; why stands in its standard error.
        """
        answer: dict[str, Any] = self._exchange(request)["answer"]
        return answer

    def run_round(self, **request: Any) -> Measured:  # noqa: ANN401
        """Run a round, and return what it took."""
        return Measured(**self._exchange({"do": "round", **request}))

    def close(self) -> None:
        """Let the process end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            line = ""
        else:
            line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"ended with status {self.process.wait()}: {' '.join(map(str, self.process.args))}")
        found: dict[str, Any] = json.loads(line)
        return found


class Channel:
    """The side of a process that is asked; takes over its standard output."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def wait(self) -> dict[str, Any] | None:
        """Return the next request, or None after the last one; starts the clocks."""
        line = sys.stdin.readline()
        _forget_peak()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return json.loads(line) if line else None

    def answer(self, **values: Any) -> None:  # noqa: ANN401
        """Stop the clocks, and answer the request that was waited for."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        found = {"wall": wall, "cpu": cpu, "peak_mib": read_peak(), "answer": values}
        print(json.dumps(found), file=self._answers, flush=True)


def _environment(num_threads: int, further: Mapping[str, str] | None) -> dict[str, str]:
    fixed = {"OMP_NUM_THREADS": str(num_threads), "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **fixed, "HF_HUB_OFFLINE": "1", **(further or {})}


def read_peak() -> float:
    """Return the most memory that this process held, MiB: since `Channel.wait` on Linux, elsewhere since its start."""
    if Path("/proc/self/status").exists():
        return read_memory("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def read_memory(name: str) -> float:
    """Return a kind of memory of this process on Linux, MiB: held now (VmRSS) or at most (VmHWM)."""
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) / 1024


def _forget_peak() -> None:
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")
