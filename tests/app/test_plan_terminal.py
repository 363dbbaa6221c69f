"""Guards: numbers that the terminal shows in the wrong row or unit."""

import io
import re
from dataclasses import replace

from rich.console import Console

from llava_pl.app.plan_terminal import as_plain, print_plan
from llava_pl.models.work import Work
from llava_pl.planning.data_facts import DataFacts
from llava_pl.planning.memory import HostMemory, RankMemory
from llava_pl.planning.run_plan import GIB, Assumptions, RunPlan
from llava_pl.planning.spread import Spread
from llava_pl.training.feature_worth import FeatureWorth
from llava_pl.training.stages import PartSummary

PLAN = RunPlan(
    stage="finetune",
    spread=Spread("ddp", 2, 4),
    parts=[PartSummary("projector", 1000, 1000, "float32"), PartSummary("decoder", 0, 7000, "nf4, float32")],
    memory=RankMemory(1 * GIB, 2 * GIB, 3 * GIB, 4 * GIB, 5 * GIB, 14 * GIB, "backward"),
    host=HostMemory(6 * GIB, 7 * GIB, 8 * GIB, 9 * GIB),
    num_checkpoints=3,
    batch_size=16,
    largest_batch=21,
    recompute="selective",
    samples_per_step=128,
    data=DataFacts(None, 800.0, 2048, 2048, 224.0, 1472, 0.0, "mix.json: cannot be read [link]"),
    work=[Work("decoder", 2 * 10**12, 4 * 10**12, 10**12), Work("head", 10**12, 0)],
    work_per_step=5 * 10**15,
    steps_per_epoch=None,
    steps=None,
    hours=None,
    assumptions=Assumptions(device_memory_gib=20, headroom=0.5),
    contradictions=["data.max_length: too long"],
    features=FeatureWorth(1024, 4096, 1.0, 10.0, 2**19),
)


def test_rows():
    out = io.StringIO()
    print_plan(PLAN, Console(file=out, width=120))
    rows = [re.findall(r"[^│┃]+", line) for line in out.getvalue().splitlines() if line.startswith(("│", "┃"))]
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert table["all"] == ["3.000", "4.000", "1.000"]  # of the table of work; that of parameters has one, too
    assert table["projector"] == ["1,000", "1,000", "float32"]
    memory = {name: table[name][0] for name in ("weights", "gradients", "optimizer states", "whole for a time")}
    assert memory == {"weights": "1.00", "gradients": "2.00", "optimizer states": "3.00", "whole for a time": "4.00"}
    assert table["activations"] == ["5.00"]
    assert table["a device at most (backward)"] == ["14.00"]
    assert table["a device has (50% less)"] == ["10.00"]
    assert table["samples at once that fit"] == ["21"]
    assert table["gradient_checkpointing that is enough"] == ["selective"]
    assert [table[f"a host{place}"] for place in (" while loading", ", offloaded", " while saving")] == [
        ["6.00"], ["7.00"], ["8.00"],
    ]  # fmt: skip
    assert table["disk for 3 of them"] == ["27.00"]
    assert table["disk for the features of 1,024 pictures"] == ["0.50"]
    assert table["steps of the run"] == ["unknown"]
    assert table["TFLOP of a step"] == ["5,000.0"]
    assert table["hours at 40% of 312 TFLOPS a device"] == ["unknown"]
    assert "memory, strategy ddp on 8 devices, 16 samples at once" in " ".join(out.getvalue().split())
    text = " ".join(out.getvalue().split())
    assert "all text learned: mix.json: cannot be read [link] contradiction: data.max_length: too long" in text


def test_plain():
    plain = as_plain(PLAN)
    assert plain["memory"]["peak_at"] == "backward"
    assert plain["spread"]["num_nodes"] == 2


def test_search_that_was_given_up_claims_no_more():
    out = io.StringIO()
    print_plan(replace(PLAN, largest_batch=1024), Console(file=out, width=120))
    assert "1,024 or more" in out.getvalue()
