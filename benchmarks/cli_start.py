"""B11: what it costs to ask the program for help, beside a bare interpreter and the import of torch and Lightning.

    python benchmarks/cli_start.py

Rounds are interleaved, so that a slow moment of the machine hits every command alike; medians are compared.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

NUM_ROUNDS = 11
PROGRAM = str(Path(sys.executable).with_name("llava-pl"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "llava-pl --help": [PROGRAM, "--help"],
    "llava-pl --version": [PROGRAM, "--version"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    "python -c 'import lightning'": [sys.executable, "-c", "import lightning"],
}


def time_command(command: list[str]) -> float:
    """Return the wall time of a command in seconds."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print a Markdown table."""
    for command in COMMANDS.values():
        time_command(command)  # warm the file cache
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(NUM_ROUNDS):
        for name, command in COMMANDS.items():
            seconds[name].append(time_command(command))
    bare = median(seconds["python -c pass"])
    print("| command | median, s | above bare python, s |\n| --- | --- | --- |")
    for name, values in seconds.items():
        print(f"| `{name}` | {median(values):.3f} | {median(values) - bare:.3f} |")


if __name__ == "__main__":
    main()
