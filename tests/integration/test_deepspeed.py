"""Guards: DeepSpeed trains another model than one process would, waits forever, or saves what nothing else can read.

Each run is a process of its own with a hard time limit. `make test-deepspeed` installs what is needed and runs them.
"""

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from llava_pl.export.shards import is_sharded
from llava_pl.training.checkpoint_io import DurableCheckpointIO

pytestmark = [
    pytest.mark.deepspeed,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra [deepspeed]; make test-deepspeed"),
]

SECONDS_TO_COMPILE = 800
"""DeepSpeed compiles two kernels, once per machine, in about 80, or in 400 on a busy one."""

KINDS = {
    "align": {"model": {"stage": "align"}},
    "finetune": {"model": {"stage": "finetune"}},
    "lora": {
        "model": {
            "stage": "finetune",
            "trainable": {"vision_encoder": "lora", "projector": "full", "decoder": "lora", "embeddings": "new_tokens"},
            "lora": {"rank": 4, "dropout": 0.0},  # dropout is another on each rank
        },
        "data": {"image_start_end": True},
    },
    "anyres": {"model": {"stage": "finetune"}, "data": {"image_aspect": "anyres"}},
    "recomputed": {"model": {"stage": "finetune", "decoder": {"gradient_checkpointing": "full"}}},
    "quantized": {
        "model": {
            "stage": "finetune",
            "decoder": {"quantization": "nf4", "compute_dtype": "float32"},
            "trainable": {"decoder": "lora"},
            "lora": {"rank": 4, "dropout": 0.0},
        },
    },
    "accumulated": {"model": {"stage": "finetune"}, "trainer": {"accumulate_grad_batches": 2}},
}


ZERO = ["zero2", "zero3", "zero3_offload"]


def merge(base: dict, other: dict) -> dict:
    return {**base, **{k: merge(base.get(k, {}), v) if isinstance(v, dict) else v for k, v in other.items()}}


class Runs:
    """Runs of stage `kind` under a strategy, each done once."""

    def __init__(self, folder: Path, parts: Path, run, strategies) -> None:
        self._folder, self._parts, self._run, self._strategies = folder, parts, run, strategies
        entries = []
        for number in range(8):
            turns = [{"from": "human", "value": f"Q{number}?"}, {"from": "gpt", "value": "abcdefgh"[: 1 + number]}]
            entries.append({"id": str(number), "conversations": turns})
            if number % 3 == 1:  # three pictures for four micro batches: a rank without any is among them
                Image.effect_noise((20, 12), 90).convert("RGB").save(folder / f"{number}.png")
                entries[-1]["image"] = f"{number}.png"
                turns[0]["value"] = f"<image>\nQ{number}?"
        (folder / "records.json").write_text(json.dumps(entries))

    def fit(self, kind: str, strategy: str, ranks: int = 2, *, after: Path | None = None, **trainer) -> Path:
        """Train six steps of four samples, or go on from a checkpoint until then, and return the run's folder."""
        start = "" if after is None else f"-after-{after.parents[1].name}"
        run = self._folder / ("-".join([kind, strategy, str(ranks), *trainer.values()]) + start)
        if run.exists():
            return run
        accumulated = KINDS[kind].get("trainer", {}).get("accumulate_grad_batches", 1)
        settings = {
            "model": {
                "vision_encoder": {"path": str(self._parts / "encoder")},
                "decoder": {"path": str(self._parts / "decoder")},
                "optim": {"learning_rate": 1e-3, "warmup_share": 0.0, "weight_decay": 0.1},
            },
            "data": {
                "class_path": "llava_pl.LlavaDataModule",
                "init_args": {
                    "records": str(self._folder / "records.json"),
                    "image_folder": str(self._folder),
                    "max_length": 400,
                    "batch_size": 4 // ranks // accumulated,
                    "num_workers": 0,
                },
            },
            "trainer": {
                "max_steps": 6,
                "accelerator": "cpu",
                "devices": ranks,
                "strategy": self._strategies[strategy],
                "gradient_clip_val": 1.0,
                "enable_progress_bar": False,
                "log_every_n_steps": 1,
            },
            "save_every_n_steps": 3,
            "keep_checkpoints": 9,
        }
        own = KINDS[kind]
        settings = merge(settings, {"model": own["model"], "trainer": {**own.get("trainer", {}), **trainer}})
        settings["data"]["init_args"] |= own.get("data", {})
        work = self._folder / f"{run.name}.work"
        work.mkdir()
        (work / "config.yaml").write_text(yaml.safe_dump(settings))
        words = ["-m", "llava_pl", "fit", "--config", "config.yaml", "--run_dir", str(run)]
        self._run(*words, *([] if after is None else ["--ckpt_path", after]), cwd=work)
        return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_parts, run, strategies) -> Runs:
    folder = tmp_path_factory.mktemp("deepspeed")
    code = "from deepspeed.accelerator import get_accelerator as get\n"
    code += "for name in ('CPUAdamBuilder', 'ShareMemCommBuilder'): get().create_op_builder(name).load()"
    run("-c", code, seconds=SECONDS_TO_COMPILE)
    return Runs(folder, tiny_parts, run, strategies)


def read_log(run: Path) -> dict[int, tuple[float, float]]:
    """Return loss and gradient norm of each step."""
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return {int(row["step"]): (float(row["train/loss"]), float(row["train/grad_norm"])) for row in rows}


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step={step}.ckpt"


def load(path: Path) -> dict:
    return DurableCheckpointIO().load_checkpoint(path)


def assert_same_steps(run: Path, expected: Path, steps=range(6), loss=3e-6, norm=1e-4):
    """Measured: losses at most 7e-7 apart, norms 2e-5, from sums of float32 in another order.

    Adam makes steps of full length of gradients that are nothing but rounding, which adapters have at first. A gradient
    that is divided by the ranks once too often, or not, is another norm by a factor of two; a rank's own number of
    supervised tokens, a weight decay of norms or a lost momentum shows from the third digit on.
    """
    found, wanted = read_log(run), read_log(expected)
    assert list(found) == list(steps)
    for step in steps:
        assert found[step][0] == pytest.approx(wanted[step][0], rel=loss), step
        assert found[step][1] == pytest.approx(wanted[step][1], rel=norm), step


@pytest.mark.parametrize("strategy", ZERO)
@pytest.mark.parametrize("kind", ["align", "finetune", "lora"])
def test_losses_are_those_of_one_process(runs, kind, strategy):
    # Three epochs of two steps: they end in the midst of nothing, and begin again.
    assert_same_steps(runs.fit(kind, strategy), runs.fit(kind, "single", 1))


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [(s, k) for s in ("zero2", "zero3") for k in ("anyres", "recomputed", "accumulated")] + [("zero2", "quantized")],
)
def test_losses_are_those_of_one_process_with(runs, strategy, kind):
    assert_same_steps(runs.fit(kind, strategy), runs.fit(kind, "single", 1))


@pytest.mark.parametrize("strategy", ZERO)
@pytest.mark.parametrize("kind", ["finetune", "lora"])
def test_checkpoint_holds_what_one_process_saves(runs, kind, strategy):
    path = checkpoint(runs.fit(kind, strategy), 3)
    assert is_sharded(path)
    found, expected = load(path), load(checkpoint(runs.fit(kind, "single", 1), 3))
    assert found.keys() == expected.keys()
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    for name, weight in expected["state_dict"].items():
        assert found["state_dict"][name].numel() == weight.numel() > 0
        assert found["state_dict"][name].dtype == weight.dtype == torch.float32
        # Three steps of Adam of up to 1e-3 each, from gradients that differ in their last bit.
        assert torch.allclose(found["state_dict"][name], weight, rtol=0, atol=5e-6), name
    (own,), (torch_s,) = found["optimizer_states"], expected["optimizer_states"]
    assert [g["params"] for g in own["param_groups"]] == [g["params"] for g in torch_s["param_groups"]]
    assert own["state"].keys() == torch_s["state"].keys()
    for number, state in torch_s["state"].items():
        assert own["state"][number].keys() == state.keys()
        for name, value in state.items():
            assert own["state"][number][name].shape == value.shape
            assert own["state"][number][name].dtype == value.dtype
            assert torch.allclose(own["state"][number][name], value, rtol=1e-3, atol=1e-7), (number, name)
    steps = [state["step"] for state in own["state"].values()]
    assert len({step.data_ptr() for step in steps}) == len(steps)  # a shared one would be counted up by each
    # Each tensor in one file, and no rank with much more than another.
    files = [torch.load(file, weights_only=True)["state_dict"] for file in sorted(path.glob("*.pt"))]
    assert len(files) == 2
    assert sorted(name for file in files for name in file) == sorted(found["state_dict"])
    sizes = [sum(tensor.nbytes for tensor in file.values()) for file in files]
    assert abs(sizes[0] - sizes[1]) <= max(tensor.nbytes for tensor in found["state_dict"].values())


@pytest.mark.parametrize(
    ("kind", "first", "then", "ranks"),
    [
        ("finetune", "zero2", "zero3", 2),
        ("finetune", "zero3", "zero2", 1),
        ("finetune", "zero3", "single", 1),
        ("finetune", "zero3", "ddp", 2),
        ("finetune", "zero3_offload", "fsdp2", 2),
        ("finetune", "zero3", "zero3", 4),
        ("finetune", "single", "zero3_offload", 2),
        ("finetune", "ddp", "zero2", 2),
        ("finetune", "fsdp2", "zero3", 2),
        ("lora", "zero3", "single", 1),
        ("lora", "single", "zero3", 2),
        ("lora", "zero2", "fsdp2", 2),
        ("align", "zero3", "zero2", 2),
    ],
)
def test_a_run_goes_on_under_another_strategy(runs, kind, first, then, ranks):
    begun = runs.fit(kind, first, 1 if first == "single" else 2)
    resumed = runs.fit(kind, then, ranks, after=checkpoint(begun, 3))
    assert_same_steps(resumed, runs.fit(kind, "single", 1), steps=range(3, 6))


def test_bfloat16_goes_on_with_the_weights_in_float32(runs):
    """The forward pass rounds them to bfloat16; from a rounded checkpoint small updates would be lost."""
    two, three = (runs.fit("finetune", name, precision="bf16-mixed") for name in ("zero2", "zero3"))
    weights = load(checkpoint(two, 3))["state_dict"]
    assert any((weight != weight.bfloat16().float()).any() for weight in weights.values())
    # The ranks' gradients are summed up in bfloat16, in other orders.
    assert_same_steps(three, two, loss=2e-2, norm=1e-1)
    for first, then in ((two, "zero3"), (three, "zero2")):
        resumed = runs.fit("finetune", then, after=checkpoint(first, 3), precision="bf16-mixed")
        # Measured: the same to the last bit at the step after.
        assert read_log(resumed)[3][0] == pytest.approx(read_log(first)[3][0], rel=1e-3)
        assert_same_steps(resumed, first, steps=range(3, 6), loss=2e-2, norm=1e-1)


def test_export_reads_such_a_checkpoint(runs, tmp_path, run):
    for strategy, ranks in (("zero3", 2), ("single", 1)):
        path = checkpoint(runs.fit("finetune", strategy, ranks), 6)
        run("-m", "llava_pl", "export", str(path), strategy, "--format", "hf", cwd=tmp_path)
    assert sorted(p.name for p in (tmp_path / "zero3").iterdir()) == sorted(
        p.name for p in (tmp_path / "single").iterdir()
    )
