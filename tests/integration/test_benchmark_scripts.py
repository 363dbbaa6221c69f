"""Guards: a benchmark that breaks unseen, because it is run once in months and on a machine that is not here."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Import a script."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def dry(load, tmp_path, *words):
    found = load("gpu").main([*words, "--dry", "--samples", "2", "--steps", "1", "--out", str(tmp_path / "rows.jsonl")])
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["words"]["run"] == words[0]
    assert row["versions"].keys() == {"torch", "transformers", "lightning", "peft"}
    return found


def test_gpu_trains(load, tmp_path, capsys):
    found = dry(load, tmp_path, "finetune", "--rows", "padded", "--peak_tflops", "1e-3")
    assert (found["samples"], found["steps"]) == (2, 1)
    assert found["mfu"] == pytest.approx(found["operations"] / found["seconds"] / 1e9)
    assert found["planned_bytes"] > 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("| finetune (dry) | CPU | ")


def test_gpu_answers(load, tmp_path):
    found = dry(load, tmp_path, "evaluate")
    assert found["one_by_one_over_batched"] == found["seconds_one_by_one"] / found["seconds"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["align"],
        ["finetune"],
        ["lora", "--recompute", "selective"],
        ["finetune", "--recompute", "none", "--logits", "all"],
        ["finetune", "--decoder", "attention=eager", "--rows", "padded"],
        ["align", "--peer", "transformers"],
        ["finetune", "--peer", "transformers", "--rows", "padded"],
    ],
    ids=" ".join,
)
def test_gpu_trains_in_every_way(load, tmp_path, monkeypatch, words):
    monkeypatch.setattr("llava_pl.models.llava.supervised_loss", load("llava_pl.models.loss").supervised_loss)
    assert dry(load, tmp_path, *words)["samples"] == 2


def test_loader(load, monkeypatch, tmp_path):
    monkeypatch.setenv("LLAVA_PL_CACHE", str(tmp_path))  # which the script sets for itself
    assert load("loader").main(["--records", "3", "--batch_size", "2", "--rounds", "1", "--workers", "0"])[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("curve", ["tokens", "pictures", "supervised", "words"])
def test_memory_grows_as_planned(load, tmp_path, curve):
    """Bytes depend on no clock; 5 % is as in `tests/planning/test_memory_plan.py`."""
    script = load("cost_curves")
    (points,) = script.main(["--scale", "0.1", "--rounds", "1", "--only", curve, "--output", str(tmp_path)]).values()
    values = [point.value for point in points]
    planned, measured = ([getattr(p, name) for p in points] for name in ("planned_bytes", "peak_bytes"))
    assert measured == pytest.approx(planned, rel=0.05)
    assert script.slope(values, measured) == pytest.approx(script.slope(values, planned), rel=0.05)
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "points.json", "figure.svg"}


@pytest.mark.slow
def test_runs_with_and_without_a_store_of_features_are_compared(load, monkeypatch, capsys):
    """The script itself ends where their losses differ."""
    script = load("feature_cache")
    monkeypatch.setattr(script, "QUICK", script.Size(encoder_layers=4, num_epochs=2, num_problems=4, num_rounds=1))
    script.main(["--threads", "1"])
    # Two pictures of 256 patches of width 1,024, in float32, with 20 bytes of hashes each.
    first, second, *table = capsys.readouterr().out.splitlines()
    assert first.endswith("1 threads; store 2,097,192 bytes")
    assert second == "8 losses equal within 1e-6, 8 of them digit by digit"
    assert [row.split()[1] for row in table[2:]] == ["live", "fills", "finds"]


@pytest.mark.parametrize(
    "words",
    [
        ["finetune", "--peer", "transformers"],  # packed rows, which it does not take
        ["lora", "--rows", "padded", "--peer", "transformers"],
        ["evaluate", "--peer", "transformers"],
        ["align", "--logits", "all", "--peer", "transformers"],
    ],
    ids=" ".join,
)
def test_a_peer_is_asked_only_for_what_it_does(load, capsys, words):
    with pytest.raises(SystemExit):
        load("gpu").main([*words, "--dry"])
    assert "--peer: expected finetune or align with --rows padded" in capsys.readouterr().err
