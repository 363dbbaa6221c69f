"""Guards the head of an answer file: two files that were made differently must not look alike."""

import json
from types import SimpleNamespace

import pytest

from llava_pl import __version__
from llava_pl.evaluation.generation import GenerationConfig
from llava_pl.evaluation.task import Task
from llava_pl.export.model_config import DecoderConfig, ModelConfig, VisionEncoderConfig
from llava_pl.training.answer_header import describe_answers, describe_model
from llava_pl.types import Question

ENCODER = SimpleNamespace(
    template="vicuna_v1", tiling=None, image_transform=SimpleNamespace(aspect="pad", image_size=336),
    image_start_end=False, respect_exif=True,
)  # fmt: skip


class One(Task):
    name = "one"

    def __init__(self, text):
        self.text = text

    def settings(self):
        return {"split": "minitest"}

    def questions(self):
        return [Question("1", self.text)]

    def score(self, asked):
        raise NotImplementedError


def trainer(**changes):
    return SimpleNamespace(
        **({"datamodule": SimpleNamespace(encoder=ENCODER), "precision": "bf16-mixed", "ckpt_path": None} | changes)
    )


def test_all_that_an_answer_depends_on():
    module = SimpleNamespace(generation=GenerationConfig(max_new_tokens=16, method="likelihood"))
    described = describe_answers(trainer(), module, One("a"), "grey")
    assert described.pop("questions")
    assert described == {
        "task": "one", "split": "minitest", "image_source": "grey",
        "template": "vicuna_v1", "image_aspect": "pad", "image_size": 336,
        "image_start_end": False, "respect_exif": True, "method": "likelihood", "max_new_tokens": 16,
        "precision": "bf16-mixed", "llava_pl": __version__,
    }  # fmt: skip
    assert json.loads(json.dumps(described)) == described


def test_a_module_of_ones_own_is_described_as_far_as_it_goes():
    described = describe_answers(trainer(datamodule=None), SimpleNamespace(), One("a"), "own")
    assert "template" not in described
    assert "method" not in described


def test_weights(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"1234")
    config = ModelConfig(VisionEncoderConfig("clip"), DecoderConfig("vicuna", quantization="nf4"))
    module = SimpleNamespace(init_from="someone/llava", model_config=config)
    described = describe_model(trainer(ckpt_path=path), module)
    assert described["checkpoint"]["path"] == str(path)
    assert described["init_from"]["path"] == "someone/llava"
    assert described["config"]["decoder"]["path"] == "vicuna"
    assert described["config"]["decoder"]["quantization"] == "nf4"
    assert json.loads(json.dumps(described)) == described
    assert describe_model(trainer(), SimpleNamespace()) == {"checkpoint": None, "init_from": None, "config": None}


@pytest.mark.parametrize("is_folder", [True, False])
def test_weights_that_were_written_anew_are_others(tmp_path, is_folder):
    path = tmp_path / "checkpoint"
    if is_folder:
        path.mkdir()
    file = path / "weights.bin" if is_folder else path
    file.write_bytes(b"1234")
    first = describe_model(trainer(ckpt_path=path), SimpleNamespace())
    assert describe_model(trainer(ckpt_path=path), SimpleNamespace()) == first
    file.write_bytes(b"56789")
    assert describe_model(trainer(ckpt_path=path), SimpleNamespace()) != first


def test_other_questions_are_told_apart():
    heads = [describe_answers(trainer(), SimpleNamespace(), One(text), "own") for text in ("a", "a", "b")]
    assert heads[0] == heads[1] != heads[2]
