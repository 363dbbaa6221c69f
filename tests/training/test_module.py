"""Guards: a run that trains the wrong weights, saves too little, or goes on elsewhere than where it stopped."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from PIL import Image

from llava_pl import LlavaDataModule, LlavaModule
from llava_pl.evaluation.generation import GenerationConfig
from llava_pl.export.build import DecoderConfig, VisionEncoderConfig
from llava_pl.training.optim import OptimConfig
from llava_pl.training.stages import PARTS, TrainablePlan, parameters_by_part
from llava_pl.types import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*eval mode at the start of training.*"),  # frozen parts are meant to be
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero.*"),  # no validation data
    pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`.*"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`.*"),
]

NUM_RECORDS = 12


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
                decoder=DecoderConfig(str(tiny_parts / "decoder")),
                **{"optim": OptimConfig(learning_rate=1e-3), **settings},
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
        "align", generation=GenerationConfig(max_new_tokens=7), frozen_dtype="bfloat16", trainable=TrainablePlan()
    )
    assert is_plain(dict(module.hparams))
    assert dict(module.hparams) == {
        "stage": "align",
        "vision_encoder": {"path": str(tiny_parts / "encoder"), "select_layer": -2, "select_feature": "patch"},
        "decoder": {"path": str(tiny_parts / "decoder"), "attention": "sdpa", "gradient_checkpointing": "none"},
        "optim": {
            "learning_rate": 1e-3, "weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8, "warmup_share": 0.03,
            "optimizer": "torch.optim.AdamW", "options": {},
            **{part: {"learning_rate": None, "weight_decay": None} for part in PARTS},
        },
        "trainable": {
            "vision_encoder": "frozen", "projector": "full", "decoder": "frozen", "embeddings": "frozen",
        },
        "projector": "mlp2x_gelu",
        "projector_options": None,
        "has_newline": False,
        "init_from": None,
        "loss_normalization": "global",
        "frozen_dtype": "bfloat16",
        "generation": {"max_new_tokens": 7},
        "parser": "llava",
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


RECIPES = {
    "align": ({"stage": "align"}, {"projector"}),
    "finetune": ({"stage": "finetune"}, {"projector", "decoder", "embeddings"}),
    "the encoder, too": (
        {"trainable": TrainablePlan(vision_encoder="full", decoder="full")},
        {"vision_encoder", "projector", "decoder", "embeddings"},
    ),
    "the decoder alone": ({"trainable": TrainablePlan(projector="frozen", decoder="full", embeddings="frozen")},
                          {"decoder"}),
    "the embeddings, too": ({"trainable": TrainablePlan(embeddings="full")}, {"projector", "embeddings"}),
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_exactly_the_tensors_of_the_plan_move_in_a_step(setup, recipe):
    settings, parts = RECIPES[recipe]
    module = setup.module(**settings, optim=OptimConfig(learning_rate=1e-3, warmup_share=0.0))
    module.configure_model()
    before = {name: parameter.clone() for name, parameter in module.model.named_parameters()}
    setup.fit(module, setup.data(batch_size=12), max_steps=1)
    moved = {name for name, p in module.model.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for part in parts for name in parameters_by_part(module.model)[part]}
    assert moved == {name for name in trained if "post_layernorm" not in name}  # on which nothing depends


def test_frozen_parts_stay_in_eval_mode_after_validation(setup):
    module, modes = setup.module("align"), []

    class Modes(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            modes.append([part.training for part in pl_module.model.children()])

    setup.fit(module, setup.data(validates=True), callbacks=[Modes()], val_check_interval=2)
    assert modes == [[False, True, False]] * 6


@pytest.mark.parametrize("stage", ["align", "finetune"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_trained_weights_are_float32_beside_frozen_bfloat16(setup, stage, precision):
    module = setup.module(stage, frozen_dtype="bfloat16")
    setup.fit(module, max_steps=2, precision=precision)
    for name, parameter in module.model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
        assert torch.isfinite(parameter).all()
    for state in module.trainer.optimizers[0].state.values():
        assert state["exp_avg"].dtype == torch.float32


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
    assert (len(entries), module.num_unsupervised_batches) == (4, 2)
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
        output = module(batch)
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
