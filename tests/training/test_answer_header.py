"""Guards the head of an answer file: two files that were made differently must not look alike."""

import json
from types import SimpleNamespace

from llava_pl import __version__
from llava_pl.evaluation.generation import GenerationConfig
from llava_pl.evaluation.scienceqa import ScienceQA
from llava_pl.training.answer_header import describe_answers, describe_model

ENCODER = SimpleNamespace(
    template="vicuna_v1", tiling=None, image_transform=SimpleNamespace(aspect="pad", image_size=336),
    image_start_end=False, respect_exif=True,
)  # fmt: skip


def trainer(**changes):
    return SimpleNamespace(
        **({"datamodule": SimpleNamespace(encoder=ENCODER), "precision": "bf16-mixed", "ckpt_path": None} | changes)
    )


def test_all_that_an_answer_depends_on():
    module = SimpleNamespace(generation=GenerationConfig(max_new_tokens=16, method="likelihood"))
    described = describe_answers(trainer(), module, ScienceQA(root="x", split="minitest", ask_letter=True), "grey")
    assert described == {
        "task": "scienceqa", "split": "minitest", "prompt_format": "QCM-LEA", "ask_letter": True,
        "image_source": "grey", "template": "vicuna_v1", "image_aspect": "pad", "image_size": 336,
        "image_start_end": False, "respect_exif": True, "method": "likelihood", "max_new_tokens": 16,
        "precision": "bf16-mixed", "llava_pl": __version__,
    }  # fmt: skip
    assert json.loads(json.dumps(described)) == described


def test_a_module_of_ones_own_is_described_as_far_as_it_goes():
    described = describe_answers(trainer(datamodule=None), SimpleNamespace(), ScienceQA(root="x"), "own")
    assert "template" not in described
    assert "method" not in described


def test_weights(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"1234")
    described = describe_model(trainer(ckpt_path=path), SimpleNamespace(init_from="someone/llava"))
    assert described == {
        "checkpoint": {"path": str(path), "bytes": 4, "modified_ns": path.stat().st_mtime_ns},
        "init_from": {"path": "someone/llava"},
    }
    assert describe_model(trainer(), SimpleNamespace()) == {"checkpoint": None, "init_from": None}
