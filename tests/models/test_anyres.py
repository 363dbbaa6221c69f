"""Guards: features of a tile at another place of the picture, a row without its end, padding that the decoder reads.

A wrong order has the right size, so nothing but the values tells.
"""

from itertools import pairwise

import pytest
import torch
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

from llava_pl.data.anyres import Tiling
from llava_pl.data.collate import collate
from llava_pl.data.packing import pack
from llava_pl.export.parts import load_decoder, load_vision_encoder
from llava_pl.models.anyres import build_newline, merge_tiles
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector
from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, ImageGrid, Sample

NEWLINE = torch.tensor([-1.0])
TILING = Tiling(16, 4, [(16, 32), (32, 16), (32, 32), (48, 16), (16, 48)])


def numbered(*shape: int) -> torch.Tensor:
    """Features that count the patches tile by tile, in one dimension."""
    return torch.arange(float(torch.Size(shape).numel())).view(*shape, 1)


def merged(features: torch.Tensor, *grids: ImageGrid) -> list[float]:
    return merge_tiles(features, grids, NEWLINE)[:, 0].tolist()


def test_tiles_become_one_map_whose_rows_end():
    # Tile 1 holds 4 5 6 7 in two rows, tile 2 beside it 8 9 10 11, tiles 3 and 4 lie below.
    assert merged(numbered(5, 4), ImageGrid(rows=2, columns=2, height=4, width=4)) == [
        0, 1, 2, 3,
        4, 5, 8, 9, -1,
        6, 7, 10, 11, -1,
        12, 13, 16, 17, -1,
        14, 15, 18, 19, -1,
    ]  # fmt: skip


def test_padding_is_cut_on_both_sides():
    assert merged(numbered(5, 4), ImageGrid(2, 2, height=2, width=4)) == [
        0, 1, 2, 3,
        6, 7, 10, 11, -1,
        12, 13, 16, 17, -1,
    ]  # fmt: skip
    assert merged(numbered(5, 4), ImageGrid(2, 2, height=4, width=2)) == [
        0, 1, 2, 3, 5, 8, -1, 7, 10, -1, 13, 16, -1, 15, 18, -1,
    ]  # fmt: skip


def test_map_of_padding_alone():
    assert merged(numbered(3, 4), ImageGrid(1, 2, height=0, width=4)) == [0, 1, 2, 3]
    assert merged(numbered(3, 4), ImageGrid(2, 1, height=4, width=0)) == [0, 1, 2, 3, -1, -1, -1, -1]


def test_several_pictures_stay_in_order():
    grids = [ImageGrid(1, 1, 1, 1), ImageGrid(1, 2, 1, 2), ImageGrid(1, 1, 1, 1)]
    assert merged(numbered(7, 1), *grids) == [0, 1, -1, 2, 3, 4, -1, 5, 6, -1]


def test_there_are_as_many_tokens_as_room_is_made_for():
    for size in [(40, 30), (1, 1), (16, 16), (50, 7), (7, 50), (33, 64)]:
        grid = TILING.grid(size)
        features = torch.zeros(grid.num_tiles, 4, 3)
        assert merge_tiles(features, [grid], torch.zeros(3)).shape == (grid.num_tokens(4), 3)


@pytest.mark.parametrize("num_tiles", [2, 4])
def test_tiles_that_no_grid_asks_for(num_tiles):
    with pytest.raises(ValueError, match=f"^anyres: {num_tiles} tiles, but grids of 3; expected equal numbers$"):
        merge_tiles(torch.zeros(num_tiles, 4, 2), [ImageGrid(1, 2, 2, 4)], torch.zeros(2))


def test_newline_takes_the_dtype_of_the_features_and_gets_a_gradient():
    newline = torch.nn.Parameter(torch.ones(2))
    features = torch.zeros(3, 4, 2, dtype=torch.bfloat16)
    tokens = merge_tiles(features, [ImageGrid(1, 2, height=2, width=4)], newline)
    assert tokens.dtype == torch.bfloat16
    tokens.sum().backward()
    assert newline.grad.tolist() == [2.0, 2.0]


def test_fresh_newline_is_as_wide_as_the_original_draws_it():
    torch.manual_seed(0)
    newline = build_newline(4096)
    assert (newline.shape, newline.requires_grad) == ((4096,), True)
    # 4096 draws: their deviation is within five times 1 / sqrt(2 * 4096) of its expectation.
    assert newline.std().item() * 4096**0.5 == pytest.approx(1, abs=0.055)


# --- the whole model --------------------------------------------------------------------------------------------------


def build(tiny_parts) -> LlavaModel:
    torch.manual_seed(1)
    encoder, decoder = load_vision_encoder(tiny_parts / "encoder"), load_decoder(tiny_parts / "decoder")
    encoder.requires_grad_(False)
    projector = build_projector("mlp2x_gelu", vision_width=encoder.width, decoder_width=decoder.width)
    return LlavaModel(encoder, projector, decoder, build_newline(decoder.width))


@pytest.fixture
def model(tiny_parts) -> LlavaModel:
    return build(tiny_parts).eval()


def sample(name: str, *sizes: tuple[int, int]) -> Sample:
    """A sample with pictures of some sizes, whose tiles are noise."""
    grids = tuple(TILING.grid(size) for size in sizes)
    ids = [1, 40]
    for number, grid in enumerate(grids):
        ids += [IMAGE_TOKEN_INDEX] * grid.num_tokens(4) + [50 + number]
    ids += [60, 61, 2]
    labels = [IGNORE_INDEX] * (len(ids) - 3) + ids[-3:]
    generator = torch.Generator().manual_seed(len(name) + len(ids))
    pixels = torch.randn(sum(grid.num_tiles for grid in grids), 3, 16, 16, generator=generator)
    return Sample(name, torch.tensor(ids), torch.tensor(labels), pixels, grids=grids)


# One picture, text alone, two pictures of different shapes.
SAMPLES = [sample("one", (40, 30)), sample("text"), sample("two", (50, 16), (20, 64))]


def inputs(samples: list[Sample], *, is_packed: bool = False, side: str = "right") -> dict:
    if is_packed:
        batch = pack(samples, num_image_tokens=4)
    else:
        batch = collate(samples, pad_token_id=0, num_image_tokens=4, padding_side=side)
    names = ("input_ids", "labels", "attention_mask", "position_ids", "pixel_values", "sequence_lengths", "grids")
    return {name: batch[name] for name in names if name in batch}


def loss_and_gradients(model, batch):
    model.zero_grad()
    output = model(**batch).loss_output
    output.total.backward()
    return output.total.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("arrangement", ["packed", "left", "other order", "one by one"])
def test_arrangement_changes_neither_loss_nor_gradients(model, arrangement):
    expected, expected_gradients = loss_and_gradients(model, inputs(SAMPLES))
    if arrangement == "one by one":
        alone = [loss_and_gradients(model, inputs([each])) for each in SAMPLES]
        loss = sum(total for total, _ in alone)
        gradients = {name: sum(found.get(name, 0) for _, found in alone) for name in expected_gradients}
    else:
        samples = [SAMPLES[2], SAMPLES[0], SAMPLES[1]] if arrangement == "other order" else SAMPLES
        side = "left" if arrangement == "left" else "right"
        loss, gradients = loss_and_gradients(model, inputs(samples, is_packed=arrangement == "packed", side=side))
    # Relative: measured 1e-7 for the loss and 4e-7 for gradients, sums in another order. Two tiles that change places
    # move the loss no more than that, but gradients by 0.3: these are the proof.
    assert loss == pytest.approx(expected, rel=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    assert "image_newline" in gradients
    for name, gradient in expected_gradients.items():
        difference = (gradients[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-12)
        assert difference < 5e-6, (name, difference.item())


@pytest.mark.parametrize("is_packed", [False, True])
def test_every_tile_changes_its_own_sample_alone(model, is_packed):
    batch = inputs(SAMPLES, is_packed=is_packed)
    batch.pop("labels")
    ends = [0, *torch.tensor([len(each.input_ids) for each in SAMPLES]).cumsum(0).tolist()]
    owners = [number for number, each in enumerate(SAMPLES) for _ in each.pixel_values]

    def logits_of(pixel_values):
        with torch.no_grad():
            logits = model(**{**batch, "pixel_values": pixel_values}).logits
        if is_packed:
            return [logits[0, start:end] for start, end in pairwise(ends)]
        return list(logits)

    before = logits_of(batch["pixel_values"])
    assert len(owners) == 5 + 4 + 4
    for tile, owner in enumerate(owners):
        pixel_values = batch["pixel_values"].clone()
        pixel_values[tile] += 1.0
        changes = [(new - old).abs().max() for new, old in zip(logits_of(pixel_values), before, strict=True)]
        assert changes[owner] > 1e-4
        assert all(change == 0 for number, change in enumerate(changes) if number != owner)


@pytest.mark.parametrize("batch", [inputs([SAMPLES[1]]), {**inputs([SAMPLES[1]]), "pixel_values": None}])
def test_batch_without_pictures_gives_projector_and_newline_zero_gradients(tiny_parts, batch):
    model = build(tiny_parts).train()
    model(**batch).loss.backward()
    for parameter in [*model.projector.parameters(), model.image_newline]:
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


def test_pictures_without_a_row_of_their_own_give_the_newline_a_gradient(tiny_parts):
    # Too flat for a row of its map, and a picture that is not tiled.
    flat = sample("flat", (160, 10))
    assert flat.grids == (ImageGrid(1, 3, height=0, width=6),)
    ids = torch.tensor([1, *[IMAGE_TOKEN_INDEX] * 4, 5, 6])
    whole = Sample("whole", ids, ids.masked_fill(ids < 0, IGNORE_INDEX), torch.ones(1, 3, 16, 16))
    for each in (flat, whole):
        model = build(tiny_parts).train()
        model(**inputs([each])).loss.backward()
        assert torch.equal(model.image_newline.grad, torch.zeros(32))
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.projector.parameters())


def test_answers_of_a_batch_equal_those_one_by_one(model):
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}

    def answers(samples):
        batch = inputs(samples, side="left")
        batch.pop("labels")
        return model.generate(**batch, **options).tolist()

    together = answers(SAMPLES)
    assert together == [answers([each])[0] for each in SAMPLES]
    assert len({tuple(answer) for answer in together}) == 3


def test_tiles_without_a_newline_are_refused(model):
    model.image_newline = None
    assert "image_newline" not in model.state_dict()
    with pytest.raises(ValueError, match="the pictures are tiled, but the model has no image_newline"):
        model(**inputs(SAMPLES))


def test_room_for_other_tokens_is_refused(model):
    batch = inputs([SAMPLES[0]])
    batch["grids"] = [ImageGrid(2, 2, height=2, width=4)]
    with pytest.raises(ValueError, match="24 image tokens in input_ids, but 14 image features; expected equal numbers"):
        model(**batch)


SIZES = [(40, 30), (16, 16), (50, 16), (20, 64), (33, 64), (7, 50), (640, 479)]


@pytest.mark.parametrize("size", SIZES)
def test_logits_equal_transformers_llava_next(tiny_parts, size):
    ours = build(tiny_parts).eval()
    # The cut encoder's last hidden state is the selected one, so the peer selects -1 of the same layers. There height
    # comes first, in pinpoints too.
    config = LlavaNextConfig(
        vision_config=ours.vision_encoder.model.config,
        text_config=ours.decoder.model.config,
        image_token_index=98,
        vision_feature_layer=-1,
        projector_hidden_act="gelu",
        image_grid_pinpoints=[[height, width] for width, height in TILING.pinpoints],
    )
    peer = LlavaNextForConditionalGeneration(config).eval()
    peer.model.vision_tower.load_state_dict(ours.vision_encoder.model.state_dict())
    peer.model.language_model.load_state_dict(ours.decoder.model.model.state_dict())
    peer.lm_head.load_state_dict(ours.decoder.model.lm_head.state_dict())
    peer.model.multi_modal_projector.linear_1.load_state_dict(ours.projector[0].state_dict())
    peer.model.multi_modal_projector.linear_2.load_state_dict(ours.projector[2].state_dict())
    peer.model.image_newline.data.copy_(ours.image_newline.data)

    each = sample("s", size)
    ids, pixels = each.input_ids[None], each.pixel_values
    with torch.no_grad():
        features = ours.encode_images(pixels, each.grids)
        logits = ours(input_ids=ids, pixel_values=pixels, grids=each.grids).logits
        sizes = torch.tensor([size[::-1]])
        expected = peer(input_ids=ids.masked_fill(ids < 0, 98), pixel_values=pixels[None], image_sizes=sizes).logits
        (tokens,) = peer.model.get_image_features(
            pixels[None], sizes, vision_feature_layer=-1, vision_feature_select_strategy="default"
        ).pooler_output
    # Measured: 1e-7. Two tiles that change places move features by 0.8 and logits by 0.4.
    torch.testing.assert_close(features, tokens, atol=1e-6, rtol=0)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
