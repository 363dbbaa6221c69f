"""Guards: a run whose weights are lost, half lost or put upon other ones on the way out of its checkpoint."""

import pickle
from pathlib import Path

import pytest
import torch

from llava_pl import load_pretrained
from llava_pl.data.settings import DataSettings
from llava_pl.export.carry import carry, open_source
from llava_pl.export.certificate import compare, probe
from llava_pl.models.adapters import LoraConfig
from llava_pl.training.stages import TrainablePlan
from llava_pl.types import InputError

ALL = TrainablePlan(vision_encoder="full", projector="full", decoder="full")
RUNS = {
    "align": {"stage": "align"},
    "finetune": {"stage": "finetune"},
    "all": {"trainable": ALL},
    "linear": {"stage": "align", "projector": "linear"},
    "half": {"stage": "align", "frozen_dtype": "float16"},
    "tiled": {"stage": "align", "data": {"image_aspect": "anyres"}},
    "marks": {"trainable": TrainablePlan(embeddings="new_tokens"), "data": {"image_start_end": True}},
    "lora": {"trainable": TrainablePlan(decoder="lora"), "lora": LoraConfig(rank=2)},
    "lora_everywhere": {"trainable": TrainablePlan(vision_encoder="lora", decoder="lora"), "lora": LoraConfig(rank=2)},
    "dora": {"trainable": TrainablePlan(decoder="lora"), "lora": LoraConfig(rank=2, use_dora=True, use_rslora=True)},
    "lora_biases": {
        "trainable": TrainablePlan(vision_encoder="lora"), "lora": LoraConfig(rank=2, bias="lora_only"),
    },
}  # fmt: skip
EXACT = {"align", "finetune", "all", "linear", "half", "tiled", "marks"}


@pytest.fixture(scope="module")
def aligned(run):
    return run("aligned", **RUNS["align"])


@pytest.mark.parametrize("name", RUNS)
def test_the_model_of_a_run_comes_out_whole(run, tmp_path, name):
    """As it answers in memory after its last step, the adapters beside its weights."""
    module, path = run(name, **RUNS[name])
    found = open_source(path)
    rows = compare(probe(found.model), probe(module.model))
    # The same tensors give the same logits; merging adds them up in another order (3e-7 of the largest logit).
    assert all(row.logit_difference <= (0 if name in EXACT else 2e-6 * row.logit_scale) for row in rows), rows
    assert found.origin.trained
    carry(found, tmp_path / "x", "artifact")
    assert all(
        torch.equal(*pair)
        for pair in zip(probe(load_pretrained(tmp_path / "x", dtype=None).model), probe(found.model), strict=True)
    )
    assert not any("lora" in parameter for parameter, _ in found.model.named_parameters())


def test_settings_of_the_data_come_out(run, tiny_parts):
    _, path = run("settings", stage="align", data={"image_aspect": "square", "respect_exif": False, "template": "v0"})
    found = load_pretrained(path)
    assert found.settings == DataSettings("v0", "square", None, False, False, None, 300)
    assert found.origin.data_hash
    assert found.origin.bases["decoder"].name == "decoder"
    assert found.origin.bases["vision_encoder"].select_layer == -2
    assert set(found.origin.trained) == {f"projector.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")}


def test_marks_are_words_of_its_tokenizer(run):
    module, path = run("marked", **RUNS["marks"])
    found = load_pretrained(path)
    ids = found.tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>"])
    assert ids == [99, 100]
    assert found.model.decoder.num_embeddings == 101
    assert torch.equal(found.model.decoder.embed(torch.tensor(ids)), module.model.decoder.embed(torch.tensor(ids)))


def test_what_a_run_started_from_is_in_it(run, aligned):
    """A frozen projector is in no checkpoint of the run, but in that which it was started from."""
    first, path = aligned
    plan = TrainablePlan(projector="frozen", decoder="full")
    module, second = run("second", trainable=plan, init_from=str(path))
    found = load_pretrained(second)
    assert torch.equal(found.model.projector[0].weight, first.model.projector[0].weight)
    assert all(torch.equal(*pair) for pair in zip(probe(found.model), probe(module.model), strict=True))


def test_what_an_earlier_run_trained_is_no_merit_of_this_one(run, aligned):
    """The base that a certificate compares with has the projector of the run before."""
    _, path = run("after", trainable=TrainablePlan(projector="frozen", decoder="full"), init_from=str(aligned[1]))
    found = open_source(path)
    assert {name.split(".")[0] for name in found.origin.trained} == {"decoder"}
    before = load_pretrained(aligned[1])
    assert all(map(torch.equal, found.origin.base_answers, probe(before.model)))
    assert not torch.equal(probe(found.model)[0], found.origin.base_answers[0])


def test_what_lies_on_a_replaced_decoder_is_not_written_without_it(run, aligned, tiny_parts, tmp_path):
    """Upon the base that such a folder names it would be another model; upon an import of the middle run it is not."""
    _, middle = run("middle", stage="finetune", init_from=str(aligned[1]))
    plan, lora = TrainablePlan(decoder="lora"), LoraConfig(rank=2, targets=["q_proj"])
    for layout, options in (("lora", {"trainable": plan, "lora": lora}), ("projector", {"stage": "align"})):
        found = open_source(run("upon", init_from=str(middle), **options)[1])
        assert {name.split(".")[0] for name in found.origin.replaced} == {"decoder"}
        with pytest.raises(InputError, match=f"format {layout}: the decoder beneath is not its base decoder, since"):
            carry(found, tmp_path / "x", layout)
        carry(found, tmp_path / f"hf_{layout}", "hf", merge_lora=True)
        if not (tmp_path / "folder").exists():
            carry(open_source(middle), tmp_path / "folder", "artifact")
        place = str(tmp_path / "folder")
        found = open_source(run("upon", init_from=place, decoder={"path": place}, **options)[1])
        assert found.origin.replaced == ()
        carry(found, tmp_path / layout, layout)
    _, first = run("rows", **RUNS["marks"])
    marked = run("upon_rows", stage="align", data={"image_start_end": True}, init_from=str(first))
    assert open_source(marked[1]).origin.replaced == ()
    carry(open_source(marked[1]), tmp_path / "marks", "projector")
    assert open_source(middle).origin.replaced == open_source(aligned[1]).origin.replaced == ()


def test_a_projector_from_outside_is_not_imported_because_a_checkpoint_asks(aligned, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Bridge: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = change(aligned[1], tmp_path / "x.ckpt", hyper_parameters=lambda hyper: {**hyper, "projector": "trap.Bridge"})
    with pytest.raises(InputError, match=r"x\.ckpt: its projector is the class trap\.Bridge, whose code would run"):
        load_pretrained(path)
    assert not (tmp_path / "sprung").exists()


def test_training_dtype_is_kept_and_a_dtype_can_be_asked_for(run):
    _, path = run("dtypes", **RUNS["half"])
    found = load_pretrained(path, dtype=None).model
    assert {parameter.dtype for parameter in found.projector.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in found.decoder.parameters()} == {torch.float16}
    assert {p.dtype for p in load_pretrained(path, dtype=torch.bfloat16).model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantized_training_is_merged_into_the_unquantized_base(run, tiny_parts, quantization):
    pytest.importorskip("bitsandbytes")
    module, path = run("quantized", decoder={"quantization": quantization, "compute_dtype": "float32"}, **RUNS["lora"])
    found = open_source(path)
    base = load_pretrained(path).model.decoder.model
    assert {parameter.dtype for parameter in base.parameters()} == {torch.float32}
    (row, *_) = compare(probe(found.model), found.origin.live_answers)
    assert row.logit_difference <= 2e-6 * row.logit_scale
    # Against the quantized model that was trained: near, and no nearer than the quantization allows.
    (row, *_) = compare(probe(found.model), probe(module.model))
    assert 0 < row.logit_difference < 0.5 * row.logit_scale


def change(path: Path, target: Path, **changes) -> Path:
    content = torch.load(path, weights_only=True)
    for key, value in changes.items():
        content[key] = value(content[key]) if callable(value) else value
    torch.save({key: value for key, value in content.items() if value is not None}, target)
    return target


def without(name):
    return lambda state: {key: value for key, value in state.items() if not key.endswith(name)}


def replaced(name, value):
    return lambda state: {key: value if key.endswith(name) else tensor for key, tensor in state.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_dict": {}}, "expected a Lightning checkpoint with a 'state_dict', found none"),
        ({"hyper_parameters": None}, "expected a checkpoint of llava-pl fit"),
        ({"carried": None}, "holds no settings of its data; it is of an older version"),
        ({"state_dict": without("projector.0.bias")}, "holds no projector.0.bias for this model"),
        (
            {"state_dict": replaced("projector.0.bias", torch.zeros(3))},
            r"projector\.0\.bias: found shape \(3,\), expected shape \(32,\)",
        ),
        ({"state_dict": replaced("projector.0.bias", torch.zeros(0))}, "tensor 'projector.0.bias' is empty"),
        ({"state_dict": replaced("projector.0.bias", torch.full((32,), torch.nan))}, "holds NaN or infinity"),
        (
            {"state_dict": lambda state: {**state, "model.new.weight": torch.ones(1)}},
            r"new\.weight: found .* expected no such",
        ),
        (
            {"state_dict": replaced("projector.0.bias", torch.ones(32, dtype=torch.int32))},
            r"projector\.0\.bias: expected floating-point numbers, found torch\.int32; use another file",
        ),
        (
            {"carried": lambda carried: {**carried, "data": {**carried["data"], "max_length": "no"}}},
            r"carried\.data\.max_length: expected int or None, found 'no'",
        ),
        ({"hyper_parameters": lambda hyper: {**hyper, "decoder": {"road": "x"}}}, "are of another version"),
    ],
)
def test_damaged_checkpoints_have_their_line(aligned, tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as error:
        load_pretrained(change(aligned[1], tmp_path / "x.ckpt", **changes))
    assert "\n" not in str(error.value)


def test_adapters_of_another_rank_are_refused(run, tmp_path):
    _, path = run("ranks", **RUNS["lora"])

    def rank_3(hyper):
        return {**hyper, "lora": {**hyper["lora"], "rank": 3}}

    with pytest.raises(InputError, match=r"of the adapters: expected shape \(3, 32\), found \(2, 32\); its rank"):
        load_pretrained(change(path, tmp_path / "x.ckpt", hyper_parameters=rank_3))
    for value in ("3", None):
        odd = change(
            path, tmp_path / "x.ckpt", hyper_parameters=lambda h, v=value: {**h, "lora": {**h["lora"], "rank": v}}
        )
        with pytest.raises(InputError, match=r"x\.ckpt: hyper_parameters\.lora: "):
            load_pretrained(odd)
    with pytest.raises(InputError, match=r"lora_B.default.weight' of the adapters is missing"):
        load_pretrained(
            change(path, tmp_path / "x.ckpt", state_dict=without("layers.1.mlp.up_proj.lora_B.default.weight"))
        )


class Plain:
    """What a checkpoint of another program may hold."""


def test_pickled_objects_are_refused_unless_asked_for(aligned, tmp_path):
    content = torch.load(aligned[1], weights_only=True)
    content["callbacks"] = Plain()
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=r"refused: expected a torch file of plain tensors.*--unsafe"):
        load_pretrained(tmp_path / "x.ckpt")
    found = load_pretrained(tmp_path / "x.ckpt", unsafe=True)
    assert torch.equal(found.model.projector[0].weight, aligned[0].model.projector[0].weight)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/llava_pl_was_here"),))


def test_a_hostile_pickle_does_not_run(tmp_path):
    mark = Path("/tmp/llava_pl_was_here")
    mark.unlink(missing_ok=True)
    for name, write in (
        ("a.ckpt", lambda p: torch.save(Hostile(), p)),
        ("b.ckpt", lambda p: p.write_bytes(pickle.dumps(Hostile()))),
    ):
        write(tmp_path / name)
        with pytest.raises(InputError, match=r"refused|cannot be read"):
            load_pretrained(tmp_path / name)
    assert not mark.exists()
