"""Guards: a setting under which numbers depend on ranks or accumulation, and a `verify` that does not say so.

The runs of most tests are started in this process, whose ranks are forked: nothing is imported again. One starts them
as a user's command does.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from llava_pl.app import invariance_runs
from llava_pl.cli import main
from llava_pl.run_folder import RUN_DIR_VARIABLE

NUM_RECORDS = 17
"""Two steps of eight; an odd number, so that ranks would fill up an epoch."""

ANSWERS = ("a", "abcdefgh", "ab" * 12, "c", "defg")


@pytest.fixture
def root(tmp_path, tiny_model, monkeypatch):
    """A folder with records, some with pictures, and a configuration of two steps."""
    rng, records = np.random.default_rng(0), []
    for number in range(NUM_RECORDS):
        turns = [{"from": "human", "value": f"Q{number}?"}, {"from": "gpt", "value": ANSWERS[number % len(ANSWERS)]}]
        records.append({"id": "same", "conversations": turns})
        if number % 3 == 0:
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
            records[-1]["image"] = f"{number}.png"
            turns[0]["value"] = f"<image>\nQ{number}?"
    (tmp_path / "records.json").write_text(json.dumps(records))
    (tmp_path / "val.json").write_text(json.dumps(records[:7]))
    data = {"records": "records.json", "val_records": "val.json", "image_folder": ".", "batch_size": 2}
    config = {
        "model": {**tiny_model, "optim": {"learning_rate": 1e-3}},
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": {**data, "num_workers": 0}},
        "trainer": {"max_epochs": 3, "accelerator": "cpu", "devices": 1, "accumulate_grad_batches": 4},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUN_DIR_VARIABLE, "")  # so that it is taken back
    monkeypatch.setattr(invariance_runs, "_launch", lambda words, output: main(words))
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(num_threads)


def verify(*words: str, strategy: str = "ddp_fork") -> tuple[int, dict]:
    """Return the exit status, and what was written as JSON."""
    words = ("--config", "config.yaml", "--trainer.strategy", strategy, "--json", "found.json", *words)
    status = main(["verify", "invariance", *words])
    return status, json.loads(Path("found.json").read_text())


def differences(found: dict) -> list[dict[str, float]]:
    return [{name: row["difference"] for name, row in each["largest"].items()} for each in found["comparisons"]]


@pytest.mark.parametrize("words", [["--data.grouping", "length"]], ids=" ".join)
def test_holds(root, words):
    status, found = verify(*words)
    print(json.dumps(found, indent=1))
    assert status == 0
