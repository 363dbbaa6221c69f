"""Guards: a character of a template changes, and with it every prompt that a published checkpoint was trained with."""

from hashlib import sha256
from typing import get_args

import pytest

from llava_pl.data.templates import TEMPLATES, TemplateName


def test_names():
    assert set(get_args(TemplateName)) == {*TEMPLATES, "chat"}


@pytest.mark.parametrize(
    ("name", "stop"),
    [("vicuna_v1", "</s>"), ("plain", "\n"), ("llama_2", "</s>"), ("v0", "###"), ("v1_mmtag", "</s>"),
     ("mpt", "<|im_end|>")],
)  # fmt: skip
def test_what_ends_an_answer(name, stop):
    assert TEMPLATES[name].stop == stop


# Of the texts that the original's conversation.py holds for v1, llava_llama_2, v0, v1_mmtag and mpt.
SYSTEM_HASHES = {
    "vicuna_v1": "1fa69e2371b762d1",
    "llama_2": "790f4cfc05523b0e",
    "v0": "ace78a978005f68a",
    "v1_mmtag": "563c2a621b1102ed",
    "mpt": "c20002e5cc3abfc8",
}


@pytest.mark.parametrize("name", SYSTEM_HASHES)
def test_system_texts_are_those_of_the_original(name):
    template = TEMPLATES[name]
    text = (
        template.first_human[0].split("<<SYS>>\n")[1].split("\n<</SYS>>")[0] if name == "llama_2" else template.preamble
    )
    text = text.removesuffix("<|im_end|>").rstrip()
    assert sha256(text.encode()).hexdigest()[:16] == SYSTEM_HASHES[name]
