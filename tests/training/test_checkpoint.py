"""Guards: a checkpoint that misses a trained weight, or one that is loaded in part without a word."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llava_pl.models.decoder import CausalDecoder
from llava_pl.training.checkpoint import check_trained, keep_trained
from llava_pl.training.stages import PLANS, apply_plan
from llava_pl.types import InputError

PROJECTOR = ["projector.0.weight", "projector.0.bias", "projector.2.weight", "projector.2.bias"]


def test_align_keeps_the_projector_alone(build, state_of):
    model = build()
    state = state_of(model)
    kept = keep_trained(state, model, "model.")
    assert list(kept) == [f"model.{name}" for name in PROJECTOR]
    assert all(kept[name] is state[name] for name in kept)


def test_finetune_keeps_projector_and_decoder(build, state_of):
    model = build(stage="finetune")
    kept = keep_trained(state_of(model), model, "model.")
    assert kept.keys() == {name for name in state_of(model) if not name.startswith("model.vision_encoder")}


def test_a_tied_head_is_kept_once(build, state_of):
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = build()
    model.decoder = CausalDecoder(LlamaForCausalLM(config))
    apply_plan(model, PLANS["finetune"])
    kept = keep_trained(state_of(model), model, "model.")
    assert "model.decoder.model.lm_head.weight" in state_of(model)
    assert "model.decoder.model.model.embed_tokens.weight" in kept
    assert "model.decoder.model.lm_head.weight" not in kept
    check_trained(kept, model, "model.", is_resumed=True)


def test_what_is_no_parameter_is_left_out(build):
    model = build()
    assert keep_trained({"scores.x": torch.zeros(1), "projector.0.weight": torch.zeros(1)}, model, "model.") == {}


def test_what_is_kept_passes_the_check(build, state_of):
    for stage in PLANS:
        model = build(stage=stage)
        for is_resumed in (True, False):
            check_trained(keep_trained(state_of(model), model, "model."), model, "model.", is_resumed=is_resumed)


@pytest.mark.parametrize("is_resumed", [True, False])
def test_a_renamed_weight_is_refused(build, state_of, is_resumed):
    model = build()
    state = keep_trained(state_of(model), model, "model.")
    state["model.projector.1.weight"] = state.pop("model.projector.0.weight")
    message = "(1|0) missing.* 1 unexpected .such as 'model.projector.1.weight'."
    with pytest.raises(InputError, match=f"^checkpoint: its trained weights do not fit this model: {message}"):
        check_trained(state, model, "model.", is_resumed=is_resumed)


@pytest.mark.parametrize("is_resumed", [True, False])
def test_weights_without_the_prefix_are_refused(build, is_resumed):
    """Lightning would skip them all, and a validation would score the weights that were there before."""
    model = build()
    with pytest.raises(InputError, match="unexpected"):
        check_trained({name: model.state_dict()[name] for name in PROJECTOR}, model, "model.", is_resumed=is_resumed)


def test_a_dropped_weight_is_refused_when_resuming(build, state_of):
    model = build()
    state = keep_trained(state_of(model), model, "model.")
    del state["model.projector.2.bias"]
    with pytest.raises(InputError, match=r"1 missing .such as 'projector.2.bias'., 0 unexpected; check model.stage"):
        check_trained(state, model, "model.", is_resumed=True)


def test_a_checkpoint_of_the_other_stage(build, state_of):
    """Evaluating stage 1 under the settings of stage 2 is fine; resuming it is not, and too much is never fine."""
    align, finetune = build(), build(stage="finetune")
    state = keep_trained(state_of(align), align, "model.")
    check_trained(state, finetune, "model.", is_resumed=False)
    with pytest.raises(InputError, match=r"missing .such as 'decoder.model.lm_head.weight'."):
        check_trained(state, finetune, "model.", is_resumed=True)


@pytest.mark.parametrize("is_resumed", [True, False])
def test_a_checkpoint_of_whole_pictures_is_neither_resumed_nor_evaluated_with_tiles(build, state_of, is_resumed):
    whole, tiled = build(), build(has_newline=True)
    state = keep_trained(state_of(whole), whole, "model.")
    with pytest.raises(InputError, match=r"1 missing .such as 'image_newline'.*; check model.stage, data.image_aspect"):
        check_trained(state, tiled, "model.", is_resumed=is_resumed)
