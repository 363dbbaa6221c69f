"""Guards: a run that starts from other weights than it was told, or from a part of them, without a word."""

import shutil
from pathlib import Path

import pytest
import torch

from llava_pl.export.initial_weights import load_initial_weights
from llava_pl.export.parts import load_decoder, load_vision_encoder
from llava_pl.models.adapters import add_adapters, learned_rows
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector
from llava_pl.models.vocabulary import add_rows
from llava_pl.training.checkpoint import keep_own
from llava_pl.training.stages import TrainablePlan, apply_plan
from llava_pl.types import InputError

PROJECTOR = ["projector.0.weight", "projector.0.bias", "projector.2.weight", "projector.2.bias"]


@pytest.fixture
def checkpoint(build, state_of, tmp_path) -> tuple[Path, LlavaModel]:
    """A checkpoint of stage `align`, and the model that it was made of."""
    model = build(seed=7)
    content = {"state_dict": keep_own(state_of(model), model, "model."), "optimizer_states": [{"x": 1}]}
    torch.save(content, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt", model


def assert_projector(model: LlavaModel, expected: dict[str, torch.Tensor]):
    own = model.projector.state_dict()
    assert own.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(own[name], tensor), name


def test_initial_weights_of_a_checkpoint(build, checkpoint):
    path, source = checkpoint
    model = build(stage="finetune")
    decoder = {name: tensor.clone() for name, tensor in model.decoder.state_dict().items()}
    assert not torch.equal(model.projector[0].weight, source.projector[0].weight)
    load_initial_weights(model, path)
    assert_projector(model, source.projector.state_dict())
    assert all(torch.equal(tensor, decoder[name]) for name, tensor in model.decoder.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.projector.parameters())


def test_a_frozen_projector_starts_another_run(build, state_of, tmp_path):
    source, model = build(seed=7), build()
    apply_plan(source, TrainablePlan(projector="frozen", decoder="full"))
    torch.save({"state_dict": keep_own(state_of(source), source, "model.")}, tmp_path / "x.ckpt")
    assert set(PROJECTOR) < load_initial_weights(model, tmp_path / "x.ckpt")
    assert_projector(model, source.projector.state_dict())


def test_an_older_checkpoint_without_its_frozen_projector_is_no_start(build, state_of, tmp_path):
    source = build()
    apply_plan(source, TrainablePlan(projector="frozen", decoder="full"))
    kept = keep_own(state_of(source), source, "model.")
    trained = {name: tensor for name, tensor in kept.items() if "projector" not in name}
    torch.save({"state_dict": trained}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=r"x\.ckpt: holds no projector, which its run did not train"):
        load_initial_weights(build(), tmp_path / "x.ckpt")


def test_initial_weights_of_a_whole_stage_2_checkpoint(build, state_of, tmp_path):
    source = build(stage="finetune")
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
    torch.save({"state_dict": keep_own(state_of(source), source, "model.")}, tmp_path / "x.ckpt")
    model = build()
    encoder = model.vision_encoder.state_dict()
    load_initial_weights(model, str(tmp_path / "x.ckpt"))
    assert_projector(model, source.projector.state_dict())
    assert all(torch.equal(t, source.decoder.state_dict()[name]) for name, t in model.decoder.state_dict().items())
    assert all(torch.equal(t, encoder[name]) for name, t in model.vision_encoder.state_dict().items())


def test_newline_is_kept_and_starts_another_run(build, state_of, checkpoint, tmp_path):
    source = build(seed=7, has_newline=True)
    kept = keep_own(state_of(source), source, "model.")
    assert sorted(kept) == sorted(f"model.{name}" for name in ["image_newline", *PROJECTOR])
    torch.save({"state_dict": kept}, tmp_path / "tiled.ckpt")
    model = build(has_newline=True)
    fresh = model.image_newline.detach().clone()
    load_initial_weights(model, tmp_path / "tiled.ckpt")
    assert torch.equal(model.image_newline, source.image_newline)
    # A projector that learned on whole pictures is a start too; the newline is then a fresh one.
    model = build(has_newline=True)
    load_initial_weights(model, checkpoint[0])
    assert torch.equal(model.image_newline, fresh)
    assert_projector(model, checkpoint[1].projector.state_dict())


def test_newline_is_no_start_for_whole_pictures(build, state_of, tmp_path):
    source = build(has_newline=True)
    torch.save({"state_dict": keep_own(state_of(source), source, "model.")}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=r"x.ckpt: image_newline: found .* no such .*; check .* data.image_aspect$"):
        load_initial_weights(build(), tmp_path / "x.ckpt")


@pytest.mark.parametrize("prefix", ["model.mm_projector.", "mm_projector."])
@pytest.mark.parametrize("name", ["mm_projector.bin", "non_lora_trainables.bin"])
def test_initial_weights_of_an_original_projector(build, tmp_path, prefix, name):
    source, model = build(seed=7), build()
    weights = {prefix + own: tensor.half() for own, tensor in source.projector.state_dict().items()}
    torch.save({**weights, "model.embed_tokens.weight": torch.zeros(2, 2)}, tmp_path / name)
    load_initial_weights(model, tmp_path / name)
    tiled = build(has_newline=True)
    newline = {prefix.replace("mm_projector.", "image_newline"): torch.arange(32.0)}
    torch.save({**weights, **newline}, tmp_path / name)
    load_initial_weights(tiled, tmp_path / name)
    assert tiled.image_newline.tolist() == list(range(32))
    assert_projector(model, {own: tensor.half().float() for own, tensor in source.projector.state_dict().items()})


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("rows", ["whole table", "new rows", "marks alone"])
def test_initial_weights_of_an_original_projector_with_marks(build, tmp_path, rows, learns):
    """What `initialize_vision_tokenizer` takes: the whole table, or the rows of the two marks, its last tokens."""
    source = build(seed=7)
    weights = {f"model.mm_projector.{own}": tensor for own, tensor in source.projector.state_dict().items()}
    table = torch.arange(102.0)[:, None].expand(-1, 32).clone()
    given = {"whole table": table, "new rows": table[99:], "marks alone": table[100:]}[rows]
    torch.save({**weights, "model.embed_tokens.weight": given}, tmp_path / "mm_projector.bin")
    ids = [99, 100, 101]
    model = build(new_token_ids=ids)
    old = model.decoder.embed(torch.arange(99)).clone()
    mean = old.mean(dim=0)
    if learns:
        add_adapters(model.decoder.model, None, token_ids=ids)
    load_initial_weights(model, tmp_path / "mm_projector.bin")
    assert_projector(model, source.projector.state_dict())
    assert torch.equal(model.decoder.embed(torch.arange(99)), old)
    patch = mean if rows == "marks alone" else table[99]
    assert torch.equal(model.decoder.embed(torch.tensor(ids)), torch.stack([patch, *table[100:]]))
    assert (learned_rows(model.decoder.embedding) is not None) == learns


def test_the_table_of_a_whole_model_is_no_table_of_new_tokens(golden_path):
    """Its decoder, with spare rows or without, is what `model.decoder.path` may name."""
    folder = golden_path / "model" / "llava-mlp2x"
    encoder, decoder = load_vision_encoder(golden_path / "model" / "clip-mlp2x-patch14-56"), load_decoder(folder)
    ids = [decoder.num_embeddings, decoder.num_embeddings + 1]
    add_rows(decoder, ids)
    table = decoder.embedding.weight.detach().clone()
    projector = build_projector("mlp2x_gelu", vision_width=48, decoder_width=64)
    load_initial_weights(LlavaModel(encoder, projector, decoder, new_token_ids=ids), folder)
    assert torch.equal(decoder.embedding.weight, table)


@pytest.mark.parametrize("shape", [(1, 32), (3, 32), (50, 32), (2, 16)])
def test_rows_of_other_tokens_are_refused(build, tmp_path, shape):
    weights = {f"model.mm_projector.{own}": tensor for own, tensor in build().projector.state_dict().items()}
    torch.save({**weights, "model.embed_tokens.weight": torch.zeros(shape)}, tmp_path / "mm_projector.bin")
    found = rf"new tokens: found shape .{shape[0]}, {shape[1]}., expected those of 2 tokens, shape .2, 32., or a table"
    with pytest.raises(InputError, match=found):
        load_initial_weights(build(new_token_ids=[99, 100]), tmp_path / "mm_projector.bin")


def test_initial_weights_of_an_original_folder(golden_path):
    folder = golden_path / "model" / "llava-mlp2x"
    encoder, decoder = load_vision_encoder(golden_path / "model" / "clip-mlp2x-patch14-56"), load_decoder(folder)
    model = LlavaModel(encoder, build_projector("mlp2x_gelu", vision_width=48, decoder_width=64), decoder)
    load_initial_weights(model, folder)
    file = torch.load(golden_path / "model" / "stage1-mlp2x" / "mm_projector.bin", weights_only=True)
    load_initial_weights(model, golden_path / "model" / "stage1-mlp2x" / "mm_projector.bin")
    assert_projector(model, {key.removeprefix("model.mm_projector."): tensor.float() for key, tensor in file.items()})


def test_initial_weights_of_an_original_stage_1_folder(golden_path):
    """What the original's stage 1 leaves: `config.json` and `mm_projector.bin`."""
    folder = golden_path / "model" / "llava-mlp2x"
    encoder, decoder = load_vision_encoder(golden_path / "model" / "clip-mlp2x-patch14-56"), load_decoder(folder)
    model = LlavaModel(encoder, build_projector("mlp2x_gelu", vision_width=48, decoder_width=64), decoder)
    load_initial_weights(model, golden_path / "model" / "stage1-mlp2x")
    file = torch.load(golden_path / "model" / "stage1-mlp2x" / "mm_projector.bin", weights_only=True)
    assert_projector(model, {key.removeprefix("model.mm_projector."): tensor.float() for key, tensor in file.items()})


@pytest.mark.parametrize("kind", ["linear", "mlp1x_gelu", "mlp3x_gelu"])
@pytest.mark.parametrize("ending", ["ckpt", "bin"])
def test_a_projector_of_another_kind_is_refused(build, checkpoint, tmp_path, kind, ending):
    """Of a deeper one, the last layer would stay random."""
    path, source = checkpoint
    if ending == "bin":
        path = tmp_path / "mm_projector.bin"
        torch.save({f"model.mm_{name}": source.state_dict()[name] for name in PROJECTOR}, path)
    with pytest.raises(InputError, match=rf"model.init_from: .*{path.name}: .*projector\."):
        load_initial_weights(build(kind), path)


def test_a_weight_of_another_shape_is_refused(build, checkpoint):
    path, _ = checkpoint
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.projector.0.weight"] = torch.zeros(32, 8)
    torch.save(content, path)
    message = r"projector.0.weight: found shape \(32, 8\), expected shape \(32, 16\)"
    with pytest.raises(InputError, match=message):
        load_initial_weights(build(), path)


def test_weights_that_do_not_fit_leave_the_model_as_it_was(build, checkpoint):
    path, _ = checkpoint
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.projector.9.weight"] = torch.zeros(1)
    torch.save(content, path)
    model, before = build(), build()
    with pytest.raises(InputError, match=r"projector.9.weight: found shape \(1,\), expected no such parameter"):
        load_initial_weights(model, path)
    assert_projector(model, before.projector.state_dict())


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1], {"weights": {}}])
def test_a_checkpoint_without_weights_is_refused(build, tmp_path, content):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=r"x.ckpt: expected a Lightning checkpoint with a 'state_dict', found none"):
        load_initial_weights(build(), tmp_path / "x.ckpt")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(build, checkpoint, number):
    path, _ = checkpoint
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.projector.0.weight"][3, 5] = number
    torch.save(content, path)
    with pytest.raises(InputError, match=r"model.init_from: .*: tensor 'projector.0.weight' holds NaN or infinity"):
        load_initial_weights(build(), path)


def test_nothing_to_load(build, tiny_parts, tmp_path):
    model = build()
    with pytest.raises(InputError, match=r"nowhere.ckpt: no such file"):
        load_initial_weights(model, tmp_path / "nowhere.ckpt")
    with pytest.raises(InputError, match=r"nowhere.bin: no weights found"):
        load_initial_weights(model, tmp_path / "nowhere.bin")
    with pytest.raises(InputError, match=r"model.init_from: .*: expected a .ckpt file, mm_projector.bin or a LLaVA"):
        load_initial_weights(model, tmp_path)
    shutil.copyfile(tiny_parts / "decoder" / "config.json", tmp_path / "config.json")
    with pytest.raises(InputError, match=r"model.init_from: "):
        load_initial_weights(model, tmp_path)


IDS = [99, 100, 101]
TABLE, HEAD = "decoder.model.model.embed_tokens.weight", "decoder.model.lm_head.weight"


@pytest.mark.parametrize("learns", [False, True])
def test_frozen_rows_of_new_tokens_start_another_run(build, state_of, tmp_path, learns):
    """What an earlier run was given, and did not train, in both tables; where they learn next they go on from there."""
    source, model = build(new_token_ids=IDS), build(new_token_ids=IDS)
    with torch.no_grad():
        source.decoder.embedding.weight[IDS] = torch.arange(96.0).view(3, 32)
        source.decoder.head.weight[IDS] = -torch.arange(96.0).view(3, 32)
    torch.save({"state_dict": keep_own(state_of(source), source, "model.")}, tmp_path / "x.ckpt")
    if learns:
        add_adapters(model.decoder.model, None, token_ids=IDS)
    assert load_initial_weights(model, tmp_path / "x.ckpt") == set(PROJECTOR)  # rows are in no list of whole tensors
    ids = torch.arange(102)
    assert torch.equal(model.decoder.embed(ids), source.decoder.embed(ids))
    assert torch.equal(model.decoder.head.weight, source.decoder.head.weight)


@pytest.mark.parametrize("table", [TABLE, HEAD])
def test_frozen_rows_of_other_tokens_are_refused(build, state_of, tmp_path, table):
    source = build(new_token_ids=IDS)
    kept = keep_own(state_of(source), source, "model.")
    kept = {name: tensor for name, tensor in kept.items() if "decoder" not in name or table in name}
    torch.save({"state_dict": kept}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=r"new tokens: found shape .3, 32., expected those of 2 tokens"):
        load_initial_weights(build(new_token_ids=[99, 100]), tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=rf"{table}.new_rows: found .* no such .*; check .* data.image_start_end and"):
        load_initial_weights(build(), tmp_path / "x.ckpt")
