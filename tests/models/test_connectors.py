"""Guards: image tokens that mix up pictures or patches, count otherwise than they are, or leave weights untrained."""

import pytest
import torch
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from llava_pl.models.connectors import PixelShuffle, QFormer, Resampler
from llava_pl.types import InputError

FEATURES = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(0))
BUILD = {
    "qformer": lambda: QFormer(8, 20, num_queries=5, width=12, depth=3, num_heads=2),
    "resampler": lambda: Resampler(8, 20, num_queries=5, depth=2, num_heads=2, head_dim=4),
    "pixel_shuffle": lambda: PixelShuffle(8, 20, 16, factor=2),
}


@pytest.fixture(params=BUILD)
def connector(request):
    torch.manual_seed(0)
    return BUILD[request.param]().eval()


def test_gives_as_many_image_tokens_as_it_counts(connector):
    with torch.no_grad():
        image_features = connector(FEATURES)
    assert image_features.shape == (3, connector.count_image_tokens(16), 20)


def test_counts_without_weights(connector):
    kind = type(connector)
    with torch.device("meta"):
        twin = kind(8, 20, 16) if kind is PixelShuffle else kind(8, 20)
    assert {parameter.device.type for parameter in twin.parameters()} == {"meta"}
    assert twin.count_image_tokens(16) == {QFormer: 32, Resampler: 64, PixelShuffle: 4}[kind]


def test_pictures_do_not_see_each_other(connector):
    with torch.no_grad():
        together, alone = connector(FEATURES), torch.cat([connector(features[None]) for features in FEATURES])
    # Features are of order 1; seen: 5e-7, from another order of summing.
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_tokens_of_a_picture_differ(connector):
    """Queries that begin equal stay equal."""
    tokens = connector(FEATURES)[0]
    distances = torch.cdist(tokens, tokens) + torch.eye(len(tokens))
    assert distances.min() > 1e-3


def test_every_weight_gets_a_gradient(connector):
    """DDP waits for all of them."""
    connector.train()(FEATURES).square().sum().backward()
    gradients = {name: p.grad for name, p in connector.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    # Softmax does not see what is added to all keys alike: those have a gradient of rounding errors, or of zeros.
    assert all(g.abs().max() > 0 for name, g in gradients.items() if not name.endswith("key.bias"))


def test_learns(connector):
    target = torch.randn(3, connector.count_image_tokens(16), 20, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(connector.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = nn.functional.mse_loss(connector(FEATURES), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_qformer_is_that_of_transformers():
    torch.manual_seed(0)
    ours = BUILD["qformer"]().eval()
    config = Blip2QFormerConfig(
        hidden_size=12, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, encoder_hidden_size=8
    )
    peer = Blip2QFormerModel(config).eval()
    peer.load_state_dict(ours.qformer.state_dict())
    with torch.no_grad():
        queries = ours.queries.expand(3, -1, -1)
        expected = ours.output(peer(query_embeds=queries, encoder_hidden_states=FEATURES).last_hidden_state)
        assert torch.equal(ours(FEATURES), expected)


def test_qformer_is_blip_2_s_by_default():
    with torch.device("meta"):
        sizes = {name: p.numel() for name, p in QFormer(1408, 2560).named_parameters()}
    # 32 queries of 768 and twelve layers, every other one with cross attention; of the 188 million weights that the
    # paper counts, those for text (word embeddings, a second MLP in each layer) are not here.
    assert sizes["queries"] == 32 * 768
    assert sum(size for name, size in sizes.items() if name.startswith("qformer.")) == 105_137_664


def test_resampler_reads_every_patch():
    connector = BUILD["resampler"]()
    features = FEATURES[:1].clone().requires_grad_()
    connector(features).square().sum().backward()
    assert features.grad.abs().amax(-1).min() > 0


def test_pixel_shuffle_puts_squares_of_neighbours_together():
    connector = PixelShuffle(1, 4, 16, factor=2)
    connector.mlp = nn.Identity()
    features = torch.arange(16.0).reshape(1, 16, 1)
    # A map of four rows, read in squares of two by two, row by row.
    assert connector(features).tolist() == [
        [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0], [8.0, 9.0, 12.0, 13.0], [10.0, 11.0, 14.0, 15.0]]
    ]


def test_pixel_shuffle_by_three():
    assert PixelShuffle(8, 20, 729, factor=3).count_image_tokens(729) == 81  # SigLIP at 384 pixels


@pytest.mark.parametrize(("num_patches", "factor"), [(17, 2), (25, 2), (15, 1), (16, 3)])
def test_pixel_shuffle_needs_whole_squares(num_patches, factor):
    with pytest.raises(InputError, match=f"multiple of factor {factor}, found {num_patches} features; choose another"):
        PixelShuffle(8, 20, num_patches, factor=factor)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: QFormer(8, 20, num_queries=0), "num_queries: expected a whole number of at least 1, found 0"),
        (lambda: QFormer(8, 20, width=10, num_heads=3), "width 10 is no multiple of num_heads 3"),
        (lambda: Resampler(8, 20, depth=-1), "depth: expected a whole number of at least 1, found -1"),
        (lambda: PixelShuffle(8, 20, 16, factor=0), "factor: expected a whole number of at least 1, found 0"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(build, message):
    with pytest.raises(InputError, match=f"model.projector_options: {message}"):
        build()
