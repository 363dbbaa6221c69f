"""Files of wordings, from which each record draws how it asks; users may write their own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from llava_pl.building.own_files import read_lines
from llava_pl.types import IMAGE_SLOT, InputError

FOLDER = Path(__file__).parent / "wording"
BRIEF = FOLDER / "brief.txt"
DETAILED = FOLDER / "detailed.txt"


def read_wordings(path: Path) -> list[str]:
    """Return the wordings of a file, one a line; blank lines and comments (#) are passed over.

    Raises:
        InputError: The file cannot be read, holds none, or one of them holds an image slot.
    """
    wordings = read_lines(path, "--wording")
    if not wordings:
        raise InputError(f"--wording: {path}: expected one wording a line, found none")
    if with_slot := [line for line in wordings if IMAGE_SLOT in line]:
        raise InputError(
            f"--wording: {path}: expected words alone, found {with_slot[0]!r}; {IMAGE_SLOT} is put beside them"
        )
    return wordings


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
