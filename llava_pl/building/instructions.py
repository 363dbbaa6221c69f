"""Descriptions to the instructions of stage `finetune`: what to ask a teacher, and what is learned of its replies.

In: descriptions, prompts, and the replies that are there. Out: a `Written` for each reply: a record, or why it is none.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llava_pl.building.descriptions import Description
from llava_pl.building.faults import find_faults
from llava_pl.building.objects import Objects
from llava_pl.building.prompts import Kind, Prompt
from llava_pl.building.reply_store import ReplyStore, Teacher, hash_request
from llava_pl.building.turns import Fault, Pairs, parse_written
from llava_pl.building.wordings import put_picture
from llava_pl.endpoint import Message, Reply


@dataclass(frozen=True, slots=True)
class Request:
    """What a teacher is asked about a picture.

    Args:
        name: Hash of all that decides the reply.
        prompt: How it is asked.
        description: Of the picture.
    """

    name: str
    prompt: Prompt
    description: Description

    @property
    def kind(self) -> Kind:
        """What it is asked for."""
        return self.prompt.kind

    @property
    def messages(self) -> list[Message]:
        """What it is sent; made when it is asked for, as half a million of them fill the memory."""
        return self.prompt.messages(self.description)


@dataclass(frozen=True, slots=True)
class Written:
    """What a teacher wrote about a picture.

    Args:
        request: What it was asked.
        text: What it wrote.
        record: A record as in LLaVA's files; None where the text has no turns.
        faults: Why it must not be learned from; empty where nothing is wrong.
    """

    request: Request
    text: str
    record: dict[str, Any] | None
    faults: list[Fault] = field(default_factory=list)


def make_requests(descriptions: Iterable[Description], prompts: Sequence[Prompt], teacher: Teacher) -> list[Request]:
    """Return all that a teacher is to be asked: of each picture one of each kind."""
    return [
        Request(hash_request(teacher, prompt.messages(description)), prompt, description)
        for description in descriptions
        for prompt in prompts
    ]


def check_written(
    requests: Sequence[Request],
    store: ReplyStore,
    objects: Objects,
    wordings: Sequence[str],
    seed: int,
    accepted_reasons: Collection[str] = (),
) -> Iterator[Written]:
    """Yield what became of each request that was answered, in their order.

    Args:
        requests: What was asked.
        store: What was written.
        objects: Which words name which category.
        wordings: What a detailed description answers is drawn from these.
        seed: Of all draws.
        accepted_reasons: Faults with which a text is taken all the same, so that one like it is a duplicate.
    """
    taken: dict[str, str] = {}
    for request in requests:
        reply = store.find(request.name)
        if reply is None:
            continue
        # The picture's whole name: a.jpg and a.png are two.
        name = f"{request.description.image}_{request.kind}"
        rng = random.Random(f"{seed} {name}")
        ending = _find_ending(reply)
        pairs = parse_written(request.kind, reply.text, rng.choice(wordings))
        if isinstance(pairs, Fault):
            # What is empty or has no form for being cut off has that reason alone.
            yield Written(request, reply.text, None, ending or [pairs])
            continue
        faults = [*ending, *find_faults(request.kind, pairs, request.description, objects)]
        text = " ".join(reply.text.split())
        if first := taken.get(text):
            faults.append(Fault("duplicate", f"the same text as {first}"))
        elif all(fault.reason in accepted_reasons for fault in faults):
            taken[text] = name
        yield Written(request, reply.text, _make_record(name, request.description.image, pairs, rng), faults)


def _find_ending(reply: Reply) -> list[Fault]:
    """Return why a reply ended otherwise than by itself."""
    if reply.finish == "stop":
        return []
    if reply.finish == "length":
        advice = "" if reply.text.strip() else " before it had a word; raise --max_tokens"
        return [Fault("cut_off", f"the reply was cut off at its greatest length{advice}")]
    return [Fault("stopped", f"the endpoint ended it with {reply.finish!r}")]


def _make_record(name: str, image: str, pairs: Pairs, rng: random.Random) -> dict[str, Any]:
    turns = [{"from": role, "value": text} for pair in pairs for role, text in zip(("human", "gpt"), pair, strict=True)]
    turns[0]["value"] = put_picture(turns[0]["value"], rng)
    return {"id": name, "image": image, "conversations": turns}
