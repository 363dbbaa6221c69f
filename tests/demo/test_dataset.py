"""Guards: files that the readers refuse, a held-out scene among the training pictures, stale or drifting data."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_pl.data.scienceqa import read_scienceqa
from llava_pl.demo import dataset
from llava_pl.demo.dataset import LABELS, read_conversations, read_pictures, sample_picture, write_dataset

OFFICIAL_KEYS = {
    *("question", "choices", "answer", "hint", "image", "task", "grade"),
    *("subject", "topic", "category", "skill", "lecture", "solution", "split"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, num_pictures=24, num_held_out=16, seed=5)
    return path


def content(path: Path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_records_name_pictures_that_show_their_scene(folder):
    records = json.loads((folder / "instructions.json").read_text())
    pictures, presence = read_pictures(folder, 100)
    assert pictures.shape == (24, 48, 48, 3)
    assert len(records) == 24
    for i, record in enumerate(records):
        scene, picture, _ = sample_picture(5, 0, i, held_out=False)
        stored = np.asarray(Image.open(folder / "images" / record["image"]))
        assert (stored == picture).all()
        assert (stored == pictures[i]).all()
        assert len(record["conversations"]) == 8
        assert record["conversations"][0]["value"].startswith("<image>\n")
        text = " ".join(shape.name for shape in scene.shapes)
        assert [label for label, is_there in zip(LABELS, presence[i], strict=True) if is_there] == [
            label for label in LABELS if label in text
        ]


def test_reading_has_no_picture(folder):
    records = json.loads((folder / "reading.json").read_text())
    assert len(records) == 24
    assert all("image" not in record for record in records)
    conversations = read_conversations(folder)
    assert [len(turns) for turns in conversations] == [8] * 24
    assert "<image>" not in json.dumps(conversations)


def test_scienceqa_layout_is_the_official_one(folder):
    root = folder / "scienceqa"
    problems = json.loads((root / "problems.json").read_text())
    splits = json.loads((root / "pid_splits.json").read_text())
    assert {split: len(ids) for split, ids in splits.items()} == {"train": 8, "val": 8, "test": 32}
    assert sorted(problems, key=int) == sorted((name for ids in splits.values() for name in ids), key=int)
    for split, ids in splits.items():
        read = read_scienceqa(root, split)
        assert list(read) == ids
        for problem in read.values():
            assert set(problems[problem.id]) == OFFICIAL_KEYS
            assert problem.split == split
            assert problem.choices[problem.answer] == problem.solution.split(" (")[0]
            assert Image.open(root / problem.image_path).size == (48, 48)
    topics = [problem.topic for problem in read_scienceqa(root, "test").values()]
    assert {topic: topics.count(topic) for topic in topics} == dict.fromkeys(
        ("colour", "count", "existence", "position"), 8
    )


def test_topics_are_those_asked_for(tmp_path):
    write_dataset(tmp_path, num_pictures=8, num_held_out=8, topics=["colour", "existence"], seed=0)
    topics = [problem.topic for problem in read_scienceqa(tmp_path / "scienceqa", "test").values()]
    assert {topic: topics.count(topic) for topic in topics} == {"colour": 8, "existence": 8}
    for name in ("instructions.json", "reading.json"):
        for record in json.loads((tmp_path / name).read_text()):
            questions = [turn["value"] for turn in record["conversations"] if turn["from"] == "human"]
            assert sorted("Is there" in question for question in questions) == [False, False, True]
            assert all("What colour" in question or "Is there" in question for question in questions)
    before = (tmp_path / "instructions.json").read_text()
    write_dataset(tmp_path, num_pictures=8, num_held_out=8, seed=0)
    assert (tmp_path / "instructions.json").read_text() != before


def test_next_question_has_another_picture(folder):
    problems = read_scienceqa(folder / "scienceqa", "test").values()
    pictures = [(folder / "scienceqa" / problem.image_path).read_bytes() for problem in problems]
    assert all(picture != other for picture, other in zip(pictures, [*pictures[1:], pictures[0]], strict=True))


def test_held_out_scenes_are_not_in_training():
    training = {sample_picture(0, 0, i, held_out=False)[0] for i in range(2000)}
    for split, (stream, _, held_out) in dataset._SPLITS.items():
        scenes = {sample_picture(0, stream, i, held_out=held_out)[0] for i in range(200)}
        assert (not scenes & training) == (split in {"val", "test"})


def test_same_seed_same_bytes_and_fewer_are_the_first_of_more(folder, tmp_path):
    write_dataset(tmp_path / "same", num_pictures=24, num_held_out=16, seed=5)
    write_dataset(tmp_path / "fewer", num_pictures=6, num_held_out=16, seed=5)
    write_dataset(tmp_path / "other", num_pictures=6, num_held_out=16, seed=6)
    assert content(tmp_path / "same") == content(folder)
    all_records = json.loads((folder / "instructions.json").read_text())
    assert json.loads((tmp_path / "fewer" / "instructions.json").read_text()) == all_records[:6]
    assert json.loads((tmp_path / "other" / "instructions.json").read_text()) != all_records[:6]


def test_written_once_and_again_when_arguments_change_or_writing_was_cut_short(tmp_path, monkeypatch):
    write_dataset(tmp_path, num_pictures=2, num_held_out=4, seed=0)
    before = content(tmp_path)
    marked = tmp_path / "instructions.json"
    marked.write_text("[]")
    write_dataset(tmp_path, num_pictures=2, num_held_out=4, seed=0)
    assert marked.read_text() == "[]"

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_write_scienceqa", fail)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(tmp_path, num_pictures=3, num_held_out=4, seed=0)
    write_dataset(tmp_path, num_pictures=2, num_held_out=4, seed=0)
    restored = content(tmp_path)
    assert {name: restored[name] for name in before} == before


def test_silent_when_nobody_watches(tmp_path, capfd):
    write_dataset(tmp_path, num_pictures=2, num_held_out=4, seed=0)
    assert capfd.readouterr() == ("", "")
