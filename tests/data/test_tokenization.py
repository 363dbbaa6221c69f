r"""Guards the labels: a supervised question, an unsupervised end mark or a shifted id train a worse model silently.

With one token per character, ids and labels are lines of text that can be compared by eye: `@` is an image token, `^`
the BOS, `$` the EOS, and `.` under a character says that its token is not supervised.
"""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from llava_pl.data.conversation import render_conversation
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.tokenization import encode_conversation, encode_segments
from llava_pl.types import InputError, RecordError, Segment, Turn

IGNORED = -100
IMAGE = -200
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PREAMBLE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)


def turns(*texts: str) -> list[Turn]:
    return [Turn(("human", "gpt")[index % 2], text) for index, text in enumerate(texts)]


def as_ids(line: str) -> list[int]:
    """The ids of the one-character tokenizer: `@` an image token, `^` the BOS, `$` the EOS, `|` the line break."""
    special = {"@": IMAGE, "^": 1, "$": 2, "|": 98}
    return [special.get(character, ord(character) - 29) for character in line]


def as_labels(line: str) -> list[int]:
    return [IGNORED if character == "." else as_ids(character)[0] for character in line]


def with_chat_marks(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.add_tokens(["<|im_start|>"], special_tokens=True)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="module")
def characters(tiny_parts: Path) -> PreTrainedTokenizerFast:
    """One token per character."""
    return load_tokenizer(tiny_parts / "decoder")


@pytest.fixture(scope="module")
def chat_characters(tiny_parts: Path) -> PreTrainedTokenizerFast:
    """One token per character, and ChatML."""
    return with_chat_marks(load_tokenizer(tiny_parts / "decoder"))


@pytest.fixture(scope="module")
def byte_pairs() -> PreTrainedTokenizerFast:
    """A byte-level BPE that has learned nothing but to merge two line breaks, as Qwen's does."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=258,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["\n\n"] * 10, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", pad_token="<s>")
    assert len(tokenizer("\n\n", add_special_tokens=False)["input_ids"]) == 1
    return tokenizer


def encode(texts, tokenizer, template, num_image_tokens=0, **options):
    encoded = encode_conversation(
        turns(*texts), tokenizer, template=template, num_image_tokens=num_image_tokens, **options
    )
    assert encoded.input_ids.dtype == encoded.labels.dtype == torch.int64
    return encoded.input_ids.tolist(), encoded.labels.tolist()


def test_plain_as_numbers(characters):
    ids, labels = encode(["<image>\nDescribe.", "Hi"], characters, "plain", num_image_tokens=2)
    assert ids == [1, -200, -200, 43, 76, 98]
    assert labels == [-100, -100, -100, 43, 76, 98]


def unsupervised(text: str) -> tuple[str, str]:
    return text, "." * len(text)


# Per template the texts, and the line of ids above the line of labels, piece by piece.
LINES = {
    "plain": (
        ("Look: <image>", "A cat"),
        [
            ("^@@@A cat|",
             "....A cat|"),
        ],
    ),
    "vicuna_v1": (
        ("What?<image>", "A cat", "Sure?", "Yes"),
        [
            unsupervised("^" + PREAMBLE),
            ("USER: @@@|What? ASSISTANT: A cat$USER: Sure? ASSISTANT: Yes$",
             ".......................... A cat$...................... Yes$"),
        ],
    ),
    # The second "<s>" is in the template's text; LLaVA's has it too.
    "llama_2": (
        ("What?<image>", "A cat", "Sure?", "Yes"),
        [
            unsupervised(
                "^[INST] <<SYS>>|You are a helpful language and vision assistant. You are able to understand the "
                "visual content that the user provides, and assist the user with a variety of tasks using natural "
                "language.|<</SYS>>||"
            ),
            ("@@@|What? [/INST] A cat $^[INST] Sure? [/INST] Yes $",
             "................. A cat $..................... Yes $"),
        ],
    ),
    "v0": (
        ("What?<image>", "A cat", "Sure?", "Yes"),
        [
            unsupervised(
                "^A chat between a curious human and an artificial intelligence assistant. "
                "The assistant gives helpful, detailed, and polite answers to the human's questions.||"
            ),
            ("### Human: @@@|What?|### Assistant: A cat|### Human: Sure?|### Assistant: Yes|### ",
             "................................... A cat|###............................ Yes|###."),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("template", LINES)
def test_ids_and_labels_by_eye(characters, template):
    texts, pieces = LINES[template]
    ids, labels = encode(texts, characters, template, num_image_tokens=3)
    assert ids == as_ids("".join(ids_line for ids_line, _ in pieces))
    assert labels == as_labels("".join(labels_line for _, labels_line in pieces))


def test_chat_writes_no_bos_of_its_own(chat_characters):
    start, end = chat_characters.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    ids, labels = encode(["<image>", "A cat"], chat_characters, "chat", num_image_tokens=2)
    before = [start, *as_ids("user|@@"), end, *as_ids("|"), start, *as_ids("assistant|")]
    assert ids == [*before, *as_ids("A cat"), end, *as_ids("|")]
    assert labels == [*[IGNORED] * len(before), *as_ids("A cat"), end, IGNORED]


def test_entries_of_a_file_and_turns_are_the_same(characters):
    entries = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    encoded = encode_conversation(entries, characters, template="vicuna_v1", num_image_tokens=0)
    assert (encoded.input_ids.tolist(), encoded.labels.tolist()) == encode(["Hi", "Ho"], characters, "vicuna_v1")


def test_malformed_entry(characters):
    with pytest.raises(InputError, match=r"^conversation: turn 0: field 'from': expected 'human' or 'gpt', found 'me'"):
        encode_conversation([{"from": "me"}], characters, template="vicuna_v1", num_image_tokens=0)


@pytest.mark.parametrize("num_image_tokens", [1, 2, 5])
def test_each_slot_becomes_p_image_tokens(characters, num_image_tokens):
    ids, labels = encode(["<image> or <image>?", "No"], characters, "plain", num_image_tokens=num_image_tokens)
    slots = "@" * (2 * num_image_tokens)
    assert ids == as_ids("^" + slots + "No|")
    assert labels == as_labels("." + "." * len(slots) + "No|")


def test_each_slot_becomes_the_tokens_of_its_own_picture(characters):
    ids, labels = encode(["<image><image> or <image>?", "No"], characters, "vicuna_v1", num_image_tokens=[3, 1, 2])
    assert ids == as_ids("^" + PREAMBLE + "USER: @@@@ or @@? ASSISTANT: No$")
    assert labels == as_labels("." + "." * len(PREAMBLE) + "." * 28 + " No$")


@pytest.mark.parametrize("counts", [[3], [3, 1, 2]])
def test_slots_and_pictures_that_differ_in_number_are_refused(characters, counts):
    with pytest.raises(RecordError, match=f"found 2 slots and {len(counts)} pictures") as caught:
        encode(["<image> or <image>?", "No"], characters, "vicuna_v1", num_image_tokens=counts)
    assert caught.value.reason == "image_slots"


def test_two_consecutive_images_and_text_between(characters):
    ids, labels = encode(["<image><image> or <image>", "No"], characters, "vicuna_v1", num_image_tokens=2)
    assert ids == as_ids("^" + PREAMBLE + "USER: @@@@ or @@ ASSISTANT: No$")
    assert labels == as_labels("." + "." * len(PREAMBLE) + "." * 27 + " No$")


@pytest.mark.parametrize("num_image_tokens", [0, []])
def test_without_pictures_the_mark_is_text(characters, num_image_tokens):
    ids, labels = encode(["<image>", "<image>"], characters, "vicuna_v1", num_image_tokens=num_image_tokens)
    assert ids == as_ids("^" + PREAMBLE + "USER: <image> ASSISTANT: <image>$")
    assert labels == as_labels("." + "." * len(PREAMBLE) + "." * 24 + " <image>$")


def test_start_and_end_marks(tiny_parts):
    tokenizer = load_tokenizer(tiny_parts / "decoder")
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    start, end = tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>"])
    assert (start, end) == (99, 100)
    ids, labels = encode(["<image>", "A"], tokenizer, "plain", num_image_tokens=2, image_start_end=True)
    # LLaVA: the caption stage reads the picture alone, without marks.
    assert (ids, labels) == (as_ids("^@@A|"), as_labels("...A|"))
    ids, labels = encode(["<image>", "A"], tokenizer, "vicuna_v1", num_image_tokens=2, image_start_end=True)
    assert ids == [*as_ids("^" + PREAMBLE + "USER: "), start, IMAGE, IMAGE, end, *as_ids(" ASSISTANT: A$")]
    assert labels[-3:] == as_ids(" A$")
    assert labels[:-3] == [IGNORED] * (len(ids) - 3)


def test_end_mark_spelled_in_an_answer_is_supervised_with_it(characters):
    ids, labels = encode(["Say it", "a</s>b"], characters, "vicuna_v1")
    assert ids == as_ids("^" + PREAMBLE + "USER: Say it ASSISTANT: a$b$")
    assert labels == as_labels("." + "." * len(PREAMBLE) + "." * 23 + " a$b$")


@pytest.mark.parametrize("template", ["vicuna_v1", "v0", "v1_mmtag", "mpt"])
def test_bos_is_read_once(characters, template):
    ids, labels = encode(["<image>a<image>", "b", "c", "d"], characters, template, num_image_tokens=1)
    assert [index for index, token in enumerate(ids) if token == 1] == [0]
    assert labels[0] == IGNORED


def test_eos_of_the_tokenizer_is_not_read_before_an_image(tiny_parts):
    """As with `add_eos_token`: the end mark is the template's, and the first stretch is not the end of the text."""
    tokenizer = load_tokenizer(tiny_parts / "decoder")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    ids, labels = encode(["<image>", "Hi"], tokenizer, "plain", num_image_tokens=2)
    assert ids == as_ids("^@@Hi|")
    assert labels == as_labels("...Hi|")


def test_image_first_is_preceded_by_the_bos(characters):
    encoded = encode_segments([Segment("<image>", "image"), Segment("a", "answer")], characters)
    assert encoded.input_ids.tolist() == as_ids("^@a")
    assert encoded.labels.tolist() == as_labels("..a")


def test_bos_before_an_answer_is_not_supervised(characters):
    encoded = encode_segments([Segment("ab", "answer"), Segment("c", "prompt")], characters)
    assert encoded.input_ids.tolist() == as_ids("^abc")
    assert encoded.labels.tolist() == as_labels(".ab.")


def test_segments_without_bos(characters):
    segments = [Segment("ab", "prompt"), Segment("cd", "answer"), Segment("e", "prompt"), Segment("f", "answer")]
    encoded = encode_segments(segments, characters, adds_bos=False)
    assert encoded.input_ids.tolist() == as_ids("abcdef")
    assert encoded.labels.tolist() == as_labels("..cd.f")


def test_prompt_supervises_nothing_in_its_last_turn(characters):
    ids, labels = encode(["<image>a", "b", "c"], characters, "vicuna_v1", num_image_tokens=1, is_prompt=True)
    assert ids == as_ids("^" + PREAMBLE + "USER: @|a ASSISTANT: b$USER: c ASSISTANT:")
    assert labels == as_labels("." + "." * len(PREAMBLE) + "." * 20 + " b$" + "." * 18)


@pytest.mark.parametrize("max_length", [4, 5, 6, 7])
def test_max_length_cuts_the_answer(characters, max_length):
    ids, labels = encode(["<image>", "Hi"], characters, "plain", num_image_tokens=3, max_length=max_length)
    assert ids == as_ids("^@@@Hi|")[:max_length]
    assert labels == as_labels("....Hi|")[:max_length]


@pytest.mark.parametrize(("max_length", "lost"), [(3, 1), (2, 2), (1, 3)])
def test_max_length_never_cuts_inside_an_image(characters, max_length, lost):
    with pytest.raises(InputError) as caught:
        encode(["<image>", "Hi"], characters, "plain", num_image_tokens=3, max_length=max_length)
    assert str(caught.value) == (
        f"max_length: {max_length} positions end inside or before an image ({lost} image tokens would be lost); "
        "expected at least 4"
    )


def test_too_long_is_refused_where_nothing_may_be_cut(characters):
    def encode_to(max_length):
        turns_of = turns("<image>", "Hi")
        return encode_conversation(
            turns_of, characters, template="plain", num_image_tokens=3, max_length=max_length, on_too_long="error"
        )

    assert encode_to(7).input_ids.tolist() == as_ids("^@@@Hi|")
    with pytest.raises(RecordError) as caught:
        encode_to(6)
    assert caught.value.reason == "too_long"
    assert str(caught.value).startswith("max_length: expected at most 6 positions, found 7; raise max_length, ")


def test_tokens_that_are_cut_are_counted(characters):
    for max_length, num_cut in ((None, 0), (8, 0), (7, 0), (6, 1), (4, 3)):
        encoded = encode_conversation(
            turns("<image>", "Hi"), characters, template="plain", num_image_tokens=3, max_length=max_length
        )
        assert (encoded.num_cut, len(encoded.input_ids)) == (num_cut, 7 - num_cut)


def test_max_length_before_a_second_image(characters):
    texts = ["<image>a", "b", "<image>c", "d"]
    ids, _ = encode(texts, characters, "vicuna_v1", num_image_tokens=2)
    last_image_token = max(index for index, token in enumerate(ids) if token == IMAGE)
    cut, _ = encode(texts, characters, "vicuna_v1", num_image_tokens=2, max_length=last_image_token + 1)
    assert cut == ids[: last_image_token + 1]
    with pytest.raises(InputError, match=f"2 image tokens would be lost.; expected at least {last_image_token + 1}$"):
        encode(texts, characters, "vicuna_v1", num_image_tokens=2, max_length=last_image_token - 10)


def as_bytes(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    return [tokenizer.decode([token]) for token in ids if token >= 0]


def test_token_across_a_border_is_split_there(byte_pairs):
    r"""The text holds "\n\n", half prompt, half answer; while answering, the model reads the prompt's "\n" alone."""
    segments = [Segment("q:\n", "prompt"), Segment("\nYes\n\n", "answer"), Segment("r", "prompt")]
    encoded = encode_segments(segments, byte_pairs)
    ids, labels = encoded.input_ids.tolist(), encoded.labels.tolist()
    assert as_bytes(byte_pairs, ids) == ["<s>", "q", ":", "\n", "\n", "Y", "e", "s", "\n\n", "r"]
    assert [label != IGNORED for label in labels] == [False] * 4 + [True] * 5 + [False]
    assert [label for label in labels if label != IGNORED] == ids[4:9]


def test_tokens_within_borders_are_not_split(byte_pairs):
    segments = [Segment("q:\n\n", "prompt"), Segment("Yes\n\n", "answer")]
    encoded = encode_segments(segments, byte_pairs)
    assert as_bytes(byte_pairs, encoded.input_ids.tolist()) == ["<s>", "q", ":", "\n\n", "Y", "e", "s", "\n\n"]
    assert (encoded.labels != IGNORED).tolist() == [False] * 4 + [True] * 4


def test_border_across_a_token_after_an_image(byte_pairs):
    """Only the stretch with the border is split, and no second BOS is read."""
    segments = [
        Segment("a\n\n", "prompt"),
        Segment("<image>", "image"),
        Segment("q\n", "prompt"),
        Segment("\nb", "answer"),
    ]
    encoded = encode_segments(segments, byte_pairs)
    bos, a, breaks, q, one_break, b = (
        byte_pairs(text, add_special_tokens=False)["input_ids"][0] for text in ("<s>", "a", "\n\n", "q", "\n", "b")
    )
    assert encoded.input_ids.tolist() == [bos, a, breaks, IMAGE, q, one_break, one_break, b]
    assert encoded.labels.tolist() == [IGNORED] * 6 + [one_break, b]


def test_trimmed_offsets(byte_pairs):
    """Tokens of spaces without characters of their own belong to what follows; at the very end nothing does."""
    backend = Tokenizer.from_str(byte_pairs.backend_tokenizer.to_str())
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    assert backend.encode("a ").offsets == [(0, 1), (2, 2)]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    segments = [Segment("q ", "prompt"), Segment("a ", "answer"), Segment("r", "prompt"), Segment("b ", "answer")]
    encoded = encode_segments(segments, tokenizer)
    assert as_bytes(tokenizer, encoded.input_ids.tolist()) == ["q", " ", "a", " ", "r", "b", " "]
    assert (encoded.labels != IGNORED).tolist() == [False, True, True, False, False, True, False]


def test_training_reads_the_prompt_of_evaluation_across_a_merged_border(byte_pairs):
    trained, labels = encode(["a", "\nYes"], byte_pairs, "mpt")
    prompt, _ = encode(["a"], byte_pairs, "mpt", is_prompt=True)
    assert trained[: len(prompt)] == prompt
    assert labels[: len(prompt)] == [IGNORED] * len(prompt)
    assert byte_pairs.decode(trained[len(prompt) :]) == "\nYes<|im_end|>"
    assert labels[len(prompt) :] == trained[len(prompt) :]


# What is supervised around an answer's text.
AROUND_ANSWER = {
    "vicuna_v1": (" ", "</s>"),
    "llama_2": (" ", " </s>"),
    "v0": (" ", "\n###"),
    "v1_mmtag": (" ", "</s>"),
    "plain": ("", "\n"),
    "mpt": ("", "<|im_end|>"),
    "chat": ("", "<|im_end|>"),
}
MARKS = re.compile(r"<s>|</s>|<unk>|<image>|###|<\|im_|\[/INST\]|ASSISTANT:|\u2581")


def conversations(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    """Texts of up to three exchanges, without any template's marks; questions may be empty."""
    text = st.text(alphabet, max_size=12)
    clean = text.filter(lambda text: MARKS.search(text) is None)
    exchange = st.tuples(clean, clean.filter(bool))
    return st.lists(exchange, min_size=1, max_size=3).map(lambda rows: [text for row in rows for text in row])


def with_slots(texts: list[str], template: str, num_slots: int) -> list[str]:
    """The texts with slots in front of the first question; "plain" takes one exchange and at least one slot."""
    slots = "<image>" * (max(num_slots, 1) if template == "plain" else num_slots)
    return [slots + texts[0], *(texts[1:2] if template == "plain" else texts[1:])]


def supervised_runs(labels: list[int]) -> list[list[int]]:
    runs: list[list[int]] = [[]]
    for label in labels:
        if label != IGNORED:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def check_property(texts, template, tokenizer, num_slots, num_image_tokens, *, mark_id, prefix=""):
    """Check what is supervised, and that every text token of the rendered conversation is there, none twice.

    An answer is decoded behind the token `mark_id`, so that no leading space is stripped. `prefix` is what the
    tokenizer puts in front of a text after an image; "plain" supervises it with its caption.
    """
    texts = with_slots(texts, template, num_slots)
    ids, labels = encode(texts, tokenizer, template, num_image_tokens=num_image_tokens if "<image>" in texts[0] else 0)
    before, after = (prefix, "\n") if template == "plain" else AROUND_ANSWER[template]
    mark = tokenizer.decode([mark_id])
    runs = [tokenizer.decode([mark_id, *run]).removeprefix(mark) for run in supervised_runs(labels)]
    assert runs == [before + answer + after for answer in texts[1::2]]
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))

    segments = render_conversation(turns(*texts), template, has_images="<image>" in texts[0], tokenizer=tokenizer)
    stretches = "".join(segment.text for segment in segments).split("<image>")
    text_ids = [tokenizer(stretch, add_special_tokens=False)["input_ids"] for stretch in stretches]
    if template != "chat":
        text_ids[0] = [1, *text_ids[0]]
    num_slots = texts[0].count("<image>")
    assert len(stretches) == num_slots + 1
    assert len(ids) == sum(len(stretch) for stretch in text_ids) + num_image_tokens * num_slots
    assert [token for token in ids if token != IMAGE] == [token for stretch in text_ids for token in stretch]


ASCII = st.sampled_from([chr(code) for code in range(32, 127)] + ["\n"])
UNICODE = st.one_of(ASCII, st.characters(exclude_categories=["Cs"]))
FEW = settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate, Phase.shrink])


@pytest.mark.parametrize("template", AROUND_ANSWER)
@FEW
@given(texts=conversations(ASCII), num_slots=st.integers(0, 3), num_image_tokens=st.integers(1, 3))
def test_answers_and_nothing_else_with_characters(
    characters, chat_characters, template, texts, num_slots, num_image_tokens
):
    tokenizer = chat_characters if template in ("mpt", "chat") else characters
    check_property(texts, template, tokenizer, num_slots, num_image_tokens, mark_id=as_ids(":")[0])


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "not_legacy"])
def llama(request, golden_path: Path) -> dict[str, PreTrainedTokenizerFast]:
    """LLaMA-2's tokenizer, as it is and with ChatML."""
    path = golden_path / "llama2_tokenizer"
    return {
        "": load_tokenizer(path, legacy=request.param),
        "chat": with_chat_marks(load_tokenizer(path, legacy=request.param)),
    }


@pytest.mark.parametrize("template", AROUND_ANSWER)
@FEW
@given(texts=conversations(UNICODE), num_slots=st.integers(0, 3), num_image_tokens=st.integers(1, 3))
def test_answers_and_nothing_else_with_llama(llama, template, texts, num_slots, num_image_tokens):
    tokenizer = llama["chat" if template in ("mpt", "chat") else ""]
    check_property(texts, template, tokenizer, num_slots, num_image_tokens, mark_id=29901, prefix=" ")


@pytest.mark.parametrize("template", ["vicuna_v1", "llama_2", "v0", "v1_mmtag", "mpt", "chat"])
@FEW
@given(texts=conversations(UNICODE))
def test_prompt_is_what_training_reads_before_an_answer(llama, template, texts):
    """Otherwise evaluation asks with other ids than the model has seen."""
    tokenizer = llama["chat" if template in ("mpt", "chat") else ""]
    trained, _ = encode(texts, tokenizer, template)
    prompt, _ = encode(texts[:-1], tokenizer, template, is_prompt=True)
    assert trained[: len(prompt)] == prompt
