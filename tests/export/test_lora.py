"""Guards: adapters that sit nowhere or somewhere else, and a merge that leaves something behind."""

import pytest
import torch

from llava_pl.export.certificate import compare, probe
from llava_pl.export.lora import insert_adapters, merge_adapters
from llava_pl.export.pretrained import Adapters
from llava_pl.types import InputError

Q = "decoder.model.model.layers.0.self_attn.q_proj"
EYE = "vision_encoder.model.encoder.layers.1.mlp.fc1"


def lora(layer, rows, columns, rank=2):
    generator = torch.Generator().manual_seed(0)
    return {
        f"{layer}.lora_A.default.weight": torch.randn(rank, columns, generator=generator),
        f"{layer}.lora_B.default.weight": torch.randn(rows, rank, generator=generator),
    }


@pytest.mark.parametrize(("use_rslora", "scale"), [(False, 4 / 2), (True, 4 / 2**0.5)])
def test_merged_weights_are_what_the_paper_says(llava, use_rslora, scale):
    weights = {**lora(Q, 32, 32), **lora(EYE, 32, 16)}
    adapters = Adapters({"rank": 2, "alpha": 4.0, "use_rslora": use_rslora}, weights)
    own = {name: tensor.clone() for name, tensor in llava.model.state_dict().items()}
    insert_adapters(llava.model, adapters, "x")
    beside = probe(llava.model)
    assert merge_adapters(llava.model, adapters) == [f"{EYE}.weight", f"{Q}.weight"]
    found = llava.model.state_dict()
    assert found.keys() == own.keys()
    for name, tensor in own.items():
        layer = name.removesuffix(".weight")
        if layer in (Q, EYE):
            change = weights[f"{layer}.lora_B.default.weight"] @ weights[f"{layer}.lora_A.default.weight"]
            torch.testing.assert_close(found[name], tensor + scale * change)
        else:
            assert torch.equal(found[name], tensor), name
    # float32: the same numbers added in another order.
    assert all(row.logit_difference < 1e-5 * row.logit_scale for row in compare(probe(llava.model), beside))


def test_the_model_keeps_its_classes(llava):
    kinds = {name: type(module) for name, module in llava.model.named_modules()}
    adapters = Adapters({"rank": 2, "alpha": 4.0}, lora(Q, 32, 32))
    insert_adapters(llava.model, adapters, "x")
    merge_adapters(llava.model, adapters)
    assert {name: type(module) for name, module in llava.model.named_modules()} == kinds
    assert not hasattr(llava.model.decoder.model, "peft_config")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lora("decoder.model.model.layers.7.self_attn.q_proj", 32, 32), "adapter of 'model.layers.7.self_attn.q_proj'"),
        (lora("decoder.model.model.norm", 32, 32), "adapter of 'model.norm': this base has no such layer"),
        (lora("projector.0", 32, 16), "tensor 'projector.0.lora_A.default.weight' is an adapter of neither"),
        (lora(Q, 32, 32, rank=3), r"expected shape \(2, 32\), found \(3, 32\); its rank or its base is another"),
        (lora(Q, 32, 40), r"expected shape \(2, 32\), found \(2, 40\)"),
        ({n: t for n, t in lora(Q, 32, 32).items() if "lora_A" in n}, "lora_B.default.weight' .* is missing"),
        ({**lora(Q, 32, 32), f"{Q}.lora_C.default.weight": torch.ones(1)}, "lora_C.* left over, with no place"),
    ],
)  # fmt: skip
def test_adapters_that_do_not_fit_are_refused(llava, weights, message):
    with pytest.raises(InputError, match=message):
        insert_adapters(llava.model, Adapters({"rank": 2, "alpha": 4.0}, weights), "x")
