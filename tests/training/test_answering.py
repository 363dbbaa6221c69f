"""Guards: answers of a run are scored under the wrong step, or end up in no file."""

from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from llava_pl.data.question_dataset import QuestionDataset
from llava_pl.data.question_source import GivenQuestions
from llava_pl.evaluation.answers import find_header, read_answers
from llava_pl.evaluation.scienceqa import score_questions
from llava_pl.evaluation.task import Task
from llava_pl.training.answering import ScoreQuestions
from llava_pl.types import InputError, Question

QUESTIONS = [
    Question("1", "<image>\nWhich?", ("red", "blue"), answer=1, image="1.png", categories=("IMG",)),
    Question("2", "Which?", ("red", "blue"), answer=0, categories=("NO",)),
]


class Two(Task):
    name = "scienceqa"

    def questions(self):
        return QUESTIONS

    def score(self, asked):
        return score_questions(asked, "llava")


class Asked(QuestionDataset):
    def __init__(self, image_source):
        super().__init__(Two(), None, image_source)

    def __getitem__(self, index):
        return index


class AlwaysB(LightningModule):
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return {"texts": ["The answer is B."] * len(batch["questions"])} if "questions" in batch else None

    test_step = predict_step = validation_step


def loader(image_source="own"):
    def collate(places):
        return {"questions": [QUESTIONS[place] for place in places], "indices": places}

    return DataLoader(Asked(image_source), batch_size=1, collate_fn=collate)


@pytest.fixture
def trainer(tmp_path):
    return Trainer(
        accelerator="cpu", callbacks=[ScoreQuestions()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip


def test_validate_logs_scores_by_image_source_and_writes_answers(trainer, tmp_path):
    trainer.callbacks[0].on_load_checkpoint(trainer, None, {"global_step": 30})
    (metrics, *_) = trainer.validate(AlwaysB(), [loader(), loader("grey")], verbose=False)
    assert metrics["val/scienceqa/accuracy"] == 50.0
    assert metrics["val/scienceqa/accuracy/IMG"] == 100.0
    assert metrics["val/scienceqa/grey_image/accuracy/NO"] == 0.0
    assert metrics["val/scienceqa/checkpoint_step"] == 30.0
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [
        "scienceqa-val-step30-grey-image.jsonl",
        "scienceqa-val-step30.jsonl",
    ]
    answers = read_answers(tmp_path / "predictions" / "scienceqa-val-step30.jsonl")
    header = find_header(answers)
    assert header["model"] == {"checkpoint": None, "init_from": None, "config": None, "step": 30}
    assert header["answers"]["task"] == "scienceqa"
    assert header["answers"]["image_source"] == "own"
    assert answers[1] == {
        "question_id": "2",
        "prompt": "Which?",
        "text": "The answer is B.",
        "credit": 0.0,
    }


def test_test_and_predict_have_files_of_their_own(trainer, tmp_path):
    (metrics, *_) = trainer.test(AlwaysB(), loader(), verbose=False)
    assert metrics["test/scienceqa/count"] == 2.0
    trainer.predict(AlwaysB(), loader(), return_predictions=False)
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [
        "scienceqa-predict-step0.jsonl",
        "scienceqa-test-step0.jsonl",
    ]


def test_batches_of_records_are_left_alone(trainer, tmp_path):
    records = DataLoader([0, 1], collate_fn=lambda rows: {"labels": torch.tensor(rows)})
    assert trainer.validate(AlwaysB(), records, verbose=False) == [{}]
    assert not (tmp_path / "predictions").exists()


def test_sanity_check_writes_nothing(tmp_path):
    callback, module = ScoreQuestions(), SimpleNamespace(device="cpu", log_dict=None)
    trainer = SimpleNamespace(sanity_checking=True, val_dataloaders=[loader()], default_root_dir=tmp_path)
    callback.on_validation_start(trainer, module)
    batch = {"questions": QUESTIONS, "indices": [0, 1]}
    callback.on_validation_batch_end(trainer, module, {"texts": ["A", "B"]}, batch, 0)
    callback.on_validation_epoch_end(trainer, module)
    assert list(tmp_path.iterdir()) == []


def test_answers_are_counted_with_their_places_and_scores(tmp_path):
    callback, logged = ScoreQuestions(), {}
    module = SimpleNamespace(device="cpu", log_dict=logged.update)
    trainer = SimpleNamespace(
        sanity_checking=False, val_dataloaders=[loader()], default_root_dir=tmp_path, datamodule=None, ckpt_path=None,
        state=SimpleNamespace(fn="validate"), is_global_zero=True, precision="32-true", loggers=[],
    )  # fmt: skip
    callback.on_validation_start(trainer, module)
    answered = {"texts": ["A", "B"], "scores": [{"A": -1.0}, {"B": -2.0}]}
    callback.on_validation_batch_end(trainer, module, answered, {"questions": QUESTIONS[:2], "indices": [1, 0]}, 0)
    callback.on_validation_epoch_end(trainer, module)
    rows = read_answers(tmp_path / "predictions" / "scienceqa-val-step0.jsonl")
    assert [(row["question_id"], row["text"]) for row in rows] == [("1", "B"), ("2", "A")]
    assert logged["val/scienceqa/count"] == 2


def test_a_report_is_left_for_each_task(trainer, tmp_path, capsys):
    trainer.validate(AlwaysB(), [loader(), loader("none")], verbose=False)
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == [
        "scienceqa-val-step0.html",
        "scienceqa-val-step0.md",
    ]
    text = (tmp_path / "reports" / "scienceqa-val-step0.md").read_text()
    assert "| questions | number | own image | none image |" in text
    assert "Difference of mean credit to own image, question by question" in text
    assert "Difference of mean credit to own image" in capsys.readouterr().out


def test_questions_that_nothing_scores_are_refused(trainer):
    dataset = QuestionDataset(GivenQuestions(QUESTIONS), None)
    with pytest.raises(InputError, match=r"data\.tasks: GivenQuestions: expected a llava_pl\.evaluation\.task\.Task"):
        trainer.validate(AlwaysB(), DataLoader(dataset), verbose=False)
