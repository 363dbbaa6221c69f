"""Guards: a layer that is compiled anew for new lengths, computes something else, or takes other names for its weights.

Compiling takes seconds, so nearly all of it is in the slow tier.
"""

import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from llava_pl.export.build import build_model
from llava_pl.export.model_config import DecoderConfig, ModelConfig, VisionEncoderConfig
from llava_pl.models import compiling
from llava_pl.models.adapters import LoraConfig
from llava_pl.models.attention import describe_packing, packed_sdpa
from llava_pl.models.compiling import check_compiler, compile_layers
from llava_pl.training.stages import PLANS, TrainablePlan, prepare
from llava_pl.types import IMAGE_TOKEN_INDEX, InputError

LEARNING = {**PLANS, "lora": TrainablePlan(decoder="lora")}


def packed(*lengths):
    """Rows of a picture and some words each."""
    ids = [torch.tensor([1, *[IMAGE_TOKEN_INDEX] * 4, *range(5, length)]) for length in lengths]
    labels = [torch.where(row == IMAGE_TOKEN_INDEX, -100, row) for row in ids]
    for row in labels:
        row[0] = -100
    return {
        "input_ids": torch.cat(ids)[None],
        "labels": torch.cat(labels)[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "sequence_lengths": list(lengths),
        "pixel_values": torch.randn(len(lengths), 3, 16, 16, generator=torch.Generator().manual_seed(len(lengths))),
    }


def padded(*lengths):
    whole = packed(*lengths)
    ids, labels = (whole[name][0].split(lengths) for name in ("input_ids", "labels"))
    pad = torch.nn.utils.rnn.pad_sequence
    mask = pad([torch.ones(length, dtype=torch.int64) for length in lengths], batch_first=True)
    ids, labels = pad(ids, batch_first=True), pad(labels, batch_first=True, padding_value=-100)
    return {"input_ids": ids, "labels": labels, "attention_mask": mask, "pixel_values": whole["pixel_values"]}


@pytest.fixture
def build(tiny_parts):
    def build(plan="finetune", kind="none", **options):
        torch.manual_seed(0)
        decoder = DecoderConfig(str(tiny_parts / "decoder"), gradient_checkpointing=kind, **options)
        model = build_model(ModelConfig(VisionEncoderConfig(str(tiny_parts / "encoder")), decoder))
        prepare(model, LEARNING[plan], LoraConfig(dropout=0.0) if plan == "lora" else None)
        return model

    return build


def step(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "kind"), [("align", "none"), ("finetune", "selective"), ("lora", "full")])
def test_one_graph_serves_all_layers_and_lengths(build, plan, kind):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    plain, model = build(plan, kind), build(plan, kind)
    compile_layers(model.decoder.model, kind, backend=counter)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    # Lists of one, two and five lengths; the row of the last is as long as that of the second.
    for lengths in ((9, 7, 12), (8, 6), (11,), (7, 6, 9, 8, 7), (6, 8)):
        # The same operations in the same order: equal to the bit.
        for mine, theirs in zip(step(model, packed(*lengths)), step(plain, packed(*lengths)), strict=True):
            assert torch.equal(mine, theirs)
    assert counter.frame_count == 1


@pytest.mark.slow
def test_padded_rows_and_the_vision_encoder_have_a_graph_each(build):
    torch._dynamo.reset()
    counters = [CompileCounterWithBackend("eager") for _ in range(2)]
    plain, model = build(), build()
    compile_layers(model.decoder.model, backend=counters[0])
    compile_layers(model.vision_encoder.model, backend=counters[1])
    for lengths in ((9, 7, 12), (8, 6), (12, 11, 7, 8)):
        for mine, theirs in zip(step(model, padded(*lengths)), step(plain, padded(*lengths)), strict=True):
            # A mask, which compiled layers get in another form, may choose another kernel: seen equal or 1e-7 off.
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)
    assert [counter.frame_count for counter in counters] == [1, 1]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_kernels_that_are_made_differ_by_roundings(build):
    torch._dynamo.reset()
    plain, model = build(), build(compile_layers=True)
    for lengths in ((9, 7, 12), (8, 6)):
        for mine, theirs in zip(step(model, packed(*lengths)), step(plain, packed(*lengths)), strict=True):
            # Sums in another order: seen 6e-7 of the largest entry. A wrong position or mask is off by 0.1 and more.
            assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_without_gradients_nothing_is_compiled(build):
    plain, model = build(), build()
    compile_layers(model.decoder.model, backend=_refuse)
    compile_layers(model.vision_encoder.model, backend=_refuse)
    batch = packed(9)
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    answers = [each.generate(batch["input_ids"], batch["pixel_values"], **options) for each in (plain, model)]
    assert torch.equal(*answers)
    with torch.no_grad():
        assert torch.equal(plain(**batch).loss, model(**batch).loss)


def _refuse(graph, inputs):
    raise AssertionError("compiled")


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_the_operation_of_compiled_layers_is_the_loop_of_plain_ones(key_heads, scaling, monkeypatch):
    torch.manual_seed(0)
    tensors = [torch.randn(1, heads, 13, 8, requires_grad=True) for heads in (4, key_heads, key_heads)]
    module = nn.Module()
    module.num_key_value_groups, module.is_causal = 4 // key_heads, True
    options = {"scaling": scaling, **describe_packing([5, 1, 7], torch.device("cpu"))}
    found = []
    for is_compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda answer=is_compiling: answer)
        output, _ = packed_sdpa(module, *tensors, None, **options)
        assert output.shape == (1, 13, 4, 8)
        found.append([output, *torch.autograd.grad(output.square().sum(), tensors)])
    for loop, operation in zip(*found, strict=True):
        # One kernel for both, with key heads repeated or grouped: sums of at most seven products.
        torch.testing.assert_close(operation, loop, atol=1e-6, rtol=1e-6)


def test_a_model_without_layers_is_refused():
    with pytest.raises(InputError, match="compile_layers: Linear has no layers that can be compiled; expected false"):
        compile_layers(nn.Linear(1, 1))


@pytest.mark.parametrize(("device", "needs"), [("cuda", "the package triton"), ("cpu", "a C\\+\\+ compiler")])
def test_a_machine_that_cannot_compile_is_refused(device, needs, monkeypatch):
    monkeypatch.setattr(compiling, "is_installed", lambda _: False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=rf"^compile_layers: torch compiles for {device} with {needs}.*, found none; "):
        check_compiler(device)
    monkeypatch.setattr(compiling, "is_installed", lambda _: True)
    monkeypatch.setattr(shutil, "which", lambda _: "found")
    check_compiler(device)


@pytest.mark.parametrize("options", [{"quantization": "nf4"}, {"attention": "flash_attention_2"}])
def test_what_cannot_be_compiled_is_refused(options):
    with pytest.raises(InputError, match="compile_layers: is for decoders that are not quantized, with attention sdpa"):
        DecoderConfig("x", compile_layers=True, **options)
