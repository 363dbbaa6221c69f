"""`llava-pl import`, `export` and `certify`: words in, exit status out.

Help pages are answered without torch; what needs it is imported when a command runs.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from llava_pl.app.arguments import OneLineArguments
from llava_pl.app.open_model import DTYPES, add_reading_options

ENDS = (signal.SIGTERM, signal.SIGHUP)

FORMATS = ("hf", "llava", "lora", "projector")

FORMS = """forms that are read, told apart by their files and never by their names
  a folder that `import` or `export` wrote
  llava-hf's folders, with the tensor names of transformers 4 or 5
  the original LLaVA's folders: a whole model; its stage 1 or its LoRA, which need --base
  a checkpoint of `llava-pl fit`, whose base models are where its configuration says, or --base
  and --vision_encoder

What is written is read back and asked fixed questions with no, one and two pictures before it appears under its name.
If its answers are not those of the model that it was made from, nothing is left behind.
"""

EXAMPLES = {
    "import": "llava-pl import liuhaotian/llava-v1.5-7b llava-7b",
    "export": "llava-pl export runs/finetune_7b/TIME/checkpoints/last.ckpt llava-7b-hf --format hf",
    "certify": "llava-pl certify runs/finetune_7b/TIME/checkpoints/last.ckpt llava-7b-hf",
}


def main(command: str, words: Sequence[str]) -> int:
    """Run a command and return its exit status.

    Args:
        command: "import", "export" or "certify".
        words: What follows it.

    Raises:
        InputError: A path or an option is wrong, or what was written is not what was to be carried.
    """
    options = make_parser(command).parse_args(words)
    if command == "certify":
        return _certify(options)
    if command == "import":
        return _carry(options, "artifact", merge_lora=True)
    return _carry(options, options.format, merge_lora=options.merge_lora)


def make_parser(command: str) -> argparse.ArgumentParser:
    """Return the options of a command, without torch."""
    return {"import": _import_parser, "export": _export_parser, "certify": _certify_parser}[command]()


def _import_parser() -> argparse.ArgumentParser:
    parser = _parser("import", "SRC DST", "Make any form of a model a folder with all that belongs to it, merged.")
    parser.add_argument("source", type=Path, metavar="SRC", help="folder or file to read")
    parser.add_argument("target", type=Path, metavar="DST", help="folder to make")
    _add_writing(parser)
    return parser


def _export_parser() -> argparse.ArgumentParser:
    parser = _parser("export", "CKPT DST --format FORMAT", "Write a model as other programs read it.")
    parser.add_argument("source", type=Path, metavar="CKPT", help="checkpoint of a run, or any other form")
    parser.add_argument("target", type=Path, metavar="DST", help="folder to make")
    parser.add_argument(
        "--format",
        required=True,
        choices=FORMATS,
        help="hf: stock transformers; llava: the original's code; lora, projector: its partial folders",
    )
    parser.add_argument("--merge_lora", action="store_true", help="make a LoRA part of the weights (hf and llava)")
    _add_writing(parser)
    return parser


def _certify_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "certify",
        "A B",
        "Ask two forms of a model the same questions, and compare how they are asked; status 1 if they are not one.",
    )
    parser.add_argument("a", type=Path, metavar="A", help="folder or file")
    parser.add_argument("b", type=Path, metavar="B", help="folder or file")
    add_reading_options(parser)
    return parser


def _certify(options: argparse.Namespace) -> int:
    from llava_pl.export.carry import certify

    findings, is_same = certify(
        options.a, options.b, base=options.base, vision_encoder=options.vision_encoder, unsafe=options.unsafe
    )
    for finding in findings:
        _say(str(finding))
    _say("the same model, up to rounding" if is_same else "not the same model")
    return 0 if is_same else 1


def _carry(options: argparse.Namespace, layout: str, *, merge_lora: bool) -> int:
    from llava_pl.export.carry import carry, check_target, open_source
    from llava_pl.export.model_config import DTYPES as TORCH_DTYPES

    check_target(options.target)  # before minutes of reading
    _say(f"reading {options.source}")
    pretrained = open_source(
        options.source,
        base=options.base,
        vision_encoder=options.vision_encoder,
        tokenizer=options.tokenizer,
        unsafe=options.unsafe,
    )
    dtype = None if options.dtype is None else TORCH_DTYPES[options.dtype]
    with orderly_end():
        rows = carry(pretrained, options.target, layout, dtype=dtype, merge_lora=merge_lora, say=_say)  # type: ignore[arg-type]
    for row in rows:
        _say(str(row))
    _say(f"wrote {options.target}")
    return 0


@contextmanager
def orderly_end() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the process as an exception does, so that no half-written folder stays."""
    before = {number: signal.getsignal(number) for number in ENDS}

    def stop(number: int, _: object) -> NoReturn:
        for each in ENDS:
            signal.signal(each, signal.SIG_IGN)  # a second one would cut the cleaning short
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # no other may ask for signals
        yield
        return
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as of `nohup`
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser(command: str, places: str, description: str) -> argparse.ArgumentParser:
    return OneLineArguments(
        prog=f"llava-pl {command}",
        usage=f"llava-pl {command} {places} [options]",
        description=description,
        epilog=f"{FORMS}\nexample\n  {EXAMPLES[command]}",
    )


def _add_writing(parser: argparse.ArgumentParser) -> None:
    add_reading_options(parser)
    parser.add_argument("--tokenizer", metavar="MODEL", help="tokenizer of a source that has none")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights that are written (default: as they are)")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
