"""Guards what W&B shows of an evaluation: pictures, answers, and scores with their intervals."""

from types import SimpleNamespace

import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from PIL import Image

from llava_pl.evaluation.intervals import Interval
from llava_pl.evaluation.report import Example, Report
from llava_pl.evaluation.scores import ScoreRow
from llava_pl.training.wandb_report import log_to_wandb
from llava_pl.types import Question, RecordError

REPORT = Report(
    "Title", (), (), (ScoreRow("accuracy", 50.0, Interval(40.0, 60.0), 2), ScoreRow("accuracy/NAT", 0.0, None, 1)),
    (
        Example(Question("1", "<image>\nWhich?", image="1.png"), "B", "B", 1.0),
        Example(Question("2", "Why?"), "hm", None, 0.0),
        Example(Question("3", "Where?", image="gone.png"), "C", "C", 0.0),
    ),
)  # fmt: skip


def load_picture(question):
    if question.image == "gone.png":
        raise RecordError("gone")
    return Image.new("RGB", (600, 300)) if question.image else None


def test_examples_and_scores():
    logged = {}
    logger = WandbLogger(offline=True)
    logger._experiment = SimpleNamespace(log=logged.update)
    log_to_wandb(SimpleNamespace(loggers=[logger]), "scienceqa", REPORT, load_picture)
    examples = logged["reports/scienceqa/examples"]
    assert examples.columns == ["id", "picture", "question", "answer", "read", "credit"]
    assert [[row[0], *row[2:]] for row in examples.data] == [
        ["1", "Which?", "B", "B", 1.0], ["2", "Why?", "hm", "", 0.0], ["3", "Where?", "C", "C", 0.0]
    ]  # fmt: skip
    pictures = [row[1] for row in examples.data]
    assert isinstance(pictures[0], wandb.Image)
    assert (pictures[0].image.size, pictures[1:]) == ((256, 128), [None, None])
    scores = logged["reports/scienceqa/scores"].table
    assert scores.data == [["all", 50.0, 40.0, 60.0, 2], ["NAT", 0.0, None, None, 1]]


def test_other_loggers_are_left_alone(tmp_path):
    log_to_wandb(SimpleNamespace(loggers=[CSVLogger(tmp_path)]), "x", REPORT, pytest.fail)
