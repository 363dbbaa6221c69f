"""Guards MMBench: choices in another order than the answer's letter means, and pictures of another row."""

import base64
import io

import pytest
from PIL import Image

from llava_pl.evaluation.answers import read_answers
from llava_pl.evaluation.benchmarks.mmbench import MmBench, is_empty
from llava_pl.evaluation.report import Answered, build_report
from llava_pl.evaluation.scores import scored_rows
from llava_pl.evaluation.task import match_answers
from llava_pl.types import InputError

COLUMNS = [
    "index",
    "question",
    "hint",
    "A",
    "B",
    "C",
    "D",
    "answer",
    "category",
    "image",
    "source",
    "l2-category",
    "comment",
    "split",
]
REQUEST = "Answer with the option's letter from the given choices directly."


def picture(colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


ROWS = [
    ["12", "Which?", "", "red", "blue", "green", "", "B", "colour", picture("blue"), "s", "attribute", "", "dev"],
    ["13", "Who?", "Look.", "she", "he", "None", "they", "A", "person", picture("red"), "s", "identity", "nan", "dev"],
    ["14", "Again?", "nan", "yes", "no", "maybe", "never", "D", "colour", "12", "s", "attribute", "", "dev"],
]


def write_table(path, rows, columns=COLUMNS):
    path.write_text("\ufeff" + "\n".join("\t".join(row) for row in [columns, *rows]) + "\n")
    return path


@pytest.fixture
def make(tmp_path):
    path = write_table(tmp_path / "dev.tsv", ROWS)
    return lambda **options: MmBench(questions=path, image_folder=tmp_path / "pictures", **options)


def test_questions(make):
    first, second, third = make().questions()
    assert first.prompt == f"<image>\nWhich?\nA. red\nB. blue\nC. green\n{REQUEST}"
    # LLaVA: for pandas "None" is an empty cell, which ends the choices.
    assert second.prompt == f"<image>\nLook.\nWho?\nA. she\nB. he\n{REQUEST}"
    assert (first.id, first.answer, first.image, first.categories) == ("12", 1, "12.jpg", ("attribute", "colour"))
    assert third.image == "12.jpg"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("None", True), ("NONE", True), ("NA", True), ("N/A", True), ("null", True), ("", True),
     ("Na", False), ("na", False), ("Null", False), (" ", False), ("none of them", False)],
)  # fmt: skip
def test_cells_that_are_empty_for_the_original(text, expected):
    """Sodium is an option."""
    assert is_empty(text) is expected


def test_pictures_are_written_once(make, tmp_path):
    make().questions()
    with Image.open(tmp_path / "pictures" / "12.jpg") as found:
        assert found.getpixel((0, 0))[2] > 240
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["12.jpg", "13.jpg"]
    time = (tmp_path / "pictures" / "12.jpg").stat().st_mtime_ns
    make().questions()
    assert (tmp_path / "pictures" / "12.jpg").stat().st_mtime_ns == time


def test_pictures_of_another_table_are_not_taken(make, tmp_path):
    make().questions()
    (tmp_path / "pictures" / "12.jpg").write_bytes(b"another")
    with pytest.raises(InputError, match=r"12\.jpg: expected the picture of .*index 12, \d+ bytes; choose another"):
        make().questions()


def test_every_order_of_the_choices(make):
    asked = [question for question in make(is_circular=True).questions() if question.id.startswith("12")]
    assert [(question.id, question.choices, question.references) for question in asked] == [
        ("12", ("red", "blue", "green"), ("B",)),
        ("12#1", ("blue", "green", "red"), ("A",)),
        ("12#2", ("green", "red", "blue"), ("C",)),
    ]
    assert all(question.choices[question.answer] == "blue" for question in asked)


def test_scores_by_hand(make, answer, show):
    task = make()
    assert show(task.score(answer(task, ["B", "B. he", "D."]))) == {
        "accuracy": (round(200 / 3, 6), 3),
        "accuracy/attribute": (100.0, 2),
        "accuracy/colour": (100.0, 2),
        "accuracy/identity": (0.0, 1),
        "accuracy/person": (0.0, 1),
    }
    exact = make(parser="exact")
    assert exact.score(answer(exact, ["B", "B. he", "D."]))["accuracy"].value == pytest.approx(100 / 3)


def test_circular_counts_the_worst_order(make, answer, show):
    task = make(is_circular=True)
    letters = [question.references[0] for question in task.questions()]
    assert show(task.score(answer(task, letters)))["circular"] == (100.0, 3)
    letters[1] = "D"  # of the first question, in its second order
    assert show(task.score(answer(task, letters))) == {
        "circular": (round(200 / 3, 6), 3),
        "circular/attribute": (50.0, 2),
        "circular/colour": (50.0, 2),
        "circular/identity": (100.0, 1),
        "circular/person": (100.0, 1),
        "accuracy": (100.0, 3),
        "accuracy/attribute": (100.0, 2),
        "accuracy/colour": (100.0, 2),
        "accuracy/identity": (100.0, 1),
        "accuracy/person": (100.0, 1),
    }
    assert build_report("MMBench", [Answered("x", asked := answer(task, letters), task.score(asked))], num_examples=4)
    letters[-1] = None
    assert show(task.score(answer(task, letters)))["circular"] == (round(100 / 3, 6), 3)


def test_answers_are_written_as_the_original_writes_them(make, answer):
    task = make(is_circular=True)
    question, row = answer(task, ["A"] * 9)[1]
    assert task.as_written(question, {**row, "prompt": question.prompt}) == {
        "question_id": 12,
        "round_id": 1,
        "prompt": "Which?\nA. blue\nB. green\nC. red",
        "text": "A",
        "answer_id": "12#1",
    }


def test_orders_that_cannot_be_read_are_listed(make, answer):
    """Each answer is listed and has a credit; a question is right that is right in every order."""
    task = make(is_circular=True)
    texts = [question.references[0] for question in task.questions()]
    texts[1], texts[2], texts[-1] = "D", "hm", None
    asked = answer(task, texts)
    scores = task.score(asked)
    assert (scores.unparsed, scores.unanswered) == (["12#1", "12#2"], ["14#3"])
    assert [row["credit"] for _, row in scored_rows(asked, scores)][:3] == [1.0, 0.0, 0.0]
    assert [verdict.credit for verdict in scores.verdicts] == [0.0, 1.0, 0.0]


def test_table_with_a_row_for_each_order(tmp_path, answer, show):
    turned = ["1000012", "Which?", "", "blue", "green", "red", "", "A", "", "12", "s", "", "", "dev"]
    path = write_table(tmp_path / "dev.tsv", [*ROWS, turned])
    task = MmBench(questions=path, image_folder=tmp_path / "pictures")
    found = show(task.score(answer(task, ["B", "A", "D", "C"])))
    assert (found["circular"], found["accuracy"]) == ((round(200 / 3, 6), 3), (100.0, 3))
    assert found["circular/colour"] == (50.0, 2)
    task = MmBench(questions=path, image_folder=tmp_path / "pictures", is_circular=True)
    with pytest.raises(InputError, match=r"is_circular: .* has its questions in every order already; leave it out"):
        task.questions()


def test_answers_of_the_original_find_their_questions(make, tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text(
        "".join(
            f'{{"question_id": 12, "round_id": {n}, "prompt": "Which?", "text": "{t}"}}\n' for n, t in enumerate("BAC")
        )
    )
    asked = match_answers(make(is_circular=True).questions(), read_answers(path), "answers")
    assert [(question.id, row["text"]) for question, row in asked if row] == [("12", "B"), ("12#1", "A"), ("12#2", "C")]


def test_a_table_without_answers_has_no_score(tmp_path, answer):
    rows = [[*row[:7], *row[8:]] for row in ROWS]
    path = write_table(tmp_path / "test.tsv", rows, [name for name in COLUMNS if name != "answer"])
    task = MmBench(questions=path, image_folder=tmp_path / "pictures")
    assert task.score(answer(task, ["A", "A", None])).rows == ()


def test_submission(make, answer, tmp_path):
    load = pytest.importorskip("openpyxl").load_workbook
    task = make()
    task.write_submission(tmp_path / "upload.xlsx", answer(task, ["B", None, "D.\x07 never"]))
    rows = list(load(tmp_path / "upload.xlsx").active.iter_rows(values_only=True))
    assert rows == [
        ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split"),
        (12, "Which?", "red", "blue", "green", None, "B", "B", "dev"),
        (13, "Who?", "she", "he", None, "they", None, "A", "dev"),
        (14, "Again?", "yes", "no", "maybe", "never", "D. never", "D", "dev"),
    ]


def test_chinese_request(make):
    assert make(language="cn").questions()[0].prompt.endswith("\u5b57\u6bcd\u3002")


def test_wrong_tables(tmp_path):
    def questions_of(rows, columns=COLUMNS):
        path = write_table(tmp_path / "wrong.tsv", rows, columns)
        return MmBench(questions=path, image_folder=tmp_path / "pictures").questions()

    with pytest.raises(InputError, match="expected a table with columns A, B, image, index, question"):
        questions_of([["1", "?"]], ["index", "question"])
    with pytest.raises(InputError, match="index 12: column 'answer': expected a letter of 3 options, found 'D'"):
        questions_of([[*ROWS[0][:7], "D", *ROWS[0][8:]]])
    with pytest.raises(InputError, match="index 99: column 'image': expected a picture in base64"):
        questions_of([["99", *ROWS[0][1:9], "no picture", *ROWS[0][10:]]])
    with pytest.raises(InputError, match="index 99: column 'image': expected a picture"):
        questions_of([["99", *ROWS[0][1:9], "1234", *ROWS[0][10:]]])
    with pytest.raises(InputError, match="row 2: expected 14 cells, found more or fewer"):
        questions_of([ROWS[0], ROWS[1][:9]])
    with pytest.raises(InputError, match=r"row 1: column 'index': expected a number, found '\.\./12'"):
        questions_of([["../12", *ROWS[0][1:]]])
    with pytest.raises(InputError, match="column 'answer': expected a letter in all rows or in none"):
        questions_of([ROWS[0], [*ROWS[1][:7], "", *ROWS[1][8:]]])
    with pytest.raises(InputError, match="cannot be read"):
        MmBench(questions=tmp_path / "none.tsv", image_folder=tmp_path).questions()
