"""Guards the order that the original trains in: index by index, for every recorded list, batch size and seed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_pl.data.ordering import length_order, modality_length_order, spread_evenly
from llava_pl.types import InputError

NUM_CASES = 18


@pytest.fixture(scope="module")
def expected(golden_path: Path) -> dict[str, Any]:
    return json.loads((golden_path / "sampler" / "expected.json").read_text(encoding="utf-8"))


def seeded(seed: int) -> torch.Generator:
    """The original draws from torch's global generator, which yields the same as one of our own with its seed."""
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("number", range(NUM_CASES))
def test_orders_are_the_original_s(expected, number):
    case = expected["cases"][number]
    lengths, sizes = expected["lists"][case["list"]], (case["batch_size"], case["world_size"])
    absolute, seed = [abs(length) for length in lengths], case["seed"]
    assert modality_length_order(lengths, *sizes, seeded(seed)) == case["modality_global_seed"]
    assert (
        modality_length_order(lengths, *sizes, seeded(seed), batch_generator=seeded(seed + 1))
        == case["modality_global_seed_and_generator"]
    )
    assert length_order(absolute, *sizes, seeded(seed)) == case["length_global_seed"]
    assert length_order(absolute, *sizes, seeded(seed + 1)) == case["length_generator"]


def test_every_case_is_compared(expected):
    assert len(expected["cases"]) == NUM_CASES
    assert {case["list"] for case in expected["cases"]} == expected["lists"].keys()


def test_chunks_are_the_original_s(expected):
    assert expected["split_to_even_chunks"]
    for call in expected["split_to_even_chunks"]:
        assert spread_evenly(call["indices"], call["lengths"], call["num_chunks"]) == call["chunks"]


def test_odd_inputs(expected):
    """A length of zero stops the original with an assertion; here the message names the sample."""
    assert expected["edge"]["zero_length"]["error"] == "AssertionError"
    with pytest.raises(InputError, match="sample 1 has length 0"):
        modality_length_order(expected["edge"]["zero_length"]["lengths"], 2, 2, seeded(0))
    assert modality_length_order([], 2, 2, seeded(0)) == expected["edge"]["empty"]["result"]
