"""Guards: a mistake in the settings that shows only when a large model has been read; a look that changes the run."""

from types import SimpleNamespace

import pytest
import torch

from llava_pl.export import build
from llava_pl.export.model_config import DecoderConfig, ModelConfig, VisionEncoderConfig
from llava_pl.models.adapters import LoraConfig
from llava_pl.training.optim import OptimConfig
from llava_pl.training.rehearsal import FROZEN_DTYPES, check_precision, check_run, rehearse
from llava_pl.training.stages import PLANS, TrainablePlan
from llava_pl.types import InputError


@pytest.fixture
def rehearsal(tiny_parts, monkeypatch):
    """A rehearsal of a run on tiny parts, which may read no weights."""

    def refuse(*_, **__):
        raise AssertionError("weights are read")

    monkeypatch.setattr(build, "load_decoder", refuse)
    monkeypatch.setattr(build, "load_vision_encoder", refuse)

    def call(plan=PLANS["finetune"], *, lora=None, optim=None, is_packed=False, decoder=None, **settings):
        decoder = {"path": str(tiny_parts / "decoder"), **(decoder or {})}
        config = ModelConfig(VisionEncoderConfig(str(tiny_parts / "encoder")), DecoderConfig(**decoder), **settings)
        rehearse(config, plan, lora=lora, optim=optim or OptimConfig(1e-3), is_packed=is_packed)

    return call


LORA = TrainablePlan(vision_encoder="lora", decoder="lora")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"plan": LORA, "lora": LoraConfig(rank=2)},
        {"plan": LORA, "lora": LoraConfig(use_dora=True, bias="all")},
        {"plan": TrainablePlan(embeddings="new_tokens"), "has_image_marks": True},
        {"plan": LORA, "lora": LoraConfig(), "decoder": {"quantization": "nf4"}, "frozen_dtype": "bfloat16"},
        {"projector": "qformer", "projector_options": {"width": 12, "num_heads": 3, "depth": 2}},
        {"projector": "resampler", "has_patch_token": True},
        {"has_newline": True, "projector": "pixel_shuffle"},
        {"is_packed": True, "decoder": {"gradient_checkpointing": "selective"}},
        {"optim": OptimConfig(1e-3, optimizer="bitsandbytes.optim.AdamW8bit")},
        {"optim": OptimConfig(1e-3, optimizer="torch.optim.Adafactor")},
    ],
)
def test_what_can_work_passes_and_draws_no_number(rehearsal, settings):
    state = torch.get_rng_state()
    rehearsal(**settings)
    assert torch.equal(torch.get_rng_state(), state)


WRONG = {
    r"model.lora.targets: 'nope' is no linear layer of LlamaForCausalLM .*; expected some of down_proj, ":
        {"plan": TrainablePlan(decoder="lora"), "lora": LoraConfig(targets=["q_proj", "nope"])},
    r"model.lora.targets: 'lm_head' is no linear layer": {"plan": LORA, "lora": LoraConfig(targets=["lm_head"])},
    r"model.lora.targets: 'o_proj' is no linear layer of CLIP": {"plan": LORA, "lora": LoraConfig(targets=["o_proj"])},
    r"model.optim.optimizer: expected the full name of a class, .*'torch.optim.AdamWW'":
        {"optim": OptimConfig(1e-3, optimizer="torch.optim.AdamWW")},
    r"model.optim: torch.optim.AdamW refuses its settings: .*'momentum'":
        {"optim": OptimConfig(1e-3, options={"momentum": 0.9})},
    r"model.optim: torch.optim.AdamW refuses its settings: .*`fused` and `foreach`":
        {"optim": OptimConfig(1e-3, options={"fused": True, "foreach": True})},
    r"model.optim.weight_decay: torch.optim.Rprop knows no weight decay; set it to 0":
        {"optim": OptimConfig(1e-3, weight_decay=0.1, optimizer="torch.optim.Rprop")},
    r"model.projector_options: mlp2x_gelu takes none, found depth": {"projector_options": {"depth": 2}},
    r"model.projector_options: qformer: got an unexpected keyword argument 'size'":
        {"projector": "qformer", "projector_options": {"size": 2}},
    r"decoder: packed rows need attention sdpa .*; found eager":
        {"is_packed": True, "decoder": {"attention": "eager"}},
    r"decoder.path: nowhere: expected a model folder or hub name": {"decoder": {"path": "nowhere"}},
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_work_is_said_before_weights_are_read(rehearsal, message):
    with pytest.raises(InputError, match=f"^{message}") as raised:
        rehearsal(**WRONG[message])
    assert "\n" not in str(raised.value)


CONNECTOR = """
from torch import nn


class Mine(nn.Linear):
    def __init__(self, vision_width, decoder_width, *, counts=4, gives=4, width=32, looks=False):
        super().__init__(vision_width, decoder_width)
        self.numbers = counts, gives, width, looks

    def count_image_tokens(self, num_patches):
        return self.numbers[0]

    def forward(self, patch_features):
        _, gives, width, looks = self.numbers
        if looks:
            patch_features.sum().item()
        return super().forward(patch_features)[:, :gives, :width]
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, None),
        ({"looks": True, "gives": 2}, None),  # only a batch can tell
        ({"gives": 2}, "Mine counts 4 image tokens of a picture, but gives 2; correct its count_image_tokens"),
        ({"counts": 0}, "Mine counts 0 image tokens of a picture, but gives 4; correct its count_image_tokens"),
        ({"width": 5}, "Mine gives image tokens of width 5; expected the decoder's, 32"),
    ],
)
def test_a_projector_is_asked_for_image_tokens(rehearsal, tmp_path, monkeypatch, options, message):
    (tmp_path / "rehearsed_connector.py").write_text(CONNECTOR)
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"projector": "rehearsed_connector.Mine", "projector_options": options}
    if message is None:
        rehearsal(**settings)
        return
    with pytest.raises(InputError, match=f"^model.projector: {message}$"):
        rehearsal(**settings)


def test_every_precision_has_its_dtypes():
    """Each pair was run on a CPU: trained in full, by LoRA, and on decoders of 4 and 8 bits."""
    allowed = {(p, d) for p, dtypes in FROZEN_DTYPES.items() for d in dtypes}
    for precision in FROZEN_DTYPES:
        for dtype in build.DTYPES:
            if (precision, dtype) in allowed:
                check_precision(precision, dtype, is_training=False)
            else:
                with pytest.raises(InputError, match=rf"^model.frozen_dtype: .* with trainer.precision {precision}"):
                    check_precision(precision, dtype, is_training=False)


@pytest.mark.parametrize(
    ("plan", "lora", "found"),
    [
        (TrainablePlan(embeddings="full"), None, "only one of decoder and word embeddings is trained in full"),
        (TrainablePlan(decoder="full", embeddings="frozen"), None, "only one of decoder and word embeddings"),
        (TrainablePlan(vision_encoder="lora"), LoraConfig(bias="all"), "biases learn beside frozen weights"),
        (TrainablePlan(decoder="lora"), LoraConfig(bias="lora_only"), "biases learn beside frozen weights"),
        (TrainablePlan(decoder="lora"), LoraConfig(), None),
        (TrainablePlan(vision_encoder="full", decoder="full"), None, None),
    ],
)
def test_dtypes_meet_under_autocast_alone(tiny_parts, plan, lora, found):
    parts = VisionEncoderConfig(str(tiny_parts / "encoder")), DecoderConfig(str(tiny_parts / "decoder"))

    def check(precision, dtype):
        trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), precision=precision, datamodule=None)
        check_run(trainer, ModelConfig(*parts, frozen_dtype=dtype), plan, lora=lora, optim=OptimConfig(1e-3))

    check("32-true", "float32")
    check("bf16-mixed", "bfloat16")
    for dtype in ("bfloat16", "float16"):
        if found is None:
            check("32-true", dtype)
        else:
            with pytest.raises(
                InputError, match=rf"^model.frozen_dtype: expected float32 .* 32-true where {found}.*{dtype}; "
            ):
                check("32-true", dtype)


def test_nothing_learns_in_float16():
    check_precision("16-true", "float16", is_training=False)
    with pytest.raises(InputError, match=r"^trainer.precision: found 16-true, which holds what learns in float16"):
        check_precision("16-true", "float16", is_training=True)


def test_other_precisions_are_refused():
    with pytest.raises(InputError, match=r"^trainer.precision: expected one of 32-true, bf16-mixed, .*, found nf4"):
        check_precision("nf4", "float32", is_training=True)
