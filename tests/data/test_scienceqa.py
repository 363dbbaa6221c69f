"""Guards the training text: one other space than LLaVA's converter writes, and numbers stop being comparable.

A broken file must be named, not skipped. The problems are our own: the real data set may not be part of the repository
(its parity test hashes it).
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pl.data.scienceqa import (
    Problem,
    answer_text,
    evaluation_question,
    official_categories,
    question_text,
    read_scienceqa,
    training_record,
)
from llava_pl.types import InputError, Question, Record, Turn

PLAIN = Problem(
    id="7",
    question="Which one is a  metal?",
    choices=("oak", "iron", "wool"),
    answer=1,
    hint=" Look at the table. ",
    image=None,
    task="closed choice",
    grade="grade6",
    subject="natural science",
    topic="chemistry",
    category="Materials",
    skill="Name metals",
    lecture="Metals conduct.\\nMost shine.",
    solution="Iron conducts.\nIt is a metal.",
    split="train",
)
PICTURED = replace(PLAIN, id="8", image="image.png", hint="", split="val", grade="grade7", subject="social science")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    problems = {
        problem.id: {name: getattr(problem, name) for name in Problem.__slots__ if name != "id"}
        for problem in (PLAIN, PICTURED)
    }
    (tmp_path / "problems.json").write_text(json.dumps(problems), encoding="utf-8")
    (tmp_path / "pid_splits.json").write_text('{"train": ["7"], "val": ["8"], "trainval": ["8", "7"]}')
    return tmp_path


def change(root: Path, problem_id: str, **fields: object) -> None:
    """Overwrite fields of a problem; the value `...` removes one."""
    path = root / "problems.json"
    problems = json.loads(path.read_text())
    problems[problem_id] = {
        name: value for name, value in (problems[problem_id] | fields).items() if value is not Ellipsis
    }
    path.write_text(json.dumps(problems))


@pytest.mark.parametrize(
    ("prompt_format", "question", "answer"),
    [
        (
            "QCM-LEA",
            "Which one is a metal?\nContext: Look at the table.\nOptions: (A) oak (B) iron (C) wool",
            "Metals conduct.\nMost shine. Iron conducts.\nIt is a metal. The answer is B.",
        ),
        (
            "QCM-ALE",
            "Which one is a metal?\nContext: Look at the table.\nOptions: (A) oak (B) iron (C) wool",
            "The answer is B. BECAUSE: Metals conduct.\nMost shine. Iron conducts.\nIt is a metal.",
        ),
        (
            "QCM-A",
            "Which one is a metal?\nContext: Look at the table.\nOptions: (A) oak (B) iron (C) wool",
            "The answer is B.",
        ),
        (
            "CQM-A",
            "Context: Look at the table.\nQuestion: Which one is a metal?\nOptions: (A) oak (B) iron (C) wool",
            "The answer is B.",
        ),
    ],
)
def test_text_of_each_format(prompt_format, question, answer):
    assert question_text(PLAIN, prompt_format) == question
    assert answer_text(PLAIN, prompt_format) == answer


def test_empty_hint_is_spelled_out():
    assert question_text(PICTURED, "QCM-A").split("\n")[1] == "Context: N/A"
    assert question_text(replace(PLAIN, hint=" \n"), "QCM-A").split("\n")[1] == "Context: N/A"


def test_answer_without_rationale_keeps_the_leading_space():
    bare = replace(PLAIN, lecture="", solution="")
    assert answer_text(bare, "QCM-LEA") == " The answer is B."
    assert answer_text(bare, "QCM-ALE") == "The answer is B."
    assert answer_text(replace(PLAIN, lecture=""), "QCM-LEA") == "Iron conducts.\nIt is a metal. The answer is B."


def test_prefixes_and_because_go_everywhere():
    quoting = replace(PLAIN, question="Read: Question: why?", solution="Answer: so.", lecture="BECAUSE: of")
    assert question_text(quoting, "QCM-A").startswith("Read: why?\n")
    assert question_text(quoting, "CQM-A").split("\n")[1] == "Question: Read: Question: why?"
    assert answer_text(quoting, "QCM-LEA") == "BECAUSE: of so. The answer is B."
    assert answer_text(replace(quoting, solution="so BECAUSE:"), "QCM-ALE") == "The answer is B.   of so"


def test_three_spaces_become_two():
    assert question_text(replace(PLAIN, question="a   b    c"), "QCM-A").startswith("a  b  c\n")


def test_training_record():
    question = "Which one is a metal?\nContext: N/A\nOptions: (A) oak (B) iron (C) wool"
    assert training_record(PICTURED, "QCM-A") == Record(
        "8", (Turn("human", f"{question}\n<image>"), Turn("gpt", "The answer is B.")), ("images/val/8/image.png",)
    )
    assert training_record(PLAIN, "QCM-A").images == ()
    assert "<image>" not in training_record(PLAIN, "QCM-A").turns[0].text


def test_evaluation_question():
    question = "Which one is a metal?\nContext: N/A\nOptions: (A) oak (B) iron (C) wool"
    assert evaluation_question(PICTURED, "QCM-LEA") == Question(
        id="8",
        prompt=f"<image>\n{question}",
        choices=("oak", "iron", "wool"),
        answer=1,
        image="images/val/8/image.png",
        categories=("SOC", "IMG", "G7-12", "topic:chemistry"),
    )
    asked = evaluation_question(PLAIN, "QCM-A", ask_letter=True)
    assert asked.prompt == (
        "Which one is a metal?\nContext: Look at the table.\nOptions: (A) oak (B) iron (C) wool\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert asked.image is None
    assert asked.categories == ("NAT", "TXT", "G1-6", "topic:chemistry")


@pytest.mark.parametrize(
    ("fields", "categories"),
    [
        ({"hint": "", "image": None}, ("NO",)),
        ({"hint": "x", "image": "image.png"}, ("TXT", "IMG")),
        ({"hint": "x", "image": None}, ("TXT",)),
        ({"image": None}, ()),
        ({"subject": "language science", "grade": "grade1"}, ("LAN", "G1-6")),
        ({"grade": "grade12"}, ("G7-12",)),
        ({}, ()),
    ],
)
def test_categories(fields, categories):
    assert official_categories(fields) == categories


def test_read_keeps_order_and_fields(root):
    assert read_scienceqa(root, "trainval") == {"8": PICTURED, "7": PLAIN}
    assert list(read_scienceqa(root, "trainval")) == ["8", "7"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer": 3}, "field 'answer': expected an integer from 0 to 2, found 3"),
        ({"answer": -1}, "field 'answer': expected an integer from 0 to 2, found -1"),
        ({"answer": True}, "field 'answer': expected an integer from 0 to 2, found True"),
        ({"choices": ["a"]}, "field 'choices': expected a list of 2 to 5 strings, found ['a']"),
        ({"choices": list("abcdef")}, "field 'choices': expected a list of 2 to 5 strings, found ['a', 'b', 'c'"),
        ({"choices": ["a", 2]}, "field 'choices': expected a list of 2 to 5 strings, found ['a', 2]"),
        ({"hint": None}, "field 'hint': expected a string, found None"),
        ({"lecture": ...}, "field 'lecture': expected a string, found nothing"),
        ({"image": ""}, "field 'image': expected a file name or null, found ''"),
        ({"image": ...}, "field 'image': expected a file name or null, found nothing"),
    ],
)
def test_wrong_field_is_named(root, fields, message):
    change(root, "8", **fields)
    with pytest.raises(InputError) as caught:
        read_scienceqa(root, "val")
    assert str(caught.value).startswith(f"{root / 'problems.json'}: problem '8': {message}")
    assert list(read_scienceqa(root, "train")) == ["7"]


def test_unknown_split_lists_the_choices(root):
    with pytest.raises(InputError, match=r"unknown split 'test', expected one of train, val, trainval$"):
        read_scienceqa(root, "test")


def test_id_without_problem(root):
    (root / "pid_splits.json").write_text('{"train": ["9"]}')
    with pytest.raises(InputError, match=r"problems\.json: no problem '9', which pid_splits\.json lists in split 'tr"):
        read_scienceqa(root, "train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("problems.json", '{\n "1": }', r"problems\.json: invalid JSON at line 2, column 7"),
        ("problems.json", "[]", r"problems\.json: expected a JSON object, found list"),
        ("problems.json", '{"7": 1}', r"problems\.json: problem '7': expected a JSON object, found int"),
        ("pid_splits.json", '{"train": [7]}', r"pid_splits\.json: split 'train': expected a list of problem ids as st"),
        ("pid_splits.json", None, r"pid_splits\.json: cannot be read"),
    ],
)
def test_broken_file(root, name, content, message):
    path = root / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_scienceqa(root, "train")
    assert "\n" not in str(caught.value)
