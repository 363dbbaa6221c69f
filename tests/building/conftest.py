"""What a teacher wrote of some pictures."""

import pytest

from llava_pl.building.descriptions import Box, Description
from llava_pl.building.instructions import Request, Written
from llava_pl.building.prompts import Prompt
from llava_pl.building.turns import Fault


def _write(kind, number, *reasons, has_record=True):
    description = Description(f"{number}.png", ("A <dog>.",), (Box("dog", (0.25, 0.25, 0.75, 0.75)),))
    record = {"id": f"{number}_{kind}", "image": description.image, "conversations": []} if has_record else None
    faults = [Fault(reason, "a <cat>") for reason in reasons]
    return Written(Request(f"hash {number}", Prompt(kind, "", ()), description), f"text {number}", record, faults)


@pytest.fixture
def written():
    return [
        _write("conversation", 0),
        _write("detailed", 1, "object", "length"),
        _write("conversation", 2),
        _write("detailed", 3, "object"),
        _write("conversation", 4, "form", has_record=False),
        _write("reasoning", 5),
    ]
