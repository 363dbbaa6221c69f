"""Guards: a model that two ranks hold together learns something else than a whole one, or its run ends with it.

Each kind of training is run by one process and by two that divide the model; then each goes on from a checkpoint of the
other. Losses, gradient norms, weights and optimizer states are compared.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from llava_pl.cli import main
from llava_pl.export.shards import find_shards, read_shards
from llava_pl.run_folder import RUN_DIR_VARIABLE

FSDP2, DDP = (Path(__file__).parents[2] / "configs" / "strategy" / f"{name}.yaml" for name in ("fsdp2", "ddp"))

KINDS = {
    "align": {"stage": "align"},
    "finetune": {"stage": "finetune"},
    "lora": {
        "stage": "finetune",
        "trainable": {"vision_encoder": "lora", "projector": "full", "decoder": "lora", "embeddings": "new_tokens"},
        "lora": {"rank": 4, "dropout": 0.0},
    },
}

NUM_KEPT = {"align": 4, "finetune": 4 + 21, "lora": 4 + 2 * 2 * (6 + 7) + 2}
"""Tensors of the projector; of two layers of the decoder, its norm, table and head; of adapters and the rows of new
tokens, in the table, where they learn, and in the head, where they do not."""


def write_config(folder: Path, parts: Path, kind: str) -> None:
    """Write eight records, those of the second rank without pictures, and a configuration for one process."""
    rng, entries = np.random.default_rng(0), []
    for number in range(8):
        turns = [{"from": "human", "value": f"Q{number}?"}, {"from": "gpt", "value": "abcdefghi"[number:] * 3}]
        entries.append({"id": str(number), "conversations": turns})
        if number % 3 == 0:
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
            entries[-1]["image"] = f"{number}.png"
            turns[0]["value"] = f"<image>\nQ{number}?"
    (folder / "records.json").write_text(json.dumps(entries))
    (folder / "val.json").write_text(json.dumps(entries[:5]))
    settings = {
        "model": {
            "vision_encoder": {"path": str(parts / "encoder")},
            "decoder": {"path": str(parts / "decoder")},
            "optim": {"learning_rate": 1e-3, "warmup_share": 0.0},
            **KINDS[kind],
        },
        "data": {
            "class_path": "llava_pl.LlavaDataModule",
            "init_args": {
                "records": str(folder / "records.json"), "val_records": str(folder / "val.json"),
                "image_folder": str(folder), "max_length": 400, "batch_size": 2, "eval_batch_size": 1,
                "image_start_end": kind == "lora", "num_workers": 0,
            },
        },
        "trainer": {
            "max_epochs": 3, "accelerator": "cpu", "devices": 1, "accumulate_grad_batches": 2, "log_every_n_steps": 1,
            "gradient_clip_val": 1.0, "num_sanity_val_steps": 0, "enable_progress_bar": False,
        },
        "save_every_n_steps": 3,
        "keep_checkpoints": 9,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


CONTINUED = {"align": [], "finetune": ["one-two", "two-one", "two-ddp"], "lora": ["one-two", "two-one"]}
"""Runs that go on from step 3: what began it, and what went on with it; one process, two of FSDP2, two of DDP."""


@pytest.fixture(
    scope="module", params=["finetune", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("align", "lora"))]
)
def runs(tiny_parts, tmp_path_factory, request, run) -> Path:
    """The folders `one` and `two` of whole runs of six steps, and of the runs that go on from step 3 of them."""
    folder = tmp_path_factory.mktemp(request.param)
    write_config(folder, tiny_parts, request.param)
    config = ["fit", "--config", str(folder / "config.yaml")]
    two = ["-m", "llava_pl", *config, "--config", FSDP2, "--trainer.devices", 2]
    two += ["--trainer.accumulate_grad_batches", 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(RUN_DIR_VARIABLE, "")
        assert main([*config, "--run_dir", str(folder / "one")]) == 0
        run(*two, "--run_dir", folder / "two")
        for name in CONTINUED[request.param]:
            begun, strategy = name.split("-")
            words = ["--run_dir", folder / name, "--ckpt_path", folder / begun / "checkpoints" / "step=3.ckpt"]
            if strategy == "one":
                assert main([*config, *map(str, words)]) == 0
            else:
                run(*(DDP if strategy == "ddp" and word == FSDP2 else word for word in two), *words)
    return folder


@pytest.fixture
def kind(request) -> str:
    return request.node.callspec.params["runs"]


def read_metrics(run_dir: Path, name: str) -> list[float]:
    rows = csv.DictReader((run_dir / "metrics.csv").read_text().splitlines())
    return [float(row[name]) for row in rows if row[name]]


@pytest.mark.parametrize("name", ["train/loss", "train/grad_norm", "val/loss"])
def test_every_run_learns_the_same(runs, kind, name):
    expected = read_metrics(runs / "one", name)
    assert len(expected) == (3 if name == "val/loss" else 6)
    assert expected[0] != expected[-1]
    # Measured: 2e-7. The mean of the ranks' own means would differ by more than 1e-2.
    assert read_metrics(runs / "two", name) == pytest.approx(expected, rel=1e-6)
    for other in CONTINUED[kind]:
        found = read_metrics(runs / other, name)
        assert found == pytest.approx(expected[len(expected) - len(found) :], rel=1e-6)
        assert len(found) == (2 if name == "val/loss" else 3)


def read_checkpoint(run_dir: Path, step: int) -> dict:
    def read(path):
        return torch.load(path, weights_only=True)

    path = run_dir / "checkpoints" / f"step={step}.ckpt"
    return read_shards(path, read) if path.is_dir() else read(path)


def test_every_checkpoint_holds_the_same(runs, kind):
    one = read_checkpoint(runs / "one", 6)
    assert len(one["state_dict"]) == NUM_KEPT[kind]
    for other in ("two", *CONTINUED[kind]):
        assert_same(read_checkpoint(runs / other, 6), one)


def assert_same(found: dict, one: dict) -> None:
    assert found.keys() == one.keys()
    assert found["state_dict"].keys() == one["state_dict"].keys()
    for name, tensor in one["state_dict"].items():
        assert found["state_dict"][name].shape == tensor.shape
        # Adam's first steps are about 1e-3 in each weight, whichever way a rounding leans.
        torch.testing.assert_close(found["state_dict"][name], tensor, rtol=1e-4, atol=2e-5)
    [optimizer], [expected] = found["optimizer_states"], one["optimizer_states"]
    assert optimizer["param_groups"] == expected["param_groups"]
    assert optimizer["state"].keys() == expected["state"].keys()
    for number, state in expected["state"].items():
        assert optimizer["state"][number]["step"] == state["step"] == 6
        assert optimizer["state"][number]["exp_avg"].shape == state["exp_avg"].shape
        torch.testing.assert_close(optimizer["state"][number]["exp_avg"], state["exp_avg"], rtol=1e-3, atol=1e-6)


def test_ranks_write_about_as_much_each(runs, kind):
    shards = [torch.load(path, weights_only=True) for path in find_shards(runs / "two" / "checkpoints" / "step=6.ckpt")]
    first, second = (set(shard["state_dict"]) for shard in shards)
    assert not first & second
    assert len(first | second) == NUM_KEPT[kind]
    sizes = [sum(tensor.nbytes for tensor in shard["state_dict"].values()) for shard in shards]
    largest = max(tensor.nbytes for shard in shards for tensor in shard["state_dict"].values())
    assert abs(sizes[0] - sizes[1]) <= largest
    assert min(sizes) > 0


def test_the_folder_of_a_run_is_exported(runs, kind):
    """Its last checkpoint, whatever the number of its files."""
    merge = ["--merge_lora"] * (kind == "lora")
    found = {}
    names = [name for name in ("one", "two", "two-ddp") if (runs / name).is_dir()]
    for name in names:
        target = runs / f"{name}-hf"
        assert main(["export", str(runs / name), str(target), "--format", "hf", *merge]) == 0
        found[name] = load_file(target / "model.safetensors")
    for name, tensor in found["one"].items():
        for other in names[1:]:
            assert found[other].keys() == found["one"].keys()
            torch.testing.assert_close(found[other][name], tensor, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_bfloat16_is_that_of_one_device(tiny_parts, tmp_path, run):
    """Layers are gathered in it, where autocast would round each weight when it is used."""
    write_config(tmp_path, tiny_parts, "finetune")
    config = ["-m", "llava_pl", "fit", "--config", tmp_path / "config.yaml", "--trainer.precision", "bf16-mixed"]
    two = ["--config", FSDP2, "--trainer.devices", 2, "--trainer.accumulate_grad_batches", 1]
    run(*config, "--run_dir", tmp_path / "one")
    run(*config, *two, "--run_dir", tmp_path / "two")
    for name in ("train/loss", "val/loss"):
        expected = read_metrics(tmp_path / "one", name)
        # Measured: 7e-5. One step of bfloat16 is 2**-8.
        assert read_metrics(tmp_path / "two", name) == pytest.approx(expected, rel=5e-4)
    weights = read_checkpoint(tmp_path / "two", 6)["state_dict"].values()
    assert {weight.dtype for weight in weights} == {torch.float32}
