"""Guards: a connector or an encoder that works alone, but not in a run; a page of the documentation that lies."""

import importlib
import inspect
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from llava_pl.models.projector import CONNECTORS, find_connector
from llava_pl.training.module import LlavaModule

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "connectors.md").read_text()

pytestmark = pytest.mark.filterwarnings("ignore:.*eval mode at the start of training.*")  # frozen parts are meant to be


@pytest.fixture
def own_connector(tmp_path, monkeypatch):
    """The class of the page, in a file that Python finds."""
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_connectors.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_connectors", raising=False)
    importlib.invalidate_caches()


def words_of_page(start: str) -> list[str]:
    (line,) = re.findall(rf"^{re.escape(start)}(.*)$", PAGE, re.MULTILINE)
    return shlex.split(line)


@pytest.mark.parametrize("has_options", [False, True])
def test_a_connector_from_outside_of_the_package(fit, own_connector, tmp_path, has_options):
    words = words_of_page("PYTHONPATH=. llava-pl fit --config configs/experiment/align_7b.yaml ")
    assert words == ["--model.projector", "my_connectors.AveragePool"]
    if has_options:
        words += ["--model.projector_options", *words_of_page("--model.projector_options ")]
    checkpoint = fit(*words)
    # Each of four patches is an image token of 16 numbers; two or all four of them become one.
    module = LlavaModule.load_from_checkpoint(checkpoint, weights_only=True)
    assert module.num_image_tokens == (1 if has_options else 2)
    assert module.model.encode_images(torch.zeros(1, 3, 16, 16)).shape == (1, module.num_image_tokens, 32)
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert saved.keys() == {f"model.projector.layers.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")}


def test_names_of_the_page_are_those_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|", PAGE, re.MULTILINE)
    assert CONNECTORS.keys() <= {name for name, _ in rows}
    for name, options in rows:
        if name in CONNECTORS:
            parameters = inspect.signature(find_connector(name)).parameters.values()
            defaults = [f"`{p.name}: {p.default}`" for p in parameters if p.kind is p.KEYWORD_ONLY]
            assert options == ", ".join(defaults)


SMALL = {
    "pixel_shuffle": {"factor": 2},
    "qformer": {"num_queries": 3, "width": 8, "depth": 2, "num_heads": 2},
    "resampler": {"num_queries": 3, "depth": 1, "num_heads": 2, "head_dim": 4},
}


@pytest.mark.parametrize(("kind", "options"), SMALL.items())
def test_connectors_train_and_come_back(fit, kind, options):
    words = ["--model.projector", kind, "--model.projector_options", json.dumps(options)]
    checkpoint = fit(*words, "--model.decoder.gradient_checkpointing", "full", "--data.is_packed", "true")
    module = LlavaModule.load_from_checkpoint(checkpoint, weights_only=True)
    assert module.num_image_tokens == module.model.num_image_tokens == (1 if kind == "pixel_shuffle" else 3)
    saved = torch.load(checkpoint, weights_only=True)
    assert len(saved["state_dict"]) == len(list(module.model.projector.parameters()))
    # Every weight of it has been stepped.
    assert len(saved["optimizer_states"][0]["state"]) == len(saved["state_dict"])


def test_siglip_and_tiles_of_shuffled_patches(fit, tmp_path):
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4
    )
    SiglipVisionModel(config).save_pretrained(tmp_path / "siglip")
    words = [
        "--model.vision_encoder.path",
        "siglip",
        "--model.projector",
        "pixel_shuffle",
        "--data.image_aspect",
        "anyres",
    ]
    module = LlavaModule.load_from_checkpoint(fit(*words), weights_only=True)
    assert module.model.num_image_tokens == 4
    assert module.model.image_newline is not None


def test_tiles_of_queries_are_refused(fit, capsys):
    with pytest.raises(AssertionError):
        fit("--model.projector", "resampler", "--data.image_aspect", "anyres")
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith(
        "llava-pl: error: data.image_aspect: anyres puts the image tokens of tiles side by side"
    )


def test_a_count_that_is_wrong_stops_the_run(fit, own_connector, tmp_path, capsys):
    source = (tmp_path / "my_connectors.py").read_text()
    (tmp_path / "my_connectors.py").write_text(source.replace("return num_patches // self.size", "return num_patches"))
    with pytest.raises(AssertionError):
        fit("--model.projector", "my_connectors.AveragePool")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line == (
        "llava-pl: error: model.projector: AveragePool counts 4 image tokens of a picture, but gives 2; correct its "
        "count_image_tokens"
    )
