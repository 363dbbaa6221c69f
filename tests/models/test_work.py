"""Guards: operations that are counted for what does not learn, or forgotten for what does."""

from dataclasses import asdict

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.models.adapters import LoraConfig
from llava_pl.models.work import BatchCounts, Work, add_up, count_work, needed_operations
from llava_pl.planning.batches import BatchShape
from llava_pl.planning.weights import build_run_model
from llava_pl.training.module import LlavaModule
from llava_pl.training.optim import OptimConfig
from llava_pl.training.stages import TrainablePlan
from llava_pl.types import IMAGE_TOKEN_INDEX


def make(folder, recomputation, decoder="decoder", **more):
    return LlavaModule(
        vision_encoder=VisionEncoderConfig(str(folder / "encoder")),
        # torch's counter knows the products of eager attention.
        decoder=DecoderConfig(str(folder / decoder), attention="eager", gradient_checkpointing=recomputation),
        optim=OptimConfig(learning_rate=1e-3),
        **more,
    )


@pytest.mark.parametrize("recomputation", ["none", "full"])
@pytest.mark.parametrize(
    "training",
    [
        {"stage": "align"},
        {"stage": "finetune"},
        {"stage": "finetune", "trainable": TrainablePlan(decoder="lora"), "lora": LoraConfig(rank=4)},
    ],
    ids=["align", "finetune", "lora"],
)
def test_as_torch_counts(mid_parts, training, recomputation):
    module = make(mid_parts, recomputation, **training)
    shape = BatchShape(2, 100, 20)
    found = add_up(count_work(build_run_model(module), shape.counts, recomputation))
    module.configure_model()
    ids = torch.full((2, 100), 5)
    ids[:, 1:65] = IMAGE_TOKEN_INDEX
    labels = torch.full((2, 100), -100)
    labels[:, 80:] = 5
    pixels = torch.zeros(2, 3, 64, 64)
    with FlopCounterMode(display=False) as forward:
        loss = module.model(ids, pixels, labels=labels).loss_output.total
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    encoder = found.forward
    # The encoder's attention is fused, which torch's counter does not know on the CPU: 2 layers, 65 positions, 64 wide.
    encoder -= 4 * 2 * 64 * 2 * 65**2
    assert forward.get_total_flops() == pytest.approx(encoder, rel=0.002)  # the rotation's product is left out
    # Nobody asks for the input's gradient of an adapter in the first layer; rotation as above.
    assert backward.get_total_flops() == pytest.approx(found.backward + found.again, rel=0.015)


def test_seven_billion(published):
    """6 N T of Kaplan et al. for the decoder's blocks, and 12 L W T^2 of Chowdhery et al. for its attention."""
    module = LlavaModule(
        stage="finetune",
        vision_encoder=VisionEncoderConfig(str(published / "encoder")),
        decoder=DecoderConfig(str(published / "7b"), gradient_checkpointing="full"),
        optim=OptimConfig(learning_rate=1e-3),
    )
    parts = {work.part: work for work in count_work(build_run_model(module), BatchShape(1, 1000, 100).counts, "full")}
    linear, attention = 32 * (4 * 4096**2 + 3 * 4096 * 11008), 32 * 4096 * 1000**2
    forward = 2 * linear * 1000 + 4 * attention
    last = 2 * 1000 * 32 * 4096 * 11008  # the product that recomputation stops before
    assert parts["decoder"] == Work("decoder", forward, 2 * forward, forward - last)
    assert parts["head"] == Work("head", 2 * 100 * 32000 * 4096, 4 * 100 * 32000 * 4096)
    assert parts["vision_encoder"].backward == 0
    first, second = 1024 * 4096, 4096 * 4096  # of the first layer's input nobody asks for the gradient
    assert parts["projector"] == Work("projector", 2 * 576 * (first + second), 2 * 576 * (first + 2 * second))


def test_divided_and_quantized_weights_count_whole(tiny_parts):
    """ZeRO-3 leaves nothing of a weight, bitsandbytes half of it; what one of each count needs adds up."""
    module = make(tiny_parts, "none", stage="finetune")
    model = build_run_model(module)
    counts = BatchShape(2, 30, 5).counts
    before = add_up(count_work(model, counts, "none"))
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight = torch.nn.Parameter(torch.empty(0), requires_grad=layer.weight.requires_grad)
    pixels = model.vision_encoder.model.embeddings.patch_embedding.weight
    pixels.ds_shape, pixels.data = pixels.shape, torch.empty(0, device="meta")
    assert add_up(count_work(model, counts, "none")) == before
    needed = needed_operations(model)
    assert sum(needed[name] * value for name, value in asdict(counts).items()) == before.forward + before.backward
    encoder = count_work(model, BatchCounts(num_tiles=1), "none")[0]
    left = needed_operations(model, encodes=False)
    assert left == needed | {"num_tiles": needed["num_tiles"] - encoder.forward - encoder.backward}
