"""Guards: a plan that does not follow from its configuration."""

from types import SimpleNamespace

import pytest
import yaml

from llava_pl.app.load_data import load_run
from llava_pl.planning.planner import plan_run
from llava_pl.planning.run_plan import GIB, Assumptions


@pytest.fixture
def plan(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))

    def plan(*words, **assumptions):
        assumptions = {"device_memory_gib": 0.25} | assumptions  # looking for a micro batch of hundreds takes time
        run = load_run(["--config", "config.yaml", *words])
        return plan_run(run.module, run.data, run.config, Assumptions(**assumptions))

    return plan


def test_a_run_that_is_all_known(plan):
    found = plan(device_tflops=1.0, mfu=0.5)
    assert found.contradictions == []
    assert (found.spread.name, found.spread.num_ranks, found.samples_per_step) == ("ddp", 2, 8)
    assert (found.steps_per_epoch, found.steps, found.num_checkpoints) == (2, 6, 3)
    work = sum(part.forward + part.backward for part in found.work)
    assert found.work_per_step == 8 * work
    assert found.hours == pytest.approx(6 * 8 * work / (2 * 0.5e12) / 3600)
    assert found.largest_batch > 2
    assert found.memory.peak > found.memory.weights + found.memory.gradients // 2 + found.memory.states


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["--trainer.max_steps", "4"], 4),
        (["--trainer.fast_dev_run", "true"], 1),
        (["--trainer.overfit_batches", "2"], 3),
        (["--trainer.limit_train_batches", "0.5"], 3),
    ],
)
def test_steps(plan, words, steps):
    assert plan(*words).steps == steps


def test_contradictions_are_listed(plan):
    found = plan(
        "--trainer.accumulate_grad_batches", "1", "--data.init_args.is_packed", "true", "--model.decoder.attention",
        "eager", "--data.init_args.token_budget", "100", "--trainer.num_nodes", "8",
    )  # fmt: skip
    kinds = [line.partition(": ")[0] for line in found.contradictions]
    assert kinds == ["config.yaml", "data.records", "data.token_budget", "decoder"]
    assert found.contradictions[-1].startswith("decoder: packed rows need attention sdpa without a sliding window")
    assert (found.memory, found.largest_batch) == (None, None)


def test_too_little_memory(plan):
    found = plan(device_memory_gib=0.045, headroom=0.0)
    (line,) = found.contradictions
    assert line.startswith("data.batch_size: 2 samples of ")
    assert line.endswith("at most 1 fit")
    assert found.largest_batch == 1
    (line,) = plan(device_memory_gib=0.001).contradictions
    assert "not even one fits: divide the model (fsdp2), or recompute" in line


def test_tiles_are_counted_at_their_most(plan):
    whole, tiled = plan(), plan("--data.init_args.image_aspect", "anyres")
    assert tiled.work[0].forward == 5 * whole.work[0].forward  # the whole picture, and four tiles of 2 x 2


def test_a_store_of_features_is_planned_for_pictures_and_epochs(plan):
    found = plan("--data.init_args.feature_cache", "always").features
    assert (found.num_pictures, found.num_shown) == (1, 3 * 16)
    assert found.row_bytes == 64 * 64 * 4


def test_plain_values(plan):
    from llava_pl.app.plan_terminal import as_plain

    assert SimpleNamespace(**as_plain(plan())).spread["name"] == "ddp"


@pytest.mark.slow
def test_the_cheapest_recomputation_that_fits_is_named(plan):
    full = plan("--model.decoder.gradient_checkpointing", "full", "--data.batch_size", "16")
    assert (full.memory.peak_at, full.recompute) == ("backward", "none")
    tight = plan("--data.batch_size", "16", device_memory_gib=full.memory.peak / GIB, headroom=0.0)
    assert (tight.recompute, tight.memory.peak > full.memory.peak) == ("full", True)
