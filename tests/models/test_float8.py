"""Guards: 8 bits where nobody asked for them, or weights that a checkpoint then has under other names.

torchao is not in the lock, because transformers imports all of it wherever it is installed: seconds, and lines of its
own, in each process. `pip install torchao==0.18.0` has the last three tests run, too.
"""

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llava_pl.export.model_config import DecoderConfig, ModelConfig, VisionEncoderConfig
from llava_pl.models import float8
from llava_pl.models.float8 import _is_fit, check_float8, check_sides, multiply_in_float8
from llava_pl.types import InputError


@pytest.fixture
def make():
    def make(**sizes):
        torch.manual_seed(0)
        shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
        return LlamaForCausalLM(LlamaConfig(vocab_size=50, **shape | sizes))

    return make


def test_without_the_package_it_is_refused(monkeypatch):
    monkeypatch.setattr(float8, "is_installed", lambda _: False)
    with pytest.raises(InputError, match=r"^model.decoder.float8: needs torchao, which is not installed; pip install"):
        check_float8(torch.device("cuda"), "bf16-mixed")


@pytest.mark.parametrize(
    ("device", "capability", "found"),
    [("cpu", None, "cpu"), ("cuda", (8, 0), r"one of compute capability 8.0"), ("cuda", (8, 9), None)],
)
def test_a_device_that_cannot_do_it_is_refused(monkeypatch, device, capability, found):
    monkeypatch.setattr(float8, "is_installed", lambda _: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    if found is None:
        check_float8(torch.device(device), "bf16-true")
        return
    with pytest.raises(InputError, match=rf"^model.decoder.float8: expected a GPU of .* 8.9 or more, found {found}; "):
        check_float8(torch.device(device), "bf16-true")


def test_a_precision_that_its_products_are_not_in_is_refused():
    message = r"^model.decoder.float8: expected trainer.precision bf16-mixed or bf16-true, found 32-true; change it"
    with pytest.raises(InputError, match=message):
        check_float8(torch.device("cuda"), "32-true")


def test_answers_are_given_without():
    config = ModelConfig(VisionEncoderConfig("x"), DecoderConfig("y", float8="rowwise", compile_layers=True))
    assert config.for_evaluation() == ModelConfig(VisionEncoderConfig("x"), DecoderConfig("y", compile_layers=True))


def test_a_decoder_without_sides_that_fit_is_refused_before_weights_are_read(make):
    check_sides(make())
    with pytest.raises(InputError, match=r"has no layers with sides that are multiples of 16; set it to none"):
        check_sides(torch.nn.Linear(90, 90))


def test_adapters_are_left_alone(make):
    model = peft.get_peft_model(make(), peft.LoraConfig(r=16, target_modules=["q_proj"]))
    assert [name for name, part in model.named_modules() if "lora_A" in name and _is_fit(part, name)] == []
    assert any(_is_fit(part, name) for name, part in model.named_modules() if name.endswith("q_proj.base_layer"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"float8": "rowwise"}, r"^model.decoder.float8: needs model.decoder.compile_layers"),
        ({"float8": "row", "compile_layers": True}, r"^model.decoder.float8: expected one of none, tensorwise, row"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        DecoderConfig("x", **settings)


@pytest.fixture
def torchao():
    return pytest.importorskip("torchao", reason="torchao is not installed")


@pytest.mark.usefixtures("torchao")
@pytest.mark.parametrize("scales", ["tensorwise", "rowwise"])
def test_blocks_multiply_in_8_bits_and_nothing_else_changes(make, scales):
    plain, model = make(), make()
    names = list(model.state_dict())
    multiply_in_float8(model, scales, emulates=True)
    assert list(model.state_dict()) == names
    kinds = {name: type(part).__name__ for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    assert kinds.pop("lm_head") == "Linear"
    assert set(kinds.values()) == {"Float8Linear"}
    assert len(kinds) == 14
    ids = torch.arange(21)[None]
    losses = []
    for each in (plain, model):
        loss = each(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    for (name, own), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert other.dtype == torch.float32
        assert (own.grad - other.grad).norm() < 0.15 * own.grad.norm(), name


@pytest.mark.usefixtures("torchao")
def test_one_product_is_that_of_what_was_rounded(make):
    model = make()
    multiply_in_float8(model, "tensorwise", emulates=True)
    layer, x = model.model.layers[0].self_attn.q_proj, torch.randn(21, 64)

    def rounded(tensor):
        scale = torch.finfo(torch.float8_e4m3fn).max / tensor.abs().max()
        return (tensor * scale).to(torch.float8_e4m3fn).float() / scale

    torch.testing.assert_close(layer(x), rounded(x) @ rounded(layer.weight.detach()).T)


@pytest.mark.usefixtures("torchao")
def test_odd_sides_are_left_alone(make):
    model = make(intermediate_size=90)
    multiply_in_float8(model, "rowwise", emulates=True)
    kinds = {type(layer).__name__ for layer in (model.model.layers[0].mlp.up_proj, model.model.layers[0].mlp.down_proj)}
    assert kinds == {"Linear"}
