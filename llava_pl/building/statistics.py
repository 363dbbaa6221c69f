"""What a file of records holds, in numbers: how many, how long, about what.

In: records. Out: `Statistics`, which a terminal and a page show.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llava_pl.building.own_files import read_lines
from llava_pl.types import IMAGE_SLOT, Record

QUANTILES = {"least": 0.0, "5 %": 0.05, "half": 0.5, "95 %": 0.95, "most": 1.0}
NUM_BINS = 40

FUNCTION_WORDS = frozenset(read_lines(Path(__file__).parent / "function_words.txt", "llava_pl"))
"""Words that name nothing."""

_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")


@dataclass(slots=True)
class Lengths:
    """Numbers, each counted: a million records take no more memory than their different lengths.

    Args:
        counts: How often each number is there.
    """

    counts: Counter[int] = field(default_factory=Counter)

    def quantiles(self) -> dict[str, int]:
        """Return what `QUANTILES` name; nothing without numbers."""
        if not self.counts:
            return {}
        values = np.array(sorted(self.counts))
        cumulative = np.cumsum([self.counts[value] for value in values.tolist()])
        places = {name: int(share * (cumulative[-1] - 1)) for name, share in QUANTILES.items()}
        return {name: int(values[np.searchsorted(cumulative, place, "right")]) for name, place in places.items()}

    def most_usual(self) -> int:
        """Return the number that 99 % do not pass; 0 without numbers."""
        wanted, seen = 0.99 * self.counts.total(), 0
        return next((value for value in sorted(self.counts) if (seen := seen + self.counts[value]) >= wanted), 0)

    def histogram(self, end: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return counts ``(bins,)`` and edges ``(bins + 1,)`` from 0 to ``end`` or a little more.

        A bin holds as many whole numbers as each other one; there are at most `NUM_BINS`.
        """
        width = -(-(end + 1) // NUM_BINS)
        num_bins = -(-(end + 1) // width)
        edges = width * np.arange(num_bins + 1, dtype=np.float64) - 0.5
        counts, _ = np.histogram(list(self.counts), edges, weights=np.array(list(self.counts.values()), np.float64))
        return counts, edges


@dataclass(slots=True)
class Statistics:
    """What records hold.

    Args:
        num_records: All of them.
        num_without_picture: Those that are text alone.
        questions: Of a record, how many.
        question_words: Of a question.
        answer_words: Of an answer.
        openings: First two words of questions.
        concepts: Words of answers that are no `FUNCTION_WORDS`: in how many records each is.
        pictures: How many records show each.
        folders: How many records show a picture of each folder, which says where the pictures are from.
    """

    num_records: int = 0
    num_without_picture: int = 0
    questions: Lengths = field(default_factory=Lengths)
    question_words: Lengths = field(default_factory=Lengths)
    answer_words: Lengths = field(default_factory=Lengths)
    openings: Counter[str] = field(default_factory=Counter)
    concepts: Counter[str] = field(default_factory=Counter)
    pictures: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)


def measure_records(records: Iterable[Record]) -> Statistics:
    """Return what records hold."""
    found = Statistics()
    for record in records:
        found.num_records += 1
        found.num_without_picture += not record.images
        found.pictures.update(record.images)
        found.folders.update(sorted({image.rpartition("/")[0] or "." for image in record.images}))
        found.questions.counts[sum(turn.role == "human" for turn in record.turns)] += 1
        concepts: set[str] = set()
        for turn in record.turns:
            words = _WORD.findall(turn.text.replace(IMAGE_SLOT, " "))
            if turn.role == "human":
                found.question_words.counts[len(words)] += 1
                found.openings[" ".join(words[:2]).lower()] += 1
            else:
                found.answer_words.counts[len(words)] += 1
                concepts.update(map(str.lower, words))
        found.concepts.update(sorted(concepts - FUNCTION_WORDS))
    return found
