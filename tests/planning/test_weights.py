"""Guards: parameters and bytes of the published models, counted from their configurations."""

import sys

import pytest

from llava_pl import LlavaModule
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.models.adapters import LoraConfig
from llava_pl.planning.weights import build_run_model, gather_half, weigh
from llava_pl.training.optim import OptimConfig
from llava_pl.training.stages import TrainablePlan, summarize_parts

# CLIP ViT-L/14-336's vision model has 303,507,456 parameters, of which the last of 24 layers is left out: LLaVA takes
# the hidden state before it. Vicuna has LLaMA's 6,738,415,616 and 13,015,864,320 (Touvron et al. 2023: 6.7B, 13.0B).
LAYER = 4 * (1024**2 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
ENCODER = 303_507_456 - LAYER
DECODER = {"7b": 6_738_415_616, "13b": 13_015_864_320}
TABLE = {"7b": 32000 * 4096, "13b": 32000 * 5120}
PROJECTOR = {"7b": 1024 * 4096 + 4096 + 4096**2 + 4096, "13b": 1024 * 5120 + 5120 + 5120**2 + 5120}


@pytest.fixture
def make(published):
    def make(size="7b", *, stage="finetune", decoder=None, **more):
        return LlavaModule(
            stage=stage,
            vision_encoder=VisionEncoderConfig(str(published / "encoder")),
            decoder=DecoderConfig(str(published / size), **(decoder or {})),
            optim=OptimConfig(learning_rate=1e-3),
            frozen_dtype="bfloat16",
            **more,
        )

    return make


def counts(model):
    return {part.part: (part.num_trainable, part.num_parameters, part.dtypes) for part in summarize_parts(model)}


@pytest.mark.parametrize("size", ["7b", "13b"])
def test_published_counts(make, size):
    model = build_run_model(make(size))
    blocks = DECODER[size] - TABLE[size]
    assert counts(model) == {
        "vision_encoder": (0, ENCODER, "bfloat16"),
        "projector": (PROJECTOR[size], PROJECTOR[size], "float32"),
        "decoder": (blocks, blocks, "float32"),
        "embeddings": (TABLE[size], TABLE[size], "float32"),
    }
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_align_holds_the_decoder_in_half_precision(make):
    module = make(stage="align")
    model = build_run_model(module)
    assert counts(model)["decoder"] == (0, DECODER["7b"] - TABLE["7b"], "bfloat16")
    weights = weigh(model, module.model_config.decoder)
    assert weights.total == 2 * (ENCODER + DECODER["7b"]) + 4 * PROJECTOR["7b"]
    assert weights.trained == 4 * PROJECTOR["7b"]
    assert weights.whole == 2 * ENCODER


def test_lora(make):
    # A and B of rank 128 beside q, k, v, o (4096 to 4096) and gate, up, down (4096, 11008) of 32 layers.
    adapters = 32 * 128 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    model = build_run_model(make(trainable=TrainablePlan(decoder="lora"), lora=LoraConfig(rank=128)))
    assert counts(model)["decoder"] == (adapters, DECODER["7b"] - TABLE["7b"] + adapters, "bfloat16, float32")
    assert adapters == 319_815_680


@pytest.mark.parametrize(
    ("decoder", "num_bytes"),
    [
        ({"quantization": "nf4"}, 0.5 + 4 / 64),
        ({"quantization": "nf4", "double_quantization": True}, 0.5 + 1 / 64 + 4 / 64 / 256),  # 4.127 bits, section 3
    ],
)
def test_quantized(make, decoder, num_bytes):
    module = make(trainable=TrainablePlan(decoder="lora"), lora=LoraConfig(rank=64), decoder=decoder)
    weights = weigh(build_run_model(module), module.model_config.decoder)
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    rest = 4 * (DECODER["7b"] - linear)  # embeddings, head and norms are raised to float32
    adapters = 4 * 319_815_680 // 2
    assert weights.total == linear * num_bytes + rest + adapters + 4 * PROJECTOR["7b"] + 2 * ENCODER
    assert weights.dequantized == 2 * 4096 * 11008


def test_eight_bits_have_a_scale_for_each_row(make):
    module = make(stage="align", decoder={"quantization": "int8"})
    weights = weigh(build_run_model(module), module.model_config.decoder)
    linear, rows = 32 * (4 * 4096**2 + 3 * 4096 * 11008), 32 * (5 * 4096 + 2 * 11008)
    assert weights.divisible == linear + 4 * rows + 4 * (DECODER["7b"] - linear) + 4 * PROJECTOR["7b"]


def test_units_are_those_that_fsdp2_gathers(make):
    module = make()
    weights = weigh(build_run_model(module), module.model_config.decoder)
    layer = 4 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096)
    assert layer > 4 * TABLE["7b"]
    assert weights.gathered == 4 * (PROJECTOR["7b"] + 4096) + 2 * layer
    assert weights.gathered_gradients == 2 * layer


def test_layers_are_gathered_in_half_precision(make):
    module = make()
    model = build_run_model(module)
    weights = weigh(model, module.model_config.decoder, gathers_half=True)
    num_layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert 2 * num_layer < 4 * TABLE["7b"]  # now the table is the largest that is gathered
    assert weights.gathered == 4 * (PROJECTOR["7b"] + 4096) + 2 * 4 * TABLE["7b"]
    assert weights.gathered_gradients == max((2 + 4) * num_layer, (4 + 4) * TABLE["7b"])
    assert weights.largest_unit == 4 * num_layer  # filled as it is held
    gather_half(model)
    dtypes = {name: str(p.dtype) for name, p in model.named_parameters()}
    assert dtypes["decoder.model.model.layers.0.mlp.up_proj.weight"] == "torch.bfloat16"
    assert dtypes["decoder.model.model.embed_tokens.weight"] == "torch.float32"


def test_all_of_the_decoder_is_streamed_but_adapters_and_tables_with_new_rows(make, tiny_model):
    module = make(trainable=TrainablePlan(decoder="lora"), lora=LoraConfig(rank=128))
    assert weigh(build_run_model(module), module.model_config.decoder).streamed == 2 * DECODER["7b"]
    tiny_model["optim"] = OptimConfig(**tiny_model["optim"])
    plain, marked = (LlavaModule(**tiny_model, has_image_marks=has_marks) for has_marks in (False, True))
    model = build_run_model(plain)
    tables = sum(p.nbytes for part in (model.decoder.embedding, model.decoder.head) for p in part.parameters())
    plain, marked = (weigh(build_run_model(m), m.model_config.decoder).streamed for m in (plain, marked))
    assert plain - marked == tables


def test_what_a_run_needs_need_not_be_installed(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.setattr("llava_pl.models.quantization.is_installed", lambda _: False)
    module = make(stage="align", decoder={"attention": "flash_attention_2", "quantization": "nf4"})
    assert counts(build_run_model(module))["decoder"][1] == DECODER["7b"] - TABLE["7b"]


def test_the_model_is_the_one_that_is_trained(tiny_model):
    """The plan builds its model by itself; what `configure_model` builds must not part from it."""
    tiny_model |= {"frozen_dtype": "bfloat16", "trainable": {"vision_encoder": "lora", "decoder": "lora"}}
    tiny_model["optim"] = OptimConfig(**tiny_model["optim"])
    module = LlavaModule(**tiny_model, has_image_marks=True)
    empty = build_run_model(module)
    module.configure_model()
    for own, built in zip(empty.named_parameters(), module.model.named_parameters(), strict=True):
        assert own[0] == built[0]
        for name in ("shape", "dtype", "requires_grad"):
            assert getattr(own[1], name) == getattr(built[1], name), own[0]
    assert [part.training for part in empty.modules()] == [part.training for part in module.model.modules()]
