"""Guards: settings that do not go together and are not said to, or that do and are."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava_pl import LlavaModule
from llava_pl.planning.contradictions import (
    check_features,
    check_global_batch,
    check_lengths,
    check_steps,
    check_strategy,
    check_trainer,
)
from llava_pl.planning.spread import Spread
from llava_pl.training.feature_worth import FeatureWorth

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FINETUNE, SINGLE = CONFIGS / "experiment" / "finetune_7b.yaml", CONFIGS / "strategy" / "single.yaml"


def test_global_batch_of_the_experiment():
    assert check_global_batch([FINETUNE, SINGLE], 128) == []
    (line,) = check_global_batch([FINETUNE, SINGLE], 64)
    assert line.startswith(f"{FINETUNE}: expected its 128 samples in a step, found 64; change data.batch_size")


@pytest.mark.parametrize("files", [[], [SINGLE], ["nowhere.yaml"]])
def test_without_an_experiment_nothing_is_expected(files):
    assert check_global_batch(files, 64) == []


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        ({"max_epochs": 0}, "trainer.max_epochs: expected at least 1, or -1 for no end of its own, found 0"),
        ({"max_steps": -7}, "trainer.max_steps: expected at least 1, or -1 for no end of its own, found -7"),
        ({"accelerator": "gpuu"}, "trainer.accelerator: expected one of auto, cpu, cuda, gpu, mps, tpu, found 'gpuu'"),
        ({"max_epochs": None}, None),
        ({"max_epochs": -1, "max_steps": 10, "accelerator": "gpu"}, None),
    ],
)
def test_trainer(settings, start):
    trainer = SimpleNamespace(**{"max_epochs": 1, "max_steps": -1, "accelerator": "auto"} | settings)
    assert check_trainer(trainer) == ([] if start is None else [start])


@pytest.fixture
def say(tiny_model):
    """What is said of a strategy, and of a trainer and a model with these settings."""

    def say(spread, *, decoder=None, optim=None, frozen_dtype="float32", **trainer):
        settings = {"decoder": tiny_model["decoder"] | (decoder or {}), "optim": tiny_model["optim"] | (optim or {})}
        if decoder:
            settings["trainable"] = {"decoder": "lora"}
        module = LlavaModule(**tiny_model | settings, frozen_dtype=frozen_dtype)
        trainer = {"devices": 8, "precision": "bf16-mixed", "gradient_clip_algorithm": None} | trainer
        return check_strategy(spread, module, SimpleNamespace(**trainer))

    return say


PIECES = {"weights": "pieces", "gradients": "pieces", "states": "pieces"}
FSDP2, ZERO3 = Spread("fsdp2", 1, 8, **PIECES), Spread("zero3", 1, 8, **PIECES)
ZERO2 = Spread("zero2_offload", 1, 8, gradients="host", states="host")
NF4, ADAM_8BIT = {"quantization": "nf4"}, {"optimizer": "bitsandbytes.optim.AdamW8bit"}


@pytest.mark.parametrize(
    ("spread", "settings", "message"),
    [
        (FSDP2, {}, None),
        (ZERO3, {}, None),
        (Spread("ddp", 1, 8), {"decoder": NF4}, None),
        (ZERO2, {"decoder": NF4}, None),
        (FSDP2, {"decoder": NF4}, "model.decoder.quantization: found nf4, whose packed weights cannot be divided"),
        (ZERO3, {"decoder": NF4}, "model.decoder.quantization: found nf4 with ZeRO-3, which cannot divide"),
        (FSDP2, {"optim": ADAM_8BIT}, "model.optim.optimizer: found bitsandbytes.optim.AdamW8bit, whose packed state"),
        (ZERO3, {"optim": ADAM_8BIT}, "model.optim.optimizer: found bitsandbytes.optim.AdamW8bit with ZeRO"),
        (ZERO2, {"optim": {"optimizer": "torch.optim.SGD"}}, "model.optim.optimizer: found torch.optim.SGD with opt"),
        (ZERO2, {"gradient_clip_algorithm": "value"}, "trainer.gradient_clip_algorithm: found value, but DeepSpeed"),
        (FSDP2, {"frozen_dtype": "float16"}, "model.frozen_dtype: expected float32 or bfloat16 with trainer.precision"),
        (
            Spread("Mine", is_known=False),
            {},
            "trainer.strategy: found Mine, which is not known here; the plan is for a copy of the model on each device",
        ),
        (Spread("single"), {"devices": "auto"}, "trainer.devices: found auto, which each machine reads otherwise"),
        (Spread("single", 1, 2), {}, "trainer.strategy: expected one device for SingleDeviceStrategy, found 2"),
    ],
)
def test_strategies(say, spread, settings, message):
    lines = say(spread, **settings)
    if message is None:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(message)


def test_a_store_of_features_is_refused_as_by_fit(tiny_model):
    module, worth = LlavaModule(**tiny_model), FeatureWorth(10, 120, 1.0, 10_000.0, 100)
    assert check_features(FSDP2, module, worth, is_checked=False) == []
    assert check_features(FSDP2, module, None, is_checked=True) == []
    (line,) = check_features(FSDP2, module, worth, is_checked=True)
    assert line.startswith("data.feature_cache: does not pay: 120 of 120 encodings spared are 1.2% of the run's")
    (line,) = check_features(ZERO3, module, worth, is_checked=True)
    assert line.startswith("data.feature_cache: under DeepSpeed no rank encodes by itself")


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
