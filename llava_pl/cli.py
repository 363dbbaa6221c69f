"""The command line's front door.

What can be answered without torch is answered here; everything else is handed on to ``lightning_cli.py``, whose imports
alone take seconds.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from llava_pl import __version__
from llava_pl.app.commands import APP_COMMANDS, CARRY_COMMANDS, COMMANDS, SUMMARIES
from llava_pl.app.fit_page import find_help, fit_page
from llava_pl.standard_output import lasting_stdout
from llava_pl.types import InputError, RecordError

_COMMANDS = "\n".join(f"  {name:<10} {summary}" for name, summary in SUMMARIES.items())

HELP = f"""usage: llava-pl COMMAND [options]

LLaVA as a PyTorch Lightning research codebase.

commands
{_COMMANDS}

examples
  llava-pl fit --config configs/experiment/align_7b.yaml
  llava-pl fit --config configs/experiment/finetune_7b.yaml --model.init_from FILE
  llava-pl test --config configs/experiment/scienceqa_7b.yaml --ckpt_path FILE
  llava-pl fit --config configs/experiment/finetune_7b.yaml --print_config
  llava-pl chat runs/finetune_7b/TIME --image cat.jpg
  llava-pl runs runs/finetune_7b/TIME --curves
  llava-pl export runs/finetune_7b/TIME/checkpoints/last.ckpt llava-7b-hf --format hf

options
  -h, --help     show this page; COMMAND --help shows the options of a command
  --version      show the version

Status: 0 good, 1 problems were found, 2 wrong usage or input, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 good, 1 bad data, 2 wrong usage or input, 130 interrupted.

    Args:
        argv: Words after the program's name; those of the process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with lasting_stdout():
            return _run(words)
    except InputError as error:
        # An error from a data worker arrives with the worker's traceback around it; its last line is the message.
        message = str(error).strip().splitlines()[-1].removeprefix(f"llava_pl.types.{type(error).__name__}: ")
        # Where there is one bad record there may be more, each of which would end a run of its own.
        hint = "; `llava-pl data check` lists all such records, and writes them down with --quarantine FILE"
        is_hinted = isinstance(error, RecordError) and words[0] == "fit"
        sys.stderr.write(f"llava-pl: error: {message}{hint if is_hinted else ''}\n")
        return 2
    except OSError as error:
        return _explain(error)
    except KeyboardInterrupt:
        sys.stderr.write("llava-pl: interrupted\n")
        return 130


def _explain(error: OSError) -> int:
    """Say what the system refused, and return the exit status; raise it again where that is no file of the user's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = error.filename or "the folder of the run"  # a write names no file
        sys.stderr.write(f"llava-pl: error: {what}: {error.strerror}; make room, and start again\n")
        return 2
    if error.filename is None:  # about no file that the user could have named
        raise error
    sys.stderr.write(f"llava-pl: error: {error.filename}: {error.strerror}; check the path, or choose another\n")
    return 2


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return 0 if words else 2
    if words[0] == "--version":
        sys.stdout.write(f"llava_pl {__version__}\n")
        return 0
    if words[0] not in COMMANDS:
        raise InputError(f"unknown command {words[0]!r}; expected one of {', '.join(COMMANDS)}")
    if words[0] == "demo":
        # Before torch is imported: by default its threads wait by spinning, which on two cores beside any other
        # process is twenty times slower (7 pictures a second, with this 40; on a quiet machine 137 and 113).
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if (module := APP_COMMANDS.get(words[0])) is not None:
        return int(import_module(f"llava_pl.app.{module}").main(words[1:]))
    if words[0] in CARRY_COMMANDS:
        from llava_pl.app.carry_commands import main as run_carry

        return run_carry(words[0], words[1:])
    if (asked := find_help(words[1:])) == "page":
        sys.stdout.write(fit_page(words[0]))
        return 0
    if asked == "all":
        words = [words[0], "--help"]
    if "torch" not in sys.modules:  # else a notebook's own objects would be frozen
        _import_lightning()
    from llava_pl.lightning_cli import run_lightning

    run_lightning(words)
    return 0


def _import_lightning() -> None:
    """Import without collecting garbage: there is none, and looking for it takes a seventh of a start's time.

    What the modules hold is not looked at later either.
    """
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        import llava_pl.lightning_cli  # noqa: F401
    finally:
        gc.freeze()
        if is_enabled:
            gc.enable()
