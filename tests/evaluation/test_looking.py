"""Guards maps over pictures: values at the wrong place, of the wrong word, or of something that is no picture."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tokenizers import AddedToken
from transformers import AutoTokenizer

from llava_pl.data.anyres import Tiling
from llava_pl.data.image import ImageTransform
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.evaluation import looking
from llava_pl.evaluation.looking import Looks
from llava_pl.models.projector import build_projector
from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, ImageGrid, InputError, Turn

PICTURE = Image.effect_noise((20, 12), 90).convert("RGB")
TURNS = [
    Turn("human", "<image>\nWhat?"),
    Turn("gpt", "A dog."),
    Turn("human", "<image>\nAnd now?"),
    Turn("gpt", "two cats, (B)."),
]


@pytest.fixture(scope="module")
def encoder(tiny_parts, tokenizer):
    transform = ImageTransform.from_pretrained(tiny_parts / "encoder")
    return SampleEncoder(tokenizer, transform, Path(), num_image_tokens=4)


def test_each_word_of_the_last_answer_has_a_map_of_each_picture(build, encoder):
    looks = Looks(build().eval(), encoder, TURNS, [PICTURE, PICTURE])
    assert looks.words == ("two", "cats,", "(B).")
    for word in range(3):
        first, second = looks.maps(word)
        assert first.shape == second.shape == (2, 2)
        assert 0 < float(first.sum() + second.sum()) < 1


def test_maps_hold_the_shares_of_a_words_tokens(build, encoder, monkeypatch):
    """Token q of the answer attends q to every image token of the first picture, ten times that to the second's."""
    sample = encoder.encode_turns(TURNS, [PICTURE, PICTURE])
    places = (sample.input_ids == IMAGE_TOKEN_INDEX).nonzero()[:, 0]
    begin = len(sample.labels) - len(f" {TURNS[-1].text}$")  # one token a character, then the end mark
    assert (sample.labels[begin - 2 : begin + 1] != IGNORE_INDEX).tolist() == [False, False, True]

    def read(decoder, inputs_embeds, answer):
        rows = torch.zeros(2, answer.stop - answer.start, inputs_embeds.shape[1])
        for row, token in enumerate(range(answer.start - begin, answer.stop - begin)):
            rows[:, row, places[:4]] = token + torch.arange(4) / 8
            rows[:, row, places[4:]] = 10.0 * token
        return rows

    monkeypatch.setattr(looking, "read_attention", read)
    looks = Looks(build().eval(), encoder, TURNS, [PICTURE, PICTURE])
    # One token a character: "two" is tokens 1 to 3, "cats," 5 to 9, "(B)." 11 to 14; then the end mark.
    assert looks.maps(0)[0].tolist() == [[2.0, 2.125], [2.25, 2.375]]
    assert looks.maps(1)[0].tolist() == [[7.0, 7.125], [7.25, 7.375]]
    assert looks.maps(2)[1].tolist() == [[125.0, 125.0], [125.0, 125.0]]


def test_gradient_is_there_for_connectors_without_places(build, encoder):
    model = build().eval()
    assert [each.shape for each in Looks(model, encoder, TURNS, [PICTURE] * 2).maps(1, "gradient")] == [(2, 2), (2, 2)]
    options = {"num_heads": 2, "depth": 1, "num_queries": 3}
    model.projector = build_projector("resampler", vision_width=16, decoder_width=32, options=options).eval()
    three = SampleEncoder(encoder.tokenizer, encoder.image_transform, Path(), num_image_tokens=3)
    looks = Looks(model, three, TURNS, [PICTURE, PICTURE])
    assert looks.methods == ("gradient",)
    assert [each.shape for each in looks.maps(1)] == [(2, 2), (2, 2)]
    assert min(float(each.min()) for each in looks.maps(1)) > 0
    with pytest.raises(InputError, match="Resampler have no place in the picture that attention could be drawn"):
        looks.maps(0, "attention")


def test_class_token_has_no_place(tiny_parts, tokenizer, build):
    model = build().eval()
    model.vision_encoder.select_feature = "cls_patch"
    transform = ImageTransform.from_pretrained(tiny_parts / "encoder")
    encoder = SampleEncoder(tokenizer, transform, Path(), num_image_tokens=5)
    for method in ("attention", "gradient"):
        assert Looks(model, encoder, TURNS[:2], [PICTURE]).maps(0, method)[0].shape == (2, 2)


@pytest.mark.parametrize("method", ["attention", "gradient"])
def test_tiles_make_one_map(build, encoder, method):
    model = build(has_newline=True).eval()
    tiling = Tiling(16, 4, [(32, 16), (16, 32)])
    tiled = SampleEncoder(encoder.tokenizer, encoder.image_transform, Path(), 4, tiling=tiling)
    tall = Image.effect_noise((10, 20), 90).convert("RGB")
    found = Looks(model, tiled, TURNS, [PICTURE, tall]).maps(0, method)
    assert [each.shape for each in found] == [(2, 4), (4, 2)]


def test_tiles_and_the_whole_add_up():
    """Two tiles of 2 x 2 beside each other; the whole picture's four values are spread over eight places."""
    whole, tiles = torch.tensor([4.0, 8, 4, 8]), torch.tensor([1.0, 2, 3, 4, 99, 5, 6, 7, 8, 99])
    (found,) = looking._place(torch.cat([whole, tiles]), 1, [ImageGrid(1, 2, 2, 4)])
    assert found.tolist() == [[3.0, 4.0, 7.0, 8.0], [7.0, 8.0, 11.0, 12.0]]
    assert float(found.sum()) == 24 + 36


@pytest.mark.parametrize(("height", "width"), [(1, 12), (7, 3), (5, 5), (4, 8)])
def test_no_share_is_lost_in_elongated_pictures(height, width):
    """Each of the 16 places of the whole picture in turn holds all of it."""
    for place in range(16):
        values = torch.zeros(16 + height * (width + 1))
        values[place] = 1
        (found,) = looking._place(values, 1, [ImageGrid(1, 1, height, width)])
        torch.testing.assert_close(found.sum(), torch.tensor(1.0))


def test_a_word_that_is_not_there(build, encoder):
    looks = Looks(build().eval(), encoder, TURNS, [PICTURE, PICTURE])
    for word in (-1, 3):
        with pytest.raises(InputError, match=rf"expected a word of the 3 of the answer, found {word}"):
            looks.maps(word)


def test_influence_of_tiles_is_brought_to_their_tokens():
    """With a connector that makes one token of four patches."""
    influence = torch.arange(2 * 16.0).view(2, 16)
    found = looking._merge(influence, 4, [ImageGrid(1, 1, 2, 2)])
    assert found.tolist() == [2.5, 4.5, 10.5, 12.5, 18.5, 20.5, 0, 26.5, 28.5, 0]


class Tokenizer:
    """Bytes, but for one token of two words, and an end mark."""

    def __init__(self):
        self.num_decoded = 0

    def decode(self, ids, *, skip_special_tokens):
        self.num_decoded += len(ids)
        texts = {300: b" is a", 301: b"" if skip_special_tokens else b"</s>"}
        return b"".join(texts.get(each) or bytes([each] * (each < 256)) for each in ids).decode(errors="replace")


def test_marks_that_a_tokenizer_skips_are_no_words(tiny_parts):
    """Also those that are among its added tokens alone, as chat models have them."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_parts / "decoder")
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True)])
    mark = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert mark not in tokenizer.all_special_ids
    ids = [*tokenizer.encode("ab", add_special_tokens=False), mark]
    assert [word for word, _ in looking._split_words(ids, tokenizer)] == ["ab"]


def test_words_of_several_tokens_and_tokens_of_several_words():
    ids = [*b" It", 300, *b" caf\xc3\xa9.", 301]
    words = [("It", slice(1, 3)), ("is a", slice(3, 4)), ("caf\u00e9.", slice(5, 11))]
    assert looking._split_words(ids, Tokenizer()) == words


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (b"x" * 2000, 1),
        ((301,) * 2000, 0),
        ("\ufffd".encode() * 700, 1),
        (b" " * 2000, 0),
        (b"two " * 500, looking.MAX_WORDS),
    ],
)
def test_long_answers_are_read_once(answer, count):
    """Whatever is said, no token is decoded as often as the answer is long."""
    tokenizer = Tokenizer()
    assert len(looking._split_words([*answer], tokenizer)) == count
    assert tokenizer.num_decoded < 40 * len(answer)


def test_a_conversation_is_no_longer_than_the_decoder_takes(build, encoder, monkeypatch):
    model = build().eval()
    monkeypatch.setattr(model.decoder.model.config, "max_seq_len", 20, raising=False)
    with pytest.raises(InputError, match=r"takes at most 20 positions, found \d+; begin a new conversation"):
        Looks(model, encoder, TURNS, [PICTURE, PICTURE])


@pytest.mark.parametrize(("turns", "pictures"), [([], [PICTURE]), (TURNS[:1], [PICTURE]), (TURNS[:2], [])])
def test_without_picture_or_answer_there_is_nothing_to_see(build, encoder, turns, pictures):
    with pytest.raises(InputError, match="expected a picture and an answer, found none"):
        Looks(build().eval(), encoder, turns, pictures)


def test_the_pages_own_lines(build, encoder, tmp_path, monkeypatch):
    """`docs/serving.md`, with a model, a conversation and a picture."""
    page = Path(__file__).parents[2] / "docs" / "serving.md"
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL) if "Looks" in code]
    monkeypatch.chdir(tmp_path)
    llava = SimpleNamespace(model=build().eval(), make_encoder=lambda: encoder)
    exec(compile(code, page.name, "exec"), {"llava": llava, "turns": TURNS[:2], "picture": PICTURE})
    assert [path.name for path in tmp_path.iterdir()] == ["A.png"]
