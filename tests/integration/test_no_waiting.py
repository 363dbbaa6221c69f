"""Guards: a step that asks the device for a value, so that the host waits and the device idles.

Torch's meta device holds no values: whatever reads one back raises there. So a step that gets through asks for none, on
a machine without a GPU. What only a CPU is asked for (guards that give numbers) is not run on it.
"""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llava_pl import LlavaModule
from llava_pl.data.collate import collate
from llava_pl.data.packing import pack
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.training.optim import OptimConfig
from llava_pl.types import Sample

SAMPLES = [
    Sample(
        name,
        torch.tensor([1, *[-200] * 4 * num_pictures, *range(5, 5 + num_words)]),
        torch.tensor([-100] * (1 + 4 * num_pictures) + list(range(5, 5 + num_words))),
        torch.full((num_pictures, 3, 16, 16), 7, dtype=torch.uint8),
        value_of_level=torch.zeros(3, 256),
    )
    for name, num_pictures, num_words in (("a", 1, 3), ("b", 2, 5), ("c", 0, 4))
]


class Asked(TorchDispatchMode):
    """Notes operations that read a value back, or whose result has a size that only the device knows."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
        is_index = func is torch.ops.aten.index.Tensor  # whose size is known, but for a mask's
        by_mask = is_index and any(i is not None and i.dtype == torch.bool for i in args[1])
        # What copies from an ordinary tensor of the host waits as well.
        copies = func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu" and args[0].dim() == 0
        if (tags & set(func.tags) and not is_index) or by_mask or copies:
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def make_module(tiny_parts, stage, gradient_checkpointing="none"):
    torch.manual_seed(0)
    module = LlavaModule(
        stage=stage,
        vision_encoder=VisionEncoderConfig(str(tiny_parts / "encoder")),
        decoder=DecoderConfig(str(tiny_parts / "decoder"), gradient_checkpointing=gradient_checkpointing),
        optim=OptimConfig(learning_rate=1e-3),
    )
    module.configure_model()
    return module


def take_step(module, batch, device):
    """What Lightning has a module do with a micro batch, in a run that is in the midst of a step."""
    module.to(device)
    module._trainer = SimpleNamespace(accumulate_grad_batches=2, world_size=1, global_step=0, _results=None)
    module._trainer.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(_should_accumulate=lambda: True))
    module._step_loss = torch.zeros((), device=device)
    if device.type == "meta":
        module._watch.look = lambda: None  # on a GPU it looks later
    batch = module.transfer_batch_to_device({**batch, "num_step_supervised": 20}, device, 0)
    with Asked() as asked:
        module.training_step(batch, 0).backward()
    return asked.names


@pytest.mark.parametrize("gradient_checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_a_step_over_packed_rows_asks_the_device_for_nothing(tiny_parts, stage, gradient_checkpointing):
    module = make_module(tiny_parts, stage, gradient_checkpointing)
    assert take_step(module, pack(SAMPLES, num_image_tokens=4), torch.device("meta")) == []
    assert take_step(module, pack(SAMPLES[2:], num_image_tokens=4), torch.device("meta")) == []


def test_padded_rows_ask_once_whether_anything_is_padded(tiny_parts):
    """Transformers' mask does; packed rows have none."""
    batch = collate(SAMPLES, pad_token_id=0, num_image_tokens=4, padding_side="right")
    module = make_module(tiny_parts, "finetune")
    with pytest.raises(Exception, match=r"meta tensor|Tensor.item"):
        take_step(module, batch, torch.device("meta"))


def test_on_a_cpu_only_guards_ask(tiny_parts):
    """Image tokens against features, supervised tokens against their count, and whether the loss is finite."""
    names = take_step(make_module(tiny_parts, "finetune"), pack(SAMPLES, num_image_tokens=4), torch.device("cpu"))
    assert names == ["aten::_local_scalar_dense"] * 3


@pytest.mark.gpu
@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_a_step_on_a_gpu_does_not_wait(tiny_parts, stage):
    module, batch, device = make_module(tiny_parts, stage), pack(SAMPLES, num_image_tokens=4), torch.device("cuda")
    batch = {name: value.pin_memory() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    take_step(module, batch, device)  # kernels are loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_step(module, batch, device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    module._watch.look()
