"""Guards: a page of examples that do not run."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava_pl import LlavaModule
from llava_pl.cli import main
from llava_pl.export.carry import carry, open_source

PAGE = Path(__file__).resolve().parents[2] / "docs" / "carrying.md"
TOWER = "clip-vit-large-patch14-336"


@pytest.fixture
def places(golden_path, tiny_parts, tmp_path, monkeypatch):
    """Tiny models under the names of the page."""
    monkeypatch.chdir(tmp_path)
    models = golden_path / "model"
    shutil.copytree(models / "clip-mlp2x-patch14-56", TOWER)
    for source, name in (("llava-mlp2x", "llava-v1.5-7b"), ("stage1-mlp2x", "llava-v1.5-stage-1")):
        shutil.copytree(models / source, name)
        config = json.loads(Path(name, "config.json").read_text())
        Path(name, "config.json").chmod(0o644)
        Path(name, "config.json").write_text(json.dumps({**config, "mm_vision_tower": TOWER}))
    for path in Path().rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    plain = {key: value for key, value in config.items() if not key.startswith(("mm_", "model_type", "architectures"))}
    weights = load_file("llava-v1.5-7b/model.safetensors")
    from transformers import LlamaConfig, LlamaForCausalLM

    base = LlamaForCausalLM(LlamaConfig.from_dict(plain))
    base.load_state_dict({n: t for n, t in weights.items() if "mm_" not in n and "tower" not in n})
    base.save_pretrained("vicuna-7b-v1.5")
    for folder in ("llava-v1.5-7b", "vicuna-7b-v1.5"):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_parts / "decoder" / name, folder)
    shutil.copy(golden_path / "image" / "files" / "plain.jpg", "dog.jpg")
    carry(open_source(Path("llava-v1.5-7b")), Path("llava-1.5-7b-hf"), "hf")


def save_run(name: str, **model) -> None:
    """Write the checkpoint of a run whose trained weights have moved."""
    from lightning import Trainer

    from llava_pl import LlavaDataModule
    from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
    from llava_pl.training.optim import OptimConfig

    module = LlavaModule(
        vision_encoder=VisionEncoderConfig(TOWER),
        decoder=DecoderConfig("vicuna-7b-v1.5"),
        optim=OptimConfig(learning_rate=0.01),
        **model,
    )
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
    Path("records.json").write_text(json.dumps([{"id": "0", "image": "dog.jpg", "conversations": turns}]))
    options = {"tokenizer": "vicuna-7b-v1.5", "image_processor": TOWER, "num_image_tokens": 16, "num_workers": 0}
    data = LlavaDataModule(records="records.json", image_folder=".", batch_size=1, **options)
    trainer = Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, data)
    Path("runs", name).mkdir(parents=True)
    trainer.save_checkpoint(Path("runs", name, "last.ckpt"))


@pytest.mark.filterwarnings("ignore")
def test_every_example_runs(places, capsys):
    from llava_pl.models.adapters import LoraConfig
    from llava_pl.training.stages import TrainablePlan

    torch.manual_seed(0)
    save_run("align", stage="align")
    save_run("finetune", stage="finetune")
    save_run("finetune_lora", stage="finetune", trainable=TrainablePlan(decoder="lora"), lora=LoraConfig(rank=2))
    carry(open_source(Path("runs/finetune_lora/last.ckpt")), Path("llava-lora"), "lora")
    names = {}
    for kind, code in re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if kind == "python":
            exec(compile(code, str(PAGE), "exec"), names)
            continue
        for line in code.strip().splitlines():
            program, *words = shlex.split(line)
            assert program == "llava-pl"
            assert main(words) == 0, f"{line}: {capsys.readouterr().err}"
    assert not list(Path().glob(".*.tmp"))
