"""Guards: a projector of another shape, or under other names, than the original's `mm_projector`."""

import pytest
import torch
from torch import nn

from llava_pl.models import connectors
from llava_pl.models.projector import (
    CONNECTORS,
    build_projector,
    check_keeps_grid,
    count_image_tokens,
    find_connector,
)
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
    with pytest.raises(InputError, match=f"projector: expected linear, .* full name of a class, found {kind!r}"):
        build_projector(kind, vision_width=3, decoder_width=2)


def test_identity_between_widths_is_refused():
    with pytest.raises(InputError, match="'identity' needs equal widths, found an encoder of 3 and a decoder of 2"):
        build_projector("identity", vision_width=3, decoder_width=2)


class Pool(nn.Module):
    """A connector from outside of the package, with an option that it cannot do without."""

    def __init__(self, vision_width, decoder_width, num_patches, *, num_groups):
        super().__init__()
        self.num_groups = num_groups
        self.num_patches = num_patches
        self.linear = nn.Linear(vision_width, decoder_width)

    def count_image_tokens(self, num_patches):
        return self.num_groups

    def forward(self, patch_features):
        return self.linear(patch_features.unflatten(1, (self.num_groups, -1)).mean(2))


POOL = f"{__name__}.Pool"
WIDTHS = {"vision_width": 3, "decoder_width": 2}


@pytest.mark.parametrize("kind", CONNECTORS)
def test_short_names_are_classes(kind):
    assert issubclass(find_connector(kind), nn.Module)
    assert find_connector(kind).__module__ == connectors.__name__


def test_a_class_by_its_full_name():
    projector = build_projector(POOL, **WIDTHS, num_patches=12, options={"num_groups": 4})
    assert type(projector).__name__ == "Pool"
    assert (projector.num_groups, projector.num_patches) == (4, 12)
    assert projector(torch.zeros(1, 12, 3)).shape == (1, count_image_tokens(projector, 12), 2) == (1, 4, 2)


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu", "identity"])
def test_the_original_s_kinds_make_a_token_of_each_patch(kind):
    projector = build_projector(kind, vision_width=3, decoder_width=3)
    assert count_image_tokens(projector, 576) == 576


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (POOL, {}, "model.projector_options: .*Pool: missing a required argument: 'num_groups'"),
        (POOL, {"num_groups": 2, "x": 1}, "model.projector_options: .*Pool: got an unexpected keyword argument 'x'"),
        ("linear", {"x": 1}, "model.projector_options: linear takes none, found x"),
        ("no_such_package.Class", {}, "no_such_package.Class: expected a class that Python can import, but No module"),
        ("torch.nn.NoSuch", {}, "torch.nn.NoSuch: expected a class that Python can import, but .*no attribute"),
        (".Pool", {}, "projector: expected linear, .* found '.Pool'"),
        ("a..Pool", {}, "a..Pool: expected a class that Python can import"),
        ("torch.nn.Linear", {}, "torch.nn.Linear: expected a torch.nn.Module with a method count_image_tokens"),
        ("torch.nn.init", {}, "torch.nn.init: expected a torch.nn.Module with a method count_image_tokens"),
    ],
)
def test_what_is_no_connector_is_refused(kind, options, message):
    with pytest.raises(InputError, match=message) as caught:
        build_projector(kind, **WIDTHS, num_patches=4, options=options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu", "identity", "pixel_shuffle"])
def test_tokens_that_lie_as_the_patches_do(kind):
    check_keeps_grid(kind)


@pytest.mark.parametrize("kind", ["qformer", "resampler", POOL])
def test_tokens_without_a_place_are_none_for_tiles(kind):
    """Sixty-four queries would make a square of eight by eight, and no error."""
    with pytest.raises(
        InputError, match=f"anyres puts the image tokens .* those of model.projector {kind} have no place"
    ):
        check_keeps_grid(kind)
