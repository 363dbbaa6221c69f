"""Guards: a row that is shown with another mask, other positions or other pixels than it has."""

import pytest
import torch
from PIL import Image

from llava_pl.app.data.stretches import read_row, show_pixels, token_text
from llava_pl.app.load_data import load_data
from llava_pl.data.collate import collate
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.tokenization import encode_segments, fill_slots
from llava_pl.types import Sample, Segment

SEGMENTS = [
    Segment("Q ", "prompt"),
    Segment("<image>", "image"),
    Segment("<image>", "image"),
    Segment("a: ", "prompt"),
    Segment("yes</s>", "answer"),
    Segment("b: ", "prompt"),
    Segment("n\n", "answer"),
]


@pytest.fixture(scope="module")
def tokenizer(tiny_parts):
    return load_tokenizer(tiny_parts / "decoder")


def row_of(tokenizer, change=None):
    encoded = fill_slots(encode_segments(SEGMENTS, tokenizer), 2)
    if change:
        change(encoded)
    longer = Sample(
        "longer", torch.ones(99, dtype=torch.int64), torch.ones(99, dtype=torch.int64), torch.empty(0, 3, 1, 1)
    )
    sample = Sample("a", encoded.input_ids, encoded.labels, torch.empty(2, 3, 1, 1))
    batch = collate([sample, longer], pad_token_id=0, num_image_tokens=2, padding_side="right")
    return [
        (stretch.kind, stretch.span, "".join(token.text for token in stretch.tokens))
        for stretch in read_row(batch, tokenizer, num_image_tokens=2)
    ]


def test_stretches(tokenizer):
    assert row_of(tokenizer) == [
        ("read", "0-2", "<s>Q "),
        ("image", "3-4", ""),
        ("image", "5-6", ""),
        ("read", "7-9", "a: "),
        ("learn", "10-13", "yes</s>"),
        ("read", "14-16", "b: "),
        ("learn", "17-18", "n\u21b5"),
    ]


def test_a_mask_that_is_wrong_by_one_is_seen(tokenizer):
    def shift(encoded):
        encoded.labels[9], encoded.labels[13] = encoded.input_ids[9], -100

    assert row_of(tokenizer, shift)[3:6] == [
        ("read", "7-8", "a:"),
        ("learn", "9-12", " yes"),
        ("read", "13-16", "</s>b: "),
    ]


def test_a_label_of_another_token_is_seen(tokenizer):
    def spoil(encoded):
        encoded.labels[11] = 7
        encoded.labels[5] = encoded.input_ids[10]

    row = row_of(tokenizer, spoil)
    assert row[2:4] == [("wrong", "5", ""), ("image", "6", "")]
    assert [kind for kind, _, _ in row[5:8]] == ["learn", "wrong", "learn"]


class OddTokenizer:
    """Pieces as SentencePiece and byte-level BPE name them, and what each gives when it is decoded alone."""

    names = ("\u2581Hi", "\u2581\u2581", "<0x0A>", "\u0120no", "\u00f0\u0141", "</s>")
    texts = ("Hi", " ", "\n", " no", "\ufffd", "</s>")

    def convert_ids_to_tokens(self, token):
        return self.names[token]

    def decode(self, tokens, *, skip_special_tokens):
        assert not skip_special_tokens
        return self.texts[tokens[0]]


def test_token_text_keeps_spaces_and_names_what_is_no_whole_character():
    found = [token_text(token, OddTokenizer()) for token in range(6)]
    assert found == [" Hi", "  ", "\u21b5", " no", "\u00f0\u0141", "</s>"]


def test_pixels_are_shown_in_the_colours_of_the_file(zoo):
    transform = load_data(["--config", str(zoo / "config.yaml")]).make_encoder().image_transform
    picture = Image.effect_noise((16, 16), 80).convert("RGB")
    assert show_pixels(transform(picture), transform).tobytes() == picture.tobytes()
