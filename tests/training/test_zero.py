"""Guards: a run with DeepSpeed that ends an hour after it began, for a reason that its settings told at once."""

import subprocess
import sys

import pytest

from llava_pl import LlavaModule
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.training import zero
from llava_pl.training.optim import OptimConfig
from llava_pl.training.zero import ZeroStrategy, check_zero
from llava_pl.types import InputError


def module(*, optimizer="torch.optim.AdamW", options=None, quantization="none", recomputes="full", compiles=False):
    trainable = {"decoder": "lora"} if quantization != "none" else None
    return LlavaModule(
        stage="finetune",
        vision_encoder=VisionEncoderConfig("nowhere"),
        decoder=DecoderConfig(
            "nowhere", quantization=quantization, gradient_checkpointing=recomputes, compile_layers=compiles
        ),
        optim=OptimConfig(learning_rate=1e-3, optimizer=optimizer, options=options or {}),
        trainable=trainable,
    )


@pytest.mark.parametrize(("stage", "offload"), [(2, False), (2, True), (3, False), (3, True)])
def test_what_deepspeed_can_train_is_let_through(stage, offload):
    check_zero(module(), stage=stage, offload=offload)
    if not offload:
        check_zero(module(optimizer="torch.optim.SGD", options={"momentum": 0.9}), stage=stage, offload=offload)
    if stage == 2:
        check_zero(module(quantization="nf4"), stage=stage, offload=offload)


@pytest.mark.parametrize(
    ("settings", "stage", "offload", "message"),
    [
        ({"quantization": "nf4"}, 3, False, "model.decoder.quantization: found nf4 with ZeRO-3"),
        ({"compiles": True}, 3, False, "compile_layers: found true with ZeRO-3"),
        ({"recomputes": "selective"}, 3, False, "model.decoder.gradient_checkpointing: found selective with ZeRO-3"),
        (
            {"optimizer": "bitsandbytes.optim.PagedAdamW8bit"},
            2,
            False,
            "found bitsandbytes.optim.PagedAdamW8bit with Z",
        ),
        ({"optimizer": "torch.optim.Muon"}, 3, False, "model.optim.optimizer: found torch.optim.Muon with ZeRO"),
        (
            {"optimizer": "torch.optim.SGD"},
            3,
            True,
            "found torch.optim.SGD with options {} and offloading",
        ),
        (
            {"options": {"amsgrad": True}},
            2,
            True,
            "AdamW with options {'amsgrad': True} and offloading",
        ),
    ],
)
def test_what_it_cannot_is_refused_in_one_line(settings, stage, offload, message):
    with pytest.raises(InputError) as error:
        check_zero(module(**settings), stage=stage, offload=offload)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_without_deepspeed_the_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(zero, "is_installed", lambda name: False)
    with pytest.raises(InputError, match=r"^trainer.strategy: .* not installed; DS_BUILD_OPS=0 pip install -e '"):
        ZeroStrategy()


def test_stage_is_checked(monkeypatch):
    monkeypatch.setattr(zero, "is_installed", lambda name: True)
    with pytest.raises(InputError, match=r"trainer\.strategy\.stage: expected 2 or 3, found 1"):
        ZeroStrategy(stage=1)


def test_deepspeed_is_imported_only_where_it_is_used():
    code = "import sys, llava_pl.training.zero, llava_pl.lightning_cli; print('deepspeed' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1] == "False"
