"""Guards: a LoRA that peft and the original read as another, or that comes back without what was trained beside it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from llava_pl import load_pretrained
from llava_pl.export.carry import carry, certify, open_source
from llava_pl.export.certificate import compare, probe
from llava_pl.models.adapters import LoraConfig
from llava_pl.training.stages import TrainablePlan
from llava_pl.types import InputError


@pytest.fixture(scope="module")
def trained(run):
    """A run that trained adapters, and its checkpoint."""
    plan = TrainablePlan(decoder="lora")
    return run("for_lora", trainable=plan, lora=LoraConfig(rank=2, targets=["q_proj", "down_proj"]))


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    carry(open_source(trained[1]), tmp_path / "x", "lora")
    return tmp_path / "x"


@pytest.fixture
def theirs(golden_path, tmp_path) -> Path:
    """A folder as the original's training with LoRA leaves it: peft's own files, and the rest beside them."""
    models = golden_path / "model"
    base = LlamaForCausalLM(
        __import__("transformers").LlamaConfig.from_dict(
            {key: value for key, value in json.loads((models / "llava-mlp2x" / "config.json").read_text()).items()
             if not key.startswith(("mm_", "model_type"))}
        )
    )  # fmt: skip
    weights = load_file(models / "llava-mlp2x" / "model.safetensors")
    base.load_state_dict(
        {name: tensor for name, tensor in weights.items() if "mm_" not in name and "tower" not in name}
    )
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    wrapped = get_peft_model(
        base,
        PeftConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM", init_lora_weights=False
        ),
    )
    wrapped.save_pretrained(tmp_path / "theirs")
    rest = {name: tensor + 0.01 for name, tensor in weights.items() if "mm_projector" in name}
    torch.save(
        {f"base_model.model.{name}": tensor for name, tensor in rest.items()},
        tmp_path / "theirs" / "non_lora_trainables.bin",
    )
    shutil.copy(models / "llava-mlp2x" / "config.json", tmp_path / "theirs" / "config.json")
    shutil.copytree(models / "clip-mlp2x-patch14-56", tmp_path / "clip-mlp2x-patch14-56")
    return tmp_path / "theirs"


def test_the_original_s_folder_is_merged_as_peft_merges_it(theirs):
    base = theirs.parent / "base"
    found = load_pretrained(theirs, base=base)
    expected = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), theirs).merge_and_unload().state_dict()
    for name, tensor in found.model.decoder.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    rest = torch.load(theirs / "non_lora_trainables.bin", weights_only=True)
    for name, tensor in found.model.projector.state_dict().items():
        assert torch.equal(tensor, rest[f"base_model.model.model.mm_projector.{name}"])
    assert found.template == "vicuna_v1"


def test_a_whole_llava_may_be_the_base(theirs, golden_llava):
    """As of a LoRA upon LLaVA for a task; a projector that was frozen is the base's."""
    expected = load_pretrained(theirs, base=theirs.parent / "base")
    found = load_pretrained(theirs, base=golden_llava)
    assert all(torch.equal(*pair) for pair in zip(probe(found.model), probe(expected.model), strict=True))
    (theirs / "non_lora_trainables.bin").unlink()
    found = load_pretrained(theirs, base=golden_llava)
    own = load_pretrained(golden_llava)
    assert torch.equal(found.model.projector[0].weight, own.model.projector[0].weight)
    with pytest.raises(InputError, match=r"holds no projector tensor '0.weight', nor does the base"):
        load_pretrained(theirs, base=theirs.parent / "base")


@pytest.mark.parametrize("name", ["x", "llava-lora"])
def test_its_name_means_nothing(theirs, name):
    moved = theirs.rename(theirs.with_name(name))
    assert load_pretrained(moved, base=theirs.parent / "base").origin.layout == "lora"


def test_the_original_s_bin_file_is_read_too(theirs):
    expected = load_pretrained(theirs, base=theirs.parent / "base")
    torch.save(load_file(theirs / "adapter_model.safetensors"), theirs / "adapter_model.bin")
    (theirs / "adapter_model.safetensors").unlink()
    found = load_pretrained(theirs, base=theirs.parent / "base")
    assert all(torch.equal(*pair) for pair in zip(probe(found.model), probe(expected.model), strict=True))


def test_trained_saved_loaded_and_merged_it_keeps_its_answers(trained, folder, tiny_parts):
    module, path = trained
    parts = {"base": str(tiny_parts / "decoder"), "vision_encoder": str(tiny_parts / "encoder")}
    found = open_source(folder, **parts)
    assert all(
        row.logit_difference <= 2e-6 * row.logit_scale for row in compare(probe(found.model), probe(module.model))
    )
    assert certify(folder, path, **parts)[1]
    carry(found, folder.parent / "merged", "hf", merge_lora=True)
    assert certify(folder.parent / "merged", path)[1]
    assert json.loads((folder.parent / "merged" / "certificate.json").read_text())["against_base"]


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_new_tokens_come_back_with_the_adapters(run, tmp_path, tiny_parts, has_tokenizer):
    """Where the base has no tokenizer that would tell of marks, the table of the folder does."""
    plan = TrainablePlan(decoder="lora", embeddings="new_tokens")
    options = {"lora": LoraConfig(rank=2), "data": {"image_start_end": True}}
    module, path = run("lora_marks", trainable=plan, **options)
    carry(open_source(path), tmp_path / "x", "lora")
    shutil.copytree(tiny_parts / "decoder", tmp_path / "base")
    if not has_tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / "base" / name).unlink()
    found = open_source(tmp_path / "x", base=str(tmp_path / "base"), vision_encoder=str(tiny_parts / "encoder"))
    assert all(
        row.logit_difference <= 2e-6 * row.logit_scale for row in compare(probe(found.model), probe(module.model))
    )
    assert compare(found.origin.base_answers, probe(found.model))[3].logit_difference > 0
    carry(found, tmp_path / "a", "artifact")


def test_peft_loads_what_is_written(trained, folder, tiny_parts):
    """And the original's code with it, which asks peft."""
    base = LlamaForCausalLM.from_pretrained(tiny_parts / "decoder")
    loaded = PeftModel.from_pretrained(base, folder)
    live = {n: p for n, p in trained[0].model.decoder.model.named_parameters() if "lora_" in n}
    found = {n.removeprefix("base_model.model."): p for n, p in loaded.named_parameters() if "lora_" in n}
    assert found.keys() == live.keys()
    assert all(torch.equal(found[name], live[name]) for name in live)
    assert loaded.peft_config["default"].r == 2
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        expected = trained[0].model(ids).logits
        torch.testing.assert_close(loaded(ids).logits, expected, atol=1e-6, rtol=0)  # float32, logits below 1
    rest = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
    assert rest.keys() == {f"base_model.model.model.mm_projector.{n}.{k}" for n in (0, 2) for k in ("weight", "bias")}


@pytest.mark.parametrize("family", ["llama_3", "mistral", "qwen2", "qwen2_tied", "qwen3", "smollm2", "mpt"])
def test_every_decoder_has_its_lora_folder(run, make_decoder, tiny_parts, tmp_path, family):
    """Which peft loads upon the plain base, and this project with the projector beside it."""
    decoder = {"path": str(make_decoder(family)), "attention": "eager" if family == "mpt" else "sdpa"}
    plan, data = TrainablePlan(decoder="lora"), {"template": "chat"}
    module, path = run(f"lora_{family}", decoder=decoder, trainable=plan, lora=LoraConfig(rank=2), data=data)
    carry(open_source(path), tmp_path / "x", "lora")
    base = AutoModelForCausalLM.from_pretrained(decoder["path"])
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        plain = base(ids).logits
        loaded = PeftModel.from_pretrained(base, tmp_path / "x").eval()
        expected = module.model(ids).logits
        torch.testing.assert_close(loaded(ids).logits, expected, atol=1e-6, rtol=0)  # float32, logits below 1
    assert (plain - expected).abs().max() > 1e-3
    parts = {"base": decoder["path"], "vision_encoder": str(tiny_parts / "encoder")}
    found = open_source(tmp_path / "x", **parts)
    rows = compare(probe(found.model), probe(module.model))
    assert all(row.logit_difference <= 2e-6 * row.logit_scale for row in rows)
    assert certify(tmp_path / "x", path, **parts)[1]
    carry(found, tmp_path / "y", "artifact", merge_lora=True)
    assert certify(tmp_path / "y", path)[1]


@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize("targets", [None, ["q_proj", "down_proj"]])
def test_biases_that_learned_with_the_adapters_are_where_peft_looks(
    run, make_decoder, tiny_parts, tmp_path, bias, targets
):
    """Those of Qwen2's q_proj, k_proj and v_proj; with "all" also where no adapter is."""
    place, lora = str(make_decoder("qwen2")), LoraConfig(rank=2, bias=bias, targets=targets)
    plan, data = TrainablePlan(decoder="lora"), {"template": "chat"}
    module, path = run("biases", decoder={"path": place}, trainable=plan, lora=lora, data=data)
    source = open_source(path)
    biases = {name for name in source.origin.trained if name.startswith("decoder.") and name.endswith(".bias")}
    assert len(biases) == (6 if bias == "all" or targets is None else 2)
    carry(source, tmp_path / "x", "lora")
    base, ids = AutoModelForCausalLM.from_pretrained(place), torch.arange(12)[None]
    with torch.inference_mode():
        expected, loaded = module.model(ids).logits, PeftModel.from_pretrained(base, tmp_path / "x").eval()
        torch.testing.assert_close(loaded(ids).logits, expected, atol=1e-6, rtol=0)  # float32, logits below 1
    assert loaded.peft_config["default"].bias == bias
    parts = {"base": place, "vision_encoder": str(tiny_parts / "encoder")}
    found = open_source(tmp_path / "x", **parts)
    assert {n for n in found.origin.trained if n.startswith("decoder.") and n.endswith(".bias")} == biases
    rows = compare(probe(found.model), probe(module.model))
    assert all(row.logit_difference <= 2e-6 * row.logit_scale for row in rows)
    rest = tmp_path / "x" / "non_lora_trainables.bin"
    name = "base_model.model.model.layers.0.self_attn.q_proj.bias"
    for value in (found.model.decoder.model.state_dict()[name.removeprefix("base_model.model.")], torch.ones(32)):
        (tmp_path / "x" / "manifest.json").unlink(missing_ok=True)  # as the original's code writes it: in both files
        torch.save({**torch.load(rest, weights_only=True), name: value}, rest)
        if value[0] != 1:
            assert all(map(torch.equal, probe(load_pretrained(tmp_path / "x", **parts).model), probe(found.model)))
    with pytest.raises(InputError, match=r"q_proj.bias' is another in non_lora_trainables.bin than beside the adapt"):
        load_pretrained(tmp_path / "x", **parts)


@pytest.mark.parametrize("family", ["llama_2", "mpt"])
@pytest.mark.parametrize("embeddings", ["frozen", "new_tokens", "full"])
def test_words_for_pictures_have_their_rows_beside_a_lora(
    run, make_decoder, tiny_parts, tmp_path, assert_same, family, embeddings
):
    decoder = {"path": str(make_decoder(family)), "attention": "eager" if family == "mpt" else "sdpa"}
    plan, data = TrainablePlan(decoder="lora", embeddings=embeddings), {"image_start_end": True}
    name = f"rows_{family}_{embeddings}"
    _, path = run(name, decoder=decoder, trainable=plan, lora=LoraConfig(rank=2), data=data)
    carry(open_source(path), tmp_path / "x", "lora")
    found = load_pretrained(tmp_path / "x", base=decoder["path"], vision_encoder=tiny_parts / "encoder", dtype=None)
    assert_same(found, load_pretrained(path, dtype=None))
    assert found.tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>"]) == [99, 100]


def test_a_connector_of_this_project_travels_beside_a_lora(run, tiny_parts, tmp_path, assert_same):
    options, plan = {"num_queries": 3, "depth": 1, "num_heads": 2, "head_dim": 4}, TrainablePlan(decoder="lora")
    lora = LoraConfig(rank=2, targets=["q_proj"])
    _, path = run("lora_res", trainable=plan, lora=lora, projector="resampler", projector_options=options)
    carry(open_source(path), tmp_path / "x", "lora")
    parts = {"base": tiny_parts / "decoder", "vision_encoder": tiny_parts / "encoder"}
    found = load_pretrained(tmp_path / "x", **parts, dtype=None)
    assert_same(found, load_pretrained(path, dtype=None))
    assert (found.projector, found.projector_options) == ("resampler", options)


def test_dora_keeps_its_lengths(run, tmp_path, tiny_parts):
    lora = LoraConfig(rank=2, use_dora=True, targets=["q_proj"])
    module, path = run("dora_folder", trainable=TrainablePlan(decoder="lora"), lora=lora)
    carry(open_source(path), tmp_path / "x", "lora")
    found = load_pretrained(tmp_path / "x", base=tiny_parts / "decoder", vision_encoder=tiny_parts / "encoder")
    assert all(
        row.logit_difference <= 2e-6 * row.logit_scale for row in compare(probe(found.model), probe(module.model))
    )
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector" in load_file(
        tmp_path / "x" / "adapter_model.safetensors"
    )
    assert PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny_parts / "decoder"), tmp_path / "x")


@pytest.mark.parametrize("layout", ["hf", "llava"])
def test_merging_is_asked_for(trained, tmp_path, layout):
    with pytest.raises(InputError, match=f"trained by LoRA, which format {layout} has no place for; add --merge_lora"):
        carry(open_source(trained[1]), tmp_path / "x", layout)
    carry(open_source(trained[1]), tmp_path / "x", layout, merge_lora=True)


def test_a_base_is_needed_and_must_be_the_right_one(folder, tiny_parts, tmp_path):
    with pytest.raises(InputError, match="x: holds a LoRA alone; give the language model it was trained with: --base "):
        load_pretrained(folder)
    shutil.copytree(tiny_parts / "decoder", tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    save_file({n: t + 1 for n, t in weights.items()}, tmp_path / "other" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"x: wrong decoder: expected the weights of decoder .* found .*other"):
        load_pretrained(folder, base=tmp_path / "other", vision_encoder=tiny_parts / "encoder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 3}, r"of the adapters: expected shape \(3, 64\), found \(4, 64\); its rank or its base"),
        ({"peft_type": "IA3"}, "expected peft_type LORA with its rank r, found 'IA3'"),
        ({"r": True}, "expected peft_type LORA with its rank r"),
        ({"lora_alpha": None}, "adapter_config.json: expected a number above 0 as lora_alpha, found None; fetch"),
        ({"lora_alpha": "x"}, "adapter_config.json: expected a number above 0 as lora_alpha, found 'x'; fetch"),
        ({"lora_alpha": 0}, "adapter_config.json: expected a number above 0 as lora_alpha, found 0; fetch"),
        ({"use_dora": "false"}, "adapter_config.json: expected true or false as use_dora, found 'false'; fetch"),
        ({"rank_pattern": {"q_proj": 2}}, "expected one rank and scale for all layers, found rank_pattern"),
    ],
)
def test_settings_that_the_tensors_contradict_are_refused(theirs, change, message):
    path = theirs / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        load_pretrained(theirs, base=theirs.parent / "base")


def test_a_model_without_adapters_has_none_to_write(llava, tmp_path):
    with pytest.raises(InputError, match=r"format lora: expected a model with adapters, found none: .* merged them"):
        carry(llava, tmp_path / "x", "lora")
    assert list(tmp_path.iterdir()) == []
