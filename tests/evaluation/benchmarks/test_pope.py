"""Guards POPE: labels that belong to another question, and rates whose parts are swapped."""

import pytest

from llava_pl.evaluation.benchmarks.pope import GROUPS, Pope, read_yes_no
from llava_pl.evaluation.task import match_answers
from llava_pl.types import InputError

LABELS = {"random": ["yes", "no", "yes", "no"], "popular": ["no", "yes"], "adversarial": ["yes", "no"]}


@pytest.fixture
def pope(write_lines, tmp_path):
    questions = []
    for group in GROUPS:
        annotations = []
        for number, label in enumerate(LABELS[group]):
            text, image = f"Is there a thing {number} in the image?", f"{group}{number}.jpg"
            annotations.append({"question_id": number + 1, "image": image, "text": text, "label": label})
            prompt = f"{text}\nAnswer the question using a single word or phrase."
            questions.append({"question_id": len(questions), "image": image, "text": prompt, "category": group})
        write_lines(f"annotations/coco_pope_{group}.json", annotations)
    return Pope(questions=write_lines("questions.jsonl", questions), annotations=tmp_path / "annotations")


def test_questions(pope):
    first = pope.questions()[0]
    assert (
        first.prompt == "<image>\nIs there a thing 0 in the image?\nAnswer the question using a single word or phrase."
    )
    assert (first.id, first.image, first.categories, first.references) == ("0", "random0.jpg", ("random",), ("yes",))
    assert [question.references[0] for question in pope.questions()] == [
        *LABELS["random"],
        *LABELS["popular"],
        *LABELS["adversarial"],
    ]


def test_scores_by_hand(pope, answer, show):
    #                      random: yes no yes no          popular: no yes   adversarial: yes no
    asked = answer(pope, ["Yes", "Yes, it is.", "No", "no", "No.", "Yes", None, "There is not one"])
    found = show(pope.score(asked))
    # random: one of two things seen, one of two absent things said to be there
    assert [found[f"{metric}/random"] for metric in ("accuracy", "precision", "recall", "f1", "yes_share")] == [
        (50.0, 4), (50.0, 4), (50.0, 4), (50.0, 4), (50.0, 4)
    ]  # fmt: skip
    assert [found[f"{metric}/popular"][0] for metric in ("accuracy", "precision", "recall", "f1", "yes_share")] == [
        100.0, 100.0, 100.0, 100.0, 50.0
    ]  # fmt: skip
    # adversarial: nothing was said to be there, so precision is of nothing; the missing answer is a wrong one
    assert [found[f"{metric}/adversarial"][0] for metric in ("accuracy", "precision", "recall", "f1", "yes_share")] == [
        50.0, None, 0.0, 0.0, 0.0
    ]  # fmt: skip
    # all: 2 of 4 things seen, 3 times said to be there
    assert found["accuracy"] == (62.5, 8)
    assert found["precision"][0] == pytest.approx(200 / 3, abs=1e-5)
    assert found["recall"] == (50.0, 8)
    assert found["f1"][0] == pytest.approx(100 * 2 * 2 / (3 + 4), abs=1e-5)
    assert found["yes_share"] == (37.5, 8)


def test_intervals(pope, answer):
    scores = pope.score(answer(pope, ["Yes", "Yes", "No", "no", "No", "Yes", "Yes", "No"]))
    for row in scores.rows:
        assert row.interval is not None
        assert row.interval.low <= row.value <= row.interval.high
    assert scores["accuracy"].interval.low < scores["accuracy"].interval.high


def test_questions_about_one_picture_are_drawn_together(pope, answer):
    """As wide as of half as many questions, which are about pictures of their own."""
    asked = answer(pope, ["Yes", "Yes", "No", "no", "No", "Yes", "Yes", "No"])
    own = [(question._replace(image=f"{n}.jpg"), row) for n, (question, row) in enumerate(asked * 6)]
    twice = [(question._replace(id=f"{question.id}b"), row) for question, row in own]
    for one, two in zip(pope.score(own).rows, pope.score(own + twice).rows, strict=True):
        assert two.interval == pytest.approx(one.interval)


@pytest.mark.parametrize(
    ("text", "reading"),
    [("Yes", "yes"), ("No", "no"), ("no, sir", "no"), ("There is not", "no"), ("Yes. No", "yes"), ("", "yes"),
     ("NO", "yes"), ("none", "yes"), ("No!", "yes"), ("cannot", "yes")],
)  # fmt: skip
def test_rule_of_the_original(text, reading):
    assert read_yes_no(text) == reading


def test_numbers_of_the_original(pope, answer, show):
    """Its rule and its rates in a few lines of their own, on every pattern of four answers to the random questions."""
    texts = ["Yes", "no, there is", "It is not", "Yes, no"]
    for number in range(4**4):
        given = [texts[number // 4**place % 4] for place in range(4)]
        said = [not {"No", "not", "no"} & set(text.split(".")[0].replace(",", "").split(" ")) for text in given]
        there = [label == "yes" for label in LABELS["random"]]
        both = sum(a and b for a, b in zip(said, there, strict=True))
        found = show(pope.score(answer(pope, [*given, *[None] * 4])))
        assert found["accuracy/random"][0] == 100 * sum(a == b for a, b in zip(said, there, strict=True)) / 4
        if sum(said) and both:
            precision, recall = both / sum(said), both / sum(there)
            f1 = 2 * precision * recall / (precision + recall)
            assert found["f1/random"][0] == pytest.approx(100 * f1, abs=1e-5)


def test_files_of_two_releases_are_refused(pope, write_lines, tmp_path):
    rows = [{"question_id": 1, "image": "other.jpg", "text": "Is there a thing 0 in the image?", "label": "yes"}]
    write_lines("annotations/coco_pope_random.json", rows)
    with pytest.raises(InputError, match=r"question '0': expected the next one of coco_pope_random\.json"):
        Pope(questions=tmp_path / "questions.jsonl", annotations=tmp_path / "annotations").questions()


def test_wrong_category(pope, write_lines, tmp_path):
    path = write_lines("wrong.jsonl", [{"question_id": 1, "image": "a.jpg", "text": "?", "category": "rare"}])
    with pytest.raises(
        InputError, match="field 'category': expected one of random, popular, adversarial, found 'rare'"
    ):
        Pope(questions=path, annotations=tmp_path / "annotations").questions()


def test_category_that_is_a_list(pope, write_lines, tmp_path):
    path = write_lines("wrong.jsonl", [{"question_id": 1, "image": "a.jpg", "text": "?", "category": ["random"]}])
    with pytest.raises(InputError, match="field 'category': expected one of"):
        Pope(questions=path, annotations=tmp_path / "annotations").questions()


def test_answers_of_the_original_find_their_questions(pope):
    rows = [{"question_id": "3", "prompt": "whatever", "text": "no"}]
    asked = match_answers(pope.questions(), rows, "answers.jsonl")
    assert [question.id for question, row in asked if row is not None] == ["3"]
