"""What tests of whole runs share."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from llava_pl.cli import main
from llava_pl.run_folder import RUN_DIR_VARIABLE


@pytest.fixture
def fit(tmp_path, tiny_model, monkeypatch):
    """Run stage align (or what the words say) for a step on four records, and return the checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    Image.effect_noise((20, 12), 90).convert("RGB").save(tmp_path / "grey.png")
    turns = [{"from": "human", "value": "<image>\nColour?"}, {"from": "gpt", "value": "grey"}]
    records = [{"id": index, "image": "grey.png", "conversations": turns} for index in range(4)]
    (tmp_path / "records.json").write_text(json.dumps(records))
    data = {"records": "records.json", "image_folder": ".", "batch_size": 4, "num_workers": 0}
    settings = {
        # Warming up, the first step would be one of length zero.
        "model": {**tiny_model, "stage": "align", "optim": {"learning_rate": 0.001, "warmup_share": 0.0}},
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": data},
        "trainer": {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))

    def fit(*words: str) -> Path:
        assert main(["fit", "--config", "config.yaml", "--run_dir", "run", *words]) == 0
        return tmp_path / "run" / "checkpoints" / "last.ckpt"

    return fit
