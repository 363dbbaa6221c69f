"""Guards: a served model that is asked otherwise than it was trained, by a token."""

import pytest

from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.settings import DataSettings
from llava_pl.data.templates import TEMPLATES
from llava_pl.data.tokenization import encode_conversation
from llava_pl.export.carry import carry
from llava_pl.export.chat_template import make_chat_template
from llava_pl.export.hf_processor import with_picture_word
from llava_pl.types import IMAGE_TOKEN_INDEX, InputError

PICTURE, TWO = "<image>\nWhat is it?", "<image>\n<image>\nWhat differs?"
CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
THINKING = "{{ date_string }}" + CHATML + "{% if add_generation_prompt and enable_thinking is false %}(no){% endif %}"
"""As Qwen3's and LLaMA-3.2's, which write other prompts where nobody says otherwise."""


def parts(text):
    num_pictures = text.count("<image>")
    return [{"type": "image"}] * num_pictures + [{"type": "text", "text": text.replace("<image>\n", "")}]


KNOWN: dict[int, tuple] = {}
"""Tokenizers with the word for pictures, which take half a second each to make."""


def ids_of_chat(tokenizer, settings, messages, adds_spaces, is_prompt):
    _, known = KNOWN.setdefault(id(tokenizer), (tokenizer, None))
    if known is None:
        known = with_picture_word(tokenizer)
        KNOWN[id(tokenizer)] = (tokenizer, known)
    text = known.apply_chat_template(
        messages,
        chat_template=make_chat_template(settings, tokenizer, adds_spaces=adds_spaces),
        tokenize=False,
        add_generation_prompt=is_prompt,
    )
    picture = known.convert_tokens_to_ids("<image>")
    return [IMAGE_TOKEN_INDEX if word == picture else word for word in known(text)["input_ids"]]


CONVERSATIONS = {
    "text": ["Hi  there,\nyou."],
    "picture": [PICTURE],
    "two pictures": [TWO],
    "three turns": [PICTURE, "A dog.", "And its colour?"],
    "answered": [PICTURE, "A dog.", "Big?", "No."],
}


def check(tokenizer, settings, turns, *, adds_spaces):
    human = ("human", "gpt")
    encoded = encode_conversation(
        [{"from": human[n % 2], "value": text} for n, text in enumerate(turns)],
        tokenizer,
        template=settings.template,
        num_image_tokens=int("<image>" in turns[0]),
        image_start_end=settings.image_start_end,
        is_prompt=len(turns) % 2 == 1,
    )
    roles = ("user", "assistant")
    for write in (str, parts):
        messages = [{"role": roles[n % 2], "content": write(text)} for n, text in enumerate(turns)]
        found = ids_of_chat(tokenizer, settings, messages, adds_spaces, len(turns) % 2 == 1)
        assert found == encoded.input_ids.tolist()


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "new"])
def llama(golden_path, request):
    """LLaMA's own tokenizer, whose tokens depend on whether a text begins before them."""
    return load_tokenizer(golden_path / "llama2_tokenizer", legacy=request.param)


def is_new(tokenizer) -> bool:
    return tokenizer.init_kwargs["legacy"] is False


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "plain"])
def test_prompt_is_that_of_training_token_for_token(llama, template):
    for turns in CONVERSATIONS.values():
        # In training an earlier answer is tokenized apart where a token would reach into it, as with this tokenizer.
        if template != "mpt" or len(turns) == 1:
            check(llama, DataSettings(template=template), turns, adds_spaces=is_new(llama))


@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=list(CONVERSATIONS))
@pytest.mark.parametrize("template", [CHATML, THINKING], ids=["plain", "thinking"])
def test_prompt_of_a_tokenizer_s_own_template(tiny_parts, turns, template):
    tokenizer = load_tokenizer(tiny_parts / "decoder")
    tokenizer.chat_template = template
    check(tokenizer, DataSettings(template="chat"), turns, adds_spaces=False)


def test_marks_stand_around_pictures(golden_path, llama):
    tokenizer = load_tokenizer(golden_path / "llama2_tokenizer", legacy=not is_new(llama))
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    for turns in CONVERSATIONS.values():
        check(tokenizer, DataSettings(image_start_end=True), turns, adds_spaces=is_new(llama))


def test_captions_are_asked_for_by_the_picture_alone(tiny_parts):
    tokenizer = load_tokenizer(tiny_parts / "decoder")
    check(tokenizer, DataSettings(template="plain"), [PICTURE], adds_spaces=False)


def test_captions_have_no_marks(make_llava, tmp_path):
    """LLaVA: of a caption's question the picture is kept, and nothing around it."""
    carry(make_llava(template="plain", image_start_end=True), tmp_path / "x", "hf")


def test_a_picture_elsewhere_in_the_text_comes_first(tiny_parts):
    """As in training, where it is put on a line of its own in front."""
    tokenizer, settings = load_tokenizer(tiny_parts / "decoder"), DataSettings()
    found, expected = (
        ids_of_chat(tokenizer, settings, [{"role": "user", "content": content}], False, True)
        for content in (" What is it?\n<image>", PICTURE)
    )
    assert found == expected


def test_a_system_text_that_was_never_seen_is_refused(tiny_parts):
    messages = [{"role": "system", "content": "Be rude."}, {"role": "user", "content": "Hi"}]
    with pytest.raises(Exception, match="trained with one system text alone"):
        ids_of_chat(load_tokenizer(tiny_parts / "decoder"), DataSettings(), messages, False, True)


def test_a_tokenizer_without_a_template_has_none_to_give(tiny_parts):
    with pytest.raises(InputError, match="template 'chat': the tokenizer has no chat template"):
        make_chat_template(DataSettings(template="chat"), load_tokenizer(tiny_parts / "decoder"), adds_spaces=False)
