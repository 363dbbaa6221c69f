r"""Guards the prompts: a changed character, or an answer supervised from one character too early, is another model.

Every template is written out as the segments of one conversation. The texts were compared with the original's by ids
(`tests/parity/test_tokenization_golden.py`); here they can be read.
"""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llava_pl.data.conversation import find_stop, render_conversation
from llava_pl.data.templates import TEMPLATES
from llava_pl.data.tokenization import encode_conversation
from llava_pl.types import IGNORE_INDEX, InputError, Segment, Turn

USER_PREAMBLE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
HUMAN_PREAMBLE = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.\n\n"
)
MMTAG_PREAMBLE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant is able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: <Image>visual content</Image>. "
)
LLAMA_2_SYSTEM = (
    "<<SYS>>\nYou are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language.\n<</SYS>>\n\n"
)
MPT_SYSTEM = (
    "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers.<|im_end|>"
)

TEXTS = ("<image>\nWhat is this?", "A red bicycle.", "Where?", "On a boat.")

# The segments of TEXTS; the first exchange is the record of "plain".
SEGMENTS = {
    "vicuna_v1": [
        (USER_PREAMBLE + "USER: ", "prompt"),
        ("<image>", "image"),
        ("\nWhat is this? ASSISTANT:", "prompt"),
        (" A red bicycle.</s>", "answer"),
        ("USER: Where? ASSISTANT:", "prompt"),
        (" On a boat.</s>", "answer"),
    ],
    "plain": [
        ("<image>", "image"),
        ("A red bicycle.\n", "answer"),
    ],
    "llama_2": [
        ("[INST] " + LLAMA_2_SYSTEM, "prompt"),
        ("<image>", "image"),
        ("\nWhat is this? [/INST]", "prompt"),
        (" A red bicycle. </s>", "answer"),
        ("<s>[INST] Where? [/INST]", "prompt"),
        (" On a boat. </s>", "answer"),
    ],
    "v0": [
        (HUMAN_PREAMBLE + "### Human: ", "prompt"),
        ("<image>", "image"),
        ("\nWhat is this?\n### Assistant:", "prompt"),
        (" A red bicycle.\n###", "answer"),
        (" Human: Where?\n### Assistant:", "prompt"),
        (" On a boat.\n###", "answer"),
        (" ", "prompt"),
    ],
    "v1_mmtag": [
        (MMTAG_PREAMBLE + "USER: <Image>", "prompt"),
        ("<image>", "image"),
        ("</Image>\nWhat is this? ASSISTANT:", "prompt"),
        (" A red bicycle.</s>", "answer"),
        ("USER: Where? ASSISTANT:", "prompt"),
        (" On a boat.</s>", "answer"),
    ],
    "mpt": [
        (MPT_SYSTEM + "<|im_start|>user\n", "prompt"),
        ("<image>", "image"),
        ("\nWhat is this?<|im_end|><|im_start|>assistant\n", "prompt"),
        ("A red bicycle.<|im_end|>", "answer"),
        ("<|im_start|>user\nWhere?<|im_end|><|im_start|>assistant\n", "prompt"),
        ("On a boat.<|im_end|>", "answer"),
    ],
}

# The last prompt segment of the question "Where?", which is to be answered.
PROMPT_ENDS = {
    "vicuna_v1": "USER: Where? ASSISTANT:",
    "llama_2": "<s>[INST] Where? [/INST]",
    "v0": " Human: Where?\n### Assistant:",
    "v1_mmtag": "USER: Where? ASSISTANT:",
    "mpt": "<|im_start|>user\nWhere?<|im_end|><|im_start|>assistant\n",
}

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Qwen3's: what the model thought is shown in the last answer only.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def turns(*texts: str) -> list[Turn]:
    return [Turn(("human", "gpt")[index % 2], text) for index, text in enumerate(texts)]


def render(texts, template, *, has_images=True, **options):
    conversation = turns(*texts) if isinstance(texts[0], str) else texts
    segments = render_conversation(conversation, template, has_images=has_images, **options)
    return [(segment.text, segment.kind) for segment in segments]


def error_of(texts, template, **options) -> str:
    with pytest.raises(InputError) as caught:
        render(texts, template, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def chat_tokenizer(chat_template: str | None, **special_tokens: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")), **special_tokens
    )
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.fixture
def chatml() -> PreTrainedTokenizerFast:
    return chat_tokenizer(CHATML, eos_token="<|im_end|>")


def test_every_template_is_written_out():
    assert set(SEGMENTS) == set(TEMPLATES)


@pytest.mark.parametrize("template", SEGMENTS)
def test_segments(template):
    texts = TEXTS[:2] if template == "plain" else TEXTS
    assert render(texts, template) == SEGMENTS[template]


def test_result_is_segments():
    assert render_conversation(turns("<image>", "a"), "plain", has_images=True) == [
        Segment("<image>", "image"),
        Segment("a\n", "answer"),
    ]


@pytest.mark.parametrize("template", PROMPT_ENDS)
def test_prompt_ends_where_the_answer_begins(template):
    """The model must find itself where training supervises the next character."""
    trained = SEGMENTS[template]
    last_answer = max(index for index, (_, kind) in enumerate(trained) if kind == "answer")
    assert trained[last_answer - 1] == (PROMPT_ENDS[template], "prompt")
    assert render(TEXTS[:3], template, is_prompt=True) == trained[:last_answer]


def test_prompt_of_plain_is_the_picture():
    assert render(["Describe.\n<image>"], "plain", is_prompt=True) == [("<image>", "image")]


@pytest.mark.parametrize(
    ("text", "after_slot"),
    [
        ("<image>\nWhat?", "\nWhat?"),
        ("What?\n<image>", "\nWhat?"),
        ("What <image> is it?", "\nWhat  is it?"),
        ("  What?<image>  ", "\nWhat?"),
        ("<image>", ""),
        (" <image>\n", ""),
    ],
)
def test_one_slot_moves_to_the_front_of_its_turn(text, after_slot):
    assert render([text, "A dog."], "vicuna_v1") == [
        (USER_PREAMBLE + "USER: ", "prompt"),
        ("<image>", "image"),
        (after_slot + " ASSISTANT:", "prompt"),
        (" A dog.</s>", "answer"),
    ]


def test_slot_stays_in_its_own_turn():
    assert render(["Hi", "Hello", "What?<image>", "A dog."], "vicuna_v1") == [
        (USER_PREAMBLE + "USER: Hi ASSISTANT:", "prompt"),
        (" Hello</s>", "answer"),
        ("USER: ", "prompt"),
        ("<image>", "image"),
        ("\nWhat? ASSISTANT:", "prompt"),
        (" A dog.</s>", "answer"),
    ]


def test_several_slots_of_a_turn_stay_where_they_are():
    assert render(["Is <image> like <image>? ", "No."], "mpt") == [
        (MPT_SYSTEM + "<|im_start|>user\nIs ", "prompt"),
        ("<image>", "image"),
        (" like ", "prompt"),
        ("<image>", "image"),
        ("? <|im_end|><|im_start|>assistant\n", "prompt"),
        ("No.<|im_end|>", "answer"),
    ]


def test_consecutive_slots_have_no_segment_between():
    assert render(["<image><image>\nSame?", "No."], "vicuna_v1")[:4] == [
        (USER_PREAMBLE + "USER: ", "prompt"),
        ("<image>", "image"),
        ("<image>", "image"),
        ("\nSame? ASSISTANT:", "prompt"),
    ]


@pytest.mark.parametrize("image_start_end", [False, True])
@pytest.mark.parametrize("template", ["vicuna_v1", "v1_mmtag"])
def test_without_pictures_the_mark_is_literal_text(template, image_start_end):
    preamble = {"vicuna_v1": USER_PREAMBLE, "v1_mmtag": MMTAG_PREAMBLE}[template]
    texts = ["Which <image>?", "The <image>."]
    assert render(texts, template, has_images=False, image_start_end=image_start_end) == [
        (preamble + "USER: Which <image>? ASSISTANT:", "prompt"),
        (" The <image>.</s>", "answer"),
    ]


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        ("vicuna_v1", USER_PREAMBLE + "USER: <im_start>", "<im_end>\nWhat is this? ASSISTANT:"),
        ("v1_mmtag", MMTAG_PREAMBLE + "USER: <Image><im_start>", "<im_end></Image>\nWhat is this? ASSISTANT:"),
    ],
)
def test_start_and_end_marks(template, before, after):
    assert render(TEXTS, template, image_start_end=True)[:3] == [
        (before, "prompt"),
        ("<image>", "image"),
        (after, "prompt"),
    ]


def test_start_and_end_marks_around_every_slot():
    assert render(["<image> or <image>", "No."], "vicuna_v1", image_start_end=True)[:5] == [
        (USER_PREAMBLE + "USER: <im_start>", "prompt"),
        ("<image>", "image"),
        ("<im_end> or <im_start>", "prompt"),
        ("<image>", "image"),
        ("<im_end> ASSISTANT:", "prompt"),
    ]


@pytest.mark.parametrize("template", ["vicuna_v1", "llama_2", "v0"])
def test_answers_before_the_first_question_are_left_out(template):
    greeted = [Turn("gpt", "Welcome!"), Turn("gpt", "What can I do?"), *turns(*TEXTS)]
    assert render(greeted, template) == SEGMENTS[template]


def test_last_question_without_an_answer_is_read_only():
    assert render(["Hi", "Hello", "Bye"], "vicuna_v1", has_images=False) == [
        (USER_PREAMBLE + "USER: Hi ASSISTANT:", "prompt"),
        (" Hello</s>", "answer"),
        ("USER: Bye ", "prompt"),
    ]


@pytest.mark.parametrize(
    ("roles", "found"),
    [
        (("human", "human"), "turn 1: expected a turn from 'gpt', found one from 'human'"),
        (("human", "gpt", "gpt"), "turn 2: expected a turn from 'human', found one from 'gpt'"),
        # Counted as in the file, the turns left out included.
        (("gpt", "human", "gpt", "gpt"), "turn 3: expected a turn from 'human', found one from 'gpt'"),
    ],
)
@pytest.mark.parametrize("template", ["vicuna_v1", "plain", "chat"])
def test_turns_do_not_alternate(roles, found, template):
    assert error_of([Turn(role, "a") for role in roles], template) == found


@pytest.mark.parametrize("template", ["vicuna_v1", "v0", "mpt"])
def test_empty_answer(template):
    expected = "turn 3: the answer is empty; nothing can be learned from it, remove the record"
    assert error_of(["a", "b", "c", ""], template) == expected


def test_empty_question_is_fine():
    assert render(["", "b"], "mpt", has_images=False) == [
        (MPT_SYSTEM + "<|im_start|>user\n<|im_end|><|im_start|>assistant\n", "prompt"),
        ("b<|im_end|>", "answer"),
    ]


@pytest.mark.parametrize("conversation", [[Turn("human", "a"), Turn("gpt", "b")], [Turn("gpt", "b")]])
def test_prompt_without_a_question(conversation):
    expected = "conversation: expected a question as the last turn, found none to answer"
    assert error_of(conversation, "vicuna_v1", is_prompt=True) == expected


def test_unknown_template():
    expected = "template: expected one of vicuna_v1, plain, llama_2, v0, v1_mmtag, mpt, chat, found 'v1'"
    assert error_of(["a", "b"], "v1") == expected


@pytest.mark.parametrize("texts", [("<image>", "a", "b", "c"), ("What?", "a"), ("<image>",)])
def test_plain_holds_one_picture_with_one_caption(texts):
    assert error_of(texts, "plain") == (
        "template 'plain': expected one question with '<image>' and one caption; use another template for conversations"
    )


def test_plain_forgets_the_question_and_keeps_every_slot():
    assert render(["a <image> b <image> c", " A dog. "], "plain") == [
        ("<image>", "image"),
        ("<image>", "image"),
        (" A dog. \n", "answer"),
    ]


# What a record spells of its template's own marks: template, question, answer, segments after the preamble.
SPELLED = {
    # The original finds one mark before each end mark, so it supervises "y </s>" of the question; kept.
    "question_holds_an_exchange": (
        "llama_2",
        "x [/INST] y </s><s>[INST] q",
        "z",
        [("x [/INST]", "prompt"), (" y </s>", "answer"), ("<s>[INST] q [/INST]", "prompt"), (" z </s>", "answer")],
    ),
    "question_ends_with_the_mark": (
        "vicuna_v1",
        "say ASSISTANT:",
        "z",
        [("USER: say ASSISTANT:", "prompt"), (" ASSISTANT: z</s>", "answer")],
    ),
    # The original masks these records; the answer alone is supervised here.
    "question_holds_the_mark": (
        "vicuna_v1",
        "USER: a ASSISTANT: b",
        "c",
        [("USER: USER: a ASSISTANT: b ASSISTANT:", "prompt"), (" c</s>", "answer")],
    ),
    "answer_holds_the_mark": (
        "vicuna_v1",
        "Who?",
        "I am ASSISTANT: hi",
        [("USER: Who? ASSISTANT:", "prompt"), (" I am ASSISTANT: hi</s>", "answer")],
    ),
    "question_holds_the_end_mark": (
        "vicuna_v1",
        "a </s> b",
        "c",
        [("USER: a </s> b ASSISTANT:", "prompt"), (" c</s>", "answer")],
    ),
    "answer_holds_the_end_mark": (
        "vicuna_v1",
        "Say it.",
        "the end </s> of it",
        [("USER: Say it. ASSISTANT:", "prompt"), (" the end </s> of it</s>", "answer")],
    ),
    "mark_of_another_template": (
        "vicuna_v1",
        "x [/INST] y </s><s>[INST] q",
        "z",
        [("USER: x [/INST] y </s><s>[INST] q ASSISTANT:", "prompt"), (" z</s>", "answer")],
    ),
    # These are never searched: their answers or end marks do not begin with what the search looks for.
    "v0_exchange": (
        "v0",
        "x\n### Assistant: y\n### Human: q",
        "z",
        [
            ("### Human: x\n### Assistant: y\n### Human: q\n### Assistant:", "prompt"),
            (" z\n###", "answer"),
            (" ", "prompt"),
        ],
    ),
    "mpt_exchange": (
        "mpt",
        "x<|im_end|><|im_start|>assistant\n y<|im_end|>",
        " z",
        [
            (
                "<|im_start|>user\nx<|im_end|><|im_start|>assistant\n y<|im_end|><|im_end|><|im_start|>assistant\n",
                "prompt",
            ),
            (" z<|im_end|>", "answer"),
        ],
    ),
}


@pytest.mark.parametrize("case", SPELLED)
def test_spelled_exchange(case):
    template, question, answer, expected = SPELLED[case]
    preambles = {
        "vicuna_v1": USER_PREAMBLE,
        "llama_2": "[INST] " + LLAMA_2_SYSTEM,
        "v0": HUMAN_PREAMBLE,
        "mpt": MPT_SYSTEM,
    }
    (first, kind), *rest = expected
    segments = render([question, answer], template, has_images=False)
    assert segments == [(preambles[template] + first, kind), *rest]


@pytest.mark.parametrize(
    ("template", "stop"),
    [("vicuna_v1", "</s>"), ("llama_2", "</s>"), ("v0", "###"), ("v1_mmtag", "</s>"), ("mpt", "<|im_end|>")],
)
def test_stop(template, stop):
    assert TEMPLATES[template].stop == stop


def test_chat_supervises_up_to_the_end_of_turn(chatml):
    assert render(TEXTS, "chat", tokenizer=chatml) == [
        ("<|im_start|>user\n", "prompt"),
        ("<image>", "image"),
        ("\nWhat is this?<|im_end|>\n<|im_start|>assistant\n", "prompt"),
        ("A red bicycle.<|im_end|>", "answer"),
        ("\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n", "prompt"),
        ("On a boat.<|im_end|>", "answer"),
        ("\n", "prompt"),
    ]


def test_chat_prompt_ends_where_the_answer_begins(chatml):
    assert render(TEXTS[:3], "chat", tokenizer=chatml, is_prompt=True) == [
        ("<|im_start|>user\n", "prompt"),
        ("<image>", "image"),
        ("\nWhat is this?<|im_end|>\n<|im_start|>assistant\n", "prompt"),
        ("A red bicycle.<|im_end|>", "answer"),
        ("\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n", "prompt"),
    ]


def test_chat_start_and_end_marks_and_moved_slot(chatml):
    assert render(["What?<image>", "A dog."], "chat", tokenizer=chatml, image_start_end=True)[:3] == [
        ("<|im_start|>user\n<im_start>", "prompt"),
        ("<image>", "image"),
        ("<im_end>\nWhat?<|im_end|>\n<|im_start|>assistant\n", "prompt"),
    ]


def test_chat_answer_that_spells_the_end_of_turn(chatml):
    """The end is looked for after the answer's text, not inside it."""
    assert render(["a", "b <|im_end|> c"], "chat", has_images=False, tokenizer=chatml)[1:] == [
        ("b <|im_end|> c<|im_end|>", "answer"),
        ("\n", "prompt"),
    ]


def test_chat_template_that_shortens_an_answer():
    """As DeepSeek-R1's, which leaves out what was thought: the end of turn is still where supervision ends."""
    shortening = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    tokenizer = chat_tokenizer(shortening, eos_token="<|im_end|>")
    texts = ["a", "<think>a long thought</think>b", "c", "d"]
    assert render(texts, "chat", has_images=False, tokenizer=tokenizer)[1:3] == [
        ("b<|im_end|>", "answer"),
        ("\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n", "prompt"),
    ]


def test_chat_without_a_special_end_supervises_the_rest_of_the_turn():
    tokenizer = chat_tokenizer("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                               "{% if add_generation_prompt %}assistant:{% endif %}")  # fmt: skip
    assert render(["a", "b", "c", "d"], "chat", has_images=False, tokenizer=tokenizer) == [
        ("user: a\nassistant:", "prompt"),
        (" b\n", "answer"),
        ("user: c\nassistant:", "prompt"),
        (" d\n", "answer"),
    ]


def test_chat_template_that_shows_thoughts_in_the_last_turn_alone():
    """The text is that of the whole conversation; thoughts that a prompt does not open are part of the answer."""
    tokenizer = chat_tokenizer(FORGETFUL, eos_token="<|im_end|>")
    assert render(["a", "b", "c", "d"], "chat", has_images=False, tokenizer=tokenizer) == [
        ("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n", "prompt"),
        ("b<|im_end|>", "answer"),
        ("\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n", "prompt"),
        ("<think></think>d<|im_end|>", "answer"),
        ("\n", "prompt"),
    ]


@pytest.mark.parametrize(
    ("template", "turn"),
    [
        # The second answer changes what stands before the first; an answer is left out; prompts begin otherwise.
        (CHATML.replace("{{ m.role }}", "{{ m.role }}{% if '2' in messages[-1].content %}!{% endif %}"), 1),
        ("{% for m in messages %}{% if loop.index != 4 %}{{ m.content }};{% endif %}{% endfor %}", 3),
        ("{% if add_generation_prompt %}Q {% endif %}" + CHATML, 1),
    ],
)
def test_chat_template_whose_answers_cannot_be_told_apart(template, turn):
    tokenizer = chat_tokenizer(template, eos_token="<|im_end|>")
    assert error_of(["a", "1", "b", "2"], "chat", has_images=False, tokenizer=tokenizer) == (
        f"template 'chat': turn {turn} changes the text around it, so that answers cannot be told from prompts; "
        "name one of vicuna_v1, plain, llama_2, v0, v1_mmtag, mpt"
    )


def test_chat_answer_that_spells_the_next_prompt(chatml):
    trap = "b<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nx"
    assert render(["a", trap, "c", "d"], "chat", has_images=False, tokenizer=chatml)[1] == (
        trap + "<|im_end|>",
        "answer",
    )


# The chat templates of the families, cut to what they write of conversations without tools.
FAMILIES = {
    "qwen2": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}" + CHATML,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    ),
    "qwen3": (
        "{%- set ns = namespace(last=messages|length - 1) %}"
        "{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
        "{%- if m.role == 'assistant' and loop.index0 > ns.last %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
        "{{- m.content + '<|im_end|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}"
        "{%- endif %}{%- endif %}",
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    ),
    "llama_3": (
        "{{- bos_token }}{% for m in messages %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
        "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}",
        {"bos_token": "<s>", "eos_token": "</s>"},
    ),
    "smollm2": (
        "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are "
        "a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + m['role'] + '\n' + "
        "m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    ),
}
LEARNED = {
    "qwen2": ["A red bicycle.<|im_end|>", "On a boat.<|im_end|>"],
    "qwen3": ["A red bicycle.<|im_end|>", "On a boat.<|im_end|>"],
    "llama_3": ["A red bicycle.<|eot_id|>", "On a boat.<|eot_id|>"],
    "mistral": [" A red bicycle.</s>", " On a boat.</s>"],
    "smollm2": ["A red bicycle.<|im_end|>", "On a boat.<|im_end|>"],
}


@pytest.fixture(params=FAMILIES)
def family(request):
    template, special_tokens = FAMILIES[request.param]
    return request.param, chat_tokenizer(template, **special_tokens)


def test_families_learn_the_assistant_s_words_and_the_end_mark_alone(family):
    name, tokenizer = family
    segments = render(TEXTS, "chat", tokenizer=tokenizer)
    assert [text for text, kind in segments if kind == "answer"] == LEARNED[name]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(TEXTS)]
    assert "".join(text for text, _ in segments) == tokenizer.apply_chat_template(messages, tokenize=False)


def test_families_are_asked_as_they_were_taught(family):
    name, tokenizer = family
    taught = render(TEXTS, "chat", tokenizer=tokenizer)
    asked = render(TEXTS[:3], "chat", tokenizer=tokenizer, is_prompt=True)
    last = max(index for index, (_, kind) in enumerate(taught) if kind == "answer")
    assert asked == taught[:last]
    if name == "qwen3":
        assert asked[-1][0].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_families_labels_are_the_tokens_of_what_is_learned(family):
    """With a byte-level tokenizer, as the families have, that would join characters over the borders."""
    name, tokenizer = family
    merges = Tokenizer(models.BPE(unk_token=None))
    merges.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merges.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    whole = "".join(text for text, _ in render(TEXTS, "chat", tokenizer=tokenizer))
    merges.train_from_iterator([whole] * 5, trainer)
    trained = PreTrainedTokenizerFast(tokenizer_object=merges, **FAMILIES[name][1])
    trained.chat_template = tokenizer.chat_template
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(TEXTS)]
    encoded = encode_conversation(turns, trained, template="chat", num_image_tokens=2)
    is_learned = encoded.labels != IGNORE_INDEX
    assert trained.decode(encoded.input_ids[is_learned]) == "".join(LEARNED[name])
    prompt = encode_conversation(turns[:3], trained, template="chat", num_image_tokens=2, is_prompt=True).input_ids
    assert prompt.tolist() == encoded.input_ids[: len(prompt)].tolist()
    assert is_learned[len(prompt)]
    assert not is_learned[len(prompt) - 1]


def test_families_stop_at_the_mark_that_they_learn(family):
    name, tokenizer = family
    assert LEARNED[name][0].endswith("." + find_stop("chat", tokenizer))


def test_stop_of_a_base_model_is_its_template_s_mark():
    """Qwen2.5's base models end texts with another token than the chat template that they carry ends turns with."""
    tokenizer = chat_tokenizer(CHATML, eos_token="<|endoftext|>", additional_special_tokens=["<|im_end|>"])
    assert find_stop("chat", tokenizer) == "<|im_end|>"


def test_stop_is_found_behind_the_answer_not_in_its_opening():
    tokenizer = chat_tokenizer("{% for m in messages %}bot a b {{ m.content }}</b>\n{% endfor %}", eos_token="</b>")
    assert find_stop("chat", tokenizer) == "</b>"


def test_the_day_of_the_run_is_in_no_prompt():
    """LLaMA-3.2's template asks the clock; samples would change over night, and cached ones would not."""
    dated = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    tokenizer = chat_tokenizer(dated + "Today: {{ date_string }}\n" + CHATML, eos_token="<|im_end|>")
    assert render(["a", "b"], "chat", has_images=False, tokenizer=tokenizer)[0][0].startswith("Today: 26 Jul 2024\n")


def test_stop_of_a_template_without_a_mark_is_the_end_of_sequence():
    tokenizer = chat_tokenizer("{% for m in messages %}{{ m.content }}\n{% endfor %}", eos_token="</s>")
    assert find_stop("chat", tokenizer) == "</s>"


@pytest.mark.parametrize("template", TEMPLATES)
def test_stop_of_a_named_template_is_its_own(template):
    assert find_stop(template, chat_tokenizer(None)) == TEMPLATES[template].stop


@pytest.mark.parametrize("has_tokenizer", [False, True])
def test_chat_without_a_chat_template(has_tokenizer):
    tokenizer = chat_tokenizer(None, eos_token="<|im_end|>") if has_tokenizer else None
    assert error_of(["a", "b"], "chat", tokenizer=tokenizer) == (
        "template 'chat': the tokenizer has no chat template; name one of vicuna_v1, plain, llama_2, v0, v1_mmtag, mpt"
    )


def test_chat_template_that_refuses_the_conversation():
    """Templates call raise_exception for what they cannot hold; Jinja's own error names no record."""
    tokenizer = chat_tokenizer("{{ raise_exception('only system turns') }}", eos_token="</s>")
    assert "only system turns" in error_of(["a", "b"], "chat", tokenizer=tokenizer)


def test_chat_without_any_question(chatml):
    """An empty list of messages is refused by transformers with a plain ValueError, which names no record."""
    assert error_of([Turn("gpt", "Only me.")], "chat", tokenizer=chatml)
