"""What the processes of `train_step.py` share: samples, and the steps of a trainer's own loop as rounds.

Needs torch alone, because each process has an environment of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from harness import Channel
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

NAME = re.compile(r"(?:mm_|multi_modal_)?(projector\.\w+|layers\.|embed_tokens|norm\.|lm_head).*")
NUM_STEPS = 1000
"""More than anyone asks for. The samples are there as many times, so that they are one epoch."""
LEARNING_RATES = {"align": 1e-3, "finetune": 2e-5}
NUM_IMAGE_TOKENS = 576


def read_samples(folder: Path) -> list[dict[str, Tensor]]:
    """Return the samples, each with one mark for its picture, as the original takes them."""
    samples: list[dict[str, Tensor]] = torch.load(folder / "samples.pt")
    return samples


def read_expanded(folder: Path, image_id: int) -> list[dict[str, Tensor]]:
    """Return the samples with as many marks, of a given id, as a picture has image tokens."""
    samples = read_samples(folder)
    for sample in samples:
        is_text = sample["input_ids"] >= 0
        times = torch.where(is_text, 1, NUM_IMAGE_TOKENS)
        sample["input_ids"] = sample["input_ids"].where(is_text, torch.tensor(image_id)).repeat_interleave(times)
        sample["labels"] = sample["labels"].repeat_interleave(times)
    return samples


def plain_name(name: str) -> str:
    """Return one name for a parameter, whatever model it is in.

    >>> plain_name("model.multi_modal_projector.linear_2.bias"), plain_name("decoder.model.model.layers.3.mlp.x")
    ('projector.2.bias', 'layers.3.mlp.x')
    """
    found = NAME.search(name)
    assert found, name
    plain = found.group().removeprefix("mm_").removeprefix("multi_modal_")
    return plain.replace("linear_1", "0").replace("linear_2", "2")


class StepRounds:
    """The steps of a trainer's own loop, each of them run when it is asked for.

    A round lasts from the beginning of a step to the beginning of the next one: forward and backward pass, clipping,
    update, schedule and log, and fetching and collating the next micro batch from samples in memory.

    Args:
        parameters: Returns the named parameters of the model.
    """

    def __init__(self, parameters: Callable[[], Iterable[tuple[str, Tensor]]]) -> None:
        self.loss: Any = None
        self._parameters = parameters
        self._channel = Channel()

    def begin(self) -> None:
        """Answer for the step before, and wait until the next one is asked for."""
        if self.loss is not None:
            self._channel.answer(loss=float(self.loss), num_threads=torch.get_num_threads())
        request = self._channel.wait()
        if request is None:
            raise SystemExit
        if request["do"] == "check":
            self._gradients_path = request["path"]
            self._hook = register_optimizer_step_post_hook(self._write_gradients)

    def _write_gradients(self, *_: Any) -> None:  # noqa: ANN401
        # After the update, because Lightning runs the backward pass within it.
        self._hook.remove()
        gradients = {plain_name(name): p.grad for name, p in self._parameters() if p.grad is not None}
        torch.save(gradients, self._gradients_path)
