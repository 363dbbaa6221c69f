"""`llava-pl chat`: a conversation in the terminal, or one answer to what a pipe or an option asks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from llava_pl.app.arguments import OneLineArguments, check_place
from llava_pl.app.open_model import add_model_options, check_exists, open_model
from llava_pl.types import InputError
from llava_pl.visible import visible

if TYPE_CHECKING:
    from llava_pl.app.talk.chat import Conversation
    from llava_pl.evaluation.chat import Sampling

DESCRIPTION = """Talk with a model about pictures. Without --prompt, and where no pipe asks, the terminal does.

  llava-pl chat runs/finetune_7b/TIME --image cat.jpg
  llava-pl chat llava-7b --image cat.jpg --prompt "What is it doing?"
  echo "Name three colours." | llava-pl chat llava-7b --quantization nf4"""

NUM_REMEMBERED = 1000
"""Lines that are kept for the next conversation."""

COMMANDS = """/image FILE   show a picture with the next question; again for several
/reset        begin a new conversation
/save FILE    write the conversation as a record that models learn from (JSON)
/help         this list
/quit         end, as Ctrl-D does; Ctrl-C ends an answer
"""


def main(words: Sequence[str]) -> int:
    """Talk, and return the exit status.

    Args:
        words: What follows ``llava-pl chat``.

    Raises:
        InputError: An option is wrong, or a picture or the model cannot be read.
    """
    options = make_parser().parse_args(list(words))
    from llava_pl.app.talk.chat import Conversation  # not at the top, and so below: its imports take seconds

    check_exists(options.model)
    sampling = make_sampling(options)
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no text is refused with its question
    is_asked_here = options.prompt is None and sys.stdin.isatty()
    prompt = options.prompt if options.prompt is not None or is_asked_here else sys.stdin.read()
    if not is_asked_here and not (prompt or "").strip():
        raise InputError("chat: expected a question, found nothing; write it behind --prompt or into the pipe")
    for path in options.image:
        check_picture(path)  # before minutes of reading weights
    conversation = Conversation(open_model(options), sampling)
    for path in options.image:
        conversation.show(path)
    if is_asked_here:
        with _line_editing():
            talk(conversation)
    else:
        answer(conversation, prompt)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(
        prog="llava-pl chat",
        usage="llava-pl chat MODEL [--image FILE] [--prompt TEXT] [options]",
        description=DESCRIPTION,
    )
    add_model_options(parser)
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="picture to show; may be repeated")
    parser.add_argument("--prompt", metavar="TEXT", help="question to answer, and end")
    add_sampling_options(parser)
    return parser


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of how words are chosen."""
    parser.add_argument("--max_new_tokens", type=int, default=512, metavar="N", help="cut answers there (512)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest words (0)")
    parser.add_argument("--top_p", type=float, default=1.0, metavar="P", help="draw from words of this share (1)")
    parser.add_argument("--seed", type=int, metavar="N", help="draw the same words again")


def make_sampling(options: argparse.Namespace) -> Sampling:
    """Return how words are chosen.

    Raises:
        InputError: A number is out of its range.
    """
    from llava_pl.evaluation.chat import Sampling  # not at the top: its imports take seconds

    return Sampling(options.max_new_tokens, options.temperature, options.top_p, options.seed)


def check_picture(path: str) -> None:
    """Check that a file is a picture, without decoding it.

    Raises:
        RecordError: It is none.
    """
    from llava_pl.data.picture_files import read_picture_size

    read_picture_size(Path(path).expanduser())


def answer(conversation: Conversation, text: str) -> None:
    """Print the answer to a question as it is written; Ctrl-C ends it."""
    pieces = conversation.ask(text)
    try:
        for piece in pieces:
            _print(piece)
    except KeyboardInterrupt:
        pieces.close()
        _print(" [stopped]")
        if not sys.stdin.isatty():
            raise
    finally:
        _print("\n")


def talk(conversation: Conversation, read: Callable[[str], str] = input) -> None:
    """Answer what is typed, until its end.

    Args:
        conversation: To go on with.
        read: Returns a line that was typed after a prompt.
    """
    _print(f"{conversation.opened.name}: ask something; /help lists the commands\n")
    for path, picture in conversation.waiting:
        _say_picture(path, picture.size)
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            _print("\n")
            return
        except KeyboardInterrupt:
            _print("\n/quit or Ctrl-D ends\n")
            continue
        try:
            if line in ("/quit", "/exit"):
                return
            if line.startswith("/"):
                _obey(conversation, line)
            elif line:
                answer(conversation, line)
        except (InputError, OSError) as error:
            _print(f"{visible(str(error))}\n")


def _obey(conversation: Conversation, line: str) -> None:
    command, _, rest = line.partition(" ")
    rest = rest.strip().strip("'\"")
    if command == "/help":
        _print(COMMANDS)
    elif command == "/reset":
        conversation.reset()
        _print("a new conversation\n")
    elif command == "/image" and rest:
        _say_picture(rest, conversation.show(rest))
    elif command == "/save" and rest:
        path = Path(rest).expanduser()
        check_place(path, "/save")
        conversation.save(path)
        _print(f"wrote {path}\n")
    else:
        _print(f"expected one of these, found {visible(line)!r}\n{COMMANDS}")


def _say_picture(path: str, size: tuple[int, int]) -> None:
    _print(f"the next question shows {visible(path)}, {size[0]} x {size[1]} pixels\n")


def _print(text: str) -> None:
    """Print text of a model or a file at once; what a terminal would take for a command is written out."""
    sys.stdout.write("\n".join(map(visible, text.split("\n"))))
    sys.stdout.flush()


@contextmanager
def _line_editing() -> Iterator[None]:
    """Have lines edited, and remembered from one conversation to the next, where Python was built with that."""
    try:
        import readline  # `input` uses it from then on
    except ImportError:
        yield
        return
    from llava_pl.data.store_cache import default_cache_dir

    path = default_cache_dir() / "chat_history"
    with suppress(OSError):  # there is none yet
        readline.read_history_file(path)
    readline.set_history_length(NUM_REMEMBERED)
    try:
        yield
    finally:
        with suppress(OSError):  # a conversation does not fail for it
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
