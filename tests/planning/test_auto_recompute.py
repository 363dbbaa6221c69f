"""Guards: a run that dies of a kind of recomputation nobody chose, or that recomputes what would have fitted."""

import csv
import os
import shutil
import subprocess
import sys
from math import inf
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning import Trainer
from transformers import MptConfig, MptForCausalLM

from llava_pl.app.load_data import load_run
from llava_pl.cli import main
from llava_pl.export import build
from llava_pl.planning import auto_recompute
from llava_pl.planning.auto_recompute import measure_free
from llava_pl.planning.planner import plan_run
from llava_pl.planning.run_plan import GIB, Assumptions
from llava_pl.types import InputError

HEADROOM = Assumptions().headroom


@pytest.fixture
def config(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings["model"]["decoder"]["gradient_checkpointing"] = "auto"
    settings["data"]["init_args"]["batch_size"] = 4
    settings["trainer"] = {
        "accelerator": "cpu", "devices": 1, "max_steps": 2, "log_every_n_steps": 1, "enable_progress_bar": False,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "config.yaml"


def peak(config, kind, *words):
    run = load_run(["--config", str(config), *words, "--model.decoder.gradient_checkpointing", kind])
    # Of a device on which few samples fit: looking for a micro batch of hundreds takes time.
    return plan_run(run.module, run.data, run.config, Assumptions(device_memory_gib=0.25)).memory.peak


def has_free(monkeypatch, limit):
    monkeypatch.setattr(auto_recompute, "measure_free", lambda *_, **__: int(limit / (1 - HEADROOM)) + GIB // 10**6)


def fit(folder, *words):
    status = main(["fit", "--config", "config.yaml", "--run_dir", folder, *words])
    if status != 0:
        return status
    rows = csv.DictReader(Path(folder, "metrics.csv").read_text().splitlines())
    return [row["train/loss"] for row in rows if row["train/loss"]]


@pytest.mark.parametrize("kind", ["none", "full"])
def test_the_cheapest_that_fits_is_chosen(config, monkeypatch, caplog, kind):
    plain = fit("plain", "--model.decoder.gradient_checkpointing", "none")
    has_free(monkeypatch, peak(config, kind))
    recomputed = []
    monkeypatch.setattr(build, "recompute_layers", lambda _, kind: recomputed.append(kind))
    assert fit("auto") == plain
    assert len(plain) == 2
    assert f"model.decoder.gradient_checkpointing: auto chose {kind}, which needs 0." in caplog.text
    assert recomputed[-1] == kind  # of the model that is trained, after the one without weights
    checkpoint = torch.load(next(Path("auto", "checkpoints").glob("*.ckpt")), weights_only=True)
    assert checkpoint["hyper_parameters"]["decoder"]["gradient_checkpointing"] == kind


RANK = """
import os, sys
from llava_pl.export import build
from llava_pl.planning import auto_recompute
rank, recompute = int(os.environ.get("LOCAL_RANK", 0)), build.recompute_layers
auto_recompute.measure_free = lambda *_, **__: [10**12, {least}][rank]
def say(model, kind):
    print("rank", rank, kind, flush=True)
    recompute(model, kind)
build.recompute_layers = say
from llava_pl.cli import main
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_ranks_choose_for_the_one_with_least_memory(config, tmp_path, strategy):
    overlay = Path(__file__).parents[2] / "configs" / "strategy" / f"{strategy}.yaml"
    words = ["--config", str(config), "--config", str(overlay), "--trainer.devices", "2"]
    words += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    (tmp_path / "rank.py").write_text(RANK.format(least=int(peak(config, "full", *words) / (1 - HEADROOM)) + 1000))
    environment = {**os.environ, "PYTHONPATH": str(overlay.parents[2])}
    run = subprocess.run(
        [sys.executable, "rank.py", "fit", *words, "--run_dir", "run"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert [[line for line in lines if line.startswith(f"rank {rank} ")][-1] for rank in (0, 1)] == [
        "rank 0 full",
        "rank 1 full",
    ]
    assert "auto chose full" in run.stderr


def test_where_nothing_fits_the_run_is_refused(config, monkeypatch, capfd):
    has_free(monkeypatch, peak(config, "full") - GIB // 1000)
    assert fit("auto") == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert line.startswith(
        "llava-pl: error: model.decoder.gradient_checkpointing: auto: a micro batch of 4 samples needs 0."
    )
    assert line.endswith("even where layers are recomputed in full; at most 3 fit")


def test_batches_that_the_model_refuses_are_named(config, tmp_path, capfd):
    path = tmp_path / "mpt"
    shutil.copytree(Path(yaml.safe_load(config.read_text())["model"]["decoder"]["path"]), path)
    (path / "model.safetensors").unlink()
    sizes = {"d_model": 32, "n_heads": 2, "n_layers": 2, "vocab_size": 1000, "max_seq_len": 20}
    MptForCausalLM(MptConfig(**sizes)).save_pretrained(path)
    words = ["--model.decoder.path", str(path), "--model.decoder.attention", "eager"]
    assert fit("auto", *words, "--data.init_args.is_packed", "false") == 2
    assert "MptForCausalLM takes at most 20 positions, found 356; lower data.max_length" in capfd.readouterr().err


def test_a_strategy_that_no_plan_knows_is_refused(config, monkeypatch, capfd):
    unknown = SimpleNamespace(spread=SimpleNamespace(is_known=False, name="Horovod"))
    monkeypatch.setattr(auto_recompute, "plan_run", lambda *_: unknown)
    assert fit("auto") == 2
    assert "gradient_checkpointing: auto cannot plan strategy Horovod; set none" in capfd.readouterr().err


def test_the_plan_is_that_of_what_is_chosen(config):
    run = load_run(["--config", str(config)])
    limit = peak(config, "selective") / GIB
    found = plan_run(run.module, run.data, run.config, Assumptions(device_memory_gib=limit, headroom=0.0))
    assert (found.recompute, found.memory.peak) == ("selective", peak(config, "selective"))
    assert run.module.model_config.decoder.gradient_checkpointing == "selective"


def test_nothing_is_chosen_where_nothing_learns(config, monkeypatch):
    monkeypatch.setattr(auto_recompute, "measure_free", None)
    words = ["--config", "config.yaml", "--run_dir", "run", "--data.init_args.val_records"]
    assert main(["validate", *words, yaml.safe_load(config.read_text())["data"]["init_args"]["records"]]) == 0


def test_a_trainer_that_chooses_nothing_is_refused(config):
    run = load_run(["--config", str(config)])
    trainer = Trainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False)
    with pytest.raises(InputError, match=r"gradient_checkpointing: found auto, which `llava-pl fit` chooses"):
        trainer.fit(run.module, run.data)


def test_ranks_of_a_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr(auto_recompute, "_free_of_container", lambda: 1000)
    monkeypatch.setattr(auto_recompute.psutil, "virtual_memory", lambda: SimpleNamespace(available=100))
    assert measure_free(torch.device("cpu"), num_sharing=3) == 33
    monkeypatch.setattr(auto_recompute, "_free_of_container", lambda: 40)
    assert measure_free(torch.device("cpu"), num_sharing=1) == 40
    monkeypatch.setattr(auto_recompute, "_free_of_container", lambda: -3)
    assert measure_free(torch.device("cpu"), num_sharing=1) == 1  # a plan for no memory cannot be asked for


def test_what_an_earlier_run_keeps_is_free(monkeypatch):
    for name, value in {"mem_get_info": (70, 80), "memory_reserved": 9, "memory_allocated": 4}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert measure_free(torch.device("cuda", 1), num_sharing=3) == 75


@pytest.mark.parametrize(("most", "free"), [("100\n", 82), ("max\n", inf), (None, inf)])
def test_memory_of_a_container(monkeypatch, most, free):
    stat = "anon 10\nfile 15\nactive_file 5\ninactive_file 7\nslab 5\n"  # the rest of file is memory that is shared
    found = {"memory.max": most, "memory.current": "30\n", "memory.stat": stat}

    def read(path):
        if most is None:
            raise FileNotFoundError(path)
        return found[path.name]

    monkeypatch.setattr(Path, "read_text", read)
    assert auto_recompute._free_of_container() == free
