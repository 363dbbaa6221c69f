"""Guards: a projector in 4 bits, a decoder that is not, and layers that let no gradient through after a validation."""

import logging

import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from llava_pl.models import quantization
from llava_pl.models.quantization import (
    NOISE,
    check_quantized,
    is_quantized,
    prepare_quantized,
    quantize_blocks,
    require_bitsandbytes,
    silence_bitsandbytes,
)
from llava_pl.types import InputError

pytestmark = pytest.mark.filterwarnings("error:.*autograd kernel was not registered.*")


def write_decoder(path, width):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp("decoder"), 32)


def load(folder, **settings) -> LlamaForCausalLM:
    silence_bitsandbytes()
    settings = settings or {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
    return LlamaForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16,
        device_map={"": "cpu"},
        quantization_config=BitsAndBytesConfig(**settings),
    )


def test_blocks_alone_are_quantized(folder):
    model = load(folder)
    prepare_quantized(model)
    whole = nn.ModuleDict({"decoder": model, "projector": nn.Linear(4, 4)})
    check_quantized(whole, model, plain=[model.lm_head])
    quantized = {name for name, module in model.named_modules() if is_quantized(module)}
    assert len(quantized) == 2 * 7
    assert all(name.startswith("model.layers.") for name in quantized)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    dtypes = {parameter.dtype for parameter in model.parameters()}
    assert dtypes == {torch.uint8, torch.float32}


def test_what_must_not_be_quantized_is_named(folder):
    model = load(folder)
    whole = nn.ModuleDict({"decoder": model, "projector": load(folder).model.layers[0].mlp.up_proj})
    with pytest.raises(InputError, match=r"quantization: projector is quantized, as this version of transformers"):
        check_quantized(whole, model, plain=[model.lm_head])
    head = load(folder, load_in_4bit=True, llm_int8_skip_modules=[])
    with pytest.raises(InputError, match=r"quantization: lm_head is quantized"):
        check_quantized(head, head, plain=[head.lm_head])


def test_what_should_be_quantized_and_is_not_is_named(folder):
    model = load(folder, load_in_4bit=True, llm_int8_skip_modules=["lm_head", "down_proj"])
    with pytest.raises(InputError, match=r"model.layers.0.mlp.down_proj is not quantized"):
        check_quantized(model, model, plain=[model.lm_head])


@pytest.mark.parametrize("settings", [{"load_in_4bit": True}, {"load_in_8bit": True}])
def test_gradients_flow_after_a_validation_as_before(folder, settings):
    """A forward pass without gradients must not change the layers for those that follow."""
    model = load(folder, **settings).eval()
    prepare_quantized(model)
    embeds = torch.randn(1, 5, 32)

    def gradient():
        leaf = embeds.clone().requires_grad_(True)
        model(inputs_embeds=leaf).logits.square().sum().backward()
        return leaf.grad

    before = gradient()
    with torch.no_grad():
        model(inputs_embeds=embeds)
    assert before.abs().sum() > 0
    assert torch.equal(gradient(), before)


def test_known_noise_is_left_out_and_nothing_else(caplog):
    silence_bitsandbytes()
    silence_bitsandbytes()
    for name, start in NOISE.items():
        logging.getLogger(name).warning("%s and so on", start)
        logging.getLogger(name).warning("something else")
    assert caplog.messages == ["something else"] * len(NOISE)


def test_without_bitsandbytes_one_line_names_the_extra(monkeypatch):
    require_bitsandbytes("x")
    monkeypatch.setattr(quantization, "is_installed", lambda name: False)
    message = r"^model.decoder.quantization: nf4: needs bitsandbytes, .*; pip install -e '.\[qlora\]' in the checkout$"
    with pytest.raises(InputError, match=message):
        require_bitsandbytes("model.decoder.quantization: nf4")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_blocks_that_are_quantized_later_are_those_that_are_read_so(tmp_path, kind, dtype):
    folder = write_decoder(tmp_path, 64)  # of narrower ones bitsandbytes 0.50.2 cannot pack the weights for a CPU
    settings = {"load_in_8bit": True}
    if kind != "int8":
        settings = {"load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_compute_dtype": dtype}
    silence_bitsandbytes()
    config = BitsAndBytesConfig(**settings)
    read = LlamaForCausalLM.from_pretrained(
        folder, dtype=dtype, device_map={"": "cpu"}, quantization_config=config
    ).eval()
    own = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    quantize_blocks(own, kind, plain=[own.lm_head])
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(own(ids).logits, read(ids).logits)
    check_quantized(own, own, plain=[own.lm_head])


def test_nothing_is_quantized_unless_it_is_asked_for(folder):
    own = LlamaForCausalLM.from_pretrained(folder)
    quantize_blocks(own, "none", plain=[])
    assert not any(map(is_quantized, own.modules()))
