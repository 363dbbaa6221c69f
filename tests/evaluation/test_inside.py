"""Guards looks inside: words of another layer or position than they stand for, or nearest words that are not."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from llava_pl.data.image import ImageTransform
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.evaluation import inside
from llava_pl.evaluation.inside import logit_lens, nearest_words
from llava_pl.types import InputError, Turn

PICTURE = Image.effect_noise((20, 12), 90).convert("RGB")
TURNS = [Turn("human", "<image>\nWhat?"), Turn("gpt", "A dog.")]


@pytest.fixture(scope="module")
def encoder(tiny_parts, tokenizer):
    transform = ImageTransform.from_pretrained(tiny_parts / "encoder")
    return SampleEncoder(tokenizer, transform, Path(), num_image_tokens=4)


def test_last_layer_says_what_the_model_says(build, encoder):
    model, sample = build().eval(), encoder.encode_turns(TURNS, [PICTURE])
    found = logit_lens(model, sample, num_words=3)
    assert encoder.tokenizer.decode(found.targets) == " A dog.</s>"
    num_layers = model.decoder.model.config.num_hidden_layers
    assert found.ids.shape == found.probabilities.shape == (num_layers + 1, 8, 3)
    assert found.of_targets.shape == (num_layers + 1, 8)
    pixels = encoder.image_transform(PICTURE)[None]
    logits = model(sample.input_ids[None], pixels).logits[0, -9:-1]
    assert found.ids[-1, :, 0].tolist() == logits.argmax(dim=-1).tolist()
    expected = logits.softmax(dim=-1)
    # float32 sums in another order: 1e-8 seen; the probabilities of another position differ by 1e-3.
    torch.testing.assert_close(found.probabilities[-1], expected.topk(3).values, atol=1e-6, rtol=0)
    of_targets = expected.gather(1, sample.input_ids[-8:, None])[:, 0]
    torch.testing.assert_close(found.of_targets[-1], of_targets, atol=1e-6, rtol=0)


def test_first_layer_reads_the_words_themselves(build, encoder):
    """Through norm and head, which are made so that an embedding says its own word."""
    model, sample = build().eval(), encoder.encode_turns(TURNS, [PICTURE])
    model.decoder.head.weight = nn.Parameter(nn.functional.normalize(model.decoder.embedding.weight.detach(), dim=1))
    found = logit_lens(model, sample)
    assert found.ids[0, :, 0].tolist() == sample.input_ids[-9:-1].tolist()


def test_layers_between_go_through_the_norm(build, encoder):
    """The norm of a layer's states has a length of its own, whatever theirs is."""
    model, sample = build().eval(), encoder.encode_turns(TURNS, [PICTURE])
    before = logit_lens(model, sample).probabilities[0]
    model.decoder.model.base_model.norm.weight.data *= 0
    after = logit_lens(model, sample).probabilities[0]
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, torch.full_like(after, 1 / model.decoder.num_embeddings))


def test_nothing_to_look_at_is_refused(build, encoder, monkeypatch):
    with pytest.raises(InputError, match="ends with an answer, found no supervised token"):
        logit_lens(build().eval(), encoder.encode_turns(TURNS[:1], [PICTURE]))
    monkeypatch.setattr(inside, "FINAL_NORMS", ("ln_g",))
    with pytest.raises(InputError, match="LlamaModel has none of ln_g; expected"):
        logit_lens(build().eval(), encoder.encode_turns(TURNS, [PICTURE]))


@pytest.mark.parametrize("length", [0.1, 30.0])
def test_nearest_word_is_found_by_its_direction(build, length):
    model = build().eval()
    features = length * model.decoder.embedding.weight.detach()[[7, 9, 40, 41]].view(2, 2, -1)
    cosines, ids = nearest_words(model, features, num_words=2)
    assert ids.shape == (2, 2, 2)
    assert ids[..., 0].tolist() == [[7, 9], [40, 41]]
    torch.testing.assert_close(cosines[..., 0], torch.ones(2, 2))  # float32 rounds a cosine by 1e-7
    assert (cosines[..., 1] < 0.99).all()


def test_nearest_word_is_one_of_those_asked_for(build):
    model = build().eval()
    table = model.decoder.embedding.weight.detach()
    _, ids = nearest_words(model, torch.stack([table[9], table[40]]), among=[12, 9, 3])
    assert ids[0].tolist() == [9]
    assert ids[1].item() in {12, 9, 3}
