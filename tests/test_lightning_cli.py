"""Guards: a run that does not start from its own config, dies on its second start, or ignores the command line."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from llava_pl.cli import main
from llava_pl.export.build import build_model
from llava_pl.run_folder import RUN_DIR_VARIABLE
from llava_pl.training import module
from llava_pl.training.background import HostCopy
from llava_pl.training.rehearsal import FROZEN_DTYPES


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)


@pytest.fixture
def config(tmp_path, tiny_model):
    """A config file for a tiny run on four records, and the same records as validation data."""
    Image.new("RGB", (20, 12), (200, 40, 40)).save(tmp_path / "red.png")
    turns = [{"from": "human", "value": "<image>\nColour?"}, {"from": "gpt", "value": "red"}]
    records = [{"id": index, "image": "red.png", "conversations": turns} for index in range(4)]
    (tmp_path / "records.json").write_text(json.dumps(records))
    settings = {
        "model": tiny_model,
        "data": {
            "class_path": "llava_pl.LlavaDataModule",
            "init_args": {
                "records": "records.json",
                "val_records": "records.json",
                "image_folder": ".",
                "batch_size": 2,
                "num_workers": 0,
            },
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1, "enable_progress_bar": False},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def copies(monkeypatch):
    """A copy for each save in the background."""
    made, take = [], HostCopy.take
    monkeypatch.setattr(HostCopy, "take", lambda *words: made.append(take(*words)) or made[-1])
    return made


def only_run(root):
    (folder,) = (root / "runs" / "run").iterdir()
    return folder


def test_a_run_leaves_config_checkpoint_and_metrics(config, tmp_path):
    assert main(["fit", "--config", str(config)]) == 0
    run = only_run(tmp_path)
    assert (run / "checkpoints" / "last.ckpt").resolve().name == "step=2.ckpt"
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [float(row["train/loss"]) > 0 for row in rows if row["train/loss"]] == [True, True]
    assert [row["val/loss"] != "" for row in rows if row["val/loss"]] == [True]
    columns = {"train/grad_norm", "lr/decay", "lr/no_decay", "perf/tokens_per_s", "perf/data_wait"}
    assert columns <= set(rows[0])


def test_the_saved_config_gives_the_same_run_again(config, tmp_path):
    main(["fit", "--config", str(config), "--run_dir", "first"])
    assert main(["fit", "--config", "first/config.yaml", "--run_dir", "second"]) == 0
    first, second = (yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("first", "second"))
    assert first == second
    losses = [
        [row["train/loss"] for row in csv.DictReader((tmp_path / name / "metrics.csv").open())]
        for name in ("first", "second")
    ]
    assert losses[0] == losses[1]


def test_a_second_run_gets_its_own_folder(config, tmp_path):
    for _ in range(2):
        assert main(["fit", "--config", str(config), "--trainer.max_steps", "1"]) == 0
        os.environ.pop(RUN_DIR_VARIABLE)
    assert len(list((tmp_path / "runs" / "run").iterdir())) == 2


def test_a_run_into_an_old_folder_keeps_the_old_metrics(config, tmp_path):
    for _ in range(2):
        assert main(["fit", "--config", str(config), "--run_dir", "here"]) == 0
        shutil.rmtree(tmp_path / "here" / "checkpoints")  # as if it had been killed before the first one
    assert (tmp_path / "here" / "metrics.csv").is_file()
    assert (tmp_path / "here" / "metrics-1.csv").is_file()


def test_a_new_run_does_not_start_among_old_checkpoints(config, tmp_path, capsys):
    words = ["fit", "--config", str(config), "--trainer.max_steps", "1", "--run_dir"]
    assert main([*words, "here"]) == 0
    assert main([*words, "other"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "here").rglob("*") if path.is_file()}
    for more in ([], ["--ckpt_path", "other/checkpoints/last.ckpt"]):
        assert main([*words, "here", *more]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            "llava-pl: error: run_dir: here: expected a folder without checkpoints, found step=1.ckpt of an earlier "
            "run; go on with that run by --ckpt_path last (or auto), or choose another --run_dir"
        )
    assert {path: path.read_bytes() for path in (tmp_path / "here").rglob("*") if path.is_file()} == before


def test_auto_begins_and_goes_on_with_the_same_command(config, tmp_path, capsys):
    words = ["fit", "--config", str(config), "--run_dir", "here", "--ckpt_path", "auto", "--trainer.max_epochs"]
    assert main([*words, "1"]) == 0
    assert "llava-pl: ckpt_path: auto: no checkpoint in here, starting from the beginning\n" in capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "here" / "config.yaml").read_text())["ckpt_path"] is None
    assert main([*words, "2"]) == 0
    assert "llava-pl: ckpt_path: auto: going on with here/checkpoints/last.ckpt\n" in capsys.readouterr().err
    rows = csv.DictReader((tmp_path / "here" / "metrics.csv").open())
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [0, 1, 2, 3]


@pytest.mark.parametrize("logger", ["true", "false"])
def test_auto_after_a_kill_before_the_first_checkpoint(config, tmp_path, logger):
    words = ["fit", "--config", str(config), "--run_dir", "here", "--ckpt_path", "auto"]
    main(words)
    shutil.rmtree(tmp_path / "here" / "checkpoints")
    assert main([*words, "--trainer.logger", logger]) == 0
    assert {"ledger-1", "data-1.json", "metrics-1.csv"} <= {path.name for path in (tmp_path / "here").iterdir()}
    if logger == "false":
        return
    rows = csv.DictReader((tmp_path / "here" / "metrics.csv").open())
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [0, 1]


def test_a_run_that_has_ended_holds_its_folder_no_more(config, tmp_path):
    """A notebook lives on, and the next run may be another process'."""
    assert main(["fit", "--config", str(config), "--run_dir", "here"]) == 0
    code = "import fcntl; fcntl.lockf(open('here/.lock', 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_a_second_run_beside_the_first_is_refused_before_it_writes(config, tmp_path, capsys):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "metrics.csv").write_text("step,train/loss\n")
    hold = "f = open('here/.lock', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", f"import fcntl; {hold}"], cwd=tmp_path, **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        before = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
        assert main(["fit", "--config", str(config), "--run_dir", "here"]) == 2
        process.kill()
    message = "expected a folder in which no run is at work, found one; wait until it ends"
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"llava-pl: error: run_dir: here: {message}")
    assert {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit"], "ckpt_path: auto: expected the folder of the run as well, found no --run_dir; give one, the same"),
        (["validate", "--run_dir", "x"], "ckpt_path: auto: expected 'last', the path of a checkpoint or, for fit,"),
    ],
)
def test_auto_where_it_means_nothing(config, capsys, words, message):
    assert main([*words, "--config", str(config), "--ckpt_path", "auto"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"llava-pl: error: {message}")


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_help_says_what_ckpt_path_means_here(capsys, command):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help", "all"])
    text = " ".join(capsys.readouterr().out.split())
    assert "'auto', for fit: go on with the run of --run_dir if it has a checkpoint, else begin it" in text
    assert "hpc" not in text


def test_a_damaged_log_and_a_damaged_config_do_not_keep_a_run_from_going_on(config, tmp_path):
    words = ["fit", "--config", str(config), "--run_dir", "here"]
    main([*words, "--trainer.max_epochs", "1"])
    garbage = bytes(range(256))
    for name in ("metrics.csv", "config.yaml"):
        (tmp_path / "here" / name).write_bytes(garbage)
    with (
        pytest.warns(UserWarning, match=r"here/metrics.csv: damaged .*; kept as metrics-1.csv, the log goes on"),
        pytest.warns(UserWarning, match=r"here/config.yaml: cannot be read .it is no text.; it stays, the settings of"),
    ):
        assert main([*words, "--trainer.max_epochs", "2", "--ckpt_path", "last"]) == 0
    assert [(tmp_path / "here" / name).read_bytes() for name in ("metrics-1.csv", "config.yaml")] == [garbage] * 2
    assert yaml.safe_load((tmp_path / "here" / "config-1.yaml").read_text())["trainer"]["max_epochs"] == 2
    rows = csv.DictReader((tmp_path / "here" / "metrics.csv").open())
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [2, 3]


def test_the_command_line_beats_the_checkpoint(config, tmp_path):
    # Stock LightningCLI would go on with the value stored in the checkpoint, without a word.
    main(["fit", "--config", str(config), "--run_dir", "fit"])
    words = ["--config", str(config), "--ckpt_path", "fit/checkpoints/last.ckpt", "--run_dir", "val"]
    assert (
        main(["validate", *words, "--model.generation.max_new_tokens", "7", "--model.generation.method", "likelihood"])
        == 0
    )
    used = yaml.safe_load((tmp_path / "val" / "config.yaml").read_text())["model"]
    assert used["generation"] == {"max_new_tokens": 7, "method": "likelihood"}


def test_blind_asks_with_every_kind_of_picture(config, tmp_path):
    assert main(["validate", "--config", str(config), "--run_dir", "val", "--blind"]) == 0
    used = yaml.safe_load((tmp_path / "val" / "config.yaml").read_text())["data"]["init_args"]
    assert used["image_sources"] == ["own", "other", "grey", "none"]
    assert "torch" in json.loads((tmp_path / "val" / "environment.json").read_text())["packages"]


def test_validate_uses_the_weights_of_the_checkpoint(config, tmp_path):
    main(["fit", "--config", str(config), "--run_dir", "fit"])
    words = ["--config", str(config), "--ckpt_path", "fit/checkpoints/last.ckpt", "--run_dir", "val"]
    assert main(["validate", *words]) == 0
    fit, val = (list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("fit", "val"))
    trained = [float(row["val/loss"]) for row in fit if row["val/loss"]]
    assert float(val[-1]["val/loss"]) == pytest.approx(trained[-1], rel=1e-6)


def test_init_from_starts_stage_finetune_with_the_aligned_projector(config, tmp_path):
    import torch

    main(["fit", "--config", str(config), "--model.stage", "align", "--run_dir", "align"])
    aligned = torch.load("align/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[1] for name in aligned} == {"projector"}
    words = ["--model.init_from", "align/checkpoints/last.ckpt", "--model.optim.learning_rate", "0"]
    main(["fit", "--config", str(config), *words, "--run_dir", "finetune"])
    tuned = torch.load("finetune/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tuned[name], tensor) for name, tensor in aligned.items())


@pytest.mark.parametrize("option", ["eval_batch_size", "token_budget", "max_length"])
def test_number_that_a_data_module_refuses_is_one_line(config, capsys, option):
    assert main(["fit", "--config", str(config), f"--data.{option}", "0", "--run_dir", "run"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (f"llava-pl: error: data.{option}: expected at least 1, found 0")


def test_tiles_from_fit_to_validate(config, tmp_path):
    import torch

    tiles = ["--config", str(config), "--data.image_aspect", "anyres"]
    main(["fit", *tiles, "--run_dir", "fit"])
    kept = torch.load("fit/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert kept["model.image_newline"].shape == (32,)
    assert main(["validate", *tiles, "--ckpt_path", "fit/checkpoints/last.ckpt", "--run_dir", "val"]) == 0
    fit, val = (list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("fit", "val"))
    trained = [float(row["val/loss"]) for row in fit if row["val/loss"]]
    assert float(val[-1]["val/loss"]) == pytest.approx(trained[-1], rel=1e-6)
    # The saved file says it again, without the model's part.
    again = yaml.safe_load((tmp_path / "fit" / "config.yaml").read_text())
    assert (again["data"]["init_args"]["image_aspect"], again["model"].get("has_newline")) == ("anyres", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.batch_size", "0"], "data.batch_size: expected at least 1, found 0"),
        (["--data.grid_pinpoints", "[[16, 32]]"], "data.grid_pinpoints: found 'pad' as data.image_aspect"),
        (["--data.image_aspect", "anyres", "--data.grid_pinpoints", "[]"], "grid_pinpoints: expected pairs of width "),
        (["--data.image_aspect", "anyres", "--data.grid_pinpoints", "[[16, 30]]"], "grid_pinpoints: expected pairs of"),
        (
            ["--data.image_aspect", "anyres", "--model.vision_encoder.select_feature", "cls_patch"],
            "image_aspect anyres: expected a square number of image tokens per tile, found 5; set model.",
        ),
    ],
)
def test_data_settings_that_cannot_be_are_one_line(config, capsys, words, message):
    assert main(["fit", "--config", str(config), *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"llava-pl: error: {message}")


def test_missing_checkpoint_is_one_line(config, capsys):
    assert main(["validate", "--config", str(config), "--ckpt_path", "nowhere.ckpt"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "llava-pl: error: ckpt_path: nowhere.ckpt: no such file; check the path"
    )


def test_wandb_offline(config, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "wandb.yaml").write_text(
        "trainer: {logger: {class_path: lightning.pytorch.loggers.WandbLogger, init_args: {save_dir: .}}}\n"
    )
    assert main(["fit", "--config", str(config), "--config", "wandb.yaml", "--run_dir", "run"]) == 0
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert {"metrics.csv", "curves.png", "curves.html"} <= {path.name for path in (tmp_path / "run").iterdir()}
    import wandb

    found = wandb.run.config
    assert (found["trainer"]["max_epochs"], found["model"]["stage"], found["data"]["init_args"]["batch_size"]) == (
        1, "finetune", 2
    )  # fmt: skip
    assert found["data_content"] == json.loads((tmp_path / "run" / "data.json").read_text())["content"]
    assert found["environment"]["packages"]["torch"]
    wandb.finish()


def test_a_run_says_how_it_stands_and_leaves_curves_and_events(config, tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    overlay = Path(__file__).parents[1] / "configs" / "logger" / "tensorboard.yaml"
    words = ["fit", "--config", str(config), "--config", str(overlay), "--run_dir", "run"]
    assert main(words) == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert [each.value for each in events.Scalars("train/loss")] == pytest.approx(
        [float(row["train/loss"]) for row in rows if row["train/loss"]]
    )
    assert (tmp_path / "run" / "curves.png").is_file()
    capsys.readouterr()
    assert main(["runs", "run", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert (run["command"], run["stage"], run["state"], run["step"], run["total_steps"], run["resume"]) == (
        "fit", "finetune", "finished", 2, 2, None
    )  # fmt: skip
    assert json.loads((tmp_path / "run" / "state.json").read_text())["words"] == words


@pytest.mark.parametrize(("given", "is_terminal", "has_bar"), [
    ("null", False, False), ("null", True, True), ("true", False, True), ("false", True, False),
])  # fmt: skip
def test_a_bar_is_for_terminals(config, monkeypatch, capsys, given, is_terminal, has_bar):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    words = ["--trainer.enable_progress_bar", given, "--trainer.max_steps", "1", "--data.val_records", "null"]
    assert main(["fit", "--config", str(config), *words, "--run_dir", "run"]) == 0
    said = capsys.readouterr()
    assert ("Epoch 0" in said.out + said.err) == has_bar


def test_an_evaluation_in_the_folder_of_its_run_leaves_the_runs_log(config, tmp_path):
    assert main(["fit", "--config", str(config), "--run_dir", "run"]) == 0
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("metrics.csv", "state.json")}
    words = ["validate", "--config", str(config), "--run_dir", "run", "--ckpt_path", "last"]
    assert main(words) == 0
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before
    assert "val/loss" in (tmp_path / "run" / "metrics-validate.csv").read_text()


def test_a_continued_run_is_one_run_of_wandb(config, tmp_path):
    import wandb

    words = ["fit", "--config", str(config), "--run_dir", "run", "--ckpt_path", "auto"]
    words += ["--trainer.logger", "WandbLogger", "--trainer.logger.save_dir", "."]
    found = []
    for epochs in ("1", "2"):
        wandb.finish()  # as the end of a process does
        assert main([*words, "--trainer.max_epochs", epochs]) == 0
        found.append(wandb.run.id)
    run_id = (tmp_path / "run" / "wandb_id").read_text().strip()
    assert found == [run_id, run_id]
    assert run_id not in "".join(path.read_text() for path in (tmp_path / "run").glob("config*.yaml"))


def test_callbacks_are_appended_by_an_overlay(config, tmp_path):
    (tmp_path / "more.yaml").write_text(
        "trainer: {callbacks+: [{class_path: lightning.pytorch.callbacks.LearningRateMonitor}]}\n"
    )
    assert main(["fit", "--config", str(config), "--config", "more.yaml", "--run_dir", "run"]) == 0
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert "lr-AdamW/decay" in header
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_dropped_samples_are_counted_and_teach_nothing(config, tmp_path):
    """Two of four records are too long, among them a whole batch: the run goes on, and its loss is that of the rest."""
    records = json.loads((tmp_path / "records.json").read_text())
    for record in records[:3]:
        record["conversations"][1]["value"] = "red" * 100
    (tmp_path / "records.json").write_text(json.dumps(records))
    words = ["--config", str(config), "--data.val_records", "null", "--data.batch_size", "1"]
    words += ["--data.max_length", "250", "--data.on_too_long", "drop", "--run_dir", "run"]
    with pytest.warns(UserWarning, match="data/skipped/records/too_long: 3 samples were left out so far"):
        assert main(["fit", *words]) == 0
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert [float(row["data/skipped/records/too_long"]) for row in rows if row["data/skipped/records/too_long"]] == [
        3.0
    ]
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert sorted(loss > 0 for loss in losses) == [False, False, False, True]


def test_a_mixture_is_counted_by_source(config, tmp_path, capsys):
    records = json.loads((tmp_path / "records.json").read_text())
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records[:3]))
    settings = yaml.safe_load(config.read_text())
    settings["data"]["init_args"]["records"] = [
        {"path": "records.json"}, {"path": "more.jsonl", "name": "lines", "repeats": 2},
    ]  # fmt: skip
    config.write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", str(config), "--data.cache_tokens", "true", "--run_dir", "run"]) == 0
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    counts = [(row["data/seen/records"], row["data/seen/lines"]) for row in rows]
    assert [count for count in counts if any(count)] == [("4.0", "6.0")]
    report = json.loads((tmp_path / "run" / "data.json").read_text())
    assert list(report["orders"]) == ["0"]
    assert [line.split(",")[0] for line in report["sources"]] == [
        "data.records: records: 4 records", "data.records: lines: 3 records",
    ]  # fmt: skip
    assert "samples of the run" in capsys.readouterr().out


def test_a_run_goes_on_with_the_same_records_alone(config, tmp_path, capsys):
    words = ["fit", "--config", str(config), "--run_dir", "run"]
    assert main(words) == 0
    records = json.loads((tmp_path / "records.json").read_text())
    (tmp_path / "records.json").write_text(json.dumps(records[::-1]))
    assert main([*words, "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("llava-pl: error: ckpt_path: the run went through other training data (expected content ")
    assert "start anew with --model.init_from" in line


def test_validate_on_records_shows_the_loss(config, capsys):
    assert main(["validate", "--config", str(config), "--run_dir", "val"]) == 0
    assert "val/loss 4." in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.accelerator", "xyz"],
        ["--trainer.strategy", "foo"],
        ["--trainer.val_check_interval", "100"],  # found out only when the run starts
    ],
)
def test_what_lightning_refuses_is_one_line(config, capsys, words):
    assert main(["fit", "--config", str(config), *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("llava-pl: error: trainer: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed_everything", "-5"], "seed_everything: expected at least 0, found -5"),
        (["--trainer.accumulate_grad_batches", "0"], "trainer.accumulate_grad_batches: expected at least 1, found 0"),
        (["--trainer.gradient_clip_val", "-1"], "trainer.gradient_clip_val: expected at least 0, found -1"),
        (["--save_every_n_steps", "0"], "save_every_n_steps: expected at least 1, found 0"),
        (["--keep_checkpoints", "0"], "keep_checkpoints: expected at least 1, found 0"),
    ],
)
def test_numbers_that_lightning_would_stumble_over(config, capsys, words, message):
    assert main(["fit", "--config", str(config), *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"llava-pl: error: {message}"


def test_wandb_without_a_login_is_one_line(config, tmp_path):
    # In a process of its own: wandb keeps its mode for as long as a process lives.
    words = ["--trainer.logger", "WandbLogger", "--trainer.logger.save_dir", "."]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-m", "llava_pl", "fit", "--config", str(config), *words],
        env={**environment, "HOME": str(tmp_path), "WANDB_MODE": "online"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("llava-pl: error: trainer.logger: No API key configured.")


def test_an_error_of_our_own_code_keeps_its_traceback(config, monkeypatch):
    def broken(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr("llava_pl.training.module.build_optimizer", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["fit", "--config", str(config)])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("validate", "data.val_records: nothing to validate; give a file of records, or data.tasks"),
        ("test", "data.tasks: nothing to test or predict with; give tasks, or use ScienceQADataModule"),
        ("predict", "data.tasks: nothing to test or predict with; give tasks, or use ScienceQADataModule"),
    ],
)
def test_records_without_questions(config, capsys, command, message):
    assert main([command, "--config", str(config), "--data.val_records", "null"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"llava-pl: error: {message}"


def test_last_goes_on_with_the_newest_run_of_the_name(config, tmp_path):
    main(["fit", "--config", str(config), "--trainer.max_epochs", "1"])
    os.environ.pop(RUN_DIR_VARIABLE)
    assert main(["fit", "--config", str(config), "--trainer.max_epochs", "2", "--ckpt_path", "last"]) == 0
    rows = csv.DictReader((only_run(tmp_path) / "metrics.csv").open())
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [0, 1, 2, 3]


def test_a_certain_checkpoint_starts_a_run_of_its_own(config, tmp_path):
    main(["fit", "--config", str(config), "--run_dir", "a"])
    words = ["--ckpt_path", "a/checkpoints/step=2.ckpt", "--trainer.max_epochs", "2", "--run_dir", "b"]
    assert main(["fit", "--config", str(config), *words]) == 0
    rows = csv.DictReader((tmp_path / "b" / "metrics.csv").open())
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [2, 3]


@pytest.mark.parametrize(("words", "num_copies"), [((), 1), (("--save_in_background", "false"), 0)])
def test_saves_are_written_in_the_background_or_not(config, tmp_path, copies, words, num_copies):
    assert main(["fit", "--config", str(config), "--run_dir", "run", *words]) == 0
    assert len(copies) == num_copies
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").resolve().name == "step=2.ckpt"


def test_a_checkpoint_callback_of_the_user_replaces_ours(config, tmp_path, copies):
    (tmp_path / "more.yaml").write_text(
        "trainer: {callbacks: [{class_path: ModelCheckpoint, init_args: {dirpath: mine, filename: best}}]}\n"
    )
    assert main(["fit", "--config", str(config), "--config", "more.yaml", "--run_dir", "run"]) == 0
    assert (tmp_path / "mine" / "best.ckpt").exists()
    assert (tmp_path / "mine" / "best.ckpt.json").exists()
    assert copies == []
    assert not (tmp_path / "run" / "checkpoints").exists()


CALLBACK = """
import os

import numpy as np
from lightning.pytorch.callbacks import Callback


class Mine:
    trap = None

    def __reduce__(self):
        return (os.system, (f"touch {self.trap}",)) if self.trap else (Mine, ())


class Keeps(Callback):
    def __init__(self, what):
        self.what = what
        self.seen = []

    def state_dict(self):
        Mine.trap = "trap" if self.what == "trap" else None
        kept = {"numpy": {"best": np.float64(0.5), "all": np.arange(3)}}
        return kept.get(self.what) or {"mine": Mine()}

    def load_state_dict(self, state_dict):
        print("came back:", state_dict)
"""


@pytest.mark.parametrize("what", ["numpy", "object", "trap"])
def test_what_a_callback_keeps_comes_back_or_asks_first(config, tmp_path, monkeypatch, capsys, what):
    (tmp_path / "my_callbacks.py").write_text(CALLBACK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_callbacks", raising=False)
    keeps = [{"class_path": "my_callbacks.Keeps", "init_args": {"what": what}}]
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": keeps}}))
    words = ["--config", str(config), "--config", "more.yaml", "--run_dir", "run", "--save_in_background", "false"]
    assert main(["fit", *words]) == 0
    resume = [*words, "--ckpt_path", "last", "--trainer.max_epochs", "2"]
    if what == "numpy":
        assert main(["fit", *resume]) == 0
        assert "came back: {'best': np.float64(0.5), 'all': array([0, 1, 2])}" in capsys.readouterr().out
        return
    for command in ("fit", "validate"):
        assert main([command, *resume]) == 2
        assert re.search(
            r"llava-pl: error: ckpt_path: run/checkpoints/\S+: refused: expected tensors, plain values and NumPy's "
            r"numbers and text, but it holds other objects, .*; --unsafe reads it all the same, and runs",
            capsys.readouterr().err.splitlines()[-1],
        )
    assert not (tmp_path / "trap").exists()
    assert main(["validate", *resume, "--unsafe"]) == 0
    assert main(["fit", *resume, "--unsafe"]) == 0
    assert (tmp_path / "trap").exists() == (what == "trap")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_one_flag_says_that_pickles_may_run(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help", "all"])
    shown = capsys.readouterr().out
    assert "--unsafe " in shown
    assert "run what code they bring along" in " ".join(shown.split())
    assert "--weights_only" not in shown


def test_a_tokenizer_with_more_tokens_than_the_decoder_reads(config, capsys, tmp_path, tiny_parts):
    from transformers import AutoTokenizer

    shutil.copytree(tiny_parts / "decoder", tmp_path / "decoder")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "decoder")
    num_tokens = len(tokenizer)
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "decoder")
    assert main(["fit", "--config", str(config), "--model.decoder.path", "decoder"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert (
        f"model.decoder.path: decoder: its tokenizer knows {num_tokens + 2} tokens, its decoder {num_tokens};" in line
    )


def test_lora_with_marks_is_trained_and_continued(config, tmp_path):
    """What model and data must agree on comes from the data's side; a checkpoint is continued and evaluated."""
    words = [
        "--model.trainable.decoder",
        "lora",
        "--model.trainable.embeddings",
        "new_tokens",
        "--model.lora.rank",
        "4",
    ]
    words += ["--data.init_args.image_start_end", "true", "--data.init_args.image_patch_token", "true"]
    assert main(["fit", "--config", str(config), "--run_dir", "run", *words]) == 0
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["has_image_marks"]
    assert saved["hyper_parameters"]["has_patch_token"]
    rows = [tensor.shape for name, tensor in saved["state_dict"].items() if "trainable_tokens" in name]
    assert rows == [(3, 32)]
    again = ["--config", "run/config.yaml", "--run_dir", "run"]
    assert main(["fit", *again, "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert main(["validate", *again, "--ckpt_path", "last"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.lora.rank", "4"], "model.lora: found settings, but no part has adapters"),
        (["--model.decoder.quantization", "nf4"], "model.decoder.quantization: quantized weights cannot be trained in"),
        (["--model.trainable.embeddings", "new_tokens"], "model.trainable.embeddings: found new_tokens, but no token"),
        (["--model.decoder.double_quantization", "true"], "model.decoder.double_quantization: is for nf4 and fp4"),
        (["--model.trainable.projector", "lora"], "model.trainable.projector"),
        (["--float32_matmul_precision", "tf32"], "float32_matmul_precision"),
    ],
)
def test_contradictions_are_one_line_and_leave_no_run(config, capsys, tmp_path, words, message):
    status: int | str | None
    try:
        status = main(["fit", "--config", str(config), *words])
    except SystemExit as stop:  # from the parser
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "runs").exists()


PRECISIONS = [
    *(
        (precision, dtype, "none")
        for precision in ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
        for dtype in ("float32", "bfloat16", "float16")
    ),
    *(
        (*words, quantization)
        for words in (
            ("32-true", "float16"),
            ("bf16-mixed", "bfloat16"),
            ("bf16-true", "float32"),
            ("64-true", "float32"),
        )
        for quantization in ("nf4", "int8")
    ),
]


@pytest.mark.parametrize(("precision", "dtype", "quantization"), PRECISIONS)
def test_a_precision_works_or_is_refused_in_one_line(config, capsys, monkeypatch, precision, dtype, quantization):
    monkeypatch.setattr(module, "build_model", lambda *a, **k: built.append(1) or build_model(*a, **k))
    built, words = [], ["--trainer.precision", precision, "--model.frozen_dtype", dtype]
    words += ["--model.trainable.decoder", "lora", "--model.decoder.quantization", quantization]
    status = main(["fit", "--config", str(config), "--trainer.fast_dev_run", "2", *words])
    actual = "bf16-mixed" if precision == "16-mixed" else precision  # as Lightning has it on a CPU
    works = precision != "16-true" and dtype in FROZEN_DTYPES[actual]
    assert (status, len(built)) == ((0, 1) if works else (2, 0))
    if not works:
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(
            f"llava-pl: error: {'trainer.precision' if precision == '16-true' else 'model.frozen_dtype'}: "
        )


def test_float32_matrices_are_multiplied_as_exactly_as_asked(config):
    before = torch.get_float32_matmul_precision()
    try:
        assert main(["fit", "--config", str(config), "--float32_matmul_precision", "high"]) == 0
        assert torch.get_float32_matmul_precision() == "high"
        assert main(["fit", "--config", str(config)]) == 0
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


def test_deepspeed_is_asked_for_in_one_line(config, monkeypatch, capsys):
    monkeypatch.setattr("llava_pl.training.zero.is_installed", lambda name: False)
    overlay = Path(__file__).parents[1] / "configs" / "strategy" / "zero2.yaml"
    assert main(["fit", "--config", str(config), "--config", str(overlay)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llava-pl: error")]
    assert line.startswith("llava-pl: error: trainer.strategy: ZeroStrategy needs DeepSpeed, which is not installed; ")
