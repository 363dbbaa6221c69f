"""Guards: two processes that wait for each other forever, or that train on another gradient than one would."""

import json
import runpy
import sys
from pathlib import Path
from string import ascii_letters

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DistributedSampler

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*eval mode at the start of training.*"),  # frozen parts are meant to be
    pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`.*"),
]

LENGTHS = [1, 2, 30, 4, 6, 12, 5, 20]
"""Characters of the answers, another number in all on each rank."""

NUM_VALIDATED = 5
"""Records to validate, one in a batch: three batches on one rank and two on the other; an odd number of tokens."""

SCRIPT = '''
"""One optimizer step of stage `align` on eight samples; run by each process of a world."""

import json
import sys
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from llava_pl import LlavaDataModule, LlavaModule
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.models.adapters import LoraConfig
from llava_pl.training.optim import OptimConfig
from llava_pl.training.stages import TrainablePlan
from llava_pl.types import Question

parts, folder, world_size, kind = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
aspect = "anyres" if kind == "anyres" else "pad"


class Recorder(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen = {
            "ids": batch["ids"],
            "num_pictures": len(batch.get("grids") or batch["pixel_values"]),
            "num_supervised": batch["num_supervised"],
        }

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        named = pl_module.model.named_parameters()
        self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validated = [*getattr(self, "validated", []), batch["ids"]]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        loss = trainer.callback_metrics["train/loss"].item()
        rank = trainer.global_rank
        content = {**self.seen, "gradients": self.gradients, "loss": loss}
        torch.save(content, folder / f"world{world_size}-rank{rank}.pt")

    def on_validation_end(self, trainer, pl_module):
        if trainer.state.fn != "fit":
            return
        content = {"batches": self.validated, "loss": trainer.callback_metrics["val/loss"].item()}
        (folder / f"val-world{world_size}-rank{trainer.global_rank}.json").write_text(json.dumps(content))


torch.manual_seed(0)
module = LlavaModule(
    stage="align",
    vision_encoder=VisionEncoderConfig(str(parts / "encoder")),
    # A single process without, so that recomputing under ddp is compared with it.
    decoder=DecoderConfig(str(parts / "decoder"), gradient_checkpointing="full" if world_size > 1 else "none"),
    optim=OptimConfig(learning_rate=1e-3),
    has_newline=aspect == "anyres",
    has_image_marks=kind == "lora",
    trainable=TrainablePlan("lora", "full", "lora", "new_tokens") if kind == "lora" else None,
    # Dropout would be another on each rank.
    lora=LoraConfig(rank=4, dropout=0.0) if kind == "lora" else None,
)
module.configure_model()
with torch.no_grad():
    for name, parameter in module.model.named_parameters():
        if "lora_B" in name:  # while these are zero, the gradient of the other factor is
            parameter.normal_(std=0.02)


def make_data(val_records, **settings):
    return LlavaDataModule(
        records=folder / "records.json",
        val_records=folder / val_records,
        eval_batch_size=1,
        image_folder=folder,
        tokenizer=str(parts / "decoder"),
        image_processor=str(parts / "encoder"),
        num_image_tokens=4,
        image_aspect=aspect,
        image_start_end=kind == "lora",
        max_length=400,
        batch_size=8 // world_size,
        num_workers=0,
        **settings,
    )


trainer = Trainer(
    accelerator="cpu",
    devices=world_size,
    strategy="ddp" if world_size > 1 else "auto",
    max_epochs=1,
    log_every_n_steps=1,
    num_sanity_val_steps=0,
    callbacks=[Recorder()],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    default_root_dir=folder,
)
trainer.fit(module, datamodule=make_data("val_records.json"))
assert trainer.global_step == 1
(metrics,) = trainer.validate(module, datamodule=make_data("val_half_silent.json", on_too_long="drop"), verbose=False)
(folder / f"half-silent-world{world_size}-rank{trainer.global_rank}.json").write_text(json.dumps(metrics))
'''


def write_records(folder: Path) -> list[list[str]]:
    """Write eight records, of which only those that the first of two ranks gets have pictures."""
    ranks = [list(DistributedSampler(range(8), num_replicas=2, rank=rank, seed=0)) for rank in range(2)]
    rng, entries = np.random.default_rng(0), []
    for number in range(8):
        turns = [{"from": "human", "value": f"Q{number}?"}]
        turns.append({"from": "gpt", "value": ascii_letters[: LENGTHS[number]]})
        entries.append({"id": str(number), "conversations": turns})
        if number in ranks[0]:
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
            entries[-1]["image"] = f"{number}.png"
            turns[0]["value"] = f"<image>\nQ{number}?"
    (folder / "records.json").write_text(json.dumps(entries))
    (folder / "val_records.json").write_text(json.dumps(entries[:NUM_VALIDATED]))
    for entry in entries[1:NUM_VALIDATED:2]:  # those of the second rank: too long, and left out
        entry["conversations"][0]["value"] += "?" * 400
    (folder / "val_half_silent.json").write_text(json.dumps(entries[:NUM_VALIDATED]))
    return [[str(number) for number in numbers] for numbers in ranks]


@pytest.fixture(
    scope="module", params=["lora", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("pad", "anyres"))]
)
def folder(tiny_parts, tmp_path_factory, request, run) -> Path:
    """What one process and two leave behind, with whole pictures, with tiled ones, and with adapters and new tokens."""
    folder = tmp_path_factory.mktemp("ddp")
    write_records(folder)
    script = folder / "step.py"
    script.write_text(SCRIPT)
    run(script, tiny_parts, folder, 2, request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), str(tiny_parts), str(folder), "1", request.param])
        runpy.run_path(str(script))
    return folder


def read(folder: Path, world_size: int, rank: int) -> dict:
    return torch.load(folder / f"world{world_size}-rank{rank}.pt", weights_only=True)


def test_one_rank_has_no_pictures(folder):
    """Else the other tests would show nothing."""
    assert [read(folder, 2, rank)["num_pictures"] for rank in range(2)] == [4, 0]
    assert read(folder, 1, 0)["num_pictures"] == 4
    first, second = (read(folder, 2, rank)["num_supervised"] for rank in range(2))
    assert first + second == read(folder, 1, 0)["num_supervised"] == 8 * 2 + sum(LENGTHS)
    assert first != second
    ids = [read(folder, 2, rank)["ids"] for rank in range(2)]
    assert sorted(ids[0] + ids[1]) == sorted(read(folder, 1, 0)["ids"]) == [str(number) for number in range(8)]


def test_gradient_equals_that_of_one_process(folder, request):
    one, first, second = read(folder, 1, 0), read(folder, 2, 0), read(folder, 2, 1)
    assert one["gradients"].keys() == first["gradients"].keys() == second["gradients"].keys()
    # The projector's, and with tiles the newline's: the rank without pictures must have one too. With adapters, theirs
    # in two layers of the encoder and two of the decoder, and that of the rows of new tokens.
    num_expected = {"pad": 4, "anyres": 5, "lora": 4 + 2 * 2 * (6 + 7) + 1}
    assert len(one["gradients"]) == num_expected[request.node.callspec.params["folder"]]
    for name, gradient in one["gradients"].items():
        assert torch.equal(first["gradients"][name], second["gradients"][name])
        error = (first["gradients"][name] - gradient).norm() / gradient.norm()
        # Measured: 0 (the other rank adds zeros). The mean of the ranks' own means would differ by more than 0.1.
        assert error < 1e-6, name
    # A gradient of zeros on both would be equal too.
    assert min(gradient.norm() for gradient in one["gradients"].values()) > 1e-6


def test_logged_loss_is_that_of_one_process(folder):
    losses = [read(folder, world_size, rank)["loss"] for world_size, rank in [(1, 0), (2, 0), (2, 1)]]
    assert losses[1:] == [pytest.approx(losses[0], rel=1e-6)] * 2


def test_validation_counts_every_record_once_and_waits_for_no_one(folder):
    one, first, second = (
        json.loads((folder / f"val-world{world_size}-rank{rank}.json").read_text())
        for world_size, rank in [(1, 0), (2, 0), (2, 1)]
    )
    assert one["batches"] == [["0"], ["1"], ["2"], ["3"], ["4"]]
    # The last of the second rank is asked again, and counts for nothing: where weights are gathered, all take part.
    assert (first["batches"], second["batches"]) == ([["0"], ["2"], ["4"]], [["1"], ["3"], ["1"]])
    # Measured: equal to the last bit; sums added in another order may cost a rounding.
    assert [first["loss"], second["loss"]] == [pytest.approx(one["loss"], rel=1e-6)] * 2


def test_validation_waits_for_no_rank_whose_records_supervise_nothing(folder):
    one, first, second = (
        json.loads((folder / f"half-silent-world{world_size}-rank{rank}.json").read_text())
        for world_size, rank in [(1, 0), (2, 0), (2, 1)]
    )
    assert 0 < one["val/loss"] != json.loads((folder / "val-world1-rank0.json").read_text())["loss"]
    # As above, equal but for a rounding.
    assert [first, second] == [{"val/loss": pytest.approx(one["val/loss"], rel=1e-6)}] * 2
