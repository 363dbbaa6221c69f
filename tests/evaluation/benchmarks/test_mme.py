"""Guards MME: sums that leave out a subtask, and pictures whose two answers are not counted together."""

import pytest

from llava_pl.evaluation.benchmarks.mme import Mme, read_yes_no
from llava_pl.evaluation.task import match_answers
from llava_pl.types import InputError

SUFFIX = "\nAnswer the question using a single word or phrase."


@pytest.fixture
def mme(write_lines, tmp_path):
    rows = []
    for group, pictures in (("existence", ["1", "2"]), ("OCR", ["1"]), ("code_reasoning", ["1"])):
        folder = tmp_path / "mme" / group
        # Some subtasks keep their texts beside the pictures, others in a folder of their own.
        texts = folder / "questions_answers_YN" if group == "OCR" else folder
        texts.mkdir(parents=True)
        for picture in pictures:
            lines = [
                (f"Is {picture} a dog? Please answer yes or no.", "Yes"),
                (f"A cat,  {picture}?  Please answer yes or no.", "No"),
            ]
            (texts / f"{picture}.txt").write_text("".join(f"{question}\t{label}\n" for question, label in lines))
            for question, _ in lines:
                text = question.replace(" Please answer yes or no.", "") + SUFFIX
                rows.append(
                    {
                        "question_id": f"{group}/{picture}.png",
                        "image": f"{group}/{picture}.png",
                        "text": text,
                        "category": group,
                    }
                )
    return Mme(questions=write_lines("mme.jsonl", rows), annotations=tmp_path / "mme")


def test_labels(mme):
    assert [question.references[0] for question in mme.questions()] == ["yes", "no"] * 4
    assert mme.image_folder.name == "mme"


def test_scores_by_hand(mme, answer, show):
    # existence: both right, then one of two; OCR: both wrong; code reasoning: both right
    found = show(mme.score(answer(mme, ["Yes", "No", "yes.", "Yes", "no", None, "YES", "no way"])))
    assert found["accuracy/existence"] == (75.0, 4)
    assert found["accuracy_plus/existence"] == (50.0, 2)
    assert found["perception/existence"] == (125.0, 2)
    assert found["perception/OCR"] == (0.0, 1)
    assert found["cognition/code_reasoning"] == (200.0, 1)
    assert found["perception"] == (125.0, 3)
    assert found["cognition"] == (200.0, 1)
    assert next(iter(found)) == "perception"


def test_intervals(mme, answer):
    scores = mme.score(answer(mme, ["Yes", "No", "yes.", "Yes", "no", None, "YES", "no way"]))
    rows = {row.name: row for row in scores.rows}
    assert all(row.interval.low <= row.value <= row.interval.high for row in scores.rows)
    # One picture, whose answers are right, and nothing is certain.
    assert rows["cognition"].interval.low < 150
    # The sum of two subtasks is as uncertain as both together, which do not depend on each other.
    parts = [rows["perception/existence"], rows["perception/OCR"]]
    below = sum((row.value - row.interval.low) ** 2 for row in parts) ** 0.5
    assert rows["perception"].interval.low == pytest.approx(125 - below)
    assert len({verdict.id for verdict in scores.verdicts}) == 8


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Yes", "yes"),
        ("no", "no"),
        ("No, it", "no"),
        ("A yes", None),
        ("It is", None),
        ("", None),
        (" Yes", "yes"),
        ("know", "no"),
    ],
)
def test_rule_of_mme(text, reading):
    assert read_yes_no(text) == reading


def test_answers_of_the_original_find_their_questions(mme):
    """Both questions about a picture have its name, so their words tell them apart."""
    rows = [{"question_id": "OCR/1.png", "prompt": f"A cat,  1?{SUFFIX}", "text": "No"}]
    asked = match_answers(mme.questions(), rows, "answers.jsonl")
    assert [(q.id, q.references, row["text"]) for q, row in asked if row is not None] == [("OCR/1.png", ("no",), "No")]


def test_names_of_pictures_in_a_folder_of_their_own(write_lines, tmp_path):
    """As artwork, celebrity, landmark, posters and scene have them in the original's file."""
    folder = tmp_path / "mme" / "artwork" / "questions_answers_YN"
    folder.mkdir(parents=True)
    (folder / "14777.txt").write_text("Is it old? Please answer yes or no.\tYes\n")
    name = "artwork/images/14777.jpg"
    row = {"question_id": name, "image": name, "text": f"Is it old?{SUFFIX}", "category": "artwork"}
    task = Mme(questions=write_lines("questions.jsonl", [row]), annotations=tmp_path / "mme")
    assert task.questions()[0].references == ("yes",)


def test_wrong_files(mme, write_lines, tmp_path):
    def questions_of(**changes):
        row = {"question_id": "OCR/1.png", "image": "OCR/1.png", "text": "Is 1 a dog?", "category": "OCR"} | changes
        return Mme(questions=write_lines("wrong.jsonl", [row]), annotations=tmp_path / "mme").questions()

    assert len(questions_of()) == 1
    with pytest.raises(InputError, match="field 'category': expected a subtask, found 'smell'"):
        questions_of(category="smell")
    with pytest.raises(InputError, match=r"OCR/9\.txt: no such file"):
        questions_of(question_id="OCR/9.png")
    with pytest.raises(InputError, match="answers with Yes or No, found 'Is 1 an ox"):
        questions_of(text="Is 1 an ox?")
    (tmp_path / "mme" / "OCR" / "questions_answers_YN" / "1.txt").write_text("Is 1 a dog? Yes\n")
    with pytest.raises(InputError, match="expected lines of a question, a tab and Yes or No"):
        questions_of()
