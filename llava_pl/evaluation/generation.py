"""Prompts to answers: written greedily, or the choice that is most likely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypedDict, cast, get_args

from PIL import Image
from torch import Tensor

from llava_pl.data.clip_pixels import look_up_pixels
from llava_pl.data.collate import collate
from llava_pl.data.conversation import find_stop
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.data.scienceqa import OPTION_LETTERS
from llava_pl.data.tokenization import tokenize_conversation
from llava_pl.models.llava import LlavaModel
from llava_pl.models.prompts import Prompts
from llava_pl.types import IGNORE_INDEX, IMAGE_SLOT, Batch, InputError, Question, Sample, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Method = Literal["generate", "likelihood"]


@dataclass(frozen=True)
class GenerationConfig:
    """How answers are generated; greedily, so that they can be compared.

    Args:
        max_new_tokens: Answers are cut after that many tokens.
        method: "generate" has the model write its answer, as the original does. "likelihood" takes the letter of the
            choice that it would most likely begin to write: faster, always an answer, and another measure.
    """

    max_new_tokens: int = 1024
    method: Method = "generate"

    def __post_init__(self) -> None:
        """Refuse a length that leaves no room for an answer, and a method that does not exist."""
        if self.max_new_tokens < 1:
            raise InputError(f"model.generation.max_new_tokens: expected at least 1, found {self.max_new_tokens}")
        if self.method not in get_args(Method):
            expected = " or ".join(get_args(Method))
            raise InputError(f"model.generation.method: expected {expected}, found {self.method!r}")


class Answers(TypedDict, total=False):
    """The answers to a batch of questions: ``texts``, and the ``scores`` by letter that chose them, if these did."""

    texts: list[str]
    scores: list[dict[str, float]]


def answer_questions(model: LlavaModel, batch: Batch, encoder: SampleEncoder, config: GenerationConfig) -> Answers:
    """Return the answers to the questions of a left-padded batch.

    Args:
        model: In eval mode.
        batch: Prompts, padded on the left.
        encoder: That made the prompts.
        config: How they are answered.
    """
    if config.method == "generate":
        stop = find_stop(encoder.template, encoder.tokenizer)
        return {"texts": generate_answers(model, batch, encoder.tokenizer, config, stop=stop)}
    for question in batch["questions"]:
        if not 0 < len(question.choices) <= len(OPTION_LETTERS):
            raise InputError(
                f"model.generation.method: likelihood needs 1 to {len(OPTION_LETTERS)} choices, found "
                f"{len(question.choices)} of question {question.id!r}; choose generate"
            )
    letters = [OPTION_LETTERS[: len(question.choices)] for question in batch["questions"]]
    ids = {letter: tokenize_answer(letter, encoder) for letter in set("".join(letters))}
    scores = model.score(_prompts(batch), [[ids[letter] for letter in row] for row in letters])
    by_letter = [dict(zip(row, values, strict=True)) for row, values in zip(letters, scores, strict=True)]
    return {"texts": [max(row, key=row.__getitem__) for row in by_letter], "scores": by_letter}


def generate_answers(
    model: LlavaModel, batch: Batch, tokenizer: PreTrainedTokenizerBase, config: GenerationConfig, *, stop: str = "</s>"
) -> list[str]:
    """Return what the model says to each prompt of a left-padded batch.

    Args:
        model: In eval mode.
        batch: Prompts, padded on the left.
        tokenizer: To read the answers.
        config: Length of the answers.
        stop: Text that ends an answer; it is cut off.
    """
    num_tail = len(stop.encode()) + 1  # tokens that can hold a part of it, and one before them

    def is_stopped(ids: list[int]) -> bool:
        return stop in tokenizer.decode(ids[-num_tail:], clean_up_tokenization_spaces=False)

    answers = model.answer(
        _prompts(batch),
        max_new_tokens=config.max_new_tokens,
        end_ids=(tokenizer.eos_token_id,),
        is_ended=is_stopped if stop and stop != tokenizer.eos_token else None,
    )
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    return [text.split(stop)[0].strip() if stop else text.strip() for text in texts]


def ask_about_picture(
    model: LlavaModel,
    encoder: SampleEncoder,
    picture: Image.Image,
    prompts: Sequence[str],
    config: GenerationConfig,
    *,
    batch_size: int = 16,
) -> list[str]:
    """Return the answers to many prompts about one picture, which is read once for each batch of them.

    Args:
        model: In eval mode.
        encoder: As the model was trained with.
        picture: What all prompts are about.
        prompts: Questions in words; an image slot is put in front where there is none.
        config: Length of the answers.
        batch_size: Prompts that are answered together.
    """
    samples: list[Sample] = []
    for number, prompt in enumerate(prompts):
        text = prompt if IMAGE_SLOT in prompt else f"{IMAGE_SLOT}\n{prompt}"
        shown = samples[0] if samples else picture
        sample = encoder.encode_question(Question(str(number), text, (), 0), shown)
        samples.append(replace(sample, picture="the same"))
    order = sorted(range(len(samples)), key=lambda place: -len(samples[place].input_ids))
    stop = find_stop(encoder.template, encoder.tokenizer)
    device = next(model.parameters()).device
    answers: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = collate(
            [samples[place] for place in places],
            pad_token_id=encoder.tokenizer.pad_token_id,
            num_image_tokens=encoder.num_image_tokens,
            padding_side="left",
        )
        moved = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
        batch = cast("Batch", {**batch, **moved})
        texts = generate_answers(model, batch, encoder.tokenizer, config, stop=stop)
        answers |= dict(zip(places, texts, strict=True))
    return [answers[place] for place in range(len(samples))]


def _prompts(batch: Batch) -> Prompts:
    batch = look_up_pixels(batch)
    return Prompts(
        batch["input_ids"],
        batch["attention_mask"],
        batch["pixel_values"],
        batch.get("grids", ()),
        batch.get("pictures", ()),
    )


def tokenize_answer(text: str, encoder: SampleEncoder) -> list[int]:
    """Return the ids of an answer as the template writes it behind a prompt, without its end mark.

    Raises:
        InputError: The tokenizer joins the end of the answer with the mark.
    """
    turns = [Turn("human", "?"), Turn("gpt", text)]
    tokenized = tokenize_conversation(turns, encoder.tokenizer, template=encoder.template, has_images=False)
    ids: list[int] = tokenized.labels[tokenized.labels != IGNORE_INDEX].tolist()
    for end in range(1, len(ids) + 1):
        if str(encoder.tokenizer.decode(ids[:end])).strip() == text:
            return ids[:end]
    raise InputError(
        f"model.generation.method: likelihood needs answers that end where a token does, found {text!r} joined with "
        f"what template {encoder.template!r} writes behind it; use generate"
    )
