"""A conversation to the answer that comes next, piece by piece as the model writes it.

In: turns with their pictures, and how to choose words. Out: pieces of text; joined they are the whole answer.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from llava_pl.data.clip_pixels import look_up
from llava_pl.data.conversation import find_stop
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.models.llava import LlavaModel
from llava_pl.types import InputError, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BROKEN = "\ufffd"
"""What a tokenizer writes for a letter of which not all bytes are there yet."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How words are chosen.

    Args:
        max_new_tokens: An answer is cut after that many tokens.
        temperature: 0 takes the likeliest word each time; higher ones take others more often.
        top_p: Words are drawn from the likeliest ones that together have this share.
        seed: The same answer for the same seed, on the same machine; None for another one each time.

    Raises:
        InputError: A number is out of its range.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens: expected at least 1, found {self.max_new_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature: expected 0 or more, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p: expected more than 0 and at most 1, found {self.top_p}")

    def options(self) -> dict[str, Any]:
        """Return what transformers' ``generate`` calls this."""
        if self.temperature == 0:
            return {"max_new_tokens": self.max_new_tokens, "do_sample": False}
        drawn = {"do_sample": True, "temperature": float(self.temperature), "top_p": self.top_p, "top_k": 0}
        return {"max_new_tokens": self.max_new_tokens, **drawn}


def stream_answer(
    model: LlavaModel,
    encoder: SampleEncoder,
    turns: Sequence[Turn],
    pictures: Sequence[Image.Image],
    sampling: Sampling,
) -> Generator[str]:
    """Yield the answer to the last turn as it is written; closing the iterator ends the writing.

    Args:
        model: In eval mode.
        encoder: As the model was trained with.
        turns: Questions and answers in turn, a question last; image slots stand where pictures are shown.
        pictures: One for each slot, RGB.
        sampling: How words are chosen.

    Raises:
        InputError: The prompt cannot be encoded, or is longer than the model can read.
    """
    prompt = encoder.encode_turns(turns, pictures)
    length = len(prompt.input_ids) + sampling.max_new_tokens
    model.decoder.check_length(length, "begin a new conversation, or lower max_new_tokens")
    pixel_values = prompt.pixel_values
    if prompt.value_of_level is not None:
        pixel_values = look_up(pixel_values, prompt.value_of_level)
    device = next(model.parameters()).device
    pieces = Pieces(encoder.tokenizer, find_stop(encoder.template, encoder.tokenizer))

    def write() -> None:
        try:
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            model.generate(
                prompt.input_ids[None].to(device),
                pixel_values.to(device),
                grids=prompt.grids,
                eos_token_id=encoder.tokenizer.eos_token_id,
                pad_token_id=encoder.tokenizer.pad_token_id,
                streamer=pieces,
                stopping_criteria=[pieces.is_stopped],
                **sampling.options(),
            )
        except BaseException as error:
            pieces.fail(error)
        else:
            pieces.close()

    thread = Thread(target=write, daemon=True)
    thread.start()
    try:
        yield from pieces
    finally:
        pieces.stop.set()
        thread.join()


class Pieces:
    """What `generate` writes into and others read from: transformers' streamer, its criterion to stop, an iterator.

    A piece is given out once it cannot change any more: a letter whose bytes are not all there, white space at the end
    and what may become the text that ends an answer are held back.

    Args:
        tokenizer: To read the words.
        stop_text: Ends an answer; it is cut off.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_text: str) -> None:
        self.stop = Event()
        self._tokenizer, self._stop_text = tokenizer, stop_text
        self._ids: list[int] = []
        self._num_given = 0
        self._queue: SimpleQueue[str | BaseException | None] = SimpleQueue()

    def put(self, ids: Tensor) -> None:
        """Take the next tokens; what comes first is the prompt, of which embeddings alone are known."""
        self._ids += ids.flatten().tolist()
        self._give(self._text(), is_whole=False)

    def end(self) -> None:
        """Do nothing: `close` follows, or `fail`."""

    def is_stopped(self, input_ids: Tensor, scores: object) -> Tensor:
        """Return whether the answer is to end here, bool ``(B,)``."""
        del scores
        is_ended = self.stop.is_set() or self._has_stop_text()
        return torch.full((len(input_ids),), is_ended, dtype=torch.bool, device=input_ids.device)

    def close(self) -> None:
        """Give out the rest."""
        self._give(self._text(), is_whole=True)
        self._queue.put(None)

    def fail(self, error: BaseException) -> None:
        """Have an error raised where the pieces are read."""
        self._queue.put(error)

    def __iter__(self) -> Iterator[str]:
        """Yield the pieces as they come."""
        while (piece := self._queue.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def _has_stop_text(self) -> bool:
        if not self._stop_text:
            return False
        tail = self._ids[-len(self._stop_text.encode()) - 1 :]
        return self._stop_text in self._tokenizer.decode(tail, clean_up_tokenization_spaces=False)

    def _text(self) -> str:
        text = str(self._tokenizer.decode(self._ids, skip_special_tokens=True))
        return (text.partition(self._stop_text)[0] if self._stop_text else text).strip()

    def _give(self, text: str, *, is_whole: bool) -> None:
        if not is_whole:
            text = text.rstrip(BROKEN)
            held = next((n for n in range(len(self._stop_text), 0, -1) if text.endswith(self._stop_text[:n])), 0)
            text = text[: len(text) - held].rstrip()
        if piece := text[self._num_given :]:
            self._num_given = len(text)
            self._queue.put(piece)
