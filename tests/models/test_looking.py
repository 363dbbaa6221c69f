"""Guards maps of where the model looks: weights that are not the decoder's, or a decoder that is another one after."""

import pytest
import torch

from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.looking import patch_influence, read_attention
from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX

IDS = torch.tensor([[1, *[IMAGE_TOKEN_INDEX] * 4, 40, 41, 42, 43, 44]])


@pytest.fixture
def pixels():
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_attention_is_that_of_one_whole_pass(build):
    model = build().eval()
    inputs_embeds = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0))
    found = read_attention(model.decoder, inputs_embeds, slice(8, 11))
    network = model.decoder.model
    network.set_attn_implementation("eager")
    with torch.no_grad():
        whole = network.base_model(inputs_embeds=inputs_embeds, output_attentions=True).attentions
    expected = torch.stack([layer[0].mean(dim=0) for layer in whole])[:, 7:10]
    assert found.shape == (2, 3, 12)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)  # float32 sums in another order: 3e-8 seen
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["mistral", "mpt"])
def test_attention_of_families_with_rules_of_their_own(family):
    """A window, in which no more than three positions are attended to, and biases in the place of positions."""
    from transformers import AutoModelForCausalLM, MistralConfig, MptConfig

    torch.manual_seed(0)
    config = (
        MistralConfig(
            vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, sliding_window=3,
        )
        if family == "mistral"
        else MptConfig(vocab_size=50, d_model=32, n_heads=2, n_layers=2, max_seq_len=64)
    )  # fmt: skip
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    decoder = CausalDecoder(network)
    inputs_embeds = torch.randn(1, 12, 32)
    with torch.no_grad():
        whole = network.base_model(inputs_embeds=inputs_embeds, output_attentions=True).attentions
    expected = torch.stack([layer[0].mean(dim=0) for layer in whole])[:, 7:11]
    torch.testing.assert_close(read_attention(decoder, inputs_embeds, slice(8, 12)), expected, atol=1e-6, rtol=0)


def test_no_more_is_read_than_what_is_asked_for(build, monkeypatch):
    """Of a long answer the rows of one word; the positions behind it are not read at all."""
    decoder = build().eval().decoder
    read = []
    layer = decoder.model.model.layers[0]
    layer.register_forward_pre_hook(lambda _, values: read.append(values[0].shape[1]))
    read_attention(decoder, torch.randn(1, 40, 32), slice(8, 10))
    assert read == [7, 2]


def test_decoder_is_left_as_it_was(build, monkeypatch):
    decoder = build().eval().decoder
    before = decoder.model.config._attn_implementation
    read_attention(decoder, torch.randn(1, 6, 32), slice(4, 6))
    assert decoder.model.config._attn_implementation == before
    assert all(parameter.grad is None for parameter in decoder.parameters())

    def fail(*values, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(decoder.model.model.layers[1], "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        read_attention(decoder, torch.randn(1, 6, 32), slice(4, 6))
    assert decoder.model.config._attn_implementation == before


def test_influence_is_the_gradient_of_the_loss(build, pixels):
    """The loss over two tokens, differentiated by torch, with the answer's other tokens left out."""
    model = build().eval()
    features = model.vision_encoder(pixels).detach().requires_grad_()
    labels = torch.full_like(IDS, IGNORE_INDEX)
    labels[0, 7:9] = IDS[0, 7:9]
    loss = model(IDS, patch_features=features, labels=labels).loss_output
    (gradient,) = torch.autograd.grad(loss.total, features)
    found = patch_influence(model, IDS, pixels, slice(7, 9))
    assert found.shape == (1, 4)
    torch.testing.assert_close(found, gradient.norm(dim=-1))
    assert found.min() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_shown_later_has_no_influence(build, pixels):
    ids = torch.cat([IDS, torch.full((1, 4), IMAGE_TOKEN_INDEX), torch.tensor([[45]])], dim=1)
    found = patch_influence(build().eval(), ids, torch.cat([pixels, pixels]), slice(8, 10))
    assert found[0].min() > 0
    assert found[1].tolist() == [0, 0, 0, 0]
