"""A folder or hub id comes in; the tokenizer that `data/tokenization.py`, evaluation and export use goes out.

transformers 5 rebuilds LLaMA's tokenizer from `tokenizer.model` with merges ranked by id, not by score, so runs of
spaces and text after special tokens get other ids than the checkpoints were trained with. Here it is built from the
SentencePiece model itself and has the ids of the slow `LlamaTokenizer` of transformers 4.37, for both values of
`legacy` (`_` stands for the space mark):

| | `legacy=True` (default in 4.x) | `legacy=False` (Vicuna 1.5) |
| --- | --- | --- |
| dummy prefix | before each stretch of text between special tokens | at the start of the text only |
| `a</s>USER` | `_a </s> _US ER` | `_a </s> US ER` |

What `save_pretrained` writes is an ordinary `tokenizer.json` folder, which `AutoTokenizer` loads with the same ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from llava_pl.data.json_files import read_json_object
from llava_pl.types import InputError

SPACE_MARK = "\u2581"
"""What SentencePiece writes for a space."""

LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")

NAMED_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
"""Special tokens with a role and their defaults, in the order in which 4.37 appends what the vocabulary lacks."""

PROBE = "The quick  brown   fox's 1234\n\t{x} == <0x41> caf\u00e9 \u4f60\u597d \U0001f9f6 "
"""Text on which a vocabulary that is not LLaMA's kind gets other ids than SentencePiece gives."""


def load_tokenizer(path: str | Path, *, legacy: bool | None = None) -> PreTrainedTokenizerFast:
    """Return the fast tokenizer of a folder or hub id, with exact ids and a pad token.

    A LLaMA `tokenizer.model` is preferred to a `tokenizer.json` beside it, which any version of the converter may have
    written. Every other `tokenizer.json` is taken as it is. `init_kwargs["legacy"]` of the result tells which LLaMA
    behaviour it has; it is stored in `tokenizer_config.json`.

    Offsets refer to the original text. The dummy prefix has no character of its own: its span is that of the character
    after it. With special tokens skipped, decoded text is the slow tokenizer's, but in a run of byte tokens that is no
    valid UTF-8 every byte is replaced, not only the invalid ones. Special tokens that are kept are written without the
    spaces that 4.37 put around some of them.

    Add tokens with `special_tokens=True`: under `legacy=True` any other added token is found only where a stretch of
    text begins, because the fast tokenizer looks for it after the dummy prefix was put before both.

    Args:
        path: Folder with `tokenizer.model` or `tokenizer.json`, or the hub id of a model.
        legacy: The LLaMA behaviour; None takes the `legacy` of `tokenizer_config.json`, or True without one.

    Raises:
        InputError: There is no tokenizer, it cannot be read, or `legacy` is given but cannot be chosen.
    """
    model_path = _find_file(path, "tokenizer.model")
    json_path = _find_file(path, "tokenizer.json")
    if model_path is None and json_path is None:
        found = "a folder without them" if Path(path).is_dir() else "no such folder and no such model in the hub cache"
        raise InputError(
            f"no tokenizer at {path}: expected tokenizer.model or tokenizer.json, found {found}; "
            "give the folder of a model, or download it first"
        )
    config = _read_json(path, "tokenizer_config.json")
    class_name, stored_legacy = config.get("tokenizer_class"), config.get("legacy")
    if model_path is not None and (class_name in LLAMA_CLASSES or (class_name is None and json_path is None)):
        if legacy is None:
            legacy = stored_legacy is not False
        return _llama_tokenizer(path, model_path, config, legacy)
    if legacy is not None and legacy != stored_legacy:
        raise InputError(
            f"legacy={legacy} cannot be chosen for the tokenizer at {path}: expected the tokenizer.model of LLaMA, "
            f"found {class_name or 'an unnamed class'} with legacy={stored_legacy}; leave legacy out"
        )
    return _ready_tokenizer(path, takes_json=json_path is not None and class_name is not None)


def _llama_tokenizer(
    path: str | Path, model_path: Path, config: dict[str, Any], legacy: bool
) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a SentencePiece BPE model and the settings of its folder."""
    try:
        pieces = SentencePieceProcessor(model_file=str(model_path))
    except RuntimeError as error:
        raise InputError(
            f"cannot read {model_path}: expected a SentencePiece model, found {model_path.stat().st_size} bytes that "
            f"are none ({error}); download the file again (a Git LFS pointer is a small text file)"
        ) from error
    if "added_tokens_decoder" not in config:
        # As in 4.37: these files count only in folders that were saved before that key existed.
        config = {**config, **_read_json(path, "special_tokens_map.json")}
    backend = _sentencepiece_backend(pieces, legacy)
    named = {
        name: _added_token(value)
        for name, default in NAMED_TOKENS.items()
        if (value := config.get(name) or default) is not None
    }
    extra = [_added_token(value) for value in config.get("additional_special_tokens") or []]
    special = [*named.values(), *extra]
    added = _added_tokens(path, config, {token.content for token in special})
    for token_id, token in sorted(added.items()):
        backend.add_tokens([token])
        if (possible_id := backend.token_to_id(token.content)) != token_id:
            raise InputError(
                f"wrong id of added token {token.content!r} in {path}: expected {possible_id} (that of its piece, or "
                f"the next one free), found {token_id}; correct added_tokens_decoder or added_tokens.json"
            )
    known = {token.content for token in added.values()}
    backend.add_special_tokens([token for token in special if token.content not in known])

    template_path = _find_file(path, "chat_template.jinja")
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        # LLaVA pads with unk, which LLaMA has in place of a pad token.
        **{"pad_token": named["unk_token"], **named},
        extra_special_tokens=extra,
        add_bos_token=config.get("add_bos_token", True),
        add_eos_token=config.get("add_eos_token", False),
        model_max_length=config.get("model_max_length"),
        padding_side="right",
        clean_up_tokenization_spaces=False,
        chat_template=template_path.read_text(encoding="utf-8") if template_path else config.get("chat_template"),
        legacy=legacy,
    )
    if tokenizer(PROBE, add_special_tokens=False)["input_ids"] != pieces.encode(PROBE):
        raise InputError(
            f"{model_path} is not a tokenizer of LLaMA's kind: expected SentencePiece BPE with byte fallback, a dummy "
            "prefix and no normalization, found other ids for a test text; convert it to tokenizer.json"
        )
    return tokenizer


def _sentencepiece_backend(pieces: SentencePieceProcessor, legacy: bool) -> Tokenizer:
    """Return the `tokenizers` counterpart of a SentencePiece BPE model, without special tokens."""
    vocabulary = {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())}
    # Control, unknown and byte pieces are never the result of a merge, even where a text spells them out.
    scores = {
        piece: pieces.get_score(index)
        for piece, index in vocabulary.items()
        if not (pieces.is_control(index) or pieces.is_unknown(index) or pieces.is_byte(index))
    }
    # The runs of spaces share one score. SentencePiece breaks the tie from the left, so that the first run grows as
    # long as a piece exists; longer results first does the same here, where the place in this list decides.
    by_rank = sorted(scores, key=lambda piece: (-scores[piece], -len(piece), vocabulary[piece]))
    merges = [
        (piece[:cut], piece[cut:])
        for piece in by_rank
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    unknown_piece = pieces.id_to_piece(pieces.unk_id())
    backend = Tokenizer(BPE(vocabulary, merges, unk_token=unknown_piece, fuse_unk=True, byte_fallback=True))
    mark_spaces = normalizers.Replace(" ", SPACE_MARK)
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE_MARK), mark_spaces])
    else:
        backend.normalizer = mark_spaces
        # Metaspace adds no prefix to text that begins with its replacement. After the normalizer no text begins with a
        # space, so the first step adds one to any text at offset 0 and the second one marks it.
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False),
                pre_tokenizers.Metaspace(replacement=SPACE_MARK, prepend_scheme="never", split=False),
            ]
        )
    backend.decoder = decoders.Sequence(
        [
            # Before ByteFallback, which gives up a newline together with invalid bytes beside it.
            decoders.Replace("<0x0A>", "\n"),
            decoders.Replace(SPACE_MARK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            # The slow tokenizer drops one leading space; under legacy SentencePiece then drops another one.
            decoders.Strip(content=" ", left=2 if legacy else 1, right=0),
        ]
    )
    return backend


def _added_token(entry: str | dict[str, Any]) -> AddedToken:
    """Return the token that a configuration entry describes, special unless it says otherwise."""
    if isinstance(entry, str):
        return AddedToken(entry, normalized=False, special=True)
    flags = {name: bool(entry.get(name)) for name in ("single_word", "lstrip", "rstrip")}
    # Never normalized: the slow tokenizer looks for added tokens in the raw text, whatever the entry says.
    return AddedToken(entry["content"], normalized=False, special=entry.get("special", True), **flags)


def _added_tokens(path: str | Path, config: dict[str, Any], special: set[str]) -> dict[int, AddedToken]:
    """Return the tokens that the folder gives an id."""
    if "added_tokens_decoder" in config:
        return {int(index): _added_token(entry) for index, entry in config["added_tokens_decoder"].items()}
    ids = _read_json(path, "added_tokens.json")
    return {index: _added_token({"content": text, "special": text in special}) for text, index in ids.items()}


def _ready_tokenizer(path: str | Path, *, takes_json: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer as it is stored, with a pad token."""
    # The classes of transformers 5 rebuild parts of tokenizer.json (GPT2Tokenizer its pre-tokenizer); their base class
    # takes the file as it is, which is what 4.x did. AutoTokenizer is for folders that leave the special tokens to it.
    loader = PreTrainedTokenizerFast if takes_json else AutoTokenizer
    try:
        tokenizer = loader.from_pretrained(path)
    except Exception as error:  # tokenizers raises plain Exception for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"cannot load the tokenizer at {path}: expected files that {loader.__name__} reads, found: {reason}; "
            "save or download the folder again"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(
            f"the tokenizer at {path} is too slow to use: expected a fast one with offsets, found "
            f"{type(tokenizer).__name__}; convert it to tokenizer.json"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise InputError(
            f"the tokenizer at {path} cannot pad: expected pad_token, unk_token or eos_token in tokenizer_config.json, "
            "found none of them; add one"
        )
    return tokenizer


def _find_file(path: str | Path, name: str) -> Path | None:
    """Return one file of a folder or hub model, None if there is none (or none in the cache when offline)."""
    if Path(path).is_dir():
        file_path = Path(path) / name
        return file_path if file_path.is_file() else None
    try:
        found = cached_file(str(path), name, _raise_exceptions_for_missing_entries=False)
    except OSError:  # neither a hub id nor reachable
        return None
    return None if found is None else Path(found)


def _read_json(path: str | Path, name: str) -> dict[str, Any]:
    """Return the object in one file of a folder or hub model, empty if there is no such file."""
    file_path = _find_file(path, name)
    return {} if file_path is None else read_json_object(file_path)
