"""Guards padding: a token of the text that is hidden, padding that is supervised, or pictures in another row's place.

None of these raises; they only train a worse model.
"""

from dataclasses import replace

import pytest
import torch

from llava_pl.data.collate import collate, count_supervised
from llava_pl.types import ImageGrid, InputError, Question, Sample

PAD = 0
LONG = Sample(
    "long",
    torch.tensor([1, -200, -200, 7, 8]),
    torch.tensor([-100, -100, -100, 7, 8]),
    torch.full((1, 3, 2, 2), 0.5),
)
SHORT = Sample("short", torch.tensor([1, 9]), torch.tensor([-100, 9]), torch.empty(0, 3, 2, 2))


def collated(*samples, padding_side="right", num_image_tokens=2):
    return collate(samples, pad_token_id=PAD, num_image_tokens=num_image_tokens, padding_side=padding_side)


def as_lists(batch):
    return {name: batch[name].tolist() for name in ("input_ids", "labels", "attention_mask")}


def test_right_padding():
    assert as_lists(collated(LONG, SHORT)) == {
        "input_ids": [[1, -200, -200, 7, 8], [1, 9, 0, 0, 0]],
        "labels": [[-100, -100, -100, 7, 8], [-100, 9, -100, -100, -100]],
        "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]],
    }


def test_left_padding():
    assert as_lists(collated(LONG, SHORT, padding_side="left")) == {
        "input_ids": [[1, -200, -200, 7, 8], [0, 0, 0, 1, 9]],
        "labels": [[-100, -100, -100, 7, 8], [-100, -100, -100, -100, 9]],
        "attention_mask": [[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]],
    }


@pytest.mark.parametrize(("side", "mask"), [("right", [1, 1, 1, 0, 0]), ("left", [0, 0, 1, 1, 1])])
def test_pad_id_inside_a_text_is_attended(side, mask):
    """LLaVA's mask is `input_ids != pad`, which hides an <unk> that a user wrote."""
    unknown = Sample("u", torch.tensor([1, PAD, 9]), torch.tensor([-100, PAD, 9]), torch.empty(0, 3, 2, 2))
    batch = collated(LONG, unknown, padding_side=side)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], mask]
    assert batch["labels"][1][batch["attention_mask"][1].bool()].tolist() == [-100, PAD, 9]


def test_places_in_the_dataset():
    first, second = replace(LONG, index=7), replace(SHORT, index=0)
    assert collated(first, second)["indices"] == [7, 0]
    assert "indices" not in collated(first, SHORT)


def test_types():
    batch = collated(LONG, SHORT)
    assert {name: batch[name].dtype for name in ("input_ids", "labels", "attention_mask", "pixel_values")} == {
        "input_ids": torch.int64,
        "labels": torch.int64,
        "attention_mask": torch.int64,
        "pixel_values": torch.float32,
    }
    assert (type(batch["num_tokens"]), type(batch["num_supervised"])) == (int, int)


def test_counts_and_ids():
    batch = collated(LONG, SHORT, LONG)
    assert batch["ids"] == ["long", "short", "long"]
    assert (batch["num_tokens"], batch["num_pairs"]) == (5 + 2 + 5, 25 + 4 + 25)
    assert batch["num_supervised"] == 2 + 1 + 2
    assert "questions" not in batch


@pytest.mark.parametrize("side", ["right", "left"])
def test_first_token_of_a_row_is_not_counted_because_nothing_predicts_it(side):
    """With padding in front something does, but a padded position is masked out of attention and says nothing."""
    answered_at_once = Sample("s", torch.tensor([5, 6]), torch.tensor([5, 6]), torch.empty(0, 3, 2, 2))
    assert collated(answered_at_once, padding_side=side)["num_supervised"] == 1
    assert count_supervised(torch.tensor([[5, 6, -100], [-100, -100, 7]])) == 2
    assert count_supervised(torch.full((2, 3), -100)) == 0


def test_pictures_are_in_the_order_of_the_rows():
    two = Sample("two", torch.tensor([-200, 4, -200]), torch.tensor([-100, 4, -100]), torch.ones(2, 3, 1, 1))
    two.pixel_values[1] = 2
    one = Sample("one", torch.tensor([-200]), torch.tensor([-100]), torch.full((1, 3, 1, 1), 3.0))
    none = Sample("none", torch.tensor([4]), torch.tensor([-100]), torch.empty(0, 3, 1, 1))
    batch = collated(two, none, one, num_image_tokens=1)
    assert batch["pixel_values"].tolist() == [[[[value]]] * 3 for value in (1.0, 2.0, 3.0)]


def test_levels_travel_with_their_table():
    levels, table = torch.full((1, 3, 2, 2), 7, dtype=torch.uint8), torch.zeros(3, 256)
    batch = collated(replace(LONG, pixel_values=levels, value_of_level=table))
    assert batch["pixel_values"].dtype == torch.uint8
    assert batch["value_of_level"] is table
    assert "value_of_level" not in collated(LONG)


def test_batch_without_pictures_has_none():
    batch = collated(SHORT, SHORT)
    assert batch["pixel_values"].shape == (0, 3, 2, 2)
    assert batch["pixel_values"].dtype == torch.float32


@pytest.mark.parametrize(
    ("num_pictures", "num_tokens", "message"),
    [
        (1, 1, "sample 'bad': 1 image tokens for 1 pictures of 2; expected 2"),
        (1, 4, "sample 'bad': 4 image tokens for 1 pictures of 2; expected 2"),
        (0, 2, "sample 'bad': 2 image tokens for 0 pictures of 2; expected 0"),
        (2, 2, "sample 'bad': 2 image tokens for 2 pictures of 2; expected 4"),
    ],
)
def test_pictures_do_not_match_image_tokens(num_pictures, num_tokens, message):
    ids = torch.tensor([1, *[-200] * num_tokens])
    bad = Sample("bad", ids, torch.full_like(ids, -100), torch.zeros(num_pictures, 3, 2, 2))
    with pytest.raises(InputError) as caught:
        collated(LONG, bad)
    assert str(caught.value) == message


def test_mismatches_that_cancel_out_are_still_found():
    """One row too many and one too few make the right total, and every picture after them lies wrong."""
    rows = [torch.tensor([-200] * 3), torch.tensor([-200])]
    samples = [
        Sample(name, ids, torch.full_like(ids, -100), torch.zeros(1, 3, 2, 2))
        for name, ids in zip(("more", "less"), rows, strict=True)
    ]
    with pytest.raises(InputError, match=r"^sample 'more': 3 image tokens"):
        collated(*samples)


GRID, FLAT = ImageGrid(1, 2, height=1, width=2), ImageGrid(1, 1, height=0, width=1)


def tiled(name: str, grids: tuple[ImageGrid, ...], num_tokens: int, num_tiles: int) -> Sample:
    ids = torch.tensor([1, *[-200] * num_tokens])
    return Sample(name, ids, torch.full_like(ids, -100), torch.zeros(num_tiles, 3, 2, 2), grids=grids)


def test_grids_are_in_the_order_of_the_rows():
    # Where a tile is one token, the first picture is 1 + 1 * (2 + 1) of them, the second 1 + 0.
    both, last = tiled("both", (GRID, FLAT), 4 + 1, 3 + 2), tiled("last", (FLAT,), 1, 2)
    batch = collated(both, SHORT, last, num_image_tokens=1)
    assert batch["grids"] == [GRID, FLAT, FLAT]
    assert len(batch["pixel_values"]) == 7
    assert batch["input_ids"].tolist() == [[1] + [-200] * 5, [1, 9, 0, 0, 0, 0], [1, -200, 0, 0, 0, 0]]


def test_batch_without_tiles_has_no_grids():
    assert "grids" not in collated(LONG, SHORT)
    assert "grids" not in collated(SHORT)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (tiled("bad", (GRID,), 4, 2), "sample 'bad': 2 tiles for 1 tiled pictures; expected 3"),
        (tiled("bad", (GRID,), 5, 3), "sample 'bad': 5 image tokens for 1 tiled pictures; expected 4"),
        (tiled("bad", (), 1, 1), "sample 'bad': 1 tiles for 0 tiled pictures; expected 0"),
    ],
)
def test_tiles_do_not_match(bad, message):
    with pytest.raises(InputError) as caught:
        collated(tiled("good", (GRID,), 4, 3), bad, num_image_tokens=1)
    assert str(caught.value) == message


def test_questions_stay_with_their_rows():
    questions = [Question(str(index), "?", ("a", "b"), 0) for index in range(2)]
    samples = [Sample(q.id, torch.tensor([1]), torch.tensor([-100]), torch.empty(0, 3, 2, 2), q) for q in questions]
    batch = collated(*samples)
    assert batch["questions"] == questions
    assert (batch["num_tokens"], batch["num_supervised"]) == (2, 0)


def test_samples_that_are_left_out_are_named_by_reason():
    left_out = Sample("x", torch.tensor([PAD]), torch.tensor([-100]), torch.empty(0, 3, 2, 2), skipped="too_long")
    batch = collated(LONG, left_out, left_out)
    assert batch["skipped"] == [(None, "too_long"), (None, "too_long")]
    assert (batch["num_tokens"], batch["num_supervised"]) == (5 + 1 + 1, 2)
    assert "skipped" not in collated(LONG, SHORT)


def test_a_picture_that_rows_share_is_there_once():
    def show(name, shade):
        return replace(LONG, id=name, picture=name, pixel_values=torch.full((1, 3, 2, 2), shade))

    batch = collated(show("a", 0.1), SHORT, show("b", 0.2), show("a", 0.1), LONG)
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.5])
    assert batch["pictures"] == [0, -1, 1, 0, 2]
    assert "pictures" not in collated(show("a", 0.1), show("b", 0.2), LONG, LONG)


def test_a_tiled_picture_that_rows_share_is_there_once():
    grid, other = ImageGrid(1, 1, height=1, width=1), ImageGrid(1, 2, height=1, width=3)
    samples = [
        Sample(
            name,
            torch.full((one.num_tokens(2),), -200),
            torch.full((one.num_tokens(2),), -100),
            torch.zeros(one.num_tiles, 3, 2, 2),
            grids=(one,),
            picture=name,
        )
        for name, one in (("a", grid), ("b", other), ("b", other))
    ]
    batch = collated(*samples)
    assert (batch["grids"], batch["pictures"], len(batch["pixel_values"])) == ([grid, other], [0, 1, 1], 5)


def test_features_in_the_place_of_pictures_are_counted_and_stay_in_order():
    features = torch.arange(2 * 2 * 3.0).view(2, 2, 3)
    nothing = {"pixel_values": torch.empty(0, 3, 2, 2)}
    first = replace(LONG, patch_features=features[:1], **nothing)
    second = replace(SHORT, patch_features=torch.empty(0, 2, 3))
    batch = collated(first, second, replace(first, patch_features=features[1:]))
    assert torch.equal(batch["patch_features"], features)
    assert batch["pixel_values"].shape == (0, 3, 2, 2)
    assert collated(second)["patch_features"].shape == (0, 2, 3)
    assert "patch_features" not in collated(LONG)
    with pytest.raises(InputError, match="sample 'long': 2 image tokens for 0 pictures of 2; expected 0"):
        collated(replace(first, patch_features=torch.empty(0, 2, 3)))
