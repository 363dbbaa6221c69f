"""Guards: activations that are kept after all, or recomputed into another loss, gradient, mode or answer."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from llava_pl.export.build import build_model
from llava_pl.export.model_config import DecoderConfig, ModelConfig, VisionEncoderConfig
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.recompute import recompute_layers
from llava_pl.training.stages import PLANS, TrainablePlan, apply_plan
from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, InputError

NUM_LAYERS = 3
PICTURES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PADDED = {
    "input_ids": torch.tensor([[1, *[IMAGE_TOKEN_INDEX] * 4, 7, 8, 9], [1, *[IMAGE_TOKEN_INDEX] * 4, 5, 0, 0]]),
    "attention_mask": torch.tensor([[1] * 8, [1] * 6 + [0] * 2]),
    "labels": torch.tensor([[IGNORE_INDEX] * 6 + [8, 9], [IGNORE_INDEX] * 5 + [5] + [IGNORE_INDEX] * 2]),
}
PACKED = {
    "input_ids": torch.cat([PADDED["input_ids"][0], PADDED["input_ids"][1, :6]])[None],
    "labels": torch.cat([PADDED["labels"][0], PADDED["labels"][1, :6]])[None],
    "position_ids": torch.tensor([[*range(8), *range(6)]]),
    "sequence_lengths": [8, 6],
}
ROWS = {"padded": PADDED, "packed": PACKED}

RECIPES = {
    **PLANS,
    "frozen_inputs": TrainablePlan(projector="frozen", decoder="full", embeddings="frozen"),
    "embeddings": TrainablePlan(projector="frozen", embeddings="full"),
}


@pytest.fixture
def build(tiny_parts):
    def build(kind, plan=PLANS["finetune"], dropout=0.0):
        torch.manual_seed(0)
        decoder = DecoderConfig(str(tiny_parts / "decoder"), gradient_checkpointing=kind)
        model = build_model(ModelConfig(VisionEncoderConfig(str(tiny_parts / "encoder")), decoder))
        for module in model.decoder.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = dropout
        apply_plan(model, plan)
        return model

    return build


def step(model, rows):
    """Return the loss and the gradient of each trained parameter."""
    torch.manual_seed(1)
    loss = model(pixel_values=PICTURES, **rows).loss
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return loss.detach(), gradients


def assert_equal(found, expected):
    assert torch.equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        # The same operations on the same numbers: not a bit may differ.
        assert torch.equal(found[1][name], gradient), name


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("plan", RECIPES)
@pytest.mark.parametrize("kind", ["selective", "full"])
def test_loss_and_gradients_are_those_without(build, kind, plan, rows):
    expected = step(build("none", RECIPES[plan]), ROWS[rows])
    assert all(gradient.abs().max() > 0 for gradient in expected[1].values())
    assert_equal(step(build(kind, RECIPES[plan]), ROWS[rows]), expected)


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_dropout_is_the_same_in_both_passes(build, kind):
    without = step(build("none", dropout=0.0), PADDED)
    expected = step(build("none", dropout=0.5), PADDED)
    assert not torch.equal(without[0], expected[0])
    assert_equal(step(build(kind, dropout=0.5), PADDED), expected)


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_dropout_of_a_frozen_decoder_stays_off(build, kind):
    expected = step(build("none", PLANS["align"], dropout=0.0), PADDED)
    model = build(kind, PLANS["align"], dropout=0.5)
    assert_equal(step(model, PADDED), expected)
    assert not any(module.training for module in model.decoder.modules())


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_under_autocast(build, kind):
    with torch.autocast("cpu", torch.bfloat16):
        expected = step(build("none"), PADDED)
        assert_equal(step(build(kind), PADDED), expected)


@pytest.mark.parametrize("plan", RECIPES)
@pytest.mark.parametrize(("kind", "num_runs"), [("none", 1), ("selective", 2), ("full", 2)])
def test_each_layer_runs_once_more(build, plan, kind, num_runs):
    """Also where the decoder is frozen and in eval mode, and where what it reads asks for no gradient."""
    model = build(kind, RECIPES[plan])
    runs = []
    for layer in model.decoder.model.model.layers:
        layer.self_attn.register_forward_hook(lambda module, *_: runs.append(module.layer_idx))
    step(model, PADDED)
    assert sorted(runs) == sorted([0, 1] * num_runs)


class CountProducts(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if name in ("aten.mm.default", "aten.addmm.default") or ("attention" in name and "backward" not in name):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_selective_repeats_no_matrix_product(build):
    counts = {}
    for kind in ("none", "selective", "full"):
        model = build(kind)
        with CountProducts() as counter:
            step(model, PADDED)
        counts[kind] = len(counter.names)
    # Seven matrices and an attention in each of two layers, of which "full" need not repeat the last matrix: nobody
    # asks for what comes out of it.
    assert (counts["selective"] - counts["none"], counts["full"] - counts["none"]) == (0, 2 * 7)


def saved_bytes(model):
    """Return the memory that a forward pass holds for the backward pass, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(pixel_values=PICTURES, **PADDED).loss
    del loss
    return sum(sizes.values())


def test_full_keeps_less(build):
    none, full = saved_bytes(build("none")), saved_bytes(build("full"))
    assert full < none / 2


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_answers_are_those_without_even_in_train_mode(build, kind):
    """Transformers' own switch drops the cache there, and then answers to the last token alone."""
    options = {"input_ids": PADDED["input_ids"][:1], "pixel_values": PICTURES[:1], "max_new_tokens": 6}
    options |= {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    plain, model = build("none"), build(kind)
    assert model.decoder.training
    assert model.generate(**options).tolist() == plain.generate(**options).tolist()


def test_names_of_parameters_stay(build):
    assert build("full").state_dict().keys() == build("none").state_dict().keys()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_recomputes_with_its_own_weights(duplicate):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    model = LlamaForCausalLM(config)
    recompute_layers(model, "full")
    twin = duplicate(model)
    nn.init.zeros_(model.model.layers[0].mlp.down_proj.weight)
    loss = twin(input_ids=torch.tensor([[1, 2, 3]])).logits.sum()
    loss.backward()
    assert twin.model.layers[0].mlp.gate_proj.weight.grad.abs().max() > 0
    assert model.model.layers[0].mlp.gate_proj.weight.grad is None


def test_dropout_that_a_layer_does_itself_stays_off():
    """OPT's layers look at their own mode, which a switch that puts them in train mode would disturb."""
    config = OPTConfig(
        vocab_size=20, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=8,
        dropout=0.5, max_position_embeddings=16,
    )  # fmt: skip
    model = OPTForCausalLM(config).eval()
    ids = torch.tensor([[1, 2, 3]])
    expected = model(input_ids=ids, use_cache=False).logits
    recompute_layers(model, "full")
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, expected)


def test_unknown_kinds_are_refused():
    with pytest.raises(InputError, match="gradient_checkpointing: expected none, selective or full, found 'half'"):
        recompute_layers(nn.Linear(2, 2), "half")


def test_models_without_layers_are_refused():
    with pytest.raises(InputError, match="Linear has no layers that can be recomputed; expected none"):
        recompute_layers(nn.Linear(2, 2), "full")


def test_none_touches_nothing(tiny_parts):
    decoder = CausalDecoder(LlamaForCausalLM.from_pretrained(tiny_parts / "decoder"))
    recompute_layers(decoder.model, "none")
    assert all("forward" not in vars(module) for module in decoder.modules())
