"""Conversation to segments: which characters the model reads, and which of them it must learn to say.

In: the turns of a record and the name of a template. Out: a list of `Segment`: prompt text, answer text (supervised),
image slots.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from llava_pl.data.templates import TEMPLATES, Template, TemplateName
from llava_pl.types import IMAGE_END, IMAGE_SLOT, IMAGE_START, InputError, RecordError, Segment, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render_conversation(
    turns: Sequence[Turn],
    template: TemplateName,
    *,
    has_images: bool,
    tokenizer: PreTrainedTokenizerBase | None = None,
    image_start_end: bool = False,
    is_prompt: bool = False,
) -> list[Segment]:
    """Return the segments of a conversation; joined, their texts are the whole prompt.

    Args:
        turns: Alternating human and gpt turns. LLaVA: turns before the first question are left out.
        template: One of `TEMPLATES`, or "chat" for the tokenizer's own Jinja template.
        has_images: Whether ``<image>`` marks a slot; if not it is literal text.
        tokenizer: Needed for "chat" only.
        image_start_end: Put ``<im_start>`` and ``<im_end>`` around each slot.
        is_prompt: The last question is to be answered: end where the answer begins.

    Raises:
        RecordError: Turns do not alternate, an answer is empty, or the template cannot hold this conversation.
        InputError: There is no such template.
    """
    turns = _check_alternation(turns, is_prompt=is_prompt)
    if template != "chat" and template not in TEMPLATES:
        raise InputError(f"template: expected one of {', '.join([*TEMPLATES, 'chat'])}, found {template!r}")
    image = IMAGE_SLOT if template == "chat" else TEMPLATES[template].image
    if has_images:
        mark = image.replace(IMAGE_SLOT, f"{IMAGE_START}{IMAGE_SLOT}{IMAGE_END}") if image_start_end else image
        turns = [Turn(turn.role, _place_image(turn.text).replace(IMAGE_SLOT, mark)) for turn in turns]
    if template == "chat":
        pieces = _render_chat(turns, tokenizer, is_prompt=is_prompt)
    elif TEMPLATES[template].is_caption:
        pieces = _render_caption(turns, TEMPLATES[template], is_prompt=is_prompt)
    else:
        pieces = _render_turns(turns, TEMPLATES[template], is_prompt=is_prompt)
    return _join(_split_images(pieces) if has_images else pieces)


def _check_alternation(turns: Sequence[Turn], *, is_prompt: bool) -> list[Turn]:
    first = next((index for index, turn in enumerate(turns) if turn.role == "human"), len(turns))
    for index, turn in enumerate(turns[first:], start=first):
        expected = "human" if (index - first) % 2 == 0 else "gpt"
        if turn.role != expected:
            found = f"expected a turn from {expected!r}, found one from {turn.role!r}"
            raise RecordError(f"turn {index}: {found}", "alternation")
        if turn.role == "gpt" and not turn.text:
            found = "the answer is empty; nothing can be learned from it, remove the record"
            raise RecordError(f"turn {index}: {found}", "empty_answer")
    if is_prompt and (first == len(turns) or turns[-1].role != "human"):
        raise InputError("conversation: expected a question as the last turn, found none to answer")
    return list(turns[first:])


def _place_image(text: str) -> str:
    """Return a turn's text with its image slot on a line of its own in front, as LLaVA trains.

    Unlike LLaVA, which keeps one slot however many there are, several slots stay where they are.
    """
    if text.count(IMAGE_SLOT) != 1:
        return text
    return f"{IMAGE_SLOT}\n{text.replace(IMAGE_SLOT, '').strip()}".strip()


def _render_turns(turns: Sequence[Turn], template: Template, *, is_prompt: bool) -> list[Segment]:
    pieces = [Segment(template.preamble, "prompt")]
    for index in range(0, len(turns), 2):
        before, after = (template.first_human or template.human) if index == 0 else template.human
        question = before + turns[index].text + after
        if index + 1 < len(turns):
            pieces += _split_exchange(question, turns[index + 1].text.join(template.answer), template)
        else:
            pieces.append(Segment(question, "prompt"))
    return [*pieces, Segment(template.gpt if is_prompt else template.closing, "prompt")]


def _split_exchange(question: str, answer: str, template: Template) -> list[Segment]:
    """Return the segments of a question with its answer.

    LLaVA: finds answers by searching each stretch up to an end mark for the one mark before an answer. Where a question
    holds these marks itself ("x [/INST] y </s>" teaches "y"; "ends with ASSISTANT:" teaches one more "ASSISTANT:") but
    the search stays unambiguous, its result is kept, because labels must be the original's. Where it does not, LLaVA
    masks the whole record; here the answer alone is supervised.
    """
    mark, end = f"{template.human[1]}{template.gpt} ", template.answer[1]
    stretches = [text + end for text in f"{question}{template.gpt}{answer}".split(end)[:-1]]
    if answer.startswith(" ") and all(stretch.count(mark) == 1 for stretch in stretches):
        borders = [(stretch, stretch.index(mark) + len(mark) - 1) for stretch in stretches]
    else:
        borders = [(question + template.gpt + answer, len(question + template.gpt))]
    return [
        segment
        for text, border in borders
        for segment in (Segment(text[:border], "prompt"), Segment(text[border:], "answer"))
    ]


def _render_caption(turns: Sequence[Turn], template: Template, *, is_prompt: bool) -> list[Segment]:
    if len(turns) != (1 if is_prompt else 2) or IMAGE_SLOT not in turns[0].text:
        raise RecordError(
            f"template 'plain': expected one question with '{IMAGE_SLOT}' and one caption; "
            "use another template for conversations"
        )
    slots = re.findall(re.escape(IMAGE_SLOT), turns[0].text)
    pieces = [Segment("".join(slots), "prompt")]
    if not is_prompt:
        pieces.append(Segment(turns[1].text + template.answer[1], "answer"))
    return pieces


def _render_chat(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase | None, *, is_prompt: bool) -> list[Segment]:
    """Return the segments of the tokenizer's own template: an answer is what a turn adds to the prompt before it.

    The supervised part ends with the first special token after the answer's text (the end of turn).
    """
    if tokenizer is None or not tokenizer.chat_template:
        raise InputError("template 'chat': the tokenizer has no chat template; name one of " + ", ".join(TEMPLATES))
    messages = [{"role": "user" if t.role == "human" else "assistant", "content": t.text} for t in turns]
    ends = "|".join(re.escape(token) for token in tokenizer.all_special_tokens)
    pieces: list[Segment] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] == "user":
            continue
        prompt = _apply(tokenizer, messages[:index], add_generation_prompt=True)
        full = _apply(tokenizer, messages[: index + 1], add_generation_prompt=False)
        if not prompt.startswith(done) or not full.startswith(prompt):
            raise RecordError(
                f"template 'chat': turn {index} rewrites the text of earlier turns, so that answers "
                "cannot be told from prompts; name one of " + ", ".join(TEMPLATES)
            )
        answer = full[len(prompt) :]
        text = message["content"].strip()
        # A template may shorten an answer (leave out its thoughts); then the first end mark after its start counts.
        after_text = answer.index(text) + len(text) if text in answer else 0
        end = re.search(ends, answer[after_text:]) if ends else None
        length = after_text + end.end() if end else len(answer)
        pieces += [Segment(prompt[len(done) :], "prompt"), Segment(answer[:length], "answer")]
        done = prompt + answer[:length]
    whole = _apply(tokenizer, messages, add_generation_prompt=is_prompt)
    return [*pieces, Segment(whole[len(done) :], "prompt")]


def _apply(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
    except (TemplateError, ValueError) as error:
        raise RecordError(f"template 'chat': the tokenizer's template refuses the conversation: {error}") from error


def _split_images(pieces: Sequence[Segment]) -> list[Segment]:
    return [
        Segment(text, "image" if text == IMAGE_SLOT else piece.kind)
        for piece in pieces
        for text in re.split(f"({re.escape(IMAGE_SLOT)})", piece.text)
    ]


def _join(pieces: Sequence[Segment]) -> list[Segment]:
    """Return the pieces with neighbouring prompts as one, so that borders are where supervision begins or ends."""
    joined: list[Segment] = []
    for piece in pieces:
        if joined and joined[-1].kind == piece.kind == "prompt":
            joined[-1] = Segment(joined[-1].text + piece.text, "prompt")
        elif piece.text:
            joined.append(piece)
    return joined
