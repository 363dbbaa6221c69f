"""Guards the ensembles of the paper: silence that counts as an answer, or a judge that is asked too often."""

from llava_pl.evaluation.ensemble import complement, find_disagreements, judge_prompt, teacher_prompt
from llava_pl.types import Question

QUESTIONS = [Question(str(n), f"<image>\nQ{n}?\nOptions: (A) x (B) y", ("x", "y"), 0) for n in range(5)]
MODEL = ["The answer is A.", "The answer is A.", "The answer is B.", "no idea", None]
TEACHER = {
    "0": "The answer is A.",
    "1": "The answer is B.",
    "2": "I cannot see it.",
    "3": "hm",
    "4": "The answer is A.",
}
ASKED = [
    (question, None if text is None else {"question_id": question.id, "prompt": question.prompt, "text": text})
    for question, text in zip(QUESTIONS, MODEL, strict=True)
]


def texts(asked):
    return [None if row is None else row["text"] for _, row in asked]


def test_the_teacher_comes_first_and_the_model_where_it_names_no_letter():
    assert texts(complement(ASKED, TEACHER, "llava")) == [
        "The answer is A.", "The answer is B.", "The answer is B.", "no idea", "The answer is A."
    ]  # fmt: skip


def test_the_judge_is_asked_where_the_two_differ():
    prompts = find_disagreements(ASKED, TEACHER, "llava")
    assert list(prompts) == ["1", "2", "3"]  # neither where they agree nor where the model said nothing
    assert prompts["1"] == judge_prompt(QUESTIONS[1], "The answer is A.", "The answer is B.")
    assert list(find_disagreements(ASKED, {"0": "The answer is A."}, "llava")) == []


def test_the_judge_decides_and_the_model_where_it_names_no_letter():
    verdicts = {"1": "Both are fine. The answer is B.", "2": "Neither."}
    assert texts(complement(ASKED, verdicts, "llava")) == [
        "The answer is A.", "Both are fine. The answer is B.", "The answer is B.", "no idea", None
    ]  # fmt: skip


def test_no_picture_leaves_the_machine():
    prompt = teacher_prompt(QUESTIONS[0])
    assert prompt.startswith("Q0?\nOptions: (A) x (B) y\n")
    assert "<image>" not in prompt
    assert prompt.endswith("The answer is X.\nX is one of A, B.")
    both = judge_prompt(QUESTIONS[0], "first", "second")
    assert both.index("Q0?") < both.index("first") < both.index("second")
    assert "<image>" not in both
