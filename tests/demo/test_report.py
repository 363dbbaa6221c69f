"""Guards: the table or the pictures of the demo show other numbers than the runs have left."""

import json

import pytest
from PIL import Image

from llava_pl.demo.report import draw_learning_curves, draw_samples, make_table, read_scores
from llava_pl.evaluation.answers import write_answers

TOPICS = ("colour", "count", "existence", "position")


@pytest.fixture
def folder(tmp_path):
    """What the commands leave: one question of each kind, all with answer A; answers as `write` wants them."""
    root = tmp_path / "data" / "scienceqa"
    problems = {
        str(number): {
            "question": f"Which {topic}?", "choices": ["x", "y"], "answer": 0, "image": "image.png", "topic": topic,
        }
        for number, topic in enumerate(TOPICS)
    }  # fmt: skip
    for name in problems:
        path = root / "images" / "test" / name / "image.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (48, 48), (90, 120, 200)).save(path)
    (root / "problems.json").write_text(json.dumps(problems))
    (root / "pid_splits.json").write_text(json.dumps({"test": list(problems)}))
    for stage in ("start", "align", "finetune"):
        for ending in ("", "-other-image", "-grey-image", "-none-image"):
            write(tmp_path, stage, 0, ending, "The answer is B.")
    return tmp_path


def write(folder, stage, step, ending, text):
    rows = [{"question_id": str(number), "prompt": "<image>", "text": text} for number in range(len(TOPICS))]
    write_answers(folder / f"validate_{stage}" / "predictions" / f"scienceqa-val-step{step}{ending}.jsonl", rows)


def test_scores_come_from_the_file_of_stage_and_image(folder):
    write(folder, "finetune", 0, "", "The answer is A.")
    scores = read_scores(folder)
    assert scores["finetuned, own image"] == dict.fromkeys(("all", *TOPICS), 100.0)
    assert all(row["all"] == 0.0 for name, row in scores.items() if name != "finetuned, own image")


def test_the_newest_file_of_a_stage_counts(folder):
    write(folder, "align", 20, "-grey-image", "The answer is A.")
    assert read_scores(folder)["aligned, grey image"]["all"] == 100.0


def test_table_has_an_interval():
    values = {"all": 90.0, **dict.fromkeys(TOPICS, 90.0)}
    table = make_table({"finetuned, own image": values}, 100)
    assert [list(column.cells) for column in table.columns][:3] == [
        ["finetuned, own"], ["90.0 (81.7 to 94.2)"], ["90.0"]
    ]  # fmt: skip


def test_sample_sheet_shows_every_question(folder):
    draw_samples(folder, rows=1, columns=2)
    with Image.open(folder / "samples.png") as sheet:
        assert sheet.width > 2 * 300


def test_curves_are_those_of_both_stages(folder):
    for stage in ("align", "finetune"):
        (folder / stage).mkdir()
        (folder / stage / "metrics.csv").write_text("step,train/loss\n9,2.0\n19,1.0\n")
    draw_learning_curves(folder, read_scores(folder))
    with Image.open(folder / "learning_curves.png") as picture:
        assert picture.size == (1300, 468)
