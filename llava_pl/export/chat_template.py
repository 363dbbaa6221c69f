"""A conversation template of this project as Jinja, for programs that know no other: the same prompt, token for token.

In: the settings of the data and the tokenizer. Out: the text of `chat_template.jinja`. Messages hold a string with
``<image>`` where pictures are, or a list of parts, of which pictures come first.
"""

from __future__ import annotations

import json

from transformers import PreTrainedTokenizerBase

from llava_pl.data.conversation import CHAT_SETTINGS
from llava_pl.data.settings import DataSettings
from llava_pl.data.templates import TEMPLATES
from llava_pl.types import IMAGE_END, IMAGE_SLOT, IMAGE_START, InputError

# A message's content becomes what a turn is here: one string, its only picture on a line of its own in front.
_CONTENT = """\
{%- if message['content'] is string -%}
  {%- set part = namespace(text=message['content']) -%}
{%- else -%}
  {%- set part = namespace(text='') -%}
  {%- for item in message['content'] if item['type'] in ('image', 'image_url') -%}
    {%- set part.text = part.text + '<image>\\n' -%}
  {%- endfor -%}
  {%- for item in message['content'] if item['type'] == 'text' -%}
    {%- set part.text = part.text + item['text'] -%}
  {%- endfor -%}
{%- endif -%}
{%- if part.text.split('<image>') | length == 2 -%}
  {%- set part.text = ('<image>\\n' + part.text.replace('<image>', '').strip()).strip() -%}
{%- endif -%}
{%- set part.text = part.text.replace('<image>', MARK) -%}
"""

_TURNS = """\
{%- set prompt = namespace(text=PREAMBLE, human=FIRST_HUMAN) -%}
{%- for message in messages -%}
  {%- if message['role'] not in ('user', 'assistant') -%}
    {{- raise_exception('this model was trained with one system text alone; leave the system message out') -}}
  {%- endif -%}
CONTENT
  {%- if message['role'] == 'user' -%}
    {%- set prompt.text = prompt.text + QUESTION -%}
    {%- set prompt.human = HUMAN -%}
  {%- else -%}
    {%- set prompt.text = prompt.text + GPT + ANSWER[0] + part.text + ANSWER[1] -%}
  {%- endif -%}
{%- endfor -%}
{%- set prompt.text = prompt.text + (GPT if add_generation_prompt else CLOSING) -%}
"""

# Text after a picture is tokenized as a text of its own, which for LLaMA's newer tokenizer means: as after a space.
# Nothing stands between a picture and its mark.
_SPACES = """\
{%- set prompt.text = prompt.text.replace('<image>', '<image> ') -%}
{%- set prompt.text = prompt.text.replace('<image> <image>', '<image><image>').replace('<image> <im', '<image><im') -%}
{%- if prompt.text[-8:] == '<image> ' -%}{%- set prompt.text = prompt.text[:-1] -%}{%- endif -%}
{%- if prompt.text[:7] != '<image>' -%}{%- set prompt.text = ' ' + prompt.text -%}{%- endif -%}
"""

_FLATTEN = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
CONTENT
  {%- set flat.messages = flat.messages + [dict(message, content=part.text)] -%}
{%- endfor -%}
{%- set messages = flat.messages %}"""


def make_chat_template(settings: DataSettings, tokenizer: PreTrainedTokenizerBase, *, adds_spaces: bool) -> str:
    """Return the Jinja text that writes the prompts of training, the begin mark included.

    Args:
        settings: Which template, and whether marks stand around pictures.
        tokenizer: Whose own template "chat" is, and whether there is a begin mark.
        adds_spaces: Put a space after the begin mark and after each picture, for tokenizers that would otherwise not
            see there the start of a text.

    Raises:
        InputError: The template is "chat", and the tokenizer has none.
    """
    marked = f"{IMAGE_START}{IMAGE_SLOT}{IMAGE_END}" if settings.image_start_end else IMAGE_SLOT
    if settings.template == "chat":
        if not isinstance(tokenizer.chat_template, str):
            raise InputError("template 'chat': the tokenizer has no chat template; give it one")
        told = "".join(f"{{%- set {name} = {_text(value)} -%}}\n" for name, value in CHAT_SETTINGS.items())
        return told + _FLATTEN.replace("CONTENT\n", _CONTENT.replace("MARK", _text(marked))) + tokenizer.chat_template
    template = TEMPLATES[settings.template]
    question = "prompt.human[0] + part.text + prompt.human[1]"
    if template.is_caption:  # of the question its pictures alone, without their marks
        question = f"{_text(IMAGE_SLOT)} * (part.text.split({_text(marked)}) | length - 1)"
    values = {
        "FIRST_HUMAN": _pair(template.first_human or template.human),
        "PREAMBLE": _text(template.preamble),
        "QUESTION": question,
        "ANSWER": _pair(template.answer),
        "CLOSING": _text(template.closing),
        "HUMAN": _pair(template.human),
        "GPT": _text(template.gpt),
        "CONTENT\n": _CONTENT.replace("MARK", _text(template.image.replace(IMAGE_SLOT, marked))),
    }
    text = _TURNS
    for name, value in values.items():
        text = text.replace(name, value)
    begins = "{{- bos_token -}}\n" if _has_begin_mark(tokenizer) else ""
    return text + (_SPACES if adds_spaces else "") + begins + "{{- prompt.text -}}"


def _has_begin_mark(tokenizer: PreTrainedTokenizerBase) -> bool:
    frame = tokenizer.backend_tokenizer.encode("", add_special_tokens=True).ids
    return bool(frame[:1] == [tokenizer.bos_token_id])


def _text(value: object) -> str:
    """Return a text, or true or false, as Jinja writes it; its escapes are those of JSON."""
    return json.dumps(value)


def _pair(texts: tuple[str, str]) -> str:
    return f"({_text(texts[0])}, {_text(texts[1])})"
