"""Guards: a run that needs a little more memory with every step, and dies in its third day."""

import json
import os
from pathlib import Path

import pytest
import yaml

STRATEGY = Path(__file__).parents[2] / "configs" / "strategy" / "fsdp2.yaml"

GAUGE = '''
import gc
import re
from pathlib import Path

from lightning.pytorch.callbacks import Callback


class Gauge(Callback):
    """Writes down, every hundred steps, the process's own memory in KiB and its Python objects."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step % 100 == 0:
            gc.collect()
            own = re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
            with open(f"gauge-{trainer.global_rank}.txt", "a") as file:
                file.write(f"{own} {len(gc.get_objects())}\\n")
'''


@pytest.mark.parametrize(
    ("num_ranks", "words"),
    [(1, []), pytest.param(2, ["--config", STRATEGY, "--trainer.devices", 2], marks=pytest.mark.slow)],
)
def test_five_hundred_steps_need_no_more_than_one_hundred(tiny_model, tmp_path, monkeypatch, run, num_ranks, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "gauge.py").write_text(GAUGE)
    turns = [{"from": "human", "value": "Colour?"}, {"from": "gpt", "value": "grey"}]
    (tmp_path / "records.json").write_text(json.dumps([{"id": n, "conversations": turns} for n in range(200)]))
    settings = {
        "model": tiny_model,
        "data": {
            "class_path": "llava_pl.LlavaDataModule",
            "init_args": {"records": "records.json", "image_folder": ".", "batch_size": 2, "num_workers": 0},
        },
        "trainer": {
            "max_steps": 500, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False,
            "callbacks": [{"class_path": "gauge.Gauge"}],
        },
        "save_every_n_steps": 10,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    run("-m", "llava_pl", "fit", "--config", "config.yaml", *words)
    for rank in range(num_ranks):
        rows = [
            [int(word) for word in line.split()]
            for line in (tmp_path / f"gauge-{rank}.txt").read_text().split("\n")[:-1]
        ]
        assert len(rows) == 5
        (own, num_objects), *_, (own_at_end, num_objects_at_end) = rows
        # Measured: 0 to 3 MiB, and 150 objects. A batch kept at each step would be 400 objects more, and the weights
        # and the optimizer's state kept at each of 40 saves (350 KB) 14 MB.
        assert own_at_end - own < 8 * 1024
        assert num_objects_at_end - num_objects < 400
