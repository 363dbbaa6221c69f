"""Guards: a streamed model that is not, bit for bit, the one that is loaded whole; weights read too early or twice."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    MptConfig,
    MptForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llava_pl.export.artifact import write_artifact
from llava_pl.export.parts import load_decoder
from llava_pl.export.streaming import WeightStream
from llava_pl.export.weights import fetch_weights
from llava_pl.training.stages import raise_trained
from llava_pl.types import InputError

SIZES = {
    "vocab_size": 51, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
MPT_SIZES = {"vocab_size": 51, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 16}
FREQUENCIES = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8, "rope_theta": 500000.0,
}  # fmt: skip
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, SIZES),
    "llama_3": (LlamaForCausalLM, LlamaConfig, SIZES | {"rope_parameters": FREQUENCIES}),
    "mistral": (MistralForCausalLM, MistralConfig, SIZES | {"sliding_window": 4}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, SIZES),
    "qwen2_tied": (Qwen2ForCausalLM, Qwen2Config, SIZES | {"tie_word_embeddings": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, SIZES | {"head_dim": 16}),
    "smollm2": (LlamaForCausalLM, LlamaConfig, SIZES | {"tie_word_embeddings": True}),
    "mpt": (MptForCausalLM, MptConfig, MPT_SIZES),
}


def make(family, **changes):
    model_class, config_class, settings = FAMILIES[family]
    torch.manual_seed(0)
    return model_class(config_class(**settings, **changes))


def to_bin(folder, num_files):
    """Give a folder torch's files in place of safetensors; a tied head is in them, as torch saves it."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if "lm_head.weight" not in weights and "model.embed_tokens.weight" in weights:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    if num_files == 1:
        torch.save(weights, folder / "pytorch_model.bin")
        return
    names = sorted(weights)
    places = {name: f"pytorch_model-{index % num_files}.bin" for index, name in enumerate(names)}
    for place in set(places.values()):
        torch.save({name: weights[name] for name in names if places[name] == place}, folder / place)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def stream(path, num_ranks, dtype=torch.float32, attention="eager"):
    """Return what the ranks hold together, and the decoder of the last of them."""
    parts = []
    for rank in range(num_ranks):
        weights = WeightStream()
        decoder = load_decoder(path, dtype=dtype, attn_implementation=attention, stream=weights)
        assert all(parameter in weights for parameter in decoder.parameters())
        weights.fill(decoder.parameters(), rank=rank, num_ranks=num_ranks)
        assert not any(parameter in weights for parameter in decoder.parameters())
        held = {name: parameter.detach().chunk(num_ranks) for name, parameter in decoder.named_parameters()}
        parts.append({name: chunks[rank] for name, chunks in held.items() if rank < len(chunks)})
    names = [name for name, _ in decoder.named_parameters()]
    return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}, decoder


def check_equal(path, num_ranks=2, dtype=torch.float32):
    whole = load_decoder(path, dtype=dtype, attn_implementation="eager")
    found, streamed = stream(path, num_ranks, dtype)
    assert list(found) == [name for name, _ in whole.named_parameters()]
    for name, expected in whole.named_parameters():
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected), name
    expected = dict(whole.named_buffers())
    assert dict(streamed.named_buffers()).keys() == expected.keys()
    for name, buffer in streamed.named_buffers():
        assert buffer.dtype == expected[name].dtype
        assert torch.equal(buffer, expected[name]), name
    assert (streamed.head.weight is streamed.embedding.weight) == (whole.head.weight is whole.embedding.weight)
    assert streamed.model.generation_config.to_dict() == whole.model.generation_config.to_dict()
    assert streamed.model.config.to_dict() == whole.model.config.to_dict()
    assert streamed.training == whole.training
    assert {p.requires_grad for p in streamed.parameters()} == {p.requires_grad for p in whole.parameters()}


@pytest.mark.parametrize("files", ["safetensors", "shards", "bin", "bin_shards"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_form_of_files(tmp_path, family, files):
    size = {"max_shard_size": "9KB"} if files == "shards" else {}
    make(family).save_pretrained(tmp_path, **size)
    if files.startswith("bin"):
        to_bin(tmp_path, 1 if files == "bin" else 3)
    elif files == "shards":
        assert (tmp_path / "model.safetensors.index.json").is_file()
    check_equal(tmp_path)


@pytest.mark.parametrize("num_ranks", [1, 3, 7, 64])
def test_any_number_of_ranks(tmp_path, num_ranks):
    """51 rows do not divide evenly, and there are ranks without any."""
    make("qwen2").save_pretrained(tmp_path)
    check_equal(tmp_path, num_ranks)


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(tmp_path, stored, held):
    make("llama").to(stored).save_pretrained(tmp_path)
    check_equal(tmp_path, dtype=held)


def test_settings_for_answering_are_those_of_the_folder(tmp_path):
    make("llama").save_pretrained(tmp_path)
    GenerationConfig(eos_token_id=[2, 7], temperature=0.6, do_sample=True).save_pretrained(tmp_path)
    check_equal(tmp_path)


def test_frequencies_of_old_files_are_left_out(tmp_path):
    make("llama").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    check_equal(tmp_path)


def test_a_name_of_the_hub(tmp_path, monkeypatch):
    """From the cache: tests are offline."""
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / "0123"
    make("llama").save_pretrained(snapshot, max_shard_size="9KB")
    (tmp_path / "models--someone--tiny" / "refs").mkdir()
    (tmp_path / "models--someone--tiny" / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert fetch_weights("someone/tiny") == snapshot
    check_equal("someone/tiny")


def test_a_name_without_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"someone/tiny: no weights found; expected a model with model.safetensors, "):
        fetch_weights("someone/tiny")


def test_a_folder_of_the_original(golden_llava):
    check_equal(golden_llava)


def test_a_folder_of_this_project(llava, tmp_path):
    write_artifact(llava, tmp_path)
    check_equal(tmp_path)


def test_stand_ins_take_no_memory_and_stay_so_in_float32(tmp_path):
    make("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    decoder = load_decoder(tmp_path, dtype=torch.bfloat16, stream=WeightStream())
    frozen = decoder.embedding.weight.requires_grad_(False)
    raise_trained(decoder)
    for parameter in decoder.parameters():
        is_frozen = parameter is frozen
        assert parameter.dtype == (torch.bfloat16 if is_frozen else torch.float32)
        assert parameter.untyped_storage().nbytes() == (2 if is_frozen else 4)


def test_trained_weights_are_rounded_as_when_they_are_loaded_whole(tmp_path):
    """In the dtype of frozen parts first, and raised then."""
    make("llama").save_pretrained(tmp_path)
    weights = WeightStream()
    decoder = load_decoder(tmp_path, dtype=torch.bfloat16, stream=weights)
    parameter = decoder.head.weight
    raise_trained(decoder)
    weights.fill([parameter], rank=0, num_ranks=1)
    expected = load_file(tmp_path / "model.safetensors")["lm_head.weight"]
    assert torch.equal(parameter, expected.bfloat16().float())
    assert not torch.equal(parameter, expected)


def test_nothing_but_the_own_part_is_written(tmp_path):
    make("llama").save_pretrained(tmp_path)
    weights = WeightStream()
    decoder = load_decoder(tmp_path, stream=weights)
    parameter = decoder.head.weight
    weights.fill([parameter], rank=1, num_ranks=2)
    assert torch.equal(parameter[26:], load_file(tmp_path / "model.safetensors")["lm_head.weight"][26:])
    assert (parameter[:26] == 0).all()  # pages that nobody has written to read as zeros


def change(folder, **tensors):
    weights = load_file(folder / "model.safetensors")
    weights |= tensors
    weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


NORM = "model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({NORM: None}, "1 tensors are missing, such as 'model.layers.1.input_layernorm.weight'"),
        ({"model.extra": torch.ones(2)}, "1 tensors are left over, with no place in this model, such as 'model.extra'"),
        ({NORM: torch.ones(3)}, rf"tensor '{NORM}': expected shape \(32,\), found \(3,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_as_elsewhere(tmp_path, tensors, message):
    make("llama").save_pretrained(tmp_path)
    change(tmp_path, **tensors)
    for weights in (None, WeightStream()):
        with pytest.raises(InputError, match=f"^decoder.path: {tmp_path}: {message}"):
            load_decoder(tmp_path, stream=weights)


def test_numbers_that_are_none_are_refused_by_the_rank_that_reads_them(tmp_path):
    make("llama").save_pretrained(tmp_path)
    change(tmp_path, **{NORM: torch.tensor([1.0] * 31 + [torch.nan])})
    weights = WeightStream()
    decoder = load_decoder(tmp_path, stream=weights)
    weights.fill(decoder.parameters(), rank=0, num_ranks=2)
    weights = WeightStream()
    decoder = load_decoder(tmp_path, stream=weights)
    with pytest.raises(InputError, match=f"^decoder.path: {tmp_path}: tensor '{NORM}' holds NaN or infinity"):
        weights.fill(decoder.parameters(), rank=1, num_ranks=2)


def test_tables_that_are_tied_and_differ_are_refused(tmp_path):
    make("smollm2").save_pretrained(tmp_path)
    table = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    change(tmp_path, **{"lm_head.weight": table.clone()})
    check_equal(tmp_path)
    change(tmp_path, **{"lm_head.weight": table + 1})
    with pytest.raises(InputError, match=r"lm_head.weight and model.embed_tokens.weight differ, but config.json ties"):
        load_decoder(tmp_path, stream=WeightStream())


def test_weights_that_transformers_puts_together_are_refused(tmp_path):
    """The experts of a layer are one tensor in memory, and many in the files."""
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=2))
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"experts.*: transformers puts it together from other tensors of the files"):
        load_decoder(tmp_path, stream=WeightStream())


def test_damaged_files_are_refused(tmp_path, llava):
    write_artifact(llava, tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"file 'model.safetensors' is not the one that was written"):
        load_decoder(tmp_path, stream=WeightStream())
