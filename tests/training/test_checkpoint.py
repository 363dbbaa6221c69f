"""Guards: a checkpoint that misses a trained weight, or one that is loaded in part without a word."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llava_pl.models.adapters import add_adapters
from llava_pl.models.decoder import CausalDecoder
from llava_pl.training.checkpoint import check_kept, keep_own, take_rows
from llava_pl.training.stages import PLANS, TrainablePlan, apply_plan
from llava_pl.types import InputError

PROJECTOR = ["projector.0.weight", "projector.0.bias", "projector.2.weight", "projector.2.bias"]


def test_align_keeps_the_projector_alone(build, state_of):
    model = build()
    state = state_of(model)
    kept = keep_own(state, model, "model.")
    assert list(kept) == [f"model.{name}" for name in PROJECTOR]
    assert all(kept[name] is state[name] for name in kept)


def test_finetune_keeps_projector_and_decoder(build, state_of):
    model = build(stage="finetune")
    kept = keep_own(state_of(model), model, "model.")
    assert kept.keys() == {name for name in state_of(model) if not name.startswith("model.vision_encoder")}


def test_a_tied_head_is_kept_once(build, state_of):
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = build()
    model.decoder = CausalDecoder(LlamaForCausalLM(config))
    apply_plan(model, PLANS["finetune"])
    kept = keep_own(state_of(model), model, "model.")
    assert "model.decoder.model.lm_head.weight" in state_of(model)
    assert "model.decoder.model.model.embed_tokens.weight" in kept
    assert "model.decoder.model.lm_head.weight" not in kept
    check_kept(kept, model, "model.", is_resumed=True)


def test_what_is_no_parameter_is_left_out(build):
    model = build()
    assert keep_own({"scores.x": torch.zeros(1), "projector.0.weight": torch.zeros(1)}, model, "model.") == {}


def test_what_is_kept_passes_the_check(build, state_of):
    for stage in PLANS:
        model = build(stage=stage)
        for is_resumed in (True, False):
            check_kept(keep_own(state_of(model), model, "model."), model, "model.", is_resumed=is_resumed)


@pytest.mark.parametrize("is_resumed", [True, False])
def test_a_renamed_weight_is_refused(build, state_of, is_resumed):
    model = build()
    state = keep_own(state_of(model), model, "model.")
    state["model.projector.1.weight"] = state.pop("model.projector.0.weight")
    message = "(1|0) missing.* 1 unexpected .such as 'model.projector.1.weight'."
    with pytest.raises(InputError, match=f"^checkpoint: its trained weights do not fit this model: {message}"):
        check_kept(state, model, "model.", is_resumed=is_resumed)


@pytest.mark.parametrize("is_resumed", [True, False])
def test_weights_without_the_prefix_are_refused(build, is_resumed):
    """Lightning would skip them all, and a validation would score the weights that were there before."""
    model = build()
    with pytest.raises(InputError, match="unexpected"):
        check_kept({name: model.state_dict()[name] for name in PROJECTOR}, model, "model.", is_resumed=is_resumed)


def test_a_dropped_weight_is_refused_when_resuming(build, state_of):
    model = build()
    state = keep_own(state_of(model), model, "model.")
    del state["model.projector.2.bias"]
    with pytest.raises(InputError, match=r"1 missing .such as 'projector.2.bias'., 0 unexpected; check model.stage"):
        check_kept(state, model, "model.", is_resumed=True)


def test_a_checkpoint_of_the_other_stage(build, state_of):
    """Evaluating stage 1 under the settings of stage 2 is fine; resuming it is not, and too much is never fine."""
    align, finetune = build(), build(stage="finetune")
    state = keep_own(state_of(align), align, "model.")
    check_kept(state, finetune, "model.", is_resumed=False)
    with pytest.raises(InputError, match=r"missing .such as 'decoder.model.lm_head.weight'."):
        check_kept(state, finetune, "model.", is_resumed=True)


@pytest.mark.parametrize("is_resumed", [True, False])
def test_a_checkpoint_of_whole_pictures_is_neither_resumed_nor_evaluated_with_tiles(build, state_of, is_resumed):
    whole, tiled = build(), build(has_newline=True)
    state = keep_own(state_of(whole), whole, "model.")
    with pytest.raises(InputError, match=r"1 missing .such as 'image_newline'.*; check model.stage, data.image_aspect"):
        check_kept(state, tiled, "model.", is_resumed=is_resumed)


IDS = [99, 100, 101]
ROWS = [f"decoder.model.{table}.weight.new_rows" for table in ("lm_head", "model.embed_tokens")]


def test_frozen_rows_of_new_tokens_are_kept_without_their_tables(build, state_of):
    model = build(new_token_ids=IDS)
    state = state_of(model)
    kept = keep_own(state, model, "model.")
    assert kept.keys() == {f"model.{name}" for name in (*PROJECTOR, *ROWS)}
    assert torch.equal(kept[f"model.{ROWS[1]}"], state["model.decoder.model.model.embed_tokens.weight"][IDS])
    again = build(new_token_ids=IDS)
    with torch.no_grad():
        again.decoder.head.weight.zero_()
        again.decoder.embedding.weight.zero_()
    check_kept(kept, again, "model.", is_resumed=True)
    take_rows(kept, again, "model.")
    assert kept.keys() == {f"model.{name}" for name in PROJECTOR}
    for layer, known in ((again.decoder.head, model.decoder.head), (again.decoder.embedding, model.decoder.embedding)):
        assert torch.equal(layer.weight[IDS], known.weight[IDS])
        assert not layer.weight[:99].any()


def test_rows_are_kept_once(build, state_of):
    """Not beside their whole table, nor beside those that learn apart, nor twice where head and table are one."""
    model = build(stage="finetune", new_token_ids=IDS)
    assert not any(name.endswith(".new_rows") for name in keep_own(state_of(model), model, "model."))
    model = build(new_token_ids=IDS)
    add_adapters(model.decoder.model, None, token_ids=IDS)
    apply_plan(model, TrainablePlan(embeddings="new_tokens"))
    learned = "decoder.model.model.embed_tokens.token_adapter.trainable_tokens_delta.default"
    kept = keep_own(state_of(model), model, "model.")
    assert kept.keys() == {f"model.{name}" for name in (*PROJECTOR, ROWS[0], learned)}


@pytest.mark.parametrize("is_resumed", [True, False])
def test_rows_of_other_tokens_are_refused(build, state_of, is_resumed):
    model = build(new_token_ids=IDS)
    kept = keep_own(state_of(model), model, "model.")
    with pytest.raises(InputError, match=r"new_rows: found shape .3, 32., expected rows of 2 new tokens; check data"):
        check_kept(kept, build(new_token_ids=IDS[:2]), "model.", is_resumed=is_resumed)
    with pytest.raises(InputError, match=r"2 unexpected .such as 'model.decoder.model.lm_head.weight.new_rows'."):
        check_kept(kept, build(), "model.", is_resumed=is_resumed)


def test_a_frozen_projector_and_what_was_replaced_are_kept(build, state_of):
    model = build(has_newline=True)
    apply_plan(model, TrainablePlan(projector="frozen", embeddings="full"))
    replaced = {"decoder.model.model.norm.weight"}
    kept = keep_own(state_of(model), model, "model.", replaced=replaced)
    table = "decoder.model.model.embed_tokens.weight"
    assert kept.keys() == {f"model.{name}" for name in (*PROJECTOR, "image_newline", table, *replaced)}
    check_kept(kept, model, "model.", is_resumed=True, replaced=replaced)
    del kept["model.decoder.model.model.norm.weight"]
    for is_resumed in (True, False):
        with pytest.raises(InputError, match=r"1 missing .such as 'decoder.model.model.norm.weight'."):
            check_kept(kept, model, "model.", is_resumed=is_resumed, replaced=replaced)


def test_a_checkpoint_without_its_frozen_projector_is_refused_unless_it_is_an_older_one(build, state_of):
    model = build()
    apply_plan(model, TrainablePlan(projector="frozen", embeddings="full"))
    kept = keep_own(state_of(model), model, "model.")
    trained = {name: tensor for name, tensor in kept.items() if "projector" not in name}
    for is_resumed in (True, False):
        check_kept(trained, model, "model.", is_resumed=is_resumed, replaced=None)
        with pytest.raises(InputError, match=r"4 missing .such as 'projector.0.bias'."):
            check_kept(trained, model, "model.", is_resumed=is_resumed)


def test_what_a_projector_has_counted_is_kept(build, state_of):
    """Running means of a connector from outside are in no base model, and change while it learns."""
    model = build()
    model.projector.append(torch.nn.BatchNorm1d(4))
    kept = keep_own(state_of(model), model, "model.")
    names = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert {name.rpartition(".")[2] for name in kept if ".3." in name} == names
    check_kept(kept, model, "model.", is_resumed=True)


def test_a_run_goes_on_training_the_same(build, state_of):
    """A decoder that is now frozen has its place in the checkpoint, but the optimizer's state is another's."""
    model = build(stage="finetune")
    kept = keep_own(state_of(model), model, "model.")
    learned = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    check_kept(kept, model, "model.", is_resumed=True, learned=learned)
    apply_plan(model, PLANS["align"])
    check_kept(kept, model, "model.", is_resumed=False, learned=learned)
    with pytest.raises(InputError, match=r"^checkpoint: its run trains other weights than this one, 21 of them differ"):
        check_kept(kept, model, "model.", is_resumed=True, learned=learned)
