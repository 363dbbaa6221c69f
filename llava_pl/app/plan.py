"""`llava-pl plan`: words in, a plan on the terminal or as JSON out, exit status back.

The help page is answered without torch; what needs it is imported when the command runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_pl.app.arguments import OneLineArguments, check_place
from llava_pl.types import InputError

EPILOG = """Every option of `llava-pl fit` is understood, with the same meaning, above all --config;
`llava-pl fit --help` lists them. No weight is read and no GPU is needed: a micro batch goes through the
model itself without numbers.

examples
  llava-pl plan --config configs/experiment/finetune_7b.yaml --config configs/strategy/fsdp2.yaml
  llava-pl plan --config configs/experiment/finetune_lora_7b.yaml --device_memory_gib 40 --json -

Status 1 if something does not go together, 2 for wrong usage.
"""


def main(words: Sequence[str]) -> int:
    """Plan a run and return the exit status: 0 if nothing contradicts itself, 1 otherwise.

    Args:
        words: What follows ``llava-pl plan``.

    Raises:
        InputError: An option or the configuration is wrong.
    """
    parser = make_parser()
    if not words:
        parser.print_help()
        return 2
    options, rest = parser.parse_known_args(words)
    if str(options.json) != "-":
        _check_plan_place(options.json)

    from llava_pl.app.load_data import load_run
    from llava_pl.app.plan_terminal import as_plain, print_plan
    from llava_pl.planning.planner import plan_run
    from llava_pl.planning.run_plan import Assumptions

    names = ("device_memory_gib", "headroom", "mfu", "device_tflops", "num_samples", "mean_length")
    assumptions = Assumptions(**{name: getattr(options, name) for name in names})
    run = load_run(rest)
    plan = plan_run(run.module, run.data, run.config, assumptions)
    text = json.dumps(as_plain(plan), indent=1) + "\n"
    if options.json is None:
        print_plan(plan)
    elif str(options.json) == "-":
        sys.stdout.write(text)
    else:
        options.json.write_text(text, encoding="utf-8")
    return 1 if plan.contradictions else 0


def _check_plan_place(path: Path | None) -> None:
    """Check that the plan can be written, and that nothing but an earlier one is replaced."""
    check_place(path, "--json")
    if path is None or not path.exists():
        return
    try:
        is_plan = "steps_per_epoch" in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        is_plan = False
    if not is_plan:
        raise InputError(
            f"--json: {path}: expected a new file or an earlier plan, found another file; choose another name"
        )


def make_parser() -> argparse.ArgumentParser:
    """Return the own options, without torch; those of `fit` are understood, too."""
    parser = OneLineArguments(
        prog="llava-pl plan",
        usage="llava-pl plan --config FILE [--config FILE ...] [options]",
        description="Say what a run needs before it costs anything: parameters, memory, disk, work, steps and hours.",
        epilog=EPILOG,
    )
    numbers = parser.add_argument
    numbers("--device_memory_gib", type=float, default=80.0, metavar="GIB", help="of a device (%(default)s)")
    numbers(
        "--headroom",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of it that is left to context, kernels, fragments and network, which are not counted (%(default)s)",
    )
    numbers(
        "--mfu", type=float, default=0.4, metavar="SHARE", help="of a device's operations that is used (%(default)s)"
    )
    numbers(
        "--device_tflops",
        type=float,
        default=312.0,
        metavar="N",
        help="10^12 operations a second of a device (%(default)s: A100, bfloat16)",
    )
    numbers("--num_samples", type=int, metavar="N", help="samples of an epoch, where the records are not here")
    numbers("--mean_length", type=float, metavar="T", help="positions of a sample on average, likewise")
    numbers("--json", type=Path, metavar="FILE", help="write the plan here as JSON; - for the terminal")
    return parser
