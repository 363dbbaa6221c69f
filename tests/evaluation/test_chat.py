"""Guards the answer that is read while it is written: other words than a whole one has, or a model that goes on."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from llava_pl.data.image import ImageTransform
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.evaluation.chat import Pieces, Sampling, stream_answer
from llava_pl.evaluation.generation import GenerationConfig, ask_about_picture
from llava_pl.types import InputError, RecordError, Turn


@pytest.fixture(scope="module")
def encoder(tiny_parts, tokenizer):
    transform = ImageTransform.from_pretrained(tiny_parts / "encoder")
    return SampleEncoder(tokenizer, transform, Path(), num_image_tokens=4)


@pytest.fixture(scope="module")
def picture():
    return Image.effect_noise((20, 12), 90).convert("RGB")


@pytest.fixture
def random_model(build):
    """Random weights, whose answers hold spaces and line breaks."""
    return build().eval()


def ask(model, encoder, text, pictures=(), **sampling):
    return list(stream_answer(model, encoder, [Turn("human", text)], pictures, Sampling(**sampling)))


def test_answer_comes_in_pieces(alphabet, encoder):
    """The prompt ends with a colon; "<" may become the end mark, and waits for what follows."""
    assert ask(alphabet, encoder, "a", max_new_tokens=5) == [";", "<=", ">", "?"]


@pytest.mark.parametrize("prompt", ["What is it?", "Why?", "Say nothing at all."])
def test_pieces_are_the_whole_answer(random_model, encoder, picture, prompt):
    config = GenerationConfig(max_new_tokens=40)
    (whole,) = ask_about_picture(random_model, encoder, picture, [prompt], config)
    pieces = ask(random_model, encoder, f"<image>\n{prompt}", [picture], max_new_tokens=40)
    assert "".join(pieces) == whole


def test_several_turns_and_pictures(random_model, encoder, picture):
    turns = [Turn("human", "<image>\nWhat?"), Turn("gpt", "A dog."), Turn("human", "And <image> or <image>?")]
    sample = encoder.encode_turns(turns, [picture] * 3)
    assert len(sample.pixel_values) == 3
    assert int((sample.input_ids < 0).sum()) == 3 * 4
    assert list(stream_answer(random_model, encoder, turns, [picture] * 3, Sampling(max_new_tokens=4)))
    with pytest.raises(RecordError, match="found 3 slots and 2 pictures"):
        encoder.encode_turns(turns, [picture] * 2)


def test_who_stops_reading_stops_the_writing(alphabet, encoder, monkeypatch):
    lengths = []
    generate = alphabet.decoder.generate

    def watch(*values, **options):
        found = generate(*values, **options)
        lengths.append(found.shape[1])
        return found

    monkeypatch.setattr(alphabet.decoder, "generate", watch)
    pieces = stream_answer(alphabet, encoder, [Turn("human", "a")], (), Sampling(max_new_tokens=900))
    assert next(pieces)
    pieces.close()
    assert lengths[0] < 900


def test_errors_are_raised_where_the_answer_is_read(alphabet, encoder, monkeypatch):
    def fail(*values, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(alphabet.decoder, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(alphabet, encoder, "a")


def test_seed_makes_an_answer_again(random_model, encoder):
    options = {"max_new_tokens": 20, "temperature": 2.0, "top_p": 0.9}
    first, again, other = ("".join(ask(random_model, encoder, "Why?", seed=seed, **options)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: expected at least 1, found 0"),
        ({"temperature": -1.0}, "temperature: expected 0 or more, found -1"),
        ({"temperature": float("nan")}, "temperature: expected 0 or more, found nan"),
        ({"top_p": 0.0}, "top_p: expected more than 0 and at most 1, found 0"),
        ({"top_p": 1.1}, "top_p: expected more than 0 and at most 1, found 1.1"),
    ],
)
def test_numbers_that_mean_nothing(numbers, message):
    with pytest.raises(InputError, match=message):
        Sampling(**numbers)


def give(tokenizer, text, stop):
    """Return what comes out after each character, and at the end."""
    pieces, came = Pieces(tokenizer, stop), []
    for letter in text:
        pieces.put(torch.tensor(tokenizer.encode(letter, add_special_tokens=False)))
        while not pieces._queue.empty():
            came.append(pieces._queue.get())
    pieces.close()
    return came, list(iter(pieces))


def test_what_may_be_the_end_is_held_back(tokenizer):
    assert give(tokenizer, "ab#c##d ", "###") == (["a", "b", "#c", "##d"], [])
    assert give(tokenizer, "ab##", "###") == (["a", "b"], ["##"])
    assert give(tokenizer, "ab###cd", "###") == (["a", "b"], [])
    assert give(tokenizer, " a  b ", "</s>") == (["a", "  b"], [])


def test_writing_ends_at_the_stop_text(tokenizer):
    pieces = Pieces(tokenizer, "##")
    ids = torch.tensor([[0]])
    pieces.put(torch.tensor(tokenizer.encode("ab#", add_special_tokens=False)))
    assert pieces.is_stopped(ids, None).tolist() == [False]
    pieces.put(torch.tensor(tokenizer.encode("#", add_special_tokens=False)))
    assert pieces.is_stopped(ids, None).tolist() == [True]
