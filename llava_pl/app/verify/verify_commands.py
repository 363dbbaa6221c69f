"""`llava-pl verify invariance`: words in, exit status out.

Help pages are answered without torch; what needs it is imported when the command runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from llava_pl.app.arguments import OneLineArguments, check_place
from llava_pl.app.carry_commands import orderly_end
from llava_pl.types import InputError

HELP = """usage: llava-pl verify invariance --config FILE [options]

Prove a property of your own configuration on the machine at hand, by running it.

commands
  invariance   the numbers of a run do not depend on its number of ranks, or on what it accumulates

example
  llava-pl verify invariance --config configs/experiment/align_7b.yaml --ranks 2 4

`llava-pl verify invariance --help` lists the options. Status 0 when it holds, 1 when it does not, 2
for wrong usage.
"""

DESCRIPTION = """\
Run your own configuration for a few steps on one rank, on several, and on one rank with smaller micro batches, and
compare what must be the same: the samples of each step (each once), the loss and the gradient norm of each step, the
trained weights, the validation that follows, and the answers that it generates. Several ranks work under the strategy
of the configuration: processes on a CPU, or GPUs. A step keeps its samples; each run is `llava-pl fit` in a fresh
process and a folder of its own.
"""

EPILOG = """\
Every option of `llava-pl fit` is understood, above all --config; `llava-pl fit --help` lists them. What would be drawn
anew by each rank (the dropout of LoRA and of the qformer) is off, and said.

examples
  llava-pl verify invariance --config configs/experiment/finetune_7b.yaml --model.init_from FILE
  llava-pl verify invariance --config configs/experiment/align_7b.yaml --ranks 2 4

Status 0: invariant; 1: a difference is larger than the tolerance, with what differs first; 2: wrong usage.
"""


def main(words: Sequence[str]) -> int:
    """Run a command and return its exit status.

    Args:
        words: What follows ``llava-pl verify``.

    Raises:
        InputError: The command, an option or the configuration is wrong, or a run failed.
    """
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return 0 if words else 2
    if words[0] != "invariance":
        raise InputError(f"verify: unknown command {words[0]!r}; expected invariance")
    return _invariance(words[1:])


def _invariance(words: Sequence[str]) -> int:
    options, rest = make_parser().parse_known_args(words)
    workspace: Path = options.out or Path("runs") / "verify" / time.strftime("%Y-%m-%d_%H-%M-%S")
    if workspace.exists() and (not workspace.is_dir() or any(workspace.iterdir())):
        raise InputError(f"--out: {workspace}: expected a new or empty folder, found another; choose a new name")
    _check_table_place(options.json)

    from llava_pl.app.verify.invariance import compare, read_run
    from llava_pl.app.verify.invariance_plan import plan_invariance
    from llava_pl.app.verify.invariance_runs import run_split
    from llava_pl.app.verify.invariance_terminal import is_invariant, print_comparisons, to_json

    plan = plan_invariance(
        rest,
        ranks=options.ranks,
        num_steps=options.steps,
        num_validated=options.val_samples,
        tolerance=options.tolerance,
    )
    for note in plan.notes:
        _say(f"note: {note}\n")
    reference, comparisons = None, []
    try:
        with orderly_end():
            for number, split in enumerate(plan.splits, start=1):
                _say(f"run {number} of {len(plan.splits)}: {split} ... ")
                start = time.monotonic()
                try:
                    run_dir = run_split(rest, plan, split, workspace)
                finally:
                    _say(f"{time.monotonic() - start:.0f} s\n")
                recorded = read_run(run_dir, split.num_ranks)
                if reference is None:
                    reference = recorded
                else:
                    comparisons.append(compare(split, reference, recorded))
                    _drop_checkpoints(run_dir)  # at most two are there: they may be large
    finally:
        for split in plan.splits:
            _drop_checkpoints(workspace / split.folder)
    print_comparisons(plan, comparisons)
    if options.json is not None:
        options.json.write_text(json.dumps(to_json(plan, comparisons), indent=2) + "\n", encoding="utf-8")
        _say(f"wrote {options.json}\n")
    _say(f"logs, ledgers and answers of the runs are in {workspace}\n")
    return 0 if is_invariant(plan, comparisons) else 1


def _drop_checkpoints(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)


def make_parser() -> argparse.ArgumentParser:
    """Return the own options, without torch; those of `fit` are understood, too."""
    parser = OneLineArguments(
        prog="llava-pl verify invariance",
        usage="llava-pl verify invariance --config FILE [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument(
        "--ranks",
        type=_at_least(1),
        nargs="+",
        metavar="N",
        help="processes to compare with one (all GPUs, or 2)",
    )
    parser.add_argument("--steps", type=_at_least(2), default=4, metavar="N", help="optimizer steps (%(default)s)")
    parser.add_argument(
        "--val_samples", type=_at_least(0), default=64, metavar="N", help="samples to validate with (%(default)s)"
    )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        metavar="X",
        help="largest relative difference that passes (1e-5 in float32, 5e-3 in mixed precision, 2e-2 in bf16-true)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table here, too")
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder for the runs (runs/verify/TIME)")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, found {text}") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, found {value}")
        return value

    return number


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text}")
    return value


def _check_table_place(path: Path | None) -> None:
    """Check that the table can be written, and that nothing but an earlier one is replaced."""
    check_place(path, "--json")
    if path is None or not path.exists():
        return
    try:
        is_table = "is_invariant" in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        is_table = False
    if not is_table:
        raise InputError(
            f"--json: {path}: expected a new file or an earlier table, found another file; choose another name"
        )


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
