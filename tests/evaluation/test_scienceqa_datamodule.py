"""Guards ScienceQA on its way to batches: another split, another picture or other words than asked for."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from llava_pl.data.quarantine import write_quarantine
from llava_pl.data.question_source import QuestionSource
from llava_pl.evaluation.scienceqa import ScienceQA
from llava_pl.evaluation.scienceqa_datamodule import ScienceQADataModule
from llava_pl.types import BadRecord, InputError, Question

COLOURS = {"1": (255, 0, 0), "2": (0, 255, 0), "3": (0, 0, 255)}


def save_picture(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), colour).save(path)


def error_of(action) -> str:
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """ScienceQA in small: one problem to train on, three pictures and a text to validate with, one to test with."""
    splits = {"train": ["9"], "val": ["1", "2", "0", "3"], "test": ["8"]}
    fields = ("hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")
    problems = {
        name: dict.fromkeys(fields, "")
        | {"question": f"Is {name} odd?", "choices": ["yes", "no"], "answer": 0, "split": split}
        | {"image": "image.png" if name in COLOURS else None}
        for split, names in splits.items()
        for name in names
    }
    problems["9"] |= {"lecture": "Count.", "solution": "Nine is."}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps(splits))
    for name, colour in COLOURS.items():
        save_picture(tmp_path / "images" / "val" / name / "image.png", colour)
    return tmp_path


def make_scienceqa(tiny_parts: Path, root: Path, **options) -> ScienceQADataModule:
    settings = {
        "tokenizer": str(tiny_parts / "decoder"),
        "image_processor": str(tiny_parts / "encoder"),
        "num_image_tokens": 4,
        "template": "vicuna_v1",
        "batch_size": 2,
        "num_workers": 0,
    }
    return ScienceQADataModule(root=root, **(settings | options))


def texts_of(data: ScienceQADataModule, batch: dict) -> list[str]:
    """The attended text of each row from USER on, `@` for an image token."""
    rows = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        kept = ids[mask.bool()].tolist()
        rows.append("".join("@" if token == -200 else data.tokenizer.decode([token]) for token in kept))
    return [row[row.index("USER: ") :] for row in rows]


def test_scienceqa_trains_on_its_train_split(tiny_parts, root):
    data = make_scienceqa(tiny_parts, root)
    data.setup("fit")
    assert data.count_train_batches(1) == 1
    [batch] = data.train_dataloader()
    assert batch["ids"] == ["9"]
    assert texts_of(data, batch) == [
        "USER: Is 9 odd?\nContext: N/A\nOptions: (A) yes (B) no ASSISTANT: Count. Nine is. The answer is A.</s>"
    ]
    assert batch["num_supervised"] == len(" Count. Nine is. The answer is A.") + 1


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_scienceqa_validates_on_its_val_split_left_padded(tiny_parts, root, stage):
    data = make_scienceqa(tiny_parts, root, prompt_format="QCM-A", ask_letter=True)
    data.setup(stage)
    [loader] = data.val_dataloader()
    first, second = loader
    assert (first["ids"], second["ids"]) == (["1", "2"], ["3", "0"])  # the longest first
    assert (first["indices"], second["indices"]) == ([0, 1], [3, 2])
    rest = (
        "odd?\nContext: N/A\nOptions: (A) yes (B) no\nAnswer with the option's letter from the given choices directly."
    )
    assert texts_of(data, second) == [f"USER: @@@@\nIs 3 {rest} ASSISTANT:", f"USER: Is 0 {rest} ASSISTANT:"]
    # The picture's four positions, and the line break behind it.
    assert second["attention_mask"][:, :6].tolist() == [[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]]
    assert second["attention_mask"][:, 5:].all()
    assert second["num_supervised"] == 0
    assert [question.id for question in second["questions"]] == ["3", "0"]


def test_scienceqa_tests_and_predicts_on_its_test_split(tiny_parts, root):
    data = make_scienceqa(tiny_parts, root, image_sources=("own", "none"))
    assert [batch["ids"] for loader in data.test_dataloader() for batch in loader] == [["8"], ["8"]]
    assert [batch["ids"] for loader in data.predict_dataloader() for batch in loader] == [["8"]]
    data = make_scienceqa(tiny_parts, root, test_split="val")
    assert [batch["ids"] for batch in data.predict_dataloader()[0]] == [["1", "2"], ["3", "0"]]


def test_image_sources_show_other_pictures_in_the_same_words(tiny_parts, root):
    data = make_scienceqa(tiny_parts, root, image_sources=("own", "other", "grey", "none"), eval_batch_size=4)
    data.setup("validate")
    own, other, grey, none = (next(iter(loader)) for loader in data.val_dataloader())
    transform = data.make_encoder().image_transform
    red, green, blue, middle = (
        transform.prepare(Image.new("RGB", (16, 16), colour)) for colour in (*COLOURS.values(), (128, 128, 128))
    )
    assert torch.equal(own["pixel_values"], torch.stack([red, green, blue]))
    assert torch.equal(other["pixel_values"], torch.stack([green, blue, red]))
    assert torch.equal(grey["pixel_values"], torch.stack([middle]))  # which all questions share
    assert (own.get("pictures"), other.get("pictures"), grey["pictures"]) == (None, None, [0, 0, 0, -1])
    assert none["pixel_values"].shape == (0, 3, 16, 16)
    assert torch.equal(own["input_ids"], other["input_ids"])
    assert torch.equal(own["input_ids"], grey["input_ids"])
    assert (own["input_ids"] == -200).sum(1).tolist() == [4, 4, 4, 0]
    assert sorted(text.replace("@@@@\n", "") for text in texts_of(data, own)) == sorted(texts_of(data, none))
    assert own["questions"] == other["questions"] == grey["questions"]


def test_other_picture_where_there_is_only_one(tiny_parts, root):
    (root / "pid_splits.json").write_text('{"val": ["0", "1"]}')
    data = make_scienceqa(tiny_parts, root, image_sources=("other",))
    data.setup("validate")
    found = error_of(lambda: list(data.val_dataloader()[0]))
    assert found.startswith("question '1': image_sources: 'other' needs two different pictures, found only one")


def test_missing_scienceqa_files(tiny_parts, root, tmp_path):
    (root / "problems.json").unlink()
    found = error_of(lambda: make_scienceqa(tiny_parts, root).setup("fit"))
    assert found.startswith(f"{root / 'problems.json'}: cannot be read (No such file or directory)")


def test_missing_scienceqa_folder(tiny_parts, root, tmp_path):
    data = make_scienceqa(tiny_parts, tmp_path / "none")
    assert str(tmp_path / "none") in error_of(lambda: data.setup("validate"))


def test_missing_scienceqa_picture_is_found(tiny_parts, root):
    path = root / "images" / "val" / "2" / "image.png"
    path.unlink()
    data = make_scienceqa(tiny_parts, root)
    data.setup("validate")
    assert f"cannot open picture {path}: " in error_of(lambda: list(data.val_dataloader()[0]))


def test_options_reach_the_encoder(tiny_parts, root):
    data = make_scienceqa(tiny_parts, root, respect_exif=False, image_aspect="square", max_length=77)
    encoder = data.make_encoder()
    assert (encoder.respect_exif, encoder.image_transform.aspect, encoder.max_length) == (False, "square", 77)


def test_paths_may_be_strings(tiny_parts, root):
    data = make_scienceqa(tiny_parts, str(root))
    data.setup("validate")
    assert len(data.val_datasets[0]) > 0


def test_scienceqa_leaves_quarantined_problems_out(tiny_parts, root, tmp_path):
    checked = make_scienceqa(tiny_parts, root, train_split="val")
    bad = [BadRecord(1, "1", "picture_broken", "why", source="scienceqa")]
    write_quarantine(tmp_path / "bad.json", checked.open_entries(), bad)
    options = {"bad_records": "quarantine", "quarantine": tmp_path / "bad.json"}
    with pytest.raises(InputError, match="this is not the data that was checked"):
        make_scienceqa(tiny_parts, root, **options).setup("fit")
    options["train_split"] = "val"
    data = make_scienceqa(tiny_parts, root, **options)
    data.setup("fit")
    assert [record.id for record in data.train_records] == ["1", "0", "3"]
    assert [record.id for record in data.open_entries()["scienceqa"]] == ["1", "2", "0", "3"]


def test_unknown_formats_are_refused_at_once(tiny_parts, root):
    found = error_of(lambda: make_scienceqa(tiny_parts, root, prompt_format="QCM-XYZ"))
    assert found.startswith("prompt_format: expected one of QCM, CQM,")


def test_further_tasks_are_asked_beside_it(tiny_parts, root):
    class One(QuestionSource):
        name = "one"

        def questions(self):
            return [Question("q", "What?")]

    data = make_scienceqa(tiny_parts, root, tasks=[One()])
    assert [batch["ids"] for loader in data.test_dataloader() for batch in loader] == [["8"], ["q"]]


def test_another_scienceqa_beside_it_is_refused(tiny_parts, root):
    data = make_scienceqa(tiny_parts, root, tasks=[ScienceQA(root=root, split="val")])
    assert error_of(data.test_dataloader).startswith("data.tasks: expected one of each name, found scienceqa twice")
