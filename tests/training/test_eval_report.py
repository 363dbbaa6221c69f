"""Guards the reports of a run: one for each task, and a picture from the folder that the task asks about."""

from types import SimpleNamespace

import pytest
from PIL import Image

from llava_pl.data.image import ImageTransform
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.evaluation.scienceqa import score_questions
from llava_pl.evaluation.task import Task
from llava_pl.training.eval_report import SetOfAnswers, make_loader, write_reports
from llava_pl.types import Question


class Two(Task):
    def __init__(self, name, image_folder=None):
        self.name, self.image_folder = name, image_folder

    def questions(self):
        return [Question("1", "<image>\nWhich?", ("a", "b"), 0, "1.png"), Question("2", "Why?", ("a", "b"))]

    def score(self, asked):
        return score_questions(asked, "llava")


@pytest.fixture
def trainer(tmp_path):
    encoder = SampleEncoder(
        tokenizer=None, image_transform=ImageTransform(16), image_folder=tmp_path, num_image_tokens=4
    )
    data = SimpleNamespace(encoder=encoder, report_examples=1)
    return SimpleNamespace(datamodule=data, default_root_dir=tmp_path, loggers=[], state=SimpleNamespace(fn="validate"))


def answered(task, source, letter):
    asked = [(question, {"question_id": question.id, "text": letter}) for question in task.questions()]
    return SetOfAnswers(task, source, asked, task.score(asked))


def test_one_report_for_each_task(trainer, tmp_path, capsys):
    first, second = Two("first"), Two("second")
    sets = [answered(first, "own", "A"), answered(second, "own", "B"), answered(first, "none", "B")]
    write_reports(trainer, sets, name="val-step7")
    folder = tmp_path / "reports"
    assert sorted(path.name for path in folder.iterdir()) == [
        "first-val-step7.html", "first-val-step7.md", "second-val-step7.html", "second-val-step7.md"
    ]  # fmt: skip
    assert "| these better |" in (folder / "first-val-step7.md").read_text()
    assert "these better" not in (folder / "second-val-step7.md").read_text()
    assert (folder / "first-val-step7.html").read_text().count('class="example ') == 1
    assert "first, val-step7" in capsys.readouterr().out


def test_training_is_not_interrupted_by_tables(trainer, capsys):
    trainer.state.fn = "fit"
    write_reports(trainer, [answered(Two("first"), "own", "A")], name="val-step7")
    assert capsys.readouterr().out == ""


def test_pictures_of_a_task(trainer, tmp_path):
    for folder, colour in ((tmp_path, "red"), (tmp_path / "own", "blue")):
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), colour).save(folder / "1.png")
    pictured, plain = Two("x").questions()
    assert make_loader(trainer, Two("x"))(pictured).getpixel((0, 0)) == (255, 0, 0)
    assert make_loader(trainer, Two("x", tmp_path / "own"))(pictured).getpixel((0, 0)) == (0, 0, 255)
    assert make_loader(trainer, Two("x"))(plain) is None
    trainer.datamodule = None
    assert make_loader(trainer, Two("x"))(pictured) is None
