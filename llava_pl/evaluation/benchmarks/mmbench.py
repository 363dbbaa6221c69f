"""MMBench: multiple-choice questions of many abilities, asked once or once for each order of the choices.

Liu et al. 2023 (arXiv:2307.06281). Circular evaluation counts a question as right only if it is right in every order.
Some of MMBench's tables have a row for each order, whose index is that of the question and some millions. The file
holds its pictures; they are written to a folder when they are first needed.
"""

from __future__ import annotations

import base64
import binascii
import csv
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from llava_pl.evaluation.answers import AnswerRow
from llava_pl.evaluation.parsing import LetterParser, read_letter
from llava_pl.evaluation.scores import Asked, Scores, Verdict, is_reference, judge, score_means
from llava_pl.evaluation.task import Task
from llava_pl.types import IMAGE_SLOT, InputError, Question
from llava_pl.whole_file import whole_file

LETTERS = "ABCD"
REQUESTS = {
    "en": "Answer with the option's letter from the given choices directly.",
    "cn": "\u8bf7\u76f4\u63a5\u56de\u7b54\u9009\u9879\u5b57\u6bcd\u3002",
}
# LLaVA: the file is read by pandas, for which these words are empty cells: an option of these words ends the options.
EMPTY = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip
COPIES = 1_000_000
"""By so much, or a multiple of it, the index of a row with another order of the choices is greater."""
HIDDEN = ("hint", "category", "source", "image", "comment", "l2-category")
"""Columns that a submission leaves out."""


class MmBench(Task):
    """Up to four choices each, of perception and reasoning.

    Args:
        questions: MMBench's own table (mmbench_dev_20230712.tsv).
        image_folder: Where its pictures are written to, as INDEX.jpg, unless they are there.
        is_circular: Ask each question in every order of its choices, of a table that has one row for each question.
        language: Of what asks for the letter: "en", or "cn" for MMBench-CN.
        parser: How letters are read off answers: "exact" takes an answer that is a letter and nothing else; "strict"
            and "lenient" read more.
    """

    name = "mmbench"

    def __init__(
        self,
        *,
        questions: str | Path,
        image_folder: str | Path,
        is_circular: bool = False,
        language: Literal["en", "cn"] = "en",
        parser: LetterParser = "strict",
    ) -> None:
        self._file = Path(questions)
        self.image_folder = self._folder = Path(image_folder)
        self._is_circular = is_circular
        self._request = REQUESTS[language]
        self._parser: LetterParser = parser

    def questions(self) -> Sequence[Question]:
        """Return the questions, those of one row after each other; their pictures are in the folder then."""
        return self._questions

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        csv.field_size_limit(sys.maxsize)  # of a picture
        try:
            with self._file.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file, delimiter="\t"))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self._file}: cannot be read ({error}); expected MMBench's table") from error
        needed = {"index", "question", "image", *LETTERS[:2]}
        if not rows or not needed <= rows[0].keys():
            raise InputError(f"{self._file}: expected a table with columns {', '.join(sorted(needed))}, parted by tabs")
        for number, row in enumerate(rows, start=1):
            where = f"{self._file}: row {number}"
            if None in row or None in row.values():
                raise InputError(
                    f"{where}: expected {len(rows[0])} cells, found more or fewer; take the file as it was"
                )
            if not re.fullmatch(r"[\w-]+", row["index"]):
                raise InputError(f"{where}: column 'index': expected a number, found {row['index']!r}")
        if len({bool(row.get("answer")) for row in rows}) > 1:
            raise InputError(f"{self._file}: column 'answer': expected a letter in all rows or in none")
        if self._is_circular and any(_question_of(row["index"]) != row["index"] for row in rows):
            raise InputError(f"is_circular: {self._file} has its questions in every order already; leave it out")
        return rows

    @cached_property
    def _questions(self) -> tuple[Question, ...]:
        pictures = {row["index"]: row["image"] for row in self._rows}
        self._folder.mkdir(parents=True, exist_ok=True)
        questions = []
        for row in self._rows:
            where = f"{self._file}: index {row['index']}"
            picture = row["image"]
            # A row may name another one that has the same picture.
            holder = picture if picture in pictures else row["index"]
            name = f"{holder}.jpg"
            _write_picture(self._folder / name, pictures[holder], where)
            questions += self._ask(row, name, where)
        return tuple(questions)

    def _ask(self, row: Mapping[str, str], image: str, where: str) -> list[Question]:
        """Return a question in the orders that it is asked in."""
        given = [row.get(letter) or "" for letter in LETTERS]
        number = next((place for place, text in enumerate(given) if is_empty(text)), len(given))
        choices, answer = tuple(given[:number]), (row.get("answer") or "").strip()
        if answer and answer not in tuple(LETTERS[:number]):
            raise InputError(f"{where}: column 'answer': expected a letter of {number} options, found {answer!r}")
        hint = row.get("hint") or ""
        head = row["question"] if is_empty(hint) else f"{hint}\n{row['question']}"
        groups = tuple(row[name] for name in ("l2-category", "category") if row.get(name))
        questions = []
        for turn in range(number if self._is_circular else 1):
            turned = choices[turn:] + choices[:turn]
            options = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, turned, strict=False))
            prompt = f"{IMAGE_SLOT}\n{head}{options}\n{self._request}"
            place = (LETTERS.index(answer) - turn) % number if answer else 0
            name = f"{row['index']}#{turn}" if turn else row["index"]
            references = (LETTERS[place],) if answer else ()
            questions.append(Question(name, prompt, turned, place, image, groups, references))
        return questions

    def score(self, asked: Asked) -> Scores:
        """Return accuracy of all questions and of each ability; no score where the table has no answers.

        Where questions were asked in several orders, one is right that is right in all of them: ``circular``, and then
        ``accuracy`` of the first order alone.
        """
        is_known = any(question.references for question, _ in asked)
        every = judge(
            asked,
            lambda text, question: read_letter(text, question.choices, parser=self._parser),
            is_reference if is_known else None,
        )
        orders: dict[str, list[Verdict]] = {}
        for verdict in every:
            orders.setdefault(_question_of(verdict.id), []).append(verdict)
        if len(orders) == len(every) or not is_known:
            return score_means(every)
        worst = [replace(min(own, key=_credit), id=name, groups=own[0].groups) for name, own in orders.items()]
        circular = score_means(worst, metric="circular")
        first = score_means([verdict for verdict in every if verdict.id in orders])
        return Scores(circular.rows + first.rows, circular.verdicts, every)

    def as_written(self, question: Question, row: AnswerRow) -> dict[str, Any]:
        """Return an answer as the original's scripts look for it: by the number of its row and of its order."""
        index, _, turn = question.id.partition("#")
        prompt = question.prompt.removeprefix(f"{IMAGE_SLOT}\n").removesuffix(f"\n{self._request}")
        named = {"question_id": int(index) if index.isdecimal() else index, "round_id": int(turn or 0)}
        return {**row, **named, "prompt": prompt, "answer_id": question.id}

    def settings(self) -> dict[str, object]:
        """Return what tells one way to ask from another."""
        return {"is_circular": self._is_circular}

    def write_submission(self, path: Path, asked: Asked) -> None:
        """Write the table that MMBench's server is sent (.xlsx), with the answers to its rows as they are.

        Orders that are not in the table (`is_circular`) are left out.
        """
        try:
            from openpyxl import Workbook
            from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
        except ImportError as error:
            raise InputError(
                "--submission: MMBench's is a workbook; pip install -e '.[submit]' in the checkout"
            ) from error
        answers = {
            question.id: ILLEGAL_CHARACTERS_RE.sub("", row["text"]) for question, row in asked if row is not None
        }
        columns = [name for name in self._rows[0] if name not in HIDDEN]
        book = Workbook(write_only=True)
        sheet = book.create_sheet()
        sheet.append([*columns[:6], "prediction", *columns[6:]])
        for row in self._rows:
            given = [ILLEGAL_CHARACTERS_RE.sub("", row[name]) for name in columns]
            cells: list[str | int | None] = [None if is_empty(text) else text for text in given]
            if row["index"].isdecimal():
                cells[0] = int(row["index"])
            sheet.append([*cells[:6], answers.get(row["index"]), *cells[6:]])
        book.save(path)


def is_empty(text: str) -> bool:
    """Return whether a cell holds nothing."""
    return text in EMPTY or text.lower() in ("nan", "none")


def _question_of(name: str) -> str:
    """Return the question that a row, or one of its orders (``INDEX#2``), asks.

    >>> _question_of("2000241"), _question_of("241#1")
    ('241', '241')
    """
    index = name.partition("#")[0]
    return str(int(index) % COPIES) if index.isdecimal() else index


def _credit(verdict: Verdict) -> float:
    return verdict.credit or 0.0


def _write_picture(path: Path, content: str, where: str) -> None:
    """Write a picture unless it is there; one of another size is of another table."""
    size = len(content.rstrip("=")) * 3 // 4
    if path.is_file():
        if path.stat().st_size != size:
            raise InputError(f"{path}: expected the picture of {where}, {size} bytes; choose another image_folder")
        return
    try:
        picture = base64.b64decode(content, validate=True)
        Image.open(BytesIO(picture)).close()
    except (binascii.Error, ValueError, OSError) as error:
        raise InputError(f"{where}: column 'image': expected a picture in base64 ({error})") from error
    with whole_file(path) as part:  # every rank reads the table
        part.write_bytes(picture)
