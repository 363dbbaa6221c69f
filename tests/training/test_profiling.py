"""Guards: a profile that does not end up with its run, or whose rows say another thing than they name."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from llava_pl.cli import main
from llava_pl.run_folder import RUN_DIR_VARIABLE
from llava_pl.training.profiling import ROWS, StepProfiler
from llava_pl.types import InputError

OVERLAY = Path(__file__).parents[2] / "configs" / "debug" / "profile.yaml"


@pytest.fixture
def config(tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    turns = [{"from": "human", "value": "ab"}, {"from": "gpt", "value": "cd"}]
    (tmp_path / "records.json").write_text(json.dumps([{"id": n, "conversations": turns} for n in range(6)]))
    data = {"records": "records.json", "image_folder": ".", "batch_size": 1, "num_workers": 0}
    model = {**tiny_model, "decoder": {**tiny_model["decoder"], "gradient_checkpointing": "full"}}
    settings = {
        "model": model,
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": data},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return ["--config", "config.yaml", "--config", str(OVERLAY), "--run_dir", "run"]


def test_a_run(config, tmp_path, caplog):
    """With layers that are computed again, and memory."""
    options = [f"--trainer.profiler.init_args.{name}" for name in ("wait=1", "warmup=1", "active=2", "memory=true")]
    assert main(["fit", *config, "--trainer.max_steps", "5", *options]) == 0
    (trace,) = (tmp_path / "run").glob("*.pt.trace.json")
    names = [event["name"] for event in json.loads(trace.read_text())["traceEvents"]]
    for part in ("decoder", "head"):
        assert sum(name.endswith(f": {part}") for name in names) == 2, part
    printed = caplog.text
    head, *rows = printed[printed.index("time of the host") :].partition("\n\n")[0].splitlines()
    assert head.split()[-2:] == ["step", "share"]
    shares = {row[:20].rstrip(): float(row.split()[-1].rstrip("%")) for row in rows}
    assert list(shares) == [*ROWS, "update", "rest"]
    assert min(shares[row] for row in ("forward", "  decoder", "backward", "update")) > 0
    assert shares["  vision encoder"] == 0  # there are no pictures
    assert "Self CPU Mem" in printed


@pytest.mark.parametrize("num_steps", [0, 1, 3, 5, 9])
def test_a_run_may_end_before_or_while_it_is_recorded(num_steps, tmp_path):
    profiler = StepProfiler(wait=2, warmup=2, active=2, dirpath=str(tmp_path))
    with profiler.profile("run_training_epoch"):
        for _ in range(num_steps):
            with profiler.profile("[Strategy]One.training_step"):
                torch.ones(3).sum()
    is_recorded = num_steps > 4
    assert profiler.summary().startswith("\ntime of the host" if is_recorded else "profile: nothing was recorded; ")
    profiler.teardown("fit")
    assert len(list(tmp_path.iterdir())) == is_recorded


@pytest.mark.parametrize(("name", "number", "least"), [("wait", -1, 0), ("warmup", -1, 0), ("active", 0, 1)])
def test_impossible_numbers_of_micro_batches_are_refused(name, number, least):
    message = rf"^profiler\.{name}: expected at least {least} micro batches, found {number}$"
    with pytest.raises(InputError, match=message):
        StepProfiler(**{name: number})


def event(name, start, end):
    return SimpleNamespace(name=name, cpu_time_total=end - start, time_range=SimpleNamespace(start=start, end=end))


def test_rows_of_a_step():
    """Recording begins and ends within a step of the optimizer; in it the second one is whole."""
    profiler = StepProfiler()
    profiler.function_events = [
        event("ProfilerStep#5", 0, 50_000), event("ProfilerStep#6", 50_000, 100_000),
        event("[pl][profile][Strategy]One.backward", 0, 10_000),
        event("[pl][profile][_TrainingEpochLoop].train_dataloader_next", 20_000, 25_000),
        event("Optimizer.step#AdamW.step", 30_000, 75_000),
        event("[pl][profile][Strategy]One.training_step", 30_000, 50_000),
        event("[pl][module]some.Encoder: vision_encoder", 31_000, 35_000),
        event("[pl][profile][Strategy]One.backward", 50_000, 60_000),
        event("[pl][profile][Callback]StepLog.on_before_optimizer_step", 61_000, 62_000),
        event("[pl][profile][_TrainingEpochLoop].train_dataloader_next", 76_000, 79_000),
        event("Optimizer.step#AdamW.step", 80_000, 100_000),
        event("[pl][profile][Strategy]One.training_step", 80_000, 100_000),
    ]  # fmt: skip
    rows = [row.rsplit(maxsplit=2) for row in profiler._summarize_step().splitlines()[1:]]
    assert rows == [
        ["wait for data", "4.00", "8.0%"],
        ["to the device", "0.00", "0.0%"],
        ["forward", "20.00", "40.0%"],
        ["  vision encoder", "2.00", "4.0%"],
        ["  projector", "0.00", "0.0%"],
        ["  decoder", "0.00", "0.0%"],
        ["  head", "0.00", "0.0%"],
        ["  cross entropy", "0.00", "0.0%"],
        ["backward", "10.00", "20.0%"],
        ["update", "13.00", "26.0%"],
        ["rest", "3.00", "6.0%"],
    ]
