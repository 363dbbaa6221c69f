"""Guards: answers of a run are scored under the wrong step, or end up in no file."""

from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from llava_pl.evaluation.answers import read_answers
from llava_pl.training.answering import ScoreQuestions
from llava_pl.types import Question

QUESTIONS = [
    Question("1", "<image>\nWhich?", ("red", "blue"), answer=1, image="1.png", categories=("IMG",)),
    Question("2", "Which?", ("red", "blue"), answer=0, categories=("NO",)),
]


class Asked(Dataset):
    def __init__(self, image_source):
        self.image_source = image_source

    def __len__(self):
        return len(QUESTIONS)

    def __getitem__(self, index):
        return QUESTIONS[index]


class AlwaysB(LightningModule):
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return {"texts": ["The answer is B."] * len(batch["questions"])} if "questions" in batch else None

    test_step = predict_step = validation_step


def loader(image_source="own"):
    return DataLoader(Asked(image_source), batch_size=1, collate_fn=lambda questions: {"questions": questions})


@pytest.fixture
def trainer(tmp_path):
    return Trainer(
        accelerator="cpu", callbacks=[ScoreQuestions("llava")], logger=False, enable_checkpointing=False,
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
    assert read_answers(tmp_path / "predictions" / "scienceqa-val-step30.jsonl")[1] == {
        "question_id": "2",
        "prompt": "Which?",
        "text": "The answer is B.",
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
    callback, module = ScoreQuestions("llava"), SimpleNamespace(device="cpu", log_dict=None)
    trainer = SimpleNamespace(sanity_checking=True, val_dataloaders=[loader()], default_root_dir=tmp_path)
    callback.on_validation_start(trainer, module)
    callback.on_validation_batch_end(trainer, module, {"texts": ["A", "B"]}, {"questions": QUESTIONS}, 0)
    callback.on_validation_epoch_end(trainer, module)
    assert list(tmp_path.iterdir()) == []


def test_answers_are_counted_with_their_places_and_scores(tmp_path):
    callback, logged = ScoreQuestions("llava"), {}
    module = SimpleNamespace(device="cpu", log_dict=logged.update)
    state = SimpleNamespace(fn="validate")
    trainer = SimpleNamespace(sanity_checking=False, val_dataloaders=[loader()], default_root_dir=tmp_path, state=state)
    callback.on_validation_start(trainer, module)
    answered = {"texts": ["A", "B"], "scores": [{"A": -1.0}, {"B": -2.0}]}
    callback.on_validation_batch_end(trainer, module, answered, {"questions": QUESTIONS[:2], "indices": [1, 0]}, 0)
    callback.on_validation_epoch_end(trainer, module)
    rows = read_answers(tmp_path / "predictions" / "scienceqa-val-step0.jsonl")
    assert [row["question_id"] for row in rows] == [QUESTIONS[1].id, QUESTIONS[0].id]
    assert logged["val/scienceqa/count"] == 2
