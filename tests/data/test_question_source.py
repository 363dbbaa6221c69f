"""Guards the questions that are at hand."""

from llava_pl.data.question_source import GivenQuestions
from llava_pl.types import Question


def test_given_questions():
    questions = [Question("1", "?")]
    source = GivenQuestions(questions, "mine")
    assert (source.name, source.questions(), source.image_folder) == ("mine", questions, None)
