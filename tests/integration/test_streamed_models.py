"""Guards: a divided model that starts from other weights than the same model on one device."""

import os
import subprocess
import sys
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

SECONDS = 200
"""The two processes take about fifteen, or a hundred on a very busy machine."""

SCRIPT = '''
"""Models of many kinds, each built whole and divided; run by each process of a world."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from llava_pl import LlavaModule
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.models.adapters import LoraConfig
from llava_pl.training.optim import OptimConfig
from llava_pl.training.sharding import shard
from llava_pl.training.stages import TrainablePlan

parts, folder, rank, world_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
dist.init_process_group("gloo", f"file://{folder}/store{world_size}", rank=rank, world_size=world_size)
mesh = init_device_mesh("cpu", (world_size,))
strategy = SimpleNamespace(
    root_device="cpu", divides_weights=True, divide=lambda model, stream: shard(model, mesh, stream)
)


def build(*, is_divided, decoder="decoder", **settings):
    torch.manual_seed(0)
    module = LlavaModule(
        vision_encoder=VisionEncoderConfig(str(parts / "encoder")),
        decoder=DecoderConfig(str(parts / decoder)),
        optim=OptimConfig(learning_rate=1e-3),
        **{"stage": "finetune", **settings},
    )
    if is_divided:
        fitting = SimpleNamespace(fn="fit")
        module._trainer = SimpleNamespace(strategy=strategy, datamodule=None, local_rank=1, state=fitting)
    module.configure_model()
    return module


def check(name, **settings):
    expected, found = (build(is_divided=is_divided, **settings).model for is_divided in (False, True))
    expected, found = expected.state_dict(keep_vars=True), found.state_dict(keep_vars=True)
    assert list(found) == list(expected), name
    for key, tensor in expected.items():
        whole = found[key].full_tensor() if isinstance(found[key], DTensor) else found[key]
        assert whole.dtype == tensor.dtype, (name, key)
        assert torch.equal(whole, tensor), (name, key)
        assert found[key].requires_grad == tensor.requires_grad, (name, key)
        # Frozen, the encoder alone stays whole.
        is_whole = key.startswith("vision_encoder.") or not isinstance(tensor, torch.nn.Parameter)
        is_learning = any(t.requires_grad for k, t in expected.items() if k.startswith("vision_encoder."))
        assert isinstance(found[key], DTensor) != (is_whole and not is_learning), (name, key)
    print(name, len(expected), flush=True)


LORA = {
    "trainable": TrainablePlan("lora", "full", "lora", "new_tokens"),
    "lora": LoraConfig(rank=4, dropout=0.0),
    "has_image_marks": True,
}
DORA = {
    "trainable": TrainablePlan("frozen", "full", "lora"),
    "lora": LoraConfig(rank=4, use_dora=True),
    "frozen_dtype": "bfloat16",
}

if rank == 0:
    torch.manual_seed(1)
    for name, settings in {"full": {}, "lora": LORA, "align": {"stage": "align"}}.items():
        trained = build(is_divided=False, **settings)
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.data.normal_()
        weights = {f"model.{n}": p for n, p in trained.model.named_parameters() if p.requires_grad}
        content = {"state_dict": weights, "hyper_parameters": dict(trained.hparams)}
        torch.save(content, folder / f"{name}{world_size}.ckpt")
dist.barrier()
full, lora, align = (str(folder / f"{name}{world_size}.ckpt") for name in ("full", "lora", "align"))

check("finetune")
check("finetune in bfloat16", frozen_dtype="bfloat16", has_newline=True)
check("rows of new tokens", has_image_marks=True, has_patch_token=True, frozen_dtype="bfloat16")
check("tied", decoder="tied")
check("tied, new tokens learn", decoder="tied", **LORA)
check("lora", **LORA)
check("dora", **DORA)
check("encoder learns", trainable=TrainablePlan("full", "full", "full"))
check("from a trained decoder", init_from=full)
check("from a trained decoder, frozen", init_from=full, stage="align", frozen_dtype="bfloat16")
check("from a trained decoder, adapted", init_from=full, trainable=TrainablePlan("frozen", "full", "lora"))
check("from adapters", **LORA, init_from=lora)
check("from a projector", init_from=align)
dist.destroy_process_group()
'''


def test_divided_models_are_the_whole_ones(tiny_parts, tmp_path):
    world_size = 2
    parts = tmp_path / "parts"
    parts.mkdir()
    for name in ("encoder", "decoder"):
        (parts / name).symlink_to(tiny_parts / name)
    config = LlamaConfig.from_pretrained(tiny_parts / "decoder")
    config.tie_word_embeddings = True
    LlamaForCausalLM(config).save_pretrained(parts / "tied")
    for path in (tiny_parts / "decoder").glob("tokenizer*"):
        (parts / "tied" / path.name).symlink_to(path)
    script = tmp_path / "build.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    words = [sys.executable, str(script), str(parts), str(tmp_path)]
    processes = []
    for rank in range(world_size):
        with (tmp_path / f"{rank}.txt").open("w") as output:
            processes.append(
                subprocess.Popen(
                    [*words, str(rank), str(world_size)], stdout=output, stderr=subprocess.STDOUT, env=environment
                )
            )
    try:
        codes = [process.wait(SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    outputs = [(tmp_path / f"{rank}.txt").read_text() for rank in range(world_size)]
    assert codes == [0] * world_size, "\n".join(outputs)
    assert all("from a projector" in output for output in outputs)
