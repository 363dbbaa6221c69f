"""Guards: parts joined in a way that makes a sample's loss depend on its batch, or that starves the projector."""

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from llava_pl.export.parts import load_decoder, load_vision_encoder
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector
from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX

I, X = IMAGE_TOKEN_INDEX, IGNORE_INDEX  # noqa: E741  as in the drawings of the other tests
GENERATOR = torch.Generator().manual_seed(0)
PICTURES = torch.randn(3, 3, 16, 16, generator=GENERATOR)
# Three rows of different lengths: one picture, text alone, two pictures. A picture is four image tokens.
ROWS = [
    ([1, 40, I, I, I, I, 50, 60, 2], [X, X, X, X, X, X, X, 60, 2]),
    ([1, 41, 42, 43, 2], [X, X, 42, 43, 2]),
    ([1, I, I, I, I, 70, I, I, I, I, 71, 72], [X, X, X, X, X, X, X, X, X, X, 71, 72]),
]
NUM_PICTURES = [1, 0, 2]


def build(tiny_parts, kind="mlp2x_gelu") -> LlavaModel:
    torch.manual_seed(1)
    encoder, decoder = load_vision_encoder(tiny_parts / "encoder"), load_decoder(tiny_parts / "decoder")
    encoder.requires_grad_(False)  # as in every stage
    projector = build_projector(kind, vision_width=encoder.width, decoder_width=decoder.width)
    return LlavaModel(encoder, projector, decoder)


@pytest.fixture
def model(tiny_parts) -> LlavaModel:
    return build(tiny_parts).eval()


def batch(numbers, side="right", pad=0, extra=0) -> dict[str, torch.Tensor]:
    width = max(len(ROWS[number][0]) for number in numbers) + extra
    rows = {"input_ids": [], "labels": [], "attention_mask": []}
    for number in numbers:
        ids, labels = ROWS[number]
        num_pads = width - len(ids)
        for name, row, value in [
            ("input_ids", ids, pad), ("labels", labels, X), ("attention_mask", [1] * len(ids), 0),
        ]:  # fmt: skip
            rows[name].append([value] * num_pads + row if side == "left" else row + [value] * num_pads)
    ends = [sum(NUM_PICTURES[: number + 1]) for number in range(len(ROWS))]
    pictures = [PICTURES[ends[number] - NUM_PICTURES[number] : ends[number]] for number in numbers]
    return {**{name: torch.tensor(row) for name, row in rows.items()}, "pixel_values": torch.cat(pictures)}


def loss_and_gradients(model, **inputs):
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    return output.loss_output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # Relative to the tensor's largest entry. Measured: at most 6e-7 (another order of float32 sums); a sample seen
        # with another position or another picture differs by more than 1e-2.
        difference = (found[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-12)
        assert difference < 5e-6, (name, difference.item())


ARRANGEMENTS = {
    "left": ([0, 1, 2], {"side": "left"}),
    "other order": ([2, 0, 1], {}),
    "other order, left": ([1, 2, 0], {"side": "left"}),
    "more padding": ([0, 1, 2], {"extra": 7}),
    "more padding, left": ([0, 1, 2], {"extra": 7, "side": "left"}),
    "padded with a word": ([0, 1, 2], {"pad": 33}),
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_padding_and_order_change_nothing(model, arrangement):
    numbers, options = ARRANGEMENTS[arrangement]
    expected, expected_gradients = loss_and_gradients(model, **batch([0, 1, 2]))
    output, gradients = loss_and_gradients(model, **batch(numbers, **options))
    assert output.num_supervised == expected.num_supervised == 7
    # The limit is 1e-6 relative: measured 2e-7, float32 sums in another order.
    assert output.total.item() == pytest.approx(expected.total.item(), rel=1e-6)
    assert_same_gradients(gradients, expected_gradients)


def test_loss_of_a_batch_is_the_sum_of_its_rows(model):
    together = model(**batch([0, 1, 2])).loss_output
    alone = [model(**batch([number])).loss_output for number in range(3)]
    assert [output.num_supervised.item() for output in alone] == [2, 3, 2]
    assert sum(output.total.item() for output in alone) == pytest.approx(together.total.item(), rel=1e-6)


def test_every_picture_changes_its_own_row_alone(model):
    inputs = batch([0, 1, 2])
    inputs.pop("labels")
    with torch.no_grad():
        before = model(**inputs).logits
        for picture, row in [(0, 0), (1, 2), (2, 2)]:
            pixel_values = inputs["pixel_values"].clone()
            pixel_values[picture] += 1.0
            change = (model(**{**inputs, "pixel_values": pixel_values}).logits - before).abs().amax(dim=(1, 2))
            assert change[row] > 1e-4
            assert change[[other for other in range(3) if other != row]].max() == 0.0


def test_without_labels_there_are_logits_of_all_positions_and_no_loss(model):
    inputs = batch([0, 1, 2])
    labels = inputs.pop("labels")
    with torch.no_grad():
        output = model(**inputs)
        with_labels = model(**inputs, labels=labels)
    assert output.logits.shape == (3, 12, 99)
    assert (output.loss, output.loss_output) == (None, None)
    assert with_labels.logits is None
    shifted, targets = output.logits[:, :-1].reshape(-1, 99), labels[:, 1:].reshape(-1)
    expected = torch.nn.functional.cross_entropy(shifted, targets, ignore_index=X)
    # Both are float32 means of seven numbers near 4.6.
    torch.testing.assert_close(with_labels.loss, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("side", "expected"),
    [("left", [[0, 0, 0, 0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6, 7, 8]]), ("right", [[0, 1, 2, 3, 4, 4, 4, 4, 4]])],
)
def test_positions_count_attended_tokens(model, side, expected):
    """RoPE knows distances alone, so no logit would tell; but long left padding would leave the trained range."""
    seen = []
    model.decoder.model.base_model.register_forward_pre_hook(
        lambda _, __, options: seen.append(options["position_ids"].tolist()), with_kwargs=True
    )
    model(**batch([1, 0], side=side))
    assert seen[0][: len(expected)] == expected


def test_no_mask_is_the_same_as_a_mask_of_ones(model):
    inputs = batch([0])
    labels, mask = inputs.pop("labels"), inputs.pop("attention_mask")
    assert mask.all()
    with torch.no_grad():
        expected = model(**inputs, attention_mask=mask, labels=labels).loss
        assert model(**inputs, labels=labels).loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("pixel_values", [None, torch.empty(0, 3, 16, 16)])
@pytest.mark.parametrize("kind", ["mlp2x_gelu", "linear"])
def test_text_only_batch_gives_the_projector_zero_gradients(tiny_parts, pixel_values, kind):
    model = build(tiny_parts, kind).train()
    model(**{**batch([1]), "pixel_values": pixel_values}).loss.backward()
    for name, parameter in model.projector.named_parameters():
        assert parameter.grad is not None, name
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    assert all(p.grad.abs().sum() > 0 for name, p in model.decoder.named_parameters() if "embed_tokens" not in name)


def test_text_only_batch_has_a_graph_even_when_the_projector_alone_trains(tiny_parts):
    model = build(tiny_parts).requires_grad_(False).train()
    model.projector.requires_grad_(True)
    model(**batch([1])).loss.backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.projector.parameters())


def test_text_only_loss_is_the_decoder_s_alone(tiny_parts):
    model = build(tiny_parts).train()
    inputs = batch([1])
    expected = model.decoder.model(input_ids=inputs["input_ids"], labels=inputs["labels"]).loss
    assert model(**inputs).loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("is_training", [True, False])
def test_encoder_runs_for_pictures_only(tiny_parts, is_training):
    model = build(tiny_parts).train(is_training)
    runs = []
    model.vision_encoder.register_forward_hook(lambda *_: runs.append("encoder"))
    model.projector.register_forward_hook(lambda *_: runs.append("projector"))
    model(**batch([1]))
    assert runs == []
    model(**batch([1, 0]))
    assert runs == ["encoder", "projector"]


def test_pictures_that_do_not_match_are_refused(model):
    inputs = batch([0, 1, 2])
    with pytest.raises(ValueError, match=r"12 image tokens in input_ids, but 8 image features \(2 pictures of 4\)"):
        model(**{**inputs, "pixel_values": PICTURES[:2]})
    with pytest.raises(ValueError, match="12 image tokens in input_ids, but 0 image features"):
        model(**{**inputs, "pixel_values": None})


def test_answers_of_a_batch_equal_those_one_by_one(model):
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    inputs = batch([0, 1, 2], side="left")
    inputs.pop("labels")
    together = model.generate(**inputs, **options)
    assert together.shape == (3, 12)
    for number, answer in enumerate(together.tolist()):
        alone = batch([number])
        assert model.generate(alone["input_ids"], alone["pixel_values"], **options).tolist() == [answer]
    # Random weights that always say one thing would make the comparison empty.
    assert len({tuple(answer) for answer in together.tolist()}) == 3


def test_first_answer_token_is_the_best_of_the_last_logits(model):
    inputs = batch([0, 1, 2], side="left")
    inputs.pop("labels")
    with torch.no_grad():
        best = model(**inputs).logits[:, -1].argmax(-1)
    answers = model.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert answers.tolist() == best[:, None].tolist()


@pytest.mark.parametrize("select_feature", ["patch", "cls_patch"])
def test_logits_equal_transformers_llava(tiny_parts, select_feature):
    ours = build(tiny_parts).eval()
    ours.vision_encoder.select_feature = select_feature
    # The cut encoder's last hidden state is the selected one, so the peer selects -1 of the same layers.
    config = LlavaConfig(
        vision_config=ours.vision_encoder.model.config,
        text_config=ours.decoder.model.config,
        image_token_index=98,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default" if select_feature == "patch" else "full",
        projector_hidden_act="gelu",
    )
    peer = LlavaForConditionalGeneration(config).eval()
    peer.model.vision_tower.load_state_dict(ours.vision_encoder.model.state_dict())
    peer.model.language_model.load_state_dict(ours.decoder.model.model.state_dict())
    peer.lm_head.load_state_dict(ours.decoder.model.lm_head.state_dict())
    peer.model.multi_modal_projector.linear_1.load_state_dict(ours.projector[0].state_dict())
    peer.model.multi_modal_projector.linear_2.load_state_dict(ours.projector[2].state_dict())

    num = ours.num_image_tokens
    ids = torch.tensor([[1, 40, *[I] * num, 50, 60], [1, *[I] * num, 70, 71, 2]])
    inputs = {"attention_mask": torch.ones_like(ids), "pixel_values": PICTURES[:2]}
    with torch.no_grad():
        expected = peer(input_ids=ids.masked_fill(ids == I, 98), **inputs).logits
        logits = ours(input_ids=ids, **inputs).logits
    # Measured: 1e-7. Another activation, layer or picture moves the logits (of order 0.1) by more than 1e-3.
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_identity_projector_trains_on_text(tiny_parts):
    model = build(tiny_parts).train()
    model.projector = torch.nn.Identity()
    model(**batch([1])).loss.backward()
    assert all(p.grad is not None for p in model.decoder.parameters())


def test_a_blank_picture_runs_all_that_a_picture_runs_and_changes_nothing(model):
    model.train()
    text = batch([1])
    expected, gradients = loss_and_gradients(model, **text)
    called = []
    model.vision_encoder.register_forward_hook(lambda *_: called.append("encoder"))
    model.projector.register_forward_hook(lambda *_: called.append("projector"))
    assert loss_and_gradients(model, **text)[0].total == expected.total
    assert called == []
    model.encodes_blanks = True
    found, found_gradients = loss_and_gradients(model, **text)
    assert called == ["encoder", "projector"]
    assert found.total == expected.total
    assert_same_gradients(found_gradients, gradients)
    assert all(not found_gradients[f"projector.{name}"].any() for name, _ in model.projector.named_parameters())
    with torch.no_grad():
        model.eval().generate(text["input_ids"], text["pixel_values"], max_new_tokens=1, do_sample=False)
    assert called == ["encoder", "projector"] * 2


@pytest.mark.parametrize("numbers", [[0, 1, 2], [1]])
def test_features_at_hand_take_the_place_of_pictures_to_the_last_bit(tiny_parts, numbers):
    """Losses and gradients, of a batch without pictures too; the encoder is not asked."""
    found = []
    for has_features in (False, True):
        model, rows = build(tiny_parts), batch(numbers)
        if has_features:
            pixels = rows["pixel_values"]
            rows["patch_features"] = model.vision_encoder(pixels) if len(pixels) else torch.empty(0, 4, 16)
            rows["pixel_values"] = pixels[:0]
            model.vision_encoder.forward = None
        loss = model(**rows).loss
        loss.backward()
        found.append([loss, *(parameter.grad for parameter in model.projector.parameters())])
    assert all(torch.equal(live, stored) for live, stored in zip(*found, strict=True))
