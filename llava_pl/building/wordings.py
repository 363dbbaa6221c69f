"""Files of wordings, from which each record draws how it asks; users may write their own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from llava_pl.types import IMAGE_SLOT, InputError

FOLDER = Path(__file__).parent / "wording"
BRIEF = FOLDER / "brief.txt"
DETAILED = FOLDER / "detailed.txt"


def read_wordings(path: Path) -> list[str]:
    """Return the wordings of a file, one a line; blank lines and comments (#) are passed over.

    Raises:
        InputError: The file cannot be read, holds none, or one of them holds an image slot.
    """
    try:
        wordings = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--wording: {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not wordings:
        raise InputError(f"--wording: {path}: expected one wording a line, found none")
    if with_slot := [line for line in wordings if IMAGE_SLOT in line]:
        raise InputError(
            f"--wording: {path}: expected words alone, found {with_slot[0]!r}; {IMAGE_SLOT} is put beside them"
        )
    return wordings


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file, without blank ones and comments (#).

    Raises:
        OSError: It cannot be read.
        UnicodeDecodeError: It is not UTF-8.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def ask_about_picture(wordings: Sequence[str], seed: int, name: str) -> str:
    """Return the first turn of a record: its picture, and a question about it.

    The draw depends on the seed and the record alone: another record more or less in the file changes nothing.

    Args:
        wordings: What is drawn from.
        seed: Of all draws.
        name: Of the record.
    """
    rng = random.Random(f"{seed} {name}")
    return put_picture(rng.choice(wordings), rng)


def put_picture(question: str, rng: random.Random) -> str:
    """Return a question with its picture in front or behind, one as often as the other (LLaVA paper, equation 2)."""
    return f"{IMAGE_SLOT}\n{question}" if rng.random() < 0.5 else f"{question}\n{IMAGE_SLOT}"
