"""Guards: a folder that loads as another model than it is, or that its name or place decides about."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from llava_pl import load_pretrained
from llava_pl.data.anyres import Tiling
from llava_pl.export.build import build_model
from llava_pl.export.carry import carry, open_source
from llava_pl.export.initial_weights import load_initial_weights
from llava_pl.export.model_config import DecoderConfig, ModelConfig, VisionEncoderConfig
from llava_pl.training.stages import TrainablePlan
from llava_pl.types import ImageGrid, InputError

TOWER = "clip-mlp2x-patch14-56"
IN_CHECKPOINT = "model.vision_tower.vision_tower.vision_model."


@pytest.fixture(scope="module")
def models(golden_path) -> Path:
    return golden_path / "model"


def writable_copy(source: Path, target: Path) -> Path:
    """The reference data is read-only."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)
    return target


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_same_weights(found, expected):
    found, expected = found.model.state_dict(), expected.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope="module")
def expected(models):
    return load_pretrained(models / "llava-mlp2x")


def test_every_tensor_is_the_file_s(models, expected):
    weights = load_file(models / "llava-mlp2x" / "model.safetensors")
    tower = load_file(models / TOWER / "model.safetensors")
    model = expected.model
    for name, tensor in model.projector.state_dict().items():
        assert torch.equal(tensor, weights[f"model.mm_projector.{name}"])
    for name, tensor in model.decoder.model.state_dict().items():
        assert torch.equal(tensor, weights[name])
    for name, tensor in model.vision_encoder.model.state_dict().items():
        assert torch.equal(tensor, tower.get(name, tower.get(f"vision_model.{name}"))), name
    assert not any(module.training for module in model.modules())


def test_settings_travel_with_the_model(models, expected):
    assert expected.image_transform.aspect == "pad"
    assert expected.image_transform.image_size == 56
    assert expected.template == "vicuna_v1"
    assert expected.tokenizer is None
    assert expected.model.num_image_tokens == 16
    assert load_pretrained(models / "llava-gqa-linear").model.num_image_tokens == 17
    stage_1 = load_pretrained(models / "stage1-mlp2x", base=models / "llava-mlp2x")
    assert stage_1.template == "plain"


def test_pictures_are_cropped_where_the_config_does_not_say(models, tmp_path):
    folder = writable_copy(models / "llava-mlp2x", tmp_path / "llava")
    change_config(folder, image_aspect_ratio=None)
    loaded = load_pretrained(folder, vision_encoder=models / TOWER)
    assert loaded.image_transform.aspect == "square"


@pytest.mark.parametrize("name", ["x", "finetuned", "vicuna-lora-mpt", "LLaVA"])
def test_the_name_of_a_folder_means_nothing(models, expected, tmp_path, name):
    """LLaVA: a folder whose name lacks "llava" is loaded as a plain language model, one with "lora" as an adapter."""
    folder = writable_copy(models / "llava-mlp2x", tmp_path / name)
    assert_same_weights(load_pretrained(folder, vision_encoder=models / TOWER), expected)


def test_tower_beside_the_folder_is_found(models, expected, tmp_path):
    folder = writable_copy(models / "llava-mlp2x", tmp_path / "x")
    writable_copy(models / TOWER, tmp_path / TOWER)
    assert_same_weights(load_pretrained(folder), expected)


@pytest.mark.parametrize("path", [".", "../x"])
def test_tower_beside_a_relative_folder_is_found(models, expected, tmp_path, monkeypatch, path):
    monkeypatch.chdir(writable_copy(models / "llava-mlp2x", tmp_path / "x"))
    writable_copy(models / TOWER, tmp_path / TOWER)
    assert_same_weights(load_pretrained(path), expected)


def test_tower_at_an_absolute_path_is_found(models, expected, tmp_path):
    folder = writable_copy(models / "llava-mlp2x", tmp_path / "x")
    change_config(folder, mm_vision_tower=str(models / TOWER))
    assert_same_weights(load_pretrained(folder), expected)


def test_tower_nowhere_is_an_error_that_names_it(models, tmp_path):
    folder = writable_copy(models / "llava-mlp2x", tmp_path / "x")
    message = f"^vision_encoder.path: {TOWER}: expected a model folder or hub name.*; give its place: --vision_encoder "
    with pytest.raises(InputError, match=message):
        load_pretrained(folder)
    with pytest.raises(InputError, match=r"^vision_encoder.path: nowhere/at/all: [^;]*$"):
        load_pretrained(folder, vision_encoder="nowhere/at/all")


def test_tower_that_is_given_wins_over_the_copy_in_the_model_s_file(models, tmp_path):
    """LLaVA: the tower's own folder is what is used, whatever the checkpoint holds."""
    tower = writable_copy(models / TOWER, tmp_path / "tower")
    weights = load_file(tower / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tower / "model.safetensors", {"format": "pt"})
    found = load_pretrained(models / "llava-mlp2x", vision_encoder=tower).model
    name = "embeddings.class_embedding"
    inside = load_file(models / "llava-mlp2x" / "model.safetensors")[f"{IN_CHECKPOINT}{name}"]
    assert torch.equal(inside, weights[f"vision_model.{name}"])
    assert torch.equal(found.vision_encoder.model.state_dict()[name], inside + 1)


def test_tower_that_was_trained_too_is_read_from_the_model_s_file(models, expected, tmp_path):
    """LLaVA-1.6: the tower's own folder says only what it is like."""
    folder = writable_copy(models / "llava-mlp2x", tmp_path / "x")
    change_config(folder, unfreeze_mm_vision_tower=True)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor + ("vision_tower" in name) for name, tensor in weights.items()},
              folder / "model.safetensors", {"format": "pt"})  # fmt: skip
    found = load_pretrained(folder, vision_encoder=models / TOWER).model.state_dict()
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(found[name], tensor + 1 if name.startswith("vision_encoder.") else tensor), name
    without = {name: tensor for name, tensor in weights.items() if not name.endswith("class_embedding")}
    save_file(without, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"x: tensors do not fit: missing \['embeddings.class_embedding'\]"):
        load_pretrained(folder, vision_encoder=models / TOWER)


def test_tower_inside_the_checkpoint_or_not_makes_no_difference(models, expected, tmp_path):
    folder = writable_copy(models / "llava-mlp2x", tmp_path / "x")
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "vision_tower" not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors")
    assert_same_weights(load_pretrained(folder, vision_encoder=models / TOWER), expected)


def test_safetensors_and_bin_give_the_same_model(models, expected, tmp_path):
    folder = writable_copy(models / "llava-mlp2x", tmp_path / "x")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert_same_weights(load_pretrained(folder, vision_encoder=models / TOWER), expected)


def test_dtype_is_that_of_every_part(models):
    pretrained = load_pretrained(models / "llava-mlp2x", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in pretrained.model.parameters()} == {torch.bfloat16}


def test_stage_1_folder_needs_its_language_model(models):
    with pytest.raises(InputError, match=r"stage1-mlp2x: holds a projector alone; give the language model .*: --base"):
        load_pretrained(models / "stage1-mlp2x")


def test_stage_1_folder_gives_projector_and_base(models, expected):
    pretrained = load_pretrained(models / "stage1-mlp2x", base=models / "llava-mlp2x")
    weights = torch.load(models / "stage1-mlp2x" / "mm_projector.bin", weights_only=True)
    for name, tensor in pretrained.model.projector.state_dict().items():
        assert torch.equal(tensor, weights[f"model.mm_projector.{name}"].float())
    for name, tensor in pretrained.model.decoder.state_dict().items():
        assert torch.equal(tensor, expected.model.decoder.state_dict()[name])


def test_stage_1_folder_restores_its_word_embeddings(models):
    folder = models / "stage1-gqa-linear"
    embeddings = torch.load(folder / "mm_projector.bin", weights_only=True)["model.embed_tokens.weight"]
    pretrained = load_pretrained(folder, base=models / "llava-gqa-linear")
    assert torch.equal(pretrained.model.decoder.embed(torch.arange(len(embeddings))), embeddings)


@pytest.mark.parametrize("has_patch", [False, True])
def test_rows_of_the_marks_alone_are_put_at_their_ids(run, tiny_parts, tmp_path, has_patch):
    """LLaVA: a file may hold these two rows and no other; <im_patch> begins at the mean. `init_from` reads the same."""
    marks = {"image_start_end": True, "image_patch_token": has_patch}
    start = {"stage": "align", "trainable": TrainablePlan(embeddings="new_tokens"), "data": marks}
    _, path = run(f"marks_{has_patch}", **start)
    carry(open_source(path), tmp_path / "x", "projector")
    (tmp_path / "x" / "manifest.json").unlink()
    weights = torch.load(tmp_path / "x" / "mm_projector.bin", weights_only=True)
    table = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = table[-2:].clone()
    torch.save(weights, tmp_path / "x" / "mm_projector.bin")
    parts = {"base": tiny_parts / "decoder", "vision_encoder": tiny_parts / "encoder"}
    found = load_pretrained(tmp_path / "x", **parts).model.decoder.embedding.weight
    assert torch.equal(found[-2:], table[-2:])
    assert torch.equal(found[:99], table[:99])
    if has_patch:
        torch.testing.assert_close(found[99], table[:99].mean(0), atol=1e-7, rtol=0)  # the order of a sum
    config = ModelConfig(
        VisionEncoderConfig(str(tiny_parts / "encoder")), DecoderConfig(str(tiny_parts / "decoder")),
        has_image_marks=True, has_patch_token=has_patch,
    )  # fmt: skip
    model = build_model(config)
    load_initial_weights(model, tmp_path / "x")
    assert torch.equal(model.decoder.embedding.weight, found)
    weights["model.embed_tokens.weight"] = table[-1:].clone()
    torch.save(weights, tmp_path / "x" / "mm_projector.bin")
    with pytest.raises(InputError, match=r"mm_projector.bin: word embeddings: expected .* found shape \(1, 32\)"):
        load_pretrained(tmp_path / "x", **parts)


def test_stage_1_folder_grows_a_base_without_marks(models, tmp_path):
    """The original adds two words to the base and starts their logits at the mean of the others."""
    base = writable_copy(models / "llava-gqa-linear", tmp_path / "base")
    weights = {}
    for shard in sorted(base.glob("*.bin")):
        weights |= torch.load(shard, weights_only=True)
        shard.unlink()
    (base / "pytorch_model.bin.index.json").unlink()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:-2].clone()
    torch.save(weights, base / "pytorch_model.bin")
    change_config(base, vocab_size=256)
    folder = models / "stage1-gqa-linear"
    embeddings = torch.load(folder / "mm_projector.bin", weights_only=True)["model.embed_tokens.weight"]
    assert len(embeddings) == 258
    decoder = load_pretrained(folder, base=base, vision_encoder=models / "clip-gqa-linear-patch14-56").model.decoder
    assert torch.equal(decoder.embed(torch.arange(258)), embeddings)
    head = decoder.model.lm_head.weight
    assert torch.equal(head[:256], weights["lm_head.weight"])
    # A float32 mean of 256 numbers near 0.02.
    torch.testing.assert_close(head[256:], weights["lm_head.weight"].mean(0).expand(2, -1), atol=1e-7, rtol=0)
    assert decoder.logits(torch.zeros(1, decoder.width)).shape == (1, 258)


def test_a_tensor_missing_from_a_projector_is_named(models, tmp_path):
    folder = writable_copy(models / "stage1-mlp2x", tmp_path / "x")
    weights = torch.load(folder / "mm_projector.bin", weights_only=True)
    del weights["model.mm_projector.2.bias"]
    torch.save(weights, folder / "mm_projector.bin")
    with pytest.raises(InputError, match=r"mm_projector.bin: .* missing \['2.bias'\], unexpected none"):
        load_pretrained(folder, base=models / "llava-mlp2x", vision_encoder=models / TOWER)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_projector_type": "linear"}, r"missing \['bias', 'weight'\], unexpected \['0.bias', '0.weight'"),
        ({"mm_projector_type": "mlp3x_gelu"}, r"missing \['4.bias', '4.weight'\], unexpected none"),
        ({"num_hidden_layers": 4}, r"9 tensors are missing, such as 'model.layers.3"),
        ({"num_hidden_layers": 2}, r"model.layers.2"),
        ({"vocab_size": 300}, r"lm_head.weight|embed_tokens.weight"),
        ({"mm_vision_select_layer": -9}, r"vision_encoder.select_layer: .* found -9"),
        ({"mm_projector_type": "resampler"}, r"mm_projector_type: expected linear, .* found 'resampler'"),
        ({"mm_projector_type": "os.PathLike"}, r"mm_projector_type: expected linear, .* found 'os.PathLike'"),
        (
            {"model_type": "llava_mpt"},
            r"expected model_type 'llava_llama' or 'llava_mistral' with mm_vision_tower, found 'llava_mpt'",
        ),
    ],
)
def test_settings_that_the_weights_contradict_are_refused(models, tmp_path, changes, message):
    folder = writable_copy(models / "llava-mlp2x", tmp_path / "x")
    change_config(folder, **changes)
    with pytest.raises(InputError, match=message):
        load_pretrained(folder, vision_encoder=models / TOWER)


ANYRES = {
    "image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
    "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]],
}  # fmt: skip


@pytest.fixture
def tiled(models, tmp_path) -> Path:
    """A folder as LLaVA-1.6's: a whole model with a newline embedding."""
    folder = writable_copy(models / "llava-mlp2x", tmp_path / "tiled")
    change_config(folder, **ANYRES)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "model.image_newline": torch.arange(64.0)}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_model_of_tiled_pictures(models, tiled, expected):
    found = load_pretrained(tiled, vision_encoder=models / TOWER, dtype=torch.bfloat16)
    assert found.tiling == Tiling(56, 16, ((56, 112), (112, 56), (112, 112)))
    assert found.image_transform.aspect == "square"
    assert torch.equal(found.model.image_newline, torch.arange(64.0).bfloat16())
    assert found.model.state_dict().keys() == {*expected.model.state_dict(), "image_newline"}
    assert expected.tiling is None


def test_picture_in_tiles_is_answered_from_python(models, tiled):
    llava = load_pretrained(tiled, vision_encoder=models / TOWER)
    picture = Image.effect_noise((90, 40), 80).convert("RGB")
    grid = llava.tiling.grid(picture.size)
    pixel_values = torch.stack([llava.image_transform(tile) for tile in llava.tiling.cut(picture)])
    # 112 x 56: of four rows of patches 3.56 show the picture.
    assert (grid, len(pixel_values)) == (ImageGrid(1, 2, height=4, width=8), 3)
    num_tokens = grid.num_tokens(llava.model.num_image_tokens)
    assert num_tokens == 16 + 4 * 9
    ids = torch.tensor([[1, *[-200] * num_tokens, 40, 41]])
    answer = llava.model.generate(ids, pixel_values, grids=[grid], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert answer.shape == (1, 3)


@pytest.mark.parametrize(("newline", "found"), [(None, "none"), (torch.ones(3), r"shape \(3,\)")])
def test_model_of_tiled_pictures_without_its_newline_is_refused(models, tiled, newline, found):
    weights = load_file(tiled / "model.safetensors")
    del weights["model.image_newline"]
    weights |= {} if newline is None else {"model.image_newline": newline}
    save_file(weights, tiled / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=rf"tensor 'model.image_newline': expected shape \(64,\), found {found}"):
        load_pretrained(tiled, vision_encoder=models / TOWER)


def test_pinpoints_of_another_encoder_are_refused(models, tiled):
    change_config(tiled, image_grid_pinpoints=[[112, 100]])
    with pytest.raises(InputError, match=r"a multiple of the vision encoder's 56 pixels, found .*112, 100"):
        load_pretrained(tiled, vision_encoder=models / TOWER)


def test_folders_that_are_no_llava_are_refused(models, tiny_parts, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load_pretrained(tmp_path / "nowhere")
    for folder in (tmp_path, tiny_parts / "decoder", models / TOWER):
        with pytest.raises(InputError, match="expected a model folder of llava_pl, llava-hf or the original"):
            load_pretrained(folder)


def test_a_model_folder_without_weights_is_refused(models, tmp_path):
    folder = writable_copy(models / "llava-mlp2x", tmp_path / "x")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="x: no weights found"):
        load_pretrained(folder, vision_encoder=models / TOWER)


def test_tokenizer_of_the_base_is_used(models, tiny_parts, tmp_path):
    base = writable_copy(models / "llava-mlp2x", tmp_path / "base")
    for path in (tiny_parts / "decoder").glob("tokenizer*"):
        shutil.copyfile(path, base / path.name)
    pretrained = load_pretrained(models / "stage1-mlp2x", base=base)
    assert pretrained.tokenizer.encode("ab", add_special_tokens=False) == [68, 69]


def test_marks_that_the_tokenizer_of_a_base_lacks_are_added(models, tiny_parts, tmp_path):
    base = writable_copy(models / "llava-gqa-linear", tmp_path / "base")
    for path in (tiny_parts / "decoder").glob("tokenizer*"):
        shutil.copyfile(path, base / path.name)
    pretrained = load_pretrained(models / "stage1-gqa-linear", base=base)
    assert pretrained.settings.image_start_end
    assert pretrained.tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>"]) == [99, 100]


def test_a_whole_model_with_the_projector_file_beside_it(models, tmp_path):
    # As the released LLaVA-1.5 folders are.
    folder = writable_copy(models / "llava-mlp2x", tmp_path / "x")
    writable_copy(models / "stage1-mlp2x", tmp_path / "stage1")
    (tmp_path / "stage1" / "mm_projector.bin").rename(folder / "mm_projector.bin")
    tower = models / "clip-mlp2x-patch14-56"
    expected = load_pretrained(models / "llava-mlp2x").model.state_dict()
    loaded = load_pretrained(folder, vision_encoder=tower).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_a_base_for_a_whole_model_is_refused(models):
    with pytest.raises(InputError, match="holds a whole model; no base belongs to it"):
        load_pretrained(models / "llava-mlp2x", base=models / "llava-mlp2x")
