"""Guards: ids of image marks that differ from the original's, so that its weights would mean other tokens."""

import pytest

from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.special_tokens import add_image_tokens


@pytest.mark.parametrize(
    ("patch", "marks", "expected"),
    [
        (False, False, {}),
        (True, False, {"<im_patch>": 99}),
        (False, True, {"<im_start>": 99, "<im_end>": 100}),
        (True, True, {"<im_patch>": 99, "<im_start>": 100, "<im_end>": 101}),
    ],
)
def test_ids_follow_the_vocabulary_in_the_originals_order(tiny_parts, patch, marks, expected):
    tokenizer = load_tokenizer(tiny_parts / "decoder")
    known = tokenizer.get_vocab()
    assert len(known) == 99
    new = add_image_tokens(tokenizer, image_patch_token=patch, image_start_end=marks)
    assert new == list(expected.values())
    assert tokenizer.get_vocab() == known | expected


def test_known_marks_are_not_added_again(tiny_parts):
    tokenizer = load_tokenizer(tiny_parts / "decoder")
    tokenizer.add_tokens(["<im_end>"], special_tokens=True)
    assert add_image_tokens(tokenizer, image_start_end=True) == [100]
    assert tokenizer.convert_tokens_to_ids(["<im_end>", "<im_start>"]) == [99, 100]
    assert add_image_tokens(tokenizer, image_start_end=True) == []
