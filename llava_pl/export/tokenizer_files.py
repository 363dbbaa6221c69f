"""The tokenizer of a model folder: found, and written where each program looks for it."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from llava_pl.data.json_files import read_json_object
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.export.pretrained import Pretrained

SENTENCEPIECE_FILE = "tokenizer.model"


def find_tokenizer(*places: str | Path | None, legacy: bool | None = None) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of the first place that has one: folders, or hub names.

    Args:
        *places: Where it is looked for.
        legacy: The behaviour of LLaMA's tokenizer that the model learned with; that of its folder when None.

    Raises:
        InputError: It cannot be read, or does not have that behaviour.
    """
    for place in places:
        if place is None:
            continue
        is_hub_name = not Path(place).exists()
        if is_hub_name or any((Path(place) / name).is_file() for name in (SENTENCEPIECE_FILE, "tokenizer.json")):
            return load_tokenizer(place, legacy=legacy)
    return None


def read_sentencepiece(*places: str | Path | None) -> bytes | None:
    """Return LLaMA's own tokenizer file, which the original's code reads, if a folder has it."""
    for place in places:
        if place is not None and (Path(place) / SENTENCEPIECE_FILE).is_file():
            return (Path(place) / SENTENCEPIECE_FILE).read_bytes()
    return None


def write_tokenizer(pretrained: Pretrained, folder: Path, *, slow: bool = False) -> None:
    """Write the tokenizer, if the model has one.

    Args:
        pretrained: Whose tokenizer it is.
        folder: Where its files go.
        slow: For the original's code, which asks for LLaMA's own file where there is one, not for the fast tokenizer.
    """
    tokenizer, sentencepiece = pretrained.tokenizer, pretrained.origin.sentencepiece
    if sentencepiece is not None:
        (folder / SENTENCEPIECE_FILE).write_bytes(sentencepiece)
    if tokenizer is None:
        return
    tokenizer.save_pretrained(folder)
    if slow and sentencepiece is not None:
        simplify_config(folder, tokenizer, "LlamaTokenizer")
        (folder / "tokenizer.json").unlink(missing_ok=True)
    else:
        simplify_config(folder, tokenizer, "PreTrainedTokenizerFast")


def simplify_config(folder: Path, tokenizer: PreTrainedTokenizerBase, class_name: str) -> None:
    """Write `tokenizer_config.json` so that transformers 4 reads it, too.

    It knows neither the class that version 5 names nor its list of further special tokens, and would have a tokenizer
    of no family return token types, which `generate` refuses.
    """
    path = folder / "tokenizer_config.json"
    config = {**read_json_object(path), "tokenizer_class": class_name}
    config["model_input_names"] = ["input_ids", "attention_mask"]
    config["additional_special_tokens"] = config.pop("extra_special_tokens", None) or []
    config.pop("backend", None)
    config["added_tokens_decoder"] = {
        str(index): {
            "content": token.content, "lstrip": token.lstrip, "rstrip": token.rstrip,
            "normalized": False, "single_word": token.single_word, "special": token.special,
        }
        for index, token in sorted(tokenizer.added_tokens_decoder.items())
    }  # fmt: skip
    if (legacy := tokenizer.init_kwargs.get("legacy")) is not None:
        config["legacy"] = legacy
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
