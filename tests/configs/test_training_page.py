"""Guards: a page on ways to train whose blocks no longer train."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from llava_pl.cli import main
from llava_pl.run_folder import RUN_DIR_VARIABLE
from llava_pl.training.stages import PLANS, EmbeddingTuning, ProjectorTuning, Tuning

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_blocks_are_found():
    assert len(BLOCKS) == PAGE.count("```yaml") == 8


@pytest.mark.parametrize("block", BLOCKS, ids=[f"{n}" for n in range(len(BLOCKS))])
def test_each_block_trains(block, tmp_path, monkeypatch, tiny_model):
    """On top of a configuration of its reader, with a checkpoint that can be continued and evaluated."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    Image.new("RGB", (20, 12), (200, 40, 40)).save("red.png")
    turns = [{"from": "human", "value": "<image>\nColour?"}, {"from": "gpt", "value": "red"}]
    Path("records.json").write_text(
        json.dumps([{"id": n, "image": "red.png", "conversations": turns} for n in range(4)])
    )
    init_args = {"records": "records.json", "image_folder": ".", "batch_size": 2, "num_workers": 0}
    settings = {
        "model": tiny_model,
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": init_args},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    }
    Path("mine.yaml").write_text(yaml.safe_dump(settings))
    Path("block.yaml").write_text(block)
    words = ["fit", "--config", "mine.yaml", "--config", "block.yaml", "--run_dir", "run"]
    precision = torch.get_float32_matmul_precision()
    try:
        assert main(words) == 0
        assert main([*words, "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    finally:
        torch.set_float32_matmul_precision(precision)
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    trainable = yaml.safe_load(block).get("model", {}).get("trainable", {})
    assert any("lora_" in name for name in saved["state_dict"]) == ("lora" in trainable.values())
    assert any("trainable_tokens" in name for name in saved["state_dict"]) == ("new_tokens" in trainable.values())


def test_the_table_has_every_word():
    words = {"projector": ProjectorTuning, "embeddings": EmbeddingTuning}
    for part in ("vision_encoder", "projector", "decoder", "embeddings"):
        (row,) = re.findall(rf"^\| `{part}` \| (.*?) \|", PAGE, re.MULTILINE)
        assert tuple(re.findall(r"`(\w+)`", row)) == words.get(part, Tuning).__args__
    assert all(f"`{stage}`" in PAGE for stage in PLANS)
