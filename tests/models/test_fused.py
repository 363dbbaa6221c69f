"""Guards: kernels that take over more than was asked for, or that are missing when the first step asks for them."""

import sys
from types import SimpleNamespace

import pytest
from transformers.integrations import liger as liger_integration

from llava_pl.export.model_config import DecoderConfig
from llava_pl.models import fused
from llava_pl.models.fused import check_liger, fuse_kernels
from llava_pl.types import InputError


def test_without_the_package_it_is_refused(monkeypatch):
    monkeypatch.setattr(fused, "is_installed", lambda _: False)
    with pytest.raises(InputError, match=r"^model.decoder.fused_kernels: liger needs liger-kernel, which is not inst"):
        check_liger("cuda")


def test_without_a_gpu_it_is_refused(monkeypatch):
    monkeypatch.setattr(fused, "is_installed", lambda _: True)
    with pytest.raises(InputError, match=r"^model.decoder.fused_kernels: liger is for GPUs, found accelerator cpu; "):
        check_liger("cpu")
    check_liger("cuda")


def test_an_unknown_word_is_refused():
    with pytest.raises(InputError, match=r"model.decoder.fused_kernels: expected one of none, liger, found 'ligre'"):
        DecoderConfig("x", fused_kernels="ligre")


@pytest.fixture
def liger(monkeypatch):
    """A stand-in for the package, which knows LLaMA alone; returns what it was asked for."""
    calls = []
    patch = SimpleNamespace(MODEL_TYPE_TO_APPLY_LIGER_FN={"llama": None})
    monkeypatch.setitem(sys.modules, "liger_kernel", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", patch)
    monkeypatch.setattr(liger_integration, "apply_liger_kernel", lambda model, options: calls.append((model, options)))
    return calls


def test_the_loss_is_left_alone(liger):
    model = SimpleNamespace(config=SimpleNamespace(model_type="llama"))
    fuse_kernels(model)
    assert liger == [
        (
            model,
            {
                "rope": True,
                "rms_norm": True,
                "swiglu": True,
                "cross_entropy": False,
                "fused_linear_cross_entropy": False,
            },
        )
    ]


def test_a_family_without_kernels_is_refused(liger):
    with pytest.raises(InputError, match=r"^model.decoder.fused_kernels: liger has none for mpt; set it to none"):
        fuse_kernels(SimpleNamespace(config=SimpleNamespace(model_type="mpt")))
    assert liger == []
