"""Guards: a strategy that learns something else on a GPU than one device does, and a 7B that does not fit or come back.

`docs/gpu-runs.md` says where they were run. One device is enough: a strategy that divides then divides by one.
"""

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

STRATEGIES = Path(__file__).parents[2] / "configs" / "strategy"
DEVICE = {"accelerator": "gpu", "devices": 1, "precision": "bf16-mixed", "num_sanity_val_steps": 0}
LEARNING = {"vision_encoder": "frozen", "projector": "full", "decoder": "lora"}
SIZES_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
SIZES_CLIP_L = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14,
}  # fmt: skip


def write_config(folder: Path, parts: Path, model: dict, max_length: int) -> None:
    """Write eight records, some with pictures, and a configuration of six steps."""
    rng, entries = np.random.default_rng(0), []
    for number in range(8):
        turns = [{"from": "human", "value": "abc"[: number % 3 + 1]}, {"from": "gpt", "value": "abcdefgh"[number:]}]
        entries.append({"id": str(number), "conversations": turns})
        if number % 2:
            Image.fromarray(rng.integers(0, 256, (64, 48, 3), dtype=np.uint8)).save(folder / f"{number}.png")
            entries[-1]["image"] = f"{number}.png"
            turns[0]["value"] = f"<image>\n{turns[0]['value']}"
    (folder / "records.json").write_text(json.dumps(entries))
    data = {
        "records": str(folder / "records.json"), "image_folder": str(folder), "max_length": max_length,
        "batch_size": 4, "num_workers": 0,
    }  # fmt: skip
    optim = {"learning_rate": 1e-3, "warmup_share": 0.0}
    places = {"vision_encoder": {"path": str(parts / "encoder")}, "decoder": {"path": str(parts / "decoder")}}
    settings = {
        "model": {"stage": "finetune", **places, "optim": optim, **model},
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": data},
        "trainer": {**DEVICE, "max_steps": 6, "enable_progress_bar": False, "log_every_n_steps": 1},
        "save_every_n_steps": 3,
        "keep_checkpoints": 9,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


def read_losses(run_dir: Path) -> list[float]:
    rows = csv.DictReader((run_dir / "metrics.csv").read_text().splitlines())
    return [float(row["train/loss"]) for row in rows if row["train/loss"]]


@pytest.mark.parametrize("strategy", ["fsdp2", "zero2", "zero3", "zero3_offload"])
def test_losses_are_those_of_one_device(tiny_parts, tmp_path, run, strategy):
    """And they go on from the checkpoint in the middle."""
    if strategy.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("needs the extra [deepspeed]")
    write_config(tmp_path, tiny_parts, {}, max_length=400)
    fit = ["-m", "llava_pl", "fit", "--config", "config.yaml"]
    overlay = ["--config", STRATEGIES / f"{strategy}.yaml"]
    run(*fit, "--run_dir", "one", cwd=tmp_path)
    run(*fit, *overlay, "--run_dir", "own", cwd=tmp_path)
    run(*fit, *overlay, "--run_dir", "resumed", "--ckpt_path", "one/checkpoints/step=3.ckpt", cwd=tmp_path)
    expected = read_losses(tmp_path / "one")
    assert len(expected) == 6
    # DeepSpeed computes in bfloat16 throughout, torch where autocast has it.
    tolerance = 1e-2 if strategy.startswith("zero") else 1e-3
    assert read_losses(tmp_path / "own") == pytest.approx(expected, rel=tolerance)
    assert read_losses(tmp_path / "resumed") == pytest.approx(expected[3:], rel=tolerance)


def write_parts(folder: Path, decoder: dict, encoder: dict, tokenizer: Path) -> None:
    """Write random weights of some shapes, in bfloat16, and a tokenizer of fewer tokens than there are rows."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            CLIPVisionModel(CLIPVisionConfig(**encoder)).save_pretrained(folder / "encoder")
            LlamaForCausalLM(LlamaConfig(vocab_size=32000, **decoder)).save_pretrained(folder / "decoder")
    finally:
        torch.set_default_dtype(before)
    torch.cuda.empty_cache()
    side = {"height": encoder["image_size"], "width": encoder["image_size"]}
    CLIPImageProcessorPil(size=side, crop_size=side).save_pretrained(folder / "encoder")
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder / "decoder")


@pytest.mark.slow
def test_a_7b_is_divided_trained_saved_and_loaded_in_transformers(tiny_parts, tmp_path, run):
    """LoRA: the optimizer's state of a whole 7B does not fit on one device."""
    write_parts(tmp_path / "parts", SIZES_7B, SIZES_CLIP_L, tiny_parts / "decoder")
    model = {"trainable": LEARNING, "lora": {"rank": 8}, "frozen_dtype": "bfloat16"}
    write_config(tmp_path, tmp_path / "parts", model, max_length=1024)
    fit = ["-m", "llava_pl", "fit", "--config", "config.yaml", "--config", STRATEGIES / "fsdp2.yaml"]
    run(*fit, "--run_dir", "run", cwd=tmp_path, seconds=900)
    losses = read_losses(tmp_path / "run")
    assert len(losses) == 6
    assert sum(losses[4:]) < sum(losses[:2])  # each the same eight samples
    words = ["export", "run", "hf", "--format", "hf", "--merge_lora", "--dtype", "bfloat16"]
    run("-m", "llava_pl", *words, cwd=tmp_path, seconds=900)
    loaded, info = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert sum(p.numel() for p in loaded.model.language_model.parameters()) > 6_000_000_000
