"""Guards: a plan of a model that two ranks hold together, or each whole, that is not what their run takes.

Measured is as in `tests/planning/test_memory_plan.py`. 15 % is asked for. Seen were 7 % at most, and from run to run of
the same settings up to 7 % of difference: how early the next layer is gathered depends on which rank waits.
"""

import json
import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("planned_memory.py")
FULL, LORA = {"decoder": "full"}, {"decoder": "lora"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "recomputation", "precision", "trainable"),
    [
        pytest.param("fsdp2", "full", "bf16-mixed", FULL, id="fsdp2-full-bf16"),
        pytest.param("fsdp2", "none", "bf16-mixed", FULL, id="fsdp2-none-bf16"),
        pytest.param("fsdp2", "full", "32-true", FULL, id="fsdp2-full"),
        pytest.param("fsdp2", "none", "32-true", FULL, id="fsdp2-none"),
        pytest.param("fsdp2", "full", "bf16-mixed", LORA, id="fsdp2-lora-bf16"),
        pytest.param("ddp", "none", "bf16-mixed", FULL, id="ddp-none-bf16"),
    ],
)
def test_peak(mid_parts, run, strategy, recomputation, precision, trainable):
    output = run(SCRIPT, mid_parts, strategy, recomputation, precision, json.dumps(trainable))
    planned, measured = map(int, re.search(r"PEAKS (\d+) (\d+)", output).groups())
    assert planned == pytest.approx(measured, rel=0.15)
