"""Guards: settings that do not go together and are not said to, or that do and are."""

import json
from pathlib import Path

import pytest

from llava_pl.planning.contradictions import check_global_batch, check_lengths, check_steps, check_strategy
from llava_pl.planning.spread import Spread

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FINETUNE, SINGLE = CONFIGS / "experiment" / "finetune_7b.yaml", CONFIGS / "strategy" / "single.yaml"


def test_global_batch_of_the_experiment():
    assert check_global_batch([FINETUNE, SINGLE], 128) == []
    (line,) = check_global_batch([FINETUNE, SINGLE], 64)
    assert line.startswith(f"{FINETUNE}: expected its 128 samples in a step, found 64; change data.batch_size")


@pytest.mark.parametrize("files", [[], [SINGLE], ["nowhere.yaml"]])
def test_without_an_experiment_nothing_is_expected(files):
    assert check_global_batch(files, 64) == []


def strategy(spread, *, devices=8, quantization="none", optimizer="torch.optim.AdamW"):
    return check_strategy(spread, devices=devices, quantization=quantization, optimizer=optimizer)


def test_strategies():
    pieces = Spread("fsdp2", 1, 8, weights="pieces")
    assert strategy(pieces) == []
    assert strategy(Spread("ddp", 1, 8), quantization="nf4") == []
    (line,) = strategy(pieces, quantization="nf4")
    assert line.startswith(
        "model.decoder.quantization: found nf4, whose packed weights cannot be divided among devices"
    )
    (line,) = strategy(pieces, optimizer="bitsandbytes.optim.AdamW8bit")
    assert line.startswith("model.optim.optimizer: found bitsandbytes.optim.AdamW8bit, whose packed state cannot be")
    (line,) = strategy(Spread("Mine", is_known=False))
    assert line == "trainer.strategy: Mine is not known here; the plan is for a copy of the model on each device"
    (line,) = strategy(Spread("single"), devices="auto")
    assert line.startswith("trainer.devices: found auto, which each machine reads otherwise; here it is 1")
    (line,) = strategy(Spread("single", 1, 2), devices=2)
    assert line == "trainer.strategy: expected one device for SingleDeviceStrategy, found 2"


def test_positions(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 2048}))
    given = {"is_known": True, "num_image_tokens": 576}
    assert check_lengths(str(tmp_path), longest=2048, **given) == []
    (line,) = check_lengths(str(tmp_path), longest=2049, **given)
    assert line.startswith("data.max_length: the longest sample has 2049 positions, but")
    (line,) = check_lengths(str(tmp_path), longest=576, is_known=False, num_image_tokens=576)
    assert line.startswith("data.max_length: 576 positions leave no room for text beside the 576 image tokens")


def test_a_step_is_full():
    assert check_steps(None, 256) == check_steps(256, 256) == []
    assert len(check_steps(255, 256)) == 1
