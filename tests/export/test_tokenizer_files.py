"""Guards: a tokenizer that another version of transformers reads as another, or not at all."""

import json
from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.export.tokenizer_files import find_tokenizer, read_sentencepiece, write_tokenizer

TEXTS = ["a</s>USER: b", "  two  spaces\n", "</s>"]


@pytest.fixture(params=[True, False], ids=["legacy", "new"])
def llama(golden_path, llava, request):
    folder = golden_path / "llama2_tokenizer"
    origin = replace(llava.origin, sentencepiece=read_sentencepiece(None, folder))
    return replace(llava, tokenizer=load_tokenizer(folder, legacy=request.param), origin=origin)


@pytest.mark.parametrize("slow", [True, False])
def test_ids_and_behaviour_come_back(llama, tmp_path, slow):
    write_tokenizer(llama, tmp_path, slow=slow)
    again = find_tokenizer(tmp_path)
    assert again.init_kwargs["legacy"] == llama.tokenizer.init_kwargs["legacy"]
    for text in TEXTS:
        assert again(text)["input_ids"] == llama.tokenizer(text)["input_ids"]
    if not slow:
        assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS[0])["input_ids"] == again(TEXTS[0])["input_ids"]


def test_settings_are_those_that_transformers_4_knows(llama, tmp_path):
    write_tokenizer(llama, tmp_path, slow=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "LlamaTokenizer"
    assert not {"backend", "extra_special_tokens"} & config.keys()
    # Else a tokenizer of no family has version 4 return token types, which `generate` refuses.
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert config["added_tokens_decoder"]["2"]["content"] == "</s>"
    assert not (tmp_path / "tokenizer.json").exists()
    assert (tmp_path / "tokenizer.model").read_bytes() == llama.origin.sentencepiece


def test_a_model_without_a_tokenizer_writes_none(llava, tmp_path):
    write_tokenizer(replace(llava, tokenizer=None), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert find_tokenizer(None, tmp_path) is None
    assert read_sentencepiece(tmp_path) is None
