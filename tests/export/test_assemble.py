"""Guards: a tensor that is dropped, used twice, rounded or taken for another while a model is put together."""

import json
from dataclasses import asdict

import pytest
import torch

from llava_pl.export.assemble import ModelSpec, assemble, check_names, describe, plain_config, tensors_of
from llava_pl.export.certificate import probe
from llava_pl.types import InputError

HEAD, TABLE = "decoder.model.lm_head.weight", "decoder.model.model.embed_tokens.weight"


@pytest.fixture
def spec(llava) -> ModelSpec:
    return describe(llava.model, llava.projector, {})


@pytest.fixture
def weights(llava):
    return {name: tensor.clone() for name, tensor in tensors_of(llava.model).items()}


def test_the_same_model_comes_out(llava, spec, weights):
    model = assemble(spec, weights, "x")
    assert model.state_dict().keys() == llava.model.state_dict().keys()
    assert all(torch.equal(*pair) for pair in zip(probe(model), probe(llava.model), strict=True))
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("family", ["llama_2", "llama_3", "mistral", "qwen2", "qwen2_tied", "qwen3", "smollm2", "mpt"])
def test_every_family_of_decoders_comes_back(make_llava, family):
    """Of MPT none of the names is LLaMA's, and its attention is another."""
    llava = make_llava(family=family)
    weights = {name: tensor.clone() for name, tensor in tensors_of(llava.model).items()}
    plain = json.loads(json.dumps(asdict(describe(llava.model, llava.projector, {}))))
    model = assemble(ModelSpec(**plain), weights, "x")
    assert type(model.decoder.model) is type(llava.model.decoder.model)
    assert model.state_dict().keys() == llava.model.state_dict().keys()
    assert all(torch.equal(*pair) for pair in zip(probe(model), probe(llava.model), strict=True))


def test_tensors_are_taken_not_copied_each_in_its_dtype(spec, weights):
    weights = {name: tensor if "projector" in name else tensor.half() for name, tensor in weights.items()}
    model = assemble(spec, weights, "x")
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == weights[name].dtype
        assert tensor.data_ptr() == weights[name].data_ptr()
    assert {p.dtype for p in assemble(spec, weights, "x", dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


@pytest.fixture
def tied(spec) -> ModelSpec:
    return ModelSpec(
        **{**{n: getattr(spec, n) for n in spec.__slots__}, "decoder": {**spec.decoder, "tie_word_embeddings": True}}
    )


def test_tied_tensors_may_come_under_either_name_or_both(tied, weights):
    del weights[HEAD]
    for given in (weights, {**weights, HEAD: weights[TABLE].clone()},
                  {HEAD: weights[TABLE], **{n: t for n, t in weights.items() if n != TABLE}}):  # fmt: skip
        model = assemble(tied, given, "x")
        assert model.decoder.head.weight is model.decoder.embedding.weight
        assert torch.equal(model.decoder.head.weight, weights[TABLE])
        assert len({HEAD, TABLE} & tensors_of(model).keys()) == 1


def test_tied_tensors_that_differ_are_refused(tied, weights):
    with pytest.raises(InputError, match=r"x: tensors .* and .* are one in this model, but differ in the files"):
        assemble(tied, weights, "x")


def test_missing_and_unexpected_tensors_name_themselves(spec, weights):
    tensor = weights.pop("projector.0.bias")
    with pytest.raises(InputError, match=r"x: tensors do not fit: missing projector.0.bias, unexpected none"):
        assemble(spec, weights, "x")
    with pytest.raises(InputError, match=r"missing projector.0.bias, unexpected projector.bias"):
        assemble(spec, {**weights, "projector.bias": tensor}, "x")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3), r"tensor 'projector.0.bias': expected shape \(32,\), found \(3,\)"),
        (torch.full((32,), torch.nan), "tensor 'projector.0.bias' holds NaN or infinity"),
        (torch.full((32,), torch.inf), "tensor 'projector.0.bias' holds NaN or infinity"),
    ],
)
def test_bad_tensors_name_themselves(spec, weights, value, message):
    with pytest.raises(InputError, match=message):
        assemble(spec, {**weights, "projector.0.bias": value}, "x")


def test_an_empty_tensor_names_itself(llava, weights):
    with pytest.raises(InputError, match=r"tensor 'projector.0.bias': expected shape \(32,\), found \(0,\)"):
        check_names(llava.model, {**weights, "projector.0.bias": torch.zeros(0)}, "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": {"model_type": "nonsense"}}, "x: expected settings of a model that transformers knows"),
        ({"decoder": {}}, "x: expected settings of a model that transformers knows"),
        ({"select_feature": "cls"}, "x: select_feature: expected patch or cls_patch, found 'cls'"),
        ({"projector": "mystery"}, "projector: expected"),
    ],
)
def test_settings_that_mean_nothing_are_refused(spec, weights, changes, message):
    values = {name: getattr(spec, name) for name in spec.__slots__}
    with pytest.raises(InputError, match=message):
        assemble(ModelSpec(**{**values, **changes}), weights, "x")


def test_settings_are_written_with_their_defaults(llava):
    """These may be others in the next version of transformers."""
    plain = plain_config(llava.model.decoder.model.config)
    assert plain["rms_norm_eps"] == 1e-6
    assert plain["hidden_act"] == "silu"
    assert not {"transformers_version", "id2label", "_name_or_path"} & plain.keys()
