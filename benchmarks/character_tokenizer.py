"""A tokenizer whose words are characters, for models whose texts do not matter."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["<unk>", "<s>", "</s>", *map(chr, range(32, 127)), "\n"]


def make_tokenizer(*more: str) -> PreTrainedTokenizerFast:
    """Return it, with more words behind its own."""
    words = {word: place for place, word in enumerate([*WORDS, *more])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)
