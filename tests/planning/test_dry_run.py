"""Guards: a dry run that needs memory, numbers or a GPU, or that leaves the model changed."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.planning.batches import BatchShape
from llava_pl.planning.dry_run import run_dry
from llava_pl.planning.weights import build_run_model
from llava_pl.training.module import LlavaModule
from llava_pl.training.optim import OptimConfig
from llava_pl.types import ImageGrid, InputError


@pytest.fixture
def model(mid_parts):
    def model(recomputation="none", *, attention="sdpa", stage="finetune", **more):
        module = LlavaModule(
            stage=stage,
            vision_encoder=VisionEncoderConfig(str(mid_parts / "encoder")),
            decoder=DecoderConfig(
                str(mid_parts / "decoder"), gradient_checkpointing=recomputation, attention=attention
            ),
            optim=OptimConfig(learning_rate=1e-3),
            **more,
        )
        return build_run_model(module)

    return model


def peak(run):
    return max(moment.others for moment in (*run.forward, *run.backward))


def test_recomputation_is_seen(model):
    none, selective, full = (
        peak(run_dry(model(kind), BatchShape(4, 300, 100), autocast=None)) for kind in ("none", "selective", "full")
    )
    assert full < selective < none


def test_gradients_come_as_activations_go(model):
    run = run_dry(model(), BatchShape(2, 200, 50), autocast=None)
    num_trained = sum(p.numel() for p in model().parameters() if p.requires_grad)
    assert run.backward[0].gradients == 0
    # All but those of the projector, which are finished after the last operation that takes more memory.
    assert 0.8 * 4 * num_trained < run.backward[-1].gradients <= 4 * num_trained


def test_half_precision_takes_less(model):
    full, half = (peak(run_dry(model(), BatchShape(4, 300, 50), autocast=kind)) for kind in (None, torch.bfloat16))
    assert 0.4 * full < half < 0.8 * full


def test_a_model_can_run_again(model):
    twice, shape = model("full"), BatchShape(2, 200, 50)
    assert run_dry(twice, shape, autocast=torch.bfloat16) == run_dry(twice, shape, autocast=torch.bfloat16)
    assert all(isinstance(parameter.data, FakeTensor) for parameter in twice.parameters())
    assert all(parameter.grad is None for parameter in twice.parameters())


def test_tiles_and_packed_rows(model):
    grid = ImageGrid(rows=1, columns=2, height=8, width=16)
    tiled = run_dry(model(has_newline=True), BatchShape(2, 300, 50, grid), autocast=None)
    packed = run_dry(model(), BatchShape(2, 300, 50, is_packed=True), autocast=None)
    assert min(tiled.forward_peak, packed.forward_peak) > 0


def test_packing_that_the_attention_cannot_do(model):
    with pytest.raises(InputError, match="packed rows need attention sdpa without a sliding window"):
        run_dry(model(attention="eager"), BatchShape(2, 300, 50, is_packed=True), autocast=None)
