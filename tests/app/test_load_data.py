"""Guards: a view or check of data that is not the training's: other links, another P, or a model loaded on the way."""

import json

import pytest

from llava_pl.app.data.check import check_records
from llava_pl.app.data.lens import look_at
from llava_pl.app.load_data import DataCLI, load_data
from llava_pl.data.datamodule import LlavaDataModule
from llava_pl.lightning_cli import LlavaCLI


def test_data_module_is_linked_as_in_fit(zoo, tiny_parts):
    words = ["--config", str(zoo / "config.yaml"), "--data.max_length", "77", "--data.template", "plain"]
    data = load_data(words)
    assert isinstance(data, LlavaDataModule)
    encoder = data.make_encoder()
    assert data.num_image_tokens == encoder.num_image_tokens == 4
    assert (encoder.max_length, encoder.template) == (77, "plain")
    assert encoder.tokenizer.name_or_path == str(tiny_parts / "decoder")
    assert encoder.image_transform.image_size == 16


def test_image_tokens_are_counted_from_the_encoders_config(zoo):
    words = ["--config", str(zoo / "config.yaml"), "--model.vision_encoder.select_feature", "cls_patch"]
    assert load_data(words).num_image_tokens == 5


def test_neither_model_nor_logger_is_made(zoo, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("llava_pl.training.module.build_model", refuse)
    (zoo / "account.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n"
        "class Account(CSVLogger):\n"
        "    def __init__(self, save_dir: str = '.'):\n"
        "        raise AssertionError('the logger was made')\n"
    )
    monkeypatch.syspath_prepend(str(zoo))
    words = [
        "--config",
        str(zoo / "config.yaml"),
        "--trainer.logger",
        "account.Account",
        "--model.init_from",
        "nowhere",
    ]
    data = load_data(words)
    assert len(data.open_entries()["records"]) == 32


def test_what_the_parser_refuses_ends_as_in_fit(zoo, capsys):
    with pytest.raises(SystemExit, match="2"):
        load_data(["--config", str(zoo / "config.yaml"), "--model.stage", "x"])
    expected = "llava-pl: error: --model.stage: expected one of align, finetune, found x\n"
    assert capsys.readouterr().err == expected


def test_print_config_is_that_of_fit(zoo, capsys):
    with pytest.raises(SystemExit, match="0"):
        load_data(["--config", str(zoo / "config.yaml"), "--print_config"])
    assert "class_path: llava_pl.LlavaDataModule" in capsys.readouterr().out.replace("data.datamodule.", "")


def test_scienceqa(zoo):
    """Its problems are records too; the place of one is that in its split."""
    texts = ("hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")
    problem = dict.fromkeys(texts, "") | {"question": "Is it odd?", "choices": ["yes", "no"], "answer": 1}
    problem |= {"split": "train", "image": None}
    (zoo / "problems.json").write_text(json.dumps({"3": problem, "5": problem | {"image": "image.png"}}))
    (zoo / "pid_splits.json").write_text('{"train": ["5", "3"], "val": []}')
    words = ["--data", "ScienceQADataModule", "--data.root", str(zoo), "--data.template", "mpt"]
    data = load_data(["--config", str(zoo / "config.yaml"), *words])
    view = look_at(data, 1)
    assert "".join(token.text for token in view.stretches[-1].tokens) == " The answer is B.<|im_end|>"
    report = check_records(data.open_entries(), data.make_encoder())
    assert [(bad.place, bad.id, bad.reason) for bad in report.bad] == [("scienceqa 0", "5", "picture_missing")]


def test_it_is_the_parser_of_fit():
    assert issubclass(DataCLI, LlavaCLI)
    assert DataCLI.add_arguments_to_parser is LlavaCLI.add_arguments_to_parser
