"""Guards: adapters where none were asked for (the head, say), and names of layers that silently match nothing."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llava_pl.models.adapters import (
    LoraConfig,
    add_adapters,
    find_targets,
    is_adapter,
    learned_rows,
    lora_parameters,
    plain_name,
    plain_table,
)
from llava_pl.types import InputError


def make_model(*, is_tied=False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        attention_bias=True, tie_word_embeddings=is_tied,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def head(model):
    return [model.get_output_embeddings().weight]


def layers(*names) -> list[str]:
    return [f"model.layers.{number}.{name}" for number in range(2) for name in names]


ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, layers(*ATTENTION, *MLP)),
        (["q_proj"], layers("self_attn.q_proj")),
        (["mlp.down_proj", "v_proj"], layers("self_attn.v_proj", "mlp.down_proj")),
        (["layers.1.self_attn.q_proj"], ["model.layers.1.self_attn.q_proj"]),
    ],
)
def test_targets_are_whole_words_of_names(targets, expected):
    model = make_model()
    assert find_targets(model, targets, left_out=head(model)) == expected


@pytest.mark.parametrize("target", ["lm_head", "proj", "query", "embed_tokens"])
def test_a_target_that_means_no_layer_is_one_line(target):
    model = make_model()
    message = f"model.lora.targets: '{target}' is no linear layer of LlamaForCausalLM .* expected some of down_proj, ga"
    with pytest.raises(InputError, match=message):
        add_adapters(model, LoraConfig(targets=["q_proj", target]), left_out=head(model))


def test_the_class_and_the_places_of_a_model_stay():
    model = make_model()
    names = [name for name, _ in model.named_parameters()]
    layer = model.model.layers[0]
    add_adapters(model, LoraConfig(rank=2), left_out=head(model))
    assert type(model) is LlamaForCausalLM
    assert model.model.layers[0] is layer
    assert [plain_name(name) for name, _ in model.named_parameters() if not is_adapter(name)] == names
    assert len(list(lora_parameters(model))) == 2 * 2 * 7


@pytest.mark.parametrize(
    ("settings", "scale"), [({}, 16 / 2), ({"use_rslora": True}, 16 / 2**0.5), ({"alpha": 1.0}, 1 / 2)]
)
def test_the_update_is_scaled_by_alpha_and_rank(settings, scale):
    model = make_model()
    weight = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    add_adapters(model, LoraConfig(rank=2, **settings), left_out=head(model))
    layer = model.model.layers[0].mlp.up_proj.eval()
    with torch.no_grad():
        layer.lora_B.default.weight.normal_()
        x = torch.randn(3, 16)
        update = layer.lora_B.default.weight @ layer.lora_A.default.weight
        torch.testing.assert_close(layer(x), x @ (weight + scale * update).T)  # float32, sums in another order


def test_dora_learns_the_lengths_of_rows():
    model = make_model()
    add_adapters(model, LoraConfig(rank=2, use_dora=True), left_out=head(model))
    layer = model.model.layers[0].mlp.up_proj
    lengths = layer.lora_magnitude_vector.default.weight
    torch.testing.assert_close(lengths.detach(), layer.base_layer.weight.norm(dim=1).detach())
    assert any(lengths is parameter for parameter in lora_parameters(model))


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
@pytest.mark.parametrize("is_tied", [False, True])
def test_new_rows_are_the_only_ones_of_the_table_that_learn(is_tied, lora):
    model = make_model(is_tied=is_tied)
    ids = torch.arange(20)[None]
    logits = model(ids).logits
    add_adapters(model, lora, left_out=head(model), token_ids=[18, 19])
    assert torch.equal(model(ids).logits, logits)
    rows = learned_rows(model.get_input_embeddings())
    table = plain_table(model.get_input_embeddings())
    assert (rows.shape, table.weight.shape) == ((2, 16), (20, 16))
    model.requires_grad_(False)
    rows.requires_grad_(True)
    model(ids, labels=ids).loss.backward()
    assert rows.grad.abs().sum() > 0
    before = model(ids).logits
    with torch.no_grad():
        rows.add_(1.0)
    after = model(ids).logits
    # Causal: what stands before the new tokens cannot see them, but a tied head can name them.
    assert torch.equal(before[0, :18, :18], after[0, :18, :18])
    assert torch.equal(before[0, :18, 18:], after[0, :18, 18:]) != is_tied
    assert not torch.equal(before[0, 18:], after[0, 18:])


def test_a_plain_table_has_no_new_rows():
    table = make_model().get_input_embeddings()
    assert learned_rows(table) is None
    assert plain_table(table) is table


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "expected rank of at least 1"),
        ({"alpha": 0.0}, "alpha above 0"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\)"),
        ({"bias": "some"}, "model.lora.bias: expected one of none, all, lora_only, found 'some'"),
        ({"targets": []}, "model.lora.targets: expected names of layers or null for all"),
        ({"targets": [""]}, "model.lora.targets: expected names of layers or null for all"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        LoraConfig(**settings)
