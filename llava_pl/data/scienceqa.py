r"""The ScienceQA data set: official files in, records to train on and questions to ask out.

In: a folder in the official layout (``problems.json``, ``pid_splits.json``, ``images/<split>/<id>/image.png``).
Out: `Record` for ``data/sample_encoder.py`` (training) and `Question` (evaluation); ``evaluation/scienceqa.py`` scores
the answers by the groups of `official_categories`. No picture is opened here.

A prompt format names what the model reads and what it writes, in order: Question, Context, Multiple options; Lecture,
Explanation, Answer. Those that give the lecture or the explanation away before the answer measure an upper bound. The
texts are byte-equal to those of LLaVA's converter, its quirks included: published models were trained on them, and a
different space already moves the score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llava_pl.data.json_files import read_json_object
from llava_pl.data.sources import Advance, Source
from llava_pl.types import IMAGE_SLOT, InputError, Question, Record, Turn

QUESTION_FORMATS = ("QCM", "CQM", "QCML", "QCME", "QCMLE", "QCLM", "QCEM", "QCLEM")
ANSWER_FORMATS = ("LEA", "ALE", "A", "AL", "AE", "AEL", "LA", "EA", "ELA", "LEPA")

OPTION_LETTERS = "ABCDE"
DIRECT_ANSWER_REQUEST = "Answer with the option's letter from the given choices directly."

_SUBJECT_GROUPS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_GRADE_GROUPS = {f"grade{number}": "G1-6" if number <= 6 else "G7-12" for number in range(1, 13)}


@dataclass(frozen=True, slots=True)
class Problem:
    """One entry of ``problems.json``, field by field as in the file.

    Args:
        id: Its key in the file.
        question: What is asked.
        choices: Two to five options; the first is letter A.
        answer: Index of the right option.
        hint: Context in words, "" without.
        image: Name of the picture inside ``images/<split>/<id>/``, None without.
        task: Kind of the question, such as "closed choice".
        grade: "grade1" to "grade12".
        subject: "natural science", "social science" or "language science".
        topic: Finer than the subject.
        category: Finer than the topic.
        skill: Finer than the category.
        lecture: General explanation, "" without.
        solution: Explanation of this answer, "" without.
        split: "train", "val" or "test": the folder that its picture lies in.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    hint: str
    image: str | None
    task: str
    grade: str
    subject: str
    topic: str
    category: str
    skill: str
    lecture: str
    solution: str
    split: str

    @property
    def image_path(self) -> str | None:
        """File of the picture relative to the root of the data set, None without a picture.

        The folder is the problem's own split: the problems of ``trainval`` or ``minitest`` keep their pictures there.
        """
        return None if self.image is None else f"images/{self.split}/{self.id}/{self.image}"


_TEXT_FIELDS = tuple(field.name for field in fields(Problem) if field.type == "str" and field.name != "id")


def read_scienceqa(root: Path, split: str) -> dict[str, Problem]:
    """Return the problems of a split by id, in the order of ``pid_splits.json``, each one validated.

    Args:
        root: Folder that holds ``problems.json`` and ``pid_splits.json``.
        split: A key of ``pid_splits.json``, such as "train" or "minitest".

    Raises:
        InputError: A file is missing or is no JSON, the split is unknown, an id has no problem, or a field is wrong.
    """
    splits_path, problems_path = root / "pid_splits.json", root / "problems.json"
    splits, problems = read_json_object(splits_path), read_json_object(problems_path)
    if split not in splits:
        raise InputError(f"{splits_path}: unknown split {split!r}, expected one of {', '.join(splits)}")
    ids = splits[split]
    if not isinstance(ids, list) or not all(isinstance(problem_id, str) for problem_id in ids):
        raise InputError(f"{splits_path}: split {split!r}: expected a list of problem ids as strings")
    for problem_id in ids:
        if problem_id not in problems:
            raise InputError(
                f"{problems_path}: no problem {problem_id!r}, which {splits_path.name} lists in split {split!r}; "
                "take both files from the same release"
            )
    return {problem_id: check_problem(problems_path, problem_id, problems[problem_id]) for problem_id in ids}


def check_problem(path: Path, problem_id: str, problem: object) -> Problem:
    """Return a problem whose fields are all there, and of the right kind.

    Args:
        path: Where it stands, for messages.
        problem_id: Its key.
        problem: Its fields.

    Raises:
        InputError: One of them is wrong.
    """
    if not isinstance(problem, dict):
        raise InputError(f"{path}: problem {problem_id!r}: expected a JSON object, found {type(problem).__name__}")
    raw: dict[str, Any] = problem

    def check(holds: bool, field: str, expected: str) -> None:
        if not holds:
            found = repr(raw[field]) if field in raw else "nothing"
            raise InputError(f"{path}: problem {problem_id!r}: field {field!r}: expected {expected}, found {found}")

    for field in _TEXT_FIELDS:
        check(isinstance(raw.get(field), str), field, "a string")
    choices, answer, image = raw.get("choices"), raw.get("answer"), raw.get("image")
    is_text_list = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    check(is_text_list and 2 <= len(choices or ()) <= len(OPTION_LETTERS), "choices", "a list of 2 to 5 strings")
    num_choices = len(choices or ())
    check(type(answer) is int and 0 <= answer < num_choices, "answer", f"an integer from 0 to {num_choices - 1}")
    check(
        "image" in raw and (image is None or (isinstance(image, str) and image != "")), "image", "a file name or null"
    )
    texts = {field: raw[field] for field in _TEXT_FIELDS}
    return Problem(id=problem_id, choices=tuple(choices or ()), answer=answer or 0, image=image, **texts)


def check_prompt_format(prompt_format: str) -> None:
    """Check that there is such a format.

    Raises:
        InputError: There is none; holds the parts of those that there are.
    """
    question, _, answer = prompt_format.partition("-")
    if question not in QUESTION_FORMATS or answer not in ANSWER_FORMATS:
        raise InputError(
            f"prompt_format: expected one of {', '.join(QUESTION_FORMATS)}, a dash, and one of "
            f"{', '.join(ANSWER_FORMATS)}, found {prompt_format!r}"
        )


def question_text(problem: Problem, prompt_format: str) -> str:
    r"""Return what the human says, without an image slot.

    >>> problem = Problem("7", "Is ice  cold?", ("yes", "no"), 0, "", None, *[""] * 6, "Ice is frozen.", "It is.", "")
    >>> question_text(problem, "QCM-A")
    'Is ice cold?\nContext: N/A\nOptions: (A) yes (B) no'
    >>> question_text(problem, "CQM-A")
    'Context: N/A\nQuestion: Is ice cold?\nOptions: (A) yes (B) no'
    >>> question_text(problem, "QCLEM-A")
    'Is ice cold?\nContext: N/A\nBECAUSE: Ice is frozen. It is.\nOptions: (A) yes (B) no'
    """
    question_format = prompt_format.partition("-")[0]
    question = f"Question: {problem.question}\n"
    context = f"Context: {problem.hint.strip() or 'N/A'}\n"
    choices = " ".join(f"({letter}) {choice}" for letter, choice in zip(OPTION_LETTERS, problem.choices, strict=False))
    options = f"Options: {choices}\n"
    given = "".join(letter for letter in question_format if letter in "LE")
    because = f"BECAUSE: {_reasons(problem, given)}\n" if given else ""
    if question_format == "CQM":
        text = context + question + options
    else:
        text = question + context + (because + options if question_format.endswith("M") else options + because)
    return _tidy(text, prefix="Question: ")


def answer_text(problem: Problem, prompt_format: str) -> str:
    """Return what the model learns to say.

    >>> problem = Problem("7", "Is ice cold?", ("yes", "no"), 0, "", None, *[""] * 6, "Ice is frozen.", "It is.", "")
    >>> answer_text(problem, "QCM-LEA")
    'Ice is frozen. It is. The answer is A.'
    >>> answer_text(problem, "QCM-ALE")
    'The answer is A. BECAUSE: Ice is frozen. It is.'
    """
    answer_format, letter = prompt_format.partition("-")[2], OPTION_LETTERS[problem.answer]
    statement = f"The answer is {letter}."
    if answer_format == "LEPA":
        parts = (("LECTURE", _reasons(problem, "L")), ("SOLUTION", _reasons(problem, "E")))
        text = "".join(f"{name}: {reason}\n" for name, reason in parts if reason.strip())
        return _tidy(f"{text}###\nANSWER: {letter}.", prefix="Answer: ")
    if answer_format.endswith("A"):
        reasons = answer_format.removesuffix("A")
        text = f"{_reasons(problem, reasons)} {statement}" if reasons else statement
    else:
        # LLaVA: of a single reason the other one is given, the explanation for L and the lecture for E.
        reasons = {"L": "E", "E": "L"}.get(answer_format[1:], answer_format[1:])
        text = f"{statement} BECAUSE: {_reasons(problem, reasons)}"
    return _tidy(f"Answer: {text}", prefix="Answer: ")


def _reasons(problem: Problem, letters: str) -> str:
    """Return the lecture (L) and the explanation (E) in an order."""
    # LLaVA: a backslash followed by n, two characters, becomes a line break; kept, since models were trained on it.
    texts = {"L": problem.lecture.replace("\\n", "\n"), "E": problem.solution.replace("\\n", "\n")}
    return " ".join(texts[letter] for letter in letters)


def _tidy(text: str, prefix: str) -> str:
    # LLaVA: one pass, so three spaces become two. Without lecture and solution a QCM-LEA answer therefore begins with a
    # space; kept, since it is a different token for the decoder.
    text = text.replace("  ", " ").strip()
    # LLaVA: the word goes wherever it stands, not only at the end; kept for equal bytes.
    if text.endswith("BECAUSE:"):
        text = text.replace("BECAUSE:", "").strip()
    # LLaVA: so does the prefix, and a CQM question keeps its "Question: " because the text begins with the context.
    return text.replace(prefix, "") if text.startswith(prefix) else text


def training_record(problem: Problem, prompt_format: str) -> Record:
    """Return the conversation to train on: one question, one answer.

    The image slot comes last, as in the converter; LLaVA's preprocessing moves it to the front (``data/conversation``).
    Unlike the converter's, the image path is relative to the root of the data set.
    """
    question = question_text(problem, prompt_format)
    image = problem.image_path
    if image is not None:
        question = f"{question}\n{IMAGE_SLOT}"
    turns = (Turn("human", question), Turn("gpt", answer_text(problem, prompt_format)))
    return Record(problem.id, turns, () if image is None else (image,))


def training_source(root: Path, split: str, prompt_format: str) -> Source:
    """Return the conversations of a split as a source of records.

    Raises:
        InputError: A file is missing; what is in the files is looked at when the source is read.
    """

    def read(advance: Advance) -> Iterator[dict[str, Any]]:
        for problem in read_scienceqa(root, split).values():
            record = training_record(problem, prompt_format)
            turns = [{"from": turn.role, "value": turn.text} for turn in record.turns]
            yield {"id": record.id, "image": list(record.images), "conversations": turns}
        advance(sum(file.stat().st_size for file in files))

    files = (root / "problems.json", root / "pid_splits.json")
    return Source(root, files, read, variant=f"{split} {prompt_format}")


def evaluation_question(problem: Problem, prompt_format: str, *, ask_letter: bool = False) -> Question:
    """Return the question as LLaVA's evaluation sends it: the image slot first, on a line of its own.

    Args:
        problem: What to ask.
        prompt_format: Only its part before the dash shows in a question.
        ask_letter: Adds the request for a bare letter (``--single-pred-prompt`` of LLaVA, used for version 1.5).
    """
    prompt = question_text(problem, prompt_format).replace(IMAGE_SLOT, "").strip()
    if problem.image is not None:
        prompt = f"{IMAGE_SLOT}\n{prompt}"
    if ask_letter:
        prompt = f"{prompt}\n{DIRECT_ANSWER_REQUEST}"
    categories = official_categories(asdict(problem))
    return Question(problem.id, prompt, problem.choices, problem.answer, problem.image_path, categories)


def official_categories(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the groups that a problem counts in: those of ScienceQA's own score table, and ``topic:<topic>``.

    NAT SOC LAN by subject, TXT has a hint, IMG has a picture, NO has neither, G1-6 and G7-12 by grade. A group whose
    field is absent is left out, so that partial problem files can be scored.

    >>> official_categories({"subject": "social science", "grade": "grade7", "topic": "economics", "hint": "Read."})
    ('SOC', 'TXT', 'G7-12', 'topic:economics')
    >>> official_categories({"hint": "", "image": None})
    ('NO',)
    """
    groups = [_SUBJECT_GROUPS.get(fields.get("subject", ""))]
    groups += ["TXT" if fields.get("hint") else None, "IMG" if fields.get("image") else None]
    groups.append("NO" if "hint" in fields and "image" in fields and groups[1:] == [None, None] else None)
    groups.append(_GRADE_GROUPS.get(fields.get("grade", "")))
    groups.append(f"topic:{fields['topic']}" if fields.get("topic") else None)
    return tuple(group for group in groups if group is not None)
