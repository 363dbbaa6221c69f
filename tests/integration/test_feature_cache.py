"""Guards: ranks, workers and rows by which a run with stored features becomes another one."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

pytestmark = pytest.mark.slow

FSDP2 = Path(__file__).parents[2] / "configs" / "strategy" / "fsdp2.yaml"


@pytest.fixture
def folder(tmp_path, tiny_model):
    rng, entries = np.random.default_rng(0), []
    for number in range(14):
        turns = [{"from": "human", "value": "<image>\nWhat?" if number % 3 else "What?"}]
        turns.append({"from": "gpt", "value": "abcdefgh"[: 1 + number % 8]})
        entries.append({"id": number, "conversations": turns})
        if number % 3:
            entries[-1]["image"] = f"{number}.png"
            Image.fromarray(rng.integers(0, 256, (20, 16, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "records.json").write_text(json.dumps(entries))
    init_args = {"records": "records.json", "val_records": "records.json", "image_folder": ".", "batch_size": 2}
    settings = {
        "model": {**tiny_model, "stage": "align"},
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": {**init_args, "num_workers": 2}},
        "trainer": {
            "max_epochs": 2, "accelerator": "cpu", "accumulate_grad_batches": 2, "log_every_n_steps": 1,
            "enable_progress_bar": False,
        },
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--data.init_args.is_packed", "true", "--model.stage", "finetune"),
        ("--trainer.precision", "bf16-mixed"),
        ("--trainer.devices", "2", "--trainer.strategy", "ddp"),
        ("--trainer.devices", "2", "--config", str(FSDP2)),
    ],
    ids=["plain", "packed", "bf16", "ddp", "fsdp2"],
)
def test_every_logged_number_is_that_of_a_run_without_a_store(folder, run, words):
    numbers = []
    for kind in ("none", "always"):
        run(
            "-m", "llava_pl", "fit", "--config", "config.yaml", "--run_dir", kind,
            "--data.init_args.feature_cache", kind, "--data.init_args.cache_dir", "cache", *words, cwd=folder,
        )  # fmt: skip
        with (folder / kind / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        kept = [{name: value for name, value in row.items() if not name.startswith("perf/")} for row in rows]
        numbers.append([row for row in kept if any(value for name, value in row.items() if "/" in name)])
    assert numbers[0] == numbers[1]
    assert any(row.get("val/loss") for row in numbers[0])
    (manifest,) = (folder / "cache" / "features").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["difference"] == 0.0
    rows = [path.stat().st_size for path in manifest.parent.glob("*.features")]
    assert sum(rows) == 9 * (4 * 16 * 4 + 20), "nine pictures, each once: four patches of 16 floats, hash, checksum"
