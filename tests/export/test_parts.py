"""Guards: a part that is loaded incompletely, from the wrong place, or by a file that runs code."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, LlamaForCausalLM
from transformers.utils import logging

from llava_pl.export.carry import carry
from llava_pl.export.part_configs import read_vision_config
from llava_pl.export.parts import (
    copy_weights,
    load_decoder,
    load_vision_encoder,
)
from llava_pl.models.projector import build_projector
from llava_pl.types import InputError


class TouchFile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def parts(tiny_parts, tmp_path) -> Path:
    """A copy that a test may break."""
    return shutil.copytree(tiny_parts, tmp_path / "parts")


LOADERS = {"encoder": load_vision_encoder, "decoder": load_decoder}
FIELDS = {"encoder": "vision_encoder.path", "decoder": "decoder.path"}


def test_decoder_has_the_weights_of_its_folder(tiny_parts):
    decoder, expected = load_decoder(tiny_parts / "decoder"), LlamaForCausalLM.from_pretrained(tiny_parts / "decoder")
    assert decoder.model.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(decoder.model.state_dict()[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_attention(tiny_parts, dtype):
    decoder = load_decoder(tiny_parts / "decoder", dtype=dtype, attn_implementation="eager")
    assert {parameter.dtype for parameter in decoder.parameters()} == {dtype}
    assert decoder.model.config._attn_implementation == "eager"
    encoder = load_vision_encoder(tiny_parts / "encoder", dtype=dtype)
    assert {parameter.dtype for parameter in encoder.parameters()} == {dtype}


def test_encoder_out_of_a_whole_clip(tiny_parts, tmp_path):
    """OpenAI's folders hold the text part too."""
    whole = CLIPModel(
        CLIPConfig(
            vision_config=read_vision_config(tiny_parts / "encoder").to_dict(),
            text_config={"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
        )
    )
    whole.save_pretrained(tmp_path)
    encoder = load_vision_encoder(tmp_path, select_layer=-2)
    own, expected = encoder.model.state_dict(), whole.vision_model.state_dict()
    assert len(own) == len(expected) - 16  # one layer less: four projections, two norms, two matrices, with biases
    for name, tensor in own.items():
        assert torch.equal(tensor, expected[name.removeprefix("vision_model.")]), name


def test_encoder_is_frozen_nowhere_but_in_stages(tiny_parts):
    assert all(parameter.requires_grad for parameter in load_vision_encoder(tiny_parts / "encoder").parameters())


@pytest.mark.parametrize("part", LOADERS)
def test_missing_tensors_are_named(parts, part):
    path = parts / part / "model.safetensors"
    weights = load_file(path)
    name = min(name for name in weights if "layers.0" in name)
    del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"^{FIELDS[part]}: .*1 tensors are missing, .*{name}"):
        LOADERS[part](parts / part)


@pytest.mark.parametrize("part", LOADERS)
def test_tensors_of_another_shape_are_named(parts, part):
    path = parts / part / "model.safetensors"
    weights = load_file(path)
    name = min(name for name in weights if "layers.0" in name and "weight" in name)
    weights[name] = torch.zeros(3, 3)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"^{FIELDS[part]}: .*{name}"):
        LOADERS[part](parts / part)


def test_tensors_that_the_decoder_has_no_place_for_are_named(parts):
    path = parts / "decoder" / "model.safetensors"
    save_file({**load_file(path), "model.layers.2.mlp.up_proj.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"^decoder.path: .*model.layers.2.mlp.up_proj.weight"):
        load_decoder(parts / "decoder")


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("num_kept", [0, 300, -100])
def test_truncated_weights_are_refused(parts, part, num_kept):
    path = parts / part / "model.safetensors"
    path.write_bytes(path.read_bytes()[:num_kept])
    with pytest.raises(InputError, match=f"^{FIELDS[part]}: "):
        LOADERS[part](parts / part)


@pytest.mark.parametrize("part", LOADERS)
def test_a_hostile_pickle_is_refused_and_not_run(parts, part, tmp_path):
    trap, folder = tmp_path / "trap", parts / part
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": TouchFile(trap)}, folder / "pytorch_model.bin")
    try:
        refused = (
            "pytorch_model.bin: refused: expected a torch file of plain tensors, but it holds objects that run code; "
        )
        with pytest.raises(InputError, match=f"^{FIELDS[part]}: .*{refused}"):
            LOADERS[part](folder)
    finally:
        assert not trap.exists()


DAMAGE = {
    "a page of the web": (
        b"<html>404</html>",
        "refused: expected a torch file of plain tensors, but it is something else; fetch it again",
    ),
    "nothing": (b"", r"cannot be read as a torch file \(EOFError\); fetch it again"),
    "the front of an archive": (b"PK\x03\x04" + bytes(500), r"cannot be read as a torch file \(.*\); fetch it again"),
}


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_torch_file_is_told_in_our_words(parts, part, damage):
    content, message = DAMAGE[damage]
    (parts / part / "model.safetensors").unlink()
    (parts / part / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(InputError, match=f"^{FIELDS[part]}: .*pytorch_model.bin: {message}$"):
        LOADERS[part](parts / part)


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("shard", ["../outside.safetensors", "missing.safetensors"])
def test_an_index_that_leaves_its_folder_or_promises_too_much_is_refused(parts, part, shard):
    """Stock transformers would read the file outside."""
    weights = load_file(parts / part / "model.safetensors")
    (parts / part / "model.safetensors").rename(parts / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, shard)}
    (parts / part / "model.safetensors.index.json").write_text(json.dumps(index))
    what = "lies outside the folder" if shard.startswith("..") else "is missing"
    with pytest.raises(InputError, match=f"^{FIELDS[part]}: .*index.json: shard '{shard}' {what}; "):
        LOADERS[part](parts / part)


def test_a_decoder_has_the_attention_that_it_can_have(make_llava, make_decoder, tmp_path):
    """Of MPT that is eager alone, wherever it is read from."""
    carry(make_llava(family="mpt"), tmp_path / "x", "artifact")
    for path in (make_decoder("mpt"), tmp_path / "x"):
        with pytest.raises(InputError, match=r"model.decoder.attention: MptForCausalLM has no sdpa; expected eager"):
            load_decoder(path)
        assert load_decoder(path, attn_implementation=None).model.config._attn_implementation == "eager"
    carry(llava := make_llava(), tmp_path / "y", "artifact")
    own = llava.model.decoder.model.config._attn_implementation
    for path in (make_decoder("llama_2"), tmp_path / "y"):
        assert load_decoder(path, attn_implementation=None).model.config._attn_implementation == own


@pytest.mark.parametrize("part", LOADERS)
def test_what_transformers_prints_is_as_before(tiny_parts, part):
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_info()
        logging.enable_progress_bar()
        LOADERS[part](tiny_parts / part)
        with pytest.raises(InputError):
            LOADERS[part](tiny_parts / "nowhere")
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.INFO, True)
        logging.disable_progress_bar()
        LOADERS[part](tiny_parts / part)
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(verbosity)
        (logging.enable_progress_bar if has_bar else logging.disable_progress_bar)()


def test_decoder_of_an_original_folder(golden_path):
    """Named `decoder.path` in a run: stage 2 of one's own data goes on from a LLaVA checkpoint."""
    folder = golden_path / "model" / "llava-mlp2x"
    weights = load_file(folder / "model.safetensors")
    own = load_decoder(folder).model.state_dict()
    assert own.keys() == {name for name in weights if "mm_projector" not in name and "vision_tower" not in name}
    for name, tensor in own.items():
        assert torch.equal(tensor, weights[name]), name


def linear() -> nn.Module:
    torch.manual_seed(0)
    return build_projector("linear", vision_width=2, decoder_width=3)


def test_projector_weights_are_copied():
    weight, bias = torch.arange(6.0).view(3, 2), torch.ones(3)
    projector = linear().bfloat16()
    copy_weights(projector, {"weight": weight, "bias": bias}, where="here")
    assert projector.weight.dtype == torch.bfloat16
    assert projector.weight.tolist() == weight.tolist()
    assert projector.bias.tolist() == bias.tolist()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": (3, 2)}, r"here: tensors do not fit: missing \['bias'\], unexpected none"),
        ({"weight": (3, 2), "bias": (3,), "x": (1,)}, r"here: .*missing none, unexpected \['x'\]"),
        ({"0.weight": (3, 2), "bias": (3,)}, r"here: .*missing \['weight'\], unexpected \['0.weight'\]"),
        ({"weight": (2, 3), "bias": (3,)}, r"here: tensor 'weight': expected shape \(3, 2\), found \(2, 3\)"),
        ({"weight": (3, 2), "bias": (1,)}, r"here: tensor 'bias': expected shape \(3,\), found \(1,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(weights, message):
    with pytest.raises(InputError, match=message):
        copy_weights(linear(), {name: torch.zeros(shape) for name, shape in weights.items()}, where="here")
