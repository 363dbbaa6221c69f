"""Guards: runs that are not the user's own, that write into the user's folders, or are judged too mildly."""

import json
from pathlib import Path

import pytest
import yaml

from llava_pl.app.verify.invariance_plan import plan_invariance
from llava_pl.app.verify.invariance_splits import Split, Validation
from llava_pl.cli import main
from llava_pl.lightning_cli import LlavaCLI, run_lightning
from llava_pl.types import InputError


@pytest.fixture
def config(tmp_path, tiny_model, monkeypatch):
    """A configuration with forty records, of which nine are validated."""
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    records = [{"id": str(number), "conversations": turns} for number in range(40)]
    (tmp_path / "records.json").write_text(json.dumps(records))
    (tmp_path / "val.json").write_text(json.dumps(records[:9]))
    data = {"records": "records.json", "val_records": "val.json", "image_folder": ".", "batch_size": 2}
    settings = {
        "model": tiny_model,
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": {**data, "eval_batch_size": 4}},
        "trainer": {"accelerator": "cpu", "devices": 1, "accumulate_grad_batches": 4, "strategy": "ddp"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    return ["--config", "config.yaml"]


def test_splits_and_validation(config):
    plan = plan_invariance(config)
    assert plan.splits == (Split(1, 4, 2), Split(2, 2, 2), Split(1, 8, 1))
    assert (plan.num_steps, plan.validation) == (4, Validation(9, 4))
    assert (plan.tolerance, plan.reason, plan.notes) == (1e-5, "trainer.precision 32-true", ())
    plan = plan_invariance(config, ranks=[4], num_steps=9, num_validated=4, tolerance=0.1)
    # A batch of four on each of four ranks are all nine.
    assert (plan.splits[1], plan.num_steps, plan.validation) == (Split(4, 1, 2), 5, Validation(9, 4))
    assert (plan.tolerance, plan.reason) == (0.1, "--tolerance")
    assert plan.notes == ("5 steps instead of 9: an epoch has 40 samples, a step 8",)


@pytest.mark.parametrize(
    ("words", "notes"),
    [
        (
            ["--trainer.accumulate_grad_batches", "3"],
            ["a step has 8 samples here, 6 in the configuration: its micro batches must be a multiple of 2"],
        ),
        (["--trainer.devices", "2", "--trainer.accumulate_grad_batches", "1"], []),
        (["--data.batch_size", "1"], ["data.batch_size is 1, so that no smaller micro batches are compared"]),
        (["--data.val_records", "null"], ["nothing is validated: data.val_records is not given"]),
        (
            ["--trainer.callbacks", "lightning.pytorch.callbacks.LearningRateMonitor"],
            ["trainer.callbacks take no part: they may end a run, or write elsewhere"],
        ),
        (["--seed_everything", "true"], ["seed_everything is 0 here: each run would draw other weights"]),
        (["--seed_everything", "false"], ["seed_everything is 0 here: each run would draw other weights"]),
        (["--seed_everything", "7"], []),
        (
            ["--model.trainable.decoder", "lora"],
            [
                "model.lora.dropout is 0 here, 0.05 in the configuration: what is dropped is drawn anew by each rank "
                "and micro batch"
            ],
        ),
        (
            ["--model.projector", "qformer"],
            ["the projector's dropout is 0 here: what is dropped is drawn anew by each rank and micro batch"],
        ),
        (
            ["--model.loss_normalization", "micro_batch"],
            [
                "model.loss_normalization micro_batch is a mean of the micro batches' own means: by definition it "
                "depends on how a step is split, and is expected to differ; --model.loss_normalization global verifies "
                "all else"
            ],
        ),
    ],
    ids=lambda value: value[0][:30] if value else "",
)
def test_what_is_not_as_configured_is_said(config, words, notes):
    assert list(plan_invariance([*config, *words]).notes) == notes


@pytest.mark.parametrize(
    ("words", "tolerance", "reason"),
    [
        (["--trainer.precision", "64-true"], 1e-6, "trainer.precision 64-true"),
        (["--trainer.precision", "32"], 1e-5, "trainer.precision 32-true"),
        (["--trainer.precision", "bf16-mixed"], 5e-3, "trainer.precision bf16-mixed"),
        (["--trainer.precision", "bf16-true"], 2e-2, "trainer.precision bf16-true"),
        (["--model.frozen_dtype", "bfloat16"], 5e-3, "model.frozen_dtype bfloat16"),
        (
            ["--trainer.strategy", "deepspeed_stage_2", "--trainer.precision", "bf16-mixed"],
            2e-2,
            "trainer.precision bf16-mixed under DeepSpeed",
        ),
        (["--float32_matmul_precision", "high"], 5e-3, "float32_matmul_precision high"),
    ],
)
def test_tolerance_is_that_of_the_coarsest_numbers(config, words, tolerance, reason):
    plan = plan_invariance([*config, *words])
    assert (plan.tolerance, plan.reason) == (tolerance, reason)
    expected = [f"{reason} hides small differences; --trainer.precision 32-true --model.frozen_dtype float32 "]
    assert [note[: len(expected[0])] for note in plan.notes] == expected * (tolerance > 1e-5)


def test_a_step_that_the_data_does_not_have(config):
    with pytest.raises(InputError, match="data: 40 samples to train on, expected at least two steps of 24"):
        plan_invariance([*config, "--data.batch_size", "6"])


def test_one_rank_alone_can_take_smaller_micro_batches(config):
    assert plan_invariance(config, ranks=[1]).splits == (Split(1, 4, 2), Split(1, 8, 1))
    with pytest.raises(InputError, match=r"found 1; nothing would be compared$"):
        plan_invariance([*config, "--data.batch_size", "1"], ranks=[1])


def test_a_checkpoint_to_go_on_from_is_refused(config, capsys):
    assert main(["verify", "invariance", *config, "--ckpt_path", "last"]) == 2
    assert capsys.readouterr().err == (
        "llava-pl: error: ckpt_path: last: expected none, because each run begins anew; give the weights to start from "
        "as --model.init_from\n"
    )


class ParsedCLI(LlavaCLI):
    """`fit` as far as its settings."""

    def before_instantiate_classes(self) -> None:
        """Choose nothing."""

    def instantiate_classes(self) -> None:
        """Make nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def test_a_run_stays_in_its_folder_and_keeps_all_else(config, tmp_path):
    """Parsed as `fit` parses it, on top of whatever the user says."""
    own = ["--run_dir", "mine", "--trainer.logger", "lightning.pytorch.loggers.CSVLogger"]
    own += ["--trainer.logger.save_dir", "mine"]
    own += ["--trainer.callbacks+", "lightning.pytorch.callbacks.ModelCheckpoint"]
    own += ["--trainer.gradient_clip_val", "0.5", "--trainer.devices", "2", "--trainer.fast_dev_run", "true"]
    own += ["--model.lora.rank", "4", "--model.trainable.decoder", "lora"]
    plan = plan_invariance([*config, *own], num_validated=4)
    for split in plan.splits:
        overlay = tmp_path / "overlay.yaml"
        overlay.write_text(yaml.safe_dump(plan.settings(split, Path("there") / split.folder)))
        found = run_lightning(["fit", *config, *own, "--config", str(overlay)], ParsedCLI).config.fit
        assert (found.run_dir, found.ckpt_path) == (f"there/{split.folder}", None)
        assert (found.save_every_n_steps, found.save_every_minutes, found.save_in_background) == (None, None, False)
        trainer, data = found.trainer, found.data.init_args
        assert (trainer.logger, trainer.callbacks, trainer.profiler, trainer.fast_dev_run) == (None, None, None, False)
        assert (trainer.devices, trainer.accumulate_grad_batches) == (split.num_ranks, split.num_micro_batches)
        assert trainer.strategy == ("auto" if split.num_ranks == 1 else "ddp")
        assert (trainer.max_steps, trainer.val_check_interval) == (2, 2 * split.num_micro_batches)
        assert trainer.gradient_clip_val == 0.5
        assert (found.model.lora.rank, found.model.lora.dropout) == (4, 0.0)
        assert (data.batch_size, data.records) == (split.batch_size, "records.json")
        # Each of two ranks has four or five: batches of four would become smaller ones.
        assert data.eval_batch_size == plan.validation.batch_size == 3
        assert trainer.limit_val_batches == plan.validation.num_batches // split.num_ranks


def test_devices_that_are_named_stay_these(config):
    plan = plan_invariance([*config, "--trainer.devices", "[0, 3]", "--trainer.accelerator", "auto"])
    assert plan.splits[:2] == (Split(1, 8, 2), Split(2, 4, 2))
    assert [plan.settings(split, Path("x"))["trainer"]["devices"] for split in plan.splits[:2]] == [[0], [0, 3]]
