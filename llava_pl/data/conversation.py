"""Conversation to segments: which characters the model reads, and which of them it must learn to say.

In: the turns of a record and the name of a template. Out: a list of `Segment`: prompt text, answer text (supervised),
image slots.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from llava_pl.data.templates import TEMPLATES, Template, TemplateName
from llava_pl.types import IMAGE_END, IMAGE_SLOT, IMAGE_START, InputError, RecordError, Segment, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "\ue000{}\ue001"
"""Stands for the answer of a turn; of characters that are no text's (Unicode keeps them for private use)."""

DATE = "26 Jul 2024"
"""The day that LLaMA-3.1 and 3.2 believe it is, as their templates have it where no clock is at hand."""

CHAT_SETTINGS: dict[str, Any] = {
    "enable_thinking": False,  # else the prompts of Qwen3 leave the thoughts to the model
    "date_string": DATE,  # else LLaMA-3.2 writes the day of the run
}
"""What a tokenizer's own template is told beside the messages."""


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


def find_stop(template: TemplateName, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that ends an answer: with "chat" the mark that the tokenizer's template puts there.

    That need not be the end-of-sequence token: a base model's tokenizer may hold the template of its chat model.
    """
    if template != "chat":
        return TEMPLATES[template].stop
    answer = PLACEHOLDER.format("")
    pieces = _render_chat([Turn("human", "a"), Turn("gpt", answer)], tokenizer, is_prompt=False)
    (text,) = [piece.text for piece in pieces if piece.kind == "answer"]
    return text.partition(answer)[2].strip() or str(tokenizer.eos_token)


def _render_chat(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase | None, *, is_prompt: bool) -> list[Segment]:
    """Return the segments of the tokenizer's own template, whose text is that of all turns at once.

    Where the answers lie in it is seen by rendering other answers in their places; no `{% generation %}` marks are
    needed. An answer begins where the prompt for it ends, and the supervised part ends with the first special token
    after the answer's text (the end of turn).
    """
    if tokenizer is None or not tokenizer.chat_template:
        raise InputError("template 'chat': the tokenizer has no chat template; name one of " + ", ".join(TEMPLATES))
    messages = [{"role": "user" if t.role == "human" else "assistant", "content": t.text} for t in turns]
    places = range(1, len(messages), 2)  # of the answers
    blank = [{**m, "content": PLACEHOLDER.format(i)} if i in places else m for i, m in enumerate(messages)]
    around = _split(places, _apply(tokenizer, blank, add_generation_prompt=is_prompt))
    whole = _apply(tokenizer, messages, add_generation_prompt=is_prompt)
    answers = _find_answers([messages[place]["content"] for place in places], around, whole)
    ends = "|".join(re.escape(token) for token in tokenizer.all_special_tokens)
    pieces: list[Segment] = []
    rest = around[0]  # what stands before the next answer and is not yet in a piece
    for number, (place, answer) in enumerate(zip(places, answers, strict=True)):
        # The prompt, and what closes the turn, as they are written where nothing follows.
        prompt = _split(places[:number], _apply(tokenizer, blank[:place], add_generation_prompt=True))[-1]
        closing = _split(places[: number + 1], _apply(tokenizer, blank[: place + 1], add_generation_prompt=False))[-1]
        before, after = around[number : number + 2]
        # A prompt may add what a finished turn does not have: Qwen3 shows thoughts, if only that there are none, in the
        # last turn alone.
        if not (before.startswith(prompt) or prompt.startswith(before)) or not after.startswith(closing):
            raise _unclear(place)
        opening = before[len(prompt) :]
        end = re.search(ends, closing) if ends else None
        length = end.end() if end else len(closing)
        pieces.append(Segment(rest.removesuffix(opening), "prompt"))
        pieces.append(Segment(opening + answer + closing[:length], "answer"))
        rest = after[length:]
    return [*pieces, Segment(rest, "prompt")]


def _split(places: Sequence[int], text: str) -> list[str]:
    """Return the texts around the placeholders of some turns."""
    parts = []
    for place in places:
        before, mark, text = text.partition(PLACEHOLDER.format(place))
        if not mark:
            raise _unclear(place)
        parts.append(before)
    return [*parts, text]


def _find_answers(contents: Sequence[str], around: Sequence[str], whole: str) -> list[str]:
    """Return the answers as a text has them: as they are, stripped, or shortened (without their thoughts)."""
    answers = []
    position = 0
    for number, content in enumerate(contents):
        before, after = around[number : number + 2]
        start = position + len(before)
        is_before = whole.startswith(before, position)
        if number + 1 == len(contents):
            position = len(whole) - len(after)
        else:
            exact = [text for text in (content, content.strip()) if whole.startswith(text + after, start)]
            position = start + len(exact[0]) if exact else whole.find(after, start)
        if not is_before or position < start or not whole.startswith(after, position):
            raise _unclear(2 * number + 1)
        answers.append(whole[start:position])
    return answers


def _unclear(turn: int) -> RecordError:
    return RecordError(
        f"template 'chat': turn {turn} changes the text around it, so that answers cannot be told from prompts; "
        "name one of " + ", ".join(TEMPLATES)
    )


def _apply(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **CHAT_SETTINGS,
        )
    except (TemplateError, ValueError) as error:
        raise RecordError(f"template 'chat': the tokenizer's template refuses the conversation: {error}") from error
    return str(text)


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
