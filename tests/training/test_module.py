"""Guards: a run that trains the wrong weights, saves too little, or goes on elsewhere than where it stopped."""

import json
import shutil
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from llava_pl import LlavaDataModule, LlavaModule
from llava_pl.data.clip_pixels import look_up_pixels
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.evaluation.generation import GenerationConfig
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.models.adapters import LoraConfig, plain_name
from llava_pl.training.optim import OptimConfig
from llava_pl.training.seeding import SeedSteps
from llava_pl.training.stages import PARTS, TrainablePlan, parameters_by_part
from llava_pl.types import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*eval mode at the start of training.*"),  # frozen parts are meant to be
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero.*"),  # no validation data
    pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`.*"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`.*"),
]

NUM_RECORDS = 12

LORA_PLAN = TrainablePlan(decoder="lora")


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    """Twelve records with answers of one to five characters; every third is without a picture."""
    folder = tmp_path_factory.mktemp("records")
    rng, entries = np.random.default_rng(0), []
    for number in range(NUM_RECORDS):
        entry = {"id": f"r{number}", "conversations": [{"from": "human", "value": f"Q{number}?"}]}
        entry["conversations"].append({"from": "gpt", "value": "abcde"[: 1 + number % 5]})
        if number % 3:
            Image.fromarray(rng.integers(0, 256, (20, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
            entry["image"] = f"{number}.png"
            entry["conversations"][0]["value"] = f"<image>\nQ{number}?"
        entries.append(entry)
    (folder / "records.json").write_text(json.dumps(entries))
    return folder / "records.json"


@pytest.fixture
def setup(tiny_parts, records, tmp_path):
    """Makers of a module, a data module and a trainer, all small."""

    class Setup:
        root = tmp_path

        @staticmethod
        def module(stage="finetune", **settings) -> LlavaModule:
            torch.manual_seed(0)
            return LlavaModule(
                stage=stage,
                vision_encoder=VisionEncoderConfig(str(tiny_parts / "encoder")),
                **{
                    "decoder": DecoderConfig(str(tiny_parts / "decoder")),
                    "optim": OptimConfig(learning_rate=1e-3),
                    **settings,
                },
            )

        @staticmethod
        def data(path=records, **settings) -> LlavaDataModule:
            return LlavaDataModule(
                records=path,
                val_records=path if settings.pop("validates", False) else None,
                image_folder=records.parent,
                tokenizer=str(tiny_parts / "decoder"),
                image_processor=str(tiny_parts / "encoder"),
                num_image_tokens=4,
                num_workers=0,
                **{"batch_size": 2, **settings},
            )

        @staticmethod
        def trainer(**settings) -> Trainer:
            return Trainer(
                accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                default_root_dir=tmp_path, num_sanity_val_steps=0, **{"enable_checkpointing": False, **settings},
            )  # fmt: skip

        def fit(self, module, data=None, ckpt_path=None, **settings) -> Trainer:
            trainer = self.trainer(**{"max_epochs": 1, **settings})
            trainer.fit(module, datamodule=data or self.data(), ckpt_path=ckpt_path)
            return trainer

        def saver(self, **settings) -> dict:
            saver = ModelCheckpoint(
                dirpath=tmp_path, filename="{step}", auto_insert_metric_name=True, save_last=True, **settings
            )
            return {"callbacks": [saver], "enable_checkpointing": True}

    return Setup()


class Recorder(Callback):
    def __init__(self):
        self.ids, self.rates, self.logged = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.ids.append(batch["ids"])
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.logged.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def is_plain(value) -> bool:
    if isinstance(value, dict):
        return type(value) is dict and all(type(key) is str and is_plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


def test_hyperparameters_are_plain_and_say_everything(setup, tiny_parts):
    module = setup.module(
        "align",
        generation=GenerationConfig(max_new_tokens=7),
        frozen_dtype="bfloat16",
        trainable=LORA_PLAN,
        lora=LoraConfig(rank=4, targets=["q_proj"]),
    )
    assert is_plain(dict(module.hparams))
    assert dict(module.hparams) == {
        "stage": "align",
        "vision_encoder": {
            "path": str(tiny_parts / "encoder"), "select_layer": -2, "select_feature": "patch",
            "compile_layers": False,
        },
        "decoder": {
            "path": str(tiny_parts / "decoder"), "attention": "sdpa",
            "gradient_checkpointing": "none",
            "quantization": "none", "double_quantization": False, "compute_dtype": "bfloat16",
            "compile_layers": False, "fused_kernels": "none", "float8": "none",
        },
        "optim": {
            "learning_rate": 1e-3, "weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8, "warmup_share": 0.03,
            "optimizer": "torch.optim.AdamW", "options": {},
            **{part: {"learning_rate": None, "weight_decay": None} for part in PARTS},
        },
        "trainable": {
            "vision_encoder": "frozen", "projector": "full", "decoder": "lora", "embeddings": "frozen",
        },
        "projector": "mlp2x_gelu",
        "projector_options": None,
        "has_newline": False,
        "has_image_marks": False,
        "has_patch_token": False,
        "lora": {
            "rank": 4, "alpha": 16.0, "dropout": 0.05, "bias": "none", "use_dora": False, "use_rslora": False,
            "targets": ["q_proj"],
        },
        "init_from": None,
        "loss_normalization": "global",
        "frozen_dtype": "bfloat16",
        "generation": {"max_new_tokens": 7, "method": "generate"},
    }  # fmt: skip


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_a_checkpoint_holds_plain_values_and_trained_weights_alone(setup, stage):
    module = setup.module(stage)
    setup.fit(module, max_steps=1, **setup.saver())
    content = torch.load(setup.root / "last.ckpt", weights_only=True)
    assert content["hyper_parameters"] == dict(module.hparams)
    expected = {f"model.{name}": p for name, p in module.model.named_parameters() if p.requires_grad}
    assert content["state_dict"].keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in content["state_dict"].items())
    assert [len(state["state"]) for state in content["optimizer_states"]] == [len(expected)]


def test_a_checkpoint_makes_a_module_again(setup):
    """Lightning's own way back from a file to a model."""
    module = setup.module("align")
    setup.fit(module, max_steps=1, **setup.saver())
    again = LlavaModule.load_from_checkpoint(setup.root / "last.ckpt", weights_only=True)
    assert dict(again.hparams) == dict(module.hparams)
    for name, parameter in module.model.named_parameters():
        assert torch.equal(again.model.get_parameter(name), parameter), name


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_tiled_pictures_train_the_newline_too(setup, stage, is_packed):
    module = setup.module(stage, has_newline=True)
    setup.fit(module, setup.data(image_aspect="anyres", is_packed=is_packed, validates=True), **setup.saver())
    module.configure_model()
    fresh = setup.module(stage, has_newline=True)
    fresh.configure_model()
    moved = {name for name, p in fresh.model.named_parameters() if not torch.equal(p, module.model.get_parameter(name))}
    parts = {"image_newline", "projector"} | ({"decoder"} if stage == "finetune" else set())
    assert {name.partition(".")[0] for name in moved} == parts
    again = LlavaModule.load_from_checkpoint(setup.root / "last.ckpt", weights_only=True)
    second = setup.module(has_newline=True, init_from=str(setup.root / "last.ckpt"))
    second.configure_model()
    for each in (again, second):
        assert torch.equal(each.model.image_newline, module.model.image_newline)


def test_packed_rows_of_tiles_have_the_loss_of_padded_ones(setup):
    losses = []
    for is_packed in (False, True):
        # All twelve samples in a batch, so that it makes no difference which are dealt to it.
        data = setup.data(image_aspect="anyres", is_packed=is_packed, batch_size=12)
        trainer = setup.fit(setup.module(has_newline=True), data, max_steps=1)
        losses.append(trainer.callback_metrics["train/loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # the same numbers, added in another order


def test_tiles_for_a_module_without_a_newline_are_one_line(setup):
    with pytest.raises(InputError, match="the pictures are tiled, but the model has no image_newline"):
        setup.fit(setup.module(), setup.data(image_aspect="anyres"))


def learns(name: str, plan: TrainablePlan) -> bool:
    """Whether a tensor moves in the first step of a plan, told by its name alone."""
    part = name.partition(".")[0]
    if ".embed_tokens." in name:
        is_row = "trainable_tokens_delta" in name
        return plan.embeddings == ("new_tokens" if is_row else "full")
    if ".lora_" in name:
        return ".lora_B." in name and getattr(plan, part) == "lora"  # the first factor waits for the second, a zero
    return getattr(plan, part) == "full" and "post_layernorm" not in name  # on which nothing depends


EVERY_PLAN = [
    words
    for words in product(("frozen", "full", "lora"), ("frozen", "full"), ("frozen", "full", "lora"),
                         ("frozen", "new_tokens", "full"))
    if set(words) != {"frozen"}
]  # fmt: skip


@pytest.mark.parametrize("words", EVERY_PLAN, ids="-".join)
def test_exactly_the_tensors_of_the_plan_move_in_a_step(setup, words):
    """Every plan that there is: encoder, projector, decoder, embeddings."""
    plan, has_marks = TrainablePlan(*words), words[3] == "new_tokens"
    optim = OptimConfig(learning_rate=1e-3, warmup_share=0.0)
    module = setup.module(trainable=plan, optim=optim, has_image_marks=has_marks)
    module.configure_model()
    before = {name: parameter.clone() for name, parameter in module.model.named_parameters()}
    setup.fit(module, setup.data(batch_size=12, image_start_end=has_marks), max_steps=1)
    moved = {name for name, p in module.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if learns(name, plan)}


LAYERS = {
    "vision_encoder": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "decoder": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
LORA_RECIPES = {
    "lora": (LORA_PLAN, LoraConfig(), {"projector"}, {"decoder": LAYERS["decoder"]}),
    "some layers": (LORA_PLAN, LoraConfig(targets=["self_attn.v_proj", "down_proj"]), {"projector"},
                    {"decoder": ("v_proj", "down_proj")}),
    "the encoder alone": (TrainablePlan(vision_encoder="lora", projector="frozen"), None, set(),
                          {"vision_encoder": LAYERS["vision_encoder"]}),
    "both": (TrainablePlan(vision_encoder="lora", decoder="lora"), LoraConfig(rank=2), {"projector"}, LAYERS),
    "beside a full decoder": (TrainablePlan(vision_encoder="lora", decoder="full"), None,
                              {"projector", "decoder", "embeddings"}, {"vision_encoder": LAYERS["vision_encoder"]}),
    "beside full embeddings": (TrainablePlan(decoder="lora", embeddings="full"), None, {"projector", "embeddings"},
                               {"decoder": LAYERS["decoder"]}),
}  # fmt: skip


@pytest.mark.parametrize("recipe", LORA_RECIPES)
def test_exactly_the_adapters_of_the_plan_move(setup, recipe):
    """In the first step the second factor alone, which starts at zero; in the second step both."""
    plan, lora, parts, layers = LORA_RECIPES[recipe]
    for num_steps, factors in ((1, "B"), (2, "AB")):
        module = setup.module(trainable=plan, lora=lora, optim=OptimConfig(learning_rate=1e-3, warmup_share=0.0))
        module.configure_model()
        before = {name: parameter.clone() for name, parameter in module.model.named_parameters()}
        setup.fit(module, setup.data(batch_size=6), max_steps=num_steps)
        moved = {name for name, p in module.model.named_parameters() if not torch.equal(p, before[name])}
        expected = {n for part in parts for n in parameters_by_part(module.model)[part] if "lora_" not in n}
        for part, names in layers.items():
            for name, _ in module.model.named_modules():
                if name.startswith(part) and name.rpartition(".")[2] in names:
                    expected |= {f"{name}.lora_{factor}.default.weight" for factor in factors}
        assert moved == expected
        assert not any("lora_" in name for name in before if name.startswith("projector") or "lm_head" in name)


@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
def test_biases_learn_as_lora_says(setup, bias):
    module = setup.module(
        trainable=TrainablePlan(vision_encoder="lora", projector="frozen"), lora=LoraConfig(bias=bias, targets=["fc1"])
    )
    module.configure_model()
    trained = {name for name, p in module.model.named_parameters() if p.requires_grad}
    biases = {plain_name(name) for name in trained if "lora_" not in name}
    fc1 = {f"vision_encoder.model.encoder.layers.{n}.mlp.fc1.bias" for n in range(2)}
    every = {n for n, _ in module.model.named_parameters() if n.startswith("vision") and n.endswith(".bias")}
    every = {plain_name(name) for name in every if "post_layernorm" not in name}
    assert biases == {"none": set(), "lora_only": fc1, "all": every}[bias]


@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(use_dora=True), LoraConfig(use_rslora=True, rank=2)])
def test_adapters_start_as_the_base_model_bit_for_bit(setup, lora):
    data = setup.data()
    data.setup("fit")
    batch = look_up_pixels(next(iter(data.train_dataloader())))
    plan = TrainablePlan(vision_encoder="lora", decoder="lora")
    logits = []
    for settings in ({}, {"trainable": plan, "lora": lora}):
        module = setup.module(**settings)
        module.configure_model()
        module.model.eval()
        logits.append(module.model(batch["input_ids"], batch["pixel_values"], batch["attention_mask"]).logits)
    assert torch.equal(*logits)


def test_a_checkpoint_holds_adapters_and_projector_alone(setup):
    module = setup.module(trainable=LORA_PLAN)
    setup.fit(module, max_steps=2, **setup.saver())
    content = torch.load(setup.root / "last.ckpt", weights_only=True)
    assert all("lora_" in name or name.startswith("model.projector.") for name in content["state_dict"])
    assert len(content["state_dict"]) == 4 + 2 * 2 * 7
    assert content["hyper_parameters"]["lora"] == asdict(LoraConfig())  # also where no configuration names them
    again = LlavaModule.load_from_checkpoint(setup.root / "last.ckpt", weights_only=True)
    assert dict(again.hparams) == dict(module.hparams)
    for name, parameter in module.model.named_parameters():
        assert torch.equal(again.model.get_parameter(name), parameter), name


@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(use_dora=True, bias="all", dropout=0.0)])
def test_a_resumed_lora_run_equals_one_without_a_break(setup, lora):
    plan = TrainablePlan(vision_encoder="lora", decoder="lora")

    def make():
        # Dropout is drawn from a seed for each step, as the command line does it.
        return setup.module(trainable=plan, lora=lora), [SeedSteps(3)]

    whole, callbacks = make()
    settings = setup.saver(every_n_train_steps=4, save_top_k=-1)
    settings["callbacks"] += callbacks
    setup.fit(whole, max_epochs=2, **settings)
    resumed, callbacks = make()
    trainer = setup.fit(resumed, max_epochs=2, callbacks=callbacks, ckpt_path=setup.root / "step=4.ckpt")
    assert trainer.global_step == 12
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(resumed.model.get_parameter(name), parameter), name


def test_lora_starts_from_stage_1_and_from_an_earlier_lora_run(setup):
    first = setup.module("align")
    setup.fit(first, max_steps=2, **setup.saver())
    (setup.root / "last.ckpt").rename(setup.root / "stage1.ckpt")
    second = setup.module(trainable=LORA_PLAN, init_from=str(setup.root / "stage1.ckpt"))
    second.configure_model()
    for name, parameter in first.model.projector.named_parameters():
        assert torch.equal(second.model.projector.get_parameter(name), parameter)
    setup.fit(second, max_steps=2, **setup.saver())
    third = setup.module(trainable=LORA_PLAN, init_from=str(next(setup.root.glob("last*.ckpt"))))
    third.configure_model()
    for name, parameter in second.model.named_parameters():
        assert torch.equal(third.model.get_parameter(name), parameter), name


def test_lora_starts_from_a_decoder_that_was_trained_in_full(setup):
    first = setup.module()
    setup.fit(first, max_steps=2, **setup.saver())
    path = str(setup.root / "last.ckpt")
    second = setup.module(trainable=LORA_PLAN, init_from=path)
    second.configure_model()
    held = {plain_name(name): parameter for name, parameter in second.model.named_parameters()}
    for name, parameter in first.model.named_parameters():
        assert torch.equal(held[name], parameter), name
    third = setup.module(trainable=LORA_PLAN, lora=LoraConfig(use_dora=True), init_from=path)
    with pytest.raises(InputError, match=r"DoRA has measured the weights of model.decoder.path already"):
        third.configure_model()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 8}, "its adapters have rank 4, this model's 8; set model.lora.rank as in"),
        ({"rank": 4, "alpha": 8.0}, "its adapters have alpha 16.0, this model's 8.0; set model.lora.alpha"),
        ({"rank": 4, "use_rslora": True}, "its adapters have use_rslora False, this model's True"),
        (
            {"rank": 4, "targets": ["q_proj"]},
            "24 unexpected|found .* no such parameter in this model; set model.t",
        ),
    ],
)
def test_adapters_of_another_make_are_refused_in_one_line(setup, settings, message):
    setup.fit(setup.module(trainable=LORA_PLAN, lora=LoraConfig(rank=4)), max_steps=1, **setup.saver())
    path, lora = setup.root / "last.ckpt", LoraConfig(**settings)
    with pytest.raises(InputError, match=message) as raised:
        setup.fit(setup.module(trainable=LORA_PLAN, lora=lora), max_steps=2, ckpt_path=path)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=message):
        setup.module(trainable=LORA_PLAN, lora=lora, init_from=str(path)).configure_model()


def test_adapters_are_no_start_for_a_model_without(setup):
    setup.fit(setup.module(trainable=LORA_PLAN), max_steps=1, **setup.saver())
    with pytest.raises(InputError, match=r"lora_A.default.weight: found .* no such parameter .*; set model.trainable"):
        setup.module(init_from=str(setup.root / "last.ckpt")).configure_model()


def test_a_rank_that_only_the_weights_tell_is_one_line(setup):
    setup.fit(setup.module(trainable=LORA_PLAN, lora=LoraConfig(rank=4)), max_steps=1, **setup.saver())
    path = setup.root / "last.ckpt"
    content = torch.load(path, weights_only=True)
    del content["hyper_parameters"]
    torch.save(content, path)
    message = r"q_proj.lora_A.default.weight: found shape .4, 32., expected shape .8, 32.; set model.lora.rank as in"
    with pytest.raises(InputError, match=message):
        setup.module(trainable=LORA_PLAN, lora=LoraConfig(rank=8), init_from=str(path)).configure_model()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora": LoraConfig()}, "model.lora: found settings, but no part has adapters"),
        ({"trainable": TrainablePlan(embeddings="new_tokens")}, "new_tokens, but no token is new"),
        ({"decoder": DecoderConfig("nowhere", quantization="nf4")}, "quantized weights cannot be trained in full"),
        (
            {
                "decoder": DecoderConfig("nowhere", quantization="int8"),
                "trainable": LORA_PLAN,
                "lora": LoraConfig(bias="lora_only"),
            },
            "model.lora.bias: found lora_only beside a quantized decoder",
        ),
    ],
)
def test_contradictions_are_refused_before_anything_is_loaded(settings, message):
    with pytest.raises(InputError, match=message):
        LlavaModule(
            stage="finetune",
            vision_encoder=VisionEncoderConfig("nowhere"),
            optim=OptimConfig(learning_rate=1.0),
            **{"decoder": DecoderConfig("nowhere"), **settings},
        )


def test_an_encoder_that_was_trained_in_full_starts_another_run(setup):
    """Its last norm, on which nothing depends, is in no checkpoint."""
    plan = TrainablePlan(vision_encoder="full")
    first = setup.module(trainable=plan)
    setup.fit(first, max_steps=2, **setup.saver())
    second = setup.module(trainable=plan, init_from=str(setup.root / "last.ckpt"))
    second.configure_model()
    for name, parameter in first.model.named_parameters():
        assert torch.equal(second.model.get_parameter(name), parameter), name


MARKS = {"has_image_marks": True, "has_patch_token": True}
NEW_IDS = [99, 100, 101]
TABLE = "decoder.model.model.embed_tokens.token_adapter.base_layer.weight"
ROWS = "decoder.model.model.embed_tokens.token_adapter.trainable_tokens_delta.default"


@pytest.fixture
def tied_setup(setup, tiny_parts, tmp_path):
    """As `setup`, with a decoder whose head is its table of word embeddings."""
    folder = tmp_path / "tied"
    shutil.copytree(tiny_parts / "decoder", folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    config = LlamaConfig.from_pretrained(folder, tie_word_embeddings=True)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    LlamaForCausalLM.from_pretrained(None, config=config, state_dict=state).save_pretrained(folder)
    whole = setup.module

    def module(*args, **settings):
        return whole(*args, **{"decoder": DecoderConfig(str(folder)), **settings})

    setup.module = module
    return setup


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("plan", [TrainablePlan(embeddings="new_tokens"),
                                  TrainablePlan(decoder="lora", embeddings="new_tokens")])  # fmt: skip
def test_new_tokens_learn_alone(request, plan, is_tied):
    """Also in stage align, where the original cannot; weight decay leaves the other rows alone."""
    setup = request.getfixturevalue("tied_setup" if is_tied else "setup")
    optim = OptimConfig(learning_rate=1e-2, weight_decay=0.1, warmup_share=0.0)
    module = setup.module("align", trainable=plan, optim=optim, **MARKS)
    module.configure_model()
    before = {name: parameter.clone() for name, parameter in module.model.named_parameters()}
    data = setup.data(batch_size=6, image_start_end=True, image_patch_token=True)
    setup.fit(module, data, max_steps=2, **setup.saver())
    moved = {name for name, p in module.model.named_parameters() if not torch.equal(p, before[name])}
    expected = {ROWS, *parameters_by_part(module.model)["projector"]}
    assert {name for name in moved if "lora_" not in name} == expected
    assert any("lora_" in name for name in moved) == (plan.decoder == "lora")
    rows, table = module.model.get_parameter(ROWS), module.model.get_parameter(TABLE)
    assert torch.equal(table, before[TABLE])
    # What the model reads: the old rows as they were, and beside them the ones that learned.
    read = module.model.decoder.embed(torch.arange(102))
    assert torch.equal(read[:99], before[TABLE][:99])
    assert torch.equal(read[99:], rows)
    mean = before[TABLE][:99].mean(dim=0)
    assert torch.equal(before[ROWS], mean.expand(3, -1))
    assert not any(torch.equal(row, mean) for row in rows[1:])
    again = LlavaModule.load_from_checkpoint(setup.root / "last.ckpt", weights_only=True)
    for name, parameter in module.model.named_parameters():
        assert torch.equal(again.model.get_parameter(name), parameter), name


def test_a_model_with_new_tokens_and_adapters_answers_with_what_it_has_learned(setup):
    """Its answers go through the same layers as its training, tokens after the prompt among them."""
    module = setup.module(trainable=TrainablePlan(decoder="lora", embeddings="new_tokens"), **MARKS)
    module.configure_model()
    module.eval()
    with torch.no_grad():
        for name, parameter in module.model.named_parameters():
            if "lora_B" in name or name == ROWS:
                parameter.normal_(std=0.5)
    ids = torch.tensor([[1, 100, 40, 101, 50]])
    answer = module.model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    for _ in range(4):
        token = module.model(ids).logits[:, -1].argmax(dim=-1)
        ids = torch.cat([ids, token[:, None]], dim=1)
    assert torch.equal(answer, ids[:, 5:])


def test_a_resumed_run_with_new_tokens_equals_one_without_a_break(setup):
    def make():
        plan = TrainablePlan(decoder="lora", embeddings="new_tokens")
        return setup.module(trainable=plan, lora=LoraConfig(dropout=0.0), **MARKS), setup.data(
            image_start_end=True, image_patch_token=True
        )

    whole, data = make()
    setup.fit(whole, data, max_epochs=2, **setup.saver(every_n_train_steps=4, save_top_k=-1))
    resumed, data = make()
    setup.fit(resumed, data, max_epochs=2, ckpt_path=setup.root / "step=4.ckpt")
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(resumed.model.get_parameter(name), parameter), name


@pytest.mark.parametrize("plan", [TrainablePlan(decoder="lora"), TrainablePlan(decoder="full"),
                                  TrainablePlan(decoder="lora", embeddings="new_tokens")])  # fmt: skip
def test_new_tokens_of_stage_1_start_stage_2(setup, plan):
    first = setup.module("align", trainable=TrainablePlan(embeddings="new_tokens"), **MARKS)
    data = {"image_start_end": True, "image_patch_token": True}
    setup.fit(first, setup.data(**data), max_steps=3, **setup.saver())
    second = setup.module(trainable=plan, init_from=str(setup.root / "last.ckpt"), **MARKS)
    second.configure_model()
    ids = torch.arange(102)
    assert torch.equal(second.model.decoder.embed(ids), first.model.decoder.embed(ids))
    setup.fit(second, setup.data(**data), max_steps=1)


def test_new_tokens_without_marks_have_no_place(setup):
    first = setup.module("align", trainable=TrainablePlan(embeddings="new_tokens"), **MARKS)
    setup.fit(first, setup.data(image_start_end=True, image_patch_token=True), max_steps=1, **setup.saver())
    path = str(setup.root / "last.ckpt")
    with pytest.raises(InputError, match=r"delta.default: found .* no such .*; check .* data.image_start_end and"):
        setup.module(init_from=path).configure_model()
    with pytest.raises(InputError, match=r"new tokens: found shape .3, 32., expected those of 1 tokens"):
        setup.module(init_from=path, has_patch_token=True).configure_model()


def test_marks_that_the_tokenizer_knows_are_not_new(setup, tiny_parts, tmp_path):
    shutil.copytree(tiny_parts / "decoder", tmp_path / "decoder")
    tokenizer = load_tokenizer(tmp_path / "decoder")
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "decoder")
    module = setup.module(
        decoder=DecoderConfig(str(tmp_path / "decoder")),
        trainable=TrainablePlan(embeddings="new_tokens"),
        has_image_marks=True,
    )
    with pytest.raises(InputError, match="the decoder's tokenizer knows the image marks already"):
        module.configure_model()


QUANTIZED = ["nf4", "fp4", "int8"]
NOISE = ("Failed to load CPU gemm_4bit_forward", "inputs will be cast")


@pytest.mark.parametrize("quantization", QUANTIZED)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_adapters_train_on_a_quantized_decoder_and_come_back(setup, tiny_parts, caplog, quantization, precision):
    decoder = DecoderConfig(
        str(tiny_parts / "decoder"), quantization=quantization, double_quantization=quantization != "int8"
    )
    settings = {"decoder": decoder, "trainable": LORA_PLAN, "frozen_dtype": "bfloat16"}
    module = setup.module(**settings, optim=OptimConfig(learning_rate=1e-2, warmup_share=0.0))
    module.configure_model()
    before = {name: parameter.clone() for name, parameter in module.model.named_parameters()}
    setup.fit(module, setup.data(batch_size=6, validates=True), max_steps=2, precision=precision, **setup.saver())
    moved = {name for name, p in module.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {n for n in before if n.startswith("projector") or (n.startswith("decoder") and "lora_" in n)}
    again = LlavaModule.load_from_checkpoint(setup.root / "last.ckpt", weights_only=True)
    data = setup.data(batch_size=6)
    data.setup("fit")
    batch = look_up_pixels(next(iter(data.train_dataloader())))
    answers = [
        each.eval().model(batch["input_ids"], batch["pixel_values"], batch["attention_mask"]).logits
        for each in (module, again)
    ]
    assert torch.equal(*answers)
    assert not any(noise in message for noise in NOISE for message in caplog.messages)


@pytest.mark.parametrize("quantization", QUANTIZED)
def test_stage_align_works_through_a_quantized_decoder(setup, tiny_parts, quantization):
    """The projector's gradient comes through frozen quantized layers in eval mode, also after a validation."""
    decoder = DecoderConfig(str(tiny_parts / "decoder"), quantization=quantization, compute_dtype="float32")
    projectors = []
    for validates in (False, True):
        module = setup.module("align", decoder=decoder)
        data = setup.data(validates=validates)
        setup.fit(module, data, max_steps=4, **({"val_check_interval": 1} if validates else {}))
        projectors.append(module.model.projector.state_dict())
    for name, tensor in projectors[0].items():
        assert torch.equal(tensor, projectors[1][name]), name


def test_a_resumed_qlora_run_equals_one_without_a_break(setup, tiny_parts):
    def make():
        decoder = DecoderConfig(str(tiny_parts / "decoder"), quantization="nf4")
        return setup.module(decoder=decoder, trainable=LORA_PLAN, lora=LoraConfig(dropout=0.0))

    whole = make()
    setup.fit(whole, max_epochs=2, **setup.saver(every_n_train_steps=4, save_top_k=-1))
    resumed = make()
    setup.fit(resumed, max_epochs=2, ckpt_path=setup.root / "step=4.ckpt")
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(resumed.model.get_parameter(name), parameter), name


@pytest.mark.parametrize("quantization", QUANTIZED)
def test_weights_trained_in_full_are_no_start_for_a_quantized_decoder(setup, tiny_parts, quantization):
    setup.fit(setup.module(), max_steps=1, **setup.saver())
    decoder = DecoderConfig(str(tiny_parts / "decoder"), quantization=quantization)
    module = setup.module(decoder=decoder, trainable=LORA_PLAN, init_from=str(setup.root / "last.ckpt"))
    with pytest.raises(InputError, match=r"expected a quantized weight; give weights trained in full as model.decoder"):
        module.configure_model()


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit"])
def test_a_run_with_8_bit_optimizer_states_resumes_bit_for_bit(setup, name):
    # By default small tensors, which are all there are here, keep states of 32 bits.
    optim = OptimConfig(
        learning_rate=1e-3, weight_decay=0.1, optimizer=f"bitsandbytes.optim.{name}", options={"min_8bit_size": 1}
    )
    whole = setup.module(optim=optim)
    trainer = setup.fit(whole, max_epochs=2, **setup.saver(every_n_train_steps=4, save_top_k=-1))
    states = [state["state1"].dtype for state in trainer.optimizers[0].state.values()]
    assert set(states) == {torch.uint8}
    resumed = setup.module(optim=optim)
    setup.fit(resumed, max_epochs=2, ckpt_path=setup.root / "step=4.ckpt")
    for key, parameter in whole.model.named_parameters():
        assert torch.equal(resumed.model.get_parameter(key), parameter), key


def test_frozen_parts_stay_in_eval_mode_after_validation(setup):
    module, modes = setup.module("align"), []

    class Modes(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            modes.append([part.training for part in pl_module.model.children()])

    setup.fit(module, setup.data(validates=True), callbacks=[Modes()], val_check_interval=2)
    assert modes == [[False, True, False]] * 6


@pytest.mark.parametrize("stage", ["align", "finetune"])
@pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported on CPU.*")  # Lightning takes bf16 in its place
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "32-true"])
def test_trained_weights_are_float32_beside_frozen_bfloat16(setup, stage, precision):
    module = setup.module(stage, frozen_dtype="bfloat16")
    setup.fit(module, max_steps=2, precision=precision)
    for name, parameter in module.model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
        assert torch.isfinite(parameter).all()
    for state in module.trainer.optimizers[0].state.values():
        assert state["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize(
    ("plan", "lora", "precision"),
    [
        (TrainablePlan(vision_encoder="full"), None, "bf16-mixed"),
        (TrainablePlan(vision_encoder="full"), None, "32-true"),
        (TrainablePlan(vision_encoder="lora"), LoraConfig(bias="all"), "bf16-mixed"),
    ],
)
def test_an_encoder_learns_beside_parts_in_half_precision(setup, plan, lora, precision):
    """Its last norm, which is not part of what learns, is in another dtype than the rest."""
    module = setup.module(trainable=plan, lora=lora, frozen_dtype="bfloat16")
    setup.fit(module, max_steps=2, precision=precision)
    dtypes = {p.dtype for n, p in module.model.vision_encoder.named_parameters() if p.requires_grad}
    assert dtypes == {torch.float32}


def test_initial_weights_are_not_rounded_to_the_frozen_dtype(setup):
    """A finetune run that goes on from an earlier one starts from its float32 weights, bit for bit."""
    first = setup.module()
    setup.fit(first, max_steps=2, **setup.saver())
    second = setup.module(init_from=str(setup.root / "last.ckpt"), frozen_dtype="bfloat16")
    second.configure_model()
    for name, parameter in first.model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(second.model.get_parameter(name), parameter), name


def test_stage_2_starts_from_stage_1(setup):
    first = setup.module("align")
    setup.fit(first, max_steps=2, **setup.saver())
    second = setup.module(init_from=str(setup.root / "last.ckpt"))
    second.configure_model()
    fresh = setup.module()
    fresh.configure_model()
    for name, parameter in first.model.projector.named_parameters():
        assert torch.equal(second.model.projector.get_parameter(name), parameter)
        assert not torch.equal(fresh.model.projector.get_parameter(name), parameter)


def test_layers_are_built_once(setup):
    module = setup.module()
    assert module.model is None
    module.configure_model()
    model = module.model
    module.configure_model()
    assert module.model is model


@pytest.mark.parametrize(("feature", "expected"), [("patch", 4), ("cls_patch", 5)])
def test_image_tokens_are_known_before_there_are_layers(setup, tiny_parts, feature, expected):
    module = LlavaModule(
        stage="align",
        vision_encoder=VisionEncoderConfig(str(tiny_parts / "encoder"), select_feature=feature),
        decoder=DecoderConfig(str(tiny_parts / "decoder")),
        optim=OptimConfig(learning_rate=1.0),
    )
    assert (module.num_image_tokens, module.model) == (expected, None)


def test_a_loss_that_is_not_finite_stops_the_run_before_it_spoils_the_weights(setup):
    class Spoil(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 2:
                self.ids = batch["ids"]
                self.before = {n: p.clone() for n, p in pl_module.model.named_parameters()}
                pl_module.model.decoder.head.weight.data[0] = float("nan")

    module, spoil = setup.module(), Spoil()
    with pytest.raises(InputError) as raised:
        setup.fit(module, callbacks=[spoil])
    assert f"train/loss is nan at step 2 on samples {spoil.ids[0]}, {spoil.ids[1]}; training stops" in str(raised.value)
    for name, parameter in module.model.named_parameters():
        if "lm_head" not in name:
            assert torch.equal(parameter, spoil.before[name]), name


def test_batches_that_supervise_nothing_are_counted_and_change_nothing(setup, records, tmp_path):
    entries = [entry for entry in json.loads(records.read_text()) if "image" not in entry]
    (tmp_path / "text.json").write_text(json.dumps(entries))
    module = setup.module()
    module.configure_model()
    before = {name: parameter.clone() for name, parameter in module.model.named_parameters()}
    # The template's opening words alone are longer than that.
    data = setup.data(tmp_path / "text.json", max_length=20, on_too_long="drop")
    with pytest.warns(UserWarning, match=r"batch of samples r\d, r\d supervises nothing \(2 such batches so far\)"):
        setup.fit(module, data)
    assert len(entries) == 4
    for name, parameter in module.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_logged_loss_is_the_token_mean_of_the_whole_step(setup, accumulate):
    recorder = Recorder()
    sums = []

    class Sums(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            with torch.no_grad():
                output = pl_module(batch)
            sums.append((output.total.item(), output.num_supervised.item()))

    setup.fit(setup.module(), accumulate_grad_batches=accumulate, callbacks=[Sums(), recorder], log_every_n_steps=1)
    for last in range(accumulate - 1, 6, accumulate):
        step = sums[last - accumulate + 1 : last + 1]
        expected = sum(total for total, _ in step) / sum(num for _, num in step)
        # Float32 sums of some twenty numbers near 4.6, in another order.
        assert recorder.logged[last]["train/loss"] == pytest.approx(expected, rel=1e-6)
        assert recorder.logged[last]["train/grad_norm"] > 0
        assert "lr/decay" in recorder.logged[last]


def test_validation_loss_is_the_token_mean_whatever_the_batch_size(setup):
    module = setup.module()
    losses = {}
    for size in (1, 2, 5, NUM_RECORDS):
        data = setup.data(validates=True, eval_batch_size=size)
        (metrics,) = setup.trainer().validate(module, datamodule=data, verbose=False)
        losses[size] = metrics["val/loss"]
    (batch,) = list(data.val_dataloader()[0])
    with torch.no_grad():
        output = module(look_up_pixels(batch))
    expected = output.total.item() / output.num_supervised.item()
    # A space, one to five letters and the end mark of each record.
    assert output.num_supervised.item() == sum(1 + (1 + number % 5) + 1 for number in range(NUM_RECORDS))
    # Float32 means in another order; the mean of the means of batches is off by 1e-4 and more.
    assert losses == {size: pytest.approx(expected, rel=1e-6) for size in losses}


def test_resume_at_the_end_of_an_epoch_equals_a_run_without_a_break(setup):
    whole, recorder = setup.module(), Recorder()
    settings = setup.saver(every_n_train_steps=6, save_top_k=-1)
    settings["callbacks"].append(recorder)
    trainer = setup.fit(whole, max_epochs=2, **settings)
    resumed, again = setup.module(), Recorder()
    trainer_2 = setup.fit(resumed, max_epochs=2, callbacks=[again], ckpt_path=setup.root / "step=6.ckpt")
    assert (trainer.global_step, trainer_2.global_step) == (12, 12)
    assert again.ids == recorder.ids[6:]
    assert again.rates == recorder.rates[6:]
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(resumed.model.get_parameter(name), parameter), name


@pytest.mark.parametrize("aspect", ["pad", "anyres"])
def test_resume_within_an_epoch_equals_a_run_without_a_break(setup, aspect):
    def make():
        return setup.module(has_newline=aspect == "anyres"), setup.data(image_aspect=aspect)

    (whole, data), recorder = make(), Recorder()
    settings = setup.saver(every_n_train_steps=4, save_top_k=-1)
    settings["callbacks"].append(recorder)
    setup.fit(whole, data, max_epochs=2, **settings)
    (resumed, data), again = make(), Recorder()
    trainer = setup.fit(resumed, data, max_epochs=2, callbacks=[again], ckpt_path=setup.root / "step=4.ckpt")
    assert trainer.global_step == 12
    assert again.rates == recorder.rates[4:]
    # Samples 5 and 6 of the first epoch come next, not its first ones once more.
    assert again.ids == recorder.ids[4:]
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(resumed.model.get_parameter(name), parameter), name


def test_resume_from_last_continues_at_its_step(setup):
    setup.fit(setup.module("align"), max_epochs=-1, max_steps=6, **setup.saver())
    recorder = Recorder()
    trainer = setup.fit(
        setup.module("align"), max_epochs=-1, max_steps=9, callbacks=[recorder], ckpt_path=setup.root / "last.ckpt"
    )
    assert (trainer.global_step, len(recorder.ids)) == (9, 3)


def change_checkpoint(path, change):
    content = torch.load(path, weights_only=True)
    change(content["state_dict"])
    torch.save(content, path)


def test_a_checkpoint_with_a_dropped_weight_is_not_resumed(setup):
    setup.fit(setup.module("align"), max_steps=1, **setup.saver())
    path = setup.root / "last.ckpt"
    change_checkpoint(path, lambda weights: weights.pop("model.projector.0.bias"))
    with pytest.raises(InputError, match=r"1 missing .such as 'projector.0.bias'., 0 unexpected"):
        setup.fit(setup.module("align"), max_steps=2, ckpt_path=path)


def test_a_checkpoint_with_a_renamed_weight_is_neither_resumed_nor_validated(setup):
    setup.fit(setup.module("align"), max_steps=1, **setup.saver())
    path = setup.root / "last.ckpt"
    change_checkpoint(path, lambda weights: weights.update(x=weights.pop("model.projector.0.bias")))
    with pytest.raises(InputError, match=r"1 missing .*, 1 unexpected .such as 'x'."):
        setup.fit(setup.module("align"), max_steps=2, ckpt_path=path)
    with pytest.raises(InputError, match=r"1 unexpected .such as 'x'."):
        setup.trainer().validate(setup.module("align"), datamodule=setup.data(validates=True), ckpt_path=path)


def test_a_checkpoint_of_another_stage_is_not_resumed(setup):
    setup.fit(setup.module("align"), max_steps=1, **setup.saver())
    with pytest.raises(InputError, match=r"check model\.stage"):
        setup.fit(setup.module(), max_steps=2, ckpt_path=setup.root / "last.ckpt")


def test_validation_uses_the_weights_of_the_checkpoint(setup):
    trained = setup.module("align", optim=OptimConfig(learning_rate=0.1, warmup_share=0.0))
    setup.fit(trained, **setup.saver())
    validate = {"datamodule": setup.data(validates=True), "verbose": False}
    (expected,) = setup.trainer().validate(trained, **validate)
    (untrained,) = setup.trainer().validate(setup.module("align"), **validate)
    (found,) = setup.trainer().validate(setup.module("align"), ckpt_path=setup.root / "last.ckpt", **validate)
    assert found["val/loss"] == expected["val/loss"]
    assert abs(untrained["val/loss"] - expected["val/loss"]) > 1e-3
