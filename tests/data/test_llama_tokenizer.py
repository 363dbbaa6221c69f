"""Guards against ids other than those that LLaMA checkpoints were trained with.

transformers 5 builds another tokenizer from the same `tokenizer.model`; a model fed with it is a little worse and
nothing fails. The literal ids below were printed by the slow `LlamaTokenizer` of transformers 4.37.2.
"""

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.types import InputError

MARKS = ["<im_start>", "<im_end>"]

# text, ids with legacy=True, ids with legacy=False; all without bos
IDS = [
    ("", [], []),
    ("hi", [7251], [7251]),
    (" hi", [29871, 7251], [29871, 7251]),
    ("  hi", [259, 7251], [259, 7251]),
    ("a  b", [263, 29871, 289], [263, 29871, 289]),  # transformers 5: 263, 259, 29890
    ("a   b", [263, 259, 289], [263, 259, 289]),
    ("a                       b", [263, 462, 539, 289], [263, 462, 539, 289]),
    (" " * 40, [462, 462, 3986], [462, 462, 3986]),
    ("\n", [29871, 13], [29871, 13]),
    ("a\n\nb", [263, 13, 13, 29890], [263, 13, 13, 29890]),
    ("\ta", [29871, 12, 29874], [29871, 12, 29874]),
    ("a\x00b", [263, 3, 29890], [263, 3, 29890]),
    ("</s>hi", [2, 7251], [2, 2918]),
    ("</s> hi", [2, 29871, 7251], [2, 7251]),
    ("a</s>USER: b", [263, 2, 3148, 1001, 29901, 289], [263, 2, 11889, 29901, 289]),
    (" </s>hi", [259, 2, 7251], [259, 2, 2918]),
    ("<s>hi", [1, 7251], [1, 2918]),
    ("a<s>  b", [263, 1, 259, 289], [263, 1, 29871, 289]),
    ("</s></s>", [2, 2], [2, 2]),
    ("<unk>x", [0, 921], [0, 29916]),
    ("caf\xe9", [274, 28059], [274, 28059]),
    ("\u4f60\u597d", [29871, 30919, 31076], [29871, 30919, 31076]),
    ("\U0001f9f6 x", [29871, 243, 162, 170, 185, 921], [29871, 243, 162, 170, 185, 921]),
    ("\u2581", [259], [259]),
    ("\u2581a", [29871, 263], [29871, 263]),
    ("a\u2581b", [263, 289], [263, 289]),
    ("<0x41>", [529, 29900, 29916, 29946, 29896, 29958], [529, 29900, 29916, 29946, 29896, 29958]),
]

MARKED_IDS = ("<im_start>a<im_end>\nb", [32000, 263, 32001, 29871, 13, 29890], [32000, 29874, 32001, 13, 29890])
"""The same, with the marks added as ids 32000 and 32001."""

# ids, text with legacy=True, text with legacy=False; special tokens skipped
TEXTS = [
    ([1, 7251, 727, 2], "hi there", "hi there"),
    ([259, 1023, 29871, 8162], " two  spaces", "  two  spaces"),
    ([1196, 13, 13, 1220], "line\n\nline", "line\n\nline"),
    ([29871, 243, 162, 170, 185, 29871, 30919, 31076], "\U0001f9f6 \u4f60\u597d", "\U0001f9f6 \u4f60\u597d"),
    ([263, 2, 3148, 1001], "a USER", "a USER"),
    ([13, 243, 162], "\n\ufffd\ufffd", "\n\ufffd\ufffd"),  # an emoji cut off by a token limit
]


@pytest.fixture(scope="module")
def llama_path(golden_path: Path) -> Path:
    return golden_path / "llama2_tokenizer"


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "not_legacy"])
def legacy(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(llama_path: Path, legacy: bool) -> PreTrainedTokenizerFast:
    """LLaMA-2's tokenizer; tests leave it as it is."""
    return load_tokenizer(llama_path, legacy=legacy)


@pytest.fixture(scope="module")
def sentencepiece(llama_path: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(llama_path / "tokenizer.model"))


def reference_ids(sentencepiece: SentencePieceProcessor, text: str, legacy: bool) -> list[int]:
    """What the slow tokenizer of 4.37 does: split at special tokens and encode each stretch between them."""
    ids = [1]
    for index, stretch in enumerate(re.split("(<unk>|<s>|</s>)", text)):
        if stretch in ("<unk>", "<s>", "</s>"):
            ids.append(sentencepiece.piece_to_id(stretch))
        elif stretch and (legacy or index == 0):
            ids += sentencepiece.encode(stretch)
        elif stretch:
            # SentencePiece always adds its prefix; no piece holds a newline, so nothing merges across this one.
            ids += sentencepiece.encode("\n" + stretch)[2:]
    return ids


def llama_folder(folder: Path, llama_path: Path, **config: object) -> Path:
    """A folder with LLaMA-2's tokenizer.model and other settings; None removes one."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(llama_path / "tokenizer.model", folder / "tokenizer.model")
    stored = json.loads((llama_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    merged = {key: value for key, value in (stored | config).items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(merged), encoding="utf-8")
    return folder


def trained_sentencepiece(**options: object) -> bytes:
    """A tiny SentencePiece model with LLaMA's settings, unless told otherwise."""
    model = io.BytesIO()
    settings_of_llama = {
        "model_type": "bpe",
        "vocab_size": 600,
        "byte_fallback": True,
        "character_coverage": 1.0,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    SentencePieceTrainer.train(
        sentence_iterator=iter(Path(__file__).read_text(encoding="utf-8").splitlines()),
        model_writer=model,
        **(settings_of_llama | options),
    )
    return model.getvalue()


def trained_bpe(folder: Path, **special_tokens: str) -> Path:
    """A folder with a tiny byte-level BPE, as Qwen's and SmolLM2's are; digits are split one by one."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(special_tokens.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["a red circle", "a blue square"] * 5, trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, **special_tokens).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("text", "ids_legacy", "ids_not_legacy"), IDS)
def test_ids_are_those_of_the_slow_tokenizer(
    tokenizer: PreTrainedTokenizerFast, legacy: bool, text: str, ids_legacy: list[int], ids_not_legacy: list[int]
) -> None:
    expected = ids_legacy if legacy else ids_not_legacy
    assert tokenizer(text).input_ids == [1, *expected]
    assert tokenizer(text, add_special_tokens=False).input_ids == expected


@settings(max_examples=400, deadline=None)
@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from(["</s>", "<s>", "<unk>", " ", "  ", "   ", "\n", "USER: ", " ASSISTANT:", "a", "the dog"]),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=12),
        ),
        max_size=10,
    )
)
def test_ids_equal_sentencepiece_between_special_tokens(
    tokenizer: PreTrainedTokenizerFast, sentencepiece: SentencePieceProcessor, legacy: bool, parts: list[str]
) -> None:
    text = "".join(parts)
    assert tokenizer(text).input_ids == reference_ids(sentencepiece, text, legacy)


def test_runs_of_spaces_of_any_length(
    tokenizer: PreTrainedTokenizerFast, sentencepiece: SentencePieceProcessor, legacy: bool
) -> None:
    texts = [f"{left}{' ' * count}{right}" for count in range(1, 80) for left in ("", "a", "\n") for right in ("", "b")]
    assert [tokenizer(text).input_ids for text in texts] == [
        reference_ids(sentencepiece, text, legacy) for text in texts
    ]


def test_offsets_refer_to_the_original_text(tokenizer: PreTrainedTokenizerFast, legacy: bool) -> None:
    text = " a</s>USER: \U0001f9f6b\n\u4f60"
    encoding = tokenizer(text, return_offsets_mapping=True)
    assert len(encoding.input_ids) == len(encoding.offset_mapping)
    spans = [text[start:end] for start, end in encoding.offset_mapping]
    user = ["US", "ER"] if legacy else ["USER"]
    # The dummy prefix shares the character after it: the first space, and the U of USER under legacy.
    emoji = [" ", *["\U0001f9f6"] * 4]
    assert spans == ["", " ", " a", "</s>", *user, ":", *emoji, "b", "\n", "\u4f60"]
    assert encoding.offset_mapping[0] == (0, 0)
    assert encoding.offset_mapping[3] == (2, 6)


@pytest.mark.parametrize(("ids", "text_legacy", "text_not_legacy"), TEXTS)
def test_decoded_text_is_that_of_the_slow_tokenizer(
    tokenizer: PreTrainedTokenizerFast, legacy: bool, ids: list[int], text_legacy: str, text_not_legacy: str
) -> None:
    assert tokenizer.decode(ids, skip_special_tokens=True) == (text_legacy if legacy else text_not_legacy)


def test_settings_come_from_the_folder(llama_path: Path) -> None:
    tokenizer = load_tokenizer(llama_path)
    assert tokenizer.is_fast
    assert len(tokenizer) == 32000
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    assert tokenizer.pad_token_id == 0  # LLaVA pads with unk
    assert tokenizer.padding_side == "right"
    assert tokenizer.model_max_length == 2048
    assert tokenizer.chat_template is None


@pytest.mark.parametrize(
    ("stored", "given", "expected"), [(None, None, True), (False, None, False), (False, True, True)]
)
def test_legacy_is_the_argument_else_the_stored_value_else_true(
    llama_path: Path, tmp_path: Path, stored: bool | None, given: bool | None, expected: bool
) -> None:
    tokenizer = load_tokenizer(llama_folder(tmp_path, llama_path, legacy=stored), legacy=given)
    assert tokenizer.init_kwargs["legacy"] is expected
    assert tokenizer("</s>hi").input_ids == [1, 2, 7251 if expected else 2918]


def test_bos_and_eos_follow_the_config(llama_path: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(llama_folder(tmp_path, llama_path, add_bos_token=False, add_eos_token=True))
    assert tokenizer("hi").input_ids == [7251, 2]


@pytest.mark.parametrize("form", ["decoder", "files"])
def test_added_tokens_keep_their_ids(llama_path: Path, tmp_path: Path, form: str, legacy: bool) -> None:
    text, *expected = MARKED_IDS
    added: dict[str, object] = {}
    if form == "decoder":
        # "normalized" as some Vicuna folders have it; the slow tokenizer pays no heed to it.
        added["added_tokens_decoder"] = {
            str(32000 + index): {"content": mark, "normalized": True, "special": True}
            for index, mark in reversed(list(enumerate(MARKS)))
        }
        added["pad_token"] = {"content": "<pad>", "lstrip": False}
    folder = llama_folder(tmp_path, llama_path, **added)
    if form == "files":
        special = {"additional_special_tokens": MARKS, "pad_token": "<pad>"}
        (folder / "added_tokens.json").write_text(json.dumps({"<im_end>": 32001, "<im_start>": 32000}))
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
    tokenizer = load_tokenizer(folder, legacy=legacy)
    assert tokenizer(text).input_ids == [1, *expected[not legacy]]
    assert tokenizer.pad_token_id == 32002
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == ("a \nb" if legacy else "a\nb")


@pytest.mark.parametrize("reload", [load_tokenizer, AutoTokenizer.from_pretrained])
@pytest.mark.parametrize("model_type", [None, "llama", "llava"])
def test_saved_folder_gives_the_same_ids(
    llama_path: Path, tmp_path: Path, legacy: bool, reload: object, model_type: str | None
) -> None:
    saved = load_tokenizer(llama_path, legacy=legacy)
    saved.chat_template = "{{ messages }}"
    assert saved.add_tokens(MARKS, special_tokens=True) == 2
    saved.save_pretrained(tmp_path)
    if model_type is not None:
        # What tempts transformers to build the tokenizer anew.
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        shutil.copyfile(llama_path / "tokenizer.model", tmp_path / "tokenizer.model")
    loaded = reload(tmp_path)  # type: ignore[operator]
    for text, *expected in [*IDS, MARKED_IDS]:
        encoding = loaded(text, return_offsets_mapping=True)
        assert encoding.input_ids == [1, *expected[not legacy]]
        assert encoding.offset_mapping == saved(text, return_offsets_mapping=True).offset_mapping
    for ids, *texts in TEXTS:
        assert loaded.decode(ids, skip_special_tokens=True) == texts[not legacy]
    assert loaded.init_kwargs["legacy"] is legacy
    assert loaded.chat_template == "{{ messages }}"
    assert (loaded.pad_token_id, loaded.padding_side, loaded.model_max_length) == (0, "right", 2048)
    assert loaded.add_tokens(["<new>"], special_tokens=True) == 1
    assert loaded("<new>").input_ids == [1, 32002]


def test_tokenizer_model_is_preferred_to_tokenizer_json(llama_path: Path, tmp_path: Path) -> None:
    load_tokenizer(llama_path, legacy=True).save_pretrained(tmp_path)
    llama_folder(tmp_path, llama_path, legacy=False)
    assert load_tokenizer(tmp_path)("</s>hi").input_ids == [1, 2, 2918]


def test_tokenizer_json_of_a_llama_class_is_not_rebuilt(llama_path: Path, tmp_path: Path) -> None:
    load_tokenizer(llama_path, legacy=True).save_pretrained(tmp_path)
    config_path = tmp_path / "tokenizer_config.json"
    config_path.write_text(config_path.read_text().replace("TokenizersBackend", "LlamaTokenizer"))
    assert load_tokenizer(tmp_path)("</s>hi a  b").input_ids == [1, 2, 7251, 263, 29871, 289]


def test_chat_template_file_is_kept(llama_path: Path, tmp_path: Path) -> None:
    folder = llama_folder(tmp_path, llama_path, chat_template="from the config")
    assert load_tokenizer(folder).chat_template == "from the config"
    (folder / "chat_template.jinja").write_text("from the file")
    assert load_tokenizer(folder).chat_template == "from the file"


def test_folder_with_nothing_but_a_model_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained_sentencepiece())
    tokenizer = load_tokenizer(tmp_path)
    processor = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in ("a red  circle", " how many shapes \n are there? \U0001f9f6 the quick"):
        assert tokenizer(text).input_ids == [1, *processor.encode(text)]


def test_other_tokenizers_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = trained_bpe(tmp_path, eos_token="<|end|>", unk_token="<|unk|>")
    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config_path = folder / "tokenizer_config.json"
    # transformers 5 replaces the pre-tokenizer of this class by its own, which does not split digits.
    config_path.write_text(config_path.read_text().replace("TokenizersBackend", "GPT2Tokenizer"))
    tokenizer = load_tokenizer(folder)
    assert tokenizer("a red 1234  circle").input_ids == stored.encode("a red 1234  circle").ids
    assert str(tokenizer.backend_tokenizer.pre_tokenizer) == str(stored.pre_tokenizer)
    assert tokenizer.pad_token == "<|unk|>"


def test_pad_is_eos_without_unk(tmp_path: Path) -> None:
    assert load_tokenizer(trained_bpe(tmp_path, eos_token="<|end|>")).pad_token == "<|end|>"


def test_own_pad_token_is_kept(tmp_path: Path) -> None:
    assert load_tokenizer(trained_bpe(tmp_path, eos_token="<|end|>", pad_token="<|pad|>")).pad_token == "<|pad|>"


def test_class_can_be_left_to_transformers(tmp_path: Path) -> None:
    folder = trained_bpe(tmp_path, eos_token="<|end|>")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    assert load_tokenizer(folder).eos_token_id == 0


def error_line(path: str | Path, **options: bool) -> str:
    with pytest.raises(InputError) as caught:
        load_tokenizer(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert "expected" in message
    assert "found" in message
    return message


@pytest.mark.parametrize("path", ["/no/such/folder", "nobody/no-such-model", "not a hub id/at all"])
def test_error_for_a_missing_path(path: str) -> None:
    assert "no such folder and no such model" in error_line(path)


def test_error_for_a_folder_without_tokenizer(tmp_path: Path) -> None:
    assert "tokenizer.model or tokenizer.json" in error_line(tmp_path)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 499723\n"])
def test_error_for_a_damaged_model_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    assert f"{len(content)} bytes" in error_line(tmp_path)


@pytest.mark.parametrize("options", [{"model_type": "unigram"}, {"add_dummy_prefix": False}])
def test_error_for_a_model_of_another_kind(tmp_path: Path, options: dict[str, object]) -> None:
    (tmp_path / "tokenizer.model").write_bytes(trained_sentencepiece(**options))
    assert "not a tokenizer of LLaMA's kind" in error_line(tmp_path)


@pytest.mark.parametrize(("token_id", "content"), [(32005, "<im_start>"), (7, "</s>")])
def test_error_for_an_added_token_with_an_impossible_id(
    llama_path: Path, tmp_path: Path, token_id: int, content: str
) -> None:
    folder = llama_folder(tmp_path, llama_path, added_tokens_decoder={token_id: {"content": content}})
    assert f"found {token_id};" in error_line(folder)


@pytest.mark.parametrize("content", ["[]", "{", ""])
def test_error_for_a_damaged_config(llama_path: Path, tmp_path: Path, content: str) -> None:
    folder = llama_folder(tmp_path, llama_path)
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer_config\.json: (expected a JSON object|invalid JSON at line 1)"):
        load_tokenizer(folder)


def test_error_for_a_damaged_tokenizer_json(tmp_path: Path) -> None:
    folder = trained_bpe(tmp_path, eos_token="<|end|>")
    (folder / "tokenizer.json").write_text('{"model": {}}')
    assert "cannot load the tokenizer" in error_line(folder)


def test_error_without_anything_to_pad_with(tmp_path: Path) -> None:
    assert "cannot pad" in error_line(trained_bpe(tmp_path))


def test_error_for_legacy_where_it_cannot_be_chosen(llama_path: Path, tmp_path: Path) -> None:
    assert "leave legacy out" in error_line(trained_bpe(tmp_path / "bpe", eos_token="<|end|>"), legacy=True)
    load_tokenizer(llama_path, legacy=False).save_pretrained(tmp_path / "llama")
    assert "leave legacy out" in error_line(tmp_path / "llama", legacy=True)
    assert load_tokenizer(tmp_path / "llama", legacy=False).init_kwargs["legacy"] is False
