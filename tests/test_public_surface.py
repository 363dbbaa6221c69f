"""Guards: a name that users import is gone, or takes other arguments."""

import inspect
import re
import shutil
from importlib import import_module
from pathlib import Path

import pytest

NAMES = {
    "llava_pl": ["load_pretrained", "LlavaModule", "LlavaDataModule", "ScienceQADataModule", "__version__"],
    "llava_pl.data": ["load_tokenizer", "encode_conversation", "load_image", "ImageTransform", "read_records"],
    "llava_pl.evaluation": ["score_scienceqa"],
    "llava_pl.types": ["IGNORE_INDEX", "IMAGE_TOKEN_INDEX", "InputError"],
}

ARGUMENTS = {
    "llava_pl.load_pretrained": ["path", "vision_encoder", "base"],
    "llava_pl.data.load_tokenizer": ["path", "legacy"],
    "llava_pl.data.encode_conversation": [
        "conversations", "tokenizer", "template", "num_image_tokens", "max_length", "image_start_end",
    ],
    "llava_pl.data.load_image": ["path", "respect_exif"],
    "llava_pl.evaluation.score_scienceqa": ["problems", "splits", "answers", "split", "parser"],
}  # fmt: skip


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
def test_name_can_be_imported(module, name):
    assert getattr(import_module(module), name) is not None


@pytest.mark.parametrize("path", ARGUMENTS)
def test_arguments(path):
    module, _, name = path.rpartition(".")
    parameters = list(inspect.signature(getattr(import_module(module), name)).parameters)
    assert parameters[: len(ARGUMENTS[path])] == ARGUMENTS[path]


def test_unknown_names_are_no_attributes():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = import_module("llava_pl").nothing


def test_the_python_example_of_the_readme_runs(golden_path, tiny_parts, tmp_path, monkeypatch, capsys):
    """As it stands, on a model of the original's layout with the names that the example uses; the answer is noise."""
    readme = Path(__file__).resolve().parents[1] / "README.md"
    (code,) = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    shutil.copytree(golden_path / "model" / "llava-mlp2x", tmp_path / "llava-v1.5-7b")
    shutil.copytree(golden_path / "model" / "clip-mlp2x-patch14-56", tmp_path / "clip-vit-large-patch14-336")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_parts / "decoder" / name, tmp_path / "llava-v1.5-7b")
    shutil.copy(golden_path / "image" / "files" / "plain.jpg", tmp_path / "dog.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()
