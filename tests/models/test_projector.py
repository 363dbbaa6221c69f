"""Guards: a projector of another shape, or under other names, than the original's `mm_projector`."""

import pytest
import torch
from torch import nn

from llava_pl.models.projector import build_projector
from llava_pl.types import InputError


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("identity", {}),
        ("linear", {"weight": (5, 3), "bias": (5,)}),
        ("mlp1x_gelu", {"0.weight": (5, 3), "0.bias": (5,)}),
        ("mlp2x_gelu", {"0.weight": (5, 3), "0.bias": (5,), "2.weight": (5, 5), "2.bias": (5,)}),
        (
            "mlp3x_gelu",
            {
                "0.weight": (5, 3), "0.bias": (5,), "2.weight": (5, 5), "2.bias": (5,), "4.weight": (5, 5),
                "4.bias": (5,),
            },
        ),
    ],
)  # fmt: skip
def test_names_and_shapes_are_the_original_s(kind, shapes):
    projector = build_projector(kind, vision_width=5 if kind == "identity" else 3, decoder_width=5)
    assert {name: tuple(p.shape) for name, p in projector.named_parameters()} == shapes
    assert projector.state_dict().keys() == shapes.keys()


def test_linear_is_one_matrix():
    projector = build_projector("linear", vision_width=3, decoder_width=2)
    with torch.no_grad():
        projector.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 0.0]]))
        projector.bias.copy_(torch.tensor([10.0, 20.0]))
        features = projector(torch.tensor([[[1.0, 1.0, 1.0], [2.0, 0.0, 0.0]]]))
    assert features.tolist() == [[[16.0, 19.0], [12.0, 20.0]]]


def test_identity_changes_nothing():
    patch_features = torch.randn(2, 4, 5)
    assert torch.equal(build_projector("identity", vision_width=5, decoder_width=5)(patch_features), patch_features)


def test_mlp_uses_the_exact_gelu():
    projector = build_projector("mlp2x_gelu", vision_width=2, decoder_width=2)
    with torch.no_grad():
        for layer in (projector[0], projector[2]):
            layer.weight.copy_(torch.eye(2))
            layer.bias.zero_()
        output = projector(torch.tensor([1.0, -2.0]))
    # x * Phi(x). The tanh approximation gives 0.841192 and -0.045402: off by 1.5e-4 and more at the first.
    assert output.tolist() == pytest.approx([0.8413447, -0.0455003], abs=1e-6)


def test_two_projectors_do_not_share_weights():
    first, second = (build_projector("linear", vision_width=3, decoder_width=2) for _ in range(2))
    assert isinstance(first, nn.Linear)
    assert not torch.equal(first.weight, second.weight)


@pytest.mark.parametrize("kind", ["", "mlp", "mlp0x_gelu", "mlp2x_relu", "mlp2x_gelu2", "Linear", "mlp-1x_gelu"])
def test_unknown_kinds_are_refused(kind):
    with pytest.raises(InputError, match=f"projector: expected linear, .* found {kind!r}"):
        build_projector(kind, vision_width=3, decoder_width=2)


def test_identity_between_widths_is_refused():
    with pytest.raises(InputError, match="'identity' needs equal widths, found an encoder of 3 and a decoder of 2"):
        build_projector("identity", vision_width=3, decoder_width=2)
