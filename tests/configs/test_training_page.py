"""Guards: a page on ways to train whose blocks no longer train."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from llava_pl import LlavaModule
from llava_pl.cli import main
from llava_pl.lightning_cli import run_lightning
from llava_pl.run_folder import RUN_DIR_VARIABLE
from llava_pl.training.rehearsal import FROZEN_DTYPES
from llava_pl.training.stages import PLANS, EmbeddingTuning, ProjectorTuning, Tuning

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_blocks_are_found():
    assert len(BLOCKS) == PAGE.count("```yaml") == 8


@pytest.fixture
def mine(tmp_path, monkeypatch, tiny_model) -> Path:
    """A configuration of the page's reader."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    Image.new("RGB", (20, 12), (200, 40, 40)).save("red.png")
    turns = [{"from": "human", "value": "<image>\nColour?"}, {"from": "gpt", "value": "red"}]
    Path("records.json").write_text(
        json.dumps([{"id": n, "image": "red.png", "conversations": turns} for n in range(4)])
    )
    init_args = {"records": "records.json", "val_records": "records.json", "image_folder": ".", "batch_size": 2}
    settings = {
        "model": tiny_model,
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": {**init_args, "num_workers": 0}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    }
    Path("mine.yaml").write_text(yaml.safe_dump(settings))
    return Path("mine.yaml")


@pytest.mark.parametrize("block", BLOCKS, ids=[f"{n}" for n in range(len(BLOCKS))])
def test_each_block_trains(block, mine):
    """On top of a configuration of its reader, with a checkpoint that can be continued and evaluated."""
    Path("block.yaml").write_text(block)
    words = ["--config", "mine.yaml", "--config", "block.yaml", "--run_dir", "run"]
    precision = torch.get_float32_matmul_precision()
    try:
        assert main(["fit", *words]) == 0
        assert main(["fit", *words, "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
        assert main(["validate", *words, "--ckpt_path", "run/checkpoints/last.ckpt"]) == 0
    finally:
        torch.set_float32_matmul_precision(precision)
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    trainable = yaml.safe_load(block).get("model", {}).get("trainable", {})
    assert any("lora_" in name for name in saved["state_dict"]) == ("lora" in trainable.values())
    assert any("trainable_tokens" in name for name in saved["state_dict"]) == ("new_tokens" in trainable.values())


FLAGS = re.findall(r"^\| (nothing|`--.*?`) \| `(--.*?)` \| (.*) \|$", PAGE, re.MULTILINE)


def test_every_flag_of_the_original_has_its_row():
    found = {word for original, *_ in FLAGS for word in original.strip("`").split() if word.startswith("--")}
    assert found >= {f"--{name}" for name in ("freeze_backbone", "tune_mm_mlp_adapter", "freeze_mm_mlp_adapter")}
    assert found >= {"--pretrain_mm_mlp_adapter", "--mm_projector_lr"}


@pytest.mark.parametrize(("original", "words", "learning"), FLAGS)
def test_the_original_s_flags_train_what_the_table_says(mine, monkeypatch, original, words, learning):
    """Tensors are told by their names alone, and must have moved in the first step, all others not."""
    torch.manual_seed(1)
    projector = {"0.weight": (32, 16), "0.bias": (32,), "2.weight": (32, 32), "2.bias": (32,)}
    torch.save({f"model.mm_projector.{name}": torch.randn(shape) for name, shape in projector.items()}, "FILE")
    before = {}

    def remember(module):
        before.update({name: parameter.clone() for name, parameter in module.model.named_parameters()})
        groups = {group["name"]: group["initial_lr"] for group in module.optimizers().param_groups}
        assert ("projector_decay" in groups) == ("mm_projector_lr" in original)
        assert groups.get("projector_decay", 2e-5) == 2e-5

    monkeypatch.setattr(LlavaModule, "on_train_start", _then(LlavaModule.on_train_start, remember))
    options = ["--trainer.max_steps", "1", "--model.optim.warmup_share", "0", "--run_dir", "run"]
    cli = run_lightning(["fit", "--config", str(mine), *words.split(), *options])
    moved = {n for n, p in cli.model.model.named_parameters() if not torch.equal(p, before[n])}
    parts = set(re.findall(r"(?<!adapters of )`(\w+)`", learning))
    adapted = set(re.findall(r"adapters of `(\w+)`", learning))
    assert moved == {
        name
        for name in before
        if ("embeddings" if "embed_tokens" in name else name.partition(".")[0]) in parts
        or (name.partition(".")[0] in adapted and ".lora_B." in name)
    }
    if "FILE" in original:
        file = torch.load("FILE", weights_only=True)
        assert all(torch.equal(before[n.replace("model.mm_", "")], tensor) for n, tensor in file.items())


def _then(first, second):
    def both(module):
        first(module)
        second(module)

    return both


def test_the_table_of_precisions_is_the_one_that_is_enforced():
    rows = re.findall(r"^\| `([\w-]+)` \| ((?:`\w+`(?:, )?)+) \| .*\|$", PAGE, re.MULTILINE)
    assert {name: tuple(re.findall(r"\w+", dtypes)) for name, dtypes in rows if "-" in name} == FROZEN_DTYPES


def test_the_table_has_every_word():
    words = {"projector": ProjectorTuning, "embeddings": EmbeddingTuning}
    for part in ("vision_encoder", "projector", "decoder", "embeddings"):
        (row,) = re.findall(rf"^\| `{part}` \| (.*?) \|", PAGE, re.MULTILINE)
        assert tuple(re.findall(r"`(\w+)`", row)) == words.get(part, Tuning).__args__
    assert all(f"`{stage}`" in PAGE for stage in PLANS)
