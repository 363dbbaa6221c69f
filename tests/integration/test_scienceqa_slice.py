"""Guards: the road from the official ScienceQA files to a score is broken somewhere a unit test does not look."""

import json

import pytest
from PIL import Image

from llava_pl.cli import main
from llava_pl.evaluation.answers import read_answers
from llava_pl.evaluation.scienceqa import score_scienceqa


@pytest.fixture(scope="module")
def root(shared_path, tmp_path_factory):
    """The real slice in the official layout, with drawn pictures in place of the real ones."""
    folder = tmp_path_factory.mktemp("scienceqa")
    problems = json.loads((shared_path / "scienceqa" / "problems.json").read_text())
    for number, (name, problem) in enumerate(problems.items()):
        if problem["image"]:
            path = folder / "images" / problem["split"] / name / problem["image"]
            path.parent.mkdir(parents=True)
            Image.new("RGB", (30 + number % 20, 24), (number % 256, 90, 160)).save(path)
    for name in ("problems.json", "pid_splits.json"):
        (folder / name).write_text((shared_path / "scienceqa" / name).read_text())
    return folder


def test_fit_then_validate(root, tiny_parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "--model.vision_encoder.path", str(tiny_parts / "encoder"),
        "--model.decoder.path", str(tiny_parts / "decoder"),
        "--model.stage", "finetune",
        "--model.optim.learning_rate", "1e-3",
        "--model.generation.max_new_tokens", "4",
        "--data", "llava_pl.ScienceQADataModule",
        "--data.root", str(root),
        "--data.prompt_format", "QCM-LEA",
        "--data.val_split", "test",
        "--data.max_length", "768",
        "--data.on_too_long", "drop",
        "--data.batch_size", "8",
        "--data.eval_batch_size", "56",
        "--data.num_workers", "0",
        "--trainer.accelerator", "cpu",
        "--trainer.enable_progress_bar", "false",
    ]  # fmt: skip
    train = ["--trainer.max_steps", "4", "--trainer.limit_val_batches", "0"]
    assert main(["fit", *words, *train, "--run_dir", "fit"]) == 0
    assert main(["validate", *words, "--ckpt_path", "fit/checkpoints/last.ckpt", "--run_dir", "val"]) == 0
    answers = read_answers("val/predictions/scienceqa-val-step4.jsonl")
    splits = json.loads((root / "pid_splits.json").read_text())
    assert [row["question_id"] for row in answers] == splits["test"]
    # The file scores to what the run has logged.
    table = score_scienceqa(json.loads((root / "problems.json").read_text()), splits, answers)
    header, *_, last = ((tmp_path / "val" / "metrics.csv").read_text()).splitlines()
    logged = dict(zip(header.split(","), last.split(","), strict=True))
    assert table["all"]["count"] == len(splits["test"]) == float(logged["val/scienceqa/count"]) == 168
    assert float(logged["val/scienceqa/accuracy"]) == pytest.approx(table["all"]["accuracy"], abs=1e-4)
    assert float(logged["val/scienceqa/accuracy/IMG"]) == pytest.approx(table["IMG"]["accuracy"], abs=1e-4)
    assert float(logged["val/scienceqa/checkpoint_step"]) == 4
