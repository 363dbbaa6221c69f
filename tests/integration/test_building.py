"""Guards both data sets as a whole: of captions and boxes alone, by the commands that users type, a model learns.

The teacher is a script behind an endpoint on this machine: what it writes it knows from the request alone. Slow: a
minute and a half on two quiet cores.
"""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from llava_pl.cli import main
from llava_pl.curves.metrics import read_metrics
from llava_pl.demo.dataset import sample_picture
from llava_pl.demo.questions import ask, converse, describe
from llava_pl.demo.shapes import CELLS, Scene, Shape
from llava_pl.demo.small import TOPICS, make_small_parts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "demo"
NUM_PICTURES = 1600


def write_collections(folder, parts):
    """Write what is known of the pictures: captions, and captions with boxes."""
    captions, descriptions = [], []
    for index in range(NUM_PICTURES):
        scene, _, _ = sample_picture(0, 0, index, held_out=False)
        text, name = describe(scene.shapes), f"{index:05d}.png"
        boxes = []
        for shape in scene.shapes:
            row, column = divmod(shape.cell, 3)
            boxes.append({"category": shape.kind, "box": [column / 3, row / 3, (column + 1) / 3, (row + 1) / 3]})
        captions.append(f"{text}\t{name}\n")
        descriptions.append(json.dumps({"image": name, "captions": [text], "boxes": boxes}) + "\n")
    assert (parts.image_folder / f"{NUM_PICTURES - 1:05d}.png").is_file()
    (folder / "captions.tsv").write_text("".join(captions))
    (folder / "descriptions.jsonl").write_text("".join(descriptions))


def teach(request):
    """Write what a good teacher would, of the caption and the boxes in a request."""
    system, told = request["messages"][0]["content"], request["messages"][-1]["content"]
    caption, _, boxes = told.partition("\n\n")
    found = re.findall(r"a (\w+) (\w+) at the ([\w-]+)", caption)
    assert len(found) == len(boxes.splitlines())
    scene = Scene(tuple(Shape(CELLS.index(cell), kind, colour) for colour, kind, cell in found))
    rng = np.random.default_rng(zlib.crc32(request_bytes := told.encode()) + len(request_bytes))
    if "conversations between" in system:
        pairs = dict(converse(scene, rng, TOPICS)).items()  # no question twice
        return "\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in pairs)
    if "describe pictures in detail" in system:
        return f"The picture shows {caption}"
    question = ask(scene, TOPICS[int(rng.integers(len(TOPICS)))], rng)
    return f"Question: {question.lettered_prompt}\nAnswer: {question.lettered_answer}"


def test_a_model_learns_to_see_from_built_data(tmp_path, monkeypatch, teacher_server):
    monkeypatch.chdir(tmp_path)
    parts = make_small_parts(tmp_path / "small")
    write_collections(tmp_path, parts)
    pictures = ["--image_folder", str(parts.image_folder)]
    assert main(["data", "captions", "captions.tsv", "pairs", *pictures, "--workers", "1"]) == 0
    assert len(json.loads(Path("pairs/records.json").read_text())) > 0.9 * NUM_PICTURES

    teacher_server.reply = teach
    told = ["--model", "scripted", "--endpoint", teacher_server.url, *pictures]
    # Of few shapes there is little to say, and often the same.
    few_shapes = ["--accept", "length", "duplicate", "questions"]
    assert main(["data", "instruct", "descriptions.jsonl", "taught", *told, *few_shapes]) == 0
    counts = json.loads(Path("taught/report.json").read_text())
    assert counts["replies"] == 3 * NUM_PICTURES
    assert counts["records"] == 3 * NUM_PICTURES

    model = ["--model.vision_encoder.path", str(parts.encoder), "--model.decoder.path", str(parts.decoder)]
    shared = ["--config", str(CONFIGS / "model.yaml"), *model, "--seed_everything", "0"]
    data = ["--data.image_folder", str(parts.image_folder), "--data.cache_dir", "cache"]
    align = ["--config", str(CONFIGS / "align.yaml"), "--data.records", "pairs/records.json"]
    assert main(["fit", *shared, *align, *data, "--trainer.max_steps", "60", "--run_dir", "align"]) == 0
    tune = ["--config", str(CONFIGS / "finetune.yaml"), "--config", "taught/mixture.yaml"]
    start = ["--model.init_from", "align/checkpoints/last.ckpt"]
    assert main(["fit", *shared, *tune, *data, *start, "--trainer.max_steps", "300", "--run_dir", "tune"]) == 0
    look = ["--config", str(CONFIGS / "validate.yaml"), "--data.root", str(parts.scienceqa)]
    tuned = ["--ckpt_path", "tune/checkpoints/last.ckpt", "--run_dir", "look"]
    assert main(["validate", *shared, *look, *tuned]) == 0
    points = read_metrics(Path("look/metrics.csv")).points
    sources = ("", "other_image/", "grey_image/", "none_image/")
    own, *blind = (points[f"val/scienceqa/{source}accuracy"][-1][1] for source in sources)
    assert own > 80
    # Of four colours and of yes and no, half the questions each: 37.5 % without looking.
    assert max(blind) < 50
