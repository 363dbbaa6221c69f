"""Guards what a run asks beside its records; ``test_datamodule.py`` goes through the loaders."""

import pytest

from llava_pl.data.asking_datamodule import AskingDataModule
from llava_pl.data.question_source import GivenQuestions
from llava_pl.types import Question

QUESTIONS = [Question("1", "What?"), Question("2", "<image>\nWhich?", image="1.png")]


@pytest.fixture
def data(tiny_parts, tmp_path):
    return AskingDataModule(
        tokenizer=str(tiny_parts / "decoder"), image_processor=str(tiny_parts / "encoder"), num_image_tokens=4,
        image_folder=tmp_path, tasks=[GivenQuestions(QUESTIONS, "a"), GivenQuestions(QUESTIONS[:1], "b")],
        image_sources=["own", "grey"],
    )  # fmt: skip


def test_every_task_is_asked_with_every_kind_of_picture(data):
    asked = [(dataset.source.name, dataset.image_source, len(dataset)) for dataset in data.ask("val")]
    assert asked == [("a", "own", 2), ("a", "grey", 2), ("b", "own", 1), ("b", "grey", 1)]


def test_predictions_are_of_their_own_pictures(data):
    assert [(each.source.name, each.image_source) for each in data.ask("predict")] == [("a", "own"), ("b", "own")]
