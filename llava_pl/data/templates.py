"""The conversation templates, as data: adding one is adding an entry.

The texts are what published checkpoints were trained with: a changed character is another prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llava_pl.types import IMAGE_SLOT

TemplateName = Literal["vicuna_v1", "plain", "llama_2", "v0", "v1_mmtag", "mpt", "chat"]


@dataclass(frozen=True, slots=True)
class Template:
    """How turns become text.

    A conversation reads ``preamble``, then for each exchange ``human[0]`` question ``human[1]``, ``gpt``, ``answer[0]``
    text ``answer[1]``.

    Args:
        preamble: Text before the first turn.
        human: What stands before and after a question.
        gpt: What stands before an answer and is still prompt.
        answer: What stands before and after the answer's text and is supervised with it; the second is the end mark.
        first_human: As ``human``, for the first question, where it differs.
        closing: Text after the last turn.
        image: What an image slot is written as.
        is_caption: The question is replaced by its image slot alone (stage `align`).
    """

    preamble: str
    human: tuple[str, str]
    gpt: str
    answer: tuple[str, str]
    first_human: tuple[str, str] | None = None
    closing: str = ""
    image: str = IMAGE_SLOT
    is_caption: bool = False

    @property
    def stop(self) -> str:
        """The text that ends an answer."""
        return self.answer[1].strip() or self.answer[1]


_CURIOUS_USER = "A chat between a curious user and an artificial intelligence assistant. "
_CURIOUS_HUMAN = "A chat between a curious human and an artificial intelligence assistant. "
_POLITE = "The assistant gives helpful, detailed, and polite answers to the {}'s questions."
_SEES = (
    "able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)

TEMPLATES: dict[str, Template] = {
    "vicuna_v1": Template(
        preamble=_CURIOUS_USER + _POLITE.format("user") + " ",
        human=("USER: ", " "),
        gpt="ASSISTANT:",
        answer=(" ", "</s>"),
    ),
    "plain": Template(preamble="", human=("", ""), gpt="", answer=("", "\n"), is_caption=True),
    "llama_2": Template(
        preamble="",
        first_human=(
            f"[INST] <<SYS>>\nYou are a helpful language and vision assistant. You are {_SEES}\n<</SYS>>\n\n",
            " [/INST]",
        ),
        human=("<s>[INST] ", " [/INST]"),
        gpt="",
        answer=(" ", " </s>"),
    ),
    "v0": Template(
        preamble=_CURIOUS_HUMAN + _POLITE.format("human") + "\n\n",
        first_human=("### Human: ", "\n"),
        human=(" Human: ", "\n"),
        gpt="### Assistant:",
        # Unlike LLaVA: its mask drifts by one token per turn (a BOS counted each time) and also teaches the model to
        # say "### Assistant:". Here the answer and the "###" that ends it are supervised, nothing else.
        answer=(" ", "\n###"),
        closing=" ",
    ),
    "v1_mmtag": Template(
        # LLaVA: no space between the second and the third sentence.
        preamble=f"{_CURIOUS_USER}The assistant is {_SEES}The visual content will be provided with the following "
        "format: <Image>visual content</Image>. ",
        human=("USER: ", " "),
        gpt="ASSISTANT:",
        answer=(" ", "</s>"),
        image=f"<Image>{IMAGE_SLOT}</Image>",
    ),
    "mpt": Template(
        preamble="<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
        "The assistant gives helpful and honest answers.<|im_end|>",
        human=("<|im_start|>user\n", "<|im_end|>"),
        gpt="<|im_start|>assistant\n",
        answer=("", "<|im_end|>"),
    ),
}
