"""Guards: a picture lands in another place of the sequence, a fault that nothing downstream would notice."""

import pytest
import torch

from llava_pl.models.splice import splice


def words(num_rows: int, width: int, dim: int = 2) -> torch.Tensor:
    positions = -torch.arange(num_rows * width, dtype=torch.float32)
    return positions.view(num_rows, width, 1).expand(num_rows, width, dim).clone()


def features(num_images: int, num_tokens: int, dim: int = 2) -> torch.Tensor:
    """Feature p of picture n is filled with 100 * (n + 1) + p."""
    grid = 100.0 * torch.arange(1, num_images + 1)[:, None] + torch.arange(num_tokens)
    return grid.unsqueeze(-1).expand(num_images, num_tokens, dim).clone()


def mask(*rows: str) -> torch.Tensor:
    return torch.tensor([[mark == "I" for mark in row] for row in rows])


def test_one_picture_in_the_middle():
    spliced = splice(words(1, 6), features(1, 3), mask("wIIIww"))
    assert spliced.tolist() == [[[v, v] for v in (0.0, 100.0, 101.0, 102.0, -4.0, -5.0)]]


def test_the_parts_of_a_feature_stay_together():
    spliced = splice(torch.zeros(1, 3, 2), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), mask("IwI"))
    assert spliced.tolist() == [[[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]]]


def test_several_pictures_fill_rows_in_reading_order():
    rows = ["IIwwII", "wwwwww", "wIIwww", "wwwwII"]
    spliced = splice(words(4, 6), features(4, 2), mask(*rows))[..., 0]
    assert spliced.tolist() == [
        [100.0, 101.0, -2.0, -3.0, 200.0, 201.0],
        [-6.0, -7.0, -8.0, -9.0, -10.0, -11.0],
        [-12.0, 300.0, 301.0, -15.0, -16.0, -17.0],
        [-18.0, -19.0, -20.0, -21.0, 400.0, 401.0],
    ]


def test_two_pictures_that_touch():
    assert splice(words(1, 5), features(2, 2), mask("wIIII"))[0, :, 0].tolist() == [0.0, 100.0, 101.0, 200.0, 201.0]


@pytest.mark.parametrize("image_features", [torch.empty(0, 3, 2), torch.empty(2, 0, 2)])
def test_without_features_the_words_stay(image_features):
    embeds = words(2, 3)
    assert torch.equal(splice(embeds, image_features, mask("www", "www")), embeds)


@pytest.mark.parametrize(
    ("row", "num_images", "message"),
    [
        ("wIIw", 2, "2 image tokens in input_ids, but 4 image features .2 pictures of 2."),
        ("wIIIIw", 1, "4 image tokens in input_ids, but 2 image features .1 pictures of 2."),
        ("wIIIw", 2, "3 image tokens in input_ids, but 4 image features"),
        ("wIIIw", 1, "3 image tokens in input_ids, but 2 image features"),
        ("wIw", 0, "1 image tokens in input_ids, but 0 image features"),
        ("www", 1, "0 image tokens in input_ids, but 2 image features"),
    ],
)
def test_unequal_numbers_are_refused_in_both_directions(row, num_images, message):
    with pytest.raises(ValueError, match=f"splice: {message}"):
        splice(words(1, len(row)), features(num_images, 2), mask(row))


def test_the_input_is_not_changed():
    embeds, image_features, is_image = words(1, 4), features(1, 2), mask("wIIw")
    before = [tensor.clone() for tensor in (embeds, image_features, is_image)]
    splice(embeds, image_features, is_image).add_(1)
    for tensor, copy in zip((embeds, image_features, is_image), before, strict=True):
        assert torch.equal(tensor, copy)


def test_gradients_reach_features_and_words_and_nothing_else():
    embeds, image_features = words(2, 3).requires_grad_(), features(2, 1).requires_grad_()
    weights = torch.arange(12, dtype=torch.float32).view(2, 3, 2)
    (splice(embeds, image_features, mask("wIw", "Iww")) * weights).sum().backward()
    # Each place hands its weight to what stands there: picture 0 at (0, 1), picture 1 at (1, 0).
    assert image_features.grad.tolist() == [[[2.0, 3.0]], [[6.0, 7.0]]]
    assert embeds.grad.tolist() == [
        [[0.0, 1.0], [0.0, 0.0], [4.0, 5.0]],
        [[0.0, 0.0], [8.0, 9.0], [10.0, 11.0]],
    ]


def test_dtype_is_that_of_the_embeddings():
    spliced = splice(words(1, 2).bfloat16(), features(1, 1), mask("wI"))
    assert spliced.dtype == torch.bfloat16
    assert spliced[0, :, 0].tolist() == [0.0, 100.0]
